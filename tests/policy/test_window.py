"""Windows of readings and the rates that follow from them."""

from __future__ import annotations

import pytest

from lmkd.model import Reading
from lmkd.policy.window import (
    GAP_US,
    Window,
    fall_kib_s,
    grew,
    push,
    reading_before,
    since,
    stall_permyriad,
)

from .scenes import MIB, MS, SECOND, reading


def window_at(*moments_ms: int) -> Window:
    window: Window = ()
    for at_ms in moments_ms:
        window = push(window, reading(at_ms))
    return window


def moments(window: Window) -> list[int]:
    return [one.at_us // MS for one in window]


@pytest.mark.parametrize(
    ("at_ms", "kept"),
    [
        ((0,), [0]),
        ((0, 100, 200), [0, 100, 200]),
        ((0, 1000, 2000, 3000), [0, 1000, 2000, 3000]),
        # The newest that is at least 3 s old stays, all before it go.
        ((0, 1000, 2000, 3000, 4000), [1000, 2000, 3000, 4000]),
        ((0, 1000, 3999), [0, 1000, 3999]),
        ((0, 1000, 4000), [1000, 4000]),
        ((0, 4000), [0, 4000]),
        # A hole in time of more than 5 s, and a clock that goes back, begin a new window.
        ((0, 5000), [0, 5000]),
        ((0, 5001), [5001]),
        ((1000, 999), [999]),
    ],
)
def test_a_window_keeps_three_seconds_and_starts_anew_after_a_hole(
    at_ms: tuple[int, ...], kept: list[int]
) -> None:
    assert moments(window_at(*at_ms)) == kept
    assert GAP_US == 5 * SECOND


def test_a_second_reading_of_the_same_moment_replaces_the_first() -> None:
    window = push(window_at(0, 100), reading(100, 77))
    assert moments(window) == [0, 100]
    assert window[-1].available_kib == 77 * MIB


@pytest.mark.parametrize(
    ("from_ms", "kept"), [(-1, [0, 100, 200]), (0, [0, 100, 200]), (1, [100, 200]), (201, [])]
)
def test_since_returns_what_was_read_at_or_after_a_moment(from_ms: int, kept: list[int]) -> None:
    assert moments(since(window_at(0, 100, 200), from_ms * MS)) == kept
    assert since((), 0) == ()


@pytest.mark.parametrize(("span_ms", "found_ms"), [(0, 1500), (1, 1000), (1000, 500), (9000, 0)])
def test_the_reading_before_a_span_is_the_newest_old_enough(span_ms: int, found_ms: int) -> None:
    assert reading_before(window_at(0, 500, 1000, 1500), span_ms * MS).at_us == found_ms * MS


@pytest.mark.parametrize(
    ("first", "last", "least_ms", "shares"),
    [
        (reading(0, some_ms=0, full_ms=0), reading(1000, some_ms=70, full_ms=30), 0, (700, 300)),
        # No PSI, a counter that came or went, and one that was reset: no stall.
        (reading(0), reading(1000), 0, (0, 0)),
        (reading(0, full_ms=5), reading(1000, some_ms=900, full_ms=3), 0, (0, 0)),
        # Three stalled milliseconds of the first five are no stall of 60%.
        (reading(0, some_ms=0, full_ms=0), reading(5, some_ms=3, full_ms=0), 250, (120, 0)),
        (reading(0, some_ms=0, full_ms=0), reading(5, some_ms=3, full_ms=0), 0, (6000, 0)),
        # Two tasks on a clock of their own can report a little more than the time that passed.
        (reading(0, some_ms=0, full_ms=0), reading(10, some_ms=11, full_ms=10), 0, (10000, 10000)),
    ],
)
def test_stall_is_a_share_of_the_time_that_passed(
    first: Reading, last: Reading, least_ms: int, shares: tuple[int, int]
) -> None:
    assert stall_permyriad((first, last), max(least_ms * MS, 1)) == shares


@pytest.mark.parametrize(
    ("now", "before", "by"),
    [(5, 3, 2), (3, 3, 0), (3, 5, 0), (None, 3, 0), (3, None, 0), (None, None, 0)],
)
def test_a_counter_that_is_missing_or_was_reset_grew_by_nothing(
    now: int | None, before: int | None, by: int
) -> None:
    assert grew(now, before) == by


@pytest.mark.parametrize(
    ("readings", "mib_s"),
    [
        ((reading(0, 500), reading(500, 490), reading(1000, 480)), 20),
        ((reading(0, 500), reading(500, 480), reading(1000, 470)), 20),  # the slower half counts
        ((reading(0, 500), reading(1000, 480), reading(2000, 460)), 20),  # asleep: once a second
        ((reading(0, 500), reading(1000, 400)), 0),  # one jump is no trend
        ((reading(0, 500), reading(500, 400), reading(1000, 400)), 0),  # nor is one that is over
        (
            (reading(0, 500), reading(500, 500), reading(1000, 400)),
            0,
        ),  # nor one that has just begun
        ((reading(0, 500), reading(499, 400), reading(998, 300)), 0),  # not a second yet
        ((reading(0, 480), reading(500, 490), reading(1000, 500)), 0),  # it rose
        ((reading(0, 500),), 0),
    ],
)
def test_available_memory_falls_when_it_does_so_in_two_successive_half_seconds(
    readings: Window, mib_s: int
) -> None:
    assert fall_kib_s(readings) == mib_s * MIB
