"""Kills carried out: handles, identities, whole cgroups, and victims that go of themselves."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmkd.kernel.machine import Machine
from lmkd.kernel.simulated import OnTerm, SimulatedKernel
from lmkd.model import SYSTEM_DOMAIN, AppClass, Signal, Unit, Victim
from lmkd.policy.actions import SendSignal
from lmkd.policy.events import SignalFailed, VictimExited
from lmkd.service.executor import Executor, Hand

from .gallows import JOB, OWN_PID, DeafEngine, gallows
from .house import MIB, PromptHand


async def test_a_victim_that_exits_on_sigterm_is_reported_once_and_let_go(
    autojump_clock: MockClock,
) -> None:
    async with gallows() as scene:
        victim = scene.victim(scene.kernel.spawn("app", anon_kib=MIB))
        scene.send(victim, Signal.TERM)
        await trio.sleep(1)
        assert scene.fed == [VictimExited(SYSTEM_DOMAIN, 1)]
        scene.send(victim, Signal.KILL)  # decided in the very moment in which it ended
        scene.executor.release(1)
        await trio.sleep(1)
        assert scene.fed == [VictimExited(SYSTEM_DOMAIN, 1)]
        assert scene.sent() == [(victim.pid, "SIGTERM")]


async def test_memory_is_taken_back_right_after_sigkill(autojump_clock: MockClock) -> None:
    async with gallows() as scene:
        pid = scene.kernel.spawn(
            "app", anon_kib=50 * MIB, on_term=OnTerm.IGNORES, exit_us=5_000_000
        )
        victim = scene.victim(pid)
        scene.send(victim, Signal.TERM)
        await trio.sleep(1)
        scene.send(victim, Signal.KILL)
        assert scene.kernel.size_kib(pid, victim.start_ticks) == 0
        assert scene.fed == [], "it has not ended yet"
        await trio.sleep(6)
        assert scene.fed == [VictimExited(SYSTEM_DOMAIN, 1)]


@pytest.mark.parametrize(("on_term", "left_mib"), [(OnTerm.EXITS, 0), (OnTerm.CATCHES, 50)])
async def test_whoever_has_no_handler_is_dying_at_sigterm_and_its_memory_is_taken_back(
    autojump_clock: MockClock, on_term: OnTerm, left_mib: int
) -> None:
    async with gallows() as scene:
        pid = scene.kernel.spawn("app", anon_kib=50 * MIB, on_term=on_term, exit_us=5_000_000)
        victim = scene.victim(pid)
        scene.send(victim, Signal.TERM)
        assert scene.kernel.size_kib(pid, victim.start_ticks) == left_mib * MIB


HANDLES_TERM = """
import signal, sys
held = bytearray(b"x" * (20 << 20))
signal.signal(signal.SIGTERM, lambda *_: None)
print("ready", flush=True)
sys.stdin.readline()
print(held.count(b"x") == 20 << 20, flush=True)
"""


@pytest.mark.real_kernel
def test_who_handles_sigterm_keeps_its_memory_whatever_is_asked_of_the_kernel() -> None:
    kernel = Machine()
    argv = [sys.executable, "-S", "-E", "-c", HANDLES_TERM]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        ticks = kernel.start_ticks(child.pid)
        assert ticks is not None
        handle = kernel.open_victim(child.pid, ticks)
        assert handle is not None
        assert handle.send(Signal.TERM)
        assert handle.release_memory() is False
        out, _ = child.communicate(b"\n", timeout=60)
        assert out == b"True\n"
        handle.close()


@pytest.mark.parametrize("whole", [Unit.PROCESS, Unit.CGROUP])
async def test_a_victim_that_went_between_rank_and_signal_is_a_failure_and_nobody_is_signalled(
    autojump_clock: MockClock, whole: Unit
) -> None:
    async with gallows() as scene:
        victim = scene.victim(scene.kernel.spawn("app", cgroup=JOB), whole)
        scene.kernel.exit(victim.pid)
        scene.send(victim, Signal.TERM)
        assert scene.fed == [SignalFailed(SYSTEM_DOMAIN, 1, "it is gone")]
        assert scene.sent() == []


@pytest.mark.parametrize("after_term", [False, True])
async def test_a_recycled_pid_is_never_signalled(
    autojump_clock: MockClock, after_term: bool
) -> None:
    async with gallows() as scene:
        pid = scene.kernel.spawn("app", on_term=OnTerm.IGNORES)
        victim = scene.victim(pid)
        if after_term:
            scene.send(victim, Signal.TERM)
        fresh_start = scene.kernel.recycle(pid, "innocent")
        scene.send(victim, Signal.KILL if after_term else Signal.TERM)
        await trio.sleep(1)
        assert not [sent for sent in scene.kernel.signals if sent.start_ticks == fresh_start]
        assert len(scene.fed) == 1


async def test_what_is_not_permitted_is_a_failure_that_says_so(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with gallows() as scene:
        victim = scene.victim(scene.kernel.spawn("guarded", protected=True))
        scene.send(victim, Signal.TERM)
        await trio.sleep(1)
        assert scene.fed == [SignalFailed(SYSTEM_DOMAIN, 1, "not permitted to signal it")]
        assert "kill 1: guarded" in caplog.text
        assert scene.executor._holds == {}


async def test_a_victim_that_is_given_up_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with gallows() as scene:
        victim = scene.victim(scene.kernel.spawn("stuck", on_term=OnTerm.IGNORES))
        tasks = trio.lowlevel.current_statistics().tasks_living
        scene.send(victim, Signal.TERM)
        scene.executor.release(1)  # before the wait has even begun
        await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        scene.send(victim, Signal.TERM, kill=2)
        await trio.sleep(1)
        scene.executor.release(2)
        scene.kernel.exit(victim.pid)
        await trio.sleep(1)
        assert scene.fed == []


def real_victim(kernel: Machine, *pids: int) -> Victim:
    """Return real processes as a victim: one as itself, more as a swarm."""
    found = [kernel.process(pid) for pid in pids]
    members = tuple((one.pid, one.start_ticks) for one in found if one is not None)
    assert len(members) == len(pids)
    first = found[0]
    assert first is not None
    return Victim(
        first.pid,
        first.start_ticks,
        first.comm,
        AppClass.SYSTEM,  # whatever this machine's own places make of it
        "",
        1,
        Unit.SWARM if len(pids) > 1 else Unit.PROCESS,
        first.cgroup,
        members=members if len(pids) > 1 else (),
    )


@pytest.mark.real_kernel
async def test_a_handle_that_is_closed_before_the_wait_begins_is_not_waited_on() -> None:
    kernel, engine = Machine(), DeafEngine()
    with subprocess.Popen(["sleep", "60"]) as child:  # noqa: ASYNC220 - starting it takes no time
        victim = real_victim(kernel, child.pid)
        async with trio.open_nursery() as nursery:
            executor = Executor(kernel, engine, nursery, OWN_PID, PromptHand(), kernel.process)
            executor.signal(SendSignal(SYSTEM_DOMAIN, 1, victim, Signal.TERM))
            executor.release(1)
    assert engine.fed == []


@pytest.mark.real_kernel
async def test_a_victim_that_is_let_go_as_one_of_it_ends_is_let_go_and_nothing_breaks() -> None:
    """Seen in the arena's bomb: the daemon waited for a handle that it had just closed, and died of it."""
    kernel, engine = Machine(), DeafEngine()
    ignoring = ["sh", "-c", "trap '' TERM; echo ready; exec sleep 60"]
    for _ in range(20):  # which of the two tasks runs first is for trio to say
        children = [
            subprocess.Popen(ignoring, stdout=subprocess.PIPE)  # noqa: ASYNC220
            for _ in range(2)
        ]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
        victim = real_victim(kernel, *(child.pid for child in children))
        try:
            async with trio.open_nursery() as nursery:
                executor = Executor(kernel, engine, nursery, OWN_PID, PromptHand(), kernel.process)
                executor.signal(SendSignal(SYSTEM_DOMAIN, 1, victim, Signal.TERM))
                await wait_all_tasks_blocked()
                children[0].kill()
                children[0].wait()
                await trio.lowlevel.checkpoint()
                executor.release(1)
        finally:
            for child in children:
                child.kill()
                child.communicate()
    assert engine.fed == []


