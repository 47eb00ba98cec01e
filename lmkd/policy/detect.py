"""Six detectors, and the judgement that follows from all of them.

A detector is a pure function of a window of readings. It names the level it asks for and why; it does not know the
others, nor what is done about it. All of them see every reading, or their windows would get holes.

Level and harm are two questions. The *level* is about notices, which are cheap and may be early. *Harm* (programs
stall or thrash), *exhaustion* (memory and what swap can still take, both near their end) and *emergency* are about
kills, and are measured only since the last kill ended: stall that a dead victim caused is no reason for another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lmkd.model import Level, Reading
from lmkd.policy.settings import PERMYRIAD, Settings
from lmkd.policy.window import (
    KEEP_US,
    SECOND_US,
    Window,
    fall_kib_s,
    grew,
    reading_before,
    since,
    stall_permyriad,
)

STALL_LEAST_US = 250_000
"""Stall shares are taken over at least this long: long enough that 10% of it (25 ms) is more than one slow fault on
an emulated machine, short enough to see the next stall a quarter second after a kill."""
RISING = (Level.CRITICAL, Level.MEDIUM, Level.LOW)
LIMIT_SHARE_PERMYRIAD = 9_500


@dataclass(frozen=True, slots=True)
class Finding:
    """What one detector asks for, and why, in words with figures."""

    detector: str
    level: Level
    reason: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What all detectors together say of a domain at one reading."""

    level: Level
    reason: str
    findings: tuple[Finding, ...]
    """Those above normal, highest first."""
    harm: bool
    exhausted: bool
    emergency: bool
    need_kib: int
    """What would have to be freed to be calm again."""
    file_bound: bool = False
    """Whether it is file pages that are short: more is available than at medium, for the cache counts as available."""

    @property
    def may_kill(self) -> bool:
        """Whether anything may die at all: a level alone never kills."""
        return self.harm or self.exhausted


@dataclass(frozen=True, slots=True)
class Relayed:
    """What another daemon, which sees more of the machine, says of a domain."""

    level: Level
    reason: str


Detector = Callable[[Window, Settings, Level], Finding | None]
"""(window, settings, the level this detector asked for last) -> what it asks for now, None for normal."""


def percent(permyriad: int) -> str:
    """Return a share in words: 1234 is "12.3%"."""
    return f"{permyriad // 100}.{permyriad % 100 // 10}%"


def mib(kib: int) -> str:
    """Return a size in words, to the tenth of a MiB."""
    return f"{kib // 1024}.{kib % 1024 * 10 // 1024} MiB"


def swap_relief_kib(reading: Reading) -> int:
    """Return how much memory swapping could still free.

    Room on a disk counts in full. Room on zram costs memory itself: at the ratio of what it holds now, so that
    incompressible pages gain nothing. An empty zram is taken at half, which is what lzo-rle does to ordinary heaps.
    No more can go out than there is anonymous memory.
    """
    disk_kib = max(reading.swap_free_kib - reading.zram_free_kib, 0)
    gain_permyriad = PERMYRIAD // 2
    if reading.zram_stored_kib > 1024:
        cost = reading.zram_used_kib * PERMYRIAD // reading.zram_stored_kib
        gain_permyriad = max(PERMYRIAD - cost, 0)
    from_disk = min(disk_kib, reading.anon_kib)
    from_zram = min(reading.zram_free_kib, reading.anon_kib - from_disk)
    return from_disk + from_zram * gain_permyriad // PERMYRIAD


def is_exhausted(reading: Reading, settings: Settings) -> bool:
    """Whether available memory and what swap can still take are both near their end.

    "Near" is the critical floor for the memory and as much again for the swap: relief below that would last no
    longer than the memory does.
    """
    edge_kib = settings.floor[Level.CRITICAL].enter.of(reading.total_kib)
    return reading.available_kib < edge_kib and swap_relief_kib(reading) < edge_kib


