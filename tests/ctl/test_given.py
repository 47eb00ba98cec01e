"""What was given on the command line is taken as it was meant, or refused with what was expected."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Callable

import pytest

from lmkd.ctl.given import (
    take_number,
    take_path,
    take_seconds_ms,
    take_size_kib,
    take_variable,
)

adj = take_number(-1000, 1000)


@pytest.mark.parametrize(
    ("take", "given", "taken"),
    [
        (take_path, "/a", "/a"),
        (adj, "-1000", -1000),
        (adj, "007", 7),
        (take_seconds_ms, "1.5", 1500),
        (take_seconds_ms, "600", 600_000),
        (take_size_kib, "64MiB", 65_536),
        (take_size_kib, "1GiB", 1 << 20),
        (take_size_kib, "0KiB", 0),
        (take_variable, "A=", "A="),
        (take_variable, "A=b=c", "A=b=c"),
    ],
)
def test_what_is_meant_is_taken(take: Callable[[str], object], given: str, taken: object) -> None:
    assert take(given) == taken


@pytest.mark.parametrize(
    ("take", "given", "expected"),
    [
        (take_path, "", "a path, got nothing"),
        (adj, "1001", "a whole number from -1000 to 1000, got '1001'"),
        (adj, "\N{SUPERSCRIPT TWO}", "a whole number from -1000 to 1000"),
        (adj, "1" * 5000, "a whole number"),
        (adj, "", "a whole number"),
        (take_seconds_ms, "0", "seconds, more than 0 to 600, got '0'"),
        (take_seconds_ms, "-1", "seconds, more than 0 to 600"),
        (take_size_kib, "64", "a size such as 64MiB, got '64'"),
        (take_size_kib, "64 MB", "a size such as 64MiB"),
        (take_variable, "A", "NAME=VALUE, got 'A'"),
        (take_variable, "=A", "NAME=VALUE, got '=A'"),
    ],
)
def test_what_is_wrong_is_refused(take: Callable[[str], object], given: str, expected: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"^expected {re.escape(expected)}"):
        take(given)
