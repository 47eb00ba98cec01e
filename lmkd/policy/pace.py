"""Pace: how long what is left will last, and so how often to look and how soon to act.

What falls fast is looked at often: a tenth of a second is nothing at 25 MB/s, and a third of all that a small machine
has left at 400 MB/s. It may be wrong, for available memory is a noisy figure: then we looked once too often.
"""

from __future__ import annotations

from lmkd.model import Level
from lmkd.policy.settings import Settings
from lmkd.policy.state import DomainState
from lmkd.policy.window import SECOND_US, Window, fall_kib_s, recent_fall_kib_s

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
    if rate_kib_s == 0:
        return longest_us
    interval_us = max(headroom_kib, 0) * SECOND_US // rate_kib_s
    return min(max(interval_us, shortest_us), longest_us)


def left_us(window: Window) -> int | None:
    """Return how long available memory lasts at the slope of the last tenth of a second; None: it does not fall."""
    slope_kib_s = recent_fall_kib_s(window)
    if slope_kib_s == 0:
        return None
    return max(window[-1].available_kib, 0) * SECOND_US // slope_kib_s
