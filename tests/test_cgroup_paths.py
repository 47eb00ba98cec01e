"""Globs over cgroup paths, and the systemd units that paths name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmkd.cgroup_paths import (
    glob_base,
    glob_matches,
    is_glob,
    is_sayable,
    parent_path,
    paths_up,
    systemd_units,
)


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("/a", "/a", True),
        ("/a", "/a/b", False),
        ("/a", "/ab", False),
        ("/", "/", True),
        ("/", "/a", False),
        ("/a/*", "/a/b", True),
        ("/a/*", "/a", False),
        ("/a/*", "/a/b/c", False),
        ("/*", "/a", True),
        ("/*", "/", False),
        ("/?", "/", False),
        ("/a*", "/a", True),
        ("/a?", "/ab", True),
        ("/a?", "/a", False),
        ("/a?", "/a/", False),
        ("/**", "/", True),
        ("/**", "/a/b/c", True),
        ("/a/**", "/a", True),
        ("/a/**", "/a/b/c", True),
        ("/a/**", "/ab", False),
        ("/a/**/z", "/a/z", True),
        ("/a/**/z", "/a/b/c/z", True),
        ("/a/**/z", "/az", False),
        ("/a/**/**", "/a", True),
        ("/a**", "/abc", True),
        ("/a**", "/a/b", False),
        ("/a/**b", "/a/xb", True),
        ("/a/**b", "/a/x/b", False),
        ("/app-*.scope", "/app-org.gnome.Terminal\\x2d7.scope", True),
        ("/x\\x2d*", "/x\\x2d1", True),
        ("/[ab]*", "/a", False),
        ("/[ab]*", "/[ab]c", True),
        ("/a.b?", "/axbc", False),
        ("/a\n*", "/a\nb", True),
        ("*.service", "sshd.service", True),
    ],
)
def test_a_glob_names_these_paths(glob: str, path: str, matches: bool) -> None:
    assert glob_matches(glob, path) is matches


@given(st.text(alphabet="ab/*?\\[.^$", max_size=12), st.text(alphabet="ab/", max_size=8))
def test_any_text_is_a_glob_that_can_be_asked(glob: str, path: str) -> None:
    assert glob_matches(glob, path) in (True, False)
    if not is_glob(glob):
        assert glob_matches(glob, glob)


def test_the_base_of_a_glob_is_what_it_names_without_what_is_below() -> None:
    assert (glob_base("/a/**"), glob_base("/a"), glob_base("/**")) == ("/a", "/a", "/")


def test_the_way_up_ends_at_the_root() -> None:
    assert paths_up("/a/b/c") == ["/a/b/c", "/a/b", "/a", "/"]
    assert paths_up("/") == ["/"]
    assert parent_path("/") == "/"


USER = "/user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize(
    ("path", "units"),
    [
        ("/", []),
        ("/system.slice", []),
        ("/system.slice/sshd.service", [("sshd.service", "/system.slice/sshd.service")]),
        ("/system.slice/sshd.service/a/b", [("sshd.service", "/system.slice/sshd.service")]),
        ("/init.scope", [("init.scope", "/init.scope")]),
        (
            "/user.slice/user-1000.slice/session-2.scope",
            [("session-2.scope", "/user.slice/user-1000.slice/session-2.scope")],
        ),
        (f"{USER}/app.slice", [("user@1000.service", USER)]),
        (
            f"{USER}/app.slice/app-gnome.slice/firefox.scope/tab.scope",
            [
                ("user@1000.service", USER),
                ("firefox.scope", f"{USER}/app.slice/app-gnome.slice/firefox.scope"),
            ],
        ),
        ("/system.slice/_memory.service", [("memory.service", "/system.slice/_memory.service")]),
    ],
)
def test_a_path_names_its_units(path: str, units: list[tuple[str, str]]) -> None:
    assert list(systemd_units(path)) == units


@pytest.mark.parametrize(
    "path",
    [
        "/docker/1/system.slice/sshd.service",
        "/lxc.payload/init.scope",
        f"{USER}x/../system.slice/sshd.service",
    ],
)
def test_a_container_does_not_name_a_unit_by_what_it_calls_its_own_groups(path: str) -> None:
    assert "sshd.service" not in dict(systemd_units(path))
    assert "init.scope" not in dict(systemd_units(path))


def test_a_user_does_not_name_a_unit_of_the_system() -> None:
    fake = f"{USER}/system.slice/sshd.service"
    assert systemd_units(fake)[0] == ("user@1000.service", USER)
    nested = f"{USER}/x/sshd.service"
    assert systemd_units(nested) == (("user@1000.service", USER),)


@pytest.mark.parametrize(
    ("path", "sayable"),
    [
        ("/", True),
        ("/café/🍵 \\x2d", True),
        ("/a\nb", False),
        ("/\x00", False),
        ("/\x9b31m", False),
        ("/\udcff", False),
        ("/" + "x" * 1023, True),
        ("/" + "x" * 1024, False),
    ],
)
def test_what_the_protocol_can_name(path: str, sayable: bool) -> None:
    assert is_sayable(path) is sayable
