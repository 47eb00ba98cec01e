"""10,000 cgroups that a glob names come and go: are they picked up, and is all given back?"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from lmkd_proto import Status

from tests.vm.guest.stage import Stage

TOTAL = 10_000
BATCH = 100
MANY = "/sys/fs/cgroup/many"


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4


def domains(stage: Stage) -> list[str]:
    return [row["domain"] for row in stage.ask(Status(1))["domains"]]


def come_and_go(number: int, stay: Callable[[], None] = lambda: time.sleep(0.02)) -> None:
    names = [f"{MANY}/job-{number + one}" for one in range(BATCH)]
    for name in names:
        os.mkdir(name)
    stay()
    for name in names:
        os.rmdir(name)


def main() -> None:
    stage = Stage("groups")
    stage.make_group("/many")
    stage.delegate_memory("/many")
    stage.start_daemon('[[domain]]\ncgroup = "/many/*"\n')
    assert stage.daemon is not None
    pid = stage.daemon.pid
    stage.wait(lambda: domains(stage) == ["system"], 10, "nothing but the system")
    unwatched = descriptors(pid)

    def until_seen() -> None:
        stage.wait(lambda: len(domains(stage)) > BATCH, 30, "a batch that stays to be watched")
        stage.note("watched", descriptors=descriptors(pid), before=unwatched)

    # How many of those that stay for 20 ms are seen is the scheduler's choice; of those that stay, all are. And what is
    # made once for so many is made by now.
    come_and_go(TOTAL, until_seen)
    for number in range(0, 5 * BATCH, BATCH):
        come_and_go(number)
    stage.wait(lambda: domains(stage) == ["system"], 30, "the first to be dropped")
    before = {"descriptors": descriptors(pid), "resident_kib": resident_kib(pid)}
    stage.note("before", **before)
    for number in range(0, TOTAL, BATCH):
        come_and_go(number)
    stage.make_group("/many/here")
    stage.wait(lambda: "/many/here" in domains(stage), 30, "one that stays to be watched")
    stage.note("picked_up", domains=domains(stage))
    os.rmdir(f"{MANY}/here")
    stage.wait(lambda: domains(stage) == ["system"], 30, "all to be dropped")
    stage.note("after", descriptors=descriptors(pid), resident_kib=resident_kib(pid))
    stage.finish()


if __name__ == "__main__":
    main()
