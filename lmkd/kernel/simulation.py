"""The physics of the simulated kernel: processes that grow, caches, swap, limits, stalls and the
OOM killer.

A whole small machine in integers, advanced to a time that is given; it never reads a clock and
never waits (lmkd.kernel.simulated does). It knows nothing of what is done about a shortage.

Invariants: the same calls at the same times give the same machine. Time advances in steps of 10
ms on a fixed grid, so that it does not matter how often anyone looks; processes exit at their
exact microsecond.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from lmkd.kernel.shortage import full_share_permyriad, some_begins_kib, some_share_permyriad
from lmkd.model import Process, is_within

STEP_US: Final = 10_000
_SWAP_OUT_KIB_PER_STEP: Final = 2_048
"""200 MiB/s, what zram with lzo takes on a small machine."""
_THROTTLED_OVER_HIGH_PERMYRIAD: Final = 9_500
"""Past memory.high the kernel puts allocating tasks to sleep, but lets them creep on
(mm/memcontrol.c)."""


class OnTerm(Enum):
    """What a simulated process does about SIGTERM."""

    EXITS = "exits"
    """The default action."""
    CATCHES = "catches"
    """Cleans up for its `cleanup_us`, then exits."""
    IGNORES = "ignores"


@dataclass(slots=True)
class SimProcess:
    """One process of the simulated machine."""

    pid: int
    start_ticks: int
    name: str
    exe: str
    ppid: int
    uid: int
    cgroup: str
    oom_score_adj: int
    anon_kib: int
    growth_kib_s: int
    on_term: OnTerm
    cleanup_us: int
    exit_us: int
    """From the deadly signal to the exit, in which the memory is still held."""
    protected: bool
    """Whether signals and writes are refused, as a process of another user does."""
    swap_kib: int = 0
    exits_at_us: int | None = None
    killed: bool = False
    released: bool = False
    unpaid_us_kib: int = 0
    """Growth smaller than a KiB, carried over: KiB times microseconds per second."""

    def as_process(self) -> Process:
        return Process(
            pid=self.pid,
            start_ticks=self.start_ticks,
            ppid=self.ppid,
            comm=self.name[:15],
            exe=self.exe,
            uid=self.uid,
            cgroup=self.cgroup,
            oom_score_adj=self.oom_score_adj,
            anon_kib=self.anon_kib,
            swap_kib=self.swap_kib,
            state="S" if self.exits_at_us is None else "R",
        )

    def die_at(self, at_us: int) -> None:
        if self.exits_at_us is None or at_us < self.exits_at_us:
            self.exits_at_us = at_us


@dataclass(slots=True)
class SimCgroup:
    """One cgroup, or the whole system under the path "/"."""

    path: str
    high_kib: int | None = None
    max_kib: int | None = None
    swap_max_kib: int | None = None
    file_kib: int = 0
    """Page cache that is charged to it, all of it droppable."""
    some_total_us: int = 0
    full_total_us: int = 0
    refault_file_pages: int = 0
    events_high: int = 0
    events_max: int = 0
    events_oom: int = 0
    events_oom_kill: int = 0
    forced_permyriad: tuple[int, int] | None = None
    """Shares of some and full that stand whatever the memory does."""

    @property
    def limit_kib(self) -> int | None:
        limits = [limit for limit in (self.high_kib, self.max_kib) if limit is not None]
        return min(limits) if limits else None

    def events(self) -> tuple[int, int, int, int]:
        return self.events_high, self.events_max, self.events_oom, self.events_oom_kill


@dataclass(slots=True)
class SimulatedMachine:
    """Memory, processes and cgroups, as of the time they were last advanced to."""

    total_kib: int
    reserved_kib: int
    page_cache_kib: int
    """The files that programs keep reading: what does not fit is read again, and that is a
    refault."""
    swap_kib: int
    zram_ratio_permyriad: int | None
    """Uncompressed size to memory needed; None: swap lies on a disk."""
    at_us: int = 0
    processes: dict[int, SimProcess] = field(default_factory=dict)
    cgroups: dict[str, SimCgroup] = field(default_factory=lambda: {"/": SimCgroup("/")})
    scanned_pages: int = 0
    oom_kills: list[tuple[int, str]] = field(default_factory=list)
    """Pid and name of what the simulated kernel's own OOM killer took."""

    def members(self, path: str) -> Iterator[SimProcess]:
        return (p for p in self.processes.values() if is_within(p.cgroup, path))

    def ancestors(self, path: str) -> Iterator[SimCgroup]:
        """The cgroup and all above it, the root last."""
        return (group for group in self.cgroups.values() if is_within(path, group.path))

    def swap_used_kib(self, path: str = "/") -> int:
        return sum(p.swap_kib for p in self.members(path))

    def zram_used_kib(self) -> int:
        if self.zram_ratio_permyriad is None:
            return 0
        return self.swap_used_kib() * 10_000 // self.zram_ratio_permyriad

    def swap_free_kib(self, path: str = "/") -> int:
        free_kib = self.swap_kib - self.swap_used_kib()
        for group in self.ancestors(path):
            if group.swap_max_kib is not None:
                free_kib = min(free_kib, group.swap_max_kib - self.swap_used_kib(group.path))
        return max(0, free_kib)

    def anon_kib(self, path: str = "/") -> int:
        return sum(p.anon_kib for p in self.members(path))

    def room_kib(self, path: str = "/") -> int:
        """What is left below the limit without any page cache; negative when it is broken."""
        limit_kib = self.cgroups[path].limit_kib
        if path == "/" or limit_kib is None:
            return self.total_kib - self.reserved_kib - self.anon_kib() - self.zram_used_kib()
        return limit_kib - self.anon_kib(path)

    def available_kib(self, path: str = "/") -> int:
        return max(0, self.room_kib(path))

    def file_lru_kib(self, path: str = "/") -> int:
        if path == "/":
            wanted_kib = self.page_cache_kib + sum(g.file_kib for g in self.cgroups.values())
        else:
            wanted_kib = sum(g.file_kib for g in self.cgroups.values() if is_within(g.path, path))
        return min(wanted_kib, self.available_kib(path))

    def size_limit_kib(self, path: str) -> int:
        """What the shortage of a domain is measured against."""
        limit_kib = None if path == "/" else self.cgroups[path].limit_kib
        return self.total_kib if limit_kib is None else limit_kib

    def next_exit_us(self) -> int | None:
        """When the next process exits, of those that are dying."""
        exits_us = [p.exits_at_us for p in self.processes.values() if p.exits_at_us is not None]
        return min(exits_us, default=None)

    def is_still(self) -> bool:
        """Whether nothing will change by itself, so that the time until the next exit can be
        skipped."""
        if any(p.growth_kib_s and p.exits_at_us is None for p in self.processes.values()):
            return False
        return all(
            group.forced_permyriad is None and not self._pressed(group)
            for group in self.cgroups.values()
        )

    def advance_towards(self, to_us: int) -> bool:
        """Let time pass up to the next step or exit, but not beyond `to_us`; False when it is
        reached.

        Between two calls the machine is consistent, so that whoever watches can look at every
        step.
        """
        self._bury()
        if self.at_us >= to_us:
            return False
        exit_us = self.next_exit_us()
        until_us = to_us if exit_us is None else min(to_us, exit_us)
        if self.is_still():
            self.at_us = until_us
        else:
            grid_us = self.at_us - self.at_us % STEP_US + STEP_US
            self.at_us = min(until_us, grid_us)
            if self.at_us == grid_us:
                self._step()
        self._bury()
        return True

    def _bury(self) -> None:
        for process in list(self.processes.values()):
            if process.exits_at_us is not None and process.exits_at_us <= self.at_us:
                del self.processes[process.pid]

    def _pressed(self, group: SimCgroup) -> bool:
        if group.path != "/" and group.limit_kib is None:
            return False
        if self.room_kib(group.path) < self._reclaim_begins_kib(group):
            return True
        return group.path == "/" and self.file_lru_kib() < self.page_cache_kib

    def _reclaim_begins_kib(self, group: SimCgroup) -> int:
        """The room under which idle pages go to swap: before anybody stalls, to keep some cache."""
        kept_kib = self.page_cache_kib // 2 if group.path == "/" else 0
        return some_begins_kib(self.size_limit_kib(group.path)) + kept_kib

    def _step(self) -> None:
        for process in list(self.processes.values()):
            if process.growth_kib_s and process.exits_at_us is None:
                self._grow(process)
        for group in self._leaves_first():
            if group.path == "/" or group.limit_kib is not None:
                self._reclaim(group)
        self._stall()

    def _leaves_first(self) -> list[SimCgroup]:
        return sorted(self.cgroups.values(), key=lambda group: -len(group.path))

    def _grow(self, process: SimProcess) -> None:
        process.unpaid_us_kib += process.growth_kib_s * STEP_US
        wanted_kib, process.unpaid_us_kib = divmod(process.unpaid_us_kib, 1_000_000)
        if wanted_kib <= 0:  # it gives memory back
            process.anon_kib = max(0, process.anon_kib + wanted_kib)
            return
        above = list(self.ancestors(process.cgroup))
        wanted_kib -= wanted_kib * max(map(self._throttle_permyriad, above)) // 10_000
        for group in above:
            wanted_kib = min(wanted_kib, self._room_made_kib(group, wanted_kib))
        process.anon_kib += wanted_kib

    def _throttle_permyriad(self, group: SimCgroup) -> int:
        if group.high_kib is not None and self.anon_kib(group.path) > group.high_kib:
            return _THROTTLED_OVER_HIGH_PERMYRIAD
        return self.shares_permyriad(group)[1]

    def _room_made_kib(self, group: SimCgroup, wanted_kib: int) -> int:
        """What of the wanted memory the group's hard limit lets through, after reclaim and the
        OOM killer."""
        if group.path != "/" and group.max_kib is None:
            return wanted_kib
        room_kib = self._hard_room_kib(group)
        if room_kib >= wanted_kib:
            return wanted_kib
        self._swap_out(group.path, wanted_kib - room_kib)
        for above in self._up_from(group.path):
            above.events_max += 1
        room_kib = self._hard_room_kib(group)
        if room_kib < wanted_kib:
            self._kill_for_want_of_memory(group)
        return max(0, room_kib)

    def _hard_room_kib(self, group: SimCgroup) -> int:
        if group.path == "/" or group.max_kib is None:
            return self.room_kib()
        return group.max_kib - self.anon_kib(group.path)

    def _reclaim(self, group: SimCgroup) -> None:
        short_kib = self._reclaim_begins_kib(group) - self.room_kib(group.path)
        if short_kib > 0:
            self._swap_out(group.path, short_kib)
            if group.path == "/":
                self.scanned_pages += short_kib // 40
        high_kib = group.high_kib
        if high_kib is not None and self.anon_kib(group.path) > high_kib:
            for above in self._up_from(group.path):
                above.events_high += 1
        missing_kib = self.page_cache_kib - self.file_lru_kib() if group.path == "/" else 0
        if missing_kib > 0:  # each page of it is wanted about once a second
            group.refault_file_pages += missing_kib * STEP_US // 4_000_000

    def _up_from(self, path: str) -> Iterator[SimCgroup]:
        return (group for group in self.ancestors(path) if group.path != "/")

    def _swap_out(self, path: str, want_kib: int) -> None:
        left_kib = min(want_kib, self.swap_free_kib(path), _SWAP_OUT_KIB_PER_STEP)
        anon_kib = self.anon_kib(path)
        by_size = sorted(self.members(path), key=operator.attrgetter("anon_kib"), reverse=True)
        for process in by_size:
            if left_kib <= 0 or anon_kib <= 0:
                return
            out_kib = min(process.anon_kib, -(-left_kib * process.anon_kib // anon_kib))
            anon_kib -= process.anon_kib
            left_kib -= out_kib
            process.anon_kib -= out_kib
            process.swap_kib += out_kib

    def _stall(self) -> None:
        # Stalls count for every ancestor: a cgroup that is throttled at its own limit shows in
        # the system's `some` too, as on the real kernel.
        shares = {path: self.shares_permyriad(group) for path, group in self.cgroups.items()}
        for path, group in self.cgroups.items():
            if group.forced_permyriad is not None:
                some, full = group.forced_permyriad
            else:
                within = [share for below, share in shares.items() if is_within(below, path)]
                some = max(share[0] for share in within)
                full = max(share[1] for share in within)
            group.some_total_us += some * STEP_US // 10_000
            group.full_total_us += full * STEP_US // 10_000

    def shares_permyriad(self, group: SimCgroup) -> tuple[int, int]:
        """The shares of some and full that the group's own shortage causes."""
        if group.forced_permyriad is not None:
            return group.forced_permyriad
        if group.path != "/" and group.limit_kib is None:
            return 0, 0
        room_kib, limit_kib = self.room_kib(group.path), self.size_limit_kib(group.path)
        return some_share_permyriad(room_kib, limit_kib), full_share_permyriad(room_kib, limit_kib)

    def _kill_for_want_of_memory(self, group: SimCgroup) -> None:
        """The kernel's own OOM killer (mm/oom_kill.c): the worst of size and oom_score_adj."""
        for above in self._up_from(group.path):
            above.events_oom += 1
        if any(p.exits_at_us is not None for p in self.members(group.path)):
            return  # one is dying already: wait for it
        limit_kib = self.size_limit_kib(group.path)
        candidates = [p for p in self.members(group.path) if p.oom_score_adj > -1000]
        if not candidates:
            return
        worst = max(
            candidates,
            key=lambda p: (p.anon_kib + p.swap_kib + p.oom_score_adj * limit_kib // 1000, p.pid),
        )
        worst.killed = True
        worst.die_at(self.at_us + worst.exit_us)
        self.oom_kills.append((worst.pid, worst.name))
        for above in self._up_from(worst.cgroup):
            above.events_oom_kill += 1
