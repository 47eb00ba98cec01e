"""Keep our own pages in memory, so that the reaction to a shortage does not wait for the shortage
to end."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4
"""Without it each thread's 8 MiB stack becomes resident; with it the resident set stays as it was
(FACTS)."""


def lock_memory() -> str | None:
    """Lock all pages that are resident now, and later ones as they come; return why not, if that
    failed.

    To be called after warm-up: what has not been touched by then is not there to be locked. Takes
    CAP_IPC_LOCK or a sufficient RLIMIT_MEMLOCK.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0:
        return None
    code = ctypes.get_errno()
    if code in (errno.EPERM, errno.ENOMEM):
        return "no CAP_IPC_LOCK, or RLIMIT_MEMLOCK is too small"
    return os.strerror(code)
