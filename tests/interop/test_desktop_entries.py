"""From a cgroup to the name that a person knows: units by their grammar, and desktop entries, hostile ones too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from lmkd.interop.desktop_entries import (
    ENTRIES_MOST,
    FILE_MOST_BYTES,
    AppUnit,
    Entries,
    Entry,
    app_unit,
    applications_dirs,
    languages,
    parse_entry,
    unit_ids,
)

MANAGER = "/user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize(
    ("unit", "ids"),
    [
        ("app-gnome-firefox\\x2desr-1234.scope", ("firefox-esr", "gnome-firefox-esr")),
        ("app-org.kde.konsole-1234.scope", ("org.kde.konsole",)),
        ("app-foo.scope", ("foo",)),
        ("app-KDE-org.kde.okular@12ab.service", ("org.kde.okular", "KDE-org.kde.okular")),
        ("app-org.gnome.Evolution\\x2dalarm@autostart.service", ("org.gnome.Evolution-alarm",)),
        ("app-flatpak-org.gnome.gedit-4242.scope", ("org.gnome.gedit", "flatpak-org.gnome.gedit")),
        (
            "app-gnome-firefox-esr-1234.scope",  # its launcher escapes nothing
            ("esr", "firefox-esr", "gnome-firefox-esr"),
        ),
        ("app-org.gnome.Terminal.slice", ("org.gnome.Terminal",)),
        ("dbus-:1.2-org.gnome.Nautilus@0.service", ("org.gnome.Nautilus",)),
        (
            "snap.firefox.firefox-6f3d7b62-1c2d-4e5f-8a9b-0123456789ab.scope",
            ("firefox_firefox",),
        ),
        (
            "snap.code.code-url.6f3d7b62-1c2d-4e5f-8a9b-0123456789ab.scope",
            ("code_code-url",),
        ),
        ("app-m\\xc3\\xbcller-1.scope", ("müller",)),
        ("app-\\xff-1.scope", ("ÿ",)),
        ("app-..\\x2f..\\x2fetc\\x2fpasswd-1.scope", ()),
        ("app-\\x2e\\x2e-1.scope", ()),
        ("app-a\\x00b-1.scope", ()),
        ("app-a\\x0ab-1.scope", ()),
        ("app--1.scope", ()),
        ("app-.scope", ()),
        ("app.slice", ()),
        ("app-" + "a" * 300 + "-1.scope", ()),
        ("vte-spawn-6f3d7b62.scope", ()),
        ("session-2.scope", ()),
        ("postgresql.service", ()),
        ("", ()),
    ],
)
def test_a_unit_names_its_application(unit: str, ids: tuple[str, ...]) -> None:
    assert unit_ids(unit) == ids


@pytest.mark.parametrize(
    ("cgroup", "found"),
    [
        (
            f"{MANAGER}/app.slice/app-org.kde.konsole-12.scope",
            AppUnit(("org.kde.konsole",), f"{MANAGER}/app.slice/app-org.kde.konsole-12.scope"),
        ),
        (
            f"{MANAGER}/app.slice/app-org.kde.konsole-12.scope/tab(3).scope",
            AppUnit(("org.kde.konsole",), f"{MANAGER}/app.slice/app-org.kde.konsole-12.scope"),
        ),
        (
            f"{MANAGER}/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope",
            AppUnit(("org.gnome.Terminal",), f"{MANAGER}/app.slice/app-org.gnome.Terminal.slice"),
        ),
        (f"{MANAGER}/app.slice/pipewire.service", None),
        ("/app-outside-1.scope/user@1000.service/x.scope", None),
        ("/system.slice/nginx.service", None),
        ("/", None),
    ],
)
def test_a_cgroup_lies_in_an_applications_unit(cgroup: str, found: AppUnit | None) -> None:
    assert app_unit(cgroup) == found


@pytest.mark.parametrize(
    ("environ", "spoken"),
    [
        ({"LANG": "de_AT.UTF-8"}, ("de_AT", "de")),
        ({"LANG": "sr_RS@latin"}, ("sr_RS@latin", "sr_RS", "sr@latin", "sr")),
        ({"LANG": "eo"}, ("eo",)),
        ({"LANG": "de", "LC_MESSAGES": "fr_FR", "LC_ALL": ""}, ("fr_FR", "fr")),
        ({"LANG": "de", "LC_ALL": "C.UTF-8"}, ()),
        ({"LANG": "POSIX"}, ()),
        ({}, ()),
    ],
)
def test_the_language_is_the_sessions(environ: Mapping[str, str], spoken: tuple[str, ...]) -> None:
    assert languages(environ) == spoken


@pytest.mark.parametrize(
    ("environ", "dirs"),
    [
        (
            {"HOME": "/h"},
            (
                "/h/.local/share/applications",
                "/usr/local/share/applications",
                "/usr/share/applications",
            ),
        ),
        ({"XDG_DATA_HOME": "/d", "XDG_DATA_DIRS": "/x:rel:/y"}, ("/d", "/x", "/y")),
        ({"XDG_DATA_DIRS": "/x"}, ("/x",)),
    ],
)
def test_entries_are_where_the_specification_says(
    environ: Mapping[str, str], dirs: tuple[str, ...]
) -> None:
    wanted = [each if "share" in each else f"{each}/applications" for each in dirs]
    assert [str(each) for each in applications_dirs(environ)] == wanted


FIREFOX = """# comment
[Desktop Entry]
Type = Application
Name=Firefox
Name[de]=Feuerfuchs
Name[de_AT]=Feuerfüchsin
Icon=firefox-esr
Exec=firefox %u