def is_reclaiming(window: Window) -> bool:
    """Whether this domain, for its own sake, looked for memory in the last second.

    /proc/pressure/memory counts every stalled task, also one held back by its own cgroup's limit: one throttled
    container would make the whole machine look pressed. vmstat's pgscan counters leave that reclaim out (6.1,
    mm/vmscan.c: counted under !cgroup_reclaim), so a system stall counts only while they move. In the same way a
    cgroup answers for a stall only while its own limit is what holds it.
    """
    last, first = window[-1], reading_before(window, SECOND_US)
    if last.events_high is None and last.events_max is None:
        return last.scanned_pages is None or grew(last.scanned_pages, first.scanned_pages) > 0
    used_kib = last.total_kib - last.available_kib
    return (
        grew(last.events_high, first.events_high) > 0
        or grew(last.events_max, first.events_max) > 0
        or used_kib * PERMYRIAD >= last.total_kib * LIMIT_SHARE_PERMYRIAD
    )


def detect_stall(window: Window, settings: Settings, held: Level) -> Finding | None:
    """Judge the time that tasks lost to memory over the last second (PSI).

    With as much available as in calm, what is more than low is a step further away (_held_down).
    """
    del held
    some, full = stall_permyriad(window, SECOND_US)
    for level in RISING:
        step = settings.stall[level]
        if some >= step.some_permyriad or full >= step.full_permyriad:
            if not is_reclaiming(window):
                return None
            return Finding(
                "stall",
                _held_down(level, window, settings),
                _stall_words(some, full),
            )
    return None


def _stall_words(some: int, full: int) -> str:
    return f"tasks stalled {percent(some)} (all of them {percent(full)}) of 1 s"


def _is_stalled(window: Window, settings: Settings, least_us: int) -> bool:
    """Whether stalls harm somebody, and it is this domain that is short."""
    some, full = stall_permyriad(window, least_us)
    step = settings.stall_harm
    harmed = some >= step.some_permyriad or full >= step.full_permyriad
    return harmed and is_reclaiming(window)


def _has_plenty(window: Window, settings: Settings) -> bool:
    """Whether as much is available as in calm: then nothing but the page cache can be short."""
    last = window[-1]
    return last.available_kib >= settings.floor[Level.LOW].leave.of(last.total_kib)


def _held_down(level: Level, window: Window, settings: Settings) -> Level:
    """Return the level of a stall or of refaults; with as much available as in calm, a lower one where it weighs less.

    It is a matter of file pages then. For more than low, what is critical elsewhere has to last for three seconds; for
    more than medium, what is an emergency elsewhere. A healthy machine that reads more files than it has room for
    stalls for a tenth of the time, again and again, and nobody has anything to give back for it (the arena: `healthy`,
    7 to 11% full).
    """
    if window[-1].some_total_us is None or not _has_plenty(window, settings):
        return level
    some, full = stall_permyriad(window, KEEP_US, KEEP_US)
    if full >= settings.stall_emergency_permyriad:
        return level
    step = settings.stall[Level.CRITICAL]
    lasts = some >= step.some_permyriad or full >= step.full_permyriad
    return min(level, Level.MEDIUM if lasts else Level.LOW)


def detect_floor(window: Window, settings: Settings, held: Level) -> Finding | None:
    """Judge available memory against its floors; a floor once entered is left only at its higher threshold.

    While swap has relief to give, the lowest floor asks for medium only: pages can still go out, nothing is lost. But
    where somebody is harmed meanwhile they do not go out fast enough, and just above that floor the kernel itself holds
    available memory (seen in the VM: 23.2 MiB for a floor of 22.9, while 200 MB of zram stayed empty).
    """
    last = window[-1]
    edge_kib = settings.floor[Level.CRITICAL].leave.of(last.total_kib)
    if last.available_kib < edge_kib and _is_stalled(window, settings, SECOND_US):
        stalled = _stall_words(*stall_permyriad(window, SECOND_US))
        return Finding("floor", Level.CRITICAL, f"{_available_words(last)}, and {stalled}")
    for level in RISING:
        step = settings.floor[level]
        threshold = step.leave if held >= level else step.enter
        if last.available_kib < threshold.of(last.total_kib):
            if level is Level.CRITICAL and swap_relief_kib(last) >= edge_kib:
                level = Level.MEDIUM
            return Finding("floor", level, _available_words(last))
    return None


