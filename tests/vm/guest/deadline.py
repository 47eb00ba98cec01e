"""An app that ignores its notices and SIGTERM, while memory is short and stays so: when exactly does it end?

The hog is not to be killed (its oom_score_adj says so) and stops before an emergency, so nothing shortens the grace.
With swap the floors are raised, so that the level stands without the machine thrashing: deadlines are what is asked.
"""

import sys

from tests.vm.guest.stage import Stage

RAISED_FLOORS = """
[floor.low]
enter = "45%"
leave = "46%"
[floor.medium]
enter = "40%"
leave = "41%"
[floor.critical]
enter = "35%"
leave = "36%"
"""


def main() -> None:
    swap = sys.argv[1] == "swap"
    stage = Stage("deadline")
    stage.start_daemon(RAISED_FLOORS if swap else "")
    ignorer = stage.start("ignorer", "--register", "background", "--hold", "40", "--ignore-term")
    stage.start(
        "hog", "--grow", "40", "--until-available", "110" if swap else "17", "--adj", "-950"
    )
    stage.wait(lambda: ignorer.ended_ms is not None, 60, "the ignorer to end")
    stage.finish()


if __name__ == "__main__":
    main()
