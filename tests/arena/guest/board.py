"""The memory that the stage and the programs share: what each did, and the foreground's latencies.

The layout is program.c's. It is locked by the stage, and so by all; a program's figures outlive it.
"""

import ctypes
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

SLOTS = 128
TRACKS = 4
SWEEPS = 4096
_HEADER = struct.Struct("=QQQ")
_SLOT = struct.Struct("=10I3Q")
_TRACKS_AT = _HEADER.size + SLOTS * _SLOT.size
SIZE = _TRACKS_AT + TRACKS * SWEEPS * 4


@dataclass(frozen=True, slots=True)
class Slot:
    """What one program, with its children, did so far; times are of CLOCK_MONOTONIC, 0 for never."""

    pid: int
    started: int
    finished: int
    held_kib: int
    grown_kib: int
    shed_kib: int
    asked_kib: int
    notices: int
    sweeps: int
    forked: int
    first_notice_ns: int
    grow_began_ns: int
    grow_last_ns: int


class Board:
    """The shared area, in a file on a tmpfs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.fchmod(descriptor, 0o666)
        os.ftruncate(descriptor, SIZE)
        self._memory = mmap.mmap(descriptor, SIZE)
        os.close(descriptor)
        self._memory[:] = bytes(SIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        if ctypes.CDLL(None).mlock(ctypes.c_void_p(address), ctypes.c_size_t(SIZE)):
            raise OSError("mlock of the board")

    def slot(self, number: int) -> Slot:
        """Read one program's figures."""
        return Slot(*_SLOT.unpack_from(self._memory, _HEADER.size + number * _SLOT.size))

    def begin(self, at_ns: int) -> None:
        """Let the load begin."""
        struct.pack_into("=Q", self._memory, 0, at_ns)

    def greet(self, at_ns: int) -> None:
        """Let programs that listen to a guard connect to it."""
        struct.pack_into("=Q", self._memory, 16, at_ns)

    def end(self, at_ns: int) -> None:
        """Let sweeps no longer be written down."""
        struct.pack_into("=Q", self._memory, 8, at_ns)

    def sweeps_us(self, track: int, count: int) -> list[int]:
        """Return how long each sweep took; the last SWEEPS of them."""
        kept = min(count, SWEEPS)
        return list(struct.unpack_from(f"={kept}I", self._memory, _TRACKS_AT + track * SWEEPS * 4))
