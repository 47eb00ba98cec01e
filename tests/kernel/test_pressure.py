"""PSI triggers on the real kernel, set off by real stalls that fill no memory."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from lmkd.kernel.events import EventWatch
from lmkd.kernel.files import PRESSURE_MEMORY
from lmkd.kernel.parse import parse_pressure
from lmkd.kernel.pressure import PressureTrigger, open_trigger
from lmkd.kernel.probe import probe
from lmkd.kernel.windows import DEFAULT_TRIGGERS, StallKind, StallTrigger

PRESSURE = f"/{PRESSURE_MEMORY}"
RECLAIM = "/sys/devices/system/node/node0/reclaim"
SOME = DEFAULT_TRIGGERS[0]

# Reclaim of page cache that is being read: 10-17% of the time stalls (Linux 6.18), and no memory
# is filled.
STALLING = """
import os, sys, threading, time
path, reclaim, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
until = time.monotonic() + seconds
def read():
    buffer = bytearray(1 << 20)
    while time.monotonic() < until:
        with open(path, "rb", buffering=0) as file:
            while time.monotonic() < until and file.readinto(buffer):
                pass
threading.Thread(target=read).start()
while time.monotonic() < until:
    try:
        with open(reclaim, "w") as file:
            file.write("32M swappiness=0")
    except OSError:
        pass
"""


def some_total_us() -> int:
    with open(PRESSURE, "rb") as file:
        return parse_pressure(file.read(), PRESSURE).some_total_us


@pytest.fixture
def trigger() -> Iterator[PressureTrigger]:
    if probe().psi not in ("yes", "unprivileged"):
        pytest.skip("no PSI on this machine: boot with psi=1")
    trigger = open_trigger(PRESSURE, SOME)
    if trigger is None:
        pytest.skip(f"this process may not write {PRESSURE}")
    yield trigger
    trigger.close()


@pytest.mark.real_kernel
def test_what_was_armed_is_what_this_process_may_arm(trigger: PressureTrigger) -> None:
    expected = SOME if probe().sys_resource else SOME.unprivileged()
    assert trigger.armed == expected


@pytest.mark.real_kernel
async def test_an_armed_trigger_does_not_spin(trigger: PressureTrigger) -> None:
    watch = EventWatch([trigger])
    wakes = 0
    with trio.move_on_after(0.3):
        while True:
            await watch.wait_changed()
            wakes += 1
    assert wakes <= 2  # an unprivileged one fires falsely 0.1 s after arming
    watch.close()


@pytest.fixture
def stalling(tmp_path: Path) -> Iterator[None]:
    """Real stalls for 6 s at most."""
    if not os.access(RECLAIM, os.W_OK):
        pytest.skip(f"no stalls can be made: {RECLAIM} (Linux 6.17, root) is not writable")
    big = tmp_path / "big"
    with open(big, "wb") as file:
        for _ in range(256):
            file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())  # dirty pages are no page cache to drop
    program = [sys.executable, "-S", "-E", "-c", STALLING, str(big), RECLAIM, "6"]
    child = subprocess.Popen(program)
    yield
    child.kill()
    child.wait()
    big.unlink()


@pytest.mark.real_kernel
@pytest.mark.usefixtures("stalling")
async def test_real_stalls_fire_the_trigger(trigger: PressureTrigger) -> None:
    watch = EventWatch([trigger])
    before_us = some_total_us()
    with trio.move_on_after(8) as scope:
        while some_total_us() - before_us < trigger.armed.stall_us:
            await watch.wait_changed()
    watch.close()
    grown_us = some_total_us() - before_us
    if grown_us < trigger.armed.stall_us:
        pytest.skip(f"this machine would not stall: {grown_us} us in 6 s")
    assert not scope.cancelled_caught


def test_the_unprivileged_trigger_keeps_the_share() -> None:
    trigger = StallTrigger(StallKind.FULL, 100_000, 1_000_000)
    assert trigger.unprivileged() == StallTrigger(StallKind.FULL, 200_000, 2_000_000)


def test_a_machine_without_psi_has_no_triggers(tmp_path: Path) -> None:
    assert open_trigger(str(tmp_path / "absent"), SOME) is None


class Writes:
    """A stand-in for os.write that refuses as the kernel does, and keeps what was taken."""

    def __init__(self, refusals: list[int]) -> None:
        self.refusals = refusals
        self.taken: list[bytes] = []

    def __call__(self, fd: int, content: bytes) -> int:
        if self.refusals:
            code = self.refusals.pop(0)
            raise OSError(code, os.strerror(code))
        self.taken.append(content)
        return len(content)


@pytest.fixture
def pressure_file(tmp_path: Path) -> str:
    path = tmp_path / "memory.pressure"
    path.write_bytes(b"")
    return str(path)


def test_a_short_window_that_is_refused_is_armed_over_two_seconds(
    pressure_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes([errno.EINVAL])
    monkeypatch.setattr(os, "write", writes)
    trigger = open_trigger(pressure_file, SOME)
    assert trigger is not None
    assert trigger.window_us == 2_000_000
    assert writes.taken == [b"some 140000 2000000\0"]
    trigger.close()


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENODEV, errno.EPERM])
def test_a_trigger_that_cannot_be_had_leaves_no_descriptor_open(
    pressure_file: str, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "write", Writes([code]))
    before = os.listdir("/proc/self/fd")
    assert open_trigger(pressure_file, SOME) is None
    assert os.listdir("/proc/self/fd") == before


def test_a_trigger_that_fails_for_another_reason_says_so(
    pressure_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", Writes([errno.EBUSY]))
    with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
        open_trigger(pressure_file, SOME)
