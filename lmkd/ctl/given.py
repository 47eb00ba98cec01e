"""Take what was given on the command line: text in, a value out, or an ArgumentTypeError that says what is wrong."""

from __future__ import annotations

import re
import signal
from argparse import ArgumentTypeError
from collections.abc import Callable

from lmkd_proto import LEVELS

Reaction = signal.Signals | str
"""What is done at a level: a signal for the program, or a command for the shell."""

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


def take_reactions(given: str) -> dict[str, Reaction]:
    """Return what is to be done at which level: `low=COMMAND,medium=SIGUSR1`.

    A comma parts two of them where a level and `=` follow, so that commands may hold commas.
    """
    reactions: dict[str, Reaction] = {}
    for part in re.split(rf",(?=(?:{'|'.join(LEVELS)})=)", given):
        level, _, action = part.partition("=")
        if level not in LEVELS or not action.strip():
            raise ArgumentTypeError(
                f"expected LEVEL=COMMAND or LEVEL=SIGNAL, with a level of {', '.join(LEVELS)}; got {part!r}"
            )
        if level in reactions:
            raise ArgumentTypeError(f"{level} is given twice")
        reactions[level] = _take_action(action)
    return reactions


def _take_action(action: str) -> Reaction:
    if re.fullmatch(r"SIG[A-Z0-9+-]+", action) is None:
        return action
    try:
        number = signal.Signals[action]
    except KeyError:
        raise ArgumentTypeError(f"there is no signal {action}") from None
    if number in (signal.SIGKILL, signal.SIGSTOP):
        raise ArgumentTypeError(f"{action} frees nothing that a program could give back")
    return number
