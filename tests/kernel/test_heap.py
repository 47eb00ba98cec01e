"""Large blocks of the heap go back to the system one by one."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import ctypes
from lmkd.kernel.heap import LARGE_BYTES, return_large_blocks
from lmkd.kernel.locked import lock_memory

def resident_kib():
    return int(open("/proc/self/statm").read().split()[1]) * 4

ARRANGE and return_large_blocks()
lock_memory()  # locked memory is not given back by malloc_trim
before = resident_kib()
held, pins = [], []
for number in range(200):
    held.append(b"x" * (LARGE_BYTES + number))
    pins.append(b"y" * 700)  # something that stays, above each
most = resident_kib()
held.clear()
print(most - before, resident_kib() - before)
"""


def kept_kib(*, arranged: bool) -> tuple[int, int]:
    """Return how much a program holds with 3.2 MB of blocks, and how much it keeps without them."""
    program = PROGRAM.replace("ARRANGE", str(arranged))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    most, kept = done.stdout.split()
    return int(most), int(kept)


def test_large_blocks_go_back_when_they_are_freed() -> None:
    most_kib, kept_kib_then = kept_kib(arranged=True)
    assert most_kib >= 3_000
    assert kept_kib_then <= 1_000
    assert kept_kib(arranged=False)[1] >= 2_000, (
        "malloc does it by itself now: lmkd.kernel.heap is of no use"
    )
