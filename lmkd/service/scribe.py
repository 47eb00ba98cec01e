"""Log through a thread of its own: whoever reads our log may be stalled, and the loop must not wait for it.

A service's stderr is a pipe or a socket to journald, which is a program like others: it may be swapped out, stopped or
ended when memory is short, and then a write blocks. What waits is bounded; what had to be dropped is counted and said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from lmkd.service.executor import Hand

log = logging.getLogger("lmkd")

WAITING_MOST = 1_000
LEAVE_S = 2.0
"""So long the last words may take when we leave."""


class ScribeHandler(logging.Handler):
    """Hands records to a thread, which gives them to the handlers that were there before."""

    def __init__(self, hand: Hand, behind: list[logging.Handler]) -> None:
        super().__init__()
        self._hand = hand
        self._behind = behind
        self._waiting = 0
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._waiting >= WAITING_MOST:
            self._dropped += 1
            return
        if self._dropped:
            text = f"{self._dropped} lines of the log were dropped: nobody read it"
            self._dropped = 0
            self._send(log.makeRecord(log.name, logging.WARNING, __file__, 0, text, (), None))
        self._send(record)

    def _send(self, record: logging.LogRecord) -> None:
        self._waiting += 1
        self._hand.do(partial(self._write, record))

    def _write(self, record: logging.LogRecord) -> None:
        try:
            for handler in self._behind:
                handler.handle(record)
        finally:
            self._waiting -= 1


@contextmanager
def logged_by(hand: Hand) -> Iterator[None]:
    """Have all that is logged meanwhile written by this thread; it ends afterwards, or is left where it hangs."""
    behind = log.handlers
    log.handlers = [ScribeHandler(hand, behind)] if behind else []
    try:
        yield
    finally:
        log.handlers = behind
        hand.finish(LEAVE_S)
