"""A whole episode, played once at the start, so that the first real one finds everything in memory.

Code that has never run is not resident: its first instruction under pressure is a read from the disk that everybody
waits for. So before memory is locked a second set of the daemon's own parts is given a fall of memory, a program that
registered and hears of it, a kill and the calm after it. The kernel under it changes nothing (lmkd.kernel.rehearsed).

It may take a moment and may fail, and neither keeps the daemon from starting.
"""

from __future__ import annotations

import io
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import trio
from lmkd_proto import (
    Ack,
    ClientConnection,
    Event,
    Hello,
    Notice,
    Register,
    Request,
    Subscribe,
    Unregister,
)

from lmkd.kernel.rehearsed import RehearsedKernel
from lmkd.model import SYSTEM_DOMAIN, Reading
from lmkd.policy.events import DomainClosed, DomainOpened, ReadingTaken
from lmkd.service.engine import Engine

log = logging.getLogger("lmkd")

TURNS = 5
"""Of trio's loop, for a victim's end to be heard of."""
PATIENCE_S = 10
"""An emulated machine takes about a second for all of it."""
FALL: tuple[tuple[int, int, int], ...] = (
    *((0, 600, 0), (1000, 400, 0), (1000, 110, 0), (500, 75, 0), (500, 45, 200)),
    *((10_000, 45, 300), (1000, 8, 900), (10, 2, 900), (100, 1, 900), (1000, 0, 950)),
    *((1000, 600, 0), (4000, 600, 0), (4000, 600, 0)),
)
"""Readings: ms since the one before, permille of all memory that is available, permille of that time in full stall."""


class Rehearsal:
    """A stage for one episode. `kernel` and `listener` are for the parts that play in it."""

    def __init__(self, kernel: RehearsedKernel) -> None:
        self.kernel = kernel
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.listener.bind("")  # autobind: a name that nobody else has (unix(7))
        self.listener.listen(1)
        self.notices: list[Notice] = []
        self._connection = ClientConnection()
        self._number = 0
        self._stalled_us = 0

    async def play(self, engine: Engine) -> None:
        """Play the episode with a program that answers its notices."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect(self.listener.getsockname())
            await self._ask(sock, Hello(0, 1, "rehearsal"))
            await self._ask(sock, Subscribe(self._next()))
            await self._ask(sock, Register(self._next(), "rehearsal", "cached", 64 << 20))
            engine.feed(DomainOpened(SYSTEM_DOMAIN))
            for after_ms, available_permille, stall_permille in FALL:
                self.kernel.advance(after_ms)
                self._stalled_us += after_ms * stall_permille
                engine.feed(ReadingTaken(self._reading(available_permille)))
                await self._answer(sock)
            engine.feed(DomainClosed(SYSTEM_DOMAIN))
            await self._ask(sock, Unregister(self._next()))

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _reading(self, available_permille: int) -> Reading:
        total_kib = self.kernel.total_kib
        available_kib = total_kib * available_permille // 1000
        now_us = self.kernel.now_us()
        return Reading(
            SYSTEM_DOMAIN,
            now_us,
            total_kib,
            available_kib,
            some_total_us=self._stalled_us,
            full_total_us=self._stalled_us,
            anon_kib=total_kib - available_kib,
            scanned_pages=now_us // 1000,
        )

    async def _ask(self, sock: socket.socket, request: Request) -> None:
        """Send a request, and hear all that comes until its reply."""
        sock.send(self._connection.send(request))
        while True:
            await trio.lowlevel.wait_readable(sock)
            heard = self._hear(sock)
            if any(getattr(event, "id", None) == request.id for event in heard):
                return

    async def _answer(self, sock: socket.socket) -> None:
        """Let the parts do what they have to, hear what they say, and answer a notice."""
        before = len(self.notices)
        for _ in range(TURNS):
            await trio.lowlevel.checkpoint()
        self._hear(sock)
        for notice in self.notices[before:]:
            if notice.level != "normal":
                await self._ask(sock, Ack(self._next(), notice.notice, "working", 0))
                await self._ask(sock, Ack(self._next(), notice.notice, "done", notice.target_bytes))

    def _hear(self, sock: socket.socket) -> list[Event]:
        try:
            chunk = sock.recv(65536)
        except BlockingIOError:
            return []
        if not chunk:
            raise ConnectionError("the daemon closed the connection")
        heard = self._connection.receive(chunk)
        self.notices += [event for event in heard if isinstance(event, Notice)]
        return heard

    def close(self) -> None:
        self.listener.close()


@contextmanager
def in_silence() -> Iterator[None]:
    """Write what is logged to nowhere: the words are made as ever, and nobody takes them for real."""
    handlers, propagate, level = log.handlers, log.propagate, log.level
    mute = logging.StreamHandler(io.StringIO())
    mute.setFormatter(logging.Formatter("lmkd: %(message)s"))
    log.handlers, log.propagate = [mute], False
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)
