"""How the roll learns of processes: by the kernel's word of each, or by looking.

The process connector tells of every fork, exec and exit; where it is not to be had, or is not wanted, /proc is looked
through every few seconds, and every second while memory is short. Words that were lost end in a look at everything,
and one is taken anyway every few minutes: nobody tells when a process is moved to another cgroup.

To listen loads pyroute2 (12 MiB, 140 ms: FACTS), so `auto` listens only on a machine with a GiB of memory or more.
"""

from __future__ import annotations

import logging

import trio

from lmkd.config import Config
from lmkd.kernel.interface import Kernel, ProcessEvents
from lmkd.model import Level
from lmkd.service.roll import Roll

log = logging.getLogger("lmkd")

AUTO_LEAST_KIB = 1 << 20
PRESSED_LOOK_US = 1_000_000
FULL_LOOK_US = 300_000_000
STORM_REST_S = 0.02
"""Between two batches of words: what came and went within one is never looked at."""


class Births:
    """Keeps the roll. `source` is "netlink" or "scan"."""

    def __init__(
        self, kernel: Kernel, roll: Roll, events: ProcessEvents | None, scan_every_us: int
    ) -> None:
        self._kernel = kernel
        self._roll = roll
        self._events = events
        self._scope = trio.CancelScope()
        self.source = "scan" if events is None else "netlink"
        self.scan_every_us = scan_every_us
        self._looked_us = 0
        self._looked_at_all_us = 0

    def start(self, nursery: trio.Nursery) -> None:
        """Take in everybody who is there, and whoever comes from now on."""
        # Listening first: who is born during the look is told of.
        self._look_at_all()
        if self._events is not None:
            nursery.start_soon(self._listen, self._events)

    async def _listen(self, events: ProcessEvents) -> None:
        with self._scope:
            while True:
                await events.wait()
                batch, lost = events.take_nowait()
                if lost:
                    log.info("words of processes were lost: every process is looked at")
                    self._look_at_all()
                else:
                    self._roll.take(batch)
                await trio.sleep(STORM_REST_S)

    def look_if_due(self, level: Level) -> None:
        """Look for whom nobody told of, if it is time."""
        now_us = self._kernel.now_us()
        self._roll.look_at_young()
        if self._events is None:
            due_us = self.scan_every_us
            if level > Level.NORMAL:
                due_us = min(due_us, PRESSED_LOOK_US)
            if now_us - self._looked_us >= due_us:
                self._looked_us = now_us
                self._roll.look_for_new()
        if level is Level.NORMAL and now_us - self._looked_at_all_us >= FULL_LOOK_US:
            self._look_at_all()

    def _look_at_all(self) -> None:
        self._looked_us = self._looked_at_all_us = self._kernel.now_us()
        self._roll.look_at_all()

    def close(self) -> None:
        """Listen no more."""
        self._scope.cancel()
        if self._events is not None:
            self._events.close()


def open_births(kernel: Kernel, roll: Roll, config: Config) -> Births:
    """Return what keeps the roll, by the source that is configured; what it lacks is said in one line."""
    if config.process_events == "scan":
        return Births(kernel, roll, None, config.scan_every_us)
    total_kib = kernel.features().total_kib
    if config.process_events == "auto" and total_kib < AUTO_LEAST_KIB:
        return Births(kernel, roll, None, config.scan_every_us)
    opened = kernel.open_process_events()
    if isinstance(opened, str):
        log.warning("no process events (%s): new processes are looked for", opened)
        return Births(kernel, roll, None, config.scan_every_us)
    return Births(kernel, roll, opened, config.scan_every_us)
