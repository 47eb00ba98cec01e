"""The watchdog: when the loop does not answer in an emergency, whoever ranks first is ended all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmkd_proto as wire
import pytest
from trio.testing import MockClock

from lmkd.config import load_config
from lmkd.kernel.machine import Machine
from lmkd.model import SYSTEM_DOMAIN, App, AppClass, Level, Process, Reading, Unit, Victim
from lmkd.policy import events, heart
from lmkd.policy.state import State
from lmkd.service import watchdog
from lmkd.service.watchdog import HUNG_US, LOOK_LEAST_S, LOOK_S, Watchdog

from .house import MIB, PINNED, running

OWN_PID = 99
SETTINGS = load_config([PINNED]).settings
TOTAL_KIB = 1000 * MIB


class FakeAlarm:
    """An alarm whose reading is made up, and which goes off at once."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel
        self.available_kib = 5 * MIB
        self.closed = False
        self.called = 0
        self.expected_us = 0

    def wait(self, timeout_s: float | None) -> None:
        time.sleep(0.005)

    def call(self) -> None:
        self.called += 1

    def expect(self, within_us: int) -> None:
        self.expected_us = within_us

    def read(self) -> Reading | None:
        return Reading(SYSTEM_DOMAIN, self.kernel.now_us(), TOTAL_KIB, self.available_kib)

    def close(self) -> None:
        self.closed = True


class FakeKernel(Machine):
    """The real kernel with a clock that is moved by hand, and few processes: those that are lent."""

    def __init__(self, *lent: Process) -> None:
        super().__init__()
        self.lent = list(lent)
        self.at_us = 1_000_000_000

    def now_us(self) -> int:
        return self.at_us

    def pids(self) -> list[int]:
        return [one.pid for one in self.lent]

    def process(self, pid: int, *details: Any) -> Process | None:
        """Read one of those that are lent, and nobody else: what is found here may be ended."""
        return super().process(pid) if pid in self.pids() else None

    def scan(self, domain: str, min_size_kib: int, *details: Any) -> list[Process]:
        return [one for one in self.lent if one.size_kib >= min_size_kib]


class Scene:
    def __init__(self, *lent: Process, **settings: Any) -> None:
        self.kernel = FakeKernel(*lent)
        self.alarm = FakeAlarm(self.kernel)
        self.state = heart.start(replace(SETTINGS, **settings), OWN_PID)
        self.newcomers: set[int] = set()
        self.feed(events.DomainOpened(SYSTEM_DOMAIN))
        self.dog = Watchdog(self.kernel, self.alarm, OWN_PID, self.read_state, self)

    def feed(self, event: events.Event) -> None:
        self.state, _ = heart.step(self.state, event, self.kernel.at_us)

    def read_state(self) -> State:
        return self.state

    def as_others_have(self, processes: Iterable[Process]) -> list[Process]:
        return list(processes)

    def small_ones(self, domain: str, below_kib: int, apart: Collection[int]) -> list[Process]:
        return [one for one in self.kernel.lent if one.size_kib < below_kib]

    def is_known(self, pid: int) -> bool:
        return pid not in self.newcomers

    def hang(self, us: int) -> None:
        """Let the loop be silent for so long, while the watchdog looks four times a second."""
        until_us = self.kernel.at_us + us
        while self.kernel.at_us < until_us:
            self.kernel.at_us += 250_000
            self.dog.look()


@contextmanager
def children(
    count: int, size_mib: int = 100
) -> Iterator[list[tuple[subprocess.Popen[bytes], Process]]]:
    """Start children, and describe them as large as they are not, and as nobody has marked them.

    These tests may themselves run under an oom_score_adj, as in most containers, and a rule would speak for that.
    """
    started = [
        subprocess.Popen([sys.executable, "-S", "-E", "-c", "import time; time.sleep(60)"])
        for _ in range(count)
    ]
    machine = Machine()
    found = []
    for number, child in enumerate(started):
        process = machine.process(child.pid)
        assert process is not None
        size_kib = (size_mib + number) * MIB
        described = replace(process, anon_kib=size_kib, cgroup="/", oom_score_adj=0)
        found.append((child, described))
    machine.close()
    try:
        yield found
    finally:
        for child in started:
            child.kill()
            child.wait()


def test_the_first_in_rank_is_ended_when_the_loop_has_been_silent_for_two_seconds() -> None:
    with children(2) as ((small, small_process), (large, large_process)):
        scene = Scene(small_process, large_process)
        scene.hang(HUNG_US - 250_000)
        assert large.poll() is None
        scene.hang(250_000)
        assert large.wait(5) == -9
        assert small.poll() is None
        (killed,) = scene.dog.beat(Level.CRITICAL, 10_000)
        assert killed.victim.pid == large.pid
        assert "5.0 MiB of 1000.0 MiB available, and the loop had not answered for 2000 ms" in (
            killed.reason
        )
        assert scene.dog.beat(Level.CRITICAL, 10_000) == []
        assert scene.alarm.expected_us == 10_000 + HUNG_US


