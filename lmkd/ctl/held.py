"""How much memory a program holds, with all that it started.

As the daemon measures it: anonymous and shared memory, and what of it is in swap, summed over /proc/PID/status of the
process and of its descendants. What vanishes meanwhile counts as nothing; so does a child that was forked just now and
has executed nothing yet, for what it holds is its parent's: a shell script forks all the time.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from lmkd_client.held_memory import parse_held_bytes

PF_FORKNOEXEC: Final = 0x40
"""include/linux/sched.h"""
TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
FRESH_S: Final = 1.0


def read_held_kib(pid: int, proc: Path = Path("/proc")) -> int:
    """Return what a process and its descendants hold now, in KiB."""
    held_bytes, seen, pending = 0, set(), [pid]
    while pending:
        each = pending.pop()
        if each in seen:
            continue
        seen.add(each)
        if each != pid and _is_copy(_read(proc / str(each) / "stat")):
            continue
        held_bytes += parse_held_bytes(_read(proc / str(each) / "status"))
        try:
            threads = list((proc / str(each) / "task").iterdir())
        except OSError:
            continue
        for thread in threads:
            pending += map(int, _read(thread / "children").split())
    return held_bytes >> 10


def _is_copy(stat: bytes) -> bool:
    """Whether a child was forked within a second and has executed nothing since (/proc/PID/stat)."""
    fields = stat.rpartition(b") ")[2].split()
    if len(fields) < 20:
        return False
    since_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / TICKS_A_SECOND
    return bool(int(fields[6]) & PF_FORKNOEXEC) and since_s < FRESH_S


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
