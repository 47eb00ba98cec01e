"""A simulated kernel: a small machine that lives by trio's clock, so that MockClock can run its
day in a moment.

It offers what lmkd.kernel.interface asks for, and levers for tests and demonstrations: spawn a
process, let it grow, give a cgroup a limit, force a stall. The machine itself is in
lmkd.kernel.simulation. It does not decide what dies, but for its own OOM killer, which is here
for the same reason as the real one.

Time before the first call inside `trio.run` stands still: a machine may be set up outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from lmkd.kernel.probe import Features
from lmkd.kernel.simulation import OnTerm, SimCgroup, SimProcess, SimulatedMachine
from lmkd.kernel.windows import StallWindow, default_windows
from lmkd.model import SYSTEM_DOMAIN, Process, Reading, Signal

__all__ = ["OnTerm", "SentSignal", "SimulatedKernel"]

_NOTICES_US: Final = 10_000
_PAGE_KIB: Final = 4


@dataclass(frozen=True, slots=True)
class SentSignal:
    """One signal that reached a simulated process."""

    at_us: int
    pid: int
    start_ticks: int
    signal: Signal
    by_cgroup: bool = False
    """Whether it came of cgroup.kill."""


def _path(domain: str) -> str:
    return "/" if domain == SYSTEM_DOMAIN else domain


class SimulatedKernel:
    """A Kernel whose memory, processes and time are invented."""

    def __init__(
        self,
        *,
        total_kib: int = 512 * 1024,
        reserved_kib: int = 64 * 1024,
        page_cache_kib: int = 48 * 1024,
        swap_kib: int = 0,
        zram_ratio_permyriad: int | None = 30_000,
        features: Features | None = None,
    ) -> None:
        self.signals: list[SentSignal] = []
        self._machine = SimulatedMachine(
            total_kib=total_kib,
            reserved_kib=reserved_kib,
            page_cache_kib=page_cache_kib,
            swap_kib=swap_kib,
            zram_ratio_permyriad=zram_ratio_permyriad,
        )
        self._features = features or Features(
            psi="yes",
            cgroup_mount="/sys/fs/cgroup",
            memory_controller=True,
            own_cgroup="/system.slice/lmkd.service",
            hidepid=False,
            swap_kib=swap_kib,
            zram=swap_kib > 0 and zram_ratio_permyriad is not None,
            total_kib=total_kib,
            pidfd=True,
            mrelease=True,
            can_signal_others=True,
            sys_resource=True,
            page_kib=_PAGE_KIB,
        )
        self._started = False
        self._last_pid = 1_000
        self._last_start_ticks = 100
        self._domains: list[_SimulatedDomain] = []
        self._changed = trio.Event()

    # The levers: what a test or a demonstration does to the machine.

    @property
    def oom_kills(self) -> list[tuple[int, str]]:
        """Pid and name of each process that the simulated kernel's own OOM killer took."""
        self._advance()
        return self._machine.oom_kills

    def spawn(
        self,
        name: str,
        *,
        anon_kib: int = 0,
        growth_kib_s: int = 0,
        uid: int = 1000,
        ppid: int = 1,
        cgroup: str = "/",
        oom_score_adj: int = 0,
        exe: str | None = None,
        on_term: OnTerm = OnTerm.EXITS,
        cleanup_us: int = 100_000,
        exit_us: int = 10_000,
        protected: bool = False,
        pid: int | None = None,
    ) -> int:
        """Start a process and return its pid; missing cgroups are made.

        `exit_us` passes between a deadly signal and the exit; `cleanup_us` before that for one
        that CATCHES.
        """
        self._advance()
        if pid is None:
            self._last_pid += 1
            pid = self._last_pid
        if pid in self._machine.processes:
            raise ValueError(f"pid {pid} is taken: exit it first, or recycle it")
        self._last_start_ticks += 1
        self._make_cgroup(cgroup)
        self._machine.processes[pid] = SimProcess(
            pid=pid,
            start_ticks=self._last_start_ticks,
            name=name,
            exe=f"/usr/bin/{name}" if exe is None else exe,
            ppid=ppid,
            uid=uid,
            cgroup=cgroup,
            oom_score_adj=oom_score_adj,
            anon_kib=anon_kib,
            growth_kib_s=growth_kib_s,
            on_term=on_term,
            cleanup_us=cleanup_us,
            exit_us=exit_us,
            protected=protected,
        )
        self._wake()
        return pid

    def set_size(self, pid: int, anon_kib: int) -> None:
        """Let a process hold this much memory, and what it has in swap besides."""
        self._sim(pid).anon_kib = anon_kib
        self._wake()

    def set_growth(self, pid: int, growth_kib_s: int) -> None:
        """Let a process grow from now on, or shrink."""
        self._sim(pid).growth_kib_s = growth_kib_s
        self._wake()

    def exit(self, pid: int) -> None:
        """Let a process exit of itself, now."""
        self._sim(pid).die_at(self._machine.at_us)
        self._wake()

    def recycle(self, pid: int, name: str, *, anon_kib: int = 0, uid: int = 1000) -> int:
        """Let a process exit and another one begin under its pid; return the new start."""
        if pid in self._machine.processes:
            self.exit(pid)
        self.spawn(name, pid=pid, anon_kib=anon_kib, uid=uid)
        return self._sim(pid).start_ticks

    def add_cgroup(
        self,
        path: str,
        *,
        high_kib: int | None = None,
        max_kib: int | None = None,
        swap_max_kib: int | None = None,
        file_kib: int = 0,
    ) -> None:
        """Make a cgroup, and its parents, or set the limits of one that is there."""
        self._advance()
        group = self._make_cgroup(path)
        group.high_kib, group.max_kib = high_kib, max_kib
        group.swap_max_kib, group.file_kib = swap_max_kib, file_kib
        self._wake()

    def remove_cgroup(self, path: str) -> None:
        """Remove a cgroup that holds no process and no other cgroup."""
        self._advance()
        groups = self._machine.cgroups
        if any(self._machine.members(path)) or any(g.startswith(path + "/") for g in groups):
            raise ValueError(f"cgroup {path} is not empty")
        del groups[path]
        for domain in self._domains:
            domain.notice_removal(path)
        self._wake()

    def set_available(self, available_kib: int) -> None:
        """Let everything outside the known processes take or give until this much is available
        now."""
        self._advance()
        self._machine.reserved_kib += self._machine.room_kib() - available_kib
        self._wake()

    def force_stall(self, domain: str, some_permyriad: int, full_permyriad: int = 0) -> None:
        """Let a domain stall for these shares of the time whatever its memory does; 0 and 0 end
        it."""
        self._advance()
        shares = (some_permyriad, full_permyriad)
        self._machine.cgroups[_path(domain)].forced_permyriad = shares if any(shares) else None
        self._wake()

    # lmkd.kernel.interface.Kernel

    def features(self) -> Features:
        return self._features

    def now_us(self) -> int:
        if not trio.lowlevel.in_trio_run():
            return self._machine.at_us
        # rounded, for a sleep until a whole microsecond must not end a fraction of one before it
        return round(trio.current_time() * 1_000_000)

    def open_domain(self, domain: str) -> _SimulatedDomain | None:
        self._advance()
        if domain != SYSTEM_DOMAIN and not self._features.memory_controller:
            return None
        group = self._machine.cgroups.get(_path(domain))
        if group is None:
            return None
        watched = _SimulatedDomain(self, domain, group)
        self._domains.append(watched)
        return watched

    def scan(self, domain: str, min_size_kib: int) -> list[Process]:
        self._advance()
        members = self._machine.members(_path(domain))
        return [p.as_process() for p in members if p.anon_kib + p.swap_kib >= min_size_kib]

    def size_kib(self, pid: int, start_ticks: int) -> int | None:
        found = self._find(pid, start_ticks)
        return None if found is None else found.anon_kib + found.swap_kib

    def process(self, pid: int) -> Process | None:
        self._advance()
        found = self._machine.processes.get(pid)
        return None if found is None else found.as_process()

    def set_oom_score_adj(self, pid: int, start_ticks: int, value: int) -> bool:
        found = self._find(pid, start_ticks)
        if found is None:
            return False
        if found.protected:
            raise PermissionError(f"oom_score_adj of process {pid} may not be written")
        found.oom_score_adj = value
        return True

    def open_victim(self, pid: int, start_ticks: int) -> _SimulatedVictim | None:
        found = self._find(pid, start_ticks)
        return None if found is None else _SimulatedVictim(self, found)

    def cgroup_pids(self, path: str) -> list[int]:
        self._advance()
        return [p.pid for p in self._machine.members(path)]

    def kill_cgroup(self, path: str) -> bool:
        self._advance()
        if path == "/" or path not in self._machine.cgroups:
            return False
        for process in list(self._machine.members(path)):
            self._deliver(process, Signal.KILL, by_cgroup=True)
        return True

    async def wait_cgroup_empty(self, path: str) -> None:
        await self._wait_until(lambda: not any(self._machine.members(path)))

    # Time

    def _advance(self) -> None:
        if not trio.lowlevel.in_trio_run():
            return
        now_us = self.now_us()
        if not self._started:
            self._started = True
            self._machine.at_us = now_us
        while self._machine.advance_towards(now_us):
            for domain in self._domains:
                domain.notice(self._machine.at_us)

    def _wake(self) -> None:
        self._machine.advance_towards(self._machine.at_us)  # an exit that is due takes place
        self._changed.set()
        self._changed = trio.Event()

    async def _wait_until(self, is_true: Callable[[], bool]) -> None:
        """Wait for something to be true of the machine, looking as often as it can change."""
        await trio.lowlevel.checkpoint()
        while True:
            self._advance()
            if is_true():
                return
            next_us = self._machine.next_exit_us()
            if not self._machine.is_still():
                notice_us = self._machine.at_us + _NOTICES_US
                next_us = notice_us if next_us is None else min(next_us, notice_us)
            with trio.move_on_at(float("inf") if next_us is None else next_us / 1_000_000):
                await self._changed.wait()

    # Processes

    def _find(self, pid: int, start_ticks: int) -> SimProcess | None:
        self._advance()
        found = self._machine.processes.get(pid)
        return found if found is not None and found.start_ticks == start_ticks else None

    def _sim(self, pid: int) -> SimProcess:
        self._advance()
        return self._machine.processes[pid]

    def _make_cgroup(self, path: str) -> SimCgroup:
        names = path.strip("/").split("/") if path != "/" else []
        for depth in range(1, len(names) + 1):
            each = "/" + "/".join(names[:depth])
            self._machine.cgroups.setdefault(each, SimCgroup(each))
        return self._machine.cgroups[path]

    def _deliver(self, process: SimProcess, signal: Signal, *, by_cgroup: bool = False) -> None:
        now_us = self._machine.at_us
        self.signals.append(SentSignal(now_us, process.pid, process.start_ticks, signal, by_cgroup))
        if signal is Signal.KILL:
            process.killed = True
            process.die_at(now_us + process.exit_us)
        elif process.on_term is OnTerm.EXITS:
            process.die_at(now_us + process.exit_us)
        elif process.on_term is OnTerm.CATCHES:
            process.die_at(now_us + process.cleanup_us + process.exit_us)
        self._wake()

    def _read(self, domain: str, group: SimCgroup, now_us: int) -> Reading | None:
        self._advance()
        machine, path = self._machine, group.path
        if machine.cgroups.get(path) is not group:
            return None
        is_system = domain == SYSTEM_DOMAIN
        has_psi = self._features.psi in ("yes", "unprivileged")
        swap_free_kib = machine.swap_free_kib(path)
        on_zram = machine.zram_ratio_permyriad is not None
        high, at_max, oom, oom_kill = group.events()
        return Reading(
            domain=domain,
            at_us=now_us,
            total_kib=machine.total_kib if is_system else machine.size_limit_kib(path),
            available_kib=machine.available_kib(path),
            some_total_us=group.some_total_us if has_psi else None,
            full_total_us=group.full_total_us if has_psi else None,
            anon_kib=machine.anon_kib(path),
            swap_total_kib=machine.swap_kib,
            swap_free_kib=swap_free_kib,
            zram_free_kib=swap_free_kib if on_zram else 0,
            zram_stored_kib=machine.swap_used_kib() if on_zram else 0,
            zram_used_kib=machine.zram_used_kib(),
            file_lru_kib=machine.file_lru_kib(path),
            refault_file_pages=group.refault_file_pages,
            scanned_pages=machine.scanned_pages if is_system else None,
            events_high=None if is_system else high,
            events_max=None if is_system else at_max,
            events_oom=None if is_system else oom,
            events_oom_kill=None if is_system else oom_kill,
        )


