"""What every Kernel promises, asked of the real one and of the simulated one alike."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Protocol

import pytest
import trio

from lmkd.kernel.borrowed import BorrowedKernel
from lmkd.kernel.interface import Kernel, VictimHandle
from lmkd.kernel.machine import Machine
from lmkd.kernel.simulated import OnTerm, SimulatedKernel
from lmkd.model import SYSTEM_DOMAIN, Signal

SIZE_KIB = 24 * 1024
PROGRAM = """
import signal, sys, time
if sys.argv[2] == "ignores":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
blob = bytearray(b"x") * (int(sys.argv[1]) * 1024)
print(flush=True)
time.sleep(60)
"""


class Lab(Protocol):
    """A kernel, and a way to start processes on it."""

    kernel: Kernel

    def spawn(self, *, ignores_term: bool = False) -> int: ...

    def reap(self, pid: int) -> None:
        """Let the parent of an exited process take note, so that the pid is free."""
        ...

    def close(self) -> None: ...


class RealLab:
    """Processes of our own on this machine."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.kernel: Kernel = self.machine
        self.children: dict[int, subprocess.Popen[bytes]] = {}

    def spawn(self, *, ignores_term: bool = False) -> int:
        how = "ignores" if ignores_term else "exits"
        command = [sys.executable, "-S", "-E", "-c", PROGRAM, str(SIZE_KIB), how]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        self.children[child.pid] = child
        return child.pid

    def reap(self, pid: int) -> None:
        self.children[pid].wait()

    def close(self) -> None:
        for child in self.children.values():
            child.kill()
            child.communicate()
        self.machine.close()


class BorrowedLab(RealLab):
    """The same, lent to a kernel of simulated memory."""

    def __init__(self) -> None:
        super().__init__()
        self.lent: set[tuple[int, int]] = set()
        self.kernel = BorrowedKernel(self.machine, 512 * 1024, lambda: self.lent)

    def spawn(self, *, ignores_term: bool = False) -> int:
        pid = super().spawn(ignores_term=ignores_term)
        process = self.machine.process(pid)
        assert process is not None
        self.lent.add((pid, process.start_ticks))
        return pid


class SimulatedLab:
    """Processes of a simulated machine."""

    def __init__(self) -> None:
        self.simulated = SimulatedKernel()
        self.kernel: Kernel = self.simulated

    def spawn(self, *, ignores_term: bool = False) -> int:
        on_term = OnTerm.IGNORES if ignores_term else OnTerm.EXITS
        return self.simulated.spawn(
            "python", anon_kib=SIZE_KIB, uid=os.getuid(), ppid=os.getpid(), on_term=on_term
        )

    def reap(self, pid: int) -> None:
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


async def test_size_is_of_the_identified_process_only(lab: Lab) -> None:
    pid = lab.spawn()
    process = lab.kernel.process(pid)
    assert process is not None
    size_kib = lab.kernel.size_kib(pid, process.start_ticks)
    assert size_kib is not None
    assert size_kib >= SIZE_KIB
    assert lab.kernel.size_kib(pid, process.start_ticks + 1) is None


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
    lab.reap(pid)
    assert victim.send(Signal.KILL) is False
    assert lab.kernel.process(pid) is None
    assert lab.kernel.open_victim(pid, victim.start_ticks) is None
    assert lab.kernel.set_oom_score_adj(pid, victim.start_ticks, 900) is False
    assert pid not in {p.pid for p in lab.kernel.scan(SYSTEM_DOMAIN, 0)}
    await wait_exit(victim)  # and it has still exited
    victim.close()
    victim.close()


async def test_a_process_that_ignores_sigterm_dies_of_sigkill(lab: Lab) -> None:
    pid = lab.spawn(ignores_term=True)
    victim = take(lab, pid)
    assert victim.send(Signal.TERM) is True
    with trio.move_on_after(0.1) as scope:
        await victim.wait_exit()
    assert scope.cancelled_caught
    assert lab.kernel.process(pid) is not None
    assert victim.send(Signal.KILL) is True
    await wait_exit(victim)
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
