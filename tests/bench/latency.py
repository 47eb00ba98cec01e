"""From the reading that crosses to the first byte of the last of 100 notices, while all stalls and all are busy.

The stalls are real (tests.bench.stall) and the processors are kept busy by children that spin; that a reading crosses
is said on the board of a staged daemon, so that a minute gives some hundred crossings. Apps are processes of their own;
one clock hears for all of them.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.rows import Row, middle, percentile
from tests.bench.staged_daemon import Board
from tests.bench.staging import (
    LOW_KIB,
    NO_STALLS,
    PLENTY_KIB,
    Apps,
    Staged,
    busy_processors,
    instrument,
    staged,
)
from tests.bench.stall import FILE_BYTES, RECLAIM

CACHE = Path(__file__).parents[2] / ".cache" / "bench"
APPS = 100
CROSSINGS = 150
STALL_S = 40
LIMIT_MS = 20
QUICK = """
[timing]
calm_hold = "50ms"
rest = "50ms"
read_idle = "60ms"
read_pressed = "50ms"
"""
decided_ms: list[float] = []
"""Of the latest crossings, the part until the heart has decided: reading the files, and judging."""
PRESSURE = Path("/proc/pressure/memory")


def measure() -> list[Row]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:  # not on a tmpfs: it has to be page cache
        directory = Path(name)
        with staged(directory, NO_STALLS + QUICK) as daemon:
            apps = Apps(daemon.path, APPS)
            try:
                return [
                    _row("machine idle", crossings(daemon, apps, CROSSINGS // 3)),
                    *_busy(directory, daemon, apps),
                ]
            finally:
                apps.close()


def _busy(directory: Path, daemon: Staged, apps: Apps) -> list[Row]:
    with busy_processors():
        rows = [_row("processors busy", crossings(daemon, apps, CROSSINGS // 3))]
        if not RECLAIM.exists():
            print(f"latency: no stalls: no {RECLAIM} here (Linux 6.17 and later have it)")
            return rows
        read = directory / "read"
        read.write_bytes(bytes(FILE_BYTES))
        stall = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.stall", str(read), str(STALL_S)]
        )
        try:
            time.sleep(1)
            before_us, began = _stalled_us(), time.monotonic()
            late_ms = crossings(daemon, apps, CROSSINGS, STALL_S - 3)
            took_us = (time.monotonic() - began) * 1e6
            some, full = (
                (after - before) / took_us
                for before, after in zip(before_us, _stalled_us(), strict=True)
            )
        finally:
            stall.terminate()
            stall.wait()
        # Full counts only while nobody at all gets on, so those who spin keep it down.
        return [*rows, _row(f"stalls ({some:.0%} some, {full:.0%} full)", late_ms)]


def _stalled_us() -> list[int]:
    """Return the totals of some and of full."""
    return [int(line.rpartition("total=")[2]) for line in PRESSURE.read_text().splitlines()]


def crossings(
    daemon: Staged, apps: Apps, count: int, most_s: float = 60, *, waiting: bool = False
) -> list[float]:
    """Have the level rise and fall so often, and return the milliseconds from each reading to its last notice.

    `waiting`: from when the memory was there to be read, so that what keeps the daemon from reading counts, too.
    """
    late_ms: list[float] = []
    decided_ms.clear()
    until = time.monotonic() + most_s
    with instrument():
        while len(late_ms) < count and time.monotonic() < until:
            changed_ns = time.monotonic_ns()
            daemon.available(LOW_KIB)
            heard = apps.hear("low", 5)
            crossed_ns = changed_ns if waiting else daemon.board.at[Board.TOLD_AT_NS]
            if len(heard) < len(apps.members):
                raise RuntimeError(f"{len(apps.members) - len(heard)} apps were not told")
            late_ms.append((max(heard.values()) - crossed_ns) / 1e6)
            decided_ms.append(
                (daemon.board.at[Board.DECIDED_NS] - daemon.board.at[Board.TOLD_AT_NS]) / 1e6
            )
            daemon.available(PLENTY_KIB)
            apps.hear("normal", 5)
            time.sleep(0.001 * (len(late_ms) % 60))  # not in step with its readings
    return late_ms


def _row(how: str, late_ms: list[float]) -> Row:
    note = (
        f"median {middle(late_ms):.2f}, max {max(late_ms):.2f}, {len(late_ms)} crossings; until decided"
        f" {middle(decided_ms):.2f}, p99 {percentile(decided_ms, 0.99):.2f}"
    )
    what = f"reading to the last of {APPS} notices, p99, {how}"
    return Row(what, percentile(late_ms, 0.99), LIMIT_MS, "ms", note)