def _available_words(reading: Reading) -> str:
    return f"{mib(reading.available_kib)} of {mib(reading.total_kib)} available"


def detect_swap(window: Window, settings: Settings, held: Level) -> Finding | None:
    """Judge how much swap can still take, while this domain reclaims; idle full swap hurts nobody."""
    del held
    last = window[-1]
    if last.swap_total_kib == 0 or not is_reclaiming(window):
        return None
    if _has_plenty(window, settings):
        return None
    left = swap_relief_kib(last) * PERMYRIAD // last.swap_total_kib
    for level in RISING:
        if left < settings.swap[level]:
            return Finding("swap", level, f"swap can take {percent(left)} of its size more")
    return None


def detect_thrash(window: Window, settings: Settings, held: Level) -> Finding | None:
    """Judge file pages that were evicted and had to be read again, as a share of the file LRU.

    With a stall counter at hand, refaults that stall nobody are read-ahead at work and stay below medium; so do those
    that stall somebody a little, with as much available as in calm.
    """
    del held
    last, first = window[-1], reading_before(window, SECOND_US)
    pages = grew(last.refault_file_pages, first.refault_file_pages)
    if pages == 0 or last.file_lru_kib == 0:
        return None
    share = pages * 4 * PERMYRIAD // last.file_lru_kib
    for level in RISING:
        if share >= settings.thrash[level]:
            if not _stall_seen(window, settings):
                level = Level.LOW
            level = _held_down(level, window, settings)
            return Finding("thrash", level, f"{percent(share)} of the page cache read again in 1 s")
    return None


def detect_limit(window: Window, settings: Settings, held: Level) -> Finding | None:
    """Judge a cgroup's own events of the last second: over high is low, at max is medium, oom is critical.

    A group full of page cache meets memory.high all day and is healthy, so that alone asks for low.
    """
    del settings, held
    last, first = window[-1], reading_before(window, SECOND_US)
    oom = grew(last.events_oom, first.events_oom)
    at_max = grew(last.events_max, first.events_max)
    high = grew(last.events_high, first.events_high)
    if oom:
        return Finding(
            "limit", Level.CRITICAL, f"out of memory below memory.max, {oom} times in 1 s"
        )
    if at_max:
        return Finding("limit", Level.MEDIUM, f"memory.max met {at_max} times in 1 s")
    if high:
        return Finding("limit", Level.LOW, f"memory.high met {high} times in 1 s")
    return None


def detect_forecast(window: Window, settings: Settings, held: Level) -> Finding | None:
    """Judge how soon available memory would meet the critical floor at the present slope. Never above medium."""
    del held
    last = window[-1]
    slope_kib_s = fall_kib_s(window)
    if slope_kib_s < settings.forecast_slope_kib_s:
        return None
    left_kib = last.available_kib - settings.floor[Level.CRITICAL].enter.of(last.total_kib)
    left_us = max(left_kib, 0) * SECOND_US // slope_kib_s
    for level, within_us in sorted(settings.forecast.items(), reverse=True):
        if left_us <= within_us:
            return Finding(
                "forecast",
                level,
                f"{left_us // SECOND_US}.{left_us % SECOND_US // 100_000} s to the floor "
                f"at {mib(slope_kib_s)}/s",
            )
    return None


DETECTORS: Mapping[str, Detector] = {
    "stall": detect_stall,
    "floor": detect_floor,
    "swap": detect_swap,
    "thrash": detect_thrash,
    "limit": detect_limit,
    "forecast": detect_forecast,
}


