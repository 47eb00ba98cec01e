"""The stall windows that are armed as PSI triggers, and how one fires.

The shares are those of DESIGN.md's watch: 7% of `some` to be woken early, 10% of `full` for the
worst. Without CAP_SYS_RESOURCE the kernel takes windows of whole multiples of 2 s only, so the
same shares are kept over 2 s. Nothing here reads a file; what a wake-up means is for lmkd.policy
to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

WINDOW_US: Final = 1_000_000
UNPRIVILEGED_WINDOW_US: Final = 2_000_000


class StallKind(Enum):
    """The two lines of a pressure file."""

    SOME = "some"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class StallTrigger:
    """So much stall within such a window."""

    kind: StallKind
    stall_us: int
    window_us: int

    def unprivileged(self) -> StallTrigger:
        """The same share of the least window that needs no privilege."""
        stall_us = self.stall_us * UNPRIVILEGED_WINDOW_US // self.window_us
        return StallTrigger(self.kind, stall_us, UNPRIVILEGED_WINDOW_US)


DEFAULT_TRIGGERS: Final = (
    StallTrigger(StallKind.SOME, 70_000, WINDOW_US),
    StallTrigger(StallKind.FULL, 100_000, WINDOW_US),
)


class StallWindow:
    """A trigger as the kernel evaluates it (kernel/sched/psi.c), for the simulated kernel."""

    __slots__ = ("_fired_at_us", "_opened_at_us", "_total_us", "_trigger")

    def __init__(self, trigger: StallTrigger) -> None:
        self._trigger = trigger
        self._opened_at_us: int | None = None
        self._total_us = 0
        self._fired_at_us: int | None = None

    def fires(self, at_us: int, some_total_us: int, full_total_us: int) -> bool:
        """Whether the trigger fires now: enough stall in this window, and not fired within the
        last one."""
        trigger = self._trigger
        total_us = some_total_us if trigger.kind is StallKind.SOME else full_total_us
        opened = self._opened_at_us
        if opened is None or at_us - opened > trigger.window_us:
            self._opened_at_us, self._total_us = at_us, total_us
            return False
        if total_us - self._total_us < trigger.stall_us:
            return False
        if self._fired_at_us is not None and at_us - self._fired_at_us < trigger.window_us:
            return False
        self._fired_at_us = at_us
        return True


def default_windows(psi: str) -> tuple[StallWindow, ...]:
    """The windows that a domain is watched with where PSI is as the probe found it."""
    if psi == "yes":
        return tuple(StallWindow(trigger) for trigger in DEFAULT_TRIGGERS)
    if psi == "unprivileged":
        return tuple(StallWindow(trigger.unprivileged()) for trigger in DEFAULT_TRIGGERS)
    return ()
