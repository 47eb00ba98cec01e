"""What a server is asked, and what it must answer: frames, types and requests. Levels are in `levels`.

Each check is given a stage, connects as many peers as it needs, and notes what it saw. One that meets silence, or the
end of a connection that was to go on, breaks the rules that it is about.
"""

from __future__ import annotations

from lmkd_proto.answers import Error, Ok, Welcome
from lmkd_proto.conformance.checks import Check
from lmkd_proto.conformance.findings import Findings
from lmkd_proto.conformance.peer import Peer, show
from lmkd_proto.conformance.words import (
    FORBIDDEN_LENGTHS,
    fill,
    frame,
    malformed,
    pack,
    spread,
)
from lmkd_proto.connection import REQUEST_MAX_ITEMS
from lmkd_proto.messages import Message, UnknownMessage

ANY_VERSION = 7
"""A version above all that there are."""
NOBODY = 65_534
"""A user who is not the controller."""
PIPELINED = (5, 3, 4_294_967_295, 0, 9)


class Stage:
    """A server that is looked at, and the peers of one check."""

    def __init__(self, path: str, findings: Findings, patience_s: float) -> None:
        self.findings = findings
        self.patience_s = patience_s
        self._path = path
        self._peers: list[Peer] = []

    def connect(self, uid: int | None = None) -> Peer:
        """Connect a peer that says nothing yet. Raises OSError."""
        peer = Peer(self._path, self.findings, self.patience_s, uid)
        self._peers.append(peer)
        return peer

    def greet(self, uid: int | None = None) -> Peer:
        """Connect a peer and have it welcomed."""
        peer = self.connect(uid)
        reply = peer.ask("hello", version=1, name="conformance")
        self.expect("H-2", isinstance(reply, Welcome), f"expected welcome; got {show(reply)}")
        return peer

    def expect(self, numbers: str, holds: bool, detail: str) -> None:
        """Note what was seen of rules."""
        self.findings.expect(numbers, holds, detail)

    def close(self) -> None:
        """Let all peers leave."""
        for peer in self._peers:
            peer.close()


def is_error(message: Message | UnknownMessage | None, code: str) -> bool:
    """Say whether a message is an error of this code."""
    return isinstance(message, Error) and message.code == code


# --- handshake -----------------------------------------------------------------------------------------


def _greeting(stage: Stage) -> None:
    reply = stage.connect().ask("hello", version=ANY_VERSION, name="conformance")
    right = isinstance(reply, Welcome) and reply.version <= ANY_VERSION
    stage.expect("H-2", right, f"hello of version {ANY_VERSION}: got {show(reply)}")


def _hello_first(stage: Stage) -> None:
    peer = stage.connect()
    reply = peer.ask("status")
    stage.expect(
        "H-1",
        is_error(reply, "hello_first"),
        f"status before hello: expected hello_first; got {show(reply)}",
    )
    reply = peer.ask("hello", version=1)
    stage.expect("H-1", isinstance(reply, Welcome), f"hello after that: got {show(reply)}")


def _hello_twice(stage: Stage) -> None:
    peer = stage.greet()
    reply = peer.ask("hello", version=1)
    stage.expect(
        "H-6",
        is_error(reply, "hello_twice"),
        f"a second hello: expected hello_twice; got {show(reply)}",
    )
    peer = stage.connect()
    hello = pack({"type": "hello", "id": 1, "version": 1})
    peer.say(hello, pack({"type": "hello", "id": 2, "version": 1}))
    peer.reply(1)
    reply = peer.reply(2)
    stage.expect(
        "H-6",
        is_error(reply, "hello_twice"),
        f"a second hello behind the first: expected hello_twice; got {show(reply)}",
    )


def _kernels_word(stage: Stage) -> None:
    if not _may_be_others(stage, "S-3"):
        return
    reply = stage.connect(NOBODY).ask(
        "hello", version=1, uid=0, pid=1, controller=True, name="conformance"
    )
    right = isinstance(reply, Welcome) and not reply.controller
    stage.expect("S-3", right, f"another user who says to be root: got {show(reply)}, a controller")


