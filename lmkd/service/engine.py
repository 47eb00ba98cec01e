"""The heart at work: events in, actions out, one at a time and in order.

It holds the only copy of the state. `feed` never waits, so whoever learns something says it at once and at the
place where it was learned; what an action brings to light (a scan, a failed signal) is fed from within, and taken
after the actions that are still to be done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from lmkd.policy import heart
from lmkd.policy.actions import Action
from lmkd.policy.events import Event
from lmkd.policy.state import State


class Engine:
    """Runs the heart. `perform` carries out one action and may feed events itself."""

    def __init__(
        self, state: State, now_us: Callable[[], int], perform: Callable[[Action], None]
    ) -> None:
        self.state = state
        self.now_us = now_us
        self._perform = perform
        self._waiting: deque[Event] = deque()
        self._busy = False

    def feed(self, event: Event) -> None:
        """Take an event, and do all that follows from it before returning (unless called from an action)."""
        self._waiting.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._waiting:
                self.state, actions = heart.step(self.state, self._waiting.popleft(), self.now_us())
                for action in actions:
                    self._perform(action)
        finally:
            self._busy = False

    def wake_in_us(self, domain: str) -> int:
        """Return how long a domain may be left unread from now on."""
        return max(heart.next_wake_us(self.state, domain) - self.now_us(), 0)
