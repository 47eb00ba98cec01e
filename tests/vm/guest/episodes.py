"""Episodes back to back on a small machine without swap: what does the daemon hold after many of them?

python -m tests.vm.guest.episodes noswap COUNT

Ballast takes most of the machine, so that each leak needs two seconds for the rest of it. Between two episodes there is
only as much calm as it takes for the first to be over.
"""

import os
import sys
import time
from functools import partial
from pathlib import Path

from tests.vm.guest.leaking import Leak, available_mib
from tests.vm.guest.stage import Stage, now_ms

LEFT_MIB = 100
"""What the ballast leaves: the low floor of this machine is left at 69."""
RATE_MIB_S = 50
"""At 100, with three such machines on two processors, the kernel's killer came first in some of a hundred episodes: the
host then stops the processor that the daemon is on while the leak's goes on."""
QUICK = """
[timing]
calm_hold = "200ms"
rest = "300ms"
"""
HISTORY = Path("/tmp/state/history.jsonl")


def held_by(pid: int) -> dict[str, int]:
    """Return how many descriptors and threads a process has, and what of it is resident."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return {
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(status["Threads"]),
        "resident_kib": int(status["VmRSS"].split()[0]),
    }


def episodes_written() -> int:
    """Return how many episodes the history on disk holds."""
    return HISTORY.read_bytes().count(b"\n") if HISTORY.exists() else 0


def has_written(count: int) -> bool:
    """Return whether the history on disk holds so many."""
    return episodes_written() >= count


def start_ballast(stage: Stage) -> None:
    """Fill the machine up to what is to be left, with what is never killed."""
    hold = available_mib() - LEFT_MIB
    stage.start_plain("ballast", hold, adj=-999)


def main() -> None:
    count = int(sys.argv[2])
    stage = Stage("episodes")
    stage.start_daemon(QUICK)
    assert stage.daemon is not None
    stage.start("keeper", "--register", "perceptible", "--hold", "10", "--sheddable", "1")
    start_ballast(stage)
    stage.sleep(3)
    before = episodes_written()  # the ballast was no leak, but it may have looked like one
    for number in range(1, count + 1):
        began_ms, began_available = now_ms(), available_mib()
        leak = Leak(began_available + 100, RATE_MIB_S)
        ended = stage.wait(leak.has_ended, 30, f"leak {number} to end")
        ended_ms = now_ms()
        leak.end()
        is_written = partial(has_written, before + number)
        written = stage.wait(is_written, 30, f"episode {number}")
        stage.note(
            "episode",
            number=number,
            pid=leak.pid,
            code=leak.code,
            leak_ms=ended_ms - began_ms,
            ms=now_ms() - began_ms,
            available_mib=began_available,
            held=held_by(stage.daemon.pid),
        )
        if not (ended and written):
            break
    time.sleep(0.5)
    stage.finish()


if __name__ == "__main__":
    main()
