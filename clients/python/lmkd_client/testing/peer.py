"""One client of a fake daemon, as that sees it: what it says is read message by message, and answered.

Nothing here waits for longer than the socket's own timeout.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

from lmkd_proto import (
    Event,
    Hello,
    Message,
    Ok,
    Pressure,
    Register,
    ServerConnection,
    Subscribe,
    Welcome,
)

PATIENCE_S = 10
RECEIVE_BYTES = 65_536
GRANT: dict[str, object] = {
    "app": 7,
    "class": "cached",
    "unit": "process",
    "domain": "system",
    "grace_ms": 1000,
    "time_to_exit_ms": 500,
}

M = TypeVar("M")


class Peer:
    """One client of a fake daemon."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._connection = ServerConnection()
        self._events: list[Event] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def hear(self) -> Event | None:
        """Return what it says next; None when it has left. Raises RemoteProtocolError where that cannot be read."""
        while not self._events:
            if self._connection.fault is not None:
                self._connection.receive(b"")  # raises it, now that all before it has been heard
            try:
                chunk = self._sock.recv(RECEIVE_BYTES)
            except ConnectionResetError:
                return None
            if not chunk:
                return None
            self._events += self._connection.receive(chunk)
        return self._events.pop(0)

    def expect(self, kind: type[M]) -> M:
        """Return the next request, which must be one of this kind."""
        event = self.hear()
        assert event is not None, f"the client left where {kind.__name__} was expected"
        assert isinstance(event, kind), f"expected {kind.__name__}, got {event}"
        return event

    def expect_bytes(self, frames: bytes) -> bool:
        """Read as many bytes as these, and say whether they are these."""
        came = b""
        while len(came) < len(frames):
            chunk = self._sock.recv(len(frames) - len(came))
            assert chunk, f"the client left after {came!r}"
            came += chunk
        return came == frames

    def expect_end(self) -> None:
        """Wait until the client has left; it must say nothing before."""
        event = self.hear()
        assert event is None, f"the client was expected to leave, got {event}"

    def say(self, *messages: Message) -> None:
        """Send messages in one piece. Raises LocalProtocolError for what may not be said now."""
        self.say_bytes(b"".join(self._connection.send(message) for message in messages))

    def say_anyway(self, frames: bytes) -> None:
        """Send this if it is still there and reads; who does not, with half a frame sent, is hung up on."""
        try:
            self.say_bytes(frames)
        except OSError:
            self.hang_up()

    def say_bytes(self, frames: bytes) -> None:
        """Send anything."""
        self._sock.sendall(frames)

    def greet(self, *, version: int = 1) -> Hello:
        """Expect hello, and welcome the client."""
        hello = self.expect(Hello)
        self.say(Welcome(hello.id, version, "lmkd fake", True))
        return hello

    def grant(self, *then: Message) -> Register:
        """Expect a registration, grant it, and go on saying these in the same piece."""
        register = self.expect(Register)
        self.say(Ok(register.id, GRANT), *then)
        return register

    def show(self, pressure: Pressure) -> Subscribe:
        """Expect a subscription, and answer it with this level."""
        subscribe = self.expect(Subscribe)
        self.say(Ok(subscribe.id), pressure)
        return subscribe

    def hang_up(self) -> None:
        """End the conversation; who waits in `hear` is told that it has ended."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection."""
        self._sock.close()


def listen(path: str) -> socket.socket:
    """Return a socket that listens at a path."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.settimeout(PATIENCE_S)
    listener.bind(path)
    listener.listen()
    return listener
