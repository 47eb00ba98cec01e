"""Have large blocks of our own heap go back to the system when they are freed.

malloc keeps what is freed below anything that is still in use, and cannot give it back: malloc_trim does it by
MADV_DONTNEED, which the kernel refuses for locked memory (lmkd.kernel.locked; mm/madvise.c). Blocks that are mappings
of their own are given back one by one; what is smaller, in calm (lmkd.kernel.locked.return_freed_memory). Python's
small objects come from its own arenas and are not concerned.
"""

from __future__ import annotations

import ctypes
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
LARGE_BYTES: Final = 16 * 1024
"""From here on a block is a mapping of its own; malloc begins with 128 KiB, and learns to keep more. What clients make
us hold, frames and replies of up to 64 KiB, was kept before: 11 MiB after 500 hostile ones (tests/bench/hostile.py)."""
_libc: Final = ctypes.CDLL(None)


def return_large_blocks() -> bool:
    """Return whether that could be arranged; not where libc is another than glibc."""
    mallopt = getattr(_libc, "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES))
