"""From the kernel's wake-up of a PSI trigger to the last of 100 subscribers.

The stalls are real. When the kernel woke is seen by a trigger of our own with the same threshold, which the kernel
checks in the same pass as the daemon's. Between two stalls the level is let fall, so that each is news.
"""

import select
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lmkd_proto import ClientConnection, Hello, Pressure, Subscribe

from lmkd.kernel.files import PRESSURE_MEMORY
from lmkd.kernel.pressure import PressureTrigger, open_trigger
from lmkd.kernel.windows import DEFAULT_TRIGGERS
from tests.bench.rows import Row, middle, percentile
from tests.bench.stall import FILE_BYTES, RECLAIM

CACHE = Path(__file__).parents[2] / ".cache" / "bench"
SUBSCRIBERS = 100
STALLS = 12
STALL_S = 4
SETTLE_S = 5  # an unprivileged trigger fires falsely 0.1 and 2.2 s after it was armed (FACTS)
CONFIG = """
[policy]
project = "none"
[stall.low]
some = "1%"
full = "99%"
[stall.medium]
some = "99%"
full = "99.5%"
[stall.critical]
some = "99.5%"
full = "99.8%"
[stall.emergency]
full = "100%"
[forecast]
slope_per_second = "1TiB"
[timing]
calm_hold = "100ms"
read_pressed = "50ms"
read_idle = "60min"
[system]
kill = false
"""


def measure() -> list[Row]:
    if not RECLAIM.exists():
        print(f"trigger: not measured: no {RECLAIM} here (Linux 6.17 and later have it)")
        return []
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:  # not on a tmpfs: it has to be page cache
        directory = Path(name)
        (directory / "lmkd.toml").write_text(CONFIG)
        (directory / "read").write_bytes(bytes(FILE_BYTES))
        path = str(directory / "socket")
        argv = [
            sys.executable,
            "-m",
            "tests.bench.stalled_daemon",
            path,
            str(directory / "lmkd.toml"),
        ]
        daemon = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        try:
            late_ms = _measure(path, directory / "read")
        finally:
            daemon.terminate()
            daemon.wait()
    note = f"median {middle(late_ms):.2f} ms, {len(late_ms)} stalls"
    what = f"PSI wake-up to the last of {SUBSCRIBERS} subscribers, p99"
    return [Row(what, percentile(late_ms, 0.99), 5, "ms", note)]


def _measure(path: str, read: Path) -> list[float]:
    heard = select.epoll()
    clients: dict[int, tuple[socket.socket, ClientConnection]] = {}
    for _ in range(SUBSCRIBERS):
        sock, connection = _connect(path), ClientConnection()
        sock.sendall(connection.send(Hello(0, 1)) + connection.send(Subscribe(1)))
        clients[sock.fileno()] = (sock, connection)
        heard.register(sock.fileno(), select.EPOLLIN)
    trigger = open_trigger(f"/{PRESSURE_MEMORY}", DEFAULT_TRIGGERS[0])
    if trigger is None:
        raise RuntimeError("no PSI trigger can be armed here")
    time.sleep(SETTLE_S)
    late_ms: list[float] = []
    for _ in range(STALLS):
        _drain(heard, clients, 1.5)
        stall = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.stall", str(read), str(STALL_S)]
        )
        last_ms = _one(trigger, heard, clients)
        stall.wait()
        if last_ms is not None:
            late_ms.append(last_ms)
    trigger.close()
    return late_ms


def _connect(path: str) -> socket.socket:
    for _ in range(200):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            time.sleep(0.05)
        else:
            return sock
    raise RuntimeError(f"no daemon came to listen at {path}")


def _drain(
    heard: select.epoll, clients: dict[int, tuple[socket.socket, ClientConnection]], quiet_s: float
) -> None:
    """Hear all that is said until nothing is for a while: the level has then fallen."""
    while ready := heard.poll(quiet_s):
        for fd, _ in ready:
            sock, connection = clients[fd]
            connection.receive(sock.recv(65536))


def _one(
    trigger: PressureTrigger,
    heard: select.epoll,
    clients: dict[int, tuple[socket.socket, ClientConnection]],
) -> float | None:
    """Return the milliseconds from the kernel's wake-up to the last subscriber; None when one of them was missed."""
    woken_ns = 0
    told: dict[int, int] = {}
    deadline = time.monotonic() + 8
    woken = select.poll()
    woken.register(trigger.fileno(), select.POLLPRI)
    woken.register(heard.fileno(), select.POLLIN)
    while (len(told) < len(clients) or not woken_ns) and time.monotonic() < deadline:
        for fd, _ in woken.poll(500):
            now_ns = time.monotonic_ns()
            if fd == trigger.fileno():
                if (
                    not told or not woken_ns
                ):  # an earlier one may have been too little for the level
                    woken_ns = now_ns
                continue
            for client, _ in heard.poll(0):
                now_ns = time.monotonic_ns()
                sock, connection = clients[client]
                events = connection.receive(sock.recv(65536))
                if any(isinstance(event, Pressure) and event.level == "low" for event in events):
                    told.setdefault(client, now_ns)
    if not woken_ns or len(told) < len(clients):
        return None
    return (max(told.values()) - woken_ns) / 1e6
