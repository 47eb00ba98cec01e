"""Simulations as subscribers hear them: a level that is not there, and after a while again the one that is.

What apps are told of it is for the heart, which is fed `SimulationAsked` and `SimulationEnded`. Who may ask for one is
for `requests`.
One that a client has for itself ends with its connection; one for everybody goes on to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lmkd.model import Level
from lmkd.policy.events import SimulationAsked, SimulationEnded
from lmkd.service.client import Client
from lmkd.service.describing import level_frame
from lmkd.service.engine import Engine
from lmkd.service.server import Server, pressure_frame

Later = Callable[[float, Callable[[], None]], Callable[[], None]]
"""Runs something after so many seconds, and returns what calls that off."""


@dataclass(frozen=True, slots=True)
class Simulations:
    """Starts and ends them."""

    engine: Engine
    later: Later
    _own: dict[Client, Callable[[], None]] = field(default_factory=dict)
    """What ends the wait for the end of each client's simulation for itself."""

    def begin_for_one(self, server: Server, client: Client, level: Level, duration_ms: int) -> None:
        """Have a client, and its app, hear of this level for a while."""
        if client.broken:
            return
        reason = "simulated for this client alone"
        for name in server.subscribers.domains_of(client):
            server.tell_level(client, name, pressure_frame(name, level, reason, 0, simulated=True))
        apps = (client.app,) if client.app is not None else ()
        self._feed(client, apps, level, duration_ms)

        def end() -> None:
            client.simulating = False
            self.engine.feed(SimulationEnded())
            self._own.pop(client, None)
            for name in server.subscribers.domains_of(client):
                server.tell_level(client, name, level_frame(self.engine.state, name))

        self._own[client] = self.later(duration_ms / 1000, end)

    def begin_for_all(self, server: Server, client: Client, level: Level, duration_ms: int) -> None:
        """Have everybody hear of this level for a while."""
        names = list(self.engine.state.domains)
        for name in names:
            frame = pressure_frame(name, level, "simulated for everybody", 0, simulated=True)
            server.broadcast_frame(name, frame)
        self._feed(client, tuple(self.engine.state.apps), level, duration_ms)

        def end() -> None:
            client.simulating = False
            self.engine.feed(SimulationEnded())
            for name in names:
                server.broadcast_frame(name, level_frame(self.engine.state, name))

        self.later(duration_ms / 1000, end)

    def forget(self, client: Client) -> None:
        """A client has left, and what it simulated for itself with it."""
        end = self._own.pop(client, None)
        if end is not None:
            end()

    def _feed(self, client: Client, apps: tuple[int, ...], level: Level, duration_ms: int) -> None:
        client.simulating = True
        self.engine.feed(SimulationAsked(apps, level, duration_ms * 1000))
