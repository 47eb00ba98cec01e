"""One connected program, as the server holds it: what it may, what it listens to, what waits to be sent to it.

A client costs no task and no timer. What it is to hear goes straight to its socket; when that is full, only the
*latest* word of each kind waits, so a slow reader is late but never wrong, and costs bounded memory. Replies are
never dropped: instead no more requests are taken while one waits to be sent.
"""

from __future__ import annotations

import errno
import select
import socket
from collections import deque
from collections.abc import Callable

from lmkd_proto import Event, Notice, ServerConnection, encode

SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
SEND_BUFFER_BYTES = 4096
"""A stuck client then pins 11 frames in the kernel instead of 278 and 208 KiB (FACTS, Sending to many)."""
RECEIVE_BYTES = 1024
"""At a time. In 4 KiB there are 160 short requests, which are 40 KiB once they are decoded; the rest waits with the
kernel, in the sender's name."""
KILLED_MOST = 16
"""Reports of kills that wait for a slow reader; older ones are in the history."""
WAITING_MOST = 1024
"""Latest words, one for each domain and kind: twice as many as are watched at a time. Who lets more of them come and
go without reading is let go."""

Late = bytes | Callable[[], bytes]
"""A frame, or what makes it when it can go out: a notice says the time that is left *then*."""


class Client:
    """A connection and its outbox."""

    __slots__ = (
        "_epoll",
        "app",
        "backlog",
        "broken",
        "clear",
        "connection",
        "killed",
        "name",
        "notices",
        "out",
        "pid",
        "send",
        "simulating",
        "sock",
        "uid",
        "waiting",
        "watched",
    )

    def __init__(
        self, sock: socket.socket, credentials: tuple[int, int], epoll: select.epoll
    ) -> None:
        self.sock = sock
        self.send = sock.send
        """Bound once: a broadcast looks it up for every client."""
        self.pid, self.uid = credentials
        self.connection = ServerConnection()
        """For receiving alone. What is sent is encoded without it: it has taken in all requests of a chunk by the
        time the first is answered, so its state is ahead of ours."""
        self.name = ""
        self.app: int | None = None
        self.notices = range(0)
        """The numbers from its app's first notice to its last; some between are other apps'."""
        self.simulating = False
        self.broken = False
        self.clear = True
        """Whether nothing waits, so that what is said now keeps its order. Kept by `watch`."""
        self.out: bytes = b""
        """The rest of a frame that went out in part, and replies behind it."""
        self.waiting: dict[str, Late] | None = None
        """The latest word of each kind."""
        self.killed: deque[bytes] | None = None
        self.backlog: deque[Event] | None = None
        """Requests that came and were not taken yet."""
        self._epoll = epoll
        self.watched = select.EPOLLIN
        epoll.register(sock.fileno(), select.EPOLLIN)

    def watch(self) -> None:
        """Have the epoll wake us for what this client now waits for."""
        wants_out = bool(self.out or self.waiting or self.killed)
        self.clear = not wants_out
        events = select.EPOLLOUT if wants_out else 0
        if not self.out and not self.backlog:
            events |= select.EPOLLIN
        if events != self.watched and not self.broken:
            self.watched = events
            self._epoll.modify(self.sock.fileno(), events)

    def reply(self, frame: bytes) -> None:
        """Send a reply, or keep it until it can go."""
        if self.out:
            self.out += frame
        else:
            self._send(frame)
        self.watch()

    def push(self, kind: str, word: Late) -> None:
        """Send a word, or keep it in the place of an earlier one of its kind."""
        if self.clear:
            frame = word if isinstance(word, bytes) else word()
            if self._send_whole(frame):
                return
        if self.waiting is None:
            self.waiting = {}
        self.waiting.pop(kind, None)
        self.waiting[kind] = word
        if len(self.waiting) > WAITING_MOST:
            self.broken = True  # it has not read while this many domains came and went
            return
        self.watch()

    def withdraw(self, kind: str) -> None:
        """Take back a word of this kind that still waits."""
        if self.waiting is not None and self.waiting.pop(kind, None) is not None:
            self.watch()

    def push_killed(self, frame: bytes) -> None:
        """Send a report of a kill; for a slow reader the latest few wait."""
        if self.clear and self._send_whole(frame):
            return
        if self.killed is None:
            self.killed = deque(maxlen=KILLED_MOST)
        self.killed.append(frame)
        self.watch()

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it: replies, then the latest words, then reports."""
        if self.out:
            frame, self.out = self.out, b""
            self._send(frame)
        while not self.out and not self.broken and self.waiting:
            kind = next(iter(self.waiting))
            word = self.waiting[kind]
            if not self._send_whole(word if isinstance(word, bytes) else word()):
                break
            del self.waiting[kind]
        if not self.waiting:
            self.waiting = None
            while not self.out and not self.broken and self.killed:
                if not self._send_whole(self.killed[0]):
                    break
                self.killed.popleft()
            if not self.killed:
                self.killed = None
        self.watch()

    def close(self) -> None:
        """Close the socket, which also takes it out of the epoll."""
        self.broken = True
        self.sock.close()

    def _send_whole(self, frame: bytes) -> bool:
        """Send a frame now, keeping its rest if it went out in part; False when nothing of it went."""
        try:
            sent = self.send(frame, SEND_FLAGS)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in (errno.ENOBUFS, errno.ENOMEM):
                return False  # memory is short, which is no fault of the client's
            self.broken = True
            return True
        if sent < len(frame):
            self.keep_rest(frame, sent)
        return True

    def keep_rest(self, frame: bytes, sent: int) -> None:
        """Keep what of a frame has not gone out."""
        self.out = frame[sent:]
        self.watch()

    def _send(self, frame: bytes) -> None:
        if not self._send_whole(frame):
            self.out = frame


def notice_maker(
    notice: Notice, deadline_us: int, now_us: Callable[[], int]
) -> Callable[[], bytes]:
    """Return what makes the frame of a notice with the time that is left when it goes out."""

    def make() -> bytes:
        left_ms = max((deadline_us - now_us()) // 1000, 0)
        return encode(
            Notice(
                notice.notice,
                notice.domain,
                notice.level,
                notice.target_bytes,
                left_ms,
                notice.reason,
                notice.emergency,
                notice.simulated,
            )
        )

    return make
