"""Three caches that shed, a foreground program, a leak nobody speaks for: who lives?"""

from tests.vm.guest.stage import Stage


def main() -> None:
    stage = Stage("leak")
    stage.start_daemon()
    stage.start("watcher", "--subscribe", "system", "--adj", "-999")
    for number in (1, 2, 3):
        stage.start(f"cache{number}", "--register", "cached", "--hold", "50", "--shed")
    stage.start(
        "foreground", "--register", "foreground", "--hold", "60", "--sweep", "--sheddable", "1"
    )
    leak = stage.start("leak", "--grow", "25", "--adj", "700")
    stage.wait(lambda: leak.ended_ms is not None, 60, "the leak to end")
    stage.sleep(6)
    stage.finish()


if __name__ == "__main__":
    main()
