"""Sizes, times and counts as people say them.

Integers in, text out; None is a thing that was not said, and is shown as a dash. No clock is read here.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

NOT_SAID = "-"

_SECOND_MS = 1_000
_MINUTE_MS = 60 * _SECOND_MS
_HOUR_MS = 60 * _MINUTE_MS
_DAY_MS = 24 * _HOUR_MS
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def size_words(kib: int | None) -> str:
    """Return an amount of memory: `12.3 MiB`."""
    if kib is None:
        return NOT_SAID
    if abs(kib) < 1 << 10:
        return f"{kib} KiB"
    if abs(kib) < 1 << 20:
        return f"{_tenths(kib, 1 << 10)} MiB"
    return f"{_tenths(kib, 1 << 20)} GiB"


def share_words(permyriad: int | None) -> str:
    """Return a share: `12.3%`."""
    return NOT_SAID if permyriad is None else f"{_tenths(permyriad, 100)}%"


def time_words(ms: int | None) -> str:
    """Return a length of time: `350 ms`, `12.3 s`, `3 min 5 s`."""
    if ms is None:
        return NOT_SAID
    if 0 < ms < _SECOND_MS:
        return f"{ms} ms"
    ms = (ms + 50) // 100 * 100
    if ms < _MINUTE_MS:
        whole = ms % _SECOND_MS == 0
        return f"{ms // _SECOND_MS} s" if whole else f"{_tenths(ms, _SECOND_MS)} s"
    for unit_ms, unit, part_ms, part in (
        (_DAY_MS, "d", _HOUR_MS, "h"),
        (_HOUR_MS, "h", _MINUTE_MS, "min"),
        (_MINUTE_MS, "min", _SECOND_MS, "s"),
    ):
        if ms >= unit_ms:
            rest = ms % unit_ms // part_ms
            return f"{ms // unit_ms} {unit} {rest} {part}" if rest else f"{ms // unit_ms} {unit}"
    raise AssertionError(ms)


def ago_words(then_ms: int, now_ms: int) -> str:
    """Return how long ago something was: `3 min ago`."""
    past_ms = now_ms - then_ms
    if past_ms < _SECOND_MS:
        return "just now"
    for unit_ms, unit in ((_DAY_MS, "d"), (_HOUR_MS, "h"), (_MINUTE_MS, "min"), (_SECOND_MS, "s")):
        if past_ms >= unit_ms:
            return f"{past_ms // unit_ms} {unit} ago"
    raise AssertionError(past_ms)


def clock_words(unix_ms: int, zone: tzinfo | None) -> str:
    """Return the time of day: `14:03:07.250`. Zone None: this machine's."""
    then = _moment(unix_ms, zone)
    return f"{then:%H:%M:%S}.{unix_ms % _SECOND_MS:03d}"


def date_words(unix_ms: int | None, zone: tzinfo | None) -> str:
    """Return date and time: `2026-03-01 14:03:07`."""
    return NOT_SAID if unix_ms is None else f"{_moment(unix_ms, zone):%Y-%m-%d %H:%M:%S}"


def count_words(count: int, noun: str) -> str:
    """Return so many of something: `1 program`, `3 programs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def signed_words(amount: int | None) -> str:
    """Return a number with its sign: `+1`, `-1`, `0`."""
    if amount is None:
        return NOT_SAID
    return f"{amount:+d}" if amount else "0"


def list_words(items: list[str]) -> str:
    """Return a list as said: `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def _moment(unix_ms: int, zone: tzinfo | None) -> datetime:
    # The daemon's number may be anything; a clock goes to the year 9999.
    seconds = min(max(unix_ms // _SECOND_MS, 0), 250_000_000_000)
    return (_EPOCH + timedelta(seconds=seconds)).astimezone(zone)


def _tenths(amount: int, unit: int) -> str:
    tenths = abs(amount) * 10 // unit
    sign = "-" if amount < 0 else ""
    return f"{sign}{tenths // 10}.{tenths % 10}"
