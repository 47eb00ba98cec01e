"""A scripted daemon on a real Unix socket: it says what a test has written, and checks what it is asked.

A script runs in a thread, so that any shell can talk to it. Nothing here waits for longer than PATIENCE_S.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

from lmkd_proto import (
    Event,
    Hello,
    Message,
    Notice,
    Ok,
    Pressure,
    Register,
    ServerConnection,
    Subscribe,
    Welcome,
)

PATIENCE_S = 10
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
    """One client of the fake daemon."""

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

    def expect(self, kind: type[M]) -> M:
        """Return the next request, which must be one of this kind."""
        while not self._events:
            chunk = self._sock.recv(65536)
            assert chunk, f"the client left where {kind.__name__} was expected"
            self._events += self._connection.receive(chunk)
        event = self._events.pop(0)
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
        chunk = b""
        with suppress(ConnectionResetError):
            chunk = self._sock.recv(65536)
        assert chunk == b"", "the client was expected to leave"
        assert self._events == []

    def say(self, *messages: Message) -> None:
        """Send messages in one piece."""
        self.say_bytes(b"".join(self._connection.send(message) for message in messages))

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

    def close(self) -> None:
        """End the connection."""
        self._sock.close()


class FakeDaemon:
    """Listens at a path. `run` starts the script; leaving the block waits for its end and raises what it raised."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._listener = _listen(path)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._thread.join()
        self._listener.close()
        if self._error is not None:
            raise self._error

    def run(self, script: Callable[[FakeDaemon], None]) -> None:
        """Run a script in a thread."""

        def run() -> None:
            try:
                script(self)
            except BaseException as error:
                self._error = error
                self._listener.close()

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def accept(self) -> Peer:
        """Wait for the next client."""
        sock, _ = self._listener.accept()
        sock.settimeout(PATIENCE_S)
        return Peer(sock)

    def stop(self) -> None:
        """Go away: nobody listens any more, and the socket is gone."""
        self._listener.close()
        os.unlink(self.path)

    def start(self) -> None:
        """Be there again."""
        self._listener = _listen(self.path)


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.settimeout(PATIENCE_S)
    listener.bind(path)
    listener.listen()
    return listener


def notice(number: int, level: str = "medium", target_bytes: int = 1 << 20) -> Notice:
    """Return a notice."""
    return Notice(number, "system", level, target_bytes, 1000, "a test")


def pressure(level: str, domain: str = "system") -> Pressure:
    """Return a level."""
    return Pressure(domain, level, "a test", 1 << 20)
