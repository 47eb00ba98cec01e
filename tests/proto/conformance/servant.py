"""A small server that keeps all rules, but for one that it is made to break.

Nothing is measured and nobody is killed: levels come by `simulate` alone. One thread for each connection.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from lmkd_proto import (
    Ack,
    Error,
    Event,
    Hello,
    KillWarning,
    Malformed,
    Message,
    Notice,
    Ok,
    Pressure,
    Record,
    Register,
    Reload,
    RemoteProtocolError,
    ServerConnection,
    SetClass,
    Simulate,
    Subscribe,
    UnknownMessage,
    Unregister,
    Unsubscribe,
    Update,
    Welcome,
    encode,
)
from lmkd_proto.conformance.words import frame, pack

OWN = "/mine"
GRANT: dict[str, object] = {
    "class": "cached",
    "unit": "process",
    "domain": "system",
    "grace_ms": 100,
    "time_to_exit_ms": 100,
}
FOR_CONTROLLERS = (SetClass, Reload, Record)


class Servant:
    """Listens at a path until it is left. `wrong` says what it does wrong; empty: nothing."""

    def __init__(self, path: str, wrong: str = "", level: str = "normal") -> None:
        self.wrong = wrong
        self.level = level
        self.apps: set[int] = set()
        self.notices = 0
        self._path = path
        self._open = True
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._path)
        os.chmod(self._path, 0o777)
        self._listener.listen()
        self._listener.settimeout(0.02)
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = False
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while self._open:
            with suppress(TimeoutError):
                sock, _ = self._listener.accept()
                self._start(Conversation(self, sock).run)

    def is_open(self) -> bool:
        return self._open


class Conversation:
    """One client."""

    def __init__(self, servant: Servant, sock: socket.socket) -> None:
        self.servant = servant
        self.sock = sock
        self.wrong = servant.wrong
        self.connection = ServerConnection()
        self.app: int | None = None
        self.subscribed: dict[str, str] = {}
        self.notices = range(0)
        self.ends: float | None = None
        """When a simulation ends."""
        _, self.uid, _ = struct.unpack(
            "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
        trusted = self.uid == 0 or self.wrong in ("all_controllers", "believes")
        self.controller = trusted and self.wrong != "trusts_nobody"

    def run(self) -> None:
        with self.sock, suppress(OSError):
            self.sock.settimeout(0.01)
            while self.servant.is_open():
                if self.ends is not None and time.monotonic() >= self.ends:
                    self.ends = None
                    self.show(self.servant.level, simulated=False)
                with suppress(TimeoutError):
                    chunk = self.sock.recv(65536)
                    if not chunk or not self.take(chunk):
                        break
        if self.wrong != "keeps_apps":
            self.servant.apps.discard(self.app or 0)

    # --- frames ----------------------------------------------------------------------------------------

    def take(self, chunk: bytes) -> bool:
        """Take what came; say whether the conversation goes on."""
        if self.wrong == "whole_reads" and len(chunk) - 4 != int.from_bytes(chunk[:4], "big"):
            return True
        if self.wrong == "small_frames" and len(chunk) > 60_000:
            return False
        if self.wrong == "short_forms_only" and b"\xcf" in chunk:
            self.say(Error(110, "bad_value", "expected the shortest form"))
            return True
        if self.wrong == "known_keys_only" and b"xyzzy" in chunk:
            self.say(
                Error(int.from_bytes(chunk[20:21], "big"), "bad_value", "expected no other key")
            )
            return True
        try:
            events = self.connection.receive(chunk)
        except RemoteProtocolError as error:
            return self.refuse(error)
        if self.wrong == "forgets_before" and self.connection.fault is not None:
            events = []
        if self.wrong == "reverses":
            events = events[::-1]
        for event in events:
            self.answer(event)
        if self.connection.fault is not None:
            return self.refuse(self.connection.fault)
        return True

    def refuse(self, error: RemoteProtocolError) -> bool:
        if self.wrong == "stays":
            self.connection = ServerConnection()
            return True
        code = "failed" if self.wrong == "odd_fault" else error.code
        if self.wrong != "says_no_fault":
            self.say(Error(None, code, error.message))
        return False

    def say(self, *messages: Message) -> None:
        self.sock.sendall(b"".join(encode(message) for message in messages))

    # --- requests --------------------------------------------------------------------------------------

    def answer(self, event: Event) -> None:
        if isinstance(event, Malformed):
            self.mistaken(event)
            return
        if isinstance(event, UnknownMessage):
            code = "failed" if self.wrong == "odd_unknown" else "unknown_type"
            self.say(Error(event.id, code, f"{event.type} is unknown"))
            return
        number = getattr(event, "id", 0)
        if self.wrong == "slow_of_mind":
            return
        match event:
            case Hello():
                self.greet(event)
            case Subscribe() | Unsubscribe():
                self.subscribe(event)
            case Register():
                self.app = self.servant.notices = self.servant.notices + 1
                self.servant.apps.add(self.app)
                if self.wrong == "no_apps":
                    self.say(Error(number, "forbidden", "not here"))
                    return
                self.say(Ok(number, self.grant()))
                if self.servant.level != "normal" and self.wrong != "tells_no_app":
                    self.notify(self.servant.level, simulated=False)
            case Update() if self.app is not None:
                self.say(Ok(number, self.grant()))
            case Update() | Unregister():
                self.say(Error(number, "not_registered", "not registered"))
            case Ack():
                self.acknowledge(event)
            case Simulate(scope="all") if not self.controller:
                self.say(Error(number, "forbidden", "for the controller"))
            case Simulate():
                self.say(Ok(number))
                self.ends = time.monotonic() + event.duration_ms / 1000
                self.show(event.level, simulated=self.wrong != "hides_rehearsal")
                if self.wrong == "kills":
                    self.say(KillWarning("as a test", 100))
            case SetClass() | Reload() | Record() if not self.controller:
                self.say(Error(number, "forbidden", "for the controller"))
            case SetClass() if event.app not in self.servant.apps:
                self.say(Error(number, "unknown_app", "no such app"))
            case SetClass():
                self.say(Ok(number, self.grant()))
            case _ if event.type == "history" and self.wrong == "too_long" and event.limit == 1000:  # type: ignore[union-attr]
                self.say(Error(number, "failed", "too long"))
            case _:
                self.say(*[Ok(number)] * (2 if self.wrong == "says_it_twice" else 1))

    def greet(self, hello: Hello) -> None:
        version = 99 if self.wrong == "higher" else 1
        if self.wrong == "early":
            self.say(Pressure("system", "normal", "", 0))
        controller = self.controller or self.wrong == "believes"
        # In one piece with what is wrong, or who reads the one might not wait for the other.
        behind = {"long_frame": b"\x00\x02\x00\x00", "shouts_nonsense": frame(pack([1]))}
        welcome = encode(Welcome(hello.id, version, "servant", controller))
        self.sock.sendall(welcome + behind.get(self.wrong, b""))

    def mistaken(self, event: Malformed) -> None:
        wrong = self.wrong
        code, number, text = event.code, event.request_id, event.message
        if wrong in ("takes_malformed", "takes_" + code) and number is not None:
            if "register" in text:
                self.app = 1
            self.say(Ok(number))
            return
        if wrong == "forgets_id":
            number = None
        if wrong == "mutters":
            text = "no"
        if wrong == "odd_codes":
            self.sock.sendall(
                frame(pack({"type": "error", "id": number, "code": "odd", "message": text}))
            )
            return
        self.say(Error(number, code, text))

    def grant(self) -> dict[str, object]:
        if self.wrong == "lacks_keys":
            return {"app": self.app}
        return {"app": self.app, **GRANT}

    def subscribe(self, request: Subscribe | Unsubscribe) -> None:
        wrong, number, asked = self.wrong, request.id, request.domain
        if asked not in ("system", "own") and not (self.controller or wrong == "any_domain"):
            self.say(Error(number, "forbidden", "not yours"))
            return
        if isinstance(request, Unsubscribe):
            if self.subscribed.pop(asked, None) is None and wrong != "always_ok":
                self.say(Error(number, "not_subscribed", "not subscribed"))
            else:
                self.say(Ok(number))
            return
        if asked == "own" and wrong == "no_own":
            self.say(Error(number, "unknown_domain", "no cgroups here"))
            return
        if asked in self.subscribed and wrong == "once_only":
            self.say(Error(number, "too_many", "once only"))
            return
        domain = OWN if asked == "own" else asked
        self.subscribed[asked] = domain
        self.say(Ok(number, {"domain": domain, "propagation": request.propagation}))
        if wrong == "odd_words":
            self.sock.sendall(
                frame(
                    pack(
                        {
                            "type": "pressure",
                            "domain": domain,
                            "level": "dire",
                            "reason": "",
                            "available_bytes": 0,
                        }
                    )
                )
            )
        named = "/else" if wrong == "other_domain" else domain
        if wrong != "shows_nothing":
            self.say(Pressure(named, self.servant.level, "", 0))

    def show(self, level: str, *, simulated: bool) -> None:
        if self.wrong == "never_over" and not simulated:
            return
        for domain in self.subscribed.values():
            self.say(Pressure(domain, level, "", 0, simulated))
        if self.app is not None:
            self.notify(level, simulated=simulated)

    def notify(self, level: str, *, simulated: bool) -> None:
        self.servant.notices += -1 if self.wrong == "counts_down" else 1
        number = self.servant.notices + (1000 if self.wrong == "counts_down" else 0)
        self.notices = range(min(self.notices.start or number, number), number + 1)
        self.say(Notice(number, "system", level, 0, 100, "as a test", simulated=simulated))

    def acknowledge(self, ack: Ack) -> None:
        last = ack.notice == self.notices.stop - 1
        known = ack.notice in self.notices or self.wrong in ("any_ack", "counts_down")
        if self.wrong == "normal_ack_refused" and last and self.ends is None:
            known = False
        if not known or (self.wrong == "last_ack_only" and not last):
            self.say(Error(ack.id, "unknown_notice", "no such notice"))
            return
        self.say(Ok(ack.id, {"deadline_ms": 100}))
