"""A daemon for the benchmarks of an episode: the real one, told how much memory there is, and allowed few victims.

    python -m tests.bench.staged_daemon SOCKET CONFIG BOARD PARENT STATE

It is the whole daemon on the real kernel, with real files, sockets, pidfds and signals, but for three things. How much
memory is available stands on the board, a file of numbers that it shares with the benchmark, so that an episode needs
no real shortage; the files are read all the same. It sees no processes that could be killed but the children of PARENT,
and takes hold of no others. And it notes on the board when the heart has decided something and when a signal has gone.
"""

import logging
import mmap
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from lmkd.config import load_config
from lmkd.kernel.interface import NO_DETAILS
from lmkd.kernel.machine import Machine, MachineDomain
from lmkd.kernel.processes import read_process
from lmkd.kernel.signals import PidfdVictim
from lmkd.model import Details, Process, Reading, Signal
from lmkd.policy import heart
from lmkd.policy.actions import Action, Notify, SendSignal
from lmkd.policy.events import Event, ReadingTaken
from lmkd.policy.state import State
from lmkd.service import engine as engine_module
from lmkd.service.daemon import Daemon
from lmkd.service.listening import bind_socket

TOTAL_KIB = 4 << 20
"""Of the machine that the board speaks of."""


class Board:
    """Numbers that two processes share; each is written by one of them, in one piece."""

    AVAILABLE_KIB, TOLD, TOLD_AT_NS, DECIDED_NS = 0, 1, 2, 3
    VERDICTS, SIGNALS = 1_000, 2_000
    """By kill: when SIGKILL was decided, and when it had gone out; SIGTERM 10,000 further on."""
    TERM = 10_000
    RELEASED = 4_000
    """By kill: when process_mrelease had given its memory back."""
    LENGTH = 16_000

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), self.LENGTH * 8)
        self.at = memoryview(self._map).cast("q")

    @classmethod
    def make(cls, path: Path) -> "Board":
        """Make one, on which all is 0."""
        path.write_bytes(bytes(cls.LENGTH * 8))
        return cls(str(path))


class StagedDomain:
    """A domain that reads everything, and says of available memory what the board says."""

    def __init__(self, domain: MachineDomain, board: Board) -> None:
        self._domain = domain
        self._board = board
        self.wait_event = domain.wait_event
        self.close = domain.close

    def read(self, now_us: int) -> Reading | None:
        reading = self._domain.read(now_us)
        if reading is None:
            return None
        available_kib = self._board.at[Board.AVAILABLE_KIB]
        # What was read again is the stall generator's doing.
        return replace(
            reading, total_kib=TOTAL_KIB, available_kib=available_kib, refault_file_pages=None
        )


class NotingVictim(PidfdVictim):
    """A hold on a process, which notes when its signal has gone out."""

    __slots__ = ("_board",)

    def __init__(self, held: PidfdVictim, board: Board) -> None:
        super().__init__(held.pid, held.start_ticks, held._pidfd)
        self._board = board

    def send(self, what: Signal) -> bool:
        reached = super().send(what)
        noting_heart.note_signal(self._board, what)
        return reached

    def release_memory(self) -> bool:
        is_released = super().release_memory()
        if is_released:
            noting_heart.note_release(self._board)
        return is_released


class StagedMachine(Machine):
    """The real kernel, with such domains, and with the children of one process for victims."""

    def __init__(self, board: Board, parent: int) -> None:
        super().__init__()
        self._board = board
        self._parent = parent

    def open_domain(self, domain: str) -> StagedDomain | None:  # type: ignore[override]
        opened = super().open_domain(domain)
        return None if opened is None else StagedDomain(opened, self._board)

    def scan(self, domain: str, min_size_kib: int, details: Details = NO_DETAILS) -> list[Process]:
        found = super().scan(domain, min_size_kib, details)
        return [process for process in found if process.ppid == self._parent]

    def open_victim(self, pid: int, start_ticks: int) -> PidfdVictim | None:
        process = read_process("/", pid)
        if process is None or process.ppid != self._parent:
            return None
        held = super().open_victim(pid, start_ticks)
        return None if held is None else NotingVictim(held, self._board)

    def kill_cgroup(self, path: str) -> bool:
        raise AssertionError("no benchmark kills a cgroup")


class NotingHeart:
    """The heart, with a note of when it decided what."""

    def __init__(self) -> None:
        self.board: Board | None = None
        self.next_wake_us = heart.next_wake_us
        self._kill = 0

    def step(self, state: State, event: Event, now_us: int) -> tuple[State, Sequence[Action]]:
        state, actions = heart.step(state, event, now_us)
        if self.board is None:
            return state, actions
        for action in actions:
            if isinstance(action, SendSignal):
                self._kill = action.kill
                place = Board.VERDICTS + (Board.TERM if action.signal is Signal.TERM else 0)
                self.board.at[place + action.kill] = time.monotonic_ns()
            elif isinstance(action, Notify) and isinstance(event, ReadingTaken):
                self.board.at[Board.TOLD_AT_NS] = event.reading.at_us * 1000
                self.board.at[Board.DECIDED_NS] = time.monotonic_ns()
                self.board.at[Board.TOLD] += 1
                break
        return state, actions

    def note_signal(self, board: Board, what: Signal) -> None:
        """Note that a signal of the latest kill has gone out."""
        place = Board.SIGNALS + (Board.TERM if what is Signal.TERM else 0) + self._kill
        if not board.at[place]:
            board.at[place] = time.monotonic_ns()

    def note_release(self, board: Board) -> None:
        """Note that the memory of the latest kill's victim is back."""
        board.at[Board.RELEASED + self._kill] = time.monotonic_ns()


noting_heart = NotingHeart()


def main() -> None:
    path, config_path, board_path, parent, state_dir = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    board = noting_heart.board = Board(board_path)
    engine: Any = engine_module
    engine.heart = noting_heart
    config = load_config([Path(config_path)])
    machine = StagedMachine(board, int(parent))
    daemon = Daemon(machine, config, lambda: config, bind_socket(path), path, state_dir=state_dir)
    trio.run(daemon.run)


if __name__ == "__main__":
    main()
