"""The decoder in C takes what lmkd_proto takes, in the same words, and steps on nothing, whatever it is given."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import msgpack
import pytest
from lmkd_proto import (
    UNITS,
    Bye,
    Error,
    Killed,
    KillWarning,
    Message,
    Notice,
    Ok,
    Pressure,
    RemoteProtocolError,
    Welcome,
    encode,
)
from lmkd_proto.codec import decode
from lmkd_proto.fields import CLASS, DOMAIN, DURATION, IDENTITY
from lmkd_proto.values import Choice

from ..clients.fake_daemon import GRANT
from .programs import ROOT

VECTORS = ROOT / "proto" / "vectors"
MAX_C_ID = 2**31 - 1
BROKEN = "the daemon answered, but not with what the protocol says it must"
SEED = 20_261_128
INPUTS = 10_000
HEADERS = bytes.fromhex(
    "80 8f 90 9f a0 bf c0 c1 c2 c4 c5 c6 c7 ca cb cc cf d3 d4 d9 da db dc dd de df"
)

ODD_VALUES: tuple[object, ...] = (
    *(None, True, False, 0, 1, -1, 5, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1),
    *("", "x", "x" * 64, "x" * 65, "ä" * 512, "ä" * 513, "a\0b", "\n", "\x7f", "\x9f", "\xa0"),
    *("system", "own", "/", "//", "/a", "/a/", "/..", "/a/./b", "/...", "/" + "a" * 1024, "normal"),
    *("critical", "cached", "cgroup", b"", b"bytes", [], [1, [2]], {}, {"app": 1}, 1.5),
)
HEARD = (Welcome, Ok, Error, Pressure, Notice, KillWarning, Killed, Bye)

Case = tuple[str, int, bytes]
"""The request that a reply is taken for, its id, and the frame."""


def load(name: str) -> list[dict[str, object]]:
    cases = json.loads((VECTORS / f"{name}.json").read_text())
    return [case for case in cases if case["direction"] == "server_to_client"]


def run(decoder: Path, cases: list[Case]) -> list[str]:
    """Return what the decoder in C heard in each frame."""
    lines = "".join(f"{request} {number} {frame.hex()}\n" for request, number, frame in cases)
    ran = subprocess.run([decoder], input=lines, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return [line.strip() for line in ran.stdout.splitlines()]


def expected(case: Case) -> str:
    """Return what it should have heard, by lmkd_proto."""
    request, number, frame = case
    try:
        message = decode(frame[4:])
    except RemoteProtocolError:
        return "nothing"
    greeted = request != "hello"
    if not isinstance(message, HEARD) or greeted == isinstance(message, Welcome):
        return "nothing"
    if not greeted and not isinstance(message, Welcome | Error | Bye):
        return "nothing"
    if isinstance(message, Welcome | Ok | Error) and message.id is not None:
        if message.id != number or not 1 <= number <= MAX_C_ID or request == "-":
            return "nothing"
        if isinstance(message, Welcome) and message.version != 1:
            return "nothing"
    return show(message, request)


def text(value: str) -> str:
    return value.partition("\0")[0].encode().hex() + "."


def show(message: Message, request: str) -> str:
    """Show a message as decode.c does."""
    if isinstance(message, Welcome):
        return f"welcome {text(message.server)}"
    if isinstance(message, Ok):
        return show_result(message, request)
    if isinstance(message, Error):
        if message.id is None:
            return f"error {text(f'{message.code}: {message.message}')}"
        return f"error {message.id} {text(message.code)} {text(message.message)}"
    if isinstance(message, Pressure):
        return (
            f"pressure {text(message.domain)} {message.level} {text(message.reason)}"
            f" {message.available_bytes} {message.simulated:d}"
        )
    if isinstance(message, Notice):
        return (
            f"notice {message.notice} {text(message.domain)} {message.level} {message.target_bytes}"
            f" {message.deadline_ms} {text(message.reason)} {message.emergency:d} {message.simulated:d}"
        )
    if isinstance(message, KillWarning):
        return f"kill_warning {text(message.reason)} {message.time_to_exit_ms}"
    if isinstance(message, Killed):
        return (
            f"killed {text(message.domain)} {message.pid} {text(message.name)} {message.app_class}"
            f" {text(message.reason)} {message.freed_bytes}"
        )
    assert isinstance(message, Bye)
    return f"bye {text(message.reason)}"


def show_result(message: Ok, request: str) -> str:
    kinds = {
        "register": {
            "app": IDENTITY,
            "class": CLASS,
            "unit": Choice(UNITS),
            "domain": DOMAIN,
            "grace_ms": DURATION,
            "time_to_exit_ms": DURATION,
        },
        "ack": {"deadline_ms": DURATION},
        "subscribe": {"domain": DOMAIN},
    }.get(request, {})
    words = [f"ok {message.id}"]
    for key, kind in kinds.items():
        value = message.result.get(key)
        if request == "subscribe" and value is None:
            words.append(".")
        elif not kind.accepts(value):
            return f"error {message.id} {text('failed')} {text(BROKEN)}"
        else:
            words.append(text(value) if key == "domain" else str(value))  # type: ignore[arg-type]
    return " ".join(words)


@pytest.mark.parametrize("name", ["server_to_client", "noncanonical", "unknown", "reject"])
def test_every_vector_for_clients_is_read_as_it_says(decoder: Path, name: str) -> None:
    cases: list[Case] = []
    for vector in load(name):
        message = vector.get("message")
        number = message.get("id") if isinstance(message, dict) else None
        kind = str(vector["name"])
        request = "hello" if kind.startswith("welcome") else "simulate"
        request = next((word for word in ("register", "subscribe") if word in kind), request)
        number = number if isinstance(number, int) else 1
        cases.append((request, number, bytes.fromhex(str(vector["hex"]))))
    assert cases
    assert run(decoder, cases) == [expected(case) for case in cases]
    if name == "reject":
        assert {expected(case) for case in cases} == {"nothing"}


def seeds() -> list[Case]:
    """Frames that a client takes, with a reply for each request."""
    cases: list[Case] = [
        ("hello", 5, encode(Welcome(5, 1, "lmkd 0.1.0", False))),
        ("register", 5, encode(Ok(5, GRANT))),
        ("register", 5, encode(Ok(5, {**GRANT, "later": {"app": 1, "class": [{}]}}))),
        ("ack", 5, encode(Ok(5, {"deadline_ms": 900}))),
        ("subscribe", 5, encode(Ok(5, {"domain": "/a/b", "propagation": "local"}))),
        ("ack", 5, encode(Error(5, "unknown_notice", "never sent"))),
        ("-", 5, encode(Notice(7, "/a.b/..c", "medium", 1 << 40, 1000, "ä\u20ac\U0001f600", True))),
    ]
    for vector in load("server_to_client"):
        frame = bytes.fromhex(str(vector["hex"]))
        if len(frame) < 700:
            cases.append(("simulate", 3, frame))
    return cases


def test_what_the_seeds_of_the_fuzzing_say_is_heard(decoder: Path) -> None:
    heard = run(decoder, seeds())
    assert heard == [expected(case) for case in seeds()]
    assert "nothing" not in heard[:7]


def mutate(chance: random.Random, frame: bytes) -> bytes:
    """Change some bytes of a payload, most often where that means something."""
    payload = bytearray(frame[4:])
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.randrange(len(payload) + 1)
        how = chance.randrange(6)
        if how == 0:
            payload[at : at + 1] = chance.randbytes(1)
        elif how == 1:
            payload[at : at + 1] = bytes([chance.choice(HEADERS)])
        elif how == 2:
            payload[at:at] = bytes([chance.choice(HEADERS)])
        elif how == 3:
            del payload[at : at + chance.randrange(1, 8)]
        elif how == 4:
            payload[at:at] = payload[at : at + chance.randrange(1, 24)]
        else:
            payload = payload[: at or 1]
    return frame[:4] + bytes(payload or b"\x80")


def pack(chance: random.Random, value: object) -> bytes:
    """Encode a value, in any of the widths that the wire allows for it."""
    if isinstance(value, dict):
        body = b"".join(pack(chance, key) + pack(chance, item) for key, item in value.items())
        return b"\xde" + len(value).to_bytes(2, "big") + body
    if isinstance(value, str) and chance.random() < 0.5:
        data = value.encode()
        return b"\xdb" + len(data).to_bytes(4, "big") + data
    if type(value) is int and value >= 0 and chance.random() < 0.5:
        return (b"\xcf" if value >= 1 << 63 else b"\xd3") + value.to_bytes(8, "big")
    return bytes(msgpack.packb(value))


def rebuild(chance: random.Random, frame: bytes) -> bytes:
    """Say the same with other values, more keys or fewer, in another order or another form."""
    body = msgpack.unpackb(frame[4:])
    for _ in range(chance.randrange(3)):
        result = body.get("result")
        within = result if isinstance(result, dict) and chance.random() < 0.5 else body
        key = chance.choice(list(within) or ["more"])
        how = chance.randrange(4)
        if how == 0:
            within[key] = deepcopy(chance.choice(ODD_VALUES))
        elif how == 1:
            within[f"more{chance.randrange(4)}"] = deepcopy(chance.choice((*ODD_VALUES, body)))
        elif how == 2 and len(within) > 1:
            del within[key]
        else:
            items = list(within.items())
            chance.shuffle(items)
            within.clear()
            within.update(items)
    return frame_of(pack(chance, body))


@pytest.mark.parametrize("change", [mutate, rebuild])
def test_whatever_comes_is_read_as_lmkd_proto_reads_it_and_nothing_is_stepped_on(
    decoder: Path, change: Callable[[random.Random, bytes], bytes]
) -> None:
    chance = random.Random(SEED)
    sown = seeds()
    cases: list[Case] = []
    for _ in range(INPUTS):
        request, number, frame = chance.choice(sown)
        cases.append((request, number, change(chance, frame)))
    heard = run(decoder, cases)
    for case, line in zip(cases, heard, strict=True):
        assert line == expected(case), case
    # Not all of them are refused at once, nor is all of them taken.
    assert len({line.split()[0] for line in heard}) == len(HEARD) + 1


def frame_of(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def bye_with(value: bytes, count: int = 1) -> bytes:
    """Return a `bye` with unknown keys that hold this."""
    keys = b"".join(msgpack.packb(f"k{i}") + value for i in range(count))
    header = bytes([0xDE]) + (count + 2).to_bytes(2, "big")
    return frame_of(header + bytes.fromhex("a474797065a3627965a6726561736f6ea178") + keys)


def nested(depth: int) -> bytes:
    return b"\x91" * (depth - 1) + b"\x90"


@pytest.mark.parametrize(
    ("frame", "is_taken"),
    [
        (bye_with(nested(31)), True),
        (bye_with(nested(32)), False),
        (bye_with(b"\x81\xa0" * 30 + b"\x80"), True),
        (bye_with(b"\x81\xa0" * 31 + b"\x80"), False),
        (bye_with(b"\x91" * 60_000), False),
        (bye_with(b"\xdc\x04\x00" + b"\x01" * 1024), True),
        (bye_with(b"\xdc\x04\x01" + b"\x01" * 1025), False),
        (bye_with(b"\xdd\xff\xff\xff\xff" + b"\x01" * 1024), False),
        (bye_with(b"\xdf\xff\xff\xff\xff"), False),
        (bye_with(b"\xc0", 1022), True),
        (bye_with(b"\xc0", 1023), False),
        (bye_with(b"\xdc\x04\x00" + b"\x81\xa0\xc0" * 1024, 19), True),
        (bye_with(b"\xdc\x04\x00" + b"\x82\xa0\xc0\xa0\xc0" * 1024), False),
        (bye_with(b"\xdb\xff\xff\xff\xff"), False),
        (bye_with(b"\xda\xff\x00" + b"x" * 0xFF00), True),
        (bye_with(b"\xc6\xff\xff\xff\xff"), False),
        (bye_with(b"\xc9\xff\xff\xff\xff\x01"), False),
        (bye_with(b"\xd6\xff\x00\x00\x00\x00"), False),
        (bye_with(b"\xca\x00\x00\x00\x00"), False),
        (bye_with(b"\xa2\xc3\x28"), False),
        (bye_with(b"\xa3\xed\xa0\x80"), False),
        (bye_with(b"\xc0") + b"\xc0", False),
        (frame_of(b"\xc1"), False),
        (frame_of(b"\x90"), False),
        (frame_of(b"\x80"), False),
        (
            frame_of(bytes.fromhex("83a474797065a3627965a6726561736f6ea178a6726561736f6ea178")),
            False,
        ),
    ],
)
def test_the_limits_of_the_protocol_are_held(decoder: Path, frame: bytes, is_taken: bool) -> None:
    case = ("-", 0, frame)
    assert run(decoder, [case]) == [f"bye {text('x')}" if is_taken else "nothing"]
    assert run(decoder, [case]) == [expected(case)]