def test_a_loop_that_answers_is_left_to_do_it_itself() -> None:
    with children(1) as ((child, process),):
        scene = Scene(process)
        for _ in range(10):
            scene.hang(1_000_000)
            scene.dog.beat(Level.CRITICAL, 10_000)
        assert child.poll() is None


def test_a_loop_that_answers_while_processes_are_looked_through_is_left_to_do_it() -> None:
    with children(1) as ((child, process),):
        scene = Scene(process)
        scan = scene.kernel.scan

        def answer_then(*arguments: Any) -> list[Process]:
            scene.dog.beat(Level.CRITICAL, 10_000)
            return scan(*arguments)

        scene.kernel.scan = answer_then  # type: ignore[method-assign]
        scene.hang(2 * HUNG_US)
        assert child.poll() is None


def test_a_loop_that_is_at_work_on_something_long_is_left_to_it() -> None:
    with children(1) as ((child, process),):
        scene = Scene(process)
        for _ in range(8):
            scene.hang(1_000_000)
            scene.dog.note_alive()
        assert child.poll() is None


def test_without_an_emergency_a_silent_loop_is_nobodys_death() -> None:
    with children(1) as ((child, process),):
        scene = Scene(process)
        scene.alarm.available_kib = 40 * MIB
        scene.hang(20_000_000)
        assert child.poll() is None


def test_for_as_long_as_it_lasts_the_next_one_goes_too() -> None:
    with children(3) as started:
        scene = Scene(*(process for _, process in started))
        scene.hang(HUNG_US)
        scene.kernel.lent.pop()
        scene.hang(1_000_000)
        assert [child.poll() for child, _ in started].count(-9) >= 2


def test_a_victim_that_has_had_its_sigterm_is_the_one_to_finish() -> None:
    with children(2) as ((first, first_process), (larger, larger_process)):
        scene = Scene(first_process, larger_process)
        scene.feed(
            events.ReadingTaken(Reading(SYSTEM_DOMAIN, scene.kernel.at_us, TOTAL_KIB, 5 * MIB))
        )
        scene.feed(events.ProcessesScanned(SYSTEM_DOMAIN, (first_process,)))
        assert scene.state.domains[SYSTEM_DOMAIN].in_flight is not None
        scene.hang(HUNG_US)
        assert first.wait(5) == -9
        assert larger.poll() is None


@pytest.mark.parametrize(
    "change",
    [{"dry_run": True}, {"killable": frozenset()}, {"own_uid": 4711}],
)
def test_who_may_not_be_ended_by_the_policy_is_not_ended_by_the_watchdog(
    change: dict[str, Any],
) -> None:
    with children(1) as ((child, process),):
        scene = Scene(process, **change)
        scene.hang(2 * HUNG_US)
        assert child.poll() is None
        assert scene.dog.beat(Level.CRITICAL, 10_000) == []


def test_where_another_daemon_says_the_level_it_ends_nobody() -> None:
    with children(1) as ((child, process),):
        scene = Scene(process)
        scene.feed(events.LevelRelayed(SYSTEM_DOMAIN, Level.CRITICAL, "theirs"))
        scene.hang(2 * HUNG_US)
        assert child.poll() is None


def test_one_that_was_never_started_is_closed_all_the_same() -> None:
    scene = Scene()
    scene.dog.close()
    assert scene.alarm.closed


def test_whoever_became_untouchable_since_it_was_ranked_is_not_signalled() -> None:
    with children(1) as ((child, process),):
        scene = Scene(process)
        # It ranks as what it was; looked at again it is protected.
        scene.as_others_have = lambda processes: [  # type: ignore[method-assign]
            one if one is process else replace(one, oom_score_adj=-950) for one in processes
        ]
        scene.hang(2 * HUNG_US)
        assert child.poll() is None


def test_a_recycled_pid_is_not_signalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "EXIT_LOOK_S", 0)
    with children(1) as ((child, process),):
        scene = Scene(replace(process, start_ticks=process.start_ticks - 1))
        scene.hang(2 * HUNG_US)
        assert child.poll() is None


def test_many_small_processes_of_one_program_go_before_a_large_one() -> None:
    with children(13, 5) as started:
        (editor, editor_process), *swarm = started
        scene = Scene(
            replace(editor_process, anon_kib=60 * MIB, exe="/usr/bin/editor"),
            *(replace(process, anon_kib=8 * MIB) for _, process in swarm),
        )
        scene.hang(HUNG_US)
        assert [child.wait(5) for child, _ in swarm] == [-9] * 12
        assert editor.poll() is None


def test_newcomers_that_the_roll_has_not_come_to_count_as_well() -> None:
    with children(12, 1) as started:
        scene = Scene()
        scene.kernel.lent = [process for _, process in started]
        scene.newcomers = {process.pid for _, process in started}
        scene.small_ones = lambda *_: []  # type: ignore[method-assign]
        sizes = {process.pid: replace(process, anon_kib=8 * MIB) for _, process in started}
        scene.kernel.process = lambda pid, *_: sizes.get(pid)  # type: ignore[method-assign]
        scene.hang(HUNG_US)
        assert [child.wait(5) for child, _ in started] == [-9] * 12


