"""Eight programs of four classes that shed nothing, and a hog that takes their memory and then stops: who dies?

The hog is not to be killed. It stops when it has taken what some of them hold, but not what all of them do.
"""

import sys

from tests.vm.guest.stage import Stage

CLASSES = ("cached", "background", "service", "perceptible")


def main() -> None:
    stage = Stage("order")
    stage.start_daemon()
    stage.start("watcher", "--subscribe", "system", "--adj", "-999")
    # The higher classes first, so that neither age nor pid gives the order that is looked for.
    for app_class in reversed(CLASSES):
        for number in (1, 2):
            stage.start(f"{app_class}{number}", "--register", app_class, "--hold", "16")
    # What zram takes in is mostly what comes out of it: nothing here compresses.
    most = "260" if sys.argv[1] == "swap" else "220"
    hog = stage.start("hog", "--grow", "12", "--most", most, "--adj", "-950")
    stage.wait(lambda: hog.has("full"), 60, "the hog to be full")
    stage.sleep(12)
    stage.finish()


if __name__ == "__main__":
    main()
