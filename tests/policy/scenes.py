"""Literal readings, apps and processes, and a scene that plays them through the heart.

The machine of these scenes has 1,000 MiB, so that a share of 12% is 120 MiB. The settings are pinned.toml, which
names every threshold, so that tuning the shipped defaults moves no edge here: floors (enter/leave MiB) low 120/150,
medium 80/100, critical 50/65, emergency 20; a kill must free 20 MiB.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from lmkd.config import load_config
from lmkd.model import (
    SYSTEM_DOMAIN,
    Answer,
    App,
    AppClass,
    Level,
    Mark,
    Process,
    Reading,
    Unit,
)
from lmkd.policy import actions, events, heart
from lmkd.policy.patterns import Test
from lmkd.policy.rules import Condition, Rule, RuleSet, Verdict
from lmkd.policy.settings import DomainPolicy, Settings
from lmkd.policy.state import DomainState, State
from lmkd.policy.turn import Turn

MIB = 1024
MS = 1000
SECOND = 1_000_000
OWN_PID = 99
SETTINGS = load_config([Path(__file__).with_name("pinned.toml")]).settings
BOX = "/box"

A = TypeVar("A", bound=actions.Action)


def reading(
    at_ms: int = 0,
    available_mib: int = 500,
    *,
    total_mib: int = 1000,
    domain: str = SYSTEM_DOMAIN,
    some_ms: int | None = None,
    full_ms: int | None = None,
    anon_mib: int = 0,
    swap_total_mib: int = 0,
    swap_free_mib: int = 0,
    zram_free_mib: int = 0,
    zram_stored_mib: int = 0,
    zram_used_mib: int = 0,
    file_mib: int = 0,
    refaults: int | None = None,
    scanned: int | None = None,
    high: int | None = None,
    at_max: int | None = None,
    oom: int | None = None,
) -> Reading:
    """Return a reading, in MiB and ms."""
    return Reading(
        domain,
        at_ms * MS,
        total_mib * MIB,
        available_mib * MIB,
        some_total_us=None if some_ms is None else some_ms * MS,
        full_total_us=None if full_ms is None else full_ms * MS,
        anon_kib=anon_mib * MIB,
        swap_total_kib=swap_total_mib * MIB,
        swap_free_kib=swap_free_mib * MIB,
        zram_free_kib=zram_free_mib * MIB,
        zram_stored_kib=zram_stored_mib * MIB,
        zram_used_kib=zram_used_mib * MIB,
        file_lru_kib=file_mib * MIB,
        refault_file_pages=refaults,
        scanned_pages=scanned,
        events_high=high,
        events_max=at_max,
        events_oom=oom,
    )


def app(
    number: int,
    app_class: AppClass = AppClass.BACKGROUND,
    *,
    sheddable_mib: int = 0,
    cgroup: str = "/",
    unit: Unit = Unit.PROCESS,
    pid: int | None = None,
) -> App:
    """Return an app; its process, unless said otherwise, is 1000 + number, started at tick 1."""
    return App(
        app=number,
        pid=1000 + number if pid is None else pid,
        start_ticks=1,
        uid=1000,
        name=f"app{number}",
        app_class=app_class,
        cgroup=cgroup,
        sheddable_kib=sheddable_mib * MIB,
        unit=unit,
    )


def process(
    pid: int,
    size_mib: int = 50,
    *,
    adj: int = 0,
    comm: str = "prog",
    exe: str = "/usr/bin/prog",
    cgroup: str = "/",
    start_ticks: int = 1,
    swap_mib: int = 0,
    kernel_thread: bool = False,
    ppid: int = 1,
    uid: int = 1000,
    mark: Mark = Mark.NONE,
) -> Process:
    """Return a process as a scan sees it."""
    return Process(
        pid=pid,
        start_ticks=start_ticks,
        ppid=ppid,
        comm=comm,
        exe=exe,
        uid=uid,
        cgroup=cgroup,
        oom_score_adj=adj,
        anon_kib=(size_mib - swap_mib) * MIB,
        swap_kib=swap_mib * MIB,
        state="S",
        kernel_thread=kernel_thread,
        mark=mark,
    )


def process_of(one: App, size_mib: int = 50) -> Process:
    """Return the process of an app."""
    return process(one.pid, size_mib, cgroup=one.cgroup, start_ticks=one.start_ticks)


def only(kind: type[A], out: tuple[actions.Action, ...]) -> list[A]:
    """Return the actions of one kind, in order."""
    return [action for action in out if isinstance(action, kind)]


class Scene:
    """The heart with a clock: every event is given at a moment in ms, and what came of it is returned.

    Unless other settings are given, something may die in each of its domains.
    """

    def __init__(
        self,
        *apps: App,
        settings: Settings | None = None,
        domains: tuple[str, ...] = (SYSTEM_DOMAIN,),
    ) -> None:
        if settings is None:
            settings = with_settings(domains=policies(*domains))
        self.state: State = heart.start(settings, OWN_PID)
        for domain in domains:
            self.take(events.DomainOpened(domain), 0)
        for one in apps:
            self.take(events.AppRegistered(one), 0)

    def take(self, event: events.Event, at_ms: int) -> tuple[actions.Action, ...]:
        self.state, out = heart.step(self.state, event, at_ms * MS)
        return out

    def read(
        self, at_ms: int, available_mib: int = 500, domain: str = SYSTEM_DOMAIN, **figures: int
    ) -> tuple[actions.Action, ...]:
        return self.take(
            events.ReadingTaken(reading(at_ms, available_mib, domain=domain, **figures)), at_ms
        )

    def take_reading(self, one: Reading) -> tuple[actions.Action, ...]:
        """Take a reading at its own moment."""
        return self.take(events.ReadingTaken(one), one.at_us // MS)

    def scan(
        self, at_ms: int, *processes: Process, domain: str = SYSTEM_DOMAIN
    ) -> tuple[actions.Action, ...]:
        return self.take(events.ProcessesScanned(domain, processes), at_ms)

    def ack(
        self,
        at_ms: int,
        number: int,
        answer: Answer,
        *,
        freed_mib: int = 0,
        size_mib: int | None = None,
        notice: int | None = None,
    ) -> tuple[actions.Action, ...]:
        """Answer the latest notice, or another one."""
        if notice is None:
            notice = self.domain().told[number].notice
        measured_kib = None if size_mib is None else size_mib * MIB
        return self.take(
            events.AckReceived(number, notice, answer, freed_mib * MIB, measured_kib), at_ms
        )

    def measure(self, at_ms: int, number: int, size_mib: int) -> None:
        self.take(events.AppsMeasured(SYSTEM_DOMAIN, ((number, size_mib * MIB),)), at_ms)

    def exited(self, at_ms: int, kill: int) -> tuple[actions.Action, ...]:
        return self.take(events.VictimExited(SYSTEM_DOMAIN, kill), at_ms)

    def domain(self, name: str = SYSTEM_DOMAIN) -> DomainState:
        return self.state.domains[name]

    def turn(self, at_ms: int) -> Turn:
        """Return a turn at a moment, to call a part of the policy by itself."""
        return Turn(self.state, at_ms * MS)


def rule(name: str, app_class: AppClass, *conditions: tuple[str, Test], **verdict: object) -> Rule:
    """Return a rule of an administrator's, with (subject, test) pairs for its conditions."""
    asked = tuple(Condition(subject, test) for subject, test in conditions)
    return Rule(name, "test.toml:1", asked, Verdict(app_class, **verdict))  # type: ignore[arg-type]


def ruled(*rules: Rule, **changes: object) -> Settings:
    """Return the pinned settings with these rules before the shipped ones."""
    return with_settings(rules=RuleSet((*rules, *SETTINGS.rules.rules)), **changes)


def policies(*domains: str) -> tuple[DomainPolicy, ...]:
    """Return entries for these domains, with the settings of the system."""
    return tuple(DomainPolicy(name, SETTINGS) for name in domains if name != SYSTEM_DOMAIN)


def with_settings(**changes: object) -> Settings:
    """Return the pinned settings with changes."""
    return replace(SETTINGS, **changes)  # type: ignore[arg-type]


def level_of(word: str) -> Level:
    return Level[word.upper()]
