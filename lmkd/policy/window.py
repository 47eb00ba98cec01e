"""A domain's recent readings, and the rates that follow from them.

A window is a tuple of readings, oldest first. It starts anew when the clock jumps, the readings stop for longer than
GAP_US, or the machine was suspended meanwhile: rates over a hole in time would be fiction.
"""

from __future__ import annotations

from lmkd.model import Reading

SECOND_US = 1_000_000
HALF_US = SECOND_US // 2
KEEP_US = 3 * SECOND_US
GAP_US = 5 * SECOND_US
SUSPENDED_US = SECOND_US // 2
"""A suspend: CLOCK_MONOTONIC stands still in it, so there is no gap to see; a shorter one leaves no stall."""
RECENT_US = SECOND_US // 10

Window = tuple[Reading, ...]


def push(window: Window, reading: Reading) -> Window:
    """Return the window with one more reading, without what is older than KEEP_US.

    One reading older than that is kept, so that a window read once a second still spans KEEP_US.
    """
    if not window:
        return (reading,)
    last = window[-1]
    if not 0 <= reading.at_us - last.at_us <= GAP_US:
        return (reading,)
    if abs(reading.suspended_us - last.suspended_us) >= SUSPENDED_US:
        return (reading,)
    if reading.at_us == last.at_us:
        return (*window[:-1], reading)
    edge_us = reading.at_us - KEEP_US
    start = 0
    while start + 1 < len(window) and window[start + 1].at_us <= edge_us:
        start += 1
    return (*window[start:], reading)


def since(window: Window, at_us: int) -> Window:
    """Return the readings at or after a moment."""
    if not window or window[0].at_us >= at_us:
        return window
    return tuple(reading for reading in window if reading.at_us >= at_us)


def reading_before(window: Window, span_us: int) -> Reading:
    """Return the newest reading that is at least `span_us` older than the last one, or the oldest there is."""
    edge_us = window[-1].at_us - span_us
    for reading in reversed(window):
        if reading.at_us <= edge_us:
            return reading
    return window[0]


def stall_permyriad(window: Window, least_us: int, over_us: int = SECOND_US) -> tuple[int, int]:
    """Return the shares of time lost to some and to full stall over the last second, or over as long as is said.

    A window shorter than `least_us` is taken as that long: three stalled milliseconds out of the first five are not
    a stall of 60%. No PSI, no stall.
    """
    last = window[-1]
    first = reading_before(window, over_us)
    span_us = max(last.at_us - first.at_us, least_us)
    shares = []
    for now, before in (
        (last.some_total_us, first.some_total_us),
        (last.full_total_us, first.full_total_us),
    ):
        lost_us = 0 if now is None or before is None else max(now - before, 0)
        shares.append(min(lost_us * 10_000 // span_us, 10_000))
    return shares[0], shares[1]


def grew(now: int | None, before: int | None) -> int:
    """Return by how much a counter grew; 0 where it is missing or was reset."""
    if now is None or before is None:
        return 0
    return max(now - before, 0)


def fall_kib_s(window: Window) -> int:
    """Return how fast available memory falls, in KiB a second; 0 when it does not.

    The lesser of the slopes over two successive half seconds, or over as much as lies between readings that are
    further apart. A single jump, a program that started, falls into one of them and is no trend. The honest start of a
    *big* program looks like a leak for two seconds all the same (FACTS: 60-80 MB/s), so what follows from this may be
    a notice, never a kill; but for the watchdog's, where memory and swap are near their end already.
    """
    last = window[-1]
    middle = reading_before(window, HALF_US)
    first = reading_before(tuple(one for one in window if one.at_us <= middle.at_us), HALF_US)
    slopes_kib_s = []
    for earlier, later in ((first, middle), (middle, last)):
        span_us = later.at_us - earlier.at_us
        if span_us < HALF_US:
            return 0
        slopes_kib_s.append((earlier.available_kib - later.available_kib) * SECOND_US // span_us)
    return max(min(slopes_kib_s), 0)


def recent_fall_kib_s(window: Window) -> int:
    """Return how fast available memory fell over the last tenth of a second, or since the reading before that.

    In KiB a second; 0 when it did not. It takes a jump for a trend, so nobody is told or killed for it.
    """
    last, first = window[-1], reading_before(window, RECENT_US)
    span_us = last.at_us - first.at_us
    if span_us <= 0:
        return 0
    return max((first.available_kib - last.available_kib) * SECOND_US // span_us, 0)
