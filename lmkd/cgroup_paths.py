"""Cgroup paths: globs over them, and the systemd units that they name.

Pure text; whether such a cgroup exists is not known here. A path is absolute below the cgroup2 mount, "/" the root.

In a glob `*` stands for any characters within one part of the path, `?` for one of them, and `**` for any number of
whole parts, none included: "/a/**" is /a and all below it. Everything else stands for itself, brackets and
backslashes too: systemd escapes names with backslashes ("app-org.gnome.Terminal\\x2d7.scope"). The root, which has
no part, is named by "/" and by globs of `**` alone.
"""

from __future__ import annotations

import re
from functools import lru_cache

MAX_PATH_CHARS = 1024
"""What the protocol can name."""
_UNIT_SUFFIXES = (".service", ".scope", ".socket", ".mount", ".swap")
_SLICE = ".slice"
_USER_MANAGER = "user@"
_UNSAYABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@lru_cache(maxsize=1024)
def compile_glob(glob: str) -> re.Pattern[str]:
    """Return the pattern that a whole path must match."""
    parts = []
    rest = glob
    while rest:
        if rest.startswith("/**") and rest[3:4] in ("", "/"):
            parts.append("(?:/[^/]+)*")
            rest = rest[3:]
        elif rest[0] in "*?":
            parts.append("[^/]*" if rest[0] == "*" else "[^/]")
            rest = rest[1:]
        else:
            parts.append(re.escape(rest[0]))
            rest = rest[1:]
    return re.compile("".join(parts), re.DOTALL)


def is_glob(text: str) -> bool:
    """Whether the text stands for more than itself."""
    return "*" in text or "?" in text


def glob_matches(glob: str, path: str) -> bool:
    """Whether a path is one that the glob names."""
    if not is_glob(glob):
        return glob == path
    # The root has no part: as "" it is matched by "/**", and not by "/*", which wants one.
    is_root = path == "/" and glob.startswith("/")
    return compile_glob(glob).fullmatch("" if is_root else path) is not None


def glob_base(glob: str) -> str:
    """Return a glob without the `/**` at its end: what it names, without what is below."""
    return glob.removesuffix("/**") or "/"


def parent_path(path: str) -> str:
    """Return the cgroup above; the root is above itself."""
    return path.rpartition("/")[0] or "/"


def paths_up(path: str) -> list[str]:
    """Return a path and all above it, the root last."""
    found = [path]
    while path != "/":
        path = parent_path(path)
        found.append(path)
    return found


def is_sayable(path: str) -> bool:
    """Whether a path can be named to others: UTF-8 without control characters, and not too long.

    Bytes that are not UTF-8 are surrogates in it, as os.fsdecode leaves them.
    """
    return len(path) <= MAX_PATH_CHARS and _UNSAYABLE.search(path) is None


@lru_cache(maxsize=4096)
def systemd_units(path: str) -> tuple[tuple[str, str], ...]:
    """Return (unit, its cgroup) of the system's unit that a cgroup belongs to, and of the user's unit below it.

    As systemd reads it (cg_path_get_unit and cg_path_get_user_unit, src/basic/cgroup-util.c): the first part that is
    no slice is the unit, or there is none. Where that is a user's manager (user@1000.service), the first part below
    it that is no slice is that manager's unit. So a container that calls a group of its own
    "/docker/1/system.slice/sshd.service" names no unit, and a user can name units of his own manager alone.
    """
    parts = path.strip("/").split("/")
    system = _find_unit(parts, 0)
    if system is None:
        return ()
    named = [system]
    if parts[system].startswith(_USER_MANAGER):
        user = _find_unit(parts, system + 1)
        if user is not None:
            named.append(user)
    # A name that would look like a control file has an underscore before it (cg_escape).
    return tuple(
        (parts[number].removeprefix("_"), "/" + "/".join(parts[: number + 1])) for number in named
    )


def _find_unit(parts: list[str], start: int) -> int | None:
    for number in range(start, len(parts)):
        if not parts[number].endswith(_SLICE):
            return number if parts[number].endswith(_UNIT_SUFFIXES) else None
    return None
