"""The hard cases of docs/hard-cases.md on a real kernel, as far as this machine's own will show them."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio

from lmkd.kernel.machine import Machine
from lmkd.model import SYSTEM_DOMAIN, AppClass, Process, Signal, Unit, Victim
from lmkd.policy.actions import SendSignal
from lmkd.policy.events import VictimExited
from lmkd.service.executor import Executor

from .gallows import OWN_PID, DeafEngine
from .house import PromptHand

pytestmark = pytest.mark.real_kernel

HEADLESS = """
import ctypes, threading, time
def hold():
    kept = bytearray(8 << 20)
    kept[::4096] = bytes(len(kept[::4096]))
    print(flush=True)
    time.sleep(60)
threading.Thread(target=hold).start()
ctypes.CDLL(None).syscall(60, 0)  # exit(2) of this thread alone
"""
SHARED = """
import mmap, time
kept = mmap.mmap(-1, 64 << 20)  # MAP_SHARED
for at in range(0, len(kept), 4096):
    kept[at] = 1
print(flush=True)
time.sleep(60)
"""
SLOW = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: time.sleep(10))
print(flush=True)
time.sleep(60)
"""


@contextmanager
def started(program: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program of a few lines until the block ends; it says a line when it is ready."""
    argv = [sys.executable, "-S", "-E", "-c", program]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            yield child
        finally:
            child.kill()


def victim_of(process: Process) -> Victim:
    return Victim(
        *(process.pid, process.start_ticks, process.comm, AppClass.SERVICE, ""),
        *(process.size_kib, Unit.PROCESS, process.cgroup),
    )


@asynccontextmanager
async def executor(machine: Machine, engine: DeafEngine) -> AsyncIterator[Executor]:
    async with trio.open_nursery() as nursery:
        yield Executor(machine, engine, nursery, OWN_PID, PromptHand(), machine.process)
        nursery.cancel_scope.cancel()


async def heard(engine: DeafEngine) -> None:
    with trio.fail_after(10):
        while not engine.fed:  # noqa: ASYNC110 - it has no event for a test
            await trio.sleep(0.01)


def found(machine: Machine, pid: int) -> Process:
    process = machine.process(pid)
    assert process is not None
    return process


def wait_headless(pid: int) -> None:
    """Return when the first thread has ended: it stays as a zombie for as long as another one lives."""
    for _ in range(1000):
        with open(f"/proc/{pid}/stat") as stat:
            if stat.read().rpartition(") ")[2].startswith("Z"):
                return
        time.sleep(0.01)
    raise AssertionError("its first thread lives")


async def test_a_program_whose_first_thread_has_ended_is_measured_and_ended() -> None:
    """It looks like a zombie, and holds its memory all the same."""
    machine, engine = Machine(), DeafEngine()
    with started(HEADLESS) as child:
        wait_headless(child.pid)
        process = found(machine, child.pid)
        assert process.size_kib >= 8 << 10
        async with executor(machine, engine) as hands:
            hands.signal(SendSignal(SYSTEM_DOMAIN, 1, victim_of(process), Signal.TERM))
            hands.signal(SendSignal(SYSTEM_DOMAIN, 1, victim_of(process), Signal.KILL))
            await heard(engine)
        assert engine.fed == [VictimExited(SYSTEM_DOMAIN, 1)]


async def test_a_frozen_program_that_handles_sigterm_is_ended_by_sigkill() -> None:
    """Where SIGTERM has its default action it ends a frozen program, too (6.18); a handler waits for the thaw."""
    machine, engine = Machine(), DeafEngine()
    mount = machine.features().cgroup_mount
    if mount is None or os.getuid() != 0:
        pytest.skip("no cgroup of its own can be made")
    path = f"/lmkd-frozen-test-{os.getpid()}"
    os.mkdir(mount + path)
    try:
        with started(SLOW) as child:
            move_to(mount + path, child.pid)
            process = found(machine, child.pid)
            assert machine.freeze_cgroup(path, True)
            async with executor(machine, engine) as hands:
                hands.signal(SendSignal(SYSTEM_DOMAIN, 1, victim_of(process), Signal.TERM))
                await trio.sleep(0.2)
                assert engine.fed == [], "SIGTERM waits for the thaw"
                hands.signal(SendSignal(SYSTEM_DOMAIN, 1, victim_of(process), Signal.KILL))
                await heard(engine)
            assert engine.fed == [VictimExited(SYSTEM_DOMAIN, 1)]
    finally:
        machine.freeze_cgroup(path, False)
        machine.kill_cgroup(path)
        await machine.wait_cgroup_empty(path)
        os.rmdir(mount + path)


def move_to(directory: str, pid: int) -> None:
    with open(f"{directory}/cgroup.procs", "w") as procs:
        procs.write(str(pid))


async def test_a_victim_of_ten_seconds_is_ended_by_sigkill_in_the_middle_of_them() -> None:
    machine, engine = Machine(), DeafEngine()
    with started(SLOW) as child:
        process = found(machine, child.pid)
        async with executor(machine, engine) as hands:
            hands.signal(SendSignal(SYSTEM_DOMAIN, 1, victim_of(process), Signal.TERM))
            await trio.sleep(0.2)
            assert engine.fed == []
            hands.signal(SendSignal(SYSTEM_DOMAIN, 1, victim_of(process), Signal.KILL))
            await heard(engine)
        assert engine.fed == [VictimExited(SYSTEM_DOMAIN, 1)]


def test_memory_that_is_shared_is_not_counted_as_what_a_kill_would_free() -> None:
    machine = Machine()
    with started(SHARED) as child:
        process = found(machine, child.pid)
        assert process.resident_kib >= 64 << 10
        assert process.size_kib < 32 << 10


def test_files_in_tmpfs_are_nobodys() -> None:
    machine = Machine()
    with open("/dev/shm/lmkd-test", "w+b") as file:
        os.unlink(file.name)
        before_kib = found(machine, os.getpid()).size_kib
        file.write(bytes(32 << 20))
        file.flush()
        with mmap.mmap(file.fileno(), 0) as mapped:
            assert mapped[0] == 0
            assert found(machine, os.getpid()).size_kib - before_kib < 16 << 10


def test_a_reading_says_how_long_the_machine_has_been_suspended() -> None:
    domain = Machine().open_domain(SYSTEM_DOMAIN)
    assert domain is not None
    reading = domain.read(time.monotonic_ns() // 1000)
    assert reading is not None
    boottime_us = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    monotonic_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert abs(reading.suspended_us - (boottime_us - monotonic_us)) < 10_000
    domain.close()
