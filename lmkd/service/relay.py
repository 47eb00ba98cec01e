"""Relay the system daemon's levels: in a session, another daemon sees more of the machine than we do.

It is a client like any other, by the protocol alone. As long as it is heard, the level of the system is its word;
when it goes, we judge for ourselves again, and look for it once in a while. One that says nothing for a while is asked
something; if it does not answer either, it is as good as gone. Whom it has ended is told on; whose that was is not
known here.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import cast

import trio
from lmkd_proto import (
    PROTOCOL_VERSION,
    Bye,
    ClientConnection,
    Error,
    Hello,
    Killed,
    Pressure,
    RemoteProtocolError,
    Subscribe,
)

from lmkd.model import SYSTEM_DOMAIN, Level
from lmkd.peers import read_credentials
from lmkd.policy.events import LevelRelayed

log = logging.getLogger("lmkd")

LOOK_AGAIN_S = 10
SILENCE_S = 30
"""It is asked after this long, and given up after this long again: what is stopped or stuck is not there."""
RECEIVE_BYTES = 4096
_HELLO, _SUBSCRIBE = 0, 1
"""The ids of our requests."""


class Relay:
    """Hears the daemon at `path`, and feeds what it says of the system."""

    def __init__(
        self,
        path: str,
        feed: Callable[[LevelRelayed], None],
        credentials: Callable[[socket.socket], tuple[int, int]] = read_credentials,
        hear_killed: Callable[[Killed], None] = lambda word: None,
    ) -> None:
        """`credentials` says which process is at the other end: it may be this one, which is nothing to relay.

        `hear_killed` is told whom that daemon has ended, whoever's it was.
        """
        self._path = path
        self._feed = feed
        self._hear_killed = hear_killed
        self._credentials = credentials
        self.heard = False
        """Whether it is being heard now."""

    @property
    def source(self) -> str | None:
        """The socket of the daemon whose levels are relayed now, None when there is none."""
        return self._path if self.heard else None

    async def run(self) -> None:
        """Hear it for ever, whenever it is there."""
        while True:
            why = "it closed the connection"
            try:
                why = await self._hear() or why
            except (OSError, RemoteProtocolError, trio.BrokenResourceError) as error:
                why = str(error)
            if self.heard:
                self.heard = False
                log.warning(
                    "the lmkd at %s is not heard any more (%s): the level of the system is judged here now",
                    self._path,
                    why,
                )
                self._feed(LevelRelayed(SYSTEM_DOMAIN, None))
            await trio.sleep(LOOK_AGAIN_S)

    async def _hear(self) -> str | None:
        """Hear it until it ends; return why, where that is known."""
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            await sock.connect(self._path)
            # trio's sockets have what it asks of them.
            if self._credentials(cast("socket.socket", sock))[0] == os.getpid():
                return "it is ourselves"
            connection = ClientConnection()
            stream = trio.SocketStream(sock)
            hello = Hello(_HELLO, PROTOCOL_VERSION, "lmkd --session")
            ask = Subscribe(_SUBSCRIBE, SYSTEM_DOMAIN)
            await stream.send_all(connection.send(hello) + connection.send(ask))
            asked = True
            while True:
                with trio.move_on_after(SILENCE_S) as silence:
                    chunk = await stream.receive_some(RECEIVE_BYTES)
                if silence.cancelled_caught:
                    if asked:
                        return "it does not answer"
                    # To subscribe again is answered with the present level (SPEC L-24).
                    await stream.send_all(connection.send(ask))
                    asked = True
                    continue
                asked = False
                if not chunk:
                    return None
                for event in connection.receive(chunk):
                    if isinstance(event, Pressure):
                        self._take(event)
                    elif isinstance(event, Killed):
                        self._hear_killed(event)
                    elif isinstance(event, Error):
                        return event.message
                    elif isinstance(event, Bye):
                        return event.reason

    def _take(self, word: Pressure) -> None:
        if word.domain != SYSTEM_DOMAIN or word.simulated:
            return
        if not self.heard:
            self.heard = True
            log.info("the level of the system is that of the lmkd at %s", self._path)
        self._feed(LevelRelayed(SYSTEM_DOMAIN, Level[word.level.upper()], word.reason))