@pytest.mark.parametrize(("step_mib", "ended"), [(1, False), (10, True)])
def test_what_is_gone_within_three_seconds_is_late_enough(step_mib: int, ended: bool) -> None:
    """Above the hard limit of 20 MiB: at 4 MiB/s there is time left, at 40 there is none."""
    with children(1) as ((child, process),):
        scene = Scene(process)
        scene.alarm.available_kib = 100 * MIB
        scene.hang(HUNG_US)
        for left_mib in range(25 + 8 * step_mib, 24, -step_mib):
            scene.alarm.available_kib = left_mib * MIB
            scene.hang(250_000)
        assert scene.dog.fault is None
        assert [one.victim.pid for one in scene.dog.take_killed()] == [child.pid] * ended


def test_the_faster_it_falls_the_sooner_is_the_next_look() -> None:
    scene = Scene()
    assert scene.dog._pause_s() == LOOK_S
    pauses = []
    for left_mib in (400, 398, 388, 320, 100):
        scene.alarm.available_kib = left_mib * MIB
        scene.kernel.at_us += 100_000
        scene.dog.look()
        pauses.append(scene.dog._pause_s())
    assert pauses == sorted(pauses, reverse=True)
    assert pauses[0] == LOOK_S
    assert pauses[-1] == LOOK_LEAST_S


def test_a_program_that_registered_dies_as_a_unit_and_its_class_counts() -> None:
    with children(2) as ((app_child, app_process), (other, other_process)):
        scene = Scene(app_process, other_process)
        app = App(
            *(1, app_child.pid, app_process.start_ticks, app_process.uid, "app"),
            *(AppClass.CACHED, "/", 0, Unit.TREE),
        )
        scene.feed(events.AppRegistered(app))
        scene.hang(HUNG_US)
        assert scene.dog.fault is None
        assert [killed.victim.pid for killed in scene.dog.take_killed()] == [app_child.pid]
        assert app_child.wait(60) == -9
        assert other.poll() is None


def test_a_fault_of_its_own_costs_a_look_and_is_kept() -> None:
    scene = Scene()
    scene.alarm.read = lambda: 1 // 0  # type: ignore[method-assign,assignment,return-value]
    scene.hang(1_000_000)
    assert scene.dog.fault == "ZeroDivisionError: integer division or modulo by zero"


def test_in_its_thread_it_looks_until_it_is_closed() -> None:
    with children(1) as ((child, process),):
        scene = Scene(process)
        scene.dog.start()
        scene.dog.beat(Level.CRITICAL, 10_000)
        assert scene.alarm.called == 1
        for _ in range(1000):
            scene.kernel.at_us += HUNG_US // 10
            time.sleep(0.01)
            if child.poll() is not None:
                break
        assert child.wait(1) == -9
        scene.dog.close()
        assert scene.alarm.closed


@pytest.mark.real_kernel
def test_the_alarm_of_the_real_kernel_waits_until_it_is_called_and_reads() -> None:
    before = len(os.listdir("/proc/self/fd"))
    alarm = Machine().open_alarm()
    began = time.monotonic()
    alarm.call()
    alarm.wait(10)
    assert time.monotonic() - began < 5
    alarm.wait(0)  # the call was consumed
    alarm.expect(60_000_000)
    alarm.expect(20_000)
    alarm.wait(10)
    assert time.monotonic() - began < 5
    reading = alarm.read()
    assert reading is not None
    assert reading.total_kib > 0
    alarm.close()
    assert len(os.listdir("/proc/self/fd")) <= before + 8  # those of the Machine itself


async def test_what_it_did_is_reported_and_kept_when_the_loop_answers_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as home:
        pid = home.kernel.spawn("leak", anon_kib=900 * MIB)
        process = home.kernel.process(pid)
        assert process is not None
        home.parts.engine.feed(
            events.ReadingTaken(Reading(SYSTEM_DOMAIN, home.kernel.now_us(), TOTAL_KIB, 70 * MIB))
        )
        peer = await home.connect()
        await peer.ask(wire.Subscribe)
        victim = victim_of(process)
        home.parts.engine.feed(events.WatchdogKilled(SYSTEM_DOMAIN, victim, "in time"))
        killed = await peer.hear(wire.Killed)
        assert (killed.pid, killed.name, killed.reason) == (pid, "leak", "in time")
        kept = home.parts.engine.state.domains[SYSTEM_DOMAIN]
        assert kept.relieved_us == home.kernel.now_us()


def victim_of(process: Process) -> Any:
    return Victim(
        *(process.pid, process.start_ticks, process.comm, AppClass.SERVICE, ""),
        *(process.size_kib, Unit.PROCESS, process.cgroup),
    )
