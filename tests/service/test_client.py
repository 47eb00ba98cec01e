"""One client's outbox, over a real socket whose other end reads or does not."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator

import pytest

from lmkd.service.client import Client


class PoorSocket(socket.socket):
    """A socket for which the kernel may have no memory."""

    failing: int | None = None

    def send(self, *arguments: object) -> int:
        if self.failing is not None:
            raise OSError(self.failing, "so it is said")
        return super().send(*arguments)  # type: ignore[arg-type]


class Line:
    def __init__(self) -> None:
        ours, self.far = socket.socketpair()
        self.far.setblocking(False)
        self.epoll = select.epoll()
        self.near = PoorSocket(fileno=ours.detach())
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.client = Client(self.near, (1, 1), self.epoll)

    def waits_for(self) -> int:
        """Return the events that the epoll now wakes the server for."""
        return self.client.watched

    def close(self) -> None:
        self.client.close()
        self.far.close()
        self.epoll.close()


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.ENOMEM])
def test_a_want_of_memory_is_waited_out(line: Line, code: int) -> None:
    line.near.failing = code
    line.client.push("level", b"low")
    line.client.reply(b"[reply]")
    assert not line.client.broken
    assert line.waits_for() == select.EPOLLOUT, "no more requests before the reply has gone"
    line.near.failing = None
    line.client.flush()
    assert line.far.recv(100) == b"[reply]low"
    assert line.waits_for() == select.EPOLLIN


def test_any_other_failure_is_the_end_of_the_client(line: Line) -> None:
    line.near.failing = errno.EPIPE
    line.client.reply(b"[reply]")
    assert line.client.broken


def test_of_each_kind_the_latest_word_goes_out_in_the_order_of_their_last_saying(
    line: Line,
) -> None:
    line.near.failing = errno.ENOBUFS
    for kind, word in (("a", b"a1 "), ("b", b"b1 "), ("a", b"a2 ")):
        line.client.push(kind, word)
    line.client.push_killed(b"k1 ")
    line.client.push("c", lambda: b"c, made late ")
    line.client.withdraw("nothing of the kind")
    line.near.failing = None
    line.client.flush()
    assert line.far.recv(100) == b"b1 a2 c, made late k1 "
    assert line.client.clear


def test_a_frame_that_went_out_in_part_goes_on_before_all_else(line: Line) -> None:
    long = b"x" * 300_000
    line.client.push("long", long)
    assert 0 < len(line.client.out) < len(long)
    line.client.push("level", b"low")
    line.client.reply(b"[reply]")
    heard = b""
    while not line.client.clear:
        heard += line.far.recv(1 << 20)
        line.client.flush()
    heard += line.far.recv(1 << 20)
    assert heard == long + b"[reply]low"
