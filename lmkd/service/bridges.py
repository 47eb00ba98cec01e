"""The bridges of lmkd.interop that are switched on: made at the start, shown every action, run beside the rest.

What one of them lacks here is said once, at the start, and the others go on. What fails while it runs ends that bridge
and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

import trio

from lmkd.config import Interop
from lmkd.policy.actions import Action

log = logging.getLogger("lmkd")

NO_JEEPNEY = "it takes jeepney, which is not installed: pip install 'lmkd[dbus]'"


class Bridge(Protocol):
    """What each of them is."""

    key: str
    """Its name in [interop]."""
    standing: str
    """How it is with it, in a line."""

    def take(self, action: Action) -> None:
        """Keep what is to be told. Never waits."""

    async def run(self) -> None:
        """Tell it, for ever."""


class Lacking(Exception):
    """A bridge cannot be there; the message says what it lacks."""


class Bridges:
    """All of them."""

    def __init__(
        self, bridges: Iterable[Bridge] = (), lacking: Iterable[tuple[str, str]] = ()
    ) -> None:
        self._bridges = list(bridges)
        self._lacking = list(lacking)

    def take(self, action: Action) -> None:
        """Show an action to each."""
        for bridge in self._bridges:
            bridge.take(action)

    def start(self, nursery: trio.Nursery) -> None:
        """Run each."""
        for bridge in self._bridges:
            nursery.start_soon(self._run, bridge)

    def describe(self) -> list[str]:
        """Return how it is with each that is switched on, a line each."""
        lines = [f"{bridge.key}: {bridge.standing}" for bridge in self._bridges]
        return lines + [f"{key}: {what}" for key, what in self._lacking]

    async def _run(self, bridge: Bridge) -> None:
        try:
            await bridge.run()
        except Exception:
            # A fault of ours, of which the rest of the daemon is to feel nothing.
            log.exception("interop.%s has failed, and is off until a restart", bridge.key)
            self._bridges.remove(bridge)
            self._lacking.append((bridge.key, "it has failed; the log says how"))


def open_bridges(interop: Interop, *, is_session: bool) -> Bridges:
    """Make those that are switched on, and say of each what it lacks here."""
    makers: list[tuple[str, bool, Callable[[], Bridge]]] = [
        ("low_memory_monitor", interop.low_memory_monitor, lambda: _low_memory_monitor(is_session)),
    ]
    bridges: list[Bridge] = []
    lacking: list[tuple[str, str]] = []
    for key, wanted, make in makers:
        if not wanted:
            continue
        try:
            bridges.append(make())
        except Lacking as what:
            lacking.append((key, str(what)))
            log.warning("interop.%s: %s", key, what)
    return Bridges(bridges, lacking)


def _low_memory_monitor(is_session: bool) -> Bridge:
    if is_session:
        raise Lacking("the system's bus is for the system's daemon: without --session")
    try:
        from lmkd.interop.bus import system_address
        from lmkd.interop.low_memory_monitor import LowMemoryMonitor
    except ImportError:
        raise Lacking(NO_JEEPNEY) from None
    return LowMemoryMonitor(system_address())
