"""Simulated memory over real processes, for a demonstration on a machine that cannot be filled
safely.

Processes, pidfds, signals and cgroups are the real kernel's, but only a few processes exist here:
those that the owner lends, some with all that they start. Memory is a pretence: a small total, of
which what those processes really hold is taken. Stalls are computed from the shortage by the
formula of the simulated kernel.

Invariant: no process that was not lent is ever listed, written or signalled; any may be looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import trio

from lmkd.kernel.cgroup_watch import NoCgroups
from lmkd.kernel.interface import NO_DETAILS
from lmkd.kernel.machine import Machine
from lmkd.kernel.probe import Features
from lmkd.kernel.shortage import full_share_permyriad, some_share_permyriad
from lmkd.kernel.signals import PidfdVictim
from lmkd.kernel.windows import StallWindow, default_windows
from lmkd.model import SYSTEM_DOMAIN, Details, Glance, Process, Reading

_LOOKS_APART_US = 20_000


class BorrowedKernel:
    """A Kernel of simulated memory that holds nothing but the lent processes."""

    def __init__(
        self,
        real: Machine,
        total_kib: int,
        lent: Callable[[], Collection[tuple[int, int]]],
        trees: Callable[[], Collection[tuple[int, int]]] = lambda: (),
    ) -> None:
        """`lent` returns the identities of what is lent, `trees` those of it that are lent with all they start."""
        self._real = real
        self._total_kib = total_kib
        self._lent = lent
        self._trees = trees

    def _pids(self) -> Collection[tuple[int, int]]:
        """Return who is here now."""
        lent, trees = self._lent(), self._trees()
        if not trees:
            return lent
        found = set(lent)
        pending = [pid for pid, ticks in trees if self._real.start_ticks(pid) == ticks]
        while pending:
            for child in self._real.child_pids(pending.pop()):
                ticks = self._real.start_ticks(child)
                if ticks is not None and (child, ticks) not in found:
                    found.add((child, ticks))
                    pending.append(child)
        return found

    def features(self) -> Features:
        found = self._real.features()
        return Features(
            psi="yes",
            cgroup_mount=None,
            memory_controller=False,
            own_cgroup=found.own_cgroup,
            hidepid=found.hidepid,
            swap_kib=0,
            zram=False,
            total_kib=self._total_kib,
            pidfd=found.pidfd,
            mrelease=found.mrelease,
            can_signal_others=found.can_signal_others,
            sys_resource=found.sys_resource,
            page_kib=found.page_kib,
        )

    def now_us(self) -> int:
        return self._real.now_us()

    def open_domain(self, domain: str) -> BorrowedDomain | None:
        if domain != SYSTEM_DOMAIN:
            return None
        return BorrowedDomain(self._total_kib, self.held_kib, self.now_us)

    def open_alarm(self) -> None:
        return None

    def held_kib(self) -> int:
        """What the lent processes hold now."""
        sizes = (self._real.size_kib(pid, start_ticks) for pid, start_ticks in self._pids())
        return sum(size for size in sizes if size is not None)

    def scan(self, domain: str, min_size_kib: int, details: Details = NO_DETAILS) -> list[Process]:
        if domain != SYSTEM_DOMAIN:
            return []
        listed = []
        for pid, start_ticks in self._pids():
            found = self._real.process(pid, details)
            if found is not None and found.start_ticks == start_ticks:
                listed.append(found)
        return [p for p in listed if p.size_kib >= min_size_kib]

    def pids(self) -> list[int]:
        return [
            pid for pid, start_ticks in self._pids() if self._real.start_ticks(pid) == start_ticks
        ]

    def own_kib(self, pids: Iterable[int]) -> dict[int, int]:
        lent = {pid for pid, _ in self._pids()}
        return self._real.own_kib(pid for pid in pids if pid in lent)

    def size_kib(self, pid: int, start_ticks: int) -> int | None:
        return self._real.size_kib(pid, start_ticks) if self._has(pid, start_ticks) else None

    def process(self, pid: int, details: Details = NO_DETAILS) -> Process | None:
        # Looking is free: a program is looked at when it registers, which is before it is lent.
        return self._real.process(pid, details)

    def start_ticks(self, pid: int) -> int | None:
        return self._real.start_ticks(pid)

    def glance(self, pid: int) -> Glance | None:
        return self._real.glance(pid)

    def child_pids(self, pid: int) -> list[int]:
        children, lent = self._real.child_pids(pid), self.pids()
        return [child for child in children if child in lent]

    def open_process_events(self) -> str:
        return (
            "memory is simulated, and only processes that were lent exist: they tell of themselves"
        )

    def set_oom_score_adj(self, pid: int, start_ticks: int, value: int) -> bool:
        if not self._has(pid, start_ticks):
            return False
        return self._real.set_oom_score_adj(pid, start_ticks, value)

    def open_victim(self, pid: int, start_ticks: int) -> PidfdVictim | None:
        return self._real.open_victim(pid, start_ticks) if self._has(pid, start_ticks) else None

    def cgroup_pids(self, path: str) -> list[int]:
        return []

    def watch_cgroups(self, globs: tuple[str, ...]) -> NoCgroups:
        return NoCgroups()

    def cgroup_owner(self, path: str) -> int | None:
        return None

    def set_oom_group(self, path: str, together: bool) -> bool | None:
        return None

    def freeze_cgroup(self, path: str, frozen: bool) -> bool:
        return False  # as kill_cgroup

    def note_kill(self, path: str, processes: int, kill_id: str) -> bool:
        return False

    def kill_cgroup(self, path: str) -> bool:
        return False  # a real cgroup may hold processes that were not lent

    async def wait_cgroup_empty(self, path: str) -> None:
        await trio.lowlevel.checkpoint()

    def _has(self, pid: int, start_ticks: int) -> bool:
        return (pid, start_ticks) in self._pids()


class BorrowedDomain:
    """The pretended system: stall totals grow by the shortage of the time between two looks."""

    def __init__(
        self, total_kib: int, held_kib: Callable[[], int], now_us: Callable[[], int]
    ) -> None:
        self._total_kib = total_kib
        self._held_kib = held_kib
        self._now_us = now_us
        self._looked_at_us = now_us()
        self._some_total_us = 0
        self._full_total_us = 0
        self._windows: tuple[StallWindow, ...] = default_windows("yes")
        self._due = False

    def read(self, now_us: int) -> Reading | None:
        """Measure the lent processes now."""
        held_kib = self._look()
        return Reading(
            domain=SYSTEM_DOMAIN,
            at_us=now_us,
            total_kib=self._total_kib,
            available_kib=self._total_kib - held_kib,
            some_total_us=self._some_total_us,
            full_total_us=self._full_total_us,
            anon_kib=held_kib,
            scanned_pages=self._some_total_us // 1000,
        )

    def _look(self) -> int:
        now_us = self._now_us()
        passed_us = max(0, now_us - self._looked_at_us)
        self._looked_at_us = now_us
        held_kib = min(self._held_kib(), self._total_kib)
        available_kib = self._total_kib - held_kib
        some_permyriad = some_share_permyriad(available_kib, self._total_kib)
        full_permyriad = full_share_permyriad(available_kib, self._total_kib)
        self._some_total_us += passed_us * some_permyriad // 10_000
        self._full_total_us += passed_us * full_permyriad // 10_000
        for window in self._windows:
            self._due |= window.fires(now_us, self._some_total_us, self._full_total_us)
        return held_kib

    async def wait_event(self) -> None:
        """Return when a pretended trigger fired. Looks 50 times a second: it has no kernel to
        wake it."""
        await trio.lowlevel.checkpoint()
        while True:
            self._look()
            if self._due:
                self._due = False
                return
            await trio.sleep(_LOOKS_APART_US / 1_000_000)

    def close(self) -> None:
        pass
