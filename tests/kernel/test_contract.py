"""What every Kernel promises, asked of the real one and of the simulated one alike."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Protocol

import pytest
import trio

from lmkd.kernel.borrowed import BorrowedKernel
from lmkd.kernel.files import read_file
from lmkd.kernel.interface import Kernel, VictimHandle
from lmkd.kernel.machine import Machine
from lmkd.kernel.probe import find_cgroup_mount
from lmkd.kernel.simulated import OnTerm, SimulatedKernel
from lmkd.model import SYSTEM_DOMAIN, Details, Mark, ProcessEvent, ProcessEventKind, Signal

SIZE_KIB = 24 * 1024
PROGRAM = """
import signal, sys, time
if sys.argv[2] == "ignores":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif sys.argv[2] == "catches":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
blob = bytearray(b"x") * (int(sys.argv[1]) * 1024)
print(flush=True)
time.sleep(60)
"""


class Lab(Protocol):
    """A kernel, and a way to start processes on it."""

    kernel: Kernel

    def spawn(self, on_term: str = "exits") -> int: ...

    def reap(self, pid: int) -> None:
        """Let the parent of an exited process take note, so that the pid is free."""
        ...

    def make_cgroup(self, name: str) -> str:
        """Make a cgroup at the root and return its path; skips the test where there can be none."""
        ...

    def remove_cgroup(self, path: str) -> None: ...

    def move(self, pid: int, path: str) -> None: ...

    def wait_frozen(self, path: str) -> None:
        """Return when the kernel has stopped all that is in the cgroup."""
        ...

    def close(self) -> None: ...


class RealLab:
    """Processes of our own on this machine."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.kernel: Kernel = self.machine
        self.children: dict[int, subprocess.Popen[bytes]] = {}
        self.mount = find_cgroup_mount("/")
        self.cgroups: list[str] = []

    def spawn(self, on_term: str = "exits") -> int:
        command = [sys.executable, "-S", "-E", "-c", PROGRAM, str(SIZE_KIB), on_term]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        self.children[child.pid] = child
        return child.pid

    def reap(self, pid: int) -> None:
        self.children[pid].wait()

    def make_cgroup(self, name: str) -> str:
        path = f"/lmkd-contract-{os.getpid()}-{name}"
        if self.mount is None:
            pytest.skip("no cgroup2 mount")
        try:
            os.mkdir(self.mount + path)
        except OSError as error:
            pytest.skip(f"no cgroup of our own can be made: {error}")
        self.cgroups.append(path)
        return path

    def remove_cgroup(self, path: str) -> None:
        os.rmdir(f"{self.mount}{path}")

    def move(self, pid: int, path: str) -> None:
        with open(f"{self.mount}{path}/cgroup.procs", "w") as procs:
            procs.write(str(pid))

    def wait_frozen(self, path: str) -> None:
        deadline = time.monotonic() + 5
        while b"frozen 1" not in (read_file(f"{self.mount}{path}/cgroup.events") or b""):
            assert time.monotonic() < deadline

    def close(self) -> None:
        for path in self.cgroups:
            self.machine.freeze_cgroup(path, False)
        for child in self.children.values():
            child.kill()
            child.communicate()
        for path in self.cgroups:
            with contextlib.suppress(FileNotFoundError):
                self.remove_cgroup(path)
        self.machine.close()


class BorrowedLab(RealLab):
    """The same, lent to a kernel of simulated memory."""

    def __init__(self) -> None:
        super().__init__()
        self.lent: set[tuple[int, int]] = set()
        self.kernel = BorrowedKernel(self.machine, 512 * 1024, lambda: self.lent)

    def spawn(self, on_term: str = "exits") -> int:
        pid = super().spawn(on_term)
        process = self.machine.process(pid)
        assert process is not None
        self.lent.add((pid, process.start_ticks))
        return pid

    def make_cgroup(self, name: str) -> str:
        pytest.skip("here are no cgroups")


