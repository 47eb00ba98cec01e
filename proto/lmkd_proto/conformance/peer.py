"""A client that says what it is told to, right or wrong, and has all that it hears judged."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections import deque
from typing import TypeVar

from lmkd_proto.answers import Error, Ok, Welcome
from lmkd_proto.conformance.findings import Findings
from lmkd_proto.conformance.judge import judge
from lmkd_proto.conformance.words import frame, pack
from lmkd_proto.errors import RemoteProtocolError
from lmkd_proto.framing import FrameReader
from lmkd_proto.messages import Message, Reply, UnknownMessage
from lmkd_proto.values import MAX_ITEMS

_M = TypeVar("_M")
_BEFORE_WELCOME = ("welcome", "error", "bye")


class SilenceError(Exception):
    """Nothing came where something was expected."""


class EndedError(Exception):
    """The connection ended where it was to go on."""


class Peer:
    """One connection to the server that is looked at."""

    def __init__(self, path: str, findings: Findings, patience_s: float, uid: int | None) -> None:
        """Connect, as another user where `uid` says so: the kernel passes on who we are at this moment."""
        self._findings = findings
        self._patience_s = patience_s
        self._numbers = itertools.count(1)
        self._reader = FrameReader()
        self._came: deque[Message | UnknownMessage] = deque()
        self._pushes: deque[Message | UnknownMessage] = deque()
        self._welcomed = False
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.geteuid()
        if uid is not None:
            os.seteuid(uid)
        try:
            self._sock.connect(path)
        except OSError:
            self._sock.close()
            raise
        finally:
            os.seteuid(before)

    def close(self) -> None:
        """Leave without a word."""
        self._sock.close()

    # --- saying ----------------------------------------------------------------------------------------

    def number(self) -> int:
        """Return an id that was not used before."""
        return next(self._numbers)

    def say_bytes(self, content: bytes) -> None:
        """Send anything."""
        self._sock.settimeout(self._patience_s)
        try:
            self._sock.sendall(content)
        except TimeoutError as error:
            raise SilenceError("it does not read what it is sent") from error
        except OSError as error:
            raise EndedError(f"it closed ({error.strerror})") from error

    def say(self, *payloads: bytes) -> None:
        """Send frames, all in one piece."""
        self.say_bytes(b"".join(frame(payload) for payload in payloads))

    def ask(self, kind: str, **keys: object) -> Reply:
        """Make a request, and return its reply."""
        number = self.number()
        self.say(pack({"type": kind, "id": number, **keys}))
        return self.reply(number)

    # --- hearing ---------------------------------------------------------------------------------------

    def reply(self, number: int) -> Reply:
        """Wait for the next reply, which must be that to this request; pushes are kept for later."""
        while True:
            message = self._next(self._patience_s)
            if isinstance(message, Ok | Error | Welcome):
                right = message.id == number
                self._findings.expect(
                    "R-2 R-3", right, f"expected the reply to request {number}; got {show(message)}"
                )
                return message
            self._pushes.append(message)

    def error(self) -> Error | None:
        """Wait for the next error, whatever it belongs to; None where none comes, or the connection ends."""
        while True:
            try:
                message = self._next(self._patience_s)
            except (EndedError, SilenceError):
                return None
            if isinstance(message, Error):
                return message

    def push(self, kind: type[_M], within_s: float | None = None) -> _M:
        """Wait for the next push of a kind, and drop those before it."""
        until = time.monotonic() + (self._patience_s if within_s is None else within_s)
        while True:
            while self._pushes:
                message = self._pushes.popleft()
                if isinstance(message, kind):
                    return message
            self._pushes.append(self._next(until - time.monotonic()))

    def pushes(self, quiet_s: float) -> list[Message | UnknownMessage]:
        """Return all pushes until nothing came for a while."""
        while True:
            try:
                self._pushes.append(self._next(quiet_s))
            except SilenceError:
                heard = list(self._pushes)
                self._pushes.clear()
                return heard

    def has_ended(self) -> bool:
        """Wait for the end of the connection; whatever comes before is judged and dropped."""
        try:
            while True:
                self._next(self._patience_s)
        except EndedError:
            return True
        except SilenceError:
            return False

    def _next(self, patience_s: float) -> Message | UnknownMessage:
        until = time.monotonic() + patience_s
        while not self._came:
            self._sock.settimeout(max(until - time.monotonic(), 0.001))
            try:
                chunk = self._sock.recv(65536)
            except TimeoutError as error:
                raise SilenceError(f"nothing came for {patience_s:.1f} s") from error
            except OSError as error:
                raise EndedError(f"it closed ({error.strerror})") from error
            if not chunk:
                raise EndedError("it closed")
            self._take(chunk)
        return self._came.popleft()

    def _take(self, chunk: bytes) -> None:
        self._reader.feed(chunk)
        try:
            while (payload := self._reader.next_frame()) is not None:
                self._findings.expect("F-2", True, "")
                message = judge(payload, self._findings, MAX_ITEMS)
                if message is not None:
                    self._note(message)
        except RemoteProtocolError as error:
            self._findings.expect("F-2", False, f"sent {error.message}")
            raise EndedError("it sent a frame of a forbidden length") from error

    def _note(self, message: Message | UnknownMessage) -> None:
        early = not self._welcomed and message.type not in _BEFORE_WELCOME
        self._findings.expect("H-5", not early, f"sent {message.type} before welcome")
        self._welcomed = self._welcomed or message.type == "welcome"
        self._came.append(message)


def show(message: Message | UnknownMessage | None) -> str:
    """Say a message in short, for a person."""
    if message is None:
        return "nothing"
    if isinstance(message, Error):
        return f"error {message.code} of request {message.id} ({message.message[:80]})"
    if isinstance(message, Ok | Welcome):
        return f"{message.type} of request {message.id}"
    return message.type
