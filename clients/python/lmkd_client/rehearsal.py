"""A rehearsal: the daemon is asked to simulate a level for this program alone, and what the program does is seen.

Knows what was asked for, what came of it, and how one thread waits for another; it says nothing itself.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from lmkd_proto import Notice, Simulate

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from lmkd_client.errors import LmkdError


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a program did at a level: what it was asked, what it answered, and after how long."""

    notice: Notice
    answer: str
    freed_bytes: int
    took_ms: int


class AwaitedRehearsal:
    """A rehearsal that somebody waits for. It is over when a later word has taken the place of the notice."""

    def __init__(self, level: str, duration_ms: int) -> None:
        if level == "normal":
            raise ValueError("level: normal asks for nothing; expected low, medium or critical")
        self.request = Simulate(0, level, "self", duration_ms)
        self.is_asked = False
        self.seen: Rehearsal | None = None
        self.error: LmkdError | None = None
        self._over = threading.Event()

    def answered(self, notice: Notice, answer: str, freed_bytes: int, took_ms: int) -> None:
        """Take in what was answered to a notice; to a real one it does not matter here."""
        if self.is_asked and notice.simulated:
            self.seen = Rehearsal(notice, answer, freed_bytes, took_ms)

    def told(self, notice: Notice) -> None:
        """Take in that a notice came."""
        if self.seen is not None and not notice.simulated:
            self._over.set()

    def fail(self, error: LmkdError) -> None:
        """Nothing will come of it any more; the first reason is the one that counts."""
        if self.error is None:
            self.error = error
            self._over.set()

    def wait(self, timeout_ms: int) -> Rehearsal:
        """Wait until it is over. Raises what came in its place, or TimeoutError."""
        over = self._over.wait(timeout_ms / 1000)
        if self.error is not None:
            raise self.error
        if self.seen is None:
            what = "was told and has not answered" if self.is_asked else "does not listen now"
            raise TimeoutError(f"rehearsal: after {timeout_ms} ms this program {what}")
        if not over:
            raise TimeoutError(f"rehearsal: after {timeout_ms} ms the daemon has not ended it")
        return self.seen
