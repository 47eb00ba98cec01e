"""The daemon is killed in the middle of an episode and started again: do its clients come back, and does it go on?"""

import os
import signal
from pathlib import Path

from tests.vm.guest.stage import Program, Stage, now_ms


def adj(program: Program) -> int:
    return int(Path(f"/proc/{program.process.pid}/oom_score_adj").read_text())


def main() -> None:
    stage = Stage("comeback")
    stage.start_daemon()
    keeper = stage.start("keeper", "--register", "perceptible", "--hold", "30")
    cache = stage.start("cache", "--register", "cached", "--hold", "60", "--shed")
    stage.note("adj", when="before", cache=adj(cache), keeper=adj(keeper))
    # Large and slow: an emulated Python takes up to 10 s to start, and the machine has to outlast that.
    leak = stage.start("leak", "--hold", "120", "--grow", "4", "--adj", "700")
    began = now_ms()
    stage.wait(
        lambda: any(event["what"] == "notice" and event["t"] > began for event in cache.events()),
        120,
        "a notice",
    )
    assert stage.daemon is not None
    os.kill(stage.daemon.pid, signal.SIGKILL)
    stage.daemon.wait()
    stage.note("daemon_killed")
    stage.start_daemon()
    stage.wait(
        lambda: all(
            sum(event["what"] == "registered" for event in program.events()) == 2
            for program in (keeper, cache)
        ),
        30,
        "both to have registered again",
    )
    stage.note("adj", when="after", cache=adj(cache), keeper=adj(keeper))
    stage.wait(lambda: leak.ended_ms is not None, 120, "the leak to end")
    stage.sleep(5)
    stage.finish()


if __name__ == "__main__":
    main()
