"""What a cgroup may hold and has left, counted along its ancestors: the least that any of them leaves.

A limit above binds as one's own does, though none of one's own files says so. What lies at the root is the system's
to say (lmkd.kernel.readings).

The files of one cgroup are shared by all who are below it, so 500 watched groups of a slice open the slice's once.
A watched cgroup takes 5 descriptors here, an ancestor without limits 3, and each with a limit of its own on swap one
more, an ancestor with one on memory two more: what a limit is compared with is opened when there is one.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmkd.cgroup_paths import paths_up
from lmkd.kernel import files
from lmkd.kernel.cgroups import cgroup_directory
from lmkd.kernel.files import HeldFile, open_held
from lmkd.kernel.parse import MemInfo, parse_flat_keyed, parse_limit, parse_number

_FILE_LRU_KEYS = (b"inactive_file", b"active_file")


class _File:
    """A control file that is opened when it is first asked for."""

    __slots__ = ("_held", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._held: HeldFile | None = None

    def open(self) -> HeldFile | None:
        if self._held is None:
            self._held = open_held(self._path)
        return self._held

    def read_kib(self) -> int | None:
        """Read a size in bytes; None when there is no such file any more."""
        held = self.open()
        content = None if held is None else held.read()
        return None if content is None else parse_number(content, self._path) // 1024

    def read_limit_kib(self) -> int | None:
        held = self.open()
        content = None if held is None else held.read()
        limit_bytes = None if content is None else parse_limit(content, self._path)
        return None if limit_bytes is None else limit_bytes // 1024

    def close(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


class GroupFiles:
    """The files of one cgroup that say what it may hold and what it holds."""

    __slots__ = ("_current", "_high", "_max", "_stat", "_swap_current", "_swap_max", "held", "path")

    def __init__(self, directory: str, path: str) -> None:
        self.path = path
        self.held = 0
        """By how many readers; kept by Limits."""
        self._high = _File(f"{directory}/{files.MEMORY_HIGH}")
        self._max = _File(f"{directory}/{files.MEMORY_MAX}")
        self._swap_max = _File(f"{directory}/{files.MEMORY_SWAP_MAX}")
        self._current = _File(f"{directory}/{files.MEMORY_CURRENT}")
        self._stat = _File(f"{directory}/{files.MEMORY_STAT}")
        self._swap_current = _File(f"{directory}/{files.MEMORY_SWAP_CURRENT}")
        for file in (self._high, self._max, self._swap_max):
            file.open()  # now, so that they are of this cgroup and not of a later namesake

    def is_there(self) -> bool:
        """Whether the cgroup that was opened is still the one of its path."""
        held = self._max.open()
        return held is not None and held.read() is not None

    def read_limit_kib(self) -> int | None:
        """Return the lesser of memory.high and memory.max; None without a limit."""
        high_kib, max_kib = self._high.read_limit_kib(), self._max.read_limit_kib()
        if high_kib is None or max_kib is None:
            return max_kib if high_kib is None else high_kib
        return min(high_kib, max_kib)

    def read_current_kib(self) -> int | None:
        """Return what it holds; None when it is gone."""
        return self._current.read_kib()

    def read_stat(self, keys: tuple[bytes, ...]) -> list[int | None]:
        """Find keys of memory.stat, each None where it is not there."""
        return read_keyed(self._stat.open(), keys)

    def read_file_lru_kib(self) -> int:
        """Return the page cache in it, active and inactive."""
        return sum(pages or 0 for pages in self.read_stat(_FILE_LRU_KEYS)) // 1024

    def read_swap_limit_kib(self) -> int | None:
        return self._swap_max.read_limit_kib()

    def read_swap_used_kib(self) -> int:
        return self._swap_current.read_kib() or 0

    def close(self) -> None:
        """Close all files."""
        on_demand = (self._current, self._stat, self._swap_current)
        for file in (self._high, self._max, self._swap_max, *on_demand):
            file.close()


class Limits:
    """The files of all cgroups that are watched or lie above one that is, each opened once."""

    def __init__(self, mount: str) -> None:
        self.mount = mount
        self._groups: dict[str, GroupFiles] = {}

    def hold(self, path: str) -> tuple[GroupFiles, ...]:
        """Hold a cgroup and its ancestors, the root left out, itself first; each is to be released.

        Empty for the root, and for a path outside our cgroup namespace.
        """
        ladder = []
        for each in paths_up(path)[:-1]:
            directory = cgroup_directory(self.mount, each)
            if directory is None:
                break
            group = self._groups.get(each)
            if group is None or not group.is_there():
                # Who still holds a former cgroup of that name releases that one.
                group = self._groups[each] = GroupFiles(directory, each)
            group.held += 1
            ladder.append(group)
        return tuple(ladder)

    def release(self, group: GroupFiles) -> None:
        """Let a cgroup go; its files are closed when nobody is left who holds it."""
        group.held -= 1
        if group.held == 0:
            group.close()
            if self._groups.get(group.path) is group:
                del self._groups[group.path]

    def __len__(self) -> int:
        """How many cgroups are open."""
        return len(self._groups)


@dataclass(frozen=True, slots=True)
class Room:
    """What a cgroup may hold, what is left of it, and whose limit leaves so little."""

    total_kib: int
    available_kib: int
    limited_by: str


def read_room(
    ladder: tuple[GroupFiles, ...], memory: MemInfo, current_kib: int, file_lru_kib: int
) -> Room:
    """Measure what the limits leave; the page cache below each could be dropped and counts as left.

    `current_kib` and `file_lru_kib` are of the cgroup itself, the first of the ladder. Without a limit that binds it
    is MemTotal and MemAvailable. total_kib is the least limit, available_kib the least that is left: not always of
    the same group. Between groups that leave equally little, the nearest counts.
    """
    total_kib, available_kib, limited_by = memory.total_kib, memory.available_kib, ""
    for group in ladder:
        limit_kib = group.read_limit_kib()
        if limit_kib is None or limit_kib >= memory.total_kib:
            continue
        held_kib: int | None = current_kib
        droppable_kib = file_lru_kib
        if group is not ladder[0]:
            held_kib, droppable_kib = group.read_current_kib(), group.read_file_lru_kib()
        left_kib = max(0, limit_kib - (held_kib or 0) + droppable_kib)
        total_kib = min(total_kib, limit_kib)
        if not limited_by or left_kib < available_kib:
            available_kib, limited_by = left_kib, group.path
    return Room(total_kib, available_kib, limited_by)


def read_swap_room(ladder: tuple[GroupFiles, ...], memory: MemInfo) -> tuple[int, int]:
    """Return how much swap a cgroup may use and how much of that is left, the least along the way."""
    total_kib, free_kib = memory.swap_total_kib, memory.swap_free_kib
    for group in ladder:
        limit_kib = group.read_swap_limit_kib()
        if limit_kib is not None:
            total_kib = min(total_kib, limit_kib)
            free_kib = min(free_kib, max(0, limit_kib - group.read_swap_used_kib()))
    return total_kib, free_kib


def read_keyed(held: HeldFile | None, keys: tuple[bytes, ...]) -> list[int | None]:
    """Find keys in a file of `key number` lines; all None where there is no file."""
    content = None if held is None else held.read()
    if held is None or content is None:
        return [None] * len(keys)
    return parse_flat_keyed(content, keys, held.path)
