"""Take what was given on the command line: text in, a value out, or an ArgumentTypeError that says what is wrong."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Callable

SIMULATED_MOST_S = 600
_SIZES_KIB = {"KiB": 1, "MiB": 1 << 10, "GiB": 1 << 20}


def take_path(given: str) -> str:
    """Return a path, which may be anything but empty."""
    if not given:
        raise ArgumentTypeError("expected a path, got nothing")
    return given


def take_number(least: int, most: int) -> Callable[[str], int]:
    """Return what takes a whole number within these bounds."""

    def take(given: str) -> int:
        digits = re.fullmatch(r"-?[0-9]{1,19}", given)
        if digits is None or not least <= int(given) <= most:
            raise ArgumentTypeError(
                f"expected a whole number from {least} to {most}, got {given!r}"
            )
        return int(given)

    return take


def take_seconds_ms(given: str) -> int:
    """Return how long a rehearsal is to last."""
    match = re.fullmatch(r"([0-9]{1,3})(?:\.([0-9]{1,3}))?", given)
    duration_ms = int(match[1]) * 1000 + int((match[2] or "").ljust(3, "0")) if match else 0
    if not 0 < duration_ms <= SIMULATED_MOST_S * 1000:
        raise ArgumentTypeError(
            f"expected seconds, more than 0 to {SIMULATED_MOST_S}, got {given!r}"
        )
    return duration_ms


def take_size_kib(given: str) -> int:
    """Return an amount of memory, as the configuration writes it: `64MiB`."""
    match = re.fullmatch(r"([0-9]{1,9})(KiB|MiB|GiB)", given)
    if match is None:
        raise ArgumentTypeError(f"expected a size such as 64MiB, got {given!r}")
    return int(match[1]) * _SIZES_KIB[match[2]]


def take_variable(given: str) -> str:
    """Return one variable of an environment."""
    if "=" not in given[1:]:
        raise ArgumentTypeError(f"expected NAME=VALUE, got {given!r}")
    return given
