"""How much of the time a simulated machine's programs stall, given how little memory is left.

Shared by the simulated kernel and by the mixture that simulates memory over real processes. It is
a model, not a measurement: none above 5% available, then rising evenly; `full` begins at 2.5%,
later and lower than `some`, as on a machine of a few busy programs.
"""

from __future__ import annotations

from typing import Final

SOME_BEGINS_PERMYRIAD: Final = 500
FULL_BEGINS_PERMYRIAD: Final = 250
_SOME_AT_NOTHING_LEFT_PERMYRIAD: Final = 9_000
_FULL_AT_NOTHING_LEFT_PERMYRIAD: Final = 7_000


def some_begins_kib(total_kib: int) -> int:
    """The available memory under which somebody stalls."""
    return total_kib * SOME_BEGINS_PERMYRIAD // 10_000


def some_share_permyriad(available_kib: int, total_kib: int) -> int:
    """The share of the time in which at least one task waits for memory."""
    return _share(available_kib, some_begins_kib(total_kib), _SOME_AT_NOTHING_LEFT_PERMYRIAD)


def full_share_permyriad(available_kib: int, total_kib: int) -> int:
    """The share of the time in which all tasks wait for memory."""
    begins_kib = total_kib * FULL_BEGINS_PERMYRIAD // 10_000
    return _share(available_kib, begins_kib, _FULL_AT_NOTHING_LEFT_PERMYRIAD)


def _share(available_kib: int, begins_kib: int, at_nothing_left_permyriad: int) -> int:
    short_kib = begins_kib - max(0, available_kib)
    if short_kib <= 0:
        return 0
    return short_kib * at_nothing_left_permyriad // begins_kib
