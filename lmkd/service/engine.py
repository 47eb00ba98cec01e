"""The heart at work: events in, actions out, one at a time and in order.

It holds the only copy of the state. `feed` never waits, so whoever learns something says it at once and at the
place where it was learned; what an action brings to light (a scan, a failed signal) is fed from within, and taken
after the actions that are still to be done. Whatever is fed is noted for the recording before it is taken: the state
is a value, so what came before it costs nothing to keep.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from lmkd.policy import heart
from lmkd.policy.actions import Action
from lmkd.policy.events import Event
from lmkd.policy.state import State
from lmkd.replay.recorder import Recorder, Segment


class Engine:
    """Runs the heart. `perform` carries out one action and may feed events itself; `save` is given what is recorded."""

    def __init__(
        self,
        state: State,
        now_us: Callable[[], int],
        perform: Callable[[Action], None],
        recorder: Recorder | None = None,
        save: Callable[[Segment], None] = lambda segment: None,
    ) -> None:
        self.state = state
        self.now_us = now_us
        self._perform = perform
        self._recorder = recorder
        self._save = save
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
                self._take(self._waiting.popleft())
        finally:
            self._busy = False

    def _take(self, event: Event) -> None:
        now_us, recorder = self.now_us(), self._recorder
        if recorder is not None:
            recorder.note(now_us, event, self.state)
        self.state, actions = heart.step(self.state, event, now_us)
        for action in actions:
            self._perform(action)
        if recorder is not None and actions:
            recorder.keep(actions)
            if (segment := recorder.take()) is not None:
                self._save(segment)

    def wake_in_us(self, domain: str) -> int:
        """Return how long a domain may be left unread from now on."""
        return max(heart.next_wake_us(self.state, domain) - self.now_us(), 0)
