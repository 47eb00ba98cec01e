"""Offer a socket as $MEMORY_PRESSURE_WATCH: programs on sd-event hear lmkd, and know nothing of it.

A program hears the system's level and those of the domains that it is in. For as long as a level that it wants lasts
it is woken again in each rest period, as a PSI trigger fires again in each window: who came meanwhile hears of it then.

Not for those that wait for EPOLLPRI, or open the path as a file: GLib from 2.89 on does both, and hears us over D-Bus.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Final

import trio

from lmkd.interop.pressure_listeners import PressureListeners
from lmkd.model import Level
from lmkd.policy.actions import Action, Broadcast

log = logging.getLogger("lmkd")

NAME: Final = "memory-pressure"
"""Of the socket, in the folder of our own."""
REPEAT_LEAST_S: Final = 0.1
"""Whatever the rest period is: it may be configured to be none."""
TURN_REST_S: Final = 0.02
"""Between two turns: a flood of connections takes 5% of a processor, and not all of it at our priority."""


class MemoryPressure:
    """Everybody who is connected to that socket. `removed` is called when it is closed."""

    key = "memory_pressure"

    def __init__(
        self,
        listener: socket.socket,
        path: str,
        cgroup_of: Callable[[int], str],
        rest_s: float,
        removed: Callable[[], None],
    ) -> None:
        self._listeners = PressureListeners(listener, cgroup_of, self._say_refused)
        self._path = path
        self._rest_s = max(rest_s, REPEAT_LEAST_S)
        self._removed = removed
        self._levels: dict[str, Level] = {}
        self._changed = trio.Event()

    @property
    def standing(self) -> str:
        count = len(self._listeners)
        listening = "1 program listens" if count == 1 else f"{count} programs listen"
        return f"MEMORY_PRESSURE_WATCH={self._path}: {listening}"

    def take(self, action: Action) -> None:
        """Keep a domain's level, to be told."""
        if isinstance(action, Broadcast):
            self._levels[action.domain] = action.level
            if action.level is Level.NORMAL:
                del self._levels[action.domain]
            self._changed.set()

    async def run(self) -> None:
        """Let programs in and wake them, for ever."""
        log.info(
            "interop.%s: programs are woken with MEMORY_PRESSURE_WATCH=%s", self.key, self._path
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._attend)
            nursery.start_soon(self._wake)

    def close(self) -> None:
        """Let go of all, and of the socket."""
        # While it still answers: once it does not, another daemon may take its place.
        self._removed()
        self._listeners.close()

    async def _attend(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._listeners.fileno())
            self._listeners.turn()
            await trio.sleep(TURN_REST_S)

    async def _wake(self) -> None:
        while True:
            # Who has just connected and written what it wants is known before it is woken, or not.
            self._listeners.turn()
            self._listeners.set_levels(self._levels)
            self._changed = trio.Event()
            while self._levels:
                with trio.move_on_after(self._rest_s):
                    await self._changed.wait()
                    break
                self._listeners.repeat()
            else:
                await self._changed.wait()

    def _say_refused(self, why: str) -> None:
        log.warning("interop.%s: %s", self.key, why)
