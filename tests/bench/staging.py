"""What the benchmarks of an episode share: a staged daemon, apps in processes of their own, and busy processors."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lmkd_proto import ClientConnection, Hello, Notice, Register

from lmkd.kernel.locked import lock_memory
from tests.bench.staged_daemon import TOTAL_KIB, Board

PLENTY_KIB = TOTAL_KIB // 2
LOW_KIB, MEDIUM_KIB, CRITICAL_KIB = (TOTAL_KIB * share // 100 for share in (8, 5, 2))
"""Below the floors of CONFIG: 10%, 6% and 3%."""
CONFIG = """
[policy]
project = "none"
[process_events]
source = "scan"
[floor.low]
enter = "10%"
leave = "12%"
most = "8GiB"
[floor.medium]
enter = "6%"
leave = "7%"
most = "7GiB"
[floor.critical]
enter = "3%"
leave = "4%"
most = "6GiB"
[floor.emergency]
enter = "1%"
most = "5GiB"
[forecast]
slope_per_second = "1TiB"
"""
NO_STALLS = """
[stall.low]
some = "99.6%"
full = "99.6%"
[stall.medium]
some = "99.7%"
full = "99.7%"
[stall.critical]
some = "99.8%"
full = "99.8%"
[stall.harm]
some = "99.9%"
full = "99.9%"
[stall.emergency]
full = "100%"
"""
"""Where a level is to come from the board alone, whatever the machine beside it does."""


class Staged:
    """A running staged daemon."""

    def __init__(self, directory: Path, more: str = "", prefix: Sequence[str] = ()) -> None:
        self.path = str(directory / "socket")
        config, board = directory / "lmkd.toml", directory / "board"
        config.write_text(CONFIG + more)
        self.board = Board.make(board)
        self.available(PLENTY_KIB)
        self.log = directory / "log"
        argv = [
            *prefix,
            *(sys.executable, "-m", "tests.bench.staged_daemon", self.path, str(config)),
            *(str(board), str(os.getpid()), str(directory / "state")),
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(argv, stderr=log)
        try:
            self.wait(lambda: b" ready" in self.log.read_bytes(), "the daemon")
        except BaseException:
            self.close()
            raise

    def available(self, kib: int) -> None:
        """Say how much memory there is."""
        self.board.at[Board.AVAILABLE_KIB] = kib

    def wait(self, true: Callable[[], object], what: str, timeout_s: float = 20) -> None:
        deadline = time.monotonic() + timeout_s
        while not true():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"{what} did not come to be:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.005)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


@contextlib.contextmanager
def staged(directory: Path, more: str = "") -> Iterator[Staged]:
    """Run a staged daemon."""
    daemon = Staged(directory, more)
    try:
        yield daemon
    finally:
        daemon.close()


class Apps:
    """Registered apps: each a process, whose socket we hear for it."""

    def __init__(self, path: str, count: int, app_class: str = "background") -> None:
        self.epoll = select.epoll()
        self.members: dict[int, tuple[socket.socket, ClientConnection]] = {}
        self._pids: list[int] = []
        for number in range(count):
            sock, connection = socket.socket(socket.AF_UNIX), ClientConnection()
            pid = os.fork()
            if not pid:
                try:
                    sock.connect(path)  # which is what the kernel takes the peer's pid from
                    os.write(sock.fileno(), connection.send(Hello(0, 1, f"app{number}")))
                    os.execv("/bin/sleep", ["sleep", "900"])
                finally:
                    os._exit(1)
            self._pids.append(pid)
            self.members[sock.fileno()] = (sock, connection)
        for sock, connection in self.members.values():
            connection.send(Hello(0, 1))  # the child's words, for the state of this end
            deadline = time.monotonic() + 10
            while not _is_connected(sock):
                if time.monotonic() > deadline:
                    raise RuntimeError("an app could not connect")
                time.sleep(0.002)
            # The child says hello after it has connected; until it is welcomed, nothing else may be said.
            if not select.select([sock], [], [], 10)[0]:
                raise RuntimeError("an app was not welcomed")
            sock.sendall(connection.send(Register(1, "app", app_class, 1 << 20)))
            self.epoll.register(sock.fileno(), select.EPOLLIN)
        self.drain(0.5)

    def drain(self, quiet_s: float) -> None:
        """Hear all that is said until nothing is for a while."""
        while ready := self.epoll.poll(quiet_s):
            for fd, _ in ready:
                sock, connection = self.members[fd]
                connection.receive(sock.recv(65536))

    def hear(self, level: str, timeout_s: float) -> dict[int, int]:
        """Return when each app had the first byte of its notice of a level, in nanoseconds."""
        heard: dict[int, int] = {}
        deadline = time.monotonic() + timeout_s
        while len(heard) < len(self.members) and time.monotonic() < deadline:
            for fd, _ in self.epoll.poll(0.2):
                now_ns = time.monotonic_ns()
                sock, connection = self.members[fd]
                for event in connection.receive(sock.recv(65536)):
                    if isinstance(event, Notice) and event.level == level:
                        heard.setdefault(fd, now_ns)
        return heard

    def close(self) -> None:
        self.epoll.close()
        for sock, _ in self.members.values():
            sock.close()
        for pid in self._pids:
            end(pid)


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def end(pid: int) -> None:
    """End a child of ours."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


@contextlib.contextmanager
def busy_processors() -> Iterator[None]:
    """Keep every processor busy, with spinning children of ordinary priority."""
    count = os.cpu_count() or 1
    spinning = [
        subprocess.Popen([sys.executable, "-S", "-E", "-c", "while True: pass"])
        for _ in range(count)
    ]
    try:
        time.sleep(0.3)
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


@contextlib.contextmanager
def instrument() -> Iterator[str]:
    """Run the clock that we measure by before ordinary tasks, and in locked memory.

    Or it would measure its own wait for a processor, and for its own code, which the stall generator drops.
    """
    lock_memory()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError:
        yield "clock at ordinary priority"
        return
    try:
        yield "clock at real-time priority"
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
