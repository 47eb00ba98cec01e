"""A small client that keeps all rules, but for the one that its argument says. Run as a program."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

from lmkd_proto import (
    Ack,
    ClientConnection,
    Error,
    Event,
    FrameReader,
    Hello,
    LocalProtocolError,
    Malformed,
    Notice,
    Ok,
    Register,
    RemoteProtocolError,
    Status,
    Subscribe,
    UnknownMessage,
    encode,
)
from lmkd_proto.conformance.words import frame, pack

GOES = ("gives_up", "leaves")
UNHEARD = {
    b"\xdf\x00\x00\x00\x07": "short_forms_only",
    b"emergency\xc0": "no_nil",
    b"xyzzy": "known_keys_only",
}
"""What is in a message that some leave out."""


class Guest:
    def __init__(self, wrong: str) -> None:
        self.wrong = wrong
        self.pause_s = 0.01
        self.number = 2
        """Of the last request."""

    def run(self) -> None:
        if self.wrong == "crashes":
            sys.exit("it was all too much")
        if self.wrong == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect("/nowhere" if self.wrong == "elsewhere" else os.environ["LMKD_SOCKET"])
                self.converse(sock)
            except OSError:
                pass
            sock.close()
            if self.wrong in GOES:
                sys.exit(3)
            time.sleep(self.pause_s)
            if self.wrong != "spins":
                self.pause_s = min(self.pause_s * 2, 0.2)

    def converse(self, sock: socket.socket) -> None:
        wrong = self.wrong
        connection = ClientConnection()
        if wrong == "mute":
            sock.recv(1)
        if wrong == "register_first":
            sock.sendall(encode(Register(9, "guest", "cached")))
        if wrong == "floats":
            sock.sendall(frame(pack({"type": "hello", "id": 8, "x": 1.5})))
        if wrong == "no_id":
            sock.sendall(frame(pack({"type": "status"})))
        if wrong == "too_long":
            sock.sendall(b"\x00\x02\x00\x00")
        sock.sendall(connection.send(Hello(0, 1, "guest")))
        if wrong != "never_subscribes":
            sock.sendall(encode(Subscribe(1)))
        if wrong in ("leaves", "comes_and_goes"):
            sock.recv(65536)
            return
        if wrong != "never_registers":
            sock.sendall(encode(Register(2, "guest", "cached")))
        sock.sendall(encode(Status(3)))
        while chunk := sock.recv(65536):
            self.take(sock, connection, chunk)

    def take(self, sock: socket.socket, connection: ClientConnection, chunk: bytes) -> None:
        wrong = self.wrong
        if wrong == "whole_reads" and int.from_bytes(chunk[:4], "big") > len(chunk):
            return
        for what, which in UNHEARD.items():
            if wrong == which and what in chunk:
                reader = FrameReader()  # a notice comes in a piece of its own, or behind whole ones
                reader.feed(chunk)
                payloads = iter(reader.next_frame, None)
                chunk = b"".join(frame(payload) for payload in payloads if what not in payload)
        if wrong == "small_frames" and len(chunk) > 60_000:
            raise OSError("too much")
        try:
            events = connection.receive(chunk)
        except (RemoteProtocolError, LocalProtocolError) as error:
            if wrong == "stays":
                return
            raise OSError("the stream is over") from error
        for event in events:
            self.hear(sock, event)
        if connection.fault is not None and wrong != "stays":
            raise OSError("the stream is over")

    def hear(self, sock: socket.socket, event: Event) -> None:
        wrong = self.wrong
        match event:
            case Malformed() if wrong == "no_nonsense":
                raise OSError("nonsense")
            case UnknownMessage() if wrong == "no_news":
                raise OSError("news")
            case Error(code=code) if wrong == "odd_code":
                sys.exit(4 if code == "failed" else "a code that I do not know")
            case Error() if wrong == "odder_code":
                sys.exit(5)
            case Ok(id=1, result={}) if wrong == "needs_result" and not event.result:
                raise OSError("no result")
            case Notice(level="normal"):
                pass
            case Notice() if wrong == "never_acks" or (wrong == "no_plays" and event.simulated):
                pass
            case Notice():
                if wrong == "late":
                    time.sleep(0.7)
                answer = "working" if wrong == "works" else "done"
                self.number += 2
                sock.sendall(encode(Ack(self.number, event.notice, answer)))
                if wrong == "slow":
                    sock.sendall(encode(Ack(self.number + 1, event.notice, "done")))


if __name__ == "__main__":
    Guest(sys.argv[1]).run()
