"""The session's socket: everything that is there is read before anything is believed to be the latest."""

from __future__ import annotations

import socket

from lmkd_client.channel import RECEIVE_BYTES, Channel
from lmkd_client.session import Session
from lmkd_proto import Hello, Ok, Register, ServerConnection, Welcome

from .fake_daemon import GRANT, notice

NOTICES = 1000


def test_the_latest_of_more_than_one_read_is_what_is_given() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        session, server = Session("/nowhere"), ServerConnection()
        channel = Channel(session, ours)
        app, _ = session.register(Register(0, "cache", "cached"))
        channel.flush()
        hello, register = server.receive(theirs.recv(65536))
        assert isinstance(hello, Hello)
        assert isinstance(register, Register)
        frames = server.send(Welcome(hello.id, 1, "lmkd fake", False))
        frames += server.send(Ok(register.id, GRANT))
        frames += b"".join(server.send(notice(number)) for number in range(1, NOTICES + 1))
        assert len(frames) > RECEIVE_BYTES
        theirs.sendall(frames)
        channel.fill()
        assert app.notices.take() == notice(NOTICES)
        assert app.notices.take() is None
