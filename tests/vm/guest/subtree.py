"""A cgroup with memory.high=64M that its own program fills: who is told, and who can die?"""

import os

from tests.vm.guest.stage import Stage

GROUP = "/sys/fs/cgroup/work"


def main() -> None:
    stage = Stage("subtree")
    os.mkdir(GROUP)
    with open(f"{GROUP}/memory.high", "w") as high:
        high.write("64M")
    stage.start_daemon('[[domain]]\ncgroup = "/work"\n')
    stage.start("watcher", "--subscribe", "system", "--adj", "-999")
    stage.start("inner-watcher", "--subscribe", "/work", "--adj", "-999")
    stage.start("outside", "--register", "cached", "--hold", "30", "--shed")
    stage.start("inside", "--register", "cached", "--hold", "15", "--shed", "--cgroup", "/work")
    filler = stage.start("filler", "--grow", "10", "--cgroup", "/work", "--adj", "700")
    stage.wait(lambda: filler.ended_ms is not None, 60, "the filler to end")
    stage.sleep(5)
    stage.finish()


if __name__ == "__main__":
    main()
