"""What the machine says of its memory, read again and again from files that stay open.

Reads into no new files and few new objects: it goes on under the pressure that it measures.
"""

import os
import re
from dataclasses import dataclass

_MEMINFO = re.compile(rb"MemAvailable: +(\d+).*SwapFree: +(\d+)", re.DOTALL)
_FULL = re.compile(rb"full .*total=(\d+)")
_SOME = re.compile(rb"some .*total=(\d+)")
_OOM_KILLS = re.compile(rb"\noom_kill (\d+)")
_OOM_LINE = re.compile(r"Killed process (\d+) \(")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look."""

    available_kib: int
    swap_free_kib: int
    some_us: int
    full_us: int


class Gauge:
    """The machine's memory."""

    def __init__(self) -> None:
        self._meminfo = os.open("/proc/meminfo", os.O_RDONLY)
        self._pressure = os.open("/proc/pressure/memory", os.O_RDONLY)
        self._vmstat = os.open("/proc/vmstat", os.O_RDONLY)
        self._kmsg = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._kmsg, 0, os.SEEK_END)

    def sample(self) -> Sample:
        """Look once."""
        meminfo = _MEMINFO.search(os.pread(self._meminfo, 4096, 0))
        pressure = os.pread(self._pressure, 512, 0)
        some, full = _SOME.search(pressure), _FULL.search(pressure)
        assert meminfo is not None
        assert some is not None
        assert full is not None
        return Sample(int(meminfo[1]), int(meminfo[2]), int(some[1]), int(full[1]))

    def oom_kills(self) -> int:
        """How many the kernel's own killer has taken since boot."""
        found = _OOM_KILLS.search(os.pread(self._vmstat, 16384, 0))
        return int(found[1]) if found else 0

    def killed_by_kernel(self) -> list[int]:
        """Whom the kernel's killer took since the last time, by pid."""
        pids: list[int] = []
        while True:
            try:
                record = os.read(self._kmsg, 8192).decode(errors="replace")
            except BlockingIOError:
                return pids
            except BrokenPipeError:  # some were overwritten before we read them
                continue
            if (found := _OOM_LINE.search(record)) is not None:
                pids.append(int(found[1]))
