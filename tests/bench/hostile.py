"""A hostile program beside an episode: how much later do the others hear, and what does it cost the daemon?

    python -m tests.bench.hostile SOCKET SECONDS UID WHAT

The hostile program is one process, or for each of five trades a process, of another uid: 500 connections in all, 100
for each trade. It sends garbage; begins frames and does not end them; asks as fast as it is answered; sends frames of
64 KiB; and asks without ever reading. Who is thrown out comes again.

Meanwhile a hundred apps of other processes are told of an episode that comes and goes, as in the latency benchmark; the
level is said on the board of a staged daemon. It counts from there, so that a daemon too busy to read is seen, too: up
to 60 ms of each figure are the wait for the next reading. Without the hostile program, processes that only spin want
the processors in its place.
"""

import contextlib
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from lmkd_proto import ClientConnection, Error, Explain, Hello, History, Status, Subscribe, encode

from tests.bench.latency import CROSSINGS, QUICK, crossings
from tests.bench.rows import Row, middle, percentile
from tests.bench.staging import NO_STALLS, Apps, Staged, busy_processors, staged

SECONDS = 60
APPS = 100
EACH = 100
TRADES = ("garbage", "half", "flood", "large", "deaf")
UID = 65_534
MORE_MOST_KIB = 16 * 1024
"""For 500 hostile connections: a backlog of requests of a chunk each, and an unfinished frame of 64 KiB of some."""
LEFT_MOST_KIB = 4 * 1024
"""What malloc kept is given back when they have gone; the arenas that Python cut small objects from may stay."""
RETRY_S = 0.05


def measure(seconds: int = SECONDS) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        with staged(directory, NO_STALLS + QUICK) as daemon:
            apps = Apps(daemon.path, APPS)
            try:
                return _measure(daemon, apps, seconds)
            finally:
                apps.close()