class SimulatedLab:
    """Processes of a simulated machine."""

    def __init__(self) -> None:
        self.simulated = SimulatedKernel()
        self.kernel: Kernel = self.simulated
        self.parent = self.simulated.spawn("pytest", pid=os.getpid())

    def spawn(self, on_term: str = "exits") -> int:
        return self.simulated.spawn(
            "python",
            anon_kib=SIZE_KIB,
            uid=os.getuid(),
            gid=os.getgid(),
            ppid=self.parent,
            session=os.getsid(0),
            cmdline="python -S -E",
            environ=("HOME=/",),
            on_term=OnTerm(on_term),
        )

    def reap(self, pid: int) -> None:
        pass

    def make_cgroup(self, name: str) -> str:
        self.simulated.add_cgroup(f"/{name}", owner=os.getuid())
        return f"/{name}"

    def remove_cgroup(self, path: str) -> None:
        self.simulated.remove_cgroup(path)

    def move(self, pid: int, path: str) -> None:
        self.simulated.move(pid, path)

    def wait_frozen(self, path: str) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture(
    params=[
        pytest.param(RealLab, marks=pytest.mark.real_kernel, id="real"),
        pytest.param(BorrowedLab, marks=pytest.mark.real_kernel, id="borrowed"),
        pytest.param(SimulatedLab, id="simulated"),
    ]
)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    made: Lab = request.param()
    yield made
    made.close()


def take(lab: Lab, pid: int) -> VictimHandle:
    process = lab.kernel.process(pid)
    assert process is not None
    victim = lab.kernel.open_victim(pid, process.start_ticks)
    assert victim is not None
    return victim


async def wait_exit(victim: VictimHandle) -> None:
    with trio.fail_after(5):
        await victim.wait_exit()


async def wait_stopped(lab: Lab, pid: int) -> None:
    for _ in range(5000):
        process = lab.kernel.process(pid)
        if process is not None and process.state == "T":
            return
        await trio.sleep(0.001)
    pytest.fail("it is not stopped after 5 s")


async def test_a_process_is_found_by_its_size(lab: Lab) -> None:
    pid = lab.spawn()
    found = {p.pid: p for p in lab.kernel.scan(SYSTEM_DOMAIN, SIZE_KIB)}
    assert found[pid].size_kib >= SIZE_KIB
    assert pid not in {p.pid for p in lab.kernel.scan(SYSTEM_DOMAIN, 4 * SIZE_KIB)}


async def test_a_process_is_described(lab: Lab) -> None:
    pid = lab.spawn()
    process = lab.kernel.process(pid)
    assert process is not None
    assert (process.pid, process.ppid, process.uid) == (pid, os.getpid(), os.getuid())
    assert process.comm.startswith("python")
    assert process.exe != ""
    assert not process.kernel_thread
    assert process.state in "RSD"
    assert process.gid == os.getgid()
    assert process.session == os.getsid(0)
    assert process.resident_kib >= SIZE_KIB
    assert process.mark is Mark.NONE


async def test_what_costs_a_file_more_is_read_only_where_it_is_asked_for(lab: Lab) -> None:
    pid = lab.spawn()
    (plain,) = (p for p in lab.kernel.scan(SYSTEM_DOMAIN, SIZE_KIB) if p.pid == pid)
    assert (plain.cmdline, plain.environ, plain.parent_comm) == (None, None, "")
    details = Details(cmdline=True, environ=True, parent=True)
    (full,) = (p for p in lab.kernel.scan(SYSTEM_DOMAIN, SIZE_KIB, details) if p.pid == pid)
    parent = lab.kernel.process(os.getpid())
    assert full.cmdline is not None
    assert "-S -E" in full.cmdline
    assert full.environ is not None
    assert any(pair.startswith("HOME=") for pair in full.environ)
    assert full.parent_comm == (parent.comm if parent is not None else "")
    again = lab.kernel.process(pid, details)
    assert again is not None
    assert (again.cmdline, again.environ) == (full.cmdline, full.environ)


