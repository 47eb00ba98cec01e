"""10,000 cgroups that a glob names come and go: are they picked up, and is all given back?"""

import os
import time
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


def come_and_go(number: int) -> None:
    names = [f"{MANY}/job-{number + one}" for one in range(BATCH)]
    for name in names:
        os.mkdir(name)
    time.sleep(0.02)
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
    for number in range(0, 5 * BATCH, BATCH):  # what is made once, is made by now
        come_and_go(number)
    stage.wait(lambda: domains(stage) == ["system"], 30, "the first to be dropped")
    before = {"descriptors": descriptors(pid), "resident_kib": resident_kib(pid)}
    stage.note("before", **before)
    most = 0
    for number in range(0, TOTAL, BATCH):
        come_and_go(number)
        most = max(most, descriptors(pid))
    stage.make_group("/many/here")
    stage.wait(lambda: "/many/here" in domains(stage), 30, "one that stays to be watched")
    stage.note("picked_up", domains=domains(stage), most_descriptors=most)
    os.rmdir(f"{MANY}/here")
    stage.wait(lambda: domains(stage) == ["system"], 30, "all to be dropped")
    stage.note("after", descriptors=descriptors(pid), resident_kib=resident_kib(pid))
    stage.finish()


if __name__ == "__main__":
    main()
