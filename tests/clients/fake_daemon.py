"""The scripted daemon of lmkd_client.testing, and what the tests of the shells have it say."""

from __future__ import annotations

from collections.abc import Callable

from lmkd_client.testing.peer import GRANT, PATIENCE_S, Peer
from lmkd_client.testing.scripted import ScriptedDaemon as FakeDaemon
from lmkd_proto import Notice, Pressure

__all__ = ["GRANT", "PATIENCE_S", "FakeDaemon", "Peer", "Script", "notice", "once", "pressure"]

Script = Callable[[FakeDaemon], None]
SOCKET_PLACES = [
    ("/by/name", True, "/by/name"),
    ("", True, "{runtime}/lmkd/socket"),
    (None, True, "{runtime}/lmkd/socket"),
    (None, False, "/run/lmkd/socket"),
    (None, None, "/run/lmkd/socket"),
]
"""$LMKD_SOCKET; whether the session has a socket, None for no session at all; and where every client looks then."""


def once(part: Callable[[Peer], None]) -> Script:
    """Script one connection, which is greeted, and lasts until the client leaves."""

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            part(peer)
            peer.expect_end()

    return script


def notice(number: int, level: str = "medium", target_bytes: int = 1 << 20) -> Notice:
    """Return a notice."""
    return Notice(number, "system", level, target_bytes, 1000, "a test")


def pressure(level: str, domain: str = "system") -> Pressure:
    """Return a level."""
    return Pressure(domain, level, "a test", 1 << 20)
