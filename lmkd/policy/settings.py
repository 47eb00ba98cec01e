"""Everything an administrator can turn, as one value. Defaults live in lmkd/defaults.toml, not here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lmkd.cgroup_paths import glob_matches
from lmkd.model import SYSTEM_DOMAIN, App, AppClass, Level
from lmkd.policy.rules import RuleSet

PERMYRIAD = 10_000
DOMAINS_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Amount:
    """A share of a domain's memory with an upper bound: a threshold grows with the machine, but not for ever."""

    permyriad: int
    most_kib: int

    def of(self, total_kib: int) -> int:
        return min(total_kib * self.permyriad // PERMYRIAD, self.most_kib)


@dataclass(frozen=True, slots=True)
class StallStep:
    """Stall shares, of time, at or above which the level is asked for. A share over 10,000 never is."""

    some_permyriad: int
    full_permyriad: int


@dataclass(frozen=True, slots=True)
class FloorStep:
    """Available memory: entered below `enter`, left at or above `leave`, which is the larger one."""

    enter: Amount
    leave: Amount


@dataclass(frozen=True, slots=True)
class ClassSettings:
    """What a class means."""

    oom_score_adj: int
    killed_at: Level | None
    """Lowest level at which one of it may be killed, not below that of any lower class; None: never."""
    grace_us: int
    time_to_exit_us: int


@dataclass(frozen=True, slots=True)
class DomainPolicy:
    """The settings of the cgroups that a glob names."""

    pattern: str
    settings: Settings


@dataclass(frozen=True, slots=True)
class Settings:
    """One whole policy: the system's, and inside it that of each domain with what differs there."""

    classes: Mapping[AppClass, ClassSettings]
    stall: Mapping[Level, StallStep]
    """Steps for LOW, MEDIUM and CRITICAL."""
    stall_emergency_permyriad: int
    stall_harm: StallStep
    """Stall that counts as harm: programs lose this much time now."""
    floor: Mapping[Level, FloorStep]
    floor_emergency: Amount
    swap: Mapping[Level, int]
    """Permyriad of total swap: what it can still take, at or below which the level is asked for while reclaim runs."""
    thrash: Mapping[Level, int]
    """Permyriad of the file LRU refaulted within a second."""
    forecast: Mapping[Level, int]
    """Microseconds until the critical floor at the present slope."""
    forecast_slope_kib_s: int
    """A fall slower than this is no forecast."""
    calm_hold_us: int
    rest_us: int
    exit_emergency_us: int
    """Time to exit in an emergency, where it is shorter than the class's."""
    min_victim: Amount
    min_victim_least_kib: int
    settle_us: int
    """Between a victim's end and the judgement of the next kill."""
    unkillable_us: int
    """After SIGKILL: a victim that has not ended by then is given up."""
    read_idle_us: int
    read_pressed_us: int
    read_emergency_us: int
    claim_ceiling: AppClass
    """The highest class that a program may claim for itself when it is not the controller."""
    killable: frozenset[AppClass] = frozenset(AppClass) - {AppClass.SYSTEM}
    """The classes of which something may die in this domain; none: programs are only told."""
    rules: RuleSet = field(default_factory=RuleSet)
    unruled: AppClass = AppClass.SERVICE
    """The class of what no rule speaks for."""
    strict: bool = False
    """Whether what no rule speaks for is the first to go."""
    own_uid: int | None = None
    """The only user whose processes may be signalled, for a session; None: any."""
    domains: tuple[DomainPolicy, ...] = ()
    """What is watched beside the system; the first whose pattern names a cgroup is its policy.

    Their thresholds and what may die there are their own; rules, classes and what follows from them are those here.
    """
    dry_run: bool = False
    unkillable_emergency_us: int = 1_000_000
    """The same in an emergency, where it is shorter."""
    _of: dict[str, Settings] = field(default_factory=dict, init=False, repr=False, compare=False)
    """A cache of `of`."""

    def grace_us(self, app: App) -> int:
        """Return the time that an app has from a notice on."""
        return self.classes[app.app_class].grace_us if app.grace_us is None else app.grace_us

    def of(self, domain: str) -> Settings:
        """Return the settings of one domain. Where no entry names it, programs are told, and none die."""
        if domain == SYSTEM_DOMAIN:
            return self
        found = self._of.get(domain)
        if found is None:
            if len(self._of) >= DOMAINS_REMEMBERED:
                self._of.clear()
            found = self._of[domain] = self._find(domain)
        return found

    def _find(self, domain: str) -> Settings:
        for entry in self.domains:
            if glob_matches(entry.pattern, domain):
                return entry.settings
        return replace(self, killable=frozenset(), domains=())

    def min_victim_kib(self, total_kib: int) -> int:
        """The least that a kill must free to be worth making."""
        return max(self.min_victim.of(total_kib), self.min_victim_least_kib)