# --- frames --------------------------------------------------------------------------------------------


def _pieces(stage: Stage) -> None:
    peer = stage.greet()
    for byte in frame(pack({"type": "status", "id": 70})):
        peer.say_bytes(bytes([byte]))
    stage.expect("F-6", isinstance(peer.reply(70), Ok), "a request in pieces of a byte")
    both = frame(pack({"type": "status", "id": 71})) + frame(pack({"type": "status", "id": 72}))
    peer.say_bytes(both[:-3])
    stage.expect("F-6", isinstance(peer.reply(71), Ok), "the first of one and a half requests")
    peer.say_bytes(both[-3:])
    stage.expect("F-6", isinstance(peer.reply(72), Ok), "the rest of one and a half requests")


def _largest(stage: Stage) -> None:
    peer = stage.greet()
    peer.say(fill({"type": "status", "id": 80}))
    reply = peer.reply(80)
    stage.expect("F-2 T-10", isinstance(reply, Ok), f"a frame of 65536 bytes: got {show(reply)}")


def _forbidden_lengths(stage: Stage) -> None:
    for length in FORBIDDEN_LENGTHS:
        peer = stage.greet()
        peer.say_bytes(frame(pack({"type": "status", "id": 90})) + length.to_bytes(4, "big"))
        reply = peer.reply(90)
        stage.expect(
            "F-5", isinstance(reply, Ok), f"status before length {length}: got {show(reply)}"
        )
        said = peer.error()
        code = "frame_too_long" if length else "malformed"
        right = said is None or (said.id is None and said.code == code)
        stage.expect(
            "F-4", right, f"length {length}: expected {code} without an id; got {show(said)}"
        )
        stage.expect("F-3 F-4", peer.has_ended(), f"length {length}: the connection stayed")


def _malformed(stage: Stage) -> None:
    peer = stage.greet()
    for number, what, payload, readable in malformed(
        {"type": "status", "id": 100}, REQUEST_MAX_ITEMS
    ):
        peer.say(payload)
        said = peer.error()
        stage.expect(
            f"{number} T-11",
            is_error(said, "malformed"),
            f"{what}: expected malformed; got {show(said)}",
        )
        expected = (100,) if readable else (100, None)
        right = said is not None and said.id in expected
        stage.expect("T-11", right, f"{what}: expected the request's id; got {show(said)}")
        stage.expect("T-11", isinstance(peer.ask("status"), Ok), f"{what}: what came next")


def _values(stage: Stage) -> None:
    peer = stage.greet()
    peer.say(spread({"type": "history", "id": 110, "after": 0, "limit": 1}))
    reply = peer.reply(110)
    stage.expect(
        "T-4 T-9", isinstance(reply, Ok), f"the longest forms, reversed: got {show(reply)}"
    )
    for what, keys in (
        ("a boolean for an integer", {"after": True}),
        ("bytes for an integer", {"after": b"1"}),
    ):
        reply = peer.ask("history", **keys)
        stage.expect(
            "T-4", is_error(reply, "bad_value"), f"{what}: expected bad_value; got {show(reply)}"
        )
    reply = peer.ask("subscribe", domain=b"system")
    stage.expect(
        "T-4",
        is_error(reply, "bad_value"),
        f"bytes for text: expected bad_value; got {show(reply)}",
    )
    reply = peer.ask("history", after=None, limit=None)
    stage.expect("T-8", isinstance(reply, Ok), f"nil for a default: got {show(reply)}")
    reply = peer.ask("register", name=None, **{"class": "cached"})
    stage.expect("T-8", is_error(reply, "bad_value"), f"nil for a required key: got {show(reply)}")
    reply = peer.ask("status", xyzzy={"a": [1, b"2", None]}, plugh=True)
    stage.expect("T-10", isinstance(reply, Ok), f"unknown keys: got {show(reply)}")


# --- requests ------------------------------------------------------------------------------------------


