"""A server for one client program, which says what it is told to, right or wrong, and has all that it hears judged."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lmkd_proto.conformance.findings import Findings
from lmkd_proto.conformance.judge import judge
from lmkd_proto.conformance.peer import EndedError, SilenceError
from lmkd_proto.conformance.words import frame, pack
from lmkd_proto.connection import REQUEST_MAX_ITEMS
from lmkd_proto.errors import RemoteProtocolError
from lmkd_proto.framing import FrameReader
from lmkd_proto.messages import Message, UnknownMessage
from lmkd_proto.requests import Ack

START_PATIENCES = 5
"""A program is given so many times the patience to start: Node takes half a second on a quiet machine."""
EXIT_S = 2.0
GRANT = {
    "app": 1,
    "class": "cached",
    "unit": "process",
    "domain": "system",
    "grace_ms": 1000,
    "time_to_exit_ms": 500,
}
PRESSURE = {
    "type": "pressure",
    "domain": "system",
    "level": "normal",
    "reason": "as ever",
    "available_bytes": 1 << 30,
}

Heard = Message | UnknownMessage
Answers = Mapping[str, Callable[[Heard], list[bytes]]]


def notice(number: int, level: str = "critical", **keys: object) -> dict[str, object]:
    """Return the body of a notice that asks for a MiB within 5 s."""
    return {
        "type": "notice",
        "notice": number,
        "domain": "system",
        "level": level,
        "target_bytes": 0 if level == "normal" else 1 << 20,
        "deadline_ms": 5000,
        "reason": "conformance",
        **keys,
    }


def reply(heard: Heard, kind: str, **keys: object) -> bytes:
    """Return the payload of a reply to a request."""
    return pack({"type": kind, "id": getattr(heard, "id", None), **keys})


class Visitor:
    """One connection of the client that is looked at. What it asks is answered while `serve` runs."""

    def __init__(self, sock: socket.socket, host: Host, answers: Answers) -> None:
        self.heard: list[Heard] = []
        self.ended = False
        self._host = host
        self._sock = sock
        self._answers = answers
        self._reader = FrameReader()

    def say_bytes(self, content: bytes) -> None:
        """Send anything; what cannot be sent, since the client has left, is for `serve` to find."""
        with suppress(OSError):
            self._sock.sendall(content)

    def say(self, body: dict[str, object]) -> None:
        """Send a message."""
        self.say_bytes(frame(pack(body)))

    def close(self) -> None:
        """End the connection."""
        self._sock.close()

    def asked(self, kind: str) -> bool:
        """Say whether a request of this type has come."""
        return any(one.type == kind for one in self.heard)

    def acks(self, number: int) -> list[Ack]:
        """Return what the client answered to a notice, in order."""
        return [one for one in self.heard if isinstance(one, Ack) and one.notice == number]

    def serve(self, done: Callable[[], bool], patience_s: float) -> bool:
        """Answer what comes until something is so; say whether it came to be in time."""
        until = time.monotonic() + patience_s
        while not done():
            left_s = until - time.monotonic()
            if left_s <= 0 or self.ended:
                return False
            if select.select([self._sock], [], [], min(left_s, 0.05))[0]:
                self._receive()
        return True

    def wait_ack(self, number: int) -> bool:
        """Wait until the client is done with a notice; say whether it answered it at all."""
        self.serve(
            lambda: any(ack.answer != "working" for ack in self.acks(number)),
            self._host.patience_s,
        )
        return bool(self.acks(number))

    def _receive(self) -> None:
        try:
            chunk = self._sock.recv(65536)
        except OSError:
            chunk = b""
        if not chunk:
            self.ended = True
            return
        findings = self._host.findings
        self._reader.feed(chunk)
        try:
            while (payload := self._reader.next_frame()) is not None:
                findings.expect("F-2", True, "")
                message = judge(payload, findings, REQUEST_MAX_ITEMS)
                if message is not None:
                    findings.expect("R-1", True, "")
                    self.heard.append(message)
                    self._answer(message)
        except RemoteProtocolError as error:
            findings.expect("F-2", False, f"sent {error.message}")
            self.ended = True

    def _answer(self, message: Heard) -> None:
        special = self._answers.get(message.type)
        if special is not None:
            replies = special(message)
        elif message.type == "hello":
            replies = [reply(message, "welcome", version=1, server="conformance", controller=False)]
        elif message.type == "subscribe":
            shown = {"domain": "system", "propagation": "local"}
            replies = [reply(message, "ok", result=shown), pack(PRESSURE)]
        elif message.type in ("register", "update"):
            replies = [reply(message, "ok", result=GRANT)]
        elif message.type == "ack":
            replies = [reply(message, "ok", result={"deadline_ms": 5000})]
        else:
            replies = [reply(message, "ok")]
        self.say_bytes(b"".join(frame(payload) for payload in replies))


class Host:
    """Listens, and runs the program. To be used in a `with`."""

    def __init__(self, command: Sequence[str], findings: Findings, patience_s: float) -> None:
        self.findings = findings
        self.patience_s = patience_s
        self.command = command
        self._visitors: list[Visitor] = []

    def __enter__(self) -> Host:
        self._directory = tempfile.TemporaryDirectory(prefix="lmkd-conformance-")
        self.path = str(Path(self._directory.name) / "socket")
        self._log = tempfile.TemporaryFile()
        self.listen()
        try:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env={**os.environ, "LMKD_SOCKET": self.path},
            )
        except OSError:
            self._clean()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self.is_running():
            self._process.send_signal(signal.SIGTERM)
        for visitor in self._visitors:
            visitor.close()
        try:
            self._process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._clean()

    def _clean(self) -> None:
        self._listener.close()
        self._log.close()
        self._directory.cleanup()

    def listen(self) -> None:
        """Begin to listen, also again after `vanish`."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen()

    def vanish(self) -> None:
        """Listen no more, as a server that has ended."""
        self._listener.close()
        Path(self.path).unlink()

    def accept(self, answers: Answers | None = None) -> Visitor:
        """Wait for a connection. Raises SilenceError, or EndedError where the program has ended."""
        until = time.monotonic() + self.patience_s * START_PATIENCES
        while not select.select([self._listener], [], [], 0.05)[0]:
            if not self.is_running():
                raise EndedError(self.last_words())
            if time.monotonic() > until:
                raise SilenceError("the program does not connect")
        sock, _ = self._listener.accept()
        sock.settimeout(self.patience_s)
        visitor = Visitor(sock, self, answers or {})
        self._visitors.append(visitor)
        return visitor

    def is_running(self) -> bool:
        """Say whether the program has not ended."""
        return self._process.poll() is None

    def wait_end(self, patience_s: float) -> int | None:
        """Wait for the end of the program, and return its status; None: it has not ended."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(patience_s)
        return None

    def last_words(self) -> str:
        """Say how the program ended, and the last line that it printed."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1][:200]}" if lines else ""
        return f"the program ended with status {self._process.returncode}{said}"
