"""What a test or a demonstration does to the simulated machine: spawn a process, let it grow, give a cgroup a
limit, force a stall; and how the machine's time passes while it does.

What a kernel can be asked is lmkd.kernel.simulated, what such a thing does is lmkd.kernel.simulation. Time before the
first call inside `trio.run` stands still: a machine may be set up outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import trio

from lmkd.kernel.probe import Features
from lmkd.kernel.simulation import SimulatedMachine
from lmkd.kernel.simulation_state import OnTerm, SimProcess
from lmkd.model import SYSTEM_DOMAIN, Mark, ProcessEvent, ProcessEventKind, Signal

if TYPE_CHECKING:
    from lmkd.kernel.simulated_handles import (
        SimulatedCgroupWatch,
        SimulatedDomain,
        SimulatedProcessEvents,
    )

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


def path_of(domain: str) -> str:
    """Return the cgroup of a domain."""
    return "/" if domain == SYSTEM_DOMAIN else domain


class Levers:
    """A simulated machine, its levers, and its time."""

    def __init__(
        self,
        *,
        total_kib: int = 512 * 1024,
        reserved_kib: int = 64 * 1024,
        page_cache_kib: int = 48 * 1024,
        swap_kib: int = 0,
        zram_ratio_permyriad: int | None = 30_000,
        features: Features | None = None,
        process_events: str | None = None,
    ) -> None:
        """`process_events` says why there are none, where there are to be none."""
        self.signals: list[SentSignal] = []
        self.stopped: list[int] = []
        """The pids that were sent SIGSTOP, in order."""
        self.noted_kills: list[tuple[str, int, str]] = []
        """Cgroup, number of processes and id of the kills that were noted on cgroups."""
        self.no_process_events = process_events
        self.machine = SimulatedMachine(
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
        self._domains: list[SimulatedDomain] = []
        self.listeners: list[SimulatedProcessEvents] = []
        self.watches: list[SimulatedCgroupWatch] = []
        self._changed = trio.Event()

    # The levers: what a test or a demonstration does to the machine.

    @property
    def oom_kills(self) -> list[tuple[int, str]]:
        """Pid and name of each process that the simulated kernel's own OOM killer took."""
        self.advance()
        return self.machine.oom_kills

    def spawn(
        self,
        name: str,
        *,
        anon_kib: int = 0,
        growth_kib_s: int = 0,
        uid: int = 1000,
        gid: int | None = None,
        ppid: int = 1,
        session: int | None = None,
        cgroup: str = "/",
        oom_score_adj: int = 0,
        exe: str | None = None,
        cmdline: str | None = None,
        environ: tuple[str, ...] = (),
        mark: Mark = Mark.NONE,
        on_term: OnTerm = OnTerm.EXITS,
        cleanup_us: int = 100_000,
        exit_us: int = 10_000,
        protected: bool = False,
        pid: int | None = None,
    ) -> int:
        """Start a process, by fork and exec, and return its pid; missing cgroups are made.

        `exit_us` passes between a deadly signal and the exit; `cleanup_us` before that for one
        that CATCHES. The gid is the uid, the session its own, if not given.
        """
        self.advance()
        pid = self._next_pid(pid)
        self.make_cgroup(cgroup)
        exe = f"/usr/bin/{name}" if exe is None else exe
        process = SimProcess(
            pid=pid,
            start_ticks=self._next_start_ticks(),
            name=name,
            exe=exe,
            ppid=ppid,
            uid=uid,
            gid=uid if gid is None else gid,
            session=pid if session is None else session,
            cgroup=cgroup,
            cmdline=exe if cmdline is None else cmdline,
            environ=environ,
            mark=mark,
            oom_score_adj=oom_score_adj,
            anon_kib=anon_kib,
            growth_kib_s=growth_kib_s,
            on_term=on_term,
            cleanup_us=cleanup_us,
            exit_us=exit_us,
            protected=protected,
        )
        self.machine.add(process)
        self._emit(ProcessEventKind.FORK, pid, ppid)
        self._emit(ProcessEventKind.EXEC, pid)
        self.wake()
        return pid

    def fork(self, pid: int, *, anon_kib: int = 0) -> int:
        """Let a process fork, and return the child's pid: it has all from its parent but its size.

        Raises ValueError for one that is stopped or frozen, which forks no more.
        """
        parent = self._sim(pid)
        if self.machine.is_paused(parent):
            raise ValueError(f"process {pid} is stopped or frozen: it cannot fork")
        child = replace(
            parent,
            pid=self._next_pid(None),
            start_ticks=self._next_start_ticks(),
            ppid=pid,
            anon_kib=anon_kib,
            swap_kib=0,
            growth_kib_s=0,
            exits_at_us=None,
            dying=False,
            unpaid_us_kib=0,
        )
        self.machine.add(child)
        self._emit(ProcessEventKind.FORK, child.pid, pid)
        self.wake()
        return child.pid

    def exec_(
        self, pid: int, name: str, exe: str | None = None, cmdline: str | None = None
    ) -> None:
        """Let a process become another program; its identity stays."""
        process = self._sim(pid)
        process.name = name
        process.exe = f"/usr/bin/{name}" if exe is None else exe
        process.cmdline = process.exe if cmdline is None else cmdline
        self._emit(ProcessEventKind.EXEC, pid)
        self.wake()

    def rename(self, pid: int, comm: str) -> None:
        """Let a process choose another comm."""
        self._sim(pid).name = comm
        self._emit(ProcessEventKind.COMM, pid)
        self.wake()

    def set_ids(self, pid: int, uid: int, gid: int) -> None:
        """Let a process change its user and group."""
        process = self._sim(pid)
        process.uid, process.gid = uid, gid
        self._emit(ProcessEventKind.IDS, pid)
        self.wake()

    def move(self, pid: int, cgroup: str) -> None:
        """Move a process to a cgroup, of which nothing tells; a missing cgroup is made."""
        process = self._sim(pid)
        self.make_cgroup(cgroup)
        process.cgroup = cgroup
        self.wake()

    def lose_process_events(self) -> None:
        """Drop all process events that nobody has taken yet, as an overflow does."""
        self.advance()
        for listener in self.listeners:
            listener.lose()
        self.wake()

    def set_size(self, pid: int, anon_kib: int) -> None:
        """Let a process hold this much memory, and what it has in swap besides."""
        self._sim(pid).anon_kib = anon_kib
        self.wake()

    def set_growth(self, pid: int, growth_kib_s: int) -> None:
        """Let a process grow from now on, or shrink."""
        self._sim(pid).growth_kib_s = growth_kib_s
        self.wake()

    def exit(self, pid: int) -> None:
        """Let a process exit of itself, now."""
        self.machine.die_at(self._sim(pid), self.machine.at_us)
        self.wake()

    def recycle(self, pid: int, name: str, *, anon_kib: int = 0, uid: int = 1000) -> int:
        """Let a process exit and another one begin under its pid; return the new start."""
        if pid in self.machine.processes:
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
        owner: int = 0,
        mark: Mark = Mark.NONE,
        protected: bool = False,
    ) -> None:
        """Make a cgroup, and its parents, or set all of this on one that is there.

        A mark to avoid or omit counts as on the real kernel by who owns it; nobody may write the files of one that
        is protected.
        """
        self.advance()
        self.make_cgroup(path)
        group = self.machine.cgroups[path]
        group.high_kib, group.max_kib = high_kib, max_kib
        group.swap_max_kib, group.file_kib = swap_max_kib, file_kib
        group.owner, group.mark, group.protected = owner, mark, protected
        self.wake()

    def remove_cgroup(self, path: str) -> None:
        """Remove a cgroup that holds no process and no other cgroup."""
        self.advance()
        self.machine.remove_cgroup(path)
        for domain in self._domains:
            domain.notice_removal(path)
        self._notice_cgroup(path)
        self.wake()

    def set_available(self, available_kib: int) -> None:
        """Let everything outside the known processes take or give until this much is available
        now."""
        self.advance()
        self.machine.reserved_kib += self.machine.room_kib() - available_kib
        self.wake()

    def force_stall(self, domain: str, some_permyriad: int, full_permyriad: int = 0) -> None:
        """Let a domain stall for these shares of the time whatever its memory does; 0 and 0 end
        it."""
        self.advance()
        shares = (some_permyriad, full_permyriad)
        self.machine.cgroups[path_of(domain)].forced_permyriad = shares if any(shares) else None
        self.wake()

    def features(self) -> Features:
        """What this kernel has, as it was given."""
        return self._features

    # Time

    def now_us(self) -> int:
        """Trio's clock in microseconds; outside of it the time at which the machine stands."""
        if not trio.lowlevel.in_trio_run():
            return self.machine.at_us
        # rounded, for a sleep until a whole microsecond must not end a fraction of one before it
        return round(trio.current_time() * 1_000_000)

    def advance(self) -> None:
        """Let the machine catch up with the time."""
        if not trio.lowlevel.in_trio_run():
            return
        now_us = self.now_us()
        if not self._started:
            self._started = True
            self.machine.at_us = now_us
        while self.machine.advance_towards(now_us):
            for domain in self._domains:
                domain.notice(self.machine.at_us)
        self._tell_exits()

    def wake(self) -> None:
        """Let all who wait look again."""
        self.machine.advance_towards(self.machine.at_us)  # an exit that is due takes place
        self._tell_exits()
        self._changed.set()
        self._changed = trio.Event()

    async def wait_until(self, is_true: Callable[[], bool]) -> None:
        """Wait for something to be true of the machine, looking as often as it can change."""
        await trio.lowlevel.checkpoint()
        while True:
            self.advance()
            if is_true():
                return
            next_us = self.machine.next_exit_us()
            if not self.machine.is_still():
                notice_us = self.machine.at_us + _NOTICES_US
                next_us = notice_us if next_us is None else min(next_us, notice_us)
            with trio.move_on_at(float("inf") if next_us is None else next_us / 1_000_000):
                await self._changed.wait()

    # Processes

    def find(self, pid: int, start_ticks: int) -> SimProcess | None:
        """Find the process of that identity; None when it is gone."""
        self.advance()
        found = self.machine.processes.get(pid)
        return found if found is not None and found.start_ticks == start_ticks else None

    def deliver(self, process: SimProcess, signal: Signal, *, by_cgroup: bool = False) -> None:
        """Let a signal reach a process."""
        now_us = self.machine.at_us
        self.signals.append(SentSignal(now_us, process.pid, process.start_ticks, signal, by_cgroup))
        if signal is Signal.KILL:
            process.dying = True
            self.machine.die_at(process, now_us + process.exit_us)
        elif process.stopped or (
            process.on_term is OnTerm.CATCHES and self.machine.is_paused(process)
        ):
            # Whom it kills without a handler it kills in a frozen cgroup too (complete_signal, kernel/signal.c).
            process.term_waits = True
        else:
            self._terminate(process)
        self.wake()

    def stop(self, process: SimProcess) -> None:
        """Let SIGSTOP reach a process."""
        process.stopped = True
        self.stopped.append(process.pid)
        self.wake()

    def freeze(self, path: str, frozen: bool) -> None:
        """Freeze a cgroup or thaw it; a SIGTERM that came meanwhile arrives then."""
        if frozen:
            self.machine.frozen.add(path)
        else:
            self.machine.frozen.discard(path)
            for process in self.machine.members(path):
                if process.term_waits and not self.machine.is_paused(process):
                    process.term_waits = False
                    self._terminate(process)
        self.wake()

    def _terminate(self, process: SimProcess) -> None:
        now_us = self.machine.at_us
        if process.on_term is OnTerm.EXITS:
            process.dying = True
            self.machine.die_at(process, now_us + process.exit_us)
        elif process.on_term is OnTerm.CATCHES:
            self.machine.die_at(process, now_us + process.cleanup_us + process.exit_us)

    def _sim(self, pid: int) -> SimProcess:
        self.advance()
        return self.machine.processes[pid]

    def _next_pid(self, pid: int | None) -> int:
        if pid is None:
            self._last_pid += 1
            pid = self._last_pid
        if pid in self.machine.processes:
            raise ValueError(f"pid {pid} is taken: exit it first, or recycle it")
        return pid

    def _next_start_ticks(self) -> int:
        self._last_start_ticks += 1
        return self._last_start_ticks

    # Who is told

    def make_cgroup(self, path: str) -> None:
        """Make a cgroup, if it is missing, and what is missing above it."""
        for made in self.machine.make_cgroup(path):
            self._notice_cgroup(made)

    def _emit(self, kind: ProcessEventKind, pid: int, parent_pid: int = 0) -> None:
        for listener in self.listeners:
            listener.hear(ProcessEvent(kind, pid, parent_pid))

    def _tell_exits(self) -> None:
        for pid in self.machine.exited:
            self._emit(ProcessEventKind.EXIT, pid)
        self.machine.exited.clear()

    def _notice_cgroup(self, path: str) -> None:
        for watch in self.watches:
            watch.notice(path)
