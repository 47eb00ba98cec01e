"""The real kernel, behind the one interface.

Puts the adapters of this folder together and adds nothing to what they know. Everything is below
a root directory, but for the system calls, which reach the kernel that we run on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

import trio

from lmkd.kernel import files
from lmkd.kernel.alarm import StallAlarm
from lmkd.kernel.cgroup_watch import MountWatch, NoCgroups
from lmkd.kernel.cgroups import (
    cgroup_directory,
    cgroup_members,
    cgroup_owner,
    freeze_cgroup,
    set_oom_group,
)
from lmkd.kernel.events import EventWatch, Source, open_event_file
from lmkd.kernel.interface import NO_DETAILS
from lmkd.kernel.limits import Limits
from lmkd.kernel.marks import Marks, note_kill
from lmkd.kernel.pressure import PressureTrigger, open_trigger
from lmkd.kernel.probe import Features, below, probe
from lmkd.kernel.process_events import NetlinkProcessEvents, open_process_events
from lmkd.kernel.processes import (
    list_child_pids,
    list_pids,
    read_glance,
    read_identity,
    read_own_kib,
    read_process,
    read_size_kib,
    scan_processes,
    write_oom_score_adj,
)
from lmkd.kernel.readings import CgroupReader, SystemReader, open_cgroup
from lmkd.kernel.signals import PidfdVictim, kill_cgroup, open_victim, wait_cgroup_empty
from lmkd.kernel.windows import DEFAULT_TRIGGERS
from lmkd.model import SYSTEM_DOMAIN, Details, Glance, Process, Reading

__all__ = ["Machine", "MachineDomain"]


class MachineDomain:
    """A Domain of the real kernel: its reader, and the files that wake its watcher."""

    def __init__(
        self,
        reader: SystemReader | CgroupReader,
        triggers: tuple[PressureTrigger, ...],
        sources: tuple[Source, ...],
        *,
        owns_reader: bool,
    ) -> None:
        self.triggers = triggers
        self._reader = reader
        self._owns_reader = owns_reader
        self._watch = EventWatch((*triggers, *sources))

    def read(self, now_us: int) -> Reading | None:
        """Measure now; None when the cgroup is gone."""
        return self._reader.read(now_us)

    async def wait_event(self) -> None:
        """Return when a PSI trigger or a memory event fired; for ever where there is neither."""
        await self._watch.wait_changed()

    def close(self) -> None:
        """Close all files; who waits gets trio.ClosedResourceError."""
        self._watch.close()
        if self._owns_reader:
            self._reader.close()


class Machine:
    """The Kernel we run on. Raises FileNotFoundError where there is no /proc/meminfo."""

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._features = probe(root)
        self._system = SystemReader(root)
        mount = self._features.cgroup_mount
        self._mount = None if mount is None else below(root, mount)
        self._limits = None if self._mount is None else Limits(self._mount)

    def features(self) -> Features:
        return self._features

    def now_us(self) -> int:
        return time.monotonic_ns() // 1000

    def open_domain(self, domain: str) -> MachineDomain | None:
        if domain == SYSTEM_DOMAIN:
            pressure = os.path.join(self._root, files.PRESSURE_MEMORY)
            return MachineDomain(self._system, _arm(pressure), (), owns_reader=False)
        directory = None if self._mount is None else cgroup_directory(self._mount, domain)
        if self._limits is None or directory is None:
            return None
        reader = open_cgroup(self._system, self._limits, domain)
        if reader is None:
            return None
        events = open_event_file(f"{directory}/{files.MEMORY_EVENTS}")
        return MachineDomain(
            reader,
            _arm(f"{directory}/{files.MEMORY_PRESSURE}"),
            () if events is None else (events,),
            owns_reader=True,
        )

    def open_alarm(self) -> StallAlarm:
        return StallAlarm(self._root)

    def scan(self, domain: str, min_size_kib: int, details: Details = NO_DETAILS) -> list[Process]:
        return scan_processes(
            self._root,
            min_size_kib=min_size_kib,
            swap_in_use=self._system.swap_in_use(),
            page_kib=self._features.page_kib,
            only=None if domain == SYSTEM_DOMAIN else self.cgroup_pids(domain),
            details=details,
            marks=self._marks("/" if domain == SYSTEM_DOMAIN else domain),
        )

    def _marks(self, domain: str = "/") -> Marks | None:
        return None if self._mount is None else Marks(self._mount, domain)

    def pids(self) -> list[int]:
        return list_pids(self._root)

    def own_kib(self, pids: Iterable[int]) -> dict[int, int]:
        return read_own_kib(self._root, pids, self._features.page_kib)

    def size_kib(self, pid: int, start_ticks: int) -> int | None:
        size_kib = read_size_kib(self._root, pid)
        # checked afterwards: a pid that is still the process's now was its when the size was read
        return size_kib if read_identity(self._root, pid) == start_ticks else None

    def process(self, pid: int, details: Details = NO_DETAILS) -> Process | None:
        return read_process(self._root, pid, details, self._marks())

    def start_ticks(self, pid: int) -> int | None:
        return read_identity(self._root, pid)

    def glance(self, pid: int) -> Glance | None:
        return read_glance(self._root, pid)

    def child_pids(self, pid: int) -> list[int]:
        return list_child_pids(self._root, pid)

    def open_process_events(self) -> NetlinkProcessEvents | str:
        return open_process_events(self._root)

    def set_oom_score_adj(self, pid: int, start_ticks: int, value: int) -> bool:
        return write_oom_score_adj(self._root, pid, start_ticks, value)

    def open_victim(self, pid: int, start_ticks: int) -> PidfdVictim | None:
        return open_victim(self._root, pid, start_ticks)

    def cgroup_pids(self, path: str) -> list[int]:
        return [] if self._mount is None else cgroup_members(self._mount, path)

    def watch_cgroups(self, globs: tuple[str, ...]) -> MountWatch | NoCgroups:
        return NoCgroups() if self._mount is None else MountWatch(self._mount, globs)

    def cgroup_owner(self, path: str) -> int | None:
        return None if self._mount is None else cgroup_owner(self._mount, path)

    def set_oom_group(self, path: str, together: bool) -> bool | None:
        return None if self._mount is None else set_oom_group(self._mount, path, together)

    def freeze_cgroup(self, path: str, frozen: bool) -> bool:
        return self._mount is not None and freeze_cgroup(self._mount, path, frozen)

    def note_kill(self, path: str, processes: int, kill_id: str) -> bool:
        return self._mount is not None and note_kill(self._mount, path, processes, kill_id)

    def kill_cgroup(self, path: str) -> bool:
        return self._mount is not None and kill_cgroup(self._mount, path)

    async def wait_cgroup_empty(self, path: str) -> None:
        if self._mount is None:
            await trio.lowlevel.checkpoint()
            return
        await wait_cgroup_empty(self._mount, path)

    def close(self) -> None:
        """Close the files that all domains share."""
        self._system.close()


def _arm(path: str) -> tuple[PressureTrigger, ...]:
    armed = (open_trigger(path, trigger) for trigger in DEFAULT_TRIGGERS)
    return tuple(trigger for trigger in armed if trigger is not None)
