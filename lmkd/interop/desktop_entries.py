"""What a person calls a program: from its cgroup to its application, and to the name in that one's desktop entry.

A desktop session starts each application in a unit of its own, whose name holds the id of its desktop entry
(systemd.io/DESKTOP_ENVIRONMENTS; snaps and what the message bus starts have names of their own). An entry,
`<id>.desktop`, has the name that the menus show, in the user's language (Desktop Entry Specification).

Whoever runs a program may call units as he likes and may write entries, so neither is trusted: no id leaves its
directories, and of a file so much is read and no more. What is drawn of it is for others to make harmless. Files are
read by whoever calls `read_all` and `read`, which may block; `find` never does.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lmkd.cgroup_paths import paths_up

FILE_MOST_BYTES: Final = 65_536
ENTRIES_MOST: Final = 2_000
TEXT_MOST: Final = 200
DEPTH_MOST: Final = 3
"""Of directories below `applications`; their names are part of the id."""
SUFFIX: Final = ".desktop"
_ESCAPED = re.compile(r"\\x([0-9a-fA-F]{2})")
_SNAP = re.compile(r"snap\.([^.]+)\.(.+?)[.-][0-9a-f]{8}-[0-9a-f-]{27}\.scope")
_BY_BUS = re.compile(r"dbus-:[0-9.]+-(.+?)(?:@[0-9]*)?\.service")
_ICON_NAME = re.compile(r"[A-Za-z0-9._+-]+")
_ICON_FILE = re.compile(r"/[A-Za-z0-9._+/ -]+\.(?:png|svg|xpm)")


@dataclass(frozen=True, slots=True)
class AppUnit:
    """The unit of an application."""

    ids: tuple[str, ...]
    """What its desktop entry may be called, the likeliest first."""
    path: str
    """Its cgroup."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a desktop entry says of an application."""

    name: str
    icon: str
    """A name of an icon theme or an absolute path; "" for none that can be taken."""
    is_shown: bool
    """Whether menus show it."""


# --- units ---------------------------------------------------------------------------------------------------------


def app_unit(cgroup: str) -> AppUnit | None:
    """Return the application's unit that a cgroup lies in, the nearest one above; None for none."""
    for path in paths_up(cgroup):
        name = path.rpartition("/")[2]
        ids = unit_ids(name)
        if ids:
            return AppUnit(ids, path)
        if name.startswith("user@"):
            break
    return None


def unit_ids(unit: str) -> tuple[str, ...]:
    """Return what the desktop entry of a unit may be called; nothing for one that is no application's."""
    stem, _, kind = unit.rpartition(".")
    found: list[str] = []
    if snap := _SNAP.fullmatch(unit):
        found = [f"{snap[1]}_{snap[2]}"]
    elif by_bus := _BY_BUS.fullmatch(unit):
        found = [by_bus[1]]
    elif stem.startswith("app-") and kind in ("scope", "service", "slice"):
        parts = stem.removeprefix("app-").partition("@")[0].split("-")
        if kind != "service" and len(parts) > 1:
            parts.pop()  # what makes it unique
        # By the convention the id is the last part, its own dashes escaped. Not every launcher escapes them.
        found = ["-".join(parts[at:]) for at in range(len(parts) - 1, -1, -1)]
        if kind == "slice":
            found.append(stem.removeprefix("app-"))  # GNOME's for terminals have nothing unique
    return tuple(each for each in dict.fromkeys(map(_unescape, found)) if _is_id(each))


def _unescape(text: str) -> str:
    """Undo systemd's escapes (systemd-escape(1)), as bytes: a character may be several of them."""
    raw = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    with suppress(UnicodeError):
        return raw.encode("latin-1").decode()
    return raw


def _is_id(text: str) -> bool:
    """Whether it names a file in a directory and nothing outside of it."""
    return 0 < len(text) <= TEXT_MOST and text.isprintable() and text[0] != "." and "/" not in text


# --- entries -------------------------------------------------------------------------------------------------------


