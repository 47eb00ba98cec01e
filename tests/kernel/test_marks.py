"""Marks of others on cgroups, and our notes there: on a cgroup of our own."""

import os
from collections.abc import Iterator

import pytest

from lmkd.kernel.marks import Marks, note_kill, strongest
from lmkd.model import Mark

pytestmark = pytest.mark.real_kernel

SOMEBODY = 12345


class Group:
    """A cgroup of our own with another one in it."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.mount, name = os.path.split(directory)
        self.path = f"/{name}"

    @property
    def below(self) -> str:
        return f"{self.path}/below"

    def set(self, name: str, value: bytes = b"1", *, below: bool = False) -> None:
        os.setxattr(self.directory + ("/below" if below else ""), name, value)

    def find(self, domain: str = "/") -> Mark:
        return Marks(self.mount, domain).find(self.below)


@pytest.fixture
def group(own_cgroup: str) -> Iterator[Group]:
    try:
        os.setxattr(own_cgroup, "user.lmkd_test", b"1")
        os.setxattr(own_cgroup, "trusted.lmkd_test", b"1")
    except OSError as error:
        pytest.skip(f"no extended attributes can be set here: {error}")
    os.mkdir(f"{own_cgroup}/below")
    yield Group(own_cgroup)
    os.rmdir(f"{own_cgroup}/below")


def test_a_cgroup_without_marks_has_none(group: Group) -> None:
    assert group.find() is Mark.NONE


@pytest.mark.parametrize("below", [True, False])
@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("user.oomd_omit", Mark.OMIT),
        ("user.oomd_avoid", Mark.AVOID),
        ("trusted.oomd_avoid", Mark.AVOID),
        ("trusted.oomd_prefer", Mark.PREFER),
        ("trusted.oomd_omit", Mark.NONE),
        ("user.oomd_prefer", Mark.NONE),
    ],
)
def test_a_mark_speaks_for_the_cgroup_and_all_below(
    group: Group, name: str, mark: Mark, below: bool
) -> None:
    group.set(name, below=below)
    assert group.find() is mark


@pytest.mark.parametrize(
    ("value", "counts"),
    [
        *((value, True) for value in (b"1", b"yes", b"TRUE", b"on", b"1\0")),
        *((value, False) for value in (b"", b"0", b"no", b"2", b"1 ", b"\xff")),
    ],
)
def test_a_mark_counts_when_systemd_would_take_it_for_true(
    group: Group, value: bytes, counts: bool
) -> None:
    group.set("user.oomd_omit", value)
    assert group.find() is (Mark.OMIT if counts else Mark.NONE)


def test_of_several_marks_the_strongest_counts(group: Group) -> None:
    group.set("trusted.oomd_prefer", below=True)
    group.set("user.oomd_avoid")
    assert group.find() is Mark.AVOID
    group.set("user.oomd_omit")
    assert group.find() is Mark.OMIT
    for one in Mark:
        for other in Mark:
            assert strongest(one, other) is strongest(other, one)
    assert strongest(Mark.PREFER, Mark.NONE) is Mark.PREFER


def test_who_owns_a_cgroup_cannot_exempt_it_from_what_protects_all(group: Group) -> None:
    group.set("user.oomd_omit", below=True)
    os.chown(f"{group.directory}/below", SOMEBODY, -1)
    assert group.find() is Mark.NONE
    assert group.find(group.path) is Mark.NONE  # the domain is not theirs either
    os.chown(group.directory, SOMEBODY, -1)
    assert group.find() is Mark.NONE
    assert group.find(group.path) is Mark.OMIT  # theirs, and they sort it out among themselves


def test_a_trusted_mark_counts_whoever_owns_the_cgroup(group: Group) -> None:
    group.set("trusted.oomd_prefer", below=True)
    os.chown(f"{group.directory}/below", SOMEBODY, -1)
    assert group.find() is Mark.PREFER


def test_each_cgroup_is_looked_at_once_in_a_scan(group: Group) -> None:
    marks = Marks(group.mount)
    assert marks.find(group.below) is Mark.NONE
    group.set("user.oomd_omit")
    assert marks.find(group.below) is Mark.NONE
    assert marks.find(group.path) is Mark.NONE
    assert group.find() is Mark.OMIT


def test_a_cgroup_that_is_gone_has_the_marks_above_it(group: Group) -> None:
    group.set("user.oomd_avoid")
    marks = Marks(group.mount)
    assert marks.find(f"{group.path}/gone/further") is Mark.AVOID
    assert marks.find("/../outside") is Mark.NONE


def test_marks_are_found_however_deep_a_cgroup_is_said_to_lie(group: Group) -> None:
    group.set("user.oomd_avoid")
    assert Marks(group.mount).find(group.path + "/x" * 3000) is Mark.AVOID


def test_kills_are_counted_and_the_last_is_named(group: Group) -> None:
    assert note_kill(group.mount, group.path, 3, "first") is True
    assert note_kill(group.mount, group.path, 4, "second") is True
    noted = {
        name: os.getxattr(group.directory, f"user.{name}")
        for name in ("oomd_ooms", "oomd_kill", "oomd_kill_uuid")
    }
    assert noted == {"oomd_ooms": b"2", "oomd_kill": b"7", "oomd_kill_uuid": b"second"}


@pytest.mark.parametrize("former", [b"", b"many", b"-3", b"9" * 30])
def test_a_count_that_is_none_begins_anew(group: Group, former: bytes) -> None:
    group.set("user.oomd_ooms", former)
    assert note_kill(group.mount, group.path, 1, "k") is True
    assert os.getxattr(group.directory, "user.oomd_ooms") == b"1"


def test_a_kill_is_not_noted_on_a_cgroup_that_is_gone(group: Group) -> None:
    assert note_kill(group.mount, f"{group.path}/gone", 1, "k") is False
    assert note_kill(group.mount, "/../outside", 1, "k") is False
