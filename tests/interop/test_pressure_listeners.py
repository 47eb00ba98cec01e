"""Programs that wait on a socket by systemd's protocol: who is woken, when, and what a bad one costs."""

from __future__ import annotations

import itertools
import os
import select
import socket
from collections.abc import Iterator

import pytest

from lmkd.interop.pressure_listeners import (
    READ_MOST_BYTES,
    PressureListeners,
    parse_threshold,
)
from lmkd.model import Level

LOW, MEDIUM, CRITICAL = Level.LOW, Level.MEDIUM, Level.CRITICAL
_numbers = itertools.count()


@pytest.mark.parametrize(
    ("written", "level"),
    [
        (b"low", LOW),
        (b"medium", MEDIUM),
        (b"critical", CRITICAL),
        (b"critical\n", CRITICAL),
        (b" low\0", LOW),
        (b"", MEDIUM),
        (b"normal", MEDIUM),
        (b"LOW", MEDIUM),
        (b"lowest", MEDIUM),
        (b"low medium", MEDIUM),
        (b"some 200000 2000000\0", MEDIUM),
        (b"full 70000 1000000", MEDIUM),
        (bytes(range(256)), MEDIUM),
    ],
)
def test_what_is_written_is_a_threshold_of_ours_or_the_default(
    written: bytes, level: Level
) -> None:
    assert parse_threshold(written) is level


class Place:
    """A socket, and the programs that come to it."""

    def __init__(self) -> None:
        # An abstract name: another user may come to it as well.
        self.path = f"\0lmkd-test-pressure-{os.getpid()}-{next(_numbers)}"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen(4096)
        listener.setblocking(False)
        self.refused: list[str] = []
        self.cgroup = "/"
        self.listeners = PressureListeners(listener, lambda pid: self.cgroup, self.refused.append)
        self._programs: list[socket.socket] = []

    def come(self, written: bytes = b"", cgroup: str = "/") -> socket.socket:
        """Have a program connect, write, and be let in."""
        program = socket.socket(socket.AF_UNIX)
        self._programs.append(program)
        program.connect(self.path)
        if written:
            program.send(written)
        program.setblocking(False)
        self.cgroup = cgroup
        self.turn()
        return program

    def turn(self) -> None:
        """Do all that there is to do."""
        while select.select([self.listeners.fileno()], [], [], 0)[0]:
            self.listeners.turn()

    def close(self) -> None:
        for program in self._programs:
            program.close()
        self.listeners.close()


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    try:
        yield made
    finally:
        made.close()


def wakes(program: socket.socket) -> int:
    """Return how many bytes are there for a program; -1 at the end of all."""
    try:
        return len(program.recv(4096)) or -1
    except BlockingIOError:
        return 0


def test_a_rise_to_what_is_wanted_is_one_byte_and_a_fall_none(place: Place) -> None:
    program = place.come(b"medium")
    for level, bytes_there in (
        (LOW, 0),
        (MEDIUM, 1),
        (MEDIUM, 0),
        (CRITICAL, 1),
        (MEDIUM, 0),
        (CRITICAL, 1),
        (Level.NORMAL, 0),
        (LOW, 0),
        (CRITICAL, 1),
    ):
        place.listeners.set_levels({"system": level})
        assert wakes(program) == bytes_there, level


def test_each_is_woken_from_its_own_level_on(place: Place) -> None:
    programs = [place.come(word) for word in (b"low", b"medium", b"critical", b"nonsense", b"")]
    heard = []
    for level in (LOW, MEDIUM, CRITICAL):
        place.listeners.set_levels({"system": level})
        heard.append([wakes(program) for program in programs])
    assert heard == [[1, 0, 0, 0, 0], [1, 1, 0, 1, 1], [1, 1, 1, 1, 1]]


def test_a_threshold_may_come_in_pieces_and_late(place: Place) -> None:
    program = place.come()
    for piece in (b"cri", b"tical", b"\n"):
        program.send(piece)
        place.turn()
    place.listeners.set_levels({"system": MEDIUM})
    assert wakes(program) == 0
    place.listeners.set_levels({"system": CRITICAL})
    assert wakes(program) == 1


