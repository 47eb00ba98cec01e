"""Watch the domains: read each one as often as the heart wants, and at once when the kernel says something.

A wake-up is only a reason to read; it may be spurious, and under a breached limit there is one every 10-20 ms, so
between two readings there is always a rest. A cgroup that is not there, or goes, is looked for again once a second
in the rhythm of the system's own readings: no timer of its own.
"""

from __future__ import annotations

import logging

import trio

from lmkd.kernel.files import MalformedKernelFile
from lmkd.kernel.interface import Domain, Kernel
from lmkd.model import SYSTEM_DOMAIN, Level
from lmkd.policy.events import DomainClosed, DomainOpened, ReadingTaken
from lmkd.service.engine import Engine

log = logging.getLogger("lmkd")

LOOK_AGAIN_US = 1_000_000


class Monitor:
    """Keeps one watching task for each domain that is there."""

    def __init__(self, kernel: Kernel, engine: Engine, nursery: trio.Nursery) -> None:
        self._kernel = kernel
        self._engine = engine
        self._nursery = nursery
        self._watched: dict[str, trio.CancelScope] = {}
        self._looked_us = 0
        self._wanted: tuple[str, ...] = ()
        self._absent_said: set[str] = set()
        self._unreadable_said: set[str] = set()

    def follow(self, domains: tuple[str, ...]) -> None:
        """Watch these domains and no others, from now on."""
        for domain in set(self._watched) - set(domains):
            self._watched[domain].cancel()
        self._wanted = domains
        self._look()

    def _look(self) -> None:
        self._looked_us = self._kernel.now_us()
        for name in self._wanted:
            if name in self._watched:
                continue
            domain = self._kernel.open_domain(name)
            if domain is None:
                if name not in self._absent_said:
                    self._absent_said.add(name)
                    log.warning("domain %s is not there; it is looked for once a second", name)
                continue
            self._absent_said.discard(name)
            scope = trio.CancelScope()
            self._watched[name] = scope
            self._engine.feed(DomainOpened(name))
            self._nursery.start_soon(self._watch, name, domain, scope)

    async def _watch(self, name: str, domain: Domain, scope: trio.CancelScope) -> None:
        try:
            with scope:
                while self._read(name, domain):
                    await self._wait(name, domain)
        finally:
            domain.close()
        # Not when the whole daemon leaves: then nothing is over but our watching, and `bye` says that.
        del self._watched[name]
        self._engine.feed(DomainClosed(name))
        if not scope.cancelled_caught:
            log.info("domain %s is gone", name)

    def _read(self, name: str, domain: Domain) -> bool:
        try:
            reading = domain.read(self._kernel.now_us())
        except MalformedKernelFile as error:
            if name not in self._unreadable_said:
                self._unreadable_said.add(name)
                log.error("domain %s cannot be read: %s", name, error)
            return True
        if reading is None:
            return False
        self._unreadable_said.discard(name)
        self._engine.feed(ReadingTaken(reading))
        absent = len(self._watched) < len(self._wanted)
        if name == SYSTEM_DOMAIN and absent and reading.at_us - self._looked_us >= LOOK_AGAIN_US:
            self._look()
        return True

    async def _wait(self, name: str, domain: Domain) -> None:
        read_us = self._kernel.now_us()
        # Without a reading it would be at once, again and again.
        wake_us = max(self._engine.wake_in_us(name), self._engine.state.settings.read_emergency_us)
        with trio.move_on_after(wake_us / 1_000_000) as asleep:
            await domain.wait_event()
        if asleep.cancelled_caught:
            return
        # Rest after a wake-up and not before: asleep, each reading then costs one wake-up and not two.
        left_us = min(self._rest_us(name), wake_us) - (self._kernel.now_us() - read_us)
        if left_us > 0:
            await trio.sleep(left_us / 1_000_000)

    def _rest_us(self, name: str) -> int:
        """How long after a reading an event may bring the next: what is read on schedule needs no waking."""
        state = self._engine.state
        if state.domains[name].level > Level.NORMAL:
            return state.settings.read_pressed_us
        return state.settings.read_emergency_us
