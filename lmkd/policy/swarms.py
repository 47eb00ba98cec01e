"""Swarms: many small processes of one program, which together are worth a kill that none of them is worth alone.

A leak spread over 300 workers, or a fork bomb, holds no victim: each is a crumb, and 716 kills of 4 MB are no answer
(PEERS, death by crumbs). They are counted together where they are of one kin: the same executable under the same name,
of one user, in one cgroup and one session. So neither the shells of other terminals nor every script of an interpreter
becomes one.

Of a swarm are only those that are too small by themselves. Whoever registered has a place of its own, and so has what
is in another unit already. As many die as cover the need, the largest first: of twenty tabs five. Where there are more
than anybody tends one by one, it is all of them, and whoever is born meanwhile: a bomb of which a part is left goes on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from lmkd.model import Process

SWARM_LEAST = 10
"""Processes. A browser's small helpers or a pool of a few workers are not many."""
SWARM_WHOLE = 100
"""So many die as a whole. The busiest build or browser stays below it; what was seen in the field was 300 and 2,104."""


class Kin(NamedTuple):
    """What the members of a swarm have in common."""

    cgroup: str
    uid: int
    session: int
    exe: str
    """"" where it cannot be read."""
    comm: str


def kin_of(process: Process) -> Kin:
    """Return what a process has in common with those of its swarm."""
    return Kin(process.cgroup, process.uid, process.session, process.exe, process.comm)


def find_kin(
    processes: Sequence[Process], least_kib: int, apart: Collection[int]
) -> list[list[Process]]:
    """Return the groups of kin, of SWARM_LEAST processes and `least_kib` or more, in each the oldest first.

    Only of processes that are each smaller than `least_kib`, and without the pids in `apart`.
    """
    small = [one for one in processes if one.anon_kib + one.swap_kib < least_kib]
    if sum([one.anon_kib + one.swap_kib for one in small]) < least_kib:
        return []
    groups: dict[Kin, list[Process]] = {}
    for process in small:
        if not process.kernel_thread and process.pid not in apart:
            groups.setdefault(kin_of(process), []).append(process)
    return [
        sorted(kin, key=lambda one: (one.start_ticks, one.pid))
        for kin in groups.values()
        if len(kin) >= SWARM_LEAST and sum(one.size_kib for one in kin) >= least_kib
    ]


def part_to_end(kin: Sequence[Process], need_kib: int) -> list[Process]:
    """Return which of a group of kin are to die: all of a great many, else the largest that cover the need."""
    if len(kin) >= SWARM_WHOLE:
        return list(kin)
    part: list[Process] = []
    freed_kib = 0
    for process in sorted(kin, key=lambda one: (-one.size_kib, one.pid)):
        if freed_kib >= need_kib:
            break
        part.append(process)
        freed_kib += process.size_kib
    return part
