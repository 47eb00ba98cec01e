"""A leak that costs little to start: a fork of the stage, which takes a given amount at a given rate and then holds it.

An emulated Python takes 1-2 s to start, and a hundred episodes need a hundred leaks. What is taken is copies of one
random MiB, so a page that is swapped out saves nothing; after it has what it came for it takes no more, whatever
becomes free.
"""

import os
import signal
import time
from pathlib import Path

MIB = 1 << 20


def available_mib() -> int:
    """Return what the kernel says is available."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) // 1024
    raise KeyError("MemAvailable")


class Leak:
    """One leak, with an oom_score_adj of 700: background."""

    def __init__(self, mib: int, mib_a_second: int, *, ignores_term: bool = False) -> None:
        self.pid = os.fork()
        if not self.pid:
            try:
                _leak(mib, mib_a_second, ignores_term=ignores_term)
            finally:
                os._exit(1)
        self.pidfd = os.pidfd_open(self.pid)
        self.code: int | None = None

    def has_ended(self) -> bool:
        """Return whether it has ended, and keep how."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                os.close(self.pidfd)
        return self.code is not None

    def end(self) -> None:
        """End it, if lmkd did not."""
        if not self.has_ended():
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            while not self.has_ended():
                time.sleep(0.01)


def _leak(mib: int, mib_a_second: int, *, ignores_term: bool) -> None:
    Path("/proc/self/comm").write_text("leak")
    Path("/proc/self/oom_score_adj").write_text("700")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignores_term else signal.SIG_DFL)
    block = os.urandom(MIB)
    held: list[bytearray] = []
    began = time.monotonic()
    while len(held) < mib:
        due = min(int((time.monotonic() - began) * mib_a_second) + 1, mib)
        while len(held) < due:
            held.append(bytearray(block))
        time.sleep(0.01)
    while True:
        time.sleep(1)
