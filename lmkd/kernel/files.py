"""The kernel's control files: their names, and how they are read.

Every name is a constant here and nowhere else. Reading goes by file descriptor:
`os.open/os.read/os.close` is twice as fast as the builtin `open()`, and a `pread` on a descriptor
that stays open two to five times faster again. This module does not know what the bytes mean
(lmkd.kernel.parse).

A file that vanished is None. Any other failure to read is an OSError for the caller.
"""

from __future__ import annotations

import errno
import os
from typing import Final

PROC: Final = "proc"
PRESSURE_MEMORY: Final = "proc/pressure/memory"
MEMINFO: Final = "proc/meminfo"
VMSTAT: Final = "proc/vmstat"
SWAPS: Final = "proc/swaps"
MOUNTS: Final = "proc/self/mounts"
SELF_CGROUP: Final = "proc/self/cgroup"
SELF_STATUS: Final = "proc/self/status"
SELF_PID_NAMESPACE: Final = "proc/self/ns/pid"
ARCSTATS: Final = "proc/spl/kstat/zfs/arcstats"
ZRAM_MM_STAT: Final = "sys/block/{device}/mm_stat"

PID_STAT: Final = "stat"
PID_STATM: Final = "statm"
PID_STATUS: Final = "status"
PID_CGROUP: Final = "cgroup"
PID_TASK: Final = "task"
PID_EXE: Final = "exe"
PID_OOM_SCORE_ADJ: Final = "oom_score_adj"
PID_COMM: Final = "comm"
PID_CMDLINE: Final = "cmdline"
PID_ENVIRON: Final = "environ"
TASK_CHILDREN: Final = "children"

CGROUP_CONTROLLERS: Final = "cgroup.controllers"
CGROUP_EVENTS: Final = "cgroup.events"
CGROUP_FREEZE: Final = "cgroup.freeze"
CGROUP_KILL: Final = "cgroup.kill"
CGROUP_PROCS: Final = "cgroup.procs"
MEMORY_CURRENT: Final = "memory.current"
MEMORY_HIGH: Final = "memory.high"
MEMORY_MAX: Final = "memory.max"
MEMORY_SWAP_CURRENT: Final = "memory.swap.current"
MEMORY_SWAP_MAX: Final = "memory.swap.max"
MEMORY_STAT: Final = "memory.stat"
MEMORY_EVENTS: Final = "memory.events"
MEMORY_EVENTS_LOCAL: Final = "memory.events.local"
MEMORY_OOM_GROUP: Final = "memory.oom.group"
MEMORY_PRESSURE: Final = "memory.pressure"

_VANISHED: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.ENOTDIR})
_BLOCK: Final = 16384  # /proc/vmstat is the longest we read, 4-5 KiB; meminfo 1.5 KiB


class MalformedKernelFile(Exception):
    """A control file that does not say what the kernel's documentation says it does."""

    def __init__(self, path: str, content: bytes, expected: str) -> None:
        super().__init__(path, content, expected)
        self.path = path
        self.content = content
        self.expected = expected

    def __str__(self) -> str:
        shown = self.content if len(self.content) <= 200 else self.content[:200] + b"..."
        return f"{self.path}: expected {self.expected}, found {shown!r}"


def is_vanished(error: OSError) -> bool:
    """Whether the error means that the process, cgroup or device is no longer there."""
    return error.errno in _VANISHED


def read_file(path: str, *, dir_fd: int | None = None) -> bytes | None:
    """Read a whole file; None when it has vanished, or never was."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError as error:
        if is_vanished(error):
            return None
        raise
    try:
        pieces = []
        while piece := os.read(fd, _BLOCK):
            pieces.append(piece)
        return b"".join(pieces)
    except OSError as error:
        if is_vanished(error):
            return None
        raise
    finally:
        os.close(fd)


class HeldFile:
    """A control file that is opened once and read from its start each time.

    After its process or cgroup has gone, every read is None; the descriptor stays ours until
    `close`.
    """

    __slots__ = ("_fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    def read(self) -> bytes | None:
        """Read the whole file as it is now; None when it has vanished."""
        try:
            content = os.pread(self._fd, _BLOCK, 0)
            # The kernel hands these out by the page, cut between lines: half a page means that no
            # line, all of them far shorter, is left. It saves the second call, a third of the
            # time.
            if len(content) < 2048:
                return content
            pieces = [content]
            offset = len(content)
            while piece := os.pread(self._fd, _BLOCK, offset):
                pieces.append(piece)
                offset += len(piece)
            return b"".join(pieces)
        except OSError as error:
            if is_vanished(error):
                return None
            raise

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        """Give the descriptor back; a second close does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_held(path: str) -> HeldFile | None:
    """Open a control file to be read again and again; None when there is no such file."""
    try:
        return HeldFile(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        if is_vanished(error):
            return None
        raise
