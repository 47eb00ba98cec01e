"""A small world around the heart: programs that grow, shed, lie and ignore, and a shell that does what is said.

It knows nothing of how the heart decides. Time passes only in `run` and `sleep`; what is due at one moment is done
in the order in which it came up. Every event and what came of it is logged and shown to a witness.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from lmkd.model import (
    SYSTEM_DOMAIN,
    Answer,
    App,
    AppClass,
    Process,
    Reading,
    Signal,
    Unit,
    Victim,
    is_within,
)
from lmkd.policy import actions, events, heart
from lmkd.policy.settings import Settings
from lmkd.policy.state import State

from .scenes import BOX, MIB, MS, OWN_PID, SECOND

TOTAL_KIB = 1000 * MIB
BASE_KIB = 100 * MIB
BOX_LIMIT_KIB = 300 * MIB
Log = list[tuple[events.Event, int, tuple[actions.Action, ...]]]
Observer = Callable[[events.Event, tuple[actions.Action, ...]], None]


class Manner(Enum):
    """What an app does about a notice."""

    SHEDS = "does what it was asked, and says so"
    LIES = "does nothing, and says that it did"
    WORKS = "asks for more time, then does it"
    HAS_NOTHING = "says that there is nothing"
    IGNORES = "does and says nothing"


class Ends(Enum):
    """What a program does about a signal."""

    ON_TERM = "ends soon after SIGTERM"
    ON_KILL = "ends on SIGKILL"
    NEVER = "hangs in the kernel"
    FORBIDDEN = "may not be signalled"


@dataclass
class Program:
    """A program that runs."""

    pid: int
    start_ticks: int
    size_kib: int
    adj: int
    exe: str
    cgroup: str
    growth_kib_s: int
    ends: Ends
    ppid: int = 1
    manner: Manner = Manner.IGNORES
    reaction_us: int = 0
    app: int | None = None

    @property
    def identity(self) -> tuple[int, int]:
        return (self.pid, self.start_ticks)

    def as_process(self) -> Process:
        return Process(
            pid=self.pid,
            start_ticks=self.start_ticks,
            ppid=self.ppid,
            comm=f"prog{self.pid}",
            exe=self.exe,
            uid=1000,
            cgroup=self.cgroup,
            oom_score_adj=self.adj,
            anon_kib=self.size_kib,
            swap_kib=0,
            state="S",
        )


class World:
    """The programs, the clock, and the shell around one heart."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state: State = heart.start(settings, OWN_PID)
        self.now_us = 0
        self.log: Log = []
        self.observers: list[Observer] = []
        self.programs: dict[int, Program] = {}
        self.scan_delay_us = 0
        self.some_permyriad = 0
        self.full_permyriad = 0
        self.swap_kib = 0
        self._some_us = 0
        self._full_us = 0
        self._scanned = 0
        self._box_high = 0
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._came_up = 0
        self._next_app = 1
        self._next_pid = 100
        self._starts = 0
        for domain in (SYSTEM_DOMAIN, BOX):
            self.feed(events.DomainOpened(domain))

    # --- what happens ------------------------------------------------------------------------------------------

    def feed(self, event: events.Event) -> tuple[actions.Action, ...]:
        """Give the heart an event, and do what it says."""
        self.state, out = heart.step(self.state, event, self.now_us)
        self.log.append((event, self.now_us, out))
        for observer in self.observers:
            observer(event, out)
        for action in out:
            self._do(action)
        return out

    def spawn(
        self,
        size_kib: int,
        *,
        adj: int = 0,
        exe: str = "/usr/bin/prog",
        cgroup: str = "/",
        growth_kib_s: int = 0,
        ends: Ends = Ends.ON_TERM,
        pid: int | None = None,
        ppid: int = 1,
    ) -> Program:
        """Start a program; with a pid, that of one that is gone."""
        if pid is None:
            pid = self._next_pid
            self._next_pid += 1
        self._starts += 1
        size_kib = min(size_kib, self.available_kib())
        program = Program(pid, self._starts, size_kib, adj, exe, cgroup, growth_kib_s, ends, ppid)
        self.programs[pid] = program
        return program

    def register(
        self,
        program: Program,
        app_class: AppClass,
        manner: Manner,
        *,
        reaction_us: int = 0,
        unit: Unit = Unit.PROCESS,
        sheddable_kib: int | None = None,
    ) -> None:
        program.app = self._next_app
        program.manner, program.reaction_us = manner, reaction_us
        self._next_app += 1
        self.feed(
            events.AppRegistered(
                App(
                    app=program.app,
                    pid=program.pid,
                    start_ticks=program.start_ticks,
                    uid=1000,
                    name=f"app{program.app}",
                    app_class=app_class,
                    cgroup=program.cgroup,
                    sheddable_kib=program.size_kib // 2 if sheddable_kib is None else sheddable_kib,
                    unit=unit,
                )
            )
        )

    def end(self, program: Program) -> None:
        """End a program, and with it its connection."""
        if self.programs.get(program.pid) is program:
            del self.programs[program.pid]
            if program.app is not None:
                self.feed(events.AppGone(program.app))

    def run(self, span_us: int) -> None:
        """Let the daemon run for a time: it reads when it said it would."""
        until_us = self.now_us + span_us
        while True:
            wakes = [
                (max(heart.next_wake_us(self.state, domain), self.now_us), domain)
                for domain in (SYSTEM_DOMAIN, BOX)
            ]
            wake_us, domain = min(wakes)
            due_us = self._due[0][0] if self._due else until_us + 1
            next_us = max(min(wake_us, due_us), self.now_us)
            if next_us > until_us:
                self._advance(until_us)
                return
            self._advance(next_us)
            if due_us <= next_us:
                heapq.heappop(self._due)[2]()
            else:
                self.feed(events.ReadingTaken(self.reading(domain)))

    def sleep(self, span_us: int) -> None:
        """Let the whole machine be suspended for a time."""
        self.now_us += span_us

    # --- what there is -----------------------------------------------------------------------------------------

    def available_kib(self) -> int:
        used_kib = BASE_KIB + sum(program.size_kib for program in self.programs.values())
        return max(TOTAL_KIB - used_kib, 0)

    def reading(self, domain: str) -> Reading:
        anon_kib = sum(program.size_kib for program in self.programs.values())
        if domain == SYSTEM_DOMAIN:
            return Reading(
                domain,
                self.now_us,
                TOTAL_KIB,
                self.available_kib(),
                some_total_us=self._some_us,
                full_total_us=self._full_us,
                anon_kib=anon_kib,
                swap_total_kib=self.swap_kib,
                swap_free_kib=self.swap_kib,
                scanned_pages=self._scanned,
            )
        return Reading(
            domain,
            self.now_us,
            BOX_LIMIT_KIB,
            max(BOX_LIMIT_KIB - self.box_kib(), 0),
            some_total_us=self._some_us,
            full_total_us=self._full_us,
            events_high=self._box_high,
            events_max=0,
            events_oom=0,
        )

    def box_kib(self) -> int:
        return sum(
            program.size_kib for program in self.programs.values() if is_within(program.cgroup, BOX)
        )

    def find_app(self, number: int) -> Program | None:
        for program in self.programs.values():
            if program.app == number:
                return program
        return None

    def end_all(self, victim: Victim) -> None:
        """End what dies together."""
        for program in self.dying_with(victim):
            self.end(program)

    def dying_with(self, victim: Victim) -> list[Program]:
        """Return what dies together: of a tree, as the executor has it, not who is never killed."""
        if victim.unit is Unit.SWARM:
            return [one for one in self.programs.values() if one.identity in victim.members]
        whole, tree = victim.unit is Unit.CGROUP, {victim.pid}
        if victim.unit is Unit.TREE:
            before = 0
            while len(tree) > before:
                before = len(tree)
                tree |= {one.pid for one in self.programs.values() if one.ppid in tree}
        return [
            program
            for program in self.programs.values()
            if (whole and is_within(program.cgroup, victim.cgroup))
            or program.identity == (victim.pid, victim.start_ticks)
            or (
                program.pid in tree
                and program.pid != victim.pid
                and program.cgroup == victim.cgroup
                and not program.exe.endswith(("/sshd", "/kept"))
                and program.adj > -900
            )
        ]

    # --- the shell ---------------------------------------------------------------------------------------------

    def _advance(self, to_us: int) -> None:
        span_us = to_us - self.now_us
        self.now_us = to_us
        self._some_us += span_us * self.some_permyriad // 10_000
        self._full_us += span_us * self.full_permyriad // 10_000
        if self.available_kib() < 400 * MIB:
            self._scanned += span_us // MS
        if self.box_kib() > BOX_LIMIT_KIB * 9 // 10:
            self._box_high += span_us // MS
        for program in self.programs.values():
            grown_kib = program.growth_kib_s * span_us // SECOND
            program.size_kib += min(grown_kib, self.available_kib())

    def _later(self, after_us: int, deed: Callable[[], None]) -> None:
        self._came_up += 1
        heapq.heappush(self._due, (self.now_us + after_us, self._came_up, deed))

    def _do(self, action: actions.Action) -> None:
        match action:
            case actions.ScanProcesses(domain):
                least_kib = action.least_seen_kib
                seen = tuple(
                    program.as_process()
                    for program in self.programs.values()
                    if program.size_kib >= least_kib
                )
                scanned = events.ProcessesScanned(domain, seen)
                self._later(self.scan_delay_us, lambda: self._feed_later(scanned))
            case actions.NoteSizes(domain):
                held = tuple(
                    (program.pid, program.start_ticks, program.size_kib)
                    for program in self.programs.values()
                )
                noted = events.SizesNoted(domain, held)
                self._later(0, lambda: self._feed_later(noted))
            case actions.MeasureApps(domain, apps):
                sizes = tuple(
                    (number, program.size_kib)
                    for number in apps
                    if (program := self.find_app(number)) is not None
                )
                measured = events.AppsMeasured(domain, sizes)
                self._later(0, lambda: self._feed_later(measured))
            case actions.Notify() as notice:
                program = self.find_app(notice.app)
                if program is not None:
                    self._later(program.reaction_us, lambda: self._react(notice))
            case actions.SendSignal() as sent:
                self._signal(sent)
            case _:
                pass

    def _feed_later(self, event: events.Event) -> None:
        self.feed(event)

    def _react(self, notice: actions.Notify) -> None:
        program = self.find_app(notice.app)
        if program is None or notice.target_kib == 0:
            return
        match program.manner:
            case Manner.SHEDS:
                self.answer(program, notice.notice, Answer.DONE, shed_kib=notice.target_kib)
            case Manner.LIES:
                self.answer(program, notice.notice, Answer.DONE, claim_kib=notice.target_kib)
            case Manner.HAS_NOTHING:
                self.answer(program, notice.notice, Answer.NOTHING)
            case Manner.WORKS:
                self.answer(program, notice.notice, Answer.WORKING)
                program.manner = Manner.SHEDS
                self._later(500 * MS, lambda: self._react(notice))
            case Manner.IGNORES:
                pass

    def answer(
        self,
        program: Program,
        notice: int,
        answer: Answer,
        *,
        shed_kib: int = 0,
        claim_kib: int = 0,
    ) -> None:
        """Let an app answer, and free or only claim to have freed."""
        assert program.app is not None
        shed_kib = min(shed_kib, program.size_kib)
        program.size_kib -= shed_kib
        claimed_kib = max(shed_kib, claim_kib)
        self.feed(events.AckReceived(program.app, notice, answer, claimed_kib, program.size_kib))

    def _signal(self, sent: actions.SendSignal) -> None:
        victim = sent.victim
        program = self.programs.get(victim.pid)
        if program is None or program.start_ticks != victim.start_ticks:
            failed = events.SignalFailed(sent.domain, sent.kill, "it vanished")
            self._later(0, lambda: self._feed_later(failed))
        elif program.ends is Ends.FORBIDDEN:
            failed = events.SignalFailed(sent.domain, sent.kill, "not permitted")
            self._later(0, lambda: self._feed_later(failed))
        elif program.ends is Ends.ON_TERM and sent.signal is Signal.TERM:
            self._later(70 * MS, lambda: self._finish(sent))
        elif program.ends is not Ends.NEVER and sent.signal is Signal.KILL:
            self._later(20 * MS, lambda: self._finish(sent))

    def _finish(self, sent: actions.SendSignal) -> None:
        kill = self.state.domains[sent.domain].in_flight
        if kill is None or kill.kill != sent.kill:
            return  # SIGKILL was quicker than what it did about SIGTERM
        self.end_all(sent.victim)
        self.feed(events.VictimExited(sent.domain, sent.kill))