async def test_a_cgroup_dies_as_a_whole_and_is_over_when_it_is_empty(
    autojump_clock: MockClock,
) -> None:
    async with gallows() as scene:
        leader = scene.kernel.spawn("leader", cgroup=JOB)
        worker = scene.kernel.spawn("worker", cgroup=JOB + "/inner", on_term=OnTerm.IGNORES)
        scene.kernel.spawn("stranger", cgroup="/jobs")
        victim = scene.victim(leader, Unit.CGROUP)
        scene.send(victim, Signal.TERM)
        await trio.sleep(1)
        assert scene.sent() == [(leader, "SIGTERM"), (worker, "SIGTERM")]
        assert scene.fed == []
        late = scene.kernel.spawn("late", cgroup=JOB)
        scene.send(victim, Signal.KILL)
        await trio.sleep(1)
        killed = {sent.pid for sent in scene.kernel.signals if sent.by_cgroup}
        assert killed == {worker, late}
        assert scene.fed == [VictimExited(SYSTEM_DOMAIN, 1)]


async def test_a_cgroup_that_holds_one_who_is_never_killed_is_not_touched(
    autojump_clock: MockClock,
) -> None:
    async with gallows() as scene:
        leader = scene.kernel.spawn("leader", cgroup=JOB)
        scene.kernel.spawn("sshd", cgroup=JOB, exe="/usr/sbin/sshd")
        scene.send(scene.victim(leader, Unit.CGROUP), Signal.TERM)
        (failed,) = scene.fed
        assert isinstance(failed, SignalFailed)
        assert "its cgroup now holds sshd" in failed.reason
        assert scene.sent() == []