async def test_a_process_is_listed_by_its_pid_and_under_its_parent(lab: Lab) -> None:
    pid = lab.spawn()
    process = lab.kernel.process(pid)
    assert process is not None
    assert pid in lab.kernel.pids()
    assert lab.kernel.start_ticks(pid) == process.start_ticks
    glance = lab.kernel.glance(pid)
    # What it runs it has executed, so what it holds is its own.
    assert glance == (
        process.start_ticks,
        process.ppid,
        process.session,
        process.comm,
        False,
        False,
    )
    assert pid in lab.kernel.child_pids(os.getpid())
    assert lab.kernel.child_pids(pid) == []


async def test_size_is_of_the_identified_process_only(lab: Lab) -> None:
    pid = lab.spawn()
    process = lab.kernel.process(pid)
    assert process is not None
    size_kib = lab.kernel.size_kib(pid, process.start_ticks)
    assert size_kib is not None
    assert size_kib >= SIZE_KIB
    assert lab.kernel.size_kib(pid, process.start_ticks + 1) is None
    own_kib = lab.kernel.own_kib([pid, 1 << 22])
    assert own_kib.keys() == {pid}
    assert abs(own_kib[pid] - size_kib) <= SIZE_KIB // 2


async def test_a_recycled_pid_is_never_taken_hold_of(lab: Lab) -> None:
    pid = lab.spawn()
    process = lab.kernel.process(pid)
    assert process is not None
    assert lab.kernel.open_victim(pid, process.start_ticks - 1) is None
    assert lab.kernel.set_oom_score_adj(pid, process.start_ticks - 1, 900) is False


async def test_sigterm_ends_a_process_and_everything_says_so(lab: Lab) -> None:
    pid = lab.spawn()
    victim = take(lab, pid)
    assert victim.send(Signal.TERM) is True
    await wait_exit(victim)
    assert victim.send(Signal.KILL) is False  # still a zombie, on a real kernel
    assert lab.kernel.process(pid) is None
    assert lab.kernel.size_kib(pid, victim.start_ticks) is None
    assert lab.kernel.start_ticks(pid) is None
    assert lab.kernel.glance(pid) is None
    lab.reap(pid)
    assert victim.send(Signal.KILL) is False
    assert victim.stop() is False
    assert pid not in lab.kernel.pids()
    assert pid not in lab.kernel.child_pids(os.getpid())
    assert lab.kernel.process(pid) is None
    assert lab.kernel.open_victim(pid, victim.start_ticks) is None
    assert lab.kernel.set_oom_score_adj(pid, victim.start_ticks, 900) is False
    assert pid not in {p.pid for p in lab.kernel.scan(SYSTEM_DOMAIN, 0)}
    await wait_exit(victim)  # and it has still exited
    victim.close()
    victim.close()


async def test_a_process_that_ignores_sigterm_dies_of_sigkill(lab: Lab) -> None:
    pid = lab.spawn("ignores")
    victim = take(lab, pid)
    assert victim.send(Signal.TERM) is True
    with trio.move_on_after(0.1) as scope:
        await victim.wait_exit()
    assert scope.cancelled_caught
    assert lab.kernel.process(pid) is not None
    assert victim.send(Signal.KILL) is True
    await wait_exit(victim)
    victim.close()


async def test_a_stopped_process_waits_with_sigterm_and_dies_of_sigkill(lab: Lab) -> None:
    pid = lab.spawn()
    victim = take(lab, pid)
    assert victim.stop() is True
    await wait_stopped(lab, pid)
    assert victim.send(Signal.TERM) is True
    with trio.move_on_after(0.05) as scope:
        await victim.wait_exit()
    assert scope.cancelled_caught
    assert victim.send(Signal.KILL) is True
    await wait_exit(victim)
    assert victim.stop() is False
    victim.close()


