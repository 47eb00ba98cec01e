"""How the roll learns of processes: by the kernel's word of each, or by looking.

The process connector tells of every fork, exec and exit; where it is not to be had, or is not wanted, /proc is looked
through every few seconds, and every second while memory is short. Words that were lost end in a look at everything,
and one is taken anyway every few minutes: nobody tells when a process is moved to another cgroup.

To listen loads pyroute2 (12 MiB, 140 ms: FACTS), so `auto` listens only on a machine with a GiB of memory or more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import trio

from lmkd.config import Config
from lmkd.kernel.files import MalformedKernelFile
from lmkd.kernel.interface import Kernel, ProcessEvents
from lmkd.model import Level, ProcessEvent, ProcessEventKind
from lmkd.service.roll import Roll

log = logging.getLogger("lmkd")

EXIT = ProcessEventKind.EXIT
AUTO_LEAST_KIB = 1 << 20
PRESSED_LOOK_US = 1_000_000
LOOKS_CALM = 1_000
LOOKS_PRESSED = 4
"""Processes read after one reading, at 150 us each. Short of memory, a reading is due every 10 to 100 ms, and a bomb
must not keep it waiting: its members' places can."""
FULL_LOOK_US = 300_000_000
STORM_REST_S = 0.02
"""Between two batches of words: what came and went within one is never looked at."""
WORDS_A_TURN = 256
"""Taken at a time, then it is others' turn: each is a read or two of /proc, 20-100 us."""
REST_FOR_LOOK = 4
"""How many times as long as a look at all took is rested after it: while more is lost than is taken, a fifth of the
time goes into looking."""


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
        self._looked_at_new = True
        """Whether the last look for newcomers came to all of them."""
        self._looked_at_all_us = 0
        self._malformed_said = False

    def start(self, nursery: trio.Nursery) -> None:
        """Take in everybody who is there, and whoever comes from now on."""
        # Listening first: who is born during the look is told of.
        self._go_on_after(self._look_at_all)
        if self._events is not None:
            nursery.start_soon(self._listen, self._events)

    async def _listen(self, events: ProcessEvents) -> None:
        with self._scope:
            while True:
                await events.wait()
                batch, lost = events.take_nowait()
                rest_s = STORM_REST_S
                if lost:
                    log.info("words of processes were lost: every process is looked at")
                    self._go_on_after(self._look_at_all)
                    took_us = self._kernel.now_us() - self._looked_us
                    rest_s = max(rest_s, REST_FOR_LOOK * took_us / 1_000_000)
                else:
                    await self._take(batch)
                await trio.sleep(rest_s)

    async def _take(self, batch: list[ProcessEvent]) -> None:
        """Take words, some at a time; of those whose exit is among them only that."""
        ended = {event.pid: n for n, event in enumerate(batch) if event.kind is EXIT}
        left = [event for n, event in enumerate(batch) if ended.get(event.pid, -1) <= n]
        for begin in range(0, len(left), WORDS_A_TURN):
            part = left[begin : begin + WORDS_A_TURN]
            if not self._go_on_after(partial(self._roll.take, part)):
                self._go_on_after(self._look_at_all)  # for those of the part that were not come to
            await trio.lowlevel.checkpoint()

    def _go_on_after(self, look: Callable[[], None]) -> bool:
        """Whether a look was taken to its end; a file in it that cannot be understood costs that look, and no more."""
        try:
            look()
        except MalformedKernelFile as error:
            if not self._malformed_said:
                self._malformed_said = True
                log.error("a process cannot be read, now and perhaps again: %s", error)
            return False
        return True

    def look_if_due(self, level: Level) -> None:
        """Look for whom nobody told of, if it is time."""
        self._go_on_after(partial(self._look_if_due, level))

    def _look_if_due(self, level: Level) -> None:
        now_us = self._kernel.now_us()
        pressed = level > Level.NORMAL
        most = LOOKS_PRESSED if pressed else LOOKS_CALM
        self._roll.look_at_young(most)
        if self._events is None:
            due_us = min(self.scan_every_us, PRESSED_LOOK_US) if pressed else self.scan_every_us
            if not self._looked_at_new or now_us - self._looked_us >= due_us:
                self._looked_us = now_us
                self._looked_at_new = self._roll.look_for_new(most)
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
