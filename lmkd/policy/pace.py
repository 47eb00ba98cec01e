"""Pace: how long what is left will last, and so how often to look and how soon to act.

What falls fast is looked at often: a tenth of a second is nothing at 25 MB/s, and a third of all that a small machine
has left at 400 MB/s. It may be wrong, for available memory is a noisy figure: then we looked once too often.
"""

from __future__ import annotations

from lmkd.model import Level
from lmkd.policy.settings import PERMYRIAD, Settings
from lmkd.policy.state import DomainState
from lmkd.policy.window import (
    RECENT_US,
    SECOND_US,
    Window,
    fall_kib_s,
    grew,
    reading_before,
    recent_fall_kib_s,
    stall_permyriad,
)

FASTEST_KIB_S = 400 * 1024
"""What one program dirties a second where nothing holds it back; a machine whose quarter is more may do more."""
LOOKS_ON_THE_WAY = 4
"""So many readings between here and the hard limit, however fast it comes nearer."""


def read_interval_us(domain: DomainState, settings: Settings) -> int:
    """Return how long a domain may be left unread after its last reading."""
    judgement = domain.judgement
    if judgement is None or judgement.emergency:
        return settings.read_emergency_us
    last = domain.window[-1]
    if domain.level > Level.NORMAL or judgement.level > Level.NORMAL:
        headroom_kib = last.available_kib - settings.floor_emergency.of(last.total_kib)
        rate_kib_s = recent_fall_kib_s(domain.window) * LOOKS_ON_THE_WAY
        longest_us = settings.read_pressed_us
        shortest_us = settings.read_emergency_us
    else:
        # Asleep: as long as the memory above the first floor would last, if all went wrong; what falls falls on.
        headroom_kib = last.available_kib - settings.floor[Level.LOW].enter.of(last.total_kib)
        rate_kib_s = max(last.total_kib // 4, FASTEST_KIB_S, 4 * fall_kib_s(domain.window))
        longest_us, shortest_us = settings.read_idle_us, settings.read_pressed_us
    interval_us = longest_us
    if rate_kib_s > 0:
        interval_us = min(interval_us, max(headroom_kib, 0) * SECOND_US // rate_kib_s)
    stalled_us = until_stalled_us(domain.window, settings)
    if stalled_us is not None:
        interval_us = min(interval_us, stalled_us // LOOKS_ON_THE_WAY)
    return max(interval_us, shortest_us)


def until_stalled_us(window: Window, settings: Settings) -> int | None:
    """Return how soon full stall reaches its next step, harm or critical, as it grew over the last tenth of a second.

    None: it did not grow, or is past both. A stall that has begun is mostly a stall of three quarters of the time.
    """
    last, first = window[-1], reading_before(window, RECENT_US)
    span_us = last.at_us - first.at_us
    grew_us = grew(last.full_total_us, first.full_total_us)
    _, full = stall_permyriad(window, SECOND_US)
    steps = (settings.stall_harm, settings.stall[Level.CRITICAL])
    above = [step.full_permyriad for step in steps if step.full_permyriad > full]
    if not above or grew_us == 0 or span_us <= 0:
        return None
    missing_us = (min(above) - full) * SECOND_US // PERMYRIAD
    return missing_us * span_us // grew_us


def left_us(window: Window) -> int | None:
    """Return how long available memory lasts at the slope of the last tenth of a second; None: it does not fall."""
    slope_kib_s = recent_fall_kib_s(window)
    if slope_kib_s == 0:
        return None
    return max(window[-1].available_kib, 0) * SECOND_US // slope_kib_s