def applications_dirs(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return where desktop entries are, what counts first first (XDG Base Directory Specification)."""
    home = environ.get("XDG_DATA_HOME") or str(Path(environ.get("HOME", ""), ".local/share"))
    others = environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    roots = [Path(root) for root in (home, *others.split(":"))]
    return tuple(root / "applications" for root in roots if root.is_absolute())


def languages(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keys' suffixes of the user's language, the closest first: `de_AT` and `de` for de_AT.UTF-8."""
    locale = next(
        (environ[key] for key in ("LC_ALL", "LC_MESSAGES", "LANG") if environ.get(key)), ""
    )
    head, _, modifier = locale.partition("@")
    language, _, country = head.partition(".")[0].partition("_")
    if language in ("", "C", "POSIX"):
        return ()
    found = [language]
    if modifier:
        found.insert(0, f"{language}@{modifier}")
    if country:
        found.insert(0, f"{language}_{country}")
    if country and modifier:
        found.insert(0, f"{language}_{country}@{modifier}")
    return tuple(found)


def parse_entry(content: bytes, spoken: Iterable[str] = ()) -> Entry | None:
    """Return what an entry says; None where it is no application's, or has no name."""
    values: dict[str, str] = {}
    is_inside = False
    for line in content.decode(errors="replace").split("\n"):
        line = line.strip()
        if line.startswith("["):
            if is_inside:
                break
            is_inside = line == "[Desktop Entry]"
        elif is_inside and not line.startswith("#"):
            key, _, value = line.partition("=")
            values.setdefault(key.rstrip(), value.lstrip()[:TEXT_MOST])
    name = next((said for tag in spoken if (said := values.get(f"Name[{tag}]"))), "")
    name = name or values.get("Name", "")
    if values.get("Type", "Application") != "Application" or not name:
        return None
    icon = values.get("Icon", "")
    if _ICON_NAME.fullmatch(icon) is None and _ICON_FILE.fullmatch(icon) is None:
        icon = ""
    is_shown = "true" not in (values.get("NoDisplay"), values.get("Hidden"))
    return Entry(re.sub(r"\\[nrt]|\\s", " ", name).replace("\\\\", "\\"), icon, is_shown)


class Entries:
    """The desktop entries of a session."""

    def __init__(self, dirs: Iterable[Path], spoken: Iterable[str] = ()) -> None:
        self._dirs = tuple(dirs)
        self._spoken = tuple(spoken)
        self._known: dict[str, Entry] = {}

    def find(self, ids: Iterable[str]) -> Entry | None:
        """Return the first of these that has been read."""
        return next((entry for each in ids if (entry := self._known.get(each))), None)

    def read_all(self) -> None:
        """Read all there are, so that nothing has to be read when memory is short."""
        known: dict[str, Entry] = {}
        for directory in self._dirs:
            for path, name in _list_entries(directory, "", 0):
                if len(known) >= ENTRIES_MOST:
                    break
                # What comes first hides what comes later.
                if name not in known and (entry := self._read(path)) is not None:
                    known[name] = entry
        self._known = known

    def read(self, ids: Iterable[str]) -> None:
        """Read those of these that there are: they may have been installed since."""
        for each in filter(_is_id, ids):
            found = (self._read(directory / f"{each}{SUFFIX}") for directory in self._dirs)
            entry = next((entry for entry in found if entry is not None), None)
            if entry is not None and len(self._known) < ENTRIES_MOST:
                self._known = {**self._known, each: entry}

    def _read(self, path: Path) -> Entry | None:
        try:
            # It may be a pipe, which nobody writes to.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except (OSError, ValueError):
            return None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            return parse_entry(os.read(fd, FILE_MOST_BYTES), self._spoken)
        except OSError:
            return None
        finally:
            os.close(fd)


def _list_entries(directory: Path, above: str, depth: int) -> Iterator[tuple[Path, str]]:
    """Yield each file below a directory with its id."""
    try:
        found = sorted(os.scandir(directory), key=lambda each: each.name)
    except OSError:
        return
    for each in found:
        if each.name.endswith(SUFFIX):
            yield Path(each.path), above + each.name.removesuffix(SUFFIX)
        elif depth < DEPTH_MOST and each.is_dir(follow_symlinks=False):
            yield from _list_entries(Path(each.path), f"{above}{each.name}-", depth + 1)
