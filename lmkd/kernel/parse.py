"""Bytes of the kernel's control files to values, without touching a file.

Parsers look for the few keys that are needed instead of splitting everything: /proc/vmstat alone
has 190 lines. They do not know where the bytes came from; the path is passed in for the error
alone.

Nothing but MalformedKernelFile leaves a parser, whatever the bytes are. A key that some kernels
do not have is None; one that all have is demanded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lmkd.kernel.files import MalformedKernelFile

PF_KTHREAD: Final = 0x00200000
"""A flag of /proc/PID/stat (include/linux/sched.h): a thread of the kernel's own."""

PF_FORKNOEXEC: Final = 0x00000040
"""Likewise: forked, and nothing executed since."""

_DELETED: Final = b" (deleted)"


@dataclass(frozen=True, slots=True)
class Stalls:
    """The `total=` counters of a pressure file. None: the line is not there."""

    some_total_us: int
    full_total_us: int | None


@dataclass(frozen=True, slots=True)
class MemInfo:
    """What is needed of /proc/meminfo."""

    total_kib: int
    available_kib: int
    anon_kib: int
    file_lru_kib: int
    swap_total_kib: int
    swap_free_kib: int


@dataclass(frozen=True, slots=True)
class SwapArea:
    """One line of /proc/swaps."""

    name: str
    size_kib: int
    used_kib: int


@dataclass(frozen=True, slots=True)
class ProcStat:
    """What is needed of /proc/PID/stat."""

    pid: int
    comm: str
    state: str
    ppid: int
    session: int
    flags: int
    threads: int
    """Of the whole process; 0 or 1 for one that has exited."""
    start_ticks: int

    @property
    def is_kernel_thread(self) -> bool:
        return bool(self.flags & PF_KTHREAD)

    @property
    def is_forked(self) -> bool:
        """Whether it has executed nothing since it was forked."""
        return bool(self.flags & PF_FORKNOEXEC)

    @property
    def is_dead(self) -> bool:
        """Whether it has exited. State Z alone says only that its first thread has."""
        return self.state in "ZX" and self.threads <= 1


@dataclass(frozen=True, slots=True)
class ProcStatus:
    """What is needed of /proc/PID/status. A process without memory of its own has no sizes."""

    uid: int
    gid: int
    resident_kib: int
    anon_kib: int
    swap_kib: int


def _number(digits: bytes, path: str, content: bytes, expected: str) -> int:
    # int() also takes "1_000", "+1" and spaces; the kernel writes digits
    if not digits.isdigit():
        raise MalformedKernelFile(path, content, expected)
    try:
        return int(digits)
    except ValueError:  # more than 4,300 digits
        raise MalformedKernelFile(path, content, expected) from None


def parse_number(content: bytes, path: str) -> int:
    """Read a file that holds one number."""
    return _number(content.strip(), path, content, "a number")


def parse_limit(content: bytes, path: str) -> int | None:
    """Read a cgroup limit: a number, or None for "max"."""
    word = content.strip()
    if word == b"max":
        return None
    return _number(word, path, content, 'a number or "max"')


def parse_signed(content: bytes, path: str) -> int:
    """Read a file that holds one number that may be negative."""
    word = content.strip()
    if word[:1] == b"-":
        return -_number(word[1:], path, content, "a number")
    return _number(word, path, content, "a number")


def parse_flat_keyed(content: bytes, keys: Sequence[bytes], path: str) -> list[int | None]:
    """Find the numbers of some keys in a file of `key number` lines; None where a key is not there.

    Keys in the order of the file are found quickest.
    """
    values: list[int | None] = []
    at = 0
    for key in keys:
        line = b"\n" + key + b" "
        found = content.find(line, at)
        if found < 0:
            found = content.find(line, 0, at + len(line))
        if found >= 0:
            start = found + len(line)
        elif content.startswith(line[1:]):
            start = len(line) - 1
        else:
            values.append(None)
            continue
        end = content.find(b"\n", start)
        if end < 0:
            end = len(content)
        values.append(_number(content[start:end], path, content, f"a number for {key.decode()}"))
        at = end
    return values


def parse_pressure(content: bytes, path: str) -> Stalls:
    """Read the stall totals of a PSI file."""
    some: int | None = None
    full: int | None = None
    for line in content.splitlines():
        kind, _, _ = line.partition(b" ")
        if kind not in (b"some", b"full"):
            raise MalformedKernelFile(path, content, "lines of some and full")
        _, mark, digits = line.rpartition(b" total=")
        if not mark:
            raise MalformedKernelFile(path, content, "total= at the end of each line")
        total_us = _number(digits, path, content, "a number after total=")
        if kind == b"some":
            some = total_us
        else:
            full = total_us
    if some is None:
        raise MalformedKernelFile(path, content, "a line of some")
    return Stalls(some, full)