[Desktop Action new]
Name=New Window
"""


@pytest.mark.parametrize(
    ("text", "spoken", "entry"),
    [
        (FIREFOX, (), Entry("Firefox", "firefox-esr", True)),
        (FIREFOX, ("fr",), Entry("Firefox", "firefox-esr", True)),
        (FIREFOX, ("de_AT", "de"), Entry("Feuerfüchsin", "firefox-esr", True)),
        (FIREFOX, ("de_CH", "de"), Entry("Feuerfuchs", "firefox-esr", True)),
        ("[Desktop Entry]\nName=A\nNoDisplay=true\n", (), Entry("A", "", False)),
        ("[Desktop Entry]\nName=A\nHidden=true\n", (), Entry("A", "", False)),
        ("[Desktop Entry]\r\nName=A\r\n", (), Entry("A", "", True)),
        ("[Desktop Entry]\nName=A\\sB\\nC\\\\D\n", (), Entry("A B C\\D", "", True)),
        ("[Desktop Entry]\nName=A\nName=B\n", (), Entry("A", "", True)),
        ("[Desktop Entry]\nName=A\nIcon=/o/a.png\n", (), Entry("A", "/o/a.png", True)),
        ("[Desktop Entry]\nName=A\nIcon=/dev/zero\n", (), Entry("A", "", True)),
        ("[Desktop Entry]\nName=A\nIcon=file:///x.png\n", (), Entry("A", "", True)),
        ("[Desktop Entry]\nName=A\nIcon=../x\n", (), Entry("A", "", True)),
        ("[Desktop Entry]\nType=Link\nName=A\n", (), None),
        ("[Desktop Entry]\nName=\n", (), None),
        ("[Other]\nName=A\n", (), None),
        ("Name=A\n[Desktop Entry]\n", (), None),
        ("", (), None),
    ],
)
def test_an_entry_is_read_as_the_specification_says(
    text: str, spoken: tuple[str, ...], entry: Entry | None
) -> None:
    assert parse_entry(text.encode(), spoken) == entry


def test_an_entry_of_nonsense_is_none_or_a_short_text() -> None:
    assert parse_entry(bytes(range(256)) * 200) is None
    entry = parse_entry(b"[Desktop Entry]\nName=\xff\xfe" + b"x" * 100_000)
    assert entry is not None
    assert len(entry.name) == 200


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "system").mkdir()
    return tmp_path


def write(folder: Path, name: str, shown: str) -> None:
    (folder / f"{name}.desktop").write_text(f"[Desktop Entry]\nType=Application\nName={shown}\n")


def entries(home: Path) -> Entries:
    return Entries((home / "home", home / "system"))


def name_of(found: Entries, *ids: str) -> str | None:
    entry = found.find(ids)
    return None if entry is None else entry.name


def test_the_users_own_entry_comes_first_and_directories_are_part_of_the_id(home: Path) -> None:
    write(home / "home", "editor", "My Editor")
    write(home / "system", "editor", "Editor")
    (home / "system/kde").mkdir()
    write(home / "system/kde", "okular", "Okular")
    found = entries(home)
    assert name_of(found, "editor") is None, "nothing is read to find it"
    found.read_all()
    assert name_of(found, "editor") == "My Editor"
    assert name_of(found, "none", "kde-okular") == "Okular"


def test_what_was_installed_since_is_read_when_it_is_asked_for(home: Path) -> None:
    found = entries(home)
    found.read_all()
    write(home / "system", "new", "New")
    write(home / "home", "newer", "Newer")
    found.read(("none", "new", "newer"))
    assert [name_of(found, each) for each in ("none", "new", "newer")] == [None, "New", "Newer"]


def test_no_id_leads_out_of_the_directories(home: Path) -> None:
    write(home, "outside", "Outside")
    found = entries(home)
    found.read(("../outside", f"{home}/outside", "..", "a\0b"))
    assert name_of(found, "../outside", f"{home}/outside") is None


def test_what_is_no_file_holds_nobody_up_and_what_is_large_is_read_in_part(home: Path) -> None:
    """A pipe that nobody writes to would hold up whoever opens it, for ever."""
    os.mkfifo(home / "home/pipe.desktop")
    (home / "home/folder.desktop").mkdir()
    (home / "home/loop").symlink_to(home / "home")
    (home / "home/gone.desktop").symlink_to(home / "nowhere")
    large = b"[Desktop Entry]\nX=" + b"x" * FILE_MOST_BYTES + b"\nName=Late\n"
    (home / "home/large.desktop").write_bytes(large)
    (home / "system/linked.desktop").symlink_to(home / "real")
    (home / "real").write_text("[Desktop Entry]\nName=Linked\n")  # as Flatpak has them
    found = entries(home)
    found.read_all()
    found.read(("pipe", "folder", "gone", "large"))
    assert [name_of(found, each) for each in ("pipe", "folder", "gone", "large")] == [None] * 4
    assert name_of(found, "linked") == "Linked"


def test_so_many_entries_are_kept_and_no_more(home: Path) -> None:
    for number in range(ENTRIES_MOST + 1):
        write(home / "home", f"app{number:05}", str(number))
    found = entries(home)
    found.read_all()
    assert name_of(found, f"app{ENTRIES_MOST - 1:05}") is not None
    found.read((f"app{ENTRIES_MOST:05}",))
    assert name_of(found, f"app{ENTRIES_MOST:05}") is None