async def test_memory_is_not_released_from_one_that_is_not_dying(lab: Lab) -> None:
    pid = lab.spawn()
    victim = take(lab, pid)
    assert victim.release_memory() is False
    size_kib = lab.kernel.size_kib(pid, victim.start_ticks)
    assert size_kib is not None
    assert size_kib >= SIZE_KIB
    victim.close()


async def test_memory_may_be_released_after_a_kill_and_never_fails(lab: Lab) -> None:
    victim = take(lab, lab.spawn())
    victim.send(Signal.KILL)
    assert victim.release_memory() in (True, False)  # too late is normal
    await wait_exit(victim)
    assert victim.release_memory() is False
    victim.close()


async def test_oom_score_adj_is_read_back(lab: Lab) -> None:
    pid = lab.spawn()
    process = lab.kernel.process(pid)
    assert process is not None
    assert lab.kernel.set_oom_score_adj(pid, process.start_ticks, 777) is True
    process = lab.kernel.process(pid)
    assert process is not None
    assert process.oom_score_adj == 777


async def test_the_system_can_be_read_and_reads_sanely(lab: Lab) -> None:
    domain = lab.kernel.open_domain(SYSTEM_DOMAIN)
    assert domain is not None
    first_us = lab.kernel.now_us()
    reading = domain.read(first_us)
    assert reading is not None
    assert (reading.domain, reading.at_us) == (SYSTEM_DOMAIN, first_us)
    assert 0 < reading.available_kib <= reading.total_kib
    assert reading.total_kib == lab.kernel.features().total_kib
    assert 0 <= reading.swap_free_kib <= reading.swap_total_kib
    assert reading.events_high is None
    await trio.sleep(0.002)
    assert lab.kernel.now_us() >= first_us + 2_000
    domain.close()


async def test_a_calm_domain_does_not_wake_its_watcher_again_and_again(lab: Lab) -> None:
    domain = lab.kernel.open_domain(SYSTEM_DOMAIN)
    assert domain is not None
    wakes = 0
    with trio.move_on_after(0.3):
        while True:
            await domain.wait_event()
            wakes += 1
    assert wakes <= 2
    domain.close()


async def test_a_cgroup_that_is_not_there_is_no_error(lab: Lab) -> None:
    path = "/lmkd-no-such.slice"
    assert lab.kernel.open_domain(path) is None
    assert lab.kernel.cgroup_pids(path) == []
    assert lab.kernel.scan(path, 0) == []
    assert lab.kernel.kill_cgroup(path) is False
    with trio.fail_after(1):
        await lab.kernel.wait_cgroup_empty(path)


async def test_the_root_cgroup_is_never_killed(lab: Lab) -> None:
    pid = lab.spawn()
    assert lab.kernel.kill_cgroup("/") is False
    assert lab.kernel.process(pid) is not None


async def test_a_pid_that_was_never_there(lab: Lab) -> None:
    pid = (1 << 22) - 1  # the last that any kernel gives out, and then only after all others
    assert lab.kernel.process(pid) is None
    assert lab.kernel.size_kib(pid, 1) is None
    assert lab.kernel.open_victim(pid, 1) is None
    assert lab.kernel.start_ticks(pid) is None
    assert lab.kernel.glance(pid) is None
    assert lab.kernel.child_pids(pid) == []
    assert pid not in lab.kernel.pids()


async def test_a_life_is_heard_of_in_order_or_it_is_said_why_not(lab: Lab) -> None:
    events = lab.kernel.open_process_events()
    if isinstance(events, str):
        assert events
        return
    pid = lab.spawn()
    victim = take(lab, pid)
    with trio.fail_after(5):
        await events.wait()
    victim.send(Signal.KILL)
    await wait_exit(victim)
    heard: list[ProcessEvent] = []
    with trio.fail_after(5):
        while ProcessEvent(ProcessEventKind.EXIT, pid) not in heard:
            await events.wait()
            taken, is_lost = events.take_nowait()
            assert not is_lost
            heard += [event for event in taken if event.pid == pid]
    assert heard == [
        ProcessEvent(ProcessEventKind.FORK, pid, os.getpid()),
        ProcessEvent(ProcessEventKind.EXEC, pid),
        ProcessEvent(ProcessEventKind.EXIT, pid),
    ]
    victim.close()
    events.close()
    events.close()


