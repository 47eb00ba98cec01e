"""How much memory a program holds, with all that it started.

As the daemon measures it: anonymous and shared memory, and what of it is in swap, summed over /proc/PID/status of the
process and of its descendants. What vanishes meanwhile counts as nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

_HELD = re.compile(rb"^(?:RssAnon|RssShmem|VmSwap):\s+(\d+) kB$", re.MULTILINE)


def read_held_kib(pid: int, proc: Path = Path("/proc")) -> int:
    """Return what a process and its descendants hold now, in KiB."""
    held_kib, seen, pending = 0, set(), [pid]
    while pending:
        each = pending.pop()
        if each in seen:
            continue
        seen.add(each)
        status = _read(proc / str(each) / "status")
        held_kib += sum(int(amount) for amount in _HELD.findall(status))
        try:
            threads = list((proc / str(each) / "task").iterdir())
        except OSError:
            continue
        for thread in threads:
            pending += map(int, _read(thread / "children").split())
    return held_kib


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
