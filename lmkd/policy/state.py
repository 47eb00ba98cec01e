"""All that the heart remembers, as values that are replaced, never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from lmkd.model import SYSTEM_DOMAIN, Answer, App, Level, Victim, is_within
from lmkd.policy.detect import Judgement, Relayed
from lmkd.policy.settings import Settings
from lmkd.policy.window import Window

NEVER_US = -(1 << 62)
Identity = tuple[int, int]
"""(pid, start_ticks)"""


class Told(NamedTuple):
    """The latest notice to one app in one domain, and what became of it.

    A tuple and not a dataclass: a thousand of them are made in one step, at a third of the time.
    """

    notice: int
    level: Level
    deadline_us: int
    target_kib: int
    last_us: tuple[int, ...]
    """When it was last told of each of the four levels."""
    answer: Answer | None = None
    baseline_kib: int | None = None
    """Its size just after the notice went out."""
    extended: bool = False
    emergency: bool = False
    settled: bool = False
    """Whether this notice has already counted for or against the app."""
    kept: bool = False
    """Whether it was found to have given what it was asked for."""


UNTOLD = Told(0, Level.NORMAL, NEVER_US, 0, (NEVER_US,) * 4)
"""What an app that has heard nothing yet has heard."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A kill in flight."""

    kill: int
    victim: Victim
    reason: str
    started_us: int
    sigkill_us: int
    """When SIGTERM's time is up."""
    sigkill_sent_us: int | None
    available_kib: int
    """When it was decided, to say afterwards what it freed."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """What one app is told for a while, beside the truth."""

    notice: int
    level: Level
    until_us: int


@dataclass(frozen=True, slots=True)
class Announced:
    """A kill that somebody else has announced, and the apps that were told of it."""

    notices: Mapping[int, int]
    """App number to the notice that it was given."""
    awaited: frozenset[int]
    """The apps of which no last answer has come."""


@dataclass(frozen=True, slots=True)
class Departed:
    """What a program that left in mid-episode had been told, by domain, and its trust: it may come back."""

    told: Mapping[str, Told]
    trust: int


@dataclass(frozen=True, slots=True)
class DomainState:
    """One domain."""

    domain: str
    window: Window = ()
    held: Mapping[str, Level] = field(default_factory=dict)
    """What each detector asked for last."""
    level: Level = Level.NORMAL
    reason: str = "calm"
    judgement: Judgement | None = None
    calm_since_us: int | None = None
    """Since when less than the level is asked for."""
    calm_most: Level = Level.NORMAL
    """The most that was asked for since then, and why."""
    calm_reason: str = "calm"
    episode: int | None = None
    told: Mapping[int, Told] = field(default_factory=dict)
    tell_due_us: int | None = None
    """When an app that rests is to hear something."""
    in_flight: Kill | None = None
    ended: Kill | None = None
    """The last kill, until it was measured what it gave back."""
    relieved_us: int = NEVER_US
    """When the last kill ended."""
    scan_after_us: int = NEVER_US
    sizes_kib: Mapping[Identity, int] | None = None
    """What processes held in memory when the episode began; None: that is not known."""
    scans_small: bool = False
    """Whether, in this episode, small processes are scanned as well: together they hold what is worth a kill."""
    spared: frozenset[Identity] = frozenset()
    """Victims that could not be killed in this episode."""
    alarmed: bool = False
    relayed: Relayed | None = None
    """The level as another daemon has it; None: it is judged here."""

    @property
    def reading_us(self) -> int:
        return self.window[-1].at_us if self.window else NEVER_US


@dataclass(frozen=True, slots=True)
class State:
    """The whole service."""

    settings: Settings
    own_pid: int
    domains: Mapping[str, DomainState] = field(default_factory=dict)
    apps: Mapping[int, App] = field(default_factory=dict)
    trust: Mapping[int, int] = field(default_factory=dict)
    """App number to how it kept its word: above 0 it did, below it did not, absent is 0."""
    simulations: Mapping[int, Simulation] = field(default_factory=dict)
    departed: Mapping[Identity, Departed] = field(default_factory=dict)
    announced: Mapping[int, Announced] = field(default_factory=dict)
    """By number of the announcement."""
    next_notice: int = 1
    next_kill: int = 1
    next_episode: int = 1

    def apps_in(self, domain: str) -> list[App]:
        """Return the apps inside a domain, in the order of their registration."""
        if domain == SYSTEM_DOMAIN:
            return list(self.apps.values())
        return [app for app in self.apps.values() if is_within(app.cgroup, domain)]

    def deadline_us(self, app: int) -> int:
        """Return the latest deadline that an app was given in any domain; NEVER_US when it was told nothing."""
        return max(
            (
                domain.told[app].deadline_us
                for domain in self.domains.values()
                if app in domain.told
            ),
            default=NEVER_US,
        )

    def victims_in_flight(self) -> frozenset[Identity]:
        """Return the identities of all victims that are being killed, in any domain."""
        return frozenset(
            (domain.in_flight.victim.pid, domain.in_flight.victim.start_ticks)
            for domain in self.domains.values()
            if domain.in_flight is not None
        )
