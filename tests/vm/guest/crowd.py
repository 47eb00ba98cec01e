"""500 subscribers, of which 50 never read, a stopped client and one that floods: do the others hear every level?

The levels are simulated by a controller; what is measured is how far apart the first and the last of the readers hear
of each, first without the hostile clients and then with them.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from lmkd_proto import ClientConnection, Hello, Pressure, Simulate, Subscribe

from tests.vm.guest.stage import SOCKET, Stage, now_ms

READERS = 450
DEAF = 50
LEVELS = ("low", "medium", "critical", "medium", "low", "critical")


def connect(subscribe: bool) -> tuple[socket.socket, ClientConnection]:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(SOCKET)
    connection = ClientConnection()
    sock.sendall(connection.send(Hello(0, 1)))
    if subscribe:
        sock.sendall(connection.send(Subscribe(1)))
    return sock, connection


class Readers:
    """All that read, in one process."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.members: dict[int, tuple[socket.socket, ClientConnection]] = {}
        for _ in range(READERS):
            sock, connection = connect(subscribe=True)
            self.members[sock.fileno()] = (sock, connection)
            self.epoll.register(sock.fileno(), select.EPOLLIN)

    def hear(self, level: str, timeout_s: float) -> tuple[list[int], list[int]]:
        """Return when each reader heard of a simulated level, and then of the end of it, in microseconds."""
        heard: dict[int, int] = {}
        over: dict[int, int] = {}
        deadline = time.monotonic() + timeout_s
        while len(over) < READERS and time.monotonic() < deadline:
            for fd, _ in self.epoll.poll(0.05):
                sock, connection = self.members[fd]
                at_us = time.monotonic_ns() // 1000
                for event in connection.receive(sock.recv(65536)):
                    if not isinstance(event, Pressure):
                        continue
                    if event.simulated and event.level == level:
                        heard.setdefault(fd, at_us)
                    elif fd in heard and not event.simulated:
                        over.setdefault(fd, at_us)
        return sorted(heard.values()), sorted(over.values())

    def drain(self) -> None:
        """Read what was said on subscribing, until nothing more comes."""
        while ready := self.epoll.poll(2):
            for fd, _ in ready:
                sock, connection = self.members[fd]
                connection.receive(sock.recv(65536))


def play(stage: Stage, readers: Readers, what: str) -> None:
    """Simulate each level for all, and note how many heard of it and how far apart."""
    controller, connection = connect(subscribe=False)
    for number, level in enumerate(LEVELS):
        asked_us = time.monotonic_ns() // 1000
        controller.sendall(connection.send(Simulate(10 + number, level, "all", 400)))
        heard, over = readers.hear(level, 20)
        stage.note(
            what,
            level=level,
            heard=len(heard),
            heard_end=len(over),
            first_ms=(heard[0] - asked_us) // 1000 if heard else None,
            spread_ms=(heard[-1] - heard[0]) // 1000 if heard else None,
        )
    controller.close()


FLOOD = """
import os, socket, sys
while True:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[1])
    try:
        while True:
            body = os.urandom(200)
            sock.sendall(len(body).to_bytes(4, "big") + body)
            sock.recv(65536, socket.MSG_DONTWAIT)
    except BlockingIOError:
        pass
    except OSError:
        pass
    sock.close()
"""


def hostile() -> tuple[list[Any], list[subprocess.Popen[bytes]]]:
    """Start those that would spoil it: 50 that never read, one that is stopped, one that floods garbage."""
    deaf = [connect(subscribe=True) for _ in range(DEAF)]
    stopped = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.vm.guest.member",
            "stopped",
            "--socket",
            SOCKET,
            "--subscribe",
            "system",
        ],
        stdout=subprocess.PIPE,
    )
    assert stopped.stdout is not None
    while b"connected" not in stopped.stdout.readline():
        pass
    stopped.send_signal(signal.SIGSTOP)
    flood = subprocess.Popen([sys.executable, "-c", FLOOD, SOCKET])
    return deaf, [stopped, flood]


def main() -> None:
    stage = Stage("crowd")
    stage.start_daemon()
    readers = Readers()
    readers.drain()
    play(stage, readers, "quiet")
    deaf, processes = hostile()
    began_ms = now_ms()
    play(stage, readers, "hostile")
    stage.note("hostile_for", ms=now_ms() - began_ms, deaf=len(deaf))
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    stage.finish()


if __name__ == "__main__":
    main()
