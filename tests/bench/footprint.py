"""The idle daemon: resident set, with and without subscribers, wake-ups, processor time, and the way to READY.

Twice: looking for new processes, as on a machine of less than a GiB, and told of them, which loads pyroute2. It writes
nobody's place: this machine is not its to order.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lmkd_proto import ClientConnection, Hello, Subscribe

from lmkd.service.daemon import raise_fd_limit
from tests.bench.rows import Row, middle

STARTS = 7
SUBSCRIBERS = 5_000
IDLE_S = 10
LIMITS = {"scan": (0.5, 31), "netlink": (0.8, 43)}
"""By source: seconds to READY, and resident MB; pyroute2 is 140 ms and 12 MiB of those (FACTS)."""


def measure() -> list[Row]:
    raise_fd_limit()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        return [row for source in LIMITS for row in _measure(directory, source)]


def _measure(directory: Path, source: str) -> list[Row]:
    starts_s = []
    for _ in range(STARTS):
        daemon, start_s = _start(directory, source)
        starts_s.append(start_s)
        daemon.terminate()
        daemon.wait()
    daemon, _ = _start(directory, source)
    limit_s, _ = LIMITS[source]
    try:
        return [
            Row(f"{source}: start to READY", middle(starts_s), limit_s, "s", f"median of {STARTS}"),
            *_idle(daemon.pid, source),
            _with_subscribers(daemon.pid, directory, source),
        ]
    finally:
        daemon.terminate()
        daemon.wait()


def _start(directory: Path, source: str) -> tuple[subprocess.Popen[bytes], float]:
    """Start a daemon as a service manager does, and return it with the seconds it took to say READY."""
    config = directory / "lmkd.toml"
    config.write_text(f'[policy]\nproject = "none"\n[process_events]\nsource = "{source}"\n')
    manager = directory / "manager"
    manager.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(manager))
        notified.settimeout(20)
        began = time.perf_counter()
        daemon = subprocess.Popen(
            [
                *(sys.executable, "-m", "lmkd", "--quiet"),
                *("--socket", str(directory / "socket"), "--state-dir", str(directory / "state")),
                *("--config", str(config)),
            ],
            env={**os.environ, "NOTIFY_SOCKET": str(manager)},
            stderr=subprocess.DEVNULL,
        )
        while notified.recv(64) != b"READY=1":
            pass
        return daemon, time.perf_counter() - began


def _idle(pid: int, source: str) -> list[Row]:
    _, limit_mb = LIMITS[source]
    time.sleep(1)
    resident_mb = _resident_kib(pid) * 1024 / 1e6
    wakes, ticks = _wakes(pid), _ticks(pid)
    time.sleep(IDLE_S)
    wakes_s = (_wakes(pid) - wakes) / IDLE_S
    share = (_ticks(pid) - ticks) / os.sysconf("SC_CLK_TCK") / IDLE_S * 100
    return [
        Row(f"{source}: resident set, idle, no client", resident_mb, limit_mb, "MB"),
        Row(
            f"{source}: wake-ups while idle", wakes_s, 1, "a second", f"{share:.2f}% of a processor"
        ),
    ]


def _with_subscribers(pid: int, directory: Path, source: str) -> Row:
    before_kib = _resident_kib(pid)
    clients = []
    for _ in range(SUBSCRIBERS):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(directory / "socket"))
        connection = ClientConnection()
        sock.sendall(connection.send(Hello(0, 1)) + connection.send(Subscribe(1)))
        clients.append(sock)
    for sock in clients:
        sock.recv(65536)
    time.sleep(0.5)
    each_kib = (_resident_kib(pid) - before_kib) / SUBSCRIBERS
    for sock in clients:
        sock.close()
    return Row(f"{source}: resident set per subscriber", each_kib, 6, "KiB", f"of {SUBSCRIBERS:,}")


def _resident_kib(pid: int) -> int:
    return _status(pid, "VmRSS")


def _status(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise KeyError(key)


def _wakes(pid: int) -> int:
    """Voluntary switches of all threads: each is one sleep, so one wake-up."""
    return sum(
        int(line.split()[1])
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return int(fields[11]) + int(fields[12])
