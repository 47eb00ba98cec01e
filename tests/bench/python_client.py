"""The Python client: what it costs to import, and how long a notice takes from the socket to the program's own code.

The program is a process of its own, as it would be; it answers each notice with the time at which its callback began.
"""

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lmkd_client.testing import Peer
from lmkd_client.testing.peer import PATIENCE_S, listen
from lmkd_proto import Ack, Notice, Ok

from tests.bench.rows import Row, middle, percentile

STARTS = 21
NOTICES = 2000
IMPORT_LIMIT_MS = 30
IMPORT_LIMIT_MB = 3
NOTICE_LIMIT_MS = 1
RESIDENT = "print(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1])"
USES = {
    "import lmkd_client": "import lmkd_client",
    "and name a cache": "import lmkd_client; lmkd_client.sheddable",
    "and listen": "import lmkd_client; lmkd_client.shed_on_pressure",
}
"""What the limit is for first; the others are in its note."""
FLOOR = """
import socket, sys, time
from lmkd_proto import Ack, ClientConnection, Hello, Notice, Register
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
connection = ClientConnection()
sock.sendall(connection.send(Hello(0, 1)) + connection.send(Register(1, "bench", "cached")))
while True:
    for event in connection.receive(sock.recv(65536)):
        if isinstance(event, Notice):
            sock.sendall(connection.send(Ack(2, event.notice, "done", time.monotonic_ns())))
"""
"""No client at all: a socket and the codec. What this takes is the machine's, and what else runs on it."""
PROGRAMS = {
    "on_pressure": """
import lmkd_client, signal, sys, time
lmkd_client.on_pressure(lambda notice: time.monotonic_ns(), name="bench", path=sys.argv[1])
signal.pause()
""",
    "blocking": """
import sys, time
from lmkd_client import connect
with connect(sys.argv[1]) as client:
    app = client.register("bench", "cached")
    for notice in app.notices():
        app.ack(notice, "done", time.monotonic_ns())
""",
    "asyncio": """
import asyncio, sys, time
from lmkd_client.asyncio import connect
async def main():
    async with connect(sys.argv[1]) as client:
        app = await client.register("bench", "cached")
        async for notice in app.notices():
            await app.ack(notice, "done", time.monotonic_ns())
asyncio.run(main())
""",
    "trio": """
import sys, time, trio
from lmkd_client.trio import connect
async def main():
    async with connect(sys.argv[1]) as client:
        app = await client.register("bench", "cached")
        async for notice in app.notices():
            await app.ack(notice, "done", time.monotonic_ns())
trio.run(main)
""",
}


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        floor_ms = _notices(directory / "floor", FLOOR)
        return [
            *_imports(),
            *(_row(how, _notices(directory / how, PROGRAMS[how]), floor_ms) for how in PROGRAMS),
        ]


def _imports() -> list[Row]:
    """Start bare Python and each use in turns, so that what else goes on here is in all of them."""
    codes = {"bare": "pass", **USES}
    took_ms: dict[str, list[float]] = {use: [] for use in codes}
    held_kib: dict[str, list[float]] = {use: [] for use in codes}
    for _ in range(STARTS):
        for use, code in codes.items():
            began = time.perf_counter()
            ran = subprocess.run(
                [sys.executable, "-c", f"{code}\n{RESIDENT}"], capture_output=True, check=True
            )
            took_ms[use].append((time.perf_counter() - began) * 1000)
            held_kib[use].append(int(ran.stdout))
    over_ms = {use: middle(took_ms[use]) - middle(took_ms["bare"]) for use in USES}
    over_mb = {use: (middle(held_kib[use]) - middle(held_kib["bare"])) * 1024 / 1e6 for use in USES}
    first, *others = USES
    note_ms = ", ".join(f"{use} {over_ms[use]:.1f}" for use in others)
    note_mb = ", ".join(f"{use} {over_mb[use]:.1f}" for use in others)
    over = f"{first}, over bare Python"
    return [
        Row(f"{over}: time", max(over_ms[first], 0), IMPORT_LIMIT_MS, "ms", note_ms),
        Row(f"{over}: resident set", max(over_mb[first], 0), IMPORT_LIMIT_MB, "MB", note_mb),
    ]


def _row(how: str, took_ms: list[float], floor_ms: list[float]) -> Row:
    note = (
        f"median {middle(took_ms):.3f}, max {max(took_ms):.3f}; without a client"
        f" {middle(floor_ms):.3f}, p99 {percentile(floor_ms, 0.99):.3f}"
    )
    what = f"notice, socket to callback, p99, {how}"
    return Row(what, percentile(took_ms, 0.99), NOTICE_LIMIT_MS, "ms", note)


def _notices(path: Path, code: str) -> list[float]:
    """Return what each notice to a program took until its own code began."""
    with (
        listen(str(path)) as listener,
        subprocess.Popen([sys.executable, "-c", code, path]) as program,
    ):
        try:
            sock, _ = listener.accept()
            with sock:
                return ask(sock, NOTICES)
        finally:
            program.kill()


def ask(sock: socket.socket, count: int) -> list[float]:
    """Give an app notices, one after the other; return in ms when its callback began, by its own word."""
    sock.settimeout(PATIENCE_S)
    peer = Peer(sock)
    peer.greet()
    peer.grant()
    took_ms = []
    for number in range(count):
        notice = Notice(number, "system", "low", 1 << 20, 1000, "a benchmark")
        began_ns = time.monotonic_ns()
        peer.say(notice)
        ack = peer.expect(Ack)
        took_ms.append((ack.freed_bytes - began_ns) / 1e6)
        peer.say(Ok(ack.id, {"deadline_ms": 1000}))
        time.sleep(0.0005)  # so that it waits again, as a program does
    return took_ms