async def test_cgroups_that_a_glob_names_are_seen_to_come_and_go(lab: Lab) -> None:
    watch = lab.kernel.watch_cgroups(("/lmkd-no-such/**", f"/*{os.getpid()}-watched", "/watched"))
    assert watch.paths() == frozenset()
    with trio.move_on_after(0.05) as scope:
        await watch.wait_changed()
    assert scope.cancelled_caught
    path = lab.make_cgroup("watched")
    with trio.fail_after(5):
        await watch.wait_changed()
    assert watch.paths() == {path}
    lab.remove_cgroup(path)
    with trio.fail_after(5):
        await watch.wait_changed()
    assert watch.paths() == frozenset()
    watch.close()


async def test_who_catches_sigterm_in_a_frozen_cgroup_does_so_after_the_thaw(lab: Lab) -> None:
    path, pid = lab.make_cgroup("frozen"), lab.spawn("catches")
    lab.move(pid, path)
    victim = take(lab, pid)
    assert lab.kernel.freeze_cgroup(path, True) is True
    lab.wait_frozen(path)
    assert victim.send(Signal.TERM) is True
    with trio.move_on_after(0.1) as scope:
        await victim.wait_exit()
    assert scope.cancelled_caught
    assert lab.kernel.freeze_cgroup(path, False) is True
    await wait_exit(victim)
    victim.close()


async def test_who_does_not_catch_sigterm_dies_of_it_in_a_frozen_cgroup(lab: Lab) -> None:
    path, pid = lab.make_cgroup("deadly"), lab.spawn()
    lab.move(pid, path)
    victim = take(lab, pid)
    assert lab.kernel.freeze_cgroup(path, True) is True
    lab.wait_frozen(path)
    assert victim.send(Signal.TERM) is True
    await wait_exit(victim)
    victim.close()


async def test_a_frozen_cgroup_can_be_killed(lab: Lab) -> None:
    path, pid = lab.make_cgroup("killed"), lab.spawn()
    lab.move(pid, path)
    victim = take(lab, pid)
    assert lab.kernel.freeze_cgroup(path, True) is True
    assert victim.send(Signal.KILL) is True
    await wait_exit(victim)
    victim.close()


async def test_a_cgroup_has_an_owner_and_takes_notes(lab: Lab) -> None:
    path = lab.make_cgroup("noted")
    assert lab.kernel.cgroup_owner(path) == os.getuid()
    assert lab.kernel.note_kill(path, 3, "a-kill") is True
    before = lab.kernel.set_oom_group(path, True)
    if before is not None:  # where there is a memory controller
        assert before is False
        assert lab.kernel.set_oom_group(path, False) is True


async def test_nothing_is_done_to_a_cgroup_that_is_not_there(lab: Lab) -> None:
    path = "/lmkd-no-such.slice"
    assert lab.kernel.cgroup_owner(path) is None
    assert lab.kernel.set_oom_group(path, True) is None
    assert lab.kernel.freeze_cgroup(path, True) is False
    assert lab.kernel.note_kill(path, 1, "a-kill") is False
    watch = lab.kernel.watch_cgroups((path,))
    assert watch.paths() == frozenset()
    watch.close()


async def test_the_root_cgroup_is_neither_frozen_nor_killed_as_one(lab: Lab) -> None:
    assert lab.kernel.freeze_cgroup("/", True) is False
    assert lab.kernel.set_oom_group("/", True) is None
