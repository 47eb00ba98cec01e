"""One cgroup: where it is, who is in it, whose it is, and its switches.

Knows paths and control files, not what a group is taken for. Killing one is lmkd.kernel.signals', measuring it
lmkd.kernel.readings', and seeing groups come and go lmkd.kernel.cgroup_watch's.
"""

from __future__ import annotations

import errno
import os

from lmkd.kernel import files
from lmkd.kernel.parse import parse_number, parse_pids

# A threaded cgroup refuses, and its processes are listed in the domain above it; a tree can be built deeper than any
# path can say, and who hides there is listed in the scans of the whole system.
_UNLISTED = frozenset({errno.EOPNOTSUPP, errno.EACCES, errno.ENAMETOOLONG})


def cgroup_directory(mount: str, path: str) -> str | None:
    """Find the directory of a cgroup path; None for a path outside our cgroup namespace
    ("/../x")."""
    if ".." in path.split("/"):
        return None
    return mount if path == "/" else mount + "/" + path.strip("/")


def cgroup_members(mount: str, path: str) -> list[int]:
    """List the pids of the cgroup's subtree; empty when it is gone."""
    directory = cgroup_directory(mount, path)
    pids: list[int] = []
    waiting = [] if directory is None else [directory]
    while waiting:
        directory = waiting.pop()
        procs = f"{directory}/{files.CGROUP_PROCS}"
        try:
            content = files.read_file(procs)
            # 0 stands for a process outside our pid namespace
            pids.extend(pid for pid in parse_pids(content or b"", procs) if pid > 0)
            with os.scandir(directory) as entries:
                waiting.extend(e.path for e in entries if e.is_dir(follow_symlinks=False))
        except OSError as error:
            if not (files.is_vanished(error) or error.errno in _UNLISTED):
                raise
    return pids


def cgroup_owner(mount: str, path: str) -> int | None:
    """Read which uid owns the cgroup's directory: to whom it was delegated; None when it is gone."""
    directory = cgroup_directory(mount, path)
    if directory is None:
        return None
    try:
        return os.stat(directory).st_uid
    except OSError as error:
        if files.is_vanished(error):
            return None
        raise


def set_oom_group(mount: str, path: str, together: bool) -> bool | None:
    """Set memory.oom.group, and return how it was before; None where there is none.

    Written only where that changes something. Raises PermissionError.
    """
    directory = cgroup_directory(mount, path)
    if directory is None:
        return None
    name = f"{directory}/{files.MEMORY_OOM_GROUP}"
    content = files.read_file(name)
    if content is None:
        return None
    before = parse_number(content, name) != 0
    if before is not together and not _write(name, b"1" if together else b"0"):
        return None
    return before


def freeze_cgroup(mount: str, path: str, frozen: bool) -> bool:
    """Write cgroup.freeze; False when the cgroup is gone, is the root, or this kernel has none (Linux 5.2).

    The kernel stops the processes one by one, within 10 ms; who is forked meanwhile is born into the frozen group.
    cgroup.kill and signals that kill, a SIGTERM without a handler too, work on frozen ones; handlers run after the
    thaw. Raises PermissionError.
    """
    directory = cgroup_directory(mount, path)
    if directory is None:
        return False
    return _write(f"{directory}/{files.CGROUP_FREEZE}", b"1" if frozen else b"0")


def _write(path: str, content: bytes) -> bool:
    """Write a control file; False when it is not there."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        if files.is_vanished(error):
            return False
        raise
    try:
        os.write(fd, content)
    except OSError as error:
        if files.is_vanished(error):
            return False
        raise
    finally:
        os.close(fd)
    return True