def parse_meminfo(content: bytes, path: str) -> MemInfo:
    """Read the sizes that are needed of /proc/meminfo."""
    at = 0

    def size_kib(key: bytes) -> int:
        nonlocal at
        mark = b"\n" + key + b":"
        found = content.find(mark, at)
        if found < 0:
            found = content.find(mark)
        if found >= 0:
            start = found + len(mark)
        elif content.startswith(mark[1:]):
            start = len(mark) - 1
        else:
            raise MalformedKernelFile(path, content, f"a line of {key.decode()}")
        end = content.find(b" kB", start)
        if end < 0:
            raise MalformedKernelFile(path, content, f"a size in kB for {key.decode()}")
        at = end
        return _number(
            content[start:end].strip(), path, content, f"a size in kB for {key.decode()}"
        )

    # in the order of the file, so that each search goes on where the last one ended
    total_kib = size_kib(b"MemTotal")
    available_kib = size_kib(b"MemAvailable")
    active_anon_kib = size_kib(b"Active(anon)")
    inactive_anon_kib = size_kib(b"Inactive(anon)")
    active_file_kib = size_kib(b"Active(file)")
    inactive_file_kib = size_kib(b"Inactive(file)")
    return MemInfo(
        total_kib=total_kib,
        available_kib=available_kib,
        anon_kib=active_anon_kib + inactive_anon_kib,
        file_lru_kib=active_file_kib + inactive_file_kib,
        swap_total_kib=size_kib(b"SwapTotal"),
        swap_free_kib=size_kib(b"SwapFree"),
    )


def parse_swaps(content: bytes, path: str) -> list[SwapArea]:
    """Read the swap areas that are on.

    Names are octal-escaped by the kernel (\\040 for a space) and are left so; a deleted file adds
    a word.
    """
    lines = content.splitlines()
    if not lines or not lines[0].startswith(b"Filename"):
        raise MalformedKernelFile(path, content, "a heading that begins with Filename")
    areas = []
    for line in lines[1:]:
        fields = line.rsplit(None, 4)
        if len(fields) != 5:
            raise MalformedKernelFile(path, content, "name, type, size, used and priority")
        name, _, size, used, _ = fields
        areas.append(
            SwapArea(
                name=name.decode(errors="backslashreplace"),
                size_kib=_number(size, path, content, "a size in KiB"),
                used_kib=_number(used, path, content, "a size in KiB"),
            )
        )
    return areas


def parse_zram_mm_stat(content: bytes, path: str) -> tuple[int, int]:
    """Read what a zram device stores, uncompressed, and the memory it needs for it, both in KiB."""
    fields = content.split()
    if len(fields) < 3:
        raise MalformedKernelFile(
            path, content, "orig_data_size compr_data_size mem_used_total ..."
        )
    stored_bytes = _number(fields[0], path, content, "a size in bytes")
    used_bytes = _number(fields[2], path, content, "a size in bytes")
    return stored_bytes // 1024, used_bytes // 1024


def parse_arcstats(content: bytes, path: str) -> int:
    """Read how much of the ZFS cache could be given back: size less c_min, in KiB."""
    found: dict[bytes, int] = {}
    for line in content.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[0] in (b"size", b"c_min"):
            found[fields[0]] = _number(fields[2], path, content, "a size in bytes")
    if len(found) != 2:
        raise MalformedKernelFile(path, content, "lines of size and c_min")
    return max(0, found[b"size"] - found[b"c_min"]) // 1024


def parse_statm(content: bytes, path: str) -> tuple[int, int, int]:
    """Read the size, resident and shared pages of /proc/PID/statm."""
    fields = content.split(None, 3)
    if len(fields) < 3:
        raise MalformedKernelFile(path, content, "size, resident and shared pages")
    size, resident, shared = fields[:3]
    if not (size.isdigit() and resident.isdigit() and shared.isdigit()):
        raise MalformedKernelFile(path, content, "size, resident and shared pages")
    try:
        return int(size), int(resident), int(shared)
    except ValueError:
        raise MalformedKernelFile(path, content, "size, resident and shared pages") from None


