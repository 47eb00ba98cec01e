"""A small machine around one heart, which a recorder listens to: programs grow, and end when they are told to.

1,000 MiB, no swap, of which 100 are taken by nobody who could be ended. Floors (enter/leave MiB): low 120/150, medium
80/100, critical 50/65, emergency 20; a kill must free 20 MiB. Classes come from rules on comm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lmkd.model import SYSTEM_DOMAIN, Answer, App, AppClass, Level, Process, Reading, Signal, Unit
from lmkd.policy import actions, events, heart
from lmkd.policy.patterns import TextTest
from lmkd.policy.rules import Condition, Rule, RuleSet, Verdict
from lmkd.policy.settings import Amount, ClassSettings, FloorStep, Settings, StallStep
from lmkd.policy.state import State
from lmkd.replay.recorder import Recorder, Segment
from lmkd.replay.recording import Recording, decode_recording, encode_recording

MIB = 1024
MS = 1_000
SECOND = 1_000_000
TOTAL_KIB = 1000 * MIB
BASE_KIB = 100 * MIB
OWN_PID = 99
MOST_BYTES = 8 << 20


def amount(mib: int) -> Amount:
    """Return so much of this machine."""
    return Amount(mib * 10, 1 << 30)


def _classes() -> dict[AppClass, ClassSettings]:
    killed_at = {AppClass.CACHED: Level.MEDIUM, AppClass.SYSTEM: None}
    return {
        one: ClassSettings(
            900 - 200 * one, killed_at.get(one, Level.CRITICAL), 1 * SECOND, 2 * SECOND
        )
        for one in AppClass
    }


SETTINGS = Settings(
    classes=_classes(),
    stall={
        Level.LOW: StallStep(700, 300),
        Level.MEDIUM: StallStep(2000, 700),
        Level.CRITICAL: StallStep(6000, 1500),
    },
    stall_emergency_permyriad=5000,
    stall_harm=StallStep(3000, 700),
    floor={
        Level.LOW: FloorStep(amount(120), amount(150)),
        Level.MEDIUM: FloorStep(amount(80), amount(100)),
        Level.CRITICAL: FloorStep(amount(50), amount(65)),
    },
    floor_emergency=amount(20),
    swap={Level.LOW: 2000, Level.MEDIUM: 1000, Level.CRITICAL: 500},
    thrash={Level.LOW: 1000, Level.MEDIUM: 2000, Level.CRITICAL: 4000},
    forecast={},
    forecast_slope_kib_s=1 << 40,
    calm_hold_us=3 * SECOND,
    rest_us=2 * SECOND,
    exit_emergency_us=SECOND,
    min_victim=amount(20),
    min_victim_least_kib=MIB,
    settle_us=200 * MS,
    unkillable_us=3 * SECOND,
    read_idle_us=SECOND,
    read_pressed_us=100 * MS,
    read_emergency_us=10 * MS,
    claim_ceiling=AppClass.PERCEPTIBLE,
)


def rule(comm: str, app_class: AppClass, **verdict: Any) -> Rule:
    """Return a rule that gives what is called so a class."""
    return Rule(
        f"{comm} is {app_class.word}",
        "test.toml:1",
        (Condition("comm", TextTest((comm,))),),
        Verdict(app_class, **verdict),
    )


def settings_with(*rules: Rule, **changes: Any) -> Settings:
    return replace(SETTINGS, rules=RuleSet(rules), **changes)


BROWSER_FIRST = settings_with(rule("browser", AppClass.CACHED), rule("editor", AppClass.BACKGROUND))
EDITOR_FIRST = settings_with(rule("browser", AppClass.BACKGROUND), rule("editor", AppClass.CACHED))


@dataclass
class Program:
    """A program that runs."""

    process: Process
    grows_kib_s: int = 0
    ends_on: Signal | None = Signal.TERM
    ends_after_us: int = 70 * MS
    forbidden: bool = False
    """Whether it may not be signalled."""
    app: int | None = None


class Machine:
    """The programs, the clock, and what a daemon does about what the heart says."""

    def __init__(self, settings: Settings, most_bytes: int = MOST_BYTES) -> None:
        self.state: State = heart.start(settings, OWN_PID, first_episode=12)
        self.recorder = Recorder(self.state, most_bytes)
        self.now_us = 5 * SECOND
        self.programs: dict[int, Program] = {}
        self.some_permyriad = 0
        self._some_us = 0
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self.feed(events.DomainOpened(SYSTEM_DOMAIN))

    def feed(self, event: events.Event) -> tuple[actions.Action, ...]:
        self.recorder.note(self.now_us, event, self.state)
        self.state, out = heart.step(self.state, event, self.now_us)
        self.recorder.keep(out)
        for action in out:
            self._do(action)
        return out

    def start(
        self, pid: int, comm: str, size_mib: int, *, grows_mib_s: int = 0, **given: Any
    ) -> Program:
        process_fields = {
            key: given.pop(key) for key in ("environ", "cmdline", "cgroup", "ppid") if key in given
        }
        process = Process(
            pid=pid,
            start_ticks=pid * 10,
            comm=comm,
            exe=f"/usr/bin/{comm}",
            uid=1000,
            oom_score_adj=0,
            anon_kib=size_mib * MIB,
            swap_kib=0,
            state="S",
            **{"cgroup": "/", "ppid": 1, **process_fields},
        )
        program = self.programs[pid] = Program(process, grows_mib_s * MIB, **given)
        return program

    def register(self, pid: int, app_class: AppClass, sheddable_mib: int = 0) -> None:
        program = self.programs[pid]
        self._count += 1
        program.app = self._count
        process = program.process
        self.feed(
            events.AppRegistered(
                App(
                    app=self._count,
                    pid=pid,
                    start_ticks=process.start_ticks,
                    uid=1000,
                    name=process.comm,
                    app_class=app_class,
                    cgroup=process.cgroup,
                    sheddable_kib=sheddable_mib * MIB,
                )
            )
        )

    def run(self, seconds: float, step_ms: int = 100) -> None:
        """Let time pass, with a reading each `step_ms`."""
        until_us = self.now_us + int(seconds * SECOND)
        while self.now_us < until_us:
            self._pass(self.now_us + step_ms * MS)
            self.feed(events.ReadingTaken(self.reading()))

    def run_until_calm(self, most_s: int = 30) -> Segment:
        """Let time pass until the recorder has a whole segment."""
        for _ in range(most_s * 10):
            self.run(0.1)
            segment = self.recorder.take()
            if segment is not None:
                return segment
        raise AssertionError(f"still at {self.level.word} after {most_s} s")

    def note_known(self) -> None:
        known = tuple(program.process for program in self.programs.values())
        self.recorder.note_processes(self.now_us, known)

    @property
    def level(self) -> Level:
        return self.state.domains[SYSTEM_DOMAIN].level

    def available_kib(self) -> int:
        used_kib = sum(program.process.size_kib for program in self.programs.values())
        return max(TOTAL_KIB - BASE_KIB - used_kib, 0)

    def reading(self) -> Reading:
        return Reading(
            SYSTEM_DOMAIN,
            self.now_us,
            TOTAL_KIB,
            self.available_kib(),
            some_total_us=self._some_us,
            full_total_us=0,
            scanned_pages=self._some_us,
        )

    def _pass(self, to_us: int) -> None:
        while self._due and self._due[0][0] <= to_us:
            at_us, _, deed = self._due.pop(0)
            self._grow(at_us)
            deed()
        self._grow(to_us)

    def _grow(self, to_us: int) -> None:
        span_us, self.now_us = to_us - self.now_us, to_us
        self._some_us += span_us * self.some_permyriad // 10_000
        for program in self.programs.values():
            grown_kib = min(program.grows_kib_s * span_us // SECOND, self.available_kib())
            process = program.process
            program.process = replace(process, anon_kib=process.anon_kib + grown_kib)

    def _later(self, after_us: int, deed: Callable[[], None]) -> None:
        self._count += 1
        self._due.append((self.now_us + after_us, self._count, deed))
        self._due.sort(key=lambda one: one[:2])

    def _do(self, action: actions.Action) -> None:
        match action:
            case actions.ScanProcesses(domain, least_kib):
                # As the daemon does: read at once, given when the actions are done.
                found = tuple(
                    program.process
                    for program in self.programs.values()
                    if program.process.size_kib >= least_kib
                )
                self.feed(events.ProcessesScanned(domain, found))
            case actions.MeasureApps(domain, apps):
                sizes = tuple(
                    (program.app, program.process.size_kib)
                    for program in self.programs.values()
                    if program.app in apps and program.app is not None
                )
                self.feed(events.AppsMeasured(domain, sizes))
            case actions.Notify() as notice:
                self._later(50 * MS, lambda: self._answer(notice))
            case actions.SendSignal() as sent:
                program = self.programs.get(sent.victim.pid)
                if program is None:
                    self.feed(events.SignalFailed(sent.domain, sent.kill, "it is gone"))
                elif program.forbidden:
                    self.feed(events.SignalFailed(sent.domain, sent.kill, "not permitted"))
                elif program.ends_on is sent.signal:
                    self._later(program.ends_after_us, lambda: self._end(sent))
            case _:
                pass

    def _answer(self, notice: actions.Notify) -> None:
        program = next((one for one in self.programs.values() if one.app == notice.app), None)
        if program is None or notice.target_kib == 0:
            return
        process = program.process
        shed_kib = min(notice.target_kib, process.size_kib // 4)
        program.process = replace(process, anon_kib=process.anon_kib - shed_kib)
        self.feed(
            events.AckReceived(
                notice.app, notice.notice, Answer.DONE, shed_kib, program.process.size_kib
            )
        )

    def _end(self, sent: actions.SendSignal) -> None:
        whole = sent.victim.unit is Unit.CGROUP
        for pid, program in list(self.programs.items()):
            if pid == sent.victim.pid or (whole and program.process.cgroup == sent.victim.cgroup):
                del self.programs[pid]
                if program.app is not None:
                    self.feed(events.AppGone(program.app))
        self.feed(events.VictimExited(sent.domain, sent.kill))


def recording_of(segment: Segment, file: str = "test.lmkdrec") -> Recording:
    """Return a segment as it is read back from its file."""
    return decode_recording(
        encode_recording(segment, kernel="6.1.0", unix_ms=1_772_366_400_000), file
    )


def leak_episode(settings: Settings = BROWSER_FIRST, **changes: Any) -> Segment:
    """Play a leak: a browser of 300 MiB, an editor of 200 and a leak that grows by 60 MiB a second, unruled.

    The browser is ended near +4.7 s of the leak's start, and so on until the leak is.
    """
    machine = Machine(settings, **changes)
    machine.start(12, "editor", 200)
    machine.start(13, "browser", 300)
    leak = machine.start(14, "leak", 50)
    machine.run(25, 1000)
    leak.grows_kib_s = 60 * MIB
    while machine.level is Level.NORMAL:
        machine.run(0.1)
    machine.note_known()
    while 13 in machine.programs and 12 in machine.programs:
        machine.run(0.1)
    leak.grows_kib_s = 0
    return machine.run_until_calm()
