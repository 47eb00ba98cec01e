"""A kill under real pressure, traced: what does the daemon do between the reading that turns critical and SIGKILL?

The leak ignores SIGTERM, so the time to exit passes as well.
"""

import shutil
from pathlib import Path

from tests.strace import ARGUMENTS
from tests.vm.guest.episodes import QUICK, RATE_MIB_S, start_ballast
from tests.vm.guest.leaking import Leak, available_mib
from tests.vm.guest.murdered import LEFT_MIB
from tests.vm.guest.stage import OUT, Stage

TRACE = Path("/tmp/trace")


def main() -> None:
    stage = Stage("traced")
    stage.start_daemon(QUICK, prefix=(*ARGUMENTS, str(TRACE)))
    stage.start("keeper", "--register", "perceptible", "--hold", "10", "--sheddable", "1")
    start_ballast(stage)
    stage.sleep(2)
    # A fixed amount: it is to outlive its SIGTERM, and the machine that.
    leak = Leak(available_mib() - LEFT_MIB, RATE_MIB_S, ignores_term=True)
    stage.wait(leak.has_ended, 60, "the leak to end")
    stage.note("leak", code=leak.code)
    leak.end()
    stage.sleep(3)
    stage.finish()
    shutil.copy(TRACE, OUT / "trace")


if __name__ == "__main__":
    main()
