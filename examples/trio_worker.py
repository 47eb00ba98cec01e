"""A trio program whose workers share a pool of buffers: idle ones are given back, and at critical none is newly made.

Ends at SIGTERM or Ctrl-C.
"""

import argparse
import mmap
import signal
import zlib

import trio
from lmkd_client.trio import connect

MIB = 1 << 20
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
"""Shared memory is nobody's own, so that giving it back would not show (Python's default)."""


class Pool:
    """Buffers that are used again. An idle buffer costs memory and saves time: the first thing to give back."""

    def __init__(self, count: int, buffer_mib: int) -> None:
        self._buffer_bytes = buffer_mib * MIB
        self._idle: list[mmap.mmap] = []
        self._calm = trio.Event()
        self._calm.set()
        for _ in range(count):
            self.put_back(self._make())

    async def borrow(self) -> mmap.mmap:
        """Return a buffer: an idle one, or when memory is not critical a new one."""
        while not self._idle and not self._calm.is_set():
            await self._calm.wait()
        return self._idle.pop() if self._idle else self._make()

    def put_back(self, buffer: mmap.mmap) -> None:
        """Keep a buffer for the next one who needs it, or at critical give it back to the system."""
        if self._calm.is_set():
            self._idle.append(buffer)
        else:
            buffer.close()

    def shed(self, target_bytes: int) -> int:
        """Drop idle buffers until this much is free, or none is idle; return how much that was."""
        freed_bytes = 0
        while self._idle and freed_bytes < target_bytes:
            self._idle.pop().close()
            freed_bytes += self._buffer_bytes
        return freed_bytes

    def hear(self, level: str) -> None:
        """Make no new buffers at critical."""
        if level != "critical":
            self._calm.set()
        elif self._calm.is_set():
            self._calm = trio.Event()

    def idle_mib(self) -> int:
        """Return how much is idle."""
        return len(self._idle) * self._buffer_bytes // MIB

    def _make(self) -> mmap.mmap:
        buffer = mmap.mmap(-1, self._buffer_bytes, flags=PRIVATE)
        buffer.write(b"\1" * self._buffer_bytes)
        return buffer


async def work(pool: Pool) -> None:
    """Do a job every now and then: borrow, fill, sum up, put back."""
    while True:
        buffer = await pool.borrow()
        zlib.crc32(buffer)
        pool.put_back(buffer)
        await trio.sleep(0.2)


async def give_back(pool: Pool, most_bytes: int) -> None:
    """Register, and shed at each notice, for ever; with or without a daemon at the start."""
    async with connect(name="trio_worker", wait=True) as client:
        app = await client.register("trio_worker", "background", sheddable_bytes=most_bytes)
        print(f"registered as {app.grant.app_class}", flush=True)
        async for notice in app.notices():
            pool.hear(notice.level)
            if notice.level == "normal":
                print("normal: no more is asked", flush=True)
                continue
            freed_bytes = pool.shed(notice.target_bytes)
            await app.ack(notice, "done" if freed_bytes else "nothing", freed_bytes)
            await app.update(sheddable_bytes=pool.idle_mib() * MIB)
            print(
                f"{notice.level}: freed {freed_bytes // MIB} MiB, {pool.idle_mib()} MiB idle",
                flush=True,
            )


async def run(count: int, buffer_mib: int, workers: int) -> None:
    """Work until a signal ends it."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        pool = Pool(count, buffer_mib)
        print(f"pool of {pool.idle_mib()} MiB", flush=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_back, pool, count * buffer_mib * MIB)
            for _ in range(workers):
                nursery.start_soon(work, pool)
            await anext(signals)
            nursery.cancel_scope.cancel()
    print("done", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--buffers", type=int, default=8, help="in the pool (default: 8)")
    parser.add_argument("--mib", type=int, default=4, help="size of a buffer (default: 4)")
    parser.add_argument("--workers", type=int, default=2, help="(default: 2)")
    arguments = parser.parse_args()
    trio.run(run, arguments.buffers, arguments.mib, arguments.workers)


if __name__ == "__main__":
    main()
