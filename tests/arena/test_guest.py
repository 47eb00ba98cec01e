"""What the guest's side reads and says, as far as it needs no guest."""

import ctypes
from pathlib import Path

import pytest

from tests.arena.guest import board
from tests.arena.guest.session import bus_greeting, file_options
from tests.arena.layer import parse_wanted
from tests.arena.workloads import DATA_FILE, WORKLOADS, Program

SIMULATED = """\
Inst libsystemd0 [252.38-1] (252.39-1 Debian:12.15/oldstable [amd64]) []
Inst earlyoom (1.7-1+b1 Debian:12.15/oldstable [amd64])
Conf earlyoom (1.7-1+b1 Debian:12.15/oldstable [amd64])
"""


def test_what_apt_would_install_is_what_the_layer_needs() -> None:
    assert parse_wanted(SIMULATED) == {"libsystemd0": "252.39-1", "earlyoom": "1.7-1+b1"}


def test_the_greeting_to_the_bus_is_as_the_specification_lays_it_out() -> None:
    """Two method calls, each field array padded to 8, whose lengths lead exactly to the end."""
    _, _, messages = bus_greeting(1000).partition(b"BEGIN\r\n")
    members = []
    while messages:
        assert messages[:2] == b"l\1"
        body_bytes, fields_bytes = (
            int.from_bytes(messages[4:8], "little"),
            int.from_bytes(messages[12:16], "little"),
        )
        end = 16 + -(-fields_bytes // 8) * 8 + body_bytes
        assert len(messages) >= end
        members.append(
            next(name for name in (b"Hello", b"AddMatch") if name in messages[: end - body_bytes])
        )
        messages = messages[end:]
    assert members == [b"Hello", b"AddMatch"]


def test_the_board_is_as_large_as_the_programs_take_it_for(tmp_path: Path) -> None:
    class Slot(ctypes.Structure):
        _fields_ = (("numbers", ctypes.c_uint32 * 10), ("times", ctypes.c_uint64 * 3))

    class Whole(ctypes.Structure):
        _fields_ = (
            ("words", ctypes.c_uint64 * 3),
            ("slots", Slot * board.SLOTS),
            ("sweeps", ctypes.c_uint32 * (board.TRACKS * board.SWEEPS)),
        )

    assert ctypes.sizeof(Whole) == board.SIZE
    try:
        made = board.Board(tmp_path / "board")
    except OSError:
        pytest.skip("not allowed to lock memory here")
    made.begin(5)
    assert made.slot(0).pid == 0
    assert made.sweeps_us(0, 2) == [0, 0]
    assert (tmp_path / "board").read_bytes()[:8] == (5).to_bytes(8, "little")


def test_the_data_file_is_put_in_its_place() -> None:
    program = Program("indexer", "culprit", options=(f"path={DATA_FILE}", "span=1"))
    assert file_options(program, "/x/data").options == ("path=/x/data", "span=1")


def test_every_workload_fits_the_board_and_its_time() -> None:
    for workload in WORKLOADS:
        assert len(workload.programs) <= board.SLOTS
        assert workload.bound_ms <= 40_000
        assert any(program.role == "culprit" for program in workload.programs) is not (
            workload.nobody_should_act
        )
        for program in workload.programs:
            assert program.sheddable_mib <= program.hold_mib
            assert len(program.name) < 16