def _in_order(stage: Stage) -> None:
    peer = stage.connect()
    hello = pack({"type": "hello", "id": 1, "version": 1})
    peer.say(hello, *(pack({"type": "status", "id": number}) for number in PIPELINED))
    peer.reply(1)
    for number in PIPELINED:
        reply = peer.reply(number)
        stage.expect("R-2", isinstance(reply, Ok), f"status, one of many: got {show(reply)}")
    left = [message for message in peer.pushes(0.1) if isinstance(message, Ok | Error)]
    stage.expect("R-2", not left, "more replies than requests")


def _unknown_types(stage: Stage) -> None:
    peer = stage.greet()
    for kind in ("from_the_future", "welcome", "notice"):
        reply = peer.ask(kind)
        stage.expect(
            "R-6",
            is_error(reply, "unknown_type"),
            f"{kind}: expected unknown_type; got {show(reply)}",
        )


def _bad_values(stage: Stage) -> None:
    peer = stage.greet()
    for what, keys in (
        ("a class that is none", {"name": "conformance", "class": "royal"}),
        ("no name", {"class": "cached"}),
        ("less than nothing", {"name": "conformance", "class": "cached", "sheddable_bytes": -1}),
    ):
        reply = peer.ask("register", **keys)
        stage.expect(
            "R-7", is_error(reply, "bad_value"), f"{what}: expected bad_value; got {show(reply)}"
        )
    reply = peer.ask("register", name="conformance", **{"class": "royal"})
    named = isinstance(reply, Error) and "class" in reply.message
    stage.expect("T-12", named, f"a bad class: expected its key; got {show(reply)}")
    reply = peer.ask("unregister")
    stage.expect(
        "R-7",
        is_error(reply, "not_registered"),
        f"it registered with a bad value: got {show(reply)}",
    )


def _long_results(stage: Stage) -> None:
    peer = stage.greet()
    for kind in ("history", "rules", "processes"):
        reply = peer.ask(kind, limit=1000)
        right = isinstance(reply, Ok) or is_error(reply, "busy")
        stage.expect("R-11", right, f"{kind}, 1000 at once: got {show(reply)}")


# --- rights --------------------------------------------------------------------------------------------


def _may_be_others(stage: Stage, numbers: str) -> bool:
    """Say whether a connection of another user can be had here; where not, the rules stay unseen."""
    try:
        stage.connect(NOBODY)
    except OSError as error:
        stage.findings.miss(numbers, f"takes a connection of another user: {error.strerror}")
        return False
    return True


def _controllers_only(stage: Stage) -> None:
    if not _may_be_others(stage, "P-4 P-7"):
        return
    peer = stage.greet(NOBODY)
    for kind, keys in (
        ("simulate", {"level": "low", "scope": "all", "duration_ms": 0}),
        ("set_class", {"app": 0, "class": "cached"}),
        ("reload", {}),
        ("record", {"save": False}),
    ):
        reply = peer.ask(kind, **keys)
        stage.expect(
            "P-4", is_error(reply, "forbidden"), f"{kind}: expected forbidden; got {show(reply)}"
        )
    reply = peer.ask("subscribe", domain="/lmkd-conformance/no-such-cgroup")
    right = is_error(reply, "unknown_domain") or is_error(reply, "forbidden")
    stage.expect("P-7", right, f"a cgroup that is none of its own: got {show(reply)}")


CHECKS = (
    Check("H-2", _greeting),
    Check("H-1", _hello_first),
    Check("H-6", _hello_twice),
    Check("S-3", _kernels_word),
    Check("F-6", _pieces),
    Check("F-2", _largest),
    Check("F-3 F-4 F-5", _forbidden_lengths),
    Check("T-11", _malformed),
    Check("T-4 T-8 T-9 T-10", _values),
    Check("R-2 R-3", _in_order),
    Check("R-6", _unknown_types),
    Check("R-7", _bad_values),
    Check("R-11", _long_results),
    Check("P-4 P-7", _controllers_only),
)