def _stall_seen(window: Window, settings: Settings) -> bool:
    """Whether anybody stalls as much as the low step says; True where there is no PSI to deny it."""
    if window[-1].some_total_us is None:
        return True
    some, _ = stall_permyriad(window, SECOND_US)
    return some >= settings.stall[Level.LOW].some_permyriad


def _is_harmed(recent: Window, settings: Settings) -> bool:
    """Whether programs lose time now: by stall, or by thrashing that somebody feels."""
    if _is_stalled(recent, settings, STALL_LEAST_US):
        return True
    thrash = detect_thrash(recent, settings, Level.NORMAL)
    return thrash is not None and thrash.level >= Level.MEDIUM


def need_kib(window: Window, settings: Settings) -> int:
    """Return what must be freed for the floor to be left, at least a fiftieth of the domain.

    What will be used within a rest period at the present slope is part of it: nobody is asked again sooner, so
    what is given back has to last that long. A stall with memory to spare still needs something freed; 2% is
    what the kernel's own watermarks move by (watermark_scale_factor and the reserves, together).
    """
    last = window[-1]
    short_kib = settings.floor[Level.LOW].leave.of(last.total_kib) - last.available_kib
    soon_kib = fall_kib_s(window) * settings.rest_us // SECOND_US
    return max(short_kib + soon_kib, last.total_kib // 50)


def is_file_bound(window: Window, settings: Settings) -> bool:
    """Whether it is file pages that are short: more is available than at medium, and hardly anything goes to swap.

    Where swap fills, by a fiftieth of the memory in three seconds, it is programs that take the memory, whatever is
    available in between: a fork bomb stalled everybody with a fifth available, as swap took the rest (the arena).
    """
    last = window[-1]
    if last.available_kib < settings.floor[Level.MEDIUM].leave.of(last.total_kib):
        return False
    most_free_kib = max(reading.swap_free_kib for reading in window)
    return most_free_kib - last.swap_free_kib < last.total_kib // 50


def judge(
    window: Window, settings: Settings, held: Mapping[str, Level], relieved_us: int
) -> Judgement:
    """Judge a window. `held` is what each detector asked for last; `relieved_us` when the last kill ended."""
    findings = []
    for name, detector in DETECTORS.items():
        finding = detector(window, settings, held.get(name, Level.NORMAL))
        if finding is not None:
            findings.append(finding)
    if not findings:
        return Judgement(Level.NORMAL, "calm", (), False, False, False, 0)
    findings.sort(key=lambda finding: -finding.level)
    recent = since(window, relieved_us) or window[-1:]
    last = window[-1]
    harm = _is_harmed(recent, settings)
    exhausted = is_exhausted(last, settings)
    _, full = stall_permyriad(recent, STALL_LEAST_US)
    past_hard_limit = last.available_kib < settings.floor_emergency.of(last.total_kib)
    stalled = full >= settings.stall_emergency_permyriad and is_reclaiming(recent)
    # Past the hard limit with room in swap is where reclaim begins, not where it ends (seen in the VM: 2% available
    # and 200 MB of zram untouched).
    emergency = stalled or (past_hard_limit and exhausted)
    return Judgement(
        # The windows differ: after a kill the level still looks a second back, the emergency does not.
        Level.CRITICAL if emergency else findings[0].level,
        findings[0].reason,
        tuple(findings),
        harm,
        exhausted,
        emergency,
        need_kib(window, settings),
        is_file_bound(window, settings),
    )


def relay(window: Window, settings: Settings, relayed: Relayed) -> Judgement:
    """Return the judgement of another daemon in the place of one's own; who dies for it is that daemon's to say."""
    need = need_kib(window, settings) if relayed.level > Level.NORMAL else 0
    return Judgement(relayed.level, relayed.reason, (), False, False, False, need)
