"""What the simulated kernel hands out: watched domains, held processes, process events, watched cgroups.

Each is of one kernel, and lives by its time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmkd.cgroup_paths import glob_matches, is_sayable
from lmkd.kernel.simulation_state import SimCgroup, SimProcess
from lmkd.kernel.windows import StallWindow, default_windows
from lmkd.model import SYSTEM_DOMAIN, ProcessEvent, Reading, Signal

if TYPE_CHECKING:
    from lmkd.kernel.simulated import SimulatedKernel


class SimulatedDomain:
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
        await self._kernel.wait_until(lambda: self._due)
        self._due = False

    def close(self) -> None:
        if self in self._kernel._domains:
            self._kernel._domains.remove(self)


class SimulatedVictim:
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
        return self._kernel.find(self.pid, self.start_ticks) is not None

    def send(self, signal: Signal) -> bool:
        if not self._is_alive():
            return False
        if self._process.protected:
            raise PermissionError(f"process {self.pid} may not be signalled")
        self._kernel.deliver(self._process, signal)
        return True

    def stop(self) -> bool:
        if not self._is_alive():
            return False
        if self._process.protected:
            raise PermissionError(f"process {self.pid} may not be signalled")
        self._kernel.stop(self._process)
        return True

    async def wait_exit(self) -> None:
        await self._kernel.wait_until(lambda: not self._is_alive())

    def release_memory(self) -> bool:
        if not self._is_alive() or not self._process.dying:
            return False
        self._process.anon_kib = self._process.swap_kib = 0
        self._kernel.wake()
        return True

    def close(self) -> None:
        pass


class SimulatedProcessEvents:
    """A ProcessEvents of the simulated kernel."""

    def __init__(self, kernel: SimulatedKernel) -> None:
        self._kernel = kernel
        self._events: list[ProcessEvent] = []
        self._is_lost = False

    def hear(self, event: ProcessEvent) -> None:
        self._events.append(event)

    def lose(self) -> None:
        self._events.clear()
        self._is_lost = True

    async def wait(self) -> None:
        await self._kernel.wait_until(lambda: bool(self._events) or self._is_lost)

    def take_nowait(self) -> tuple[list[ProcessEvent], bool]:
        self._kernel.advance()
        taken = self._events, self._is_lost
        self._events, self._is_lost = [], False
        return taken

    def close(self) -> None:
        if self in self._kernel.listeners:
            self._kernel.listeners.remove(self)


class SimulatedCgroupWatch:
    """A CgroupWatch of the simulated kernel."""

    def __init__(self, kernel: SimulatedKernel, globs: tuple[str, ...]) -> None:
        self._kernel = kernel
        self._globs = globs
        self._is_changed = False

    def _is_named(self, path: str) -> bool:
        return is_sayable(path) and any(glob_matches(glob, path) for glob in self._globs)

    def notice(self, path: str) -> None:
        """Take note of a cgroup that came or went."""
        self._is_changed |= self._is_named(path)

    def paths(self) -> frozenset[str]:
        self._kernel.advance()
        self._is_changed = False
        return frozenset(filter(self._is_named, self._kernel.machine.cgroups))

    async def wait_changed(self) -> None:
        await self._kernel.wait_until(lambda: self._is_changed)
        self._is_changed = False

    def close(self) -> None:
        if self in self._kernel.watches:
            self._kernel.watches.remove(self)