def parse_proc_stat(content: bytes, path: str) -> ProcStat:
    """Read /proc/PID/stat.

    The process chooses what stands between the parentheses, `foo) Z 1 (` or a newline too: the
    name ends at the last parenthesis of the file.
    """
    opened = content.find(b" (")
    closed = content.rfind(b") ")
    if opened < 0 or closed < opened:
        raise MalformedKernelFile(path, content, "pid (comm) state ...")
    fields = content[closed + 2 :].split()
    if len(fields) < 20 or len(fields[0]) != 1 or not fields[0].isalpha():
        raise MalformedKernelFile(path, content, "at least 22 fields")
    return ProcStat(
        pid=_number(content[:opened], path, content, "a pid"),
        comm=content[opened + 2 : closed].decode(errors="backslashreplace"),
        state=fields[0].decode("ascii"),
        ppid=_number(fields[1], path, content, "a ppid"),
        # -1 while it is being reaped (do_task_stat, fs/proc/array.c: it has no sighand any more)
        session=0 if fields[3] == b"-1" else _number(fields[3], path, content, "a session id"),
        flags=_number(fields[6], path, content, "flags"),
        threads=_number(fields[17], path, content, "a number of threads"),
        start_ticks=_number(fields[19], path, content, "a start time"),
    )


def parse_proc_status(content: bytes, path: str) -> ProcStatus:
    """Read the real uid and gid and the sizes of /proc/PID/status.

    `Name:` comes first and the kernel escapes newlines in it, so no name can pass for another line.
    """
    at = content.find(b"\nUid:\t")
    if at < 0:
        raise MalformedKernelFile(path, content, "a line of Uid")
    start = at + 6
    uid = _number(content[start : content.find(b"\t", start)], path, content, "a real uid")
    at = content.find(b"\nGid:\t", start)
    if at < 0:
        raise MalformedKernelFile(path, content, "a line of Gid")
    start = at + 6
    gid = _number(content[start : content.find(b"\t", start)], path, content, "a real gid")

    return ProcStatus(
        uid=uid,
        gid=gid,
        resident_kib=_status_kib(content, b"\nVmRSS:\t", path, at),
        anon_kib=_status_kib(content, b"\nRssAnon:\t", path, at),
        swap_kib=_status_kib(content, b"\nVmSwap:\t", path, at),
    )


def _status_kib(content: bytes, key: bytes, path: str, at: int = 0) -> int:
    found = content.find(key, at)
    if found < 0:
        return 0  # exiting, and already without an address space
    begin = found + len(key)
    end = content.find(b" kB", begin)
    return _number(content[begin:end].strip(), path, content, "a size in kB")


def parse_held_kib(content: bytes, path: str) -> int:
    """Read what a process holds from its /proc/PID/status: anonymous and shared memory, and what of it is in swap.

    Pages of files are not counted, nor what is in a tmpfs and not mapped: those are not the process's to give.
    """
    keys = (b"\nRssAnon:\t", b"\nRssShmem:\t", b"\nVmSwap:\t")
    return sum(_status_kib(content, key, path) for key in keys)


def parse_proc_comm(content: bytes) -> str:
    """Read /proc/PID/comm: one name and a line break; the name may hold others."""
    return content.removesuffix(b"\n").decode(errors="backslashreplace")


def parse_proc_cmdline(content: bytes) -> str:
    """Read /proc/PID/cmdline: the arguments, or whatever the process wrote over them, with spaces for NULs."""
    words = content.rstrip(b"\0").replace(b"\0", b" ")
    return words.decode(errors="backslashreplace")


def parse_proc_environ(content: bytes, *, is_cut: bool) -> tuple[str, ...]:
    """Read the NAME=value pairs of /proc/PID/environ; of one that was cut, the last is left out.

    What holds no `=` is no pair: programs that show a state in their title write over their environment.
    """
    pairs = content.split(b"\0")
    if is_cut:
        pairs.pop()
    return tuple(pair.decode(errors="backslashreplace") for pair in pairs if b"=" in pair)


def parse_proc_cgroup(content: bytes, path: str) -> str:
    """Read the path in the cgroup2 hierarchy; "/" where the process is in none.

    The kernel appends " (deleted)" when the cgroup was removed under a zombie; a cgroup may also
    be named so, and is then taken for its namesake without the word. Bytes that are not UTF-8 are
    backslash-escaped, for a path has to be sayable: such a cgroup is watched and killed through
    its parent or its processes.
    """
    start = 3 if content.startswith(b"0::") else content.find(b"\n0::") + 4
    if start < 4 and not content.startswith(b"0::"):
        return "/"
    end = content.find(b"\n", start)
    name = content[start:] if end < 0 else content[start:end]
    if not name.startswith(b"/"):
        raise MalformedKernelFile(path, content, "a path after 0::")
    return name.removesuffix(_DELETED).decode(errors="backslashreplace")


def parse_pids(content: bytes, path: str) -> list[int]:
    """Read the pids of cgroup.procs, one a line."""
    return [_number(word, path, content, "a pid") for word in content.split()]
