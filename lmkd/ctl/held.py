"""How much memory a program holds, with all that it started.

As the daemon measures it: anonymous and shared memory, and what of it is in swap, summed over /proc/PID/status of the
process and of its descendants. What vanishes meanwhile counts as nothing.
"""

from __future__ import annotations

from pathlib import Path

from lmkd_client.held_memory import parse_held_bytes


def read_held_kib(pid: int, proc: Path = Path("/proc")) -> int:
    """Return what a process and its descendants hold now, in KiB."""
    held_bytes, seen, pending = 0, set(), [pid]
    while pending:
        each = pending.pop()
        if each in seen:
            continue
        seen.add(each)
        held_bytes += parse_held_bytes(_read(proc / str(each) / "status"))
        try:
            threads = list((proc / str(each) / "task").iterdir())
        except OSError:
            continue
        for thread in threads:
            pending += map(int, _read(thread / "children").split())
    return held_bytes >> 10


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