def test_a_program_hears_of_the_domains_that_it_is_in_and_of_no_other(place: Place) -> None:
    here = place.come(b"low", "/a.slice/x.service")
    elsewhere = place.come(b"low", "/ab.slice")
    place.listeners.set_levels({"/a.slice": MEDIUM})
    assert (wakes(here), wakes(elsewhere)) == (1, 0)
    # The highest of its domains counts: that the system is low is no news to it, that it is critical is.
    place.listeners.set_levels({"/a.slice": MEDIUM, "system": LOW})
    assert (wakes(here), wakes(elsewhere)) == (0, 1)
    place.listeners.set_levels({"/a.slice": MEDIUM, "system": CRITICAL})
    assert (wakes(here), wakes(elsewhere)) == (1, 1)


def test_what_lasts_is_repeated_to_those_who_want_it_and_to_who_came_meanwhile(
    place: Place,
) -> None:
    wants, does_not = place.come(b"low"), place.come(b"critical")
    place.listeners.set_levels({"system": MEDIUM})
    late = place.come(b"low")
    assert (wakes(wants), wakes(does_not), wakes(late)) == (1, 0, 0)
    place.listeners.repeat()
    assert (wakes(wants), wakes(does_not), wakes(late)) == (1, 0, 1)
    place.listeners.set_levels({})
    place.listeners.repeat()
    assert (wakes(wants), wakes(does_not), wakes(late)) == (0, 0, 0)


def test_wake_counts_those_who_want_it(place: Place) -> None:
    assert place.listeners.wake(CRITICAL) == 0
    program = place.come(b"critical")
    assert place.listeners.wake(MEDIUM) == 0
    assert place.listeners.wake(CRITICAL) == 1
    assert place.listeners.wake(CRITICAL) == 1
    assert wakes(program) == 2


def test_one_that_never_reads_holds_up_nobody_and_keeps_a_few_bytes(place: Place) -> None:
    stuck, other = place.come(b"low"), place.come(b"low")
    for _ in range(500):
        place.listeners.wake(LOW)
        assert wakes(other) == 1
    assert 0 < wakes(stuck) < 100


def test_one_that_writes_for_ever_is_read_no_more_and_still_let_go(place: Place) -> None:
    flood = place.come()
    sent = 0
    for _ in range(100):
        try:
            sent += flood.send(b"x" * READ_MOST_BYTES)
        except BlockingIOError:
            break
        place.turn()
    else:
        pytest.fail(f"{sent} bytes were read")
    assert len(place.listeners) == 1
    flood.close()
    place.turn()
    assert len(place.listeners) == 0


def test_who_leaves_is_let_go(place: Place) -> None:
    left, stays = place.come(), place.come()
    left.close()
    place.turn()
    assert len(place.listeners) == 1
    place.listeners.wake(CRITICAL)
    assert wakes(stays) == 1


def test_one_that_leaves_unseen_is_let_go_when_it_is_woken(place: Place) -> None:
    left = place.come()
    left.close()
    place.listeners.wake(CRITICAL)
    assert len(place.listeners) == 0


def test_the_end_of_it_is_the_end_of_the_stream(place: Place) -> None:
    program = place.come()
    place.listeners.close()
    assert wakes(program) == -1


@pytest.mark.skipif(os.getuid() != 0, reason="to be another user takes root")
def test_one_user_gets_half_and_who_is_too_many_is_told_by_the_end_of_the_stream(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmkd.interop.pressure_listeners.LISTENERS_MOST", 8)
    monkeypatch.setattr("lmkd.interop.pressure_listeners.LISTENERS_MOST_OF_ONE", 4)
    os.seteuid(65534)
    try:
        theirs = [place.come() for _ in range(6)]
    finally:
        os.seteuid(0)
    assert [wakes(program) for program in theirs] == [0, 0, 0, 0, -1, -1]
    mine = [place.come() for _ in range(6)]
    assert [wakes(program) for program in mine] == [0, 0, 0, 0, -1, -1]
    assert len(place.refused) == 1
    assert "4 programs listen: pid" in place.refused[0]
    theirs[0].close()
    place.turn()
    assert wakes(place.come()) == 0
