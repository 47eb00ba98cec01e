"""cgroup.kill on the real kernel: the subtree dies, and nothing else."""

import os
import subprocess
from collections.abc import Iterator

import pytest
import trio

from lmkd.kernel.files import CGROUP_KILL
from lmkd.kernel.machine import Machine

pytestmark = pytest.mark.real_kernel


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


@pytest.fixture
def group(own_cgroup: str) -> Iterator[str]:
    """A cgroup with a child of its own; its path in the hierarchy."""
    if not os.path.exists(f"{own_cgroup}/{CGROUP_KILL}"):
        pytest.skip("no cgroup.kill in this kernel (Linux 5.14)")
    os.mkdir(f"{own_cgroup}/below")
    yield "/" + os.path.basename(own_cgroup)
    os.rmdir(f"{own_cgroup}/below")


def start_in(directory: str | None) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(["sleep", "60"])
    if directory is not None:
        with open(f"{directory}/cgroup.procs", "w") as procs:
            procs.write(str(child.pid))
    return child


async def test_the_whole_subtree_dies_and_its_end_is_seen(
    machine: Machine, own_cgroup: str, group: str
) -> None:
    inside = [start_in(own_cgroup), start_in(f"{own_cgroup}/below")]
    outside = start_in(None)
    try:
        assert sorted(machine.cgroup_pids(group)) == sorted(child.pid for child in inside)
        assert {p.pid for p in machine.scan(group, 0)} == {child.pid for child in inside}
        process = machine.process(inside[1].pid)
        assert process is not None
        assert process.cgroup == f"{group}/below"

        with trio.move_on_after(0.05) as scope:
            await machine.wait_cgroup_empty(group)
        assert scope.cancelled_caught

        assert machine.kill_cgroup(group) is True
        with trio.fail_after(5):
            await machine.wait_cgroup_empty(group)
        assert [child.wait() for child in inside] == [-9, -9]
        assert machine.cgroup_pids(group) == []
        assert outside.poll() is None
    finally:
        for child in (*inside, outside):
            child.kill()
            child.wait()


async def test_an_empty_cgroup_is_killed_at_once(machine: Machine, group: str) -> None:
    assert machine.kill_cgroup(group) is True
    with trio.fail_after(1):
        await machine.wait_cgroup_empty(group)
