"""Swarms carried out: those who are still what was ranked, and of a great many also whoever is born meanwhile."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from lmkd.kernel.machine import Machine
from lmkd.kernel.simulated import OnTerm, SimulatedKernel
from lmkd.model import SYSTEM_DOMAIN, AppClass, Details, Glance, Process, Signal, Unit, Victim
from lmkd.policy.actions import SendSignal
from lmkd.policy.events import SignalFailed, VictimExited
from lmkd.policy.swarms import SWARM_WHOLE
from lmkd.service.executor import Executor

from .gallows import JOB, OWN_PID, DeafEngine, Gallows, gallows
from .house import PromptHand


def swarm_of(scene: Gallows, pids: list[int]) -> Victim:
    found = [scene.kernel.process(pid) for pid in pids]
    members = tuple((one.pid, one.start_ticks) for one in found if one is not None)
    return scene.victim(pids[0], Unit.SWARM)._replace(members=members, processes=len(members))


def spawn_pool(kernel: SimulatedKernel, count: int, on_term: OnTerm = OnTerm.EXITS) -> list[int]:
    root = kernel.spawn("worker", cgroup=JOB, on_term=on_term)
    return [root, *(kernel.fork(root, anon_kib=2048) for _ in range(count - 1))]


def signalled(scene: Gallows) -> set[int]:
    return {pid for pid, _ in scene.sent()}


async def test_of_a_swarm_those_who_were_ranked_end_and_nobody_like_them(
    autojump_clock: MockClock,
) -> None:
    async with gallows() as scene:
        pool = spawn_pool(scene.kernel, 20)
        victim = swarm_of(scene, pool[:12])
        scene.send(victim, Signal.TERM)
        assert scene.sent() == [(pid, "SIGTERM") for pid in pool[:12]]
        await trio.sleep(1)
        assert scene.fed == [VictimExited(SYSTEM_DOMAIN, 1)]
        assert all(scene.kernel.process(pid) is not None for pid in pool[12:])


async def test_whoever_of_a_swarm_has_changed_since_is_let_be(autojump_clock: MockClock) -> None:
    """Renamed by exec to what is never killed, gone and its pid recycled, moved out of the domain."""
    async with gallows() as scene:
        pool = spawn_pool(scene.kernel, 12)
        victim = swarm_of(scene, pool)
        scene.kernel.exec_(pool[1], "sshd", exe="/usr/sbin/sshd")
        scene.kernel.recycle(pool[2], "other")
        scene.kernel.move(pool[3], "/elsewhere")
        scene.kernel.move(pool[4], f"{JOB}/elsewhere")
        scene.executor.signal(SendSignal(JOB, 1, victim, Signal.TERM))
        scene.executor.signal(SendSignal(JOB, 1, victim, Signal.KILL))
        assert signalled(scene) == {*pool} - {*pool[1:5]}


async def test_a_member_that_became_untouchable_after_sigterm_is_let_go(
    autojump_clock: MockClock,
) -> None:
    async with gallows() as scene:
        pool = spawn_pool(scene.kernel, 12, OnTerm.IGNORES)
        victim = swarm_of(scene, pool)
        scene.send(victim, Signal.TERM)
        scene.kernel.exec_(pool[0], "sshd", exe="/usr/sbin/sshd")
        scene.send(victim, Signal.KILL)
        killed = {pid for pid, name in scene.sent() if name == "SIGKILL"}
        assert killed == {*pool[1:]}
        await trio.sleep(1)
        assert scene.fed == [VictimExited(SYSTEM_DOMAIN, 1)]


async def test_a_swarm_of_which_nobody_is_left_is_gone(autojump_clock: MockClock) -> None:
    async with gallows() as scene:
        pool = spawn_pool(scene.kernel, 12)
        victim = swarm_of(scene, pool)
        for pid in pool:
            scene.kernel.exit(pid)
        scene.send(victim, Signal.TERM)
        assert scene.fed == [SignalFailed(SYSTEM_DOMAIN, 1, "it is gone")]


async def test_of_a_great_many_also_those_die_who_are_born_meanwhile(
    autojump_clock: MockClock,
) -> None:
    async with gallows() as scene:
        pool = spawn_pool(scene.kernel, SWARM_WHOLE, OnTerm.IGNORES)
        victim = swarm_of(scene, pool)
        scene.send(victim, Signal.TERM)
        born = [scene.kernel.fork(pool[5]) for _ in range(3)]
        stranger = scene.kernel.spawn("worker", cgroup=JOB, uid=7)
        scene.send(victim, Signal.KILL)
        killed = {pid for pid, name in scene.sent() if name == "SIGKILL"}
        assert killed == {*pool, *born}
        assert scene.kernel.process(stranger) is not None


async def test_a_great_many_are_stopped_with_their_cgroup_while_they_are_told(
    autojump_clock: MockClock,
) -> None:
    """Who is born between the ranking and the freeze is told as well, and is read by one file."""

    class Watched(SimulatedKernel):
        looked: list[int]
        froze: list[tuple[int, bool]]

        def freeze_cgroup(self, path: str, frozen: bool) -> bool:
            assert path == JOB
            self.froze.append((len(self.signals), frozen))
            return True

        def process(self, pid: int, *details: Details) -> Process | None:
            self.looked.append(pid)
            return super().process(pid, *details)

        def glance(self, pid: int) -> Glance | None:
            looked, self.looked = self.looked, []
            found = super().glance(pid)
            self.looked = looked
            return found

    kernel = Watched()
    kernel.looked, kernel.froze = [], []
    async with gallows(kernel) as scene:
        pool = spawn_pool(kernel, SWARM_WHOLE)
        victim = swarm_of(scene, pool)
        born = kernel.fork(pool[5])
        changed = pool[7]
        kernel.exec_(changed, "sshd", exe="/usr/sbin/sshd")
        kernel.looked.clear()
        scene.send(victim, Signal.TERM)
        assert signalled(scene) == {*pool, born} - {changed}
        assert set(kernel.looked) == {pool[0], changed}
        assert kernel.froze == [(0, True), (SWARM_WHOLE, False)]


async def test_without_descriptors_for_all_a_part_is_held(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Poor(SimulatedKernel):
        held = 0

        def open_victim(self, pid: int, start_ticks: int):  # type: ignore[no-untyped-def]
            self.held += 1
            if self.held > 5:
                raise OSError(errno.EMFILE, "Too many open files")
            return super().open_victim(pid, start_ticks)

    async with gallows(Poor()) as scene:
        pool = spawn_pool(scene.kernel, 12)
        scene.send(swarm_of(scene, pool), Signal.TERM)
        assert signalled(scene) == {*pool[:5]}
        assert "5 of 12 victims are held: Too many open files" in caplog.text


BOMB = """
import os, signal, time
def breed(*_):
    if os.getpid() != root and os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(0.05)
            if os.fork() == 0:
                time.sleep(30)
                os._exit(0)
    os._exit(0)
