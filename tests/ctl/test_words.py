"""Amounts and times are said as people say them."""

from __future__ import annotations

import pytest

from lmkd.ctl.words import (
    ago_words,
    clock_words,
    count_words,
    date_words,
    list_words,
    share_words,
    size_words,
    time_words,
)

from .literal import OPENED_UNIX_MS, ZONE


@pytest.mark.parametrize(
    ("kib", "said"),
    [
        (None, "-"),
        (0, "0 KiB"),
        (1_023, "1023 KiB"),
        (1_024, "1.0 MiB"),
        (12_595, "12.2 MiB"),
        (1 << 20, "1.0 GiB"),
        (-2_048, "-2.0 MiB"),
        (-100, "-100 KiB"),
    ],
)
def test_sizes(kib: int | None, said: str) -> None:
    assert size_words(kib) == said


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        (None, "-"),
        (0, "0 s"),
        (350, "350 ms"),
        (999, "999 ms"),
        (1_000, "1 s"),
        (2_999, "3 s"),
        (12_345, "12.3 s"),
        (59_999, "1 min"),
        (185_000, "3 min 5 s"),
        (7_800_000, "2 h 10 min"),
        (86_400_000, "1 d"),
    ],
)
def test_lengths_of_time(ms: int | None, said: str) -> None:
    assert time_words(ms) == said


@pytest.mark.parametrize(
    ("past_ms", "said"),
    [
        (-5_000, "just now"),
        (999, "just now"),
        (12_000, "12 s ago"),
        (190_000, "3 min ago"),
        (7_300_000, "2 h ago"),
        (200_000_000, "2 d ago"),
    ],
)
def test_how_long_ago(past_ms: int, said: str) -> None:
    assert ago_words(1_000_000_000, 1_000_000_000 + past_ms) == said


def test_clock_and_date_are_those_of_the_zone() -> None:
    assert clock_words(OPENED_UNIX_MS + 250, ZONE) == "12:00:00.250"
    assert date_words(OPENED_UNIX_MS, ZONE) == "2026-03-01 12:00:00"


def test_a_time_out_of_all_bounds_is_no_error() -> None:
    """What the daemon says may be anything (SPEC Q-1)."""
    assert date_words(2**63, ZONE).startswith("9892-")
    assert date_words(-(2**63), ZONE) == "1970-01-01 00:00:00"


def test_counts_lists_and_shares() -> None:
    assert (count_words(1, "app"), count_words(3, "app")) == ("1 app", "3 apps")
    assert [list_words(items) for items in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert share_words(1_234) == "12.3%"
