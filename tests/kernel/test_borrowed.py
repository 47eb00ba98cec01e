"""Simulated memory over real processes: real kills, pretended shortage, and nobody else's
process."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import trio

from lmkd.kernel.borrowed import BorrowedKernel
from lmkd.kernel.machine import Machine
from lmkd.model import SYSTEM_DOMAIN, Signal

pytestmark = pytest.mark.real_kernel

PROGRAM = "blob = bytearray(b'x') * (24 << 20); print(flush=True); input()"
TREE = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-E', '-c', {PROGRAM!r}])"
Lent = set[tuple[int, int]]


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


class Spawner:
    """Starts processes, and ends them with all that they started."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, program: str) -> tuple[int, int]:
        command = [sys.executable, "-S", "-E", "-c", program]
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._children.append(child)
        assert child.stdout is not None
        child.stdout.readline()
        process = self._machine.process(child.pid)
        assert process is not None
        return child.pid, process.start_ticks

    def close(self) -> None:
        for child in self._children:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()


@pytest.fixture
def spawner(machine: Machine) -> Iterator[Spawner]:
    made = Spawner(machine)
    yield made
    made.close()


@pytest.fixture
def spawn(spawner: Spawner) -> Callable[[], tuple[int, int]]:
    """Return a function that starts a process of 24 MiB and returns its identity."""
    return lambda: spawner.start(PROGRAM)


@pytest.fixture
def spawn_tree(spawner: Spawner) -> Callable[[], tuple[int, int]]:
    """Return one that starts a process with such a child."""
    return lambda: spawner.start(TREE)


async def test_what_lent_processes_really_hold_is_taken_of_the_pretended_total(
    machine: Machine, spawn: Callable[[], tuple[int, int]]
) -> None:
    lent: Lent = set()
    kernel = BorrowedKernel(machine, 128 * 1024, lambda: lent)
    domain = kernel.open_domain(SYSTEM_DOMAIN)
    assert domain is not None
    empty = domain.read(1)
    assert empty is not None
    assert (empty.total_kib, empty.available_kib) == (128 * 1024, 128 * 1024)
    lent.add(spawn())
    held = domain.read(2)
    assert held is not None
    assert held.available_kib == 128 * 1024 - held.anon_kib
    assert held.anon_kib >= 24 * 1024
    domain.close()


async def test_shortage_stalls_and_wakes_and_a_real_kill_ends_it(
    machine: Machine, spawn: Callable[[], tuple[int, int]]
) -> None:
    lent: Lent = {spawn()}
    kernel = BorrowedKernel(machine, 20 * 1024, lambda: lent)
    domain = kernel.open_domain(SYSTEM_DOMAIN)
    assert domain is not None
    with trio.fail_after(3):
        await domain.wait_event()
    short = domain.read(1)
    assert short is not None
    assert short.available_kib == 0
    assert short.some_total_us is not None
    assert short.some_total_us >= 70_000
    (process,) = kernel.scan(SYSTEM_DOMAIN, 24 * 1024)
    victim = kernel.open_victim(process.pid, process.start_ticks)
    assert victim is not None
    assert victim.send(Signal.KILL)
    with trio.fail_after(5):
        await victim.wait_exit()
    victim.close()
    freed = domain.read(2)
    assert freed is not None
    assert freed.available_kib == 20 * 1024
    domain.close()


async def test_a_process_that_was_not_lent_may_be_looked_at_and_no_more(
    machine: Machine, spawn: Callable[[], tuple[int, int]]
) -> None:
    lent = spawn()
    pid, start_ticks = spawn()
    kernel = BorrowedKernel(machine, 128 * 1024, lambda: {lent})
    assert [p.pid for p in kernel.scan(SYSTEM_DOMAIN, 0)] == [lent[0]]
    assert kernel.process(pid) is not None  # a program is looked at before it is lent
    assert kernel.size_kib(pid, start_ticks) is None
    assert kernel.open_victim(pid, start_ticks) is None
    assert kernel.set_oom_score_adj(pid, start_ticks, 1000) is False
    real = machine.process(pid)
    assert real is not None
    assert real.oom_score_adj != 1000


async def test_only_lent_processes_are_listed_as_pids_and_as_children(
    machine: Machine, spawn: Callable[[], tuple[int, int]]
) -> None:
    (pid, start_ticks), (other, _) = spawn(), spawn()
    kernel = BorrowedKernel(machine, 128 * 1024, lambda: {(pid, start_ticks), (other, 1)})
    assert kernel.pids() == [pid]
    assert kernel.child_pids(os.getpid()) == [pid]
    assert kernel.start_ticks(pid) == start_ticks
    assert isinstance(kernel.open_process_events(), str)


async def test_a_lent_pid_that_was_recycled_is_not_listed(
    machine: Machine, spawn: Callable[[], tuple[int, int]]
) -> None:
    pid, start_ticks = spawn()
    kernel = BorrowedKernel(machine, 128 * 1024, lambda: {(pid, start_ticks - 1)})
    assert kernel.scan(SYSTEM_DOMAIN, 0) == []
    assert kernel.held_kib() == 0
    assert kernel.open_victim(pid, start_ticks) is None


async def test_cgroups_are_left_alone(machine: Machine) -> None:
    own = machine.process(os.getpid())
    assert own is not None
    kernel = BorrowedKernel(machine, 128 * 1024, lambda: {(own.pid, own.start_ticks)})
    assert kernel.kill_cgroup(own.cgroup) is False
    assert kernel.cgroup_pids(own.cgroup) == []
    assert kernel.freeze_cgroup(own.cgroup, True) is False
    assert kernel.set_oom_group(own.cgroup, True) is None
    assert kernel.note_kill(own.cgroup, 1, "k") is False
    assert kernel.cgroup_owner(own.cgroup) is None
    assert kernel.watch_cgroups(("/**",)).paths() == frozenset()
    assert kernel.open_domain("/any") is None
    assert kernel.features().memory_controller is False


def test_what_a_lent_tree_starts_is_lent_with_it(
    machine: Machine, spawn_tree: Callable[[], tuple[int, int]]
) -> None:
    parent, alone = spawn_tree(), spawn_tree()
    lent, trees = {parent, alone}, {parent}
    kernel = BorrowedKernel(machine, 512 * 1024, lambda: lent, lambda: trees)
    (child,) = kernel.child_pids(parent[0])
    assert child not in (parent[0], alone[0])
    assert kernel.child_pids(alone[0]) == []
    assert sorted(kernel.pids()) == sorted([parent[0], alone[0], child])
    child_ticks = machine.start_ticks(child)
    assert child_ticks is not None
    held_kib = kernel.size_kib(child, child_ticks)
    assert held_kib is not None
    assert held_kib >= 24 * 1024
    assert kernel.held_kib() >= held_kib
    trees.clear()
    assert kernel.size_kib(child, child_ticks) is None
