"""The scripted daemon of lmkd_client.testing, and what the tests of the shells have it say."""

from __future__ import annotations

from lmkd_client.testing.peer import GRANT, PATIENCE_S, Peer
from lmkd_client.testing.scripted import ScriptedDaemon as FakeDaemon
from lmkd_proto import Notice, Pressure

__all__ = ["GRANT", "PATIENCE_S", "FakeDaemon", "Peer", "notice", "pressure"]


def notice(number: int, level: str = "medium", target_bytes: int = 1 << 20) -> Notice:
    """Return a notice."""
    return Notice(number, "system", level, target_bytes, 1000, "a test")


def pressure(level: str, domain: str = "system") -> Pressure:
    """Return a level."""
    return Pressure(domain, level, "a test", 1 << 20)
