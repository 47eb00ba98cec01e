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
from typing import Final

from lmkd.cgroup_paths import parent_path, paths_up
from lmkd.kernel.marks import strongest
from lmkd.kernel.shortage import full_share_permyriad, some_begins_kib, some_share_permyriad
from lmkd.kernel.simulation_state import SimCgroup, SimProcess
from lmkd.model import Details, Mark, Process, is_within

STEP_US: Final = 10_000
_SWAP_OUT_KIB_PER_STEP: Final = 2_048
"""200 MiB/s, what zram with lzo takes on a small machine."""
_THROTTLED_OVER_HIGH_PERMYRIAD: Final = 9_500
"""Past memory.high the kernel puts allocating tasks to sleep, but lets them creep on
(mm/memcontrol.c)."""


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
    exited: list[int] = field(default_factory=list)
    """Whose exit nobody has taken note of yet."""
    frozen: set[str] = field(default_factory=set)
    """Paths of the frozen cgroups."""
    _dying: dict[int, SimProcess] = field(default_factory=dict)
    _children: dict[int, set[int]] = field(default_factory=dict)

    def add(self, process: SimProcess) -> None:
        """Let a process begin."""
        self.processes[process.pid] = process
        self._children.setdefault(process.ppid, set()).add(process.pid)

    def die_at(self, process: SimProcess, at_us: int) -> None:
        """Let a process exit then, unless it does before."""
        if process.exits_at_us is None or at_us < process.exits_at_us:
            process.exits_at_us = at_us
        self._dying[process.pid] = process

    def child_pids(self, pid: int) -> list[int]:
        return sorted(self._children.get(pid, ()))

    def make_cgroup(self, path: str) -> list[str]:
        """Make a cgroup and what is missing above it; return the paths of what was made, the root's side first."""
        made: list[str] = []
        for each in reversed(paths_up(path)):
            if each not in self.cgroups:
                self.cgroups[each] = SimCgroup(each)
                self.cgroups[parent_path(each)].children += 1
                made.append(each)
        return made

    def remove_cgroup(self, path: str) -> None:
        """Remove a cgroup; raises ValueError when it holds a process or another cgroup."""
        if self.cgroups[path].children or any(self.members(path)):
            raise ValueError(f"cgroup {path} is not empty")
        del self.cgroups[path]
        self.cgroups[parent_path(path)].children -= 1
        self.frozen.discard(path)

    def members(self, path: str) -> Iterator[SimProcess]:
        return (p for p in self.processes.values() if is_within(p.cgroup, path))

    def ancestors(self, path: str) -> list[SimCgroup]:
        """The cgroup and all above it, the root last."""
        return [self.cgroups[each] for each in paths_up(path) if each in self.cgroups]

    def describe(self, process: SimProcess, details: Details, domain: str) -> Process:
        """Describe a process as a scan of the domain's path sees it."""
        parent = self.processes.get(process.ppid)
        mark = process.mark
        watched = self.cgroups.get(domain)
        owners = (0,) if watched is None else (0, watched.owner)
        for group in self.ancestors(process.cgroup):
            # the rule of lmkd.kernel.marks; only the privileged can write the mark to prefer
            if group.mark is Mark.PREFER or group.owner in owners:
                mark = strongest(mark, group.mark)
        return process.as_process(details, "" if parent is None else parent.comm, mark)

    def is_paused(self, process: SimProcess) -> bool:
        """Whether it is stopped, or frozen with its cgroup."""
        if process.stopped or not self.frozen:
            return process.stopped
        return any(path in self.frozen for path in paths_up(process.cgroup))

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

    def narrowest(self, path: str) -> SimCgroup | None:
        """The group that leaves the least of the path and those above it; None where none has a limit that binds."""
        limited = self._limited(path)
        return min(limited, key=lambda group: self.room_kib(group.path)) if limited else None

    def least_limit_kib(self, path: str) -> int:
        """The least limit of the path and those above it; what the machine has, where there is none."""
        return min(map(self.limit_of_kib, self._limited(path)), default=self.total_kib)

    def _limited(self, path: str) -> list[SimCgroup]:
        return [g for g in self._up_from(path) if self.limit_of_kib(g) < self.total_kib]

    def limit_of_kib(self, group: SimCgroup) -> int:
        """What the shortage of one group is measured against."""
        limit_kib = None if group.path == "/" else group.limit_kib
        return self.total_kib if limit_kib is None else limit_kib

    def swap_limit_kib(self, path: str) -> int:
        limits_kib = (g.swap_max_kib for g in self.ancestors(path) if g.swap_max_kib is not None)
        return min(self.swap_kib, min(limits_kib, default=self.swap_kib))

    def available_kib(self, path: str = "/") -> int:
        narrowest = self.narrowest(path)
        return max(0, self.room_kib("/" if narrowest is None else narrowest.path))

    def file_lru_kib(self, path: str = "/") -> int:
        if path == "/":
            wanted_kib = self.page_cache_kib + sum(g.file_kib for g in self.cgroups.values())
        else:
            wanted_kib = sum(g.file_kib for g in self.cgroups.values() if is_within(g.path, path))
        return min(wanted_kib, self.available_kib(path))

    def next_exit_us(self) -> int | None:
        """When the next process exits, of those that are dying."""
        exits_us = [p.exits_at_us for p in self._dying.values() if p.exits_at_us is not None]
        return min(exits_us, default=None)

    def is_still(self) -> bool:
        """Whether nothing will change by itself, so that the time until the next exit can be
        skipped."""
        if any(self._is_growing(p) for p in self.processes.values()):
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
        if not self._dying:
            return
        for process in list(self._dying.values()):
            if process.exits_at_us is not None and process.exits_at_us <= self.at_us:
                self._end(process)

    def _end(self, process: SimProcess) -> None:
        del self._dying[process.pid], self.processes[process.pid]
        self._children.get(process.ppid, set()).discard(process.pid)
        for orphan in self._children.pop(process.pid, set()):
            self.processes[orphan].ppid = 1
            self._children.setdefault(1, set()).add(orphan)
        self.exited.append(process.pid)

    def _is_growing(self, process: SimProcess) -> bool:
        if not process.growth_kib_s or process.exits_at_us is not None:
            return False
        return not self.is_paused(process)

    def _pressed(self, group: SimCgroup) -> bool:
        if group.path != "/" and group.limit_kib is None:
            return False
        if self.room_kib(group.path) < self._reclaim_begins_kib(group):
            return True
        return group.path == "/" and self.file_lru_kib() < self.page_cache_kib

    def _reclaim_begins_kib(self, group: SimCgroup) -> int:
        """The room under which idle pages go to swap: before anybody stalls, to keep some cache."""
        kept_kib = self.page_cache_kib // 2 if group.path == "/" else 0
        return some_begins_kib(self.limit_of_kib(group)) + kept_kib

    def _step(self) -> None:
        for process in list(self.processes.values()):
            if self._is_growing(process):
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
        above = self.ancestors(process.cgroup)
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

    def _up_from(self, path: str) -> list[SimCgroup]:
        return [group for group in self.ancestors(path) if group.path != "/"]

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
        room_kib, limit_kib = self.room_kib(group.path), self.limit_of_kib(group)
        return some_share_permyriad(room_kib, limit_kib), full_share_permyriad(room_kib, limit_kib)

    def _kill_for_want_of_memory(self, group: SimCgroup) -> None:
        """The kernel's own OOM killer (mm/oom_kill.c): the worst of size and oom_score_adj."""
        for above in self._up_from(group.path):
            above.events_oom += 1
        if any(p.exits_at_us is not None for p in self.members(group.path)):
            return  # one is dying already: wait for it
        limit_kib = self.limit_of_kib(group)
        candidates = [p for p in self.members(group.path) if p.oom_score_adj > -1000]
        if not candidates:
            return
        worst = max(
            candidates,
            key=lambda p: (p.anon_kib + p.swap_kib + p.oom_score_adj * limit_kib // 1000, p.pid),
        )
        for process in self._who_dies_with(worst, group):
            process.dying = True
            self.die_at(process, self.at_us + process.exit_us)
            self.oom_kills.append((process.pid, process.name))
            for above in self._up_from(process.cgroup):
                above.events_oom_kill += 1

    def _who_dies_with(self, worst: SimProcess, group: SimCgroup) -> list[SimProcess]:
        """memory.oom.group: of the groups below the shortage the topmost that has it dies whole, but for the exempt."""
        together = [
            each
            for each in self._up_from(worst.cgroup)
            if each.oom_group and is_within(each.path, group.path)
        ]
        if not together:
            return [worst]
        return [p for p in self.members(together[-1].path) if p.oom_score_adj > -1000]