def _measure(daemon: Staged, apps: Apps, seconds: int) -> list[Row]:
    pid = daemon.process.pid
    with busy_processors():
        crossings(daemon, apps, CROSSINGS // 10)
        before_kib = _resident_kib(pid)
        alone_ms = crossings(daemon, apps, CROSSINGS, seconds / 2, waiting=True)
    hostile = [_start(daemon.path, seconds, trade) for trade in TRADES]
    try:
        daemon.wait(lambda: _descriptors(pid) > EACH * 4, "the hostile crowd", 30)
        beside_ms, most_kib, used_s = [], 0, _used_s(pid)
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            beside_ms += crossings(daemon, apps, CROSSINGS, 1, waiting=True)
            most_kib = max(most_kib, _resident_kib(pid))
        share = (_used_s(pid) - used_s) / (time.monotonic() - began)
    finally:
        for process in hostile:
            process.kill()
            process.wait()
    daemon.wait(lambda: _descriptors(pid) < APPS + 60, "the crowd to be let go", 30)
    time.sleep(2)
    left_kib = _resident_kib(pid)
    alone, beside = percentile(alone_ms, 0.99), percentile(beside_ms, 0.99)
    return [
        Row(
            "p99 of the notices beside a hostile crowd, against without",
            beside / alone,
            2,
            "times",
            f"{beside:.1f} ms against {alone:.1f} ms; the daemon takes {share:.0%} of a processor",
        ),
        Row(
            "their median",
            middle(beside_ms) / middle(alone_ms),
            2,
            "times",
            f"{middle(beside_ms):.1f} ms against {middle(alone_ms):.1f} ms, {len(beside_ms)} crossings in {seconds} s",
        ),
        Row("resident set more while they are there", most_kib - before_kib, MORE_MOST_KIB, "KiB"),
        Row("resident set more when they have gone", left_kib - before_kib, LEFT_MOST_KIB, "KiB"),
        _quota(daemon),
    ]


def _quota(daemon: Staged) -> Row:
    """One uid takes all the connections that it is given."""
    asked = subprocess.run(
        [sys.executable, "-m", "tests.bench.hostile", daemon.path, "20", str(UID), "quota"],
        capture_output=True,
        text=True,
        check=True,
    )
    given, said = asked.stdout.strip().split(" ", 1)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(daemon.path)
        connection = ClientConnection()
        sock.sendall(connection.send(Hello(0, 1)))
        events = connection.receive(sock.recv(65536))
    if "too_many" not in said or not events:
        raise RuntimeError(f"{said}; and another uid heard {events}")
    return Row(
        "share of the connections that one uid is given",
        int(given) / int(said.split()[0]),
        0.5,
        "",
        said,
    )


def _start(path: str, seconds: int, trade: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "tests.bench.hostile", path, str(seconds + 30), str(UID), trade]
    return subprocess.Popen(argv)


def _resident_kib(pid: int) -> int:
    return (
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    )


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _used_s(pid: int) -> float:
    return (
        sum(
            int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
            for thread in os.listdir(f"/proc/{pid}/task")
        )
        / 1e9
    )


# --- the hostile program ----------------------------------------------------------------------------------------


class Crowd:
    """A hundred connections of one trade."""

    def __init__(self, path: str, trade: str) -> None:
        self.path, self.trade = path, trade
        self.chance = Random(trade)
        self.poll = select.epoll()
        self.socks: dict[int, socket.socket] = {}
        self.hello = encode(Hello(0, 1, trade))

    def fill(self) -> None:
        """Connect as many as there are to be."""
        while len(self.socks) < EACH:
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            try:
                sock.connect(self.path)
            except OSError:
                sock.close()
                return
            self.socks[sock.fileno()] = sock
            self.poll.register(sock.fileno(), select.EPOLLOUT | select.EPOLLIN)
            if self.trade != "garbage":
                self.try_send(sock, self.hello)

    def lose(self, fd: int) -> None:
        self.socks.pop(fd).close()

    def try_send(self, sock: socket.socket, content: bytes) -> None:
        with contextlib.suppress(BlockingIOError):
            sock.send(content)

    def words(self) -> bytes:
        """Return what this trade says."""
        chance = self.chance
        if self.trade == "garbage":
            body = chance.randbytes(200)
            return len(body).to_bytes(4, "big") + body if chance.random() < 0.9 else body
        if self.trade == "half":
            # A frame of 64 KiB that is never finished: what has come of it is kept for it.
            return (65_536).to_bytes(4, "big") + bytes(chance.randrange(65_000))
        if self.trade == "large":
            return (65_536).to_bytes(4, "big") + bytes(65_536)
        return b"".join(
            (encode(Status(1)), encode(History(2)), encode(Explain(3, 1)), encode(Subscribe(4)))
        )

    def run(self, until: float) -> None:
        """Go on with it."""
        rests: dict[int, bytes] = {}
        finished: set[int] = set()
        while time.monotonic() < until:
            self.fill()
            for fd, what in self.poll.poll(RETRY_S):
                sock = self.socks[fd]
                try:
                    if what & select.EPOLLIN and self.trade != "deaf" and not sock.recv(1 << 16):
                        raise ConnectionResetError
                    if what & select.EPOLLOUT and fd not in finished:
                        rest = rests.pop(fd, b"") or self.words()
                        rests[fd] = rest[sock.send(rest) :]
                        if self.trade == "half" and not rests[fd]:
                            finished.add(fd)
                            self.poll.modify(fd, select.EPOLLIN)
                except BlockingIOError:
                    continue
                except OSError:
                    rests.pop(fd, None)
                    finished.discard(fd)
                    self.lose(fd)


def take_all(path: str) -> None:
    """Connect until it is refused, and print how many were given, how many there are to give, and what was said."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held: list[socket.socket] = []
    while True:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(5)
        sock.connect(path)
        connection = ClientConnection()
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(connection.send(Hello(0, 1)))
        events = connection.receive(sock.recv(65536))
        refused = [
            event for event in events if isinstance(event, Error) or "too_many" in str(event)
        ]
        if refused:
            print(len(held), hard, refused[0])
            return
        held.append(sock)


def main() -> None:
    path, seconds, uid, what = sys.argv[1:]
    os.setgid(int(uid))
    os.setuid(int(uid))
    if what == "quota":
        take_all(path)
    else:
        Crowd(path, what).run(time.monotonic() + int(seconds))


if __name__ == "__main__":
    main()
