"""The daemon is killed at random moments of an episode and started again at once, again and again: who dies for it?

python -m tests.vm.guest.murdered noswap COUNT SEED

Each time a leak takes the machine below the critical floor and stays there: it takes a fixed amount, so that what the
dead daemon gives back is there for the next one to start in. Two apps are registered, and one program that nobody
speaks for runs beside them. The first moments of an episode are as likely as its last: the notices, the kill, the
calm, and the writing of the history.
"""

import os
import random
import signal
import subprocess
import sys
import time

from tests.vm.guest.episodes import (
    HISTORY,
    QUICK,
    RATE_MIB_S,
    episodes_written,
    start_ballast,
)
from tests.vm.guest.leaking import Leak, available_mib
from tests.vm.guest.stage import Stage, now_ms

LEFT_MIB = 14
"""What the leak leaves: the critical floor of this machine is at 23, the emergency's at 9."""
BEYOND = 1.3
"""Moments are drawn from an episode's whole length and somewhat more, as the first one took it."""


def main() -> None:
    count, moments = int(sys.argv[2]), random.Random(int(sys.argv[3]))
    stage = Stage("murdered")
    stage.start_daemon(QUICK)
    apps = [
        stage.start("keeper", "--register", "perceptible", "--hold", "10", "--sheddable", "1"),
        # Above the leak's class: in its own, one that broke its word ranks before the leak, as it should.
        stage.start("cache", "--register", "service", "--hold", "10", "--shed"),
    ]
    stage.start("bystander", "--hold", "10")
    start_ballast(stage)
    stage.sleep(4)
    before = episodes_written()
    # One that nobody disturbs, from the leak's start to the history on disk.
    began_ms = now_ms()
    leak = Leak(available_mib() - LEFT_MIB, RATE_MIB_S)
    stage.wait(leak.has_ended, 60, "the first leak to end")
    stage.wait(lambda: episodes_written() > before, 60, "the first episode to be over")
    episode_s = (now_ms() - began_ms) / 1000
    stage.note("undisturbed", seconds=episode_s, pid=leak.pid, code=leak.code)
    leak.end()
    stage.sleep(1)
    for number in range(1, count + 1):
        moment_s = moments.uniform(0, BEYOND * episode_s)
        leak = Leak(available_mib() - LEFT_MIB, RATE_MIB_S)
        began_ms = now_ms()
        stage.sleep(moment_s)
        assert stage.daemon is not None
        os.kill(stage.daemon.pid, signal.SIGKILL)
        stage.daemon.wait()
        was_dead = leak.has_ended()
        levels = [event["level"] for event in apps[0].events() if event["what"] == "notice"]
        after_ms = now_ms() - began_ms
        stage.start_daemon(QUICK)
        come_back = stage.wait(
            lambda n=number: all(  # type: ignore[misc]
                sum(event["what"] == "registered" for event in app.events()) == n + 1
                for app in apps
            ),
            30,
            f"the apps to register for time {number}",
        )
        ended = stage.wait(leak.has_ended, 30, f"leak {number} to end")
        leak.end()
        stage.note(
            "murder",
            number=number,
            after_ms=after_ms,
            pid=leak.pid,
            code=leak.code,
            dead_before=was_dead,
            level=levels[-1] if levels else "normal",
            back=come_back,
            ended=ended,
        )
        stage.sleep(1)  # calm
    told = subprocess.run(
        [sys.executable, "-m", "lmkd.ctl", "history"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LMKD_SOCKET": "/run/lmkd/socket"},
    )
    stage.note("told", code=told.returncode, text=told.stdout[-4000:], error=told.stderr[-1000:])
    time.sleep(0.5)
    stage.note("history", text=HISTORY.read_text())
    stage.finish()


if __name__ == "__main__":
    main()