async def test_where_one_who_is_never_killed_moved_in_only_those_in_hand_are_killed(
    autojump_clock: MockClock,
) -> None:
    async with gallows() as scene:
        leader = scene.kernel.spawn("leader", cgroup=JOB, on_term=OnTerm.IGNORES)
        victim = scene.victim(leader, Unit.CGROUP)
        scene.send(victim, Signal.TERM)
        scene.kernel.spawn("sshd", cgroup=JOB, exe="/usr/sbin/sshd")
        scene.send(victim, Signal.KILL)
        assert scene.sent() == [(leader, "SIGTERM"), (leader, "SIGKILL")]


class NoCgroupKill(SimulatedKernel):
    """A kernel before 5.14: no cgroup.kill."""

    def kill_cgroup(self, path: str) -> bool:
        return False


async def test_without_cgroup_kill_a_cgroup_is_stopped_and_killed_until_it_is_empty(
    autojump_clock: MockClock,
) -> None:
    async with gallows(NoCgroupKill()) as scene:
        leader = scene.kernel.spawn("leader", cgroup=JOB, on_term=OnTerm.IGNORES)
        victim = scene.victim(leader, Unit.CGROUP)
        scene.send(victim, Signal.TERM)
        late = scene.kernel.spawn("late", cgroup=JOB + "/in", on_term=OnTerm.IGNORES)
        scene.send(victim, Signal.KILL)
        await trio.sleep(1)
        assert scene.kernel.process(leader) is scene.kernel.process(late) is None
        assert scene.fed == [VictimExited(SYSTEM_DOMAIN, 1)]
        newcomer = scene.kernel.spawn("newcomer", cgroup=JOB)
        assert scene.kernel.fork(newcomer), "it runs again"


async def test_a_tree_is_signalled_children_first_and_waited_for_whole(
    autojump_clock: MockClock,
) -> None:
    async with gallows() as scene:
        root = scene.kernel.spawn("make", cgroup=JOB)
        child = scene.kernel.fork(root)
        grandchild = scene.kernel.fork(child)
        elsewhere = scene.kernel.fork(child)
        scene.kernel.move(elsewhere, "/moved")
        scene.send(scene.victim(root, Unit.TREE), Signal.TERM)
        assert scene.sent() == [(pid, "SIGTERM") for pid in (grandchild, child, root)]
        assert scene.fed == []
        await trio.sleep(1)
        assert scene.fed == [VictimExited(SYSTEM_DOMAIN, 1)]
        assert scene.kernel.process(elsewhere) is not None


async def test_what_is_never_killed_is_passed_over_in_a_tree(autojump_clock: MockClock) -> None:
    async with gallows() as scene:
        root = scene.kernel.spawn("make", cgroup=JOB)
        child = scene.kernel.fork(root)
        scene.kernel.exec_(child, "sshd", exe="/usr/sbin/sshd")
        scene.send(scene.victim(root, Unit.TREE), Signal.TERM)
        scene.send(scene.victim(root, Unit.TREE), Signal.KILL)
        assert {pid for pid, _ in scene.sent()} == {root}