root = os.getpid()
signal.signal(signal.SIGTERM, breed)
for _ in range(119):
    if os.fork() == 0:
        break
if os.getpid() == root:
    print(flush=True)
time.sleep(30)
"""


@asynccontextmanager
async def own_cgroup(machine: Machine) -> AsyncIterator[str]:
    """A cgroup for the test, emptied and removed after it."""
    mount = machine.features().cgroup_mount
    if mount is None or os.getuid() != 0:
        pytest.skip("no cgroup of its own can be made")
    path = f"/lmkd-swarm-test-{os.getpid()}"
    os.mkdir(mount + path)
    try:
        yield path
    finally:
        machine.kill_cgroup(path)
        await machine.wait_cgroup_empty(path)
        os.rmdir(mount + path)


@pytest.mark.real_kernel
async def test_a_real_bomb_that_breeds_at_its_sigterm_leaves_nobody() -> None:
    """120 processes; each forks at SIGTERM a child that ignores it and goes on forking; the parents are gone."""
    machine, engine = Machine(), DeafEngine()
    async with own_cgroup(machine) as path:
        mount = machine.features().cgroup_mount

        def enter() -> None:
            with open(f"{mount}{path}/cgroup.procs", "w") as procs:
                procs.write("0")

        argv = [sys.executable, "-S", "-E", "-c", BOMB]
        with subprocess.Popen(  # noqa: ASYNC220 - starting it takes no time
            argv, stdout=subprocess.PIPE, start_new_session=True, preexec_fn=enter
        ) as root:
            assert root.stdout is not None
            root.stdout.readline()
            found: list[Process] = []
            with trio.fail_after(10):
                while len(found) < 120:
                    await trio.sleep(0.02)
                    looked = (machine.process(pid) for pid in machine.cgroup_pids(path))
                    found = [one for one in looked if one is not None]
            members = tuple((one.pid, one.start_ticks) for one in found)
            leader = found[0]
            victim = Victim(
                *(leader.pid, leader.start_ticks, leader.comm, AppClass.SERVICE, "", 1),
                *(Unit.SWARM, path),
                members=members,
                processes=len(members),
            )
            with trio.fail_after(40):
                async with trio.open_nursery() as nursery:
                    executor = Executor(
                        machine, engine, nursery, OWN_PID, PromptHand(), machine.process
                    )
                    executor.signal(SendSignal(SYSTEM_DOMAIN, 1, victim, Signal.TERM))
                    await trio.sleep(0.3)
                    assert len(machine.cgroup_pids(path)) > 100, "nobody was born"
                    executor.signal(SendSignal(SYSTEM_DOMAIN, 1, victim, Signal.KILL))
                    await machine.wait_cgroup_empty(path)
                    while not engine.fed:  # noqa: ASYNC110 - it has no event for a test
                        await trio.sleep(0.02)
                    nursery.cancel_scope.cancel()
            assert engine.fed == [VictimExited(SYSTEM_DOMAIN, 1)]
            assert machine.cgroup_pids(path) == []
