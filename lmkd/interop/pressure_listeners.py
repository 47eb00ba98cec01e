"""Wake programs by systemd's memory pressure protocol, over a socket (systemd: MEMORY_PRESSURE.md).

A program connects to what $MEMORY_PRESSURE_WATCH names, writes what $MEMORY_PRESSURE_WRITE holds, if that is set, and
waits until there is something to read: one byte for each event. It reads and throws away what there is, and sheds.

What it writes to a PSI file is a threshold of the kernel's; to us it is one of `low`, `medium` and `critical`, from
which level on it wants to be woken. Nothing, or anything else (`some 200000 2000000`), is DEFAULT. An event is a rise
to a level that it wants, and then, for as long as that lasts, whatever `repeat` is called for. Falls are none: the
protocol has no word for them.

Nothing here waits. `fileno` is readable when `turn` has something to do.
"""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from lmkd.model import Level, is_within
from lmkd.peers import read_credentials

THRESHOLDS: Final = {b"low": Level.LOW, b"medium": Level.MEDIUM, b"critical": Level.CRITICAL}
DEFAULT: Final = Level.MEDIUM
"""Where nothing is said: what is dear to make again is still kept at low."""
WORD_MOST_BYTES: Final = 16
"""Longer is no threshold of ours; it is thrown away."""
READ_MOST_BYTES: Final = 4096
"""Who writes more than that is read no more: its own buffer is full, and costs us nothing."""
WAKE: Final = b"\n"
ACCEPTS_A_TURN: Final = 16
EVENTS_A_TURN: Final = 64
LISTENERS_MOST: Final = 1024
LISTENERS_MOST_OF_ONE: Final = LISTENERS_MOST // 2
SEND_BUFFER_BYTES: Final = 4096
"""What a program that never reads may leave lying: 11 bytes (FACTS: SO_SNDBUF=4096 gives 11 frames)."""


@dataclass(slots=True, eq=False)
class Listener:
    """A program that wants to be woken."""

    sock: socket.socket
    pid: int
    uid: int
    cgroup: str
    """As it was when it connected: which domains it is in."""
    written: bytes = b""
    read_bytes: int = 0
    level: Level = Level.NORMAL
    """The highest of its domains, at the last look."""

    @property
    def threshold(self) -> Level:
        return parse_threshold(self.written)


def parse_threshold(written: bytes) -> Level:
    """Return the level that a program wants to be woken from, by what it wrote."""
    return THRESHOLDS.get(written.strip(b" \t\r\n\0"), DEFAULT)


class PressureListeners:
    """All programs that are connected to one socket."""

    def __init__(
        self,
        listener: socket.socket,
        cgroup_of: Callable[[int], str],
        refused: Callable[[str], None] = lambda why: None,
    ) -> None:
        """`cgroup_of` gives the cgroup of a pid; `refused` hears, once, why a program was let in no more."""
        self._socket = listener
        self._cgroup_of = cgroup_of
        self._refused = refused
        self._refused_said = False
        self._epoll = select.epoll()
        self._epoll.register(listener.fileno(), select.EPOLLIN)
        self._listeners: dict[int, Listener] = {}
        self._held: Counter[int] = Counter()
        """How many each uid has."""
        self._levels: dict[str, Level] = {}

    def __len__(self) -> int:
        return len(self._listeners)

    def fileno(self) -> int:
        """Return what is readable when there is something to do."""
        return self._epoll.fileno()

    def turn(self) -> None:
        """Let in who comes, read what they want, and let go of who has left. Bounded; call it again while readable."""
        for fd, events in self._epoll.poll(0, EVENTS_A_TURN):
            if fd == self._socket.fileno():
                self._accept()
            elif (listener := self._listeners.get(fd)) is not None:
                self._read(listener, events)

    def set_levels(self, levels: Mapping[str, Level]) -> None:
        """Take how the domains stand now; wake everybody for whom that is a rise to what it wants."""
        self._levels = {name: level for name, level in levels.items() if level is not Level.NORMAL}
        for listener in list(self._listeners.values()):
            before, listener.level = listener.level, self._level_of(listener)
            if listener.level > before and listener.level >= listener.threshold:
                self._wake(listener)

    def wake(self, level: Level) -> int:
        """Wake everybody who wants to be woken at this level, whatever was before; return how many that are."""
        wanting = [one for one in self._listeners.values() if level >= one.threshold]
        for listener in wanting:
            self._wake(listener)
        return len(wanting)

    def repeat(self) -> None:
        """Wake everybody whose level is still one that it wants."""
        for listener in list(self._listeners.values()):
            if listener.level >= listener.threshold:
                self._wake(listener)

    def close(self) -> None:
        """Let go of all: who waits reads the end."""
        for listener in list(self._listeners.values()):
            self._drop(listener)
        self._epoll.close()
        self._socket.close()

    def _level_of(self, listener: Listener) -> Level:
        return max(
            (level for name, level in self._levels.items() if is_within(listener.cgroup, name)),
            default=Level.NORMAL,
        )

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                sock, _ = self._socket.accept()
            except (
                OSError
            ):  # nobody more; or no descriptors, and they wait in the backlog until there are
                return
            try:
                sock.setblocking(False)
                self._admit(sock)
            except OSError:
                sock.close()  # gone before it was greeted

    def _admit(self, sock: socket.socket) -> None:
        pid, uid = read_credentials(sock)
        if len(self) >= LISTENERS_MOST or (uid and self._held[uid] >= LISTENERS_MOST_OF_ONE):
            sock.close()
            if not self._refused_said:
                self._refused_said = True
                self._refused(f"{len(self)} programs listen: pid {pid} of uid {uid} is not let in")
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener = Listener(sock, pid, uid, self._cgroup_of(pid))
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._listeners[sock.fileno()] = listener
        self._held[uid] += 1
        # No event: what stands since before it came is said at the next repetition, when its threshold is known.
        listener.level = self._level_of(listener)
        self._read(listener, select.EPOLLIN)

    def _read(self, listener: Listener, events: int) -> None:
        try:
            chunk = listener.sock.recv(READ_MOST_BYTES)
        except BlockingIOError:
            if events & (select.EPOLLHUP | select.EPOLLERR):
                self._drop(listener)
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._drop(listener)
            return
        listener.read_bytes += len(chunk)
        listener.written = (listener.written + chunk)[: WORD_MOST_BYTES + 1]
        if listener.read_bytes > READ_MOST_BYTES:
            self._epoll.modify(listener.sock.fileno(), 0)  # its end is still told: EPOLLHUP

    def _wake(self, listener: Listener) -> None:
        try:
            listener.sock.send(WAKE, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            pass  # it has not read the last ones: it is awake, or will be
        except OSError:
            self._drop(listener)

    def _drop(self, listener: Listener) -> None:
        self._listeners.pop(listener.sock.fileno(), None)
        self._held[listener.uid] -= 1
        if not self._held[listener.uid]:
            del self._held[listener.uid]
        listener.sock.close()  # and with it out of the epoll
