"""A registered program that holds as many MiB as it is told, line by line: on simulated memory it makes the episodes.

It answers every notice with nothing. What is configured with it kills nobody.
"""

from __future__ import annotations

import sys
import threading

import lmkd_client

MIB = 1 << 20


def answer(client: lmkd_client.Client) -> None:
    app = client.register("filler", "foreground")
    print("ready", flush=True)
    for notice in app.notices():
        if notice.level != "normal":
            app.ack(notice, "nothing")


def main() -> None:
    client = lmkd_client.connect()
    threading.Thread(target=answer, args=(client,), daemon=True).start()
    held: list[bytearray] = []
    for line in sys.stdin:
        while len(held) > int(line):
            held.pop()
        while len(held) < int(line):
            held.append(bytearray(b"x" * MIB))
        print(f"holding {line.strip()}", flush=True)


if __name__ == "__main__":
    main()
