"""Everything an administrator can turn, as one value. Defaults live in lmkd/defaults.toml, not here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lmkd.model import SYSTEM_DOMAIN, AppClass, Level

PERMYRIAD = 10_000


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
class Settings:
    """One whole policy."""

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
    domains: tuple[str, ...] = (SYSTEM_DOMAIN,)
    """What is watched."""
    killing_domains: frozenset[str] = frozenset({SYSTEM_DOMAIN})
    """Those in which something may die; in the others programs are only told."""
    dry_run: bool = False

    def min_victim_kib(self, total_kib: int) -> int:
        """The least that a kill must free to be worth making."""
        return max(self.min_victim.of(total_kib), self.min_victim_least_kib)