async def test_an_app_takes_no_other_users_process_with_it(autojump_clock: MockClock) -> None:
    async with gallows() as scene:
        root = scene.kernel.spawn("app", cgroup=JOB)
        own, other = scene.kernel.fork(root), scene.kernel.fork(root)
        scene.kernel.set_ids(other, 0, 0)
        victim = scene.victim(root, Unit.TREE)._replace(app=1)
        scene.send(victim, Signal.TERM)
        assert {pid for pid, _ in scene.sent()} == {root, own}


@pytest.mark.parametrize(("unit", "count"), [(Unit.PROCESS, 1), (Unit.CGROUP, 2)])
async def test_a_kill_is_noted_on_its_cgroup_for_those_who_show_them(
    autojump_clock: MockClock, unit: Unit, count: int
) -> None:
    async with gallows() as scene:
        leader = scene.kernel.spawn("leader", cgroup=JOB)
        scene.kernel.spawn("worker", cgroup=JOB)
        nowhere = scene.kernel.spawn("app")
        scene.send(scene.victim(leader, unit), Signal.TERM)
        scene.send(scene.victim(nowhere), Signal.TERM, kill=2)
        await trio.sleep(1)
        ((path, processes, kill_id),) = scene.kernel.noted_kills
        assert (path, processes) == (JOB, count)
        assert len(kill_id) == 32


BREEDER = """
import os, signal, time
def breed(*_):
    for _ in range(3):
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(0.01)
                if os.fork() == 0:
                    time.sleep(30)
                    os._exit(0)
    os._exit(0)
signal.signal(signal.SIGTERM, breed)
print(flush=True)
time.sleep(30)
"""


@pytest.mark.real_kernel
async def test_a_real_tree_that_breeds_at_its_sigterm_leaves_nobody() -> None:
    """Its root ends at SIGTERM, and what it left to init is found by the session that it led."""
    machine, engine = Machine(), DeafEngine()
    mount = machine.features().cgroup_mount
    if mount is None or os.getuid() != 0:
        pytest.skip("no cgroup of its own can be made: orphans are looked for in one only")
    path = f"/lmkd-tree-test-{os.getpid()}"
    directory = mount + path
    os.mkdir(directory)

    def members() -> list[int]:
        return machine.cgroup_pids(path)

    def enter() -> None:
        with open(f"{directory}/cgroup.procs", "w") as procs:
            procs.write("0")

    try:
        argv = [sys.executable, "-S", "-E", "-c", BREEDER]
        with subprocess.Popen(  # noqa: ASYNC220 - starting it takes no time
            argv, stdout=subprocess.PIPE, start_new_session=True, preexec_fn=enter
        ) as root:
            assert root.stdout is not None
            root.stdout.readline()
            process = machine.process(root.pid)
            assert process is not None
            victim = Victim(
                *(root.pid, process.start_ticks, "breeder", AppClass.SYSTEM, "", 1, Unit.TREE, path)
            )
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    executor = Executor(
                        machine, engine, nursery, OWN_PID, PromptHand(), machine.process
                    )
                    executor.signal(SendSignal(SYSTEM_DOMAIN, 1, victim, Signal.TERM))
                    await trio.sleep(0.3)
                    assert members(), "nobody was born: the test shows nothing"
                    executor.signal(SendSignal(SYSTEM_DOMAIN, 1, victim, Signal.KILL))
                    await machine.wait_cgroup_empty(path)
                    await trio.sleep(0.1)
                    nursery.cancel_scope.cancel()
            assert engine.fed == [VictimExited(SYSTEM_DOMAIN, 1)]
    finally:
        machine.kill_cgroup(path)
        await machine.wait_cgroup_empty(path)
        os.rmdir(directory)


def test_a_hand_works_in_order_in_a_thread_of_its_own_and_a_fault_does_not_stop_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "lmkd")
    hand, done = Hand("test-hand"), []
    hand.do(lambda: done.append(threading.current_thread().name))
    hand.do(lambda: 1 // 0)
    hand.do(lambda: done.append("after"))
    hand.finish()
    assert done == ["test-hand", "after"]
    assert "background work failed" in caplog.text
