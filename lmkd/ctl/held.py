"""How much memory a program holds, with all that it started.

As the daemon measures it, by the same readers. What vanishes meanwhile counts as nothing; so does a child that was
forked just now and has executed nothing yet, for what it holds is its parent's: a shell script forks all the time.
"""

from __future__ import annotations

from lmkd.kernel.processes import list_child_pids, read_glance, read_size_kib


def read_held_kib(pid: int, root: str = "/") -> int:
    """Return what a process and its descendants hold now, in KiB."""
    held_kib, seen, pending = 0, set(), [pid]
    while pending:
        each = pending.pop()
        if each in seen:
            continue
        seen.add(each)
        glance = read_glance(root, each)
        if glance is None or (glance.is_copy and each != pid):
            continue
        held_kib += read_size_kib(root, each) or 0
        pending += list_child_pids(root, each)
    return held_kib
