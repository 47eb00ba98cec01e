"""Our own memory: keep what the reaction needs, let go of what nothing needs, and be served first.

So that the answer to a shortage does not wait for the shortage to end. Each function says why not, in words, where
it is not permitted; none of them is something the daemon cannot do without.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from typing import Final

from lmkd.kernel import files

_MADV_DONTNEED: Final = 4
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4
"""Without it each thread's 8 MiB stack becomes resident; with it the resident set stays as it was (FACTS)."""
_LOCKED: Final = re.compile(rb"^VmLck:\s+[1-9]", re.MULTILINE)
_UNUSED_LIBRARIES: Final = (b"libcrypto.so", b"libssl.so")
"""trio imports ssl; we speak to nobody through it."""
_libc: Final = ctypes.CDLL(None, use_errno=True)


def release_unused_libraries(maps: str = "/proc/self/maps") -> int:
    """Give back the pages of libraries that were touched by an import and will not be used; return the KiB covered.

    Only their code: it is file pages nobody wrote to, and should one be wanted after all, it is read again. What is
    merely not writable *now* holds relocations (RELRO), which would be lost. Left alone the code would be locked with
    the rest: 2 MiB of libcrypto and libssl.
    """
    covered_kib = 0
    content = files.read_file(maps) or b""
    for line in content.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or b"x" not in fields[1]:
            continue
        if not fields[5].rpartition(b"/")[2].startswith(_UNUSED_LIBRARIES):
            continue
        start, end = (int(bound, 16) for bound in fields[0].split(b"-"))
        advised = _libc.madvise(
            ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED
        )
        if advised == 0:
            covered_kib += (end - start) // 1024
    return covered_kib


def lock_memory() -> str | None:
    """Lock all pages that are resident now, and later ones as they come; return why not, if that failed.

    To be called after warm-up: what has not been touched by then is not there to be locked. Takes CAP_IPC_LOCK or
    a sufficient RLIMIT_MEMLOCK.
    """
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0:
        return None
    code = ctypes.get_errno()
    if code in (errno.EPERM, errno.ENOMEM):
        return "no CAP_IPC_LOCK, or RLIMIT_MEMLOCK is too small"
    return os.strerror(code)


def return_freed_memory() -> str | None:
    """Give back to the system what malloc keeps of freed memory; return why it is not locked again, if that failed.

    What is locked cannot be given back (mm/madvise.c): it is unlocked meanwhile, 2 to 4 ms (8 MB, measured), so this
    is for calm. Nothing becomes resident by it, and memory that was not locked is not locked afterwards.
    """
    malloc_trim = getattr(_libc, "malloc_trim", None)
    if malloc_trim is None:
        return None  # another libc than glibc
    was_locked = _LOCKED.search(files.read_file("/proc/self/status") or b"")
    if was_locked:
        _libc.munlockall()
    malloc_trim(ctypes.c_size_t(0))
    return lock_memory() if was_locked else None


def raise_priority() -> str | None:
    """Run before all ordinary tasks; return why not, if that failed.

    Real-time tasks may also dip into the reserve below the min watermark (ALLOC_HARDER in gfp_to_alloc_flags,
    mm/page_alloc.c, 6.1), so that a page for a /proc file need not wait for reclaim. Android's lmkd does the same
    (SCHED_FIFO, 1). What we start does not inherit it, and RT throttling leaves the others 5% whatever we do.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError:
        return "no CAP_SYS_NICE"
    except OSError as error:
        return os.strerror(error.errno or 0)
    return None
