"""The kernel of a rehearsal: the one we run on, but for its clock, its signals, and whatever would change anything.

Files are read as they are in an emergency, pidfds are opened and system calls made, all with this process in the place
of whoever is to be ended; so what they need is in memory when it matters. There is one process more than there are: a
large one, so that somebody is worth a kill.

Invariant: no process is ever signalled, written to or frozen. A victim's handle holds this process and sends signal 0.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

import trio

from lmkd.kernel.cgroup_watch import NoCgroups
from lmkd.kernel.interface import NO_DETAILS, Kernel, VictimHandle
from lmkd.kernel.probe import Features
from lmkd.model import Details, Glance, Process, Signal

UNDERSTUDY_PID = 1 << 22
"""PID_MAX_LIMIT of include/linux/threads.h: no process has it."""


class RehearsedVictim:
    """A VictimHandle of nobody: `held` is this process, and stays alive."""

    def __init__(self, pid: int, start_ticks: int, held: VictimHandle | None) -> None:
        self.pid = pid
        self.start_ticks = start_ticks
        self.signals: list[Signal] = []
        self._held = held
        self._ended = trio.Event()

    def send(self, what: Signal) -> bool:
        """Note the signal, and send none; SIGKILL ends it."""
        self.signals.append(what)
        pidfd = os.pidfd_open(os.getpid())
        try:
            signal.pidfd_send_signal(pidfd, 0)
        finally:
            os.close(pidfd)
        if what is Signal.KILL:
            self._ended.set()
        return True

    def stop(self) -> bool:
        return True

    async def wait_exit(self) -> None:
        await self._ended.wait()

    def release_memory(self) -> bool:
        """Ask the kernel to reap us, which it refuses: nobody is reaped who is not dying (EINVAL, FACTS)."""
        return self._held is not None and self._held.release_memory()

    def close(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


class RehearsedKernel:
    """A Kernel in which nothing happens. `now_us` is moved by hand."""

    def __init__(self, real: Kernel) -> None:
        self._real = real
        self._now_us = real.now_us()
        self.total_kib = max(real.features().total_kib, 1 << 20)
        self.victims: list[RehearsedVictim] = []
        own = real.process(os.getpid())
        self.understudy = Process(
            pid=UNDERSTUDY_PID,
            start_ticks=1,
            ppid=1,
            comm="rehearsal",
            exe="/rehearsal",
            uid=os.getuid(),
            cgroup="/" if own is None else own.cgroup,
            oom_score_adj=900,
            anon_kib=self.total_kib // 2,
            swap_kib=0,
            state="S",
        )

    def advance(self, ms: int) -> None:
        self._now_us += ms * 1000

    def features(self) -> Features:
        return self._real.features()

    def now_us(self) -> int:
        return self._now_us

    def open_domain(self, domain: str) -> None:
        return None

    def open_alarm(self) -> None:
        return None

    def scan(self, domain: str, min_size_kib: int, details: Details = NO_DETAILS) -> list[Process]:
        return [*self._real.scan(domain, min_size_kib, details), self.understudy]

    def pids(self) -> list[int]:
        return [*self._real.pids(), UNDERSTUDY_PID]

    def own_kib(self, pids: Iterable[int]) -> dict[int, int]:
        return self._real.own_kib(pids)

    def size_kib(self, pid: int, start_ticks: int) -> int | None:
        return self._real.size_kib(pid, start_ticks)

    def process(self, pid: int, details: Details = NO_DETAILS) -> Process | None:
        found = self._real.process(pid, details)
        return self.understudy if pid == UNDERSTUDY_PID else found

    def start_ticks(self, pid: int) -> int | None:
        return 1 if pid == UNDERSTUDY_PID else self._real.start_ticks(pid)

    def glance(self, pid: int) -> Glance | None:
        return self._real.glance(pid)

    def child_pids(self, pid: int) -> list[int]:
        return self._real.child_pids(pid)

    def open_process_events(self) -> str:
        return "a rehearsal"

    def set_oom_score_adj(self, pid: int, start_ticks: int, value: int) -> bool:
        return True

    def open_victim(self, pid: int, start_ticks: int) -> RehearsedVictim:
        own = self._real.start_ticks(os.getpid())
        held = None if own is None else self._real.open_victim(os.getpid(), own)
        victim = RehearsedVictim(pid, start_ticks, held)
        self.victims.append(victim)
        return victim

    def cgroup_pids(self, path: str) -> list[int]:
        return self._real.cgroup_pids(path)

    def watch_cgroups(self, globs: tuple[str, ...]) -> NoCgroups:
        return NoCgroups()

    def cgroup_owner(self, path: str) -> int | None:
        return self._real.cgroup_owner(path)

    def set_oom_group(self, path: str, together: bool) -> bool | None:
        return None

    def freeze_cgroup(self, path: str, frozen: bool) -> bool:
        return False

    def note_kill(self, path: str, processes: int, kill_id: str) -> bool:
        return False

    def kill_cgroup(self, path: str) -> bool:
        return False

    async def wait_cgroup_empty(self, path: str) -> None:
        await trio.lowlevel.checkpoint()
