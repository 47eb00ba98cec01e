"""A registered program that holds as many MiB as it is told; asked to end, it says so, and ends when it is told to."""

from __future__ import annotations

import signal
import sys
import threading

import lmkd_client

# Run as a program, it finds its neighbour here.
from filler import MIB, answer


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    client = lmkd_client.connect()
    threading.Thread(target=answer, args=(client,), daemon=True).start()
    count = int(sys.stdin.readline())
    held = [b"x" * MIB for _ in range(count)]
    print(f"holding {len(held)}", flush=True)
    signal.sigwait([signal.SIGTERM])
    print("saving", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