class _SimulatedDomain:
    """A Domain of the simulated kernel, with the triggers that the real one arms."""

    def __init__(self, kernel: SimulatedKernel, domain: str, group: SimCgroup) -> None:
        self._kernel = kernel
        self._domain = domain
        self._group = group
        self._windows: tuple[StallWindow, ...] = default_windows(kernel.features().psi)
        self._seen_events = group.events()
        self._due = False

    def notice(self, at_us: int) -> None:
        """Look, after a step of the machine, whether a trigger fires."""
        totals_us = self._group.some_total_us, self._group.full_total_us
        for window in self._windows:
            self._due |= window.fires(at_us, *totals_us)
        if self._group.events() != self._seen_events:
            self._seen_events = self._group.events()
            self._due |= self._domain != SYSTEM_DOMAIN

    def notice_removal(self, path: str) -> None:
        """Wake the watcher of a cgroup that has gone, once."""
        self._due |= path == self._group.path

    def read(self, now_us: int) -> Reading | None:
        return self._kernel._read(self._domain, self._group, now_us)

    async def wait_event(self) -> None:
        await self._kernel._wait_until(lambda: self._due)
        self._due = False

    def close(self) -> None:
        if self in self._kernel._domains:
            self._kernel._domains.remove(self)


class _SimulatedVictim:
    """A VictimHandle of the simulated kernel."""

    def __init__(self, kernel: SimulatedKernel, process: SimProcess) -> None:
        self._kernel = kernel
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def start_ticks(self) -> int:
        return self._process.start_ticks

    def _is_alive(self) -> bool:
        return self._kernel._find(self.pid, self.start_ticks) is not None

    def send(self, signal: Signal) -> bool:
        if not self._is_alive():
            return False
        if self._process.protected:
            raise PermissionError(f"process {self.pid} may not be signalled")
        self._kernel._deliver(self._process, signal)
        return True

    async def wait_exit(self) -> None:
        await self._kernel._wait_until(lambda: not self._is_alive())

    def release_memory(self) -> bool:
        if not self._is_alive() or not self._process.killed:
            return False
        self._process.anon_kib = self._process.swap_kib = 0
        self._kernel._wake()
        return True

    def close(self) -> None:
        pass
