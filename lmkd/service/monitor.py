"""Watch the domains: read each one as often as the heart wants, and at once when the kernel says something.

A wake-up is only a reason to read; it may be spurious, and under a breached limit there is one every 10-20 ms, so
between two readings there is always a rest. Which cgroups there are that the configuration names is told by the
kernel as they come and go. One that is there and cannot be watched yet, for want of a memory controller or of room, is
tried again once a second in the rhythm of the system's own readings: no timer of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from lmkd.cgroup_paths import is_glob
from lmkd.kernel.files import MalformedKernelFile
from lmkd.kernel.interface import CgroupWatch, Domain, Kernel
from lmkd.model import SYSTEM_DOMAIN, Level
from lmkd.policy.events import DomainClosed, DomainOpened, ReadingTaken
from lmkd.service.engine import Engine

log = logging.getLogger("lmkd")

LOOK_AGAIN_US = 1_000_000
GROUPS_REST_S = 0.05
"""Between two looks at which cgroups there are: a thousand that come at once are one look."""
DOMAINS_MOST = 512
"""Watched at a time; each costs about ten descriptors."""
ASKED_MOST = DOMAINS_MOST // 2
"""Of those, that are watched only because somebody listens: anybody may, to as many as he makes in a group of his."""
PRESSED_AT_PACE = 8
"""So many pressed cgroups are read as often as they ask for, in an emergency every 10 ms; more of them share that. A
reading takes 50-100 us: 256 groups that anybody may make and press would else take all of a processor."""


class Monitor:
    """Keeps one watching task for each domain that is there.

    `looking` is called when the system has been read and before that is judged, `looked` afterwards.
    """

    def __init__(
        self,
        kernel: Kernel,
        engine: Engine,
        nursery: trio.Nursery,
        looked: Callable[[], None] = lambda: None,
        looking: Callable[[], None] = lambda: None,
    ) -> None:
        self._kernel = kernel
        self._engine = engine
        self._nursery = nursery
        self._looked = looked
        self._looking = looking
        self._watched: dict[str, trio.CancelScope] = {}
        self._settled_us = 0
        self._globs: tuple[str, ...] = ()
        self._groups: CgroupWatch | None = None
        self._groups_scope = trio.CancelScope()
        self._configured: frozenset[str] = frozenset()
        self._asked: set[str] = set()
        """Those that somebody listens to, configured or not."""
        self._absent: set[str] = set()
        """Those that are wanted and cannot be watched now."""
        self._absent_said: set[str] = set()
        self._unreadable_said: set[str] = set()
        self._crowded_said = False
        self._pressed: set[str] = set()

    def follow(self, globs: tuple[str, ...]) -> None:
        """Watch the system, and the cgroups that these globs name, from now on."""
        if self._groups is None or globs != self._globs:
            self._groups_scope.cancel()
            if self._groups is not None:
                self._groups.close()
            self._globs = globs
            self._groups_scope = trio.CancelScope()
            self._groups = self._kernel.watch_cgroups(globs)
            self._nursery.start_soon(self._follow_groups, self._groups, self._groups_scope)
        self._look()

    def want(self, domain: str, wanted: bool) -> None:
        """Watch a cgroup for as long as somebody listens to it."""
        if wanted:
            self._asked.add(domain)
        else:
            self._asked.discard(domain)
        if domain not in self._configured and domain != SYSTEM_DOMAIN:
            self._settle()

    def close(self) -> None:
        """Let go of what tells of cgroups."""
        self._groups_scope.cancel()
        if self._groups is not None:
            self._groups.close()

    async def _follow_groups(self, groups: CgroupWatch, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                await groups.wait_changed()
                self._look()
                await trio.sleep(GROUPS_REST_S)

    def _look(self) -> None:
        assert self._groups is not None
        self._configured = self._groups.paths()
        self._settle()

    def _settle(self) -> None:
        """Watch what is wanted, as far as there is room, and nothing else."""
        self._settled_us = self._kernel.now_us()
        named = {SYSTEM_DOMAIN, *self._configured}
        wanted = named | self._asked
        for name in self._watched.keys() - wanted:
            self._watched[name].cancel()
        self._say_absent()
        self._absent = set()
        only_asked = len(self._watched.keys() - named)
        for name in sorted(
            wanted - self._watched.keys(),
            key=lambda one: (one != SYSTEM_DOMAIN, one not in named, one),
        ):
            if name not in named:
                only_asked += 1
            if len(self._watched) >= DOMAINS_MOST or only_asked > ASKED_MOST:
                self._say_crowded(len(wanted))
                self._absent.add(name)  # until there is room
                return
            domain = self._kernel.open_domain(name)
            if domain is None:
                self._absent.add(name)
                continue
            scope = trio.CancelScope()
            self._watched[name] = scope
            self._engine.feed(DomainOpened(name))
            self._nursery.start_soon(self._watch, name, domain, scope)

    def _say_absent(self) -> None:
        """Say once of each cgroup that is named in full that it is not there; globs may name none."""
        for glob in self._globs:
            if is_glob(glob):
                continue
            if glob in self._watched:
                self._absent_said.discard(glob)
            elif glob not in self._configured and glob not in self._absent_said:
                self._absent_said.add(glob)
                log.warning("domain %s is not there; it is watched when it comes", glob)

    def _say_crowded(self, wanted: int) -> None:
        if not self._crowded_said:
            self._crowded_said = True
            log.warning(
                "%d cgroups are to be watched: more than %d are not, nor more than %d that no [[domain]] names",
                wanted,
                DOMAINS_MOST,
                ASKED_MOST,
            )

    async def _watch(self, name: str, domain: Domain, scope: trio.CancelScope) -> None:
        try:
            with scope:
                while self._read(name, domain):
                    await self._wait(name, domain)
        finally:
            domain.close()
            self._pressed.discard(name)
        # Not when the whole daemon leaves: then nothing is over but our watching, and `bye` says that.
        del self._watched[name]
        self._unreadable_said.discard(name)
        self._engine.feed(DomainClosed(name))
        if name in self._configured or name in self._asked:
            self._absent.add(name)  # it may be another one of that name already
            if scope.cancelled_caught:
                self._settle()  # it is wanted again since it was given up, and is still there
        if name in self._globs:
            log.info("domain %s is gone", name)

    def _read(self, name: str, domain: Domain) -> bool:
        try:
            reading = domain.read(self._kernel.now_us())
            if name == SYSTEM_DOMAIN:
                self._looking()
            if reading is not None:
                self._engine.feed(ReadingTaken(reading))  # which may look at processes
        except MalformedKernelFile as error:
            if name not in self._unreadable_said:
                self._unreadable_said.add(name)
                log.error("domain %s cannot be read: %s", name, error)
            return True
        if reading is None:
            return False
        self._unreadable_said.discard(name)
        if self._engine.state.domains[name].level > Level.NORMAL:
            self._pressed.add(name)
        else:
            self._pressed.discard(name)
        if name == SYSTEM_DOMAIN:
            if self._absent and reading.at_us - self._settled_us >= LOOK_AGAIN_US:
                self._settle()
            self._looked()
        return True

    async def _wait(self, name: str, domain: Domain) -> None:
        read_us = self._kernel.now_us()
        # Without a reading it would be at once, again and again.
        least_us = self._engine.state.settings.of(name).read_emergency_us
        if name != SYSTEM_DOMAIN:
            least_us = least_us * max(len(self._pressed), PRESSED_AT_PACE) // PRESSED_AT_PACE
        wake_us = max(self._engine.wake_in_us(name), least_us)
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
        settings = state.settings.of(name)
        if state.domains[name].level > Level.NORMAL:
            return settings.read_pressed_us
        return settings.read_emergency_us
