"""The loop hangs just when a leak begins that ignores SIGTERM: who ends it?"""

from pathlib import Path

from tests.vm.guest.stage import Stage

HANGS = Path("/tmp/hangs")


def main() -> None:
    stage = Stage("hung")
    stage.start_daemon(program=("tests.vm.guest.hung_daemon", str(HANGS)))
    stage.start("keeper", "--register", "perceptible", "--hold", "60")
    leak = stage.start("leak", "--grow", "12", "--grow-after", "1", "--adj", "700", "--ignore-term")
    HANGS.touch()
    stage.note("hangs")
    stage.wait(lambda: leak.ended_ms is not None, 120, "the leak to end")
    HANGS.unlink()
    stage.note("answers")
    stage.sleep(8)
    stage.finish()


if __name__ == "__main__":
    main()
