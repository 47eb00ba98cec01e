"""How long to wait before the next try to connect.

Pauses double from `first_ms` up to `most_ms`, and each is shortened by chance by up to a half, so that a thousand
clients of a daemon that was restarted do not all come back at one moment. No pause is ever 0: nothing spins.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_MS = 100
MOST_MS = 10_000


def draw(below: int) -> int:
    """Draw a number from 0 up to, but not including, `below`, which is at most 2^32."""
    # Not the module random: importing that takes longer than all the pauses of most clients need.
    return int.from_bytes(os.urandom(8), "big") % below


class Backoff:
    """The pauses of one client. `draw` gives a number from 0 to below its argument."""

    __slots__ = ("_draw", "_first_ms", "_most_ms", "_next_ms")

    def __init__(
        self,
        first_ms: int = FIRST_MS,
        most_ms: int = MOST_MS,
        draw: Callable[[int], int] = draw,
    ) -> None:
        if not 2 <= first_ms <= most_ms:
            raise ValueError(f"expected 2 <= first_ms <= most_ms, not {first_ms} and {most_ms}")
        self._first_ms = first_ms
        self._most_ms = most_ms
        self._draw = draw
        self._next_ms = first_ms

    def next_pause_ms(self, lasted_ms: int = 0) -> int:
        """Return the next pause, where the connection before it lasted so long; the one after it is longer.

        Only a connection that outlasted the longest pause begins the row again: a daemon that greets and then dies,
        again and again, is not helped by haste.
        """
        if lasted_ms >= self._most_ms:
            self._next_ms = self._first_ms
        whole_ms = self._next_ms
        self._next_ms = min(2 * whole_ms, self._most_ms)
        return whole_ms - self._draw(whole_ms // 2 + 1)
