"""A cache that gives its oldest blocks back when memory runs short: a plain program and one line, `on_pressure`.

The blocks are memory maps of their own, so what is dropped goes back to the system at once, and not to an
allocator that keeps it. Ends at SIGTERM or Ctrl-C.
"""

import argparse
import mmap
import os
import signal
import threading
from collections import OrderedDict

import lmkd_client

MIB = 1 << 20
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
"""Shared memory is nobody's own, so that giving it back would not show (Python's default)."""


class Cache:
    """Blocks of 1 MiB by number; the least recently used goes first. Any thread may use it."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._turn = threading.Lock()

    def read(self, number: int) -> bytes:
        """Return the start of a block, which is made if it is not there."""
        with self._turn:
            block = self._blocks.get(number)
            if block is None:
                block = self._blocks[number] = mmap.mmap(-1, MIB, flags=PRIVATE)
                block.write(os.urandom(MIB))
            self._blocks.move_to_end(number)
            return block[:16]

    def shed(self, target_bytes: int) -> int:
        """Drop blocks until this much is free, or none is left; return how much that was."""
        freed_bytes = 0
        with self._turn:
            while self._blocks and freed_bytes < target_bytes:
                _, oldest = self._blocks.popitem(last=False)
                oldest.close()
                freed_bytes += MIB
        return freed_bytes

    def held_mib(self) -> int:
        """Return how much it holds."""
        with self._turn:
            return len(self._blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=32, help="how much to hold (default: 32)")
    parser.add_argument("--name", default="cache", help="the name to register (default: cache)")
    parser.add_argument("--class", dest="app_class", default="cached", help="(default: cached)")
    arguments = parser.parse_args()

    # Before any thread is there, so that all of them leave these to the main thread.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)

    cache = Cache()
    for number in range(arguments.mib):
        cache.read(number)
    print(f"holding {cache.held_mib()} MiB", flush=True)

    def shed(notice: lmkd_client.Notice) -> int:
        freed_bytes = cache.shed(notice.target_bytes)
        print(
            f"{notice.level}: asked for {notice.target_bytes // MIB} MiB, freed {freed_bytes // MIB} MiB,"
            f" holding {cache.held_mib()} MiB",
            flush=True,
        )
        return freed_bytes

    listener = lmkd_client.on_pressure(
        shed,
        name=arguments.name,
        app_class=arguments.app_class,
        sheddable_bytes=arguments.mib * MIB,
    )
    signal.sigwait(ends)
    listener.close()
    print("done", flush=True)


if __name__ == "__main__":
    main()
