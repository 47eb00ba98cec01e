"""A simulated kernel: a small machine that lives by trio's clock, so that MockClock can run its
day in a moment.

It offers what lmkd.kernel.interface asks for; the levers for tests and demonstrations are in
lmkd.kernel.simulated_levers, the machine itself in lmkd.kernel.simulation. It does not decide what dies, but for its
own OOM killer, which is there for the same reason as the real one.
"""

from __future__ import annotations

from collections.abc import Iterable

from lmkd.kernel.cgroup_watch import NoCgroups
from lmkd.kernel.interface import NO_DETAILS
from lmkd.kernel.simulated_handles import (
    SimulatedCgroupWatch,
    SimulatedDomain,
    SimulatedProcessEvents,
    SimulatedVictim,
)
from lmkd.kernel.simulated_levers import Levers, SentSignal, path_of
from lmkd.kernel.simulation_state import OnTerm, SimCgroup
from lmkd.model import SYSTEM_DOMAIN, Details, Glance, Process, Reading, Signal

__all__ = ["OnTerm", "SentSignal", "SimulatedKernel"]


class SimulatedKernel(Levers):
    """A Kernel whose memory, processes and time are invented."""

    def open_domain(self, domain: str) -> SimulatedDomain | None:
        self.advance()
        if domain != SYSTEM_DOMAIN and not self._features.memory_controller:
            return None
        group = self.machine.cgroups.get(path_of(domain))
        if group is None:
            return None
        watched = SimulatedDomain(self, domain, group)
        self._domains.append(watched)
        return watched

    def _read(self, domain: str, group: SimCgroup, now_us: int) -> Reading | None:
        self.advance()
        machine, path = self.machine, group.path
        if machine.cgroups.get(path) is not group:
            return None
        is_system = domain == SYSTEM_DOMAIN
        has_psi = self._features.psi in ("yes", "unprivileged")
        swap_free_kib = machine.swap_free_kib(path)
        narrowest = machine.narrowest(path)
        on_zram = machine.zram_ratio_permyriad is not None
        high, at_max, oom, oom_kill = group.events()
        return Reading(
            domain=domain,
            at_us=now_us,
            total_kib=machine.least_limit_kib(path),
            available_kib=machine.available_kib(path),
            some_total_us=group.some_total_us if has_psi else None,
            full_total_us=group.full_total_us if has_psi else None,
            anon_kib=machine.anon_kib(path),
            swap_total_kib=machine.swap_limit_kib(path),
            swap_free_kib=swap_free_kib,
            zram_free_kib=swap_free_kib if on_zram else 0,
            zram_stored_kib=machine.swap_used_kib() if on_zram else 0,
            zram_used_kib=machine.zram_used_kib(),
            file_lru_kib=machine.file_lru_kib(path),
            refault_file_pages=group.refault_file_pages,
            limited_by="" if narrowest is None else narrowest.path,
            scanned_pages=machine.scanned_pages if is_system else None,
            events_high=None if is_system else high,
            events_max=None if is_system else at_max,
            events_oom=None if is_system else oom,
            events_oom_kill=None if is_system else oom_kill,
        )

    def open_alarm(self) -> None:
        return None  # its time passes in the loop that would have to hang

    def scan(self, domain: str, min_size_kib: int, details: Details = NO_DETAILS) -> list[Process]:
        self.advance()
        path = path_of(domain)
        return [
            self.machine.describe(process, details, path)
            for process in self.machine.members(path)
            if process.anon_kib + process.swap_kib >= min_size_kib
        ]

    def pids(self) -> list[int]:
        self.advance()
        return list(self.machine.processes)

    def own_kib(self, pids: Iterable[int]) -> dict[int, int]:
        self.advance()
        there = self.machine.processes
        return {pid: there[pid].anon_kib for pid in pids if pid in there}

    def size_kib(self, pid: int, start_ticks: int) -> int | None:
        found = self.find(pid, start_ticks)
        return None if found is None else found.anon_kib + found.swap_kib

    def process(self, pid: int, details: Details = NO_DETAILS) -> Process | None:
        self.advance()
        found = self.machine.processes.get(pid)
        return None if found is None else self.machine.describe(found, details, "/")

    def start_ticks(self, pid: int) -> int | None:
        self.advance()
        found = self.machine.processes.get(pid)
        return None if found is None else found.start_ticks

    def glance(self, pid: int) -> Glance | None:
        found = self.process(pid)
        if found is None:
            return None
        return Glance(found.start_ticks, found.ppid, found.session, found.comm)

    def child_pids(self, pid: int) -> list[int]:
        self.advance()
        return self.machine.child_pids(pid)

    def open_process_events(self) -> SimulatedProcessEvents | str:
        if self.no_process_events is not None:
            return self.no_process_events
        self.advance()
        listener = SimulatedProcessEvents(self)
        self.listeners.append(listener)
        return listener

    def set_oom_score_adj(self, pid: int, start_ticks: int, value: int) -> bool:
        found = self.find(pid, start_ticks)
        if found is None:
            return False
        if found.protected:
            raise PermissionError(f"oom_score_adj of process {pid} may not be written")
        found.oom_score_adj = value
        return True

    def open_victim(self, pid: int, start_ticks: int) -> SimulatedVictim | None:
        found = self.find(pid, start_ticks)
        return None if found is None else SimulatedVictim(self, found)

    def cgroup_pids(self, path: str) -> list[int]:
        self.advance()
        return [p.pid for p in self.machine.members(path)]

    def watch_cgroups(self, globs: tuple[str, ...]) -> SimulatedCgroupWatch | NoCgroups:
        if self._features.cgroup_mount is None:
            return NoCgroups()
        watch = SimulatedCgroupWatch(self, globs)
        self.watches.append(watch)
        return watch

    def cgroup_owner(self, path: str) -> int | None:
        group = self._group(path)
        return None if group is None else group.owner

    def set_oom_group(self, path: str, together: bool) -> bool | None:
        group = self._group(path)
        if group is None or path == "/" or not self._features.memory_controller:
            return None
        before = group.oom_group
        if before is not together:
            _check_writable(group)
            group.oom_group = together
        return before

    def freeze_cgroup(self, path: str, frozen: bool) -> bool:
        group = self._group(path)
        if group is None or path == "/":
            return False
        _check_writable(group)
        self.freeze(path, frozen)
        return True

    def note_kill(self, path: str, processes: int, kill_id: str) -> bool:
        group = self._group(path)
        if group is None or group.protected:
            return False
        self.noted_kills.append((path, processes, kill_id))
        return True

    def _group(self, path: str) -> SimCgroup | None:
        self.advance()
        return self.machine.cgroups.get(path)

    def kill_cgroup(self, path: str) -> bool:
        self.advance()
        if path == "/" or path not in self.machine.cgroups:
            return False
        for process in list(self.machine.members(path)):
            self.deliver(process, Signal.KILL, by_cgroup=True)
        return True

    async def wait_cgroup_empty(self, path: str) -> None:
        await self.wait_until(lambda: not any(self.machine.members(path)))


def _check_writable(group: SimCgroup) -> None:
    if group.protected:
        raise PermissionError(f"the files of cgroup {group.path} may not be written")
