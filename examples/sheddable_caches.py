"""Caches that are shed by themselves when memory runs short: named where they are made, and one line for all of them.

With `--rehearse LEVEL` it asks lmkd to simulate a level for it, says what it did, and ends; nobody else hears of that.
Otherwise it ends at SIGTERM or Ctrl-C.
"""

import argparse
import functools
import signal
import sys
import threading
from collections import OrderedDict

import lmkd_client

MIB = 1 << 20


@lmkd_client.sheddable
@functools.cache
def thumbnail(number: int) -> bytes:
    """Make a thumbnail, which is kept until memory is needed for something better."""
    return number.to_bytes(4, "big") * (MIB // 4)


class Pages(OrderedDict[int, bytes]):
    """Pages by number, the oldest first. Other threads may use it under its lock."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=16, help="of each cache (default: 16)")
    parser.add_argument("--rehearse", metavar="LEVEL", choices=("low", "medium", "critical"))
    arguments = parser.parse_args()
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before any thread is there

    pages = Pages()
    # Dear to make again: not before it is critical.
    lmkd_client.sheddable(pages, level="critical", lock=pages.lock)
    for number in range(arguments.mib):
        thumbnail(number)
        with pages.lock:
            pages[number] = bytes([number % 256]) * MIB

    @lmkd_client.shed_with
    def say(target_bytes: int) -> None:
        print(f"asked for {target_bytes // MIB} MiB", flush=True)

    listener = lmkd_client.shed_on_pressure(
        name="sheddable_caches", sheddable_bytes=2 * arguments.mib * MIB
    )
    print(f"holding {thumbnail.cache_info().currsize} thumbnails, {len(pages)} pages", flush=True)
    if arguments.rehearse:
        try:
            seen = lmkd_client.simulate(arguments.rehearse)
        except (lmkd_client.LmkdError, TimeoutError) as error:
            sys.exit(str(error))
        print(
            f"{seen.notice.level}: {seen.answer}, {round(seen.freed_bytes / MIB)} MiB freed in {seen.took_ms} ms"
        )
    else:
        signal.sigwait(ends)
    listener.close()
    print(f"holding {thumbnail.cache_info().currsize} thumbnails, {len(pages)} pages", flush=True)
    print("done", flush=True)


if __name__ == "__main__":
    main()
