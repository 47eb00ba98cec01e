"""Find who belongs to a tree or a swarm of processes at this moment, and take hold of them.

Descendants are found by their parents, as long as they stayed in the cgroup of the root. Who was given to init or a
subreaper because its parent ended between two looks is found by its session, where a process of the tree leads that:
a session is joined by being born into it and in no other way, so all in it are descendants. What to do with them is
for the executor.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Collection, Sequence

from lmkd.kernel.interface import Kernel, VictimHandle
from lmkd.model import Process
from lmkd.policy.groups import stayed_in
from lmkd.policy.swarms import kin_of

log = logging.getLogger("lmkd")

Look = Callable[[int], Process | None]


def find_descendants(
    kernel: Kernel, look: Look, roots: Sequence[int], cgroup: str
) -> list[Process]:
    """Return the descendants of processes that are in a cgroup, parents before children, the roots left out."""
    seen = set(roots)
    waiting = list(roots)
    found: list[Process] = []

    def take(process: Process | None) -> None:
        if process is not None and stayed_in(process.cgroup, cgroup):
            found.append(process)
            waiting.append(process.pid)

    while waiting:
        for pid in kernel.child_pids(waiting.pop(0)):
            if pid not in seen:
                seen.add(pid)
                take(look(pid))
    if cgroup == "/":
        return found  # no cgroup to look through, and to read every process would take too long
    for pid in kernel.cgroup_pids(cgroup):
        if pid not in seen:
            process = look(pid)
            if process is not None and process.session in seen:
                take(process)
    return found


def find_kin_of(
    kernel: Kernel, look: Look, member: Process, apart: Collection[int]
) -> list[Process]:
    """Return the processes that are kin of a member of a swarm, without the pids in `apart`, which are kin."""
    pids = kernel.pids() if member.cgroup == "/" else kernel.cgroup_pids(member.cgroup)
    kin = kin_of(member)
    found = []
    for pid in pids:
        if pid in apart:
            continue
        # Who is in its cgroup and has its name and session was forked by one of them, and has not called exec since.
        glance = None if member.cgroup == "/" else kernel.glance(pid)
        one = None
        if glance is not None and glance.ppid in apart:
            one = glance.as_like(member, pid)
        one = one or look(pid)
        if one is not None and kin_of(one) == kin:
            found.append(one)
    return found


def hold_all(kernel: Kernel, identities: Sequence[tuple[int, int]]) -> list[VictimHandle]:
    """Take hold of processes by (pid, start_ticks); those that are gone by now are left out.

    Where there are no descriptors left for more, those held are a part: when they have ended, there is room again.
    """
    held: list[VictimHandle] = []
    for pid, start_ticks in identities:
        try:
            handle = kernel.open_victim(pid, start_ticks)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            log.warning("%d of %d victims are held: %s", len(held), len(identities), error.strerror)
            break
        if handle is not None:
            held.append(handle)
    return held
