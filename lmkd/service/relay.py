"""Relay the system daemon's levels: in a session, another daemon sees more of the machine than we do.

It is a client like any other, by the protocol alone. As long as it is heard, the level of the system is its word;
when it goes, we judge for ourselves again, and look for it once in a while.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio
from lmkd_proto import (
    PROTOCOL_VERSION,
    Bye,
    ClientConnection,
    Hello,
    Pressure,
    RemoteProtocolError,
    Subscribe,
)

from lmkd.model import SYSTEM_DOMAIN, Level
from lmkd.policy.events import LevelRelayed

log = logging.getLogger("lmkd")

LOOK_AGAIN_S = 10
RECEIVE_BYTES = 4096


class Relay:
    """Hears the daemon at `path`, and feeds what it says of the system."""

    def __init__(self, path: str, feed: Callable[[LevelRelayed], None]) -> None:
        self._path = path
        self._feed = feed
        self.heard = False
        """Whether it is being heard now."""

    @property
    def source(self) -> str | None:
        """The socket of the daemon whose levels are relayed now, None when there is none."""
        return self._path if self.heard else None

    async def run(self) -> None:
        """Hear it for ever, whenever it is there."""
        while True:
            try:
                await self._hear()
            except (OSError, RemoteProtocolError, trio.BrokenResourceError) as error:
                if self.heard:
                    log.warning("the system's lmkd is not heard any more (%s)", error)
            if self.heard:
                self.heard = False
                self._feed(LevelRelayed(SYSTEM_DOMAIN, None))
                log.info("the level of the system is judged here now")
            await trio.sleep(LOOK_AGAIN_S)

    async def _hear(self) -> None:
        with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM) as sock:
            await sock.connect(self._path)
            connection = ClientConnection()
            stream = trio.SocketStream(sock)
            await stream.send_all(
                connection.send(Hello(0, PROTOCOL_VERSION, "lmkd --session"))
                + connection.send(Subscribe(1, SYSTEM_DOMAIN))
            )
            while chunk := await stream.receive_some(RECEIVE_BYTES):
                for event in connection.receive(chunk):
                    if isinstance(event, Pressure):
                        self._take(event)
                    elif isinstance(event, Bye):
                        return

    def _take(self, word: Pressure) -> None:
        if word.domain != SYSTEM_DOMAIN or word.simulated:
            return
        if not self.heard:
            self.heard = True
            log.info("the level of the system is that of the lmkd at %s", self._path)
        self._feed(LevelRelayed(SYSTEM_DOMAIN, Level[word.level.upper()], word.reason))
