"""The processor time that the daemon takes: asleep, and through an episode at level medium, recording it.

Asleep it is the daemon as it is shipped, but that it writes nobody's place. The episode is a staged one, with ten apps,
and costs what a real one would: all files are read every 100 ms, and processes are looked for.
Counted in nanoseconds by the scheduler (/proc/PID/task/*/schedstat), for all threads: a tick would be 10 ms.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.rows import Row
from tests.bench.staging import MEDIUM_KIB, NO_STALLS, PLENTY_KIB, Apps, staged

IDLE_S = 30
EPISODE_S = 20
IDLE_LIMIT_PERCENT = 0.05
EPISODE_LIMIT_PERCENT = 5
APPS = 10
SETTLE_S = 12
"""Whoever it found at its start is looked at once more at the age of 10 s; asleep is after that."""


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        return [
            *(_idle(Path(name), source) for source in ("scan", "netlink")),
            _episode(Path(name)),
        ]


def _idle(directory: Path, source: str) -> Row:
    config, log = directory / "idle.toml", directory / "idle.log"
    config.write_text(f'[policy]\nproject = "none"\n[process_events]\nsource = "{source}"\n')
    daemon = subprocess.Popen(
        [
            *(sys.executable, "-m", "lmkd", "--config", str(config)),
            *("--socket", str(directory / "idle"), "--state-dir", str(directory / source)),
        ],
        stderr=log.open("wb"),
    )
    try:
        deadline = time.monotonic() + 20
        while b" ready" not in log.read_bytes():
            if time.monotonic() > deadline or daemon.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.05)
        time.sleep(SETTLE_S)
        percent = _percent(daemon.pid, IDLE_S)
    finally:
        daemon.terminate()
        daemon.wait()
    return Row(
        f"processor time, idle, {source}", percent, IDLE_LIMIT_PERCENT, "%", f"of one, {IDLE_S} s"
    )


def _episode(directory: Path) -> Row:
    with staged(directory, NO_STALLS) as daemon:
        # Not to be killed, however long it lasts: a victim would end the level.
        apps = Apps(daemon.path, APPS, "foreground")
        try:
            daemon.available(MEDIUM_KIB)
            if len(apps.hear("medium", 15)) < APPS:
                raise RuntimeError("no episode came of it")
            percent = _percent(daemon.process.pid, EPISODE_S)
            daemon.available(PLENTY_KIB)
            apps.hear("normal", 10)
        finally:
            apps.close()
        daemon.process.send_signal(signal.SIGTERM)
        daemon.process.wait()
        recorded = len(list((directory / "state" / "recordings").iterdir()))
    note = f"of one, {EPISODE_S} s; recordings: {recorded}"
    return Row("processor time, level medium, recording", percent, EPISODE_LIMIT_PERCENT, "%", note)


def _percent(pid: int, seconds: float) -> float:
    before_ns, began_ns = _used_ns(pid), time.monotonic_ns()
    time.sleep(seconds)
    return (_used_ns(pid) - before_ns) / (time.monotonic_ns() - began_ns) * 100


def _used_ns(pid: int) -> int:
    return sum(
        int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
        for thread in os.listdir(f"/proc/{pid}/task")
    )
