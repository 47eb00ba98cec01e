"""The process table: what runs, how big it is, and who it is.

A scan takes two steps, for most processes are small: statm of all, then the details of those that
can reach the size asked for. 2,000 processes take about 20 ms so, 36 ms with `stat` of all. The
details of one process are read through one descriptor of its directory, so that they are of one
process even if its pid is recycled meanwhile.

Left out: kernel threads, zombies, what may not be read, and what vanished while we looked. A
process whose first thread has ended while others run on looks like a zombie with no memory, but
is none: it is measured by one of the threads that live, or it could hide from us.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Collection, Iterable
from typing import Final

from lmkd.kernel import files
from lmkd.kernel.interface import NO_DETAILS
from lmkd.kernel.marks import Marks
from lmkd.kernel.parse import (
    ProcStat,
    parse_held_kib,
    parse_pids,
    parse_proc_cgroup,
    parse_proc_cmdline,
    parse_proc_comm,
    parse_proc_environ,
    parse_proc_stat,
    parse_proc_status,
    parse_signed,
    parse_statm,
)
from lmkd.model import Details, Glance, Mark, Process

_SMALL: Final = 8192
"""Longer than any file of numbers here; /proc/PID/cgroup ends at 4,096 bytes and a line for each v1 hierarchy."""
_KTHREADD: Final = 2
_CMDLINE_BYTES: Final = 4096
_ENVIRON_BYTES: Final = 32 * 1024
_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
_FRESH_TICKS: Final = _TICKS_A_SECOND
"""A fork is followed by its exec within milliseconds, emulated within a tenth of a second; what runs for longer without
one is a worker, and holds what it holds."""
_DENIED: Final = (errno.EACCES, errno.EPERM)


def scan_processes(
    root: str,
    *,
    min_size_kib: int,
    swap_in_use: bool,
    page_kib: int = 4,
    only: Collection[int] | None = None,
    details: Details = NO_DETAILS,
    marks: Marks | None = None,
) -> list[Process]:
    """List the live user processes of at least that size, memory and swap; of `only` those pids,
    if given.

    With swap in use the whole address space bounds the size in the first step, for statm counts
    no swap.
    """
    proc = os.path.join(root, files.PROC)
    names: Iterable[str] = os.listdir(proc) if only is None else map(str, only)
    least_pages = -(-min_size_kib // page_kib)
    reader = ProcessReader(root, details, marks)
    kernels: set[int] | None = None
    found = []
    for name in names:
        if not name.isdecimal():
            continue
        statm_path = f"{proc}/{name}/{files.PID_STATM}"
        statm = _read_small(statm_path)
        if not statm:
            continue
        size, resident, shared = parse_statm(statm, statm_path)
        may_reach = size if swap_in_use else resident - shared
        pid = int(name)
        if size == 0:  # no address space: a kernel thread, a zombie, or one that only looks so
            if kernels is None:
                kernels = _list_kernel_threads(root)
            is_candidate = pid not in kernels and _is_headless(root, pid)
        else:
            is_candidate = may_reach >= least_pages
        if not is_candidate:
            continue
        process = reader.read(pid)
        if process is not None and process.size_kib >= min_size_kib and not process.kernel_thread:
            found.append(process)
    return found


def list_pids(root: str) -> list[int]:
    """List the pids of all processes, zombies and kernel threads too."""
    return [int(name) for name in os.listdir(os.path.join(root, files.PROC)) if name.isdecimal()]


def list_child_pids(root: str, pid: int) -> list[int]:
    """List the children of a process, of all its threads; some may be missing while it forks and they exit.

    A kernel without CONFIG_PROC_CHILDREN has no list of them; then the parent of every process is asked for.
    """
    tasks = os.path.join(root, files.PROC, str(pid), files.PID_TASK)
    try:
        tids = os.listdir(tasks)
    except OSError as error:
        if files.is_vanished(error) or error.errno in _DENIED:
            return []
        raise
    # whole, for the kernel hands a long list out by the page
    lists = [files.read_file(f"{tasks}/{tid}/{files.TASK_CHILDREN}") for tid in tids]
    if any(content is not None for content in lists):
        return [child for content in lists for child in parse_pids(content or b"", tasks)]
    stats = ((each, _read_stat(root, each)) for each in list_pids(root))
    return [each for each, stat in stats if stat is not None and stat.ppid == pid]


def _list_kernel_threads(root: str) -> set[int]:
    """List what the kernel's thread starter started: its threads, and programs that the kernel called itself.

    One file for all of them, where to ask each whether it is one would be half of a scan. Empty where they are not
    seen, as in a container.
    """
    starter = _read_stat(root, _KTHREADD)
    if starter is None or not starter.is_kernel_thread:
        return set()
    return {_KTHREADD, *list_child_pids(root, _KTHREADD)}


def _is_headless(root: str, pid: int) -> bool:
    """Whether the process lives on without its first thread."""
    stat = _read_stat(root, pid)
    return stat is not None and stat.state in "ZX" and not stat.is_dead


def _read_small(path: str, dir_fd: int | None = None, limit: int = _SMALL) -> bytes | None:
    # One read gets the whole of a single_open file that is shorter than the buffer, which saves
    # the second call; None also for what we may not read: hidepid=1 refuses where hidepid=2
    # hides.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    except PermissionError:
        return None
    except OSError as error:
        if files.is_vanished(error):
            return None
        raise
    try:
        return os.read(fd, limit)
    except PermissionError:
        return None
    except OSError as error:
        if files.is_vanished(error):
            return None
        raise
    finally:
        os.close(fd)


def _open_directory(root: str, pid: int) -> int | None:
    try:
        return os.open(
            os.path.join(root, files.PROC, str(pid)), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        )
    except OSError as error:
        if files.is_vanished(error) or error.errno in _DENIED:
            return None
        raise


class ProcessReader:
    """Reads processes one after another; each parent and each cgroup that they share is looked at once."""

    def __init__(
        self, root: str, details: Details = NO_DETAILS, marks: Marks | None = None
    ) -> None:
        self._root = root
        self._details = details
        self._marks = marks
        self._parent_comms: dict[int, str] = {0: ""}

    def read(self, pid: int) -> Process | None:
        """Read all of one process; None for none, for a zombie, and for one that may not be read."""
        directory = _open_directory(self._root, pid)
        if directory is None:
            return None
        try:
            return self._read(os.path.join(self._root, files.PROC, str(pid)), directory)
        finally:
            os.close(directory)

    def _read(self, path: str, directory: int) -> Process | None:
        stat_bytes = _read_small(files.PID_STAT, directory)
        if not stat_bytes:
            return None
        stat = parse_proc_stat(stat_bytes, f"{path}/{files.PID_STAT}")
        if stat.is_dead:
            return None
        status_bytes = _read_status(directory, headless=stat.state in "ZX")
        cgroup = _read_cgroup(path, directory)
        adj_bytes = _read_small(files.PID_OOM_SCORE_ADJ, directory)
        if not status_bytes or cgroup is None or not adj_bytes:
            return None
        status = parse_proc_status(status_bytes, f"{path}/{files.PID_STATUS}")
        details = self._details
        return Process(
            pid=stat.pid,
            start_ticks=stat.start_ticks,
            ppid=stat.ppid,
            comm=stat.comm,
            exe=_read_exe(directory),
            uid=status.uid,
            cgroup=cgroup,
            oom_score_adj=parse_signed(adj_bytes, f"{path}/{files.PID_OOM_SCORE_ADJ}"),
            anon_kib=status.anon_kib,
            swap_kib=status.swap_kib,
            state=stat.state,
            kernel_thread=stat.is_kernel_thread,
            gid=status.gid,
            session=stat.session,
            resident_kib=status.resident_kib,
            parent_comm=self._read_parent_comm(stat.ppid) if details.parent else "",
            cmdline=_read_cmdline(directory) if details.cmdline else None,
            environ=_read_environ(directory) if details.environ else None,
            mark=Mark.NONE if self._marks is None else self._marks.find(cgroup),
        )

    def _read_parent_comm(self, ppid: int) -> str:
        comm = self._parent_comms.get(ppid)
        if comm is None:
            path = os.path.join(self._root, files.PROC, str(ppid), files.PID_COMM)
            comm = self._parent_comms[ppid] = parse_proc_comm(_read_small(path) or b"")
        return comm


def read_process(
    root: str, pid: int, details: Details = NO_DETAILS, marks: Marks | None = None
) -> Process | None:
    """Read all of one process; None for none, for a zombie, and for one that may not be read."""
    return ProcessReader(root, details, marks).read(pid)


def _read_cgroup(path: str, directory: int) -> str | None:
    try:
        content = _read_small(files.PID_CGROUP, directory)
    except OSError as error:
        # Deeper than the kernel can say (proc_cgroup_show, kernel/cgroup/cgroup.c, 6.1; 6.18 cuts the path instead):
        # nobody may hide there.
        if error.errno == errno.ENAMETOOLONG:
            return "/"
        raise
    return None if content is None else parse_proc_cgroup(content, f"{path}/{files.PID_CGROUP}")


def _read_cmdline(directory: int) -> str | None:
    content = _read_small(files.PID_CMDLINE, directory, _CMDLINE_BYTES)
    return None if content is None else parse_proc_cmdline(content)


def _read_environ(directory: int) -> tuple[str, ...] | None:
    # another user's takes the right to ptrace it
    content = _read_small(files.PID_ENVIRON, directory, _ENVIRON_BYTES)
    if content is None:
        return None
    return parse_proc_environ(content, is_cut=len(content) == _ENVIRON_BYTES)


def _read_status(directory: int, *, headless: bool) -> bytes | None:
    if not headless:
        return _read_small(files.PID_STATUS, directory)
    # the first thread gave up its address space at its exit; any that still lives has it
    try:
        tasks = os.open(
            files.PID_TASK, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory
        )
    except OSError as error:
        if files.is_vanished(error) or error.errno in _DENIED:
            return None
        raise
    try:
        for tid in os.listdir(tasks):
            status = _read_small(f"{tid}/{files.PID_STATUS}", tasks)
            if status and b"\nRssAnon:" in status:
                return status
    finally:
        os.close(tasks)
    return None


def _read_exe(directory: int) -> str:
    try:
        target = os.readlink(files.PID_EXE, dir_fd=directory)
    except OSError:  # kernel threads have none, and others' take the right to ptrace them
        return ""
    return os.fsencode(target).decode(errors="backslashreplace")


def read_identity(root: str, pid: int) -> int | None:
    """Read the start of the live process that has the pid now, in clock ticks since boot."""
    glance = read_glance(root, pid)
    return None if glance is None else glance.start_ticks


def read_glance(root: str, pid: int) -> Glance | None:
    """Read what one file says of the live process that has the pid now."""
    stat = _read_stat(root, pid)
    if stat is None or stat.is_dead:
        return None
    # Starts are counted by this clock, which goes on while the machine sleeps (fs/proc/array.c, do_task_stat).
    now_ticks = time.clock_gettime_ns(time.CLOCK_BOOTTIME) * _TICKS_A_SECOND // 1_000_000_000
    is_copy = stat.is_forked and now_ticks - stat.start_ticks < _FRESH_TICKS
    return Glance(
        stat.start_ticks, stat.ppid, stat.session, stat.comm, stat.is_kernel_thread, is_copy
    )


def _read_stat(root: str, pid: int) -> ProcStat | None:
    path = os.path.join(root, files.PROC, str(pid), files.PID_STAT)
    content = _read_small(path)
    return parse_proc_stat(content, path) if content else None


def read_size_kib(root: str, pid: int) -> int | None:
    """Read what whatever has the pid now holds, memory and swap; None when it is gone.

    Shared memory counts, though a kill may not free it: a program that gives some back is to be seen to.
    """
    path = os.path.join(root, files.PROC, str(pid), files.PID_STATUS)
    content = _read_small(path)
    if not content:
        return None
    if b"\nRssAnon:" not in content:  # exiting, or alive without its first thread
        process = read_process(root, pid)
        return None if process is None else process.size_kib
    return parse_held_kib(content, path)


def read_own_kib(root: str, pids: Iterable[int], page_kib: int = 4) -> dict[int, int]:
    """Measure what each of many holds for itself in memory, by one small file each (statm, which knows no swap)."""
    proc, found = os.path.join(root, files.PROC), {}
    for pid in pids:
        path = f"{proc}/{pid}/{files.PID_STATM}"
        content = _read_small(path)
        if content:
            _, resident, shared = parse_statm(content, path)
            found[pid] = max(resident - shared, 0) * page_kib
    return found


def write_oom_score_adj(root: str, pid: int, start_ticks: int, value: int) -> bool:
    """Set the oom_score_adj of exactly this process; False when it is gone.

    Raises PermissionError, and ValueError for a value outside -1000 to 1000.
    """
    if not -1000 <= value <= 1000:
        raise ValueError(f"oom_score_adj must be from -1000 to 1000, not {value}")
    directory = _open_directory(root, pid)
    if directory is None:
        return False
    try:
        stat = _read_small(files.PID_STAT, directory)
        if not stat or parse_proc_stat(stat, files.PID_STAT).start_ticks != start_ticks:
            return False
        fd = os.open(files.PID_OOM_SCORE_ADJ, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.write(fd, str(value).encode())
        finally:
            os.close(fd)
    except OSError as error:
        if files.is_vanished(error):
            return False
        raise
    finally:
        os.close(directory)
    return True
