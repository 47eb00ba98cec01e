"""A small web server on asyncio whose response cache gives memory back, while it goes on serving.

It serves whether lmkd is there or not. Ends at SIGTERM or Ctrl-C.
"""

import argparse
import asyncio
import hashlib
import signal

from lmkd_client.asyncio import connect

KIB = 1 << 10


class Pages:
    """Pages by path. To make one takes time, so they are kept; the oldest go first."""

    def __init__(self, page_kib: int, most_bytes: int) -> None:
        self._page_bytes = page_kib * KIB
        self.most_bytes = most_bytes
        self._kept: dict[str, bytes] = {}

    def find(self, path: str) -> tuple[bytes, bool]:
        """Return a page, and whether it was kept."""
        page = self._kept.get(path)
        if page is not None:
            return page, True
        self.shed(self.held_bytes() + self._page_bytes - self.most_bytes)
        page = self._kept[path] = hashlib.shake_128(path.encode()).digest(self._page_bytes)
        return page, False

    def shed(self, target_bytes: int) -> int:
        """Drop pages until this much is free, or none is left; return how much that was."""
        freed_bytes = 0
        while self._kept and freed_bytes < target_bytes:
            freed_bytes += len(self._kept.pop(next(iter(self._kept))))
        return freed_bytes

    def held_bytes(self) -> int:
        """Return how much is kept."""
        return len(self._kept) * self._page_bytes


async def serve(pages: Pages, port: int) -> None:
    """Answer requests for pages, for ever."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            path = request.split()[1].decode(errors="replace")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError):
            writer.close()
            return
        page, kept = pages.find(path)
        found = "hit" if kept else "miss"
        writer.write(f"HTTP/1.0 200 OK\r\nX-Cache: {found}\r\n\r\n".encode() + page)
        await writer.drain()
        writer.close()
        print(f"served {path} ({found})", flush=True)

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    print(f"listening on port {server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


async def give_back(pages: Pages) -> None:
    """Register, and shed at each notice, for ever; with or without a daemon at the start."""
    async with connect(name="asyncio_server", wait=True) as client:
        app = await client.register("asyncio_server", "service", sheddable_bytes=pages.most_bytes)
        print(f"registered as {app.grant.app_class}", flush=True)
        async for notice in app.notices():
            if notice.level == "normal":
                print("normal: no more is asked", flush=True)
                continue
            freed_bytes = pages.shed(notice.target_bytes)
            await app.ack(notice, "done" if freed_bytes else "nothing", freed_bytes)
            print(
                f"{notice.level}: freed {freed_bytes // KIB} KiB, holding {pages.held_bytes() // KIB} KiB",
                flush=True,
            )


async def run(port: int, page_kib: int, cache_mib: int) -> None:
    """Serve until a signal ends it."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    pages = Pages(page_kib, cache_mib << 20)
    tasks = [
        asyncio.create_task(serve(pages, port)),
        asyncio.create_task(give_back(pages)),
        asyncio.create_task(ended.wait()),
    ]
    finished, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in finished:
        task.result()  # tells what went wrong, if it was not a signal
    print("done", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="(default: any that is free)")
    parser.add_argument("--page-kib", type=int, default=256, help="size of a page (default: 256)")
    parser.add_argument("--cache-mib", type=int, default=64, help="kept at most (default: 64)")
    arguments = parser.parse_args()
    asyncio.run(run(arguments.port, arguments.page_kib, arguments.cache_mib))


if __name__ == "__main__":
    main()
