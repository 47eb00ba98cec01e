"""Measure a domain: the system from /proc, a cgroup from its memory.* files.

Files are opened once and read from their start each time. What a kernel or a cgroup does not have
is None or 0 in the reading. What the figures mean is for lmkd.policy to say.

A reading is not one instant: its files are read one after another, within about 50 us.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Final

from lmkd.kernel import files
from lmkd.kernel.cgroups import cgroup_directory
from lmkd.kernel.files import HeldFile, open_held
from lmkd.kernel.limits import GroupFiles, Limits, read_keyed, read_room, read_swap_room
from lmkd.kernel.parse import (
    MemInfo,
    Stalls,
    parse_arcstats,
    parse_flat_keyed,
    parse_meminfo,
    parse_pressure,
    parse_swaps,
    parse_zram_mm_stat,
)
from lmkd.model import SYSTEM_DOMAIN, Reading

# in the order of the file, which is how they are found quickest
_VMSTAT_KEYS: Final = (b"workingset_refault_file", b"pgscan_kswapd", b"pgscan_direct")
_STAT_KEYS: Final = (
    b"inactive_anon",
    b"active_anon",
    b"inactive_file",
    b"active_file",
    b"workingset_refault_file",
)
_EVENT_KEYS: Final = (b"high", b"max", b"oom", b"oom_kill")


@dataclass(frozen=True, slots=True)
class ZramRoom:
    """What is left of the swap on zram, and what zram holds and needs."""

    free_kib: int
    stored_kib: int
    used_kib: int


_NO_ZRAM: Final = ZramRoom(0, 0, 0)


class _Pressure:
    """A pressure file, which may be missing, switched off, or go with its cgroup."""

    __slots__ = ("_held",)

    def __init__(self, path: str) -> None:
        self._held = open_held(path)
        if self._held is not None:
            try:
                self._held.read()
            except OSError:  # EOPNOTSUPP: compiled in, switched off
                self._held.close()
                self._held = None

    def read(self) -> tuple[int | None, int | None]:
        content = None if self._held is None else self._held.read()
        if self._held is None or content is None:
            return None, None
        stalls: Stalls = parse_pressure(content, self._held.path)
        return stalls.some_total_us, stalls.full_total_us

    def close(self) -> None:
        if self._held is not None:
            self._held.close()


class SystemReader:
    """Reads the whole system below a root directory. Raises FileNotFoundError without
    /proc/meminfo."""

    def __init__(self, root: str = "/") -> None:
        self.root = root
        meminfo = open_held(os.path.join(root, files.MEMINFO))
        if meminfo is None:
            raise FileNotFoundError(f"no {files.MEMINFO} below {root}: is /proc mounted?")
        self._meminfo = meminfo
        self._pressure = _Pressure(os.path.join(root, files.PRESSURE_MEMORY))
        self._vmstat = open_held(os.path.join(root, files.VMSTAT))
        self._swaps = open_held(os.path.join(root, files.SWAPS))
        self._arcstats = open_held(os.path.join(root, files.ARCSTATS))
        self._zram: dict[str, HeldFile] = {}

    def read(self, now_us: int) -> Reading | None:
        """Measure now. The system is never gone; None only after its /proc is."""
        memory = self.read_memory()
        if memory is None:
            return None
        some_total_us, full_total_us = self._pressure.read()
        refaults, scanned_pages = self._read_vmstat()
        zram = self.read_zram()
        return Reading(
            domain=SYSTEM_DOMAIN,
            at_us=now_us,
            total_kib=memory.total_kib,
            available_kib=memory.available_kib + self._read_arc_kib(),
            some_total_us=some_total_us,
            full_total_us=full_total_us,
            anon_kib=memory.anon_kib,
            swap_total_kib=memory.swap_total_kib,
            swap_free_kib=memory.swap_free_kib,
            zram_free_kib=zram.free_kib,
            zram_stored_kib=zram.stored_kib,
            zram_used_kib=zram.used_kib,
            file_lru_kib=memory.file_lru_kib,
            refault_file_pages=refaults,
            scanned_pages=scanned_pages,
            suspended_us=read_suspended_us(),
        )

    def read_memory(self) -> MemInfo | None:
        """Read meminfo alone."""
        content = self._meminfo.read()
        return None if content is None else parse_meminfo(content, self._meminfo.path)

    def swap_in_use(self) -> bool:
        """Whether any page is in swap now."""
        memory = self.read_memory()
        return memory is not None and memory.swap_free_kib < memory.swap_total_kib

    def read_zram(self) -> ZramRoom:
        """Sum the swap areas that lie on zram, of those that are on now."""
        content = None if self._swaps is None else self._swaps.read()
        if self._swaps is None or content is None:
            return _NO_ZRAM
        if b"/zram" not in content:
            self._hold_zram(set())
            return _NO_ZRAM
        areas = parse_swaps(content, self._swaps.path)
        zram = {a.name.rpartition("/")[2]: a for a in areas if a.name.startswith("/dev/zram")}
        self._hold_zram(set(zram))
        stored_kib = used_kib = 0
        for held in self._zram.values():
            mm_stat = held.read()
            if mm_stat is not None:
                device_stored_kib, device_used_kib = parse_zram_mm_stat(mm_stat, held.path)
                stored_kib += device_stored_kib
                used_kib += device_used_kib
        free_kib = sum(area.size_kib - area.used_kib for area in zram.values())
        return ZramRoom(free_kib, stored_kib, used_kib)

    def _hold_zram(self, devices: set[str]) -> None:
        for device in self._zram.keys() - devices:
            self._zram.pop(device).close()
        for device in devices - self._zram.keys():
            path = os.path.join(self.root, files.ZRAM_MM_STAT.format(device=device))
            held = open_held(path)
            if held is not None:
                self._zram[device] = held

    def _read_vmstat(self) -> tuple[int | None, int | None]:
        content = None if self._vmstat is None else self._vmstat.read()
        if self._vmstat is None or content is None:
            return None, None
        refaults, kswapd, direct = parse_flat_keyed(content, _VMSTAT_KEYS, self._vmstat.path)
        return refaults, None if kswapd is None or direct is None else kswapd + direct

    def _read_arc_kib(self) -> int:
        # ZFS gives its cache back on demand, but the kernel does not count it as available
        content = None if self._arcstats is None else self._arcstats.read()
        if self._arcstats is None or content is None:
            return 0
        return parse_arcstats(content, self._arcstats.path)

    def close(self) -> None:
        """Close all files."""
        held = (self._meminfo, self._vmstat, self._swaps, self._arcstats, *self._zram.values())
        for each in held:
            if each is not None:
                each.close()
        self._pressure.close()


class CgroupReader:
    """Reads one cgroup, counted over its subtree. Needs the memory controller: see `open_cgroup`."""

    def __init__(
        self, system: SystemReader, limits: Limits, directory: str, ladder: tuple[GroupFiles, ...]
    ) -> None:
        self.path = ladder[0].path
        self._system = system
        self._limits = limits
        self._ladder = ladder
        self._is_closed = False
        self._events = open_held(f"{directory}/{files.MEMORY_EVENTS}")
        self._pressure = _Pressure(f"{directory}/{files.MEMORY_PRESSURE}")

    def read(self, now_us: int) -> Reading | None:
        """Measure now; None when the cgroup is gone."""
        own = self._ladder[0]
        current_kib = own.read_current_kib()
        memory = self._system.read_memory()
        if current_kib is None or memory is None:
            return None
        inactive_anon, active_anon, inactive_file, active_file, refaults = own.read_stat(_STAT_KEYS)
        file_lru_kib = ((inactive_file or 0) + (active_file or 0)) // 1024
        room = read_room(self._ladder, memory, current_kib, file_lru_kib)
        swap_total_kib, swap_free_kib = read_swap_room(self._ladder, memory)
        zram = self._system.read_zram()
        some_total_us, full_total_us = self._pressure.read()
        high, at_max, oom, oom_kill = read_keyed(self._events, _EVENT_KEYS)
        return Reading(
            domain=self.path,
            at_us=now_us,
            total_kib=room.total_kib,
            available_kib=room.available_kib,
            some_total_us=some_total_us,
            full_total_us=full_total_us,
            anon_kib=((inactive_anon or 0) + (active_anon or 0)) // 1024,
            swap_total_kib=swap_total_kib,
            swap_free_kib=swap_free_kib,
            zram_free_kib=min(zram.free_kib, swap_free_kib),
            zram_stored_kib=zram.stored_kib,
            zram_used_kib=zram.used_kib,
            file_lru_kib=file_lru_kib,
            refault_file_pages=refaults,
            limited_by=room.limited_by,
            events_high=high,
            events_max=at_max,
            events_oom=oom,
            events_oom_kill=oom_kill,
            suspended_us=read_suspended_us(),
        )

    def close(self) -> None:
        """Let the cgroup's files go, not the system's; a second close does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        for group in self._ladder:
            self._limits.release(group)
        if self._events is not None:
            self._events.close()
        self._pressure.close()


def read_suspended_us() -> int:
    """Read how long the machine has been suspended since it started, to the millisecond."""
    monotonic_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    boottime_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    # Rounded: between the two calls there are a few hundred nanoseconds, or a preemption.
    return max(boottime_ns - monotonic_ns, 0) // 1_000_000 * 1_000


def open_cgroup(system: SystemReader, limits: Limits, path: str) -> CgroupReader | None:
    """Open a cgroup for reading; None when there is none, or it has no memory.current."""
    directory = cgroup_directory(limits.mount, path)
    if directory is None:
        return None
    ladder = limits.hold(path)
    if not ladder or ladder[0].read_current_kib() is None:
        for group in ladder:
            limits.release(group)
        return None
    return CgroupReader(system, limits, directory, ladder)
