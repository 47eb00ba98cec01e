"""The codec of the client for Node takes and says what lmkd_proto takes and says, whatever it is given."""

from __future__ import annotations

import json
import random
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgpack
import pytest
from lmkd_proto import Message, RemoteProtocolError, UnknownMessage
from lmkd_proto.codec import decode
from lmkd_proto.messages import PUSHES, REPLIES

from ..clients_c.test_decoding import HEADERS, ODD_VALUES
from .programs import HERE, ROOT, place

VECTORS = ROOT / "proto" / "vectors"
SEED = 20260801
CHANGED = 20_000
SAFE_MOST = 2**53 - 1
FROM_SERVER = frozenset(message.type for message in (*REPLIES, *PUSHES))


def load(name: str, direction: str) -> list[dict[str, Any]]:
    cases = json.loads((VECTORS / f"{name}.json").read_text())
    return [case for case in cases if case["direction"] == direction]


ENCODED = load("client_to_server", "client_to_server")
DECODED = [
    case
    for name in ("server_to_client", "noncanonical", "unknown")
    for case in load(name, "server_to_client")
]
REJECTED = load("reject", "server_to_client")
REFUSED = [case for case in load("reject", "client_to_server") if case["code"] == "bad_value"]
FORBIDDEN = [case for case in load("reject", "client_to_server") if case["fatal"]]
MALFORMED = [case for case in load("reject", "client_to_server") if case["code"] == "malformed"]


def ids(cases: list[dict[str, Any]]) -> list[str]:
    return [case["name"] for case in cases]


class Codec:
    """The client's codec, in a program that answers line by line."""

    def __init__(self, program: Path) -> None:
        self._program = program

    def ask(self, *asked: dict[str, Any]) -> list[Any]:
        ran = subprocess.run(
            ["node", self._program],
            input="".join(f"{json.dumps(one)}\n" for one in asked),
            cwd=self._program.parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stderr
        return [json.loads(line) for line in ran.stdout.splitlines()]

    def events(self, *frames: bytes, pieces: int = 1 << 20) -> list[list[dict[str, Any]]]:
        """Decode each of these streams, in pieces of so many bytes."""
        said = self.ask(*({"decode": frame.hex(), "pieces": pieces} for frame in frames))
        return [one["events"] for one in said]


@pytest.fixture(scope="session")
def codec(app: Path, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    folder = tmp_path_factory.mktemp("codec")
    return Codec(place(folder, app, HERE / "codec.mjs", "codec.mjs"))


def for_json(value: object) -> object:
    """Show a value as codec.mjs does: what no number holds exactly is a bigint there."""
    if isinstance(value, bytes):
        return {"$hex": value.hex()}
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > SAFE_MOST:
        return {"$bigint": str(value)}
    if isinstance(value, list):
        return [for_json(each) for each in value]
    if isinstance(value, dict):
        return {key: for_json(each) for key, each in value.items()}
    return value


def show(message: Message | UnknownMessage) -> dict[str, object]:
    """Show a message by its wire keys, as codec.mjs does."""
    if isinstance(message, UnknownMessage):
        return {"$unknown": {"type": message.type, "id": message.id}}
    shown: dict[str, object] = {"type": message.type}
    for declared in message.fields:
        value = getattr(message, declared.attribute)
        if value != declared.default:
            shown[declared.key] = for_json(value)
    return shown


def test_every_request_of_the_vectors_is_encoded_as_they_have_it(codec: Codec) -> None:
    assert len(ENCODED) >= 38
    said = codec.ask(*({"encode": for_json(case["message"])} for case in ENCODED))
    for case, one in zip(ENCODED, said, strict=True):
        assert one == {"hex": case["hex"]}, case["name"]


@pytest.mark.parametrize("pieces", [1, 3, 1 << 20], ids=["bytes", "threes", "whole"])
def test_every_frame_of_the_vectors_means_what_they_say(codec: Codec, pieces: int) -> None:
    assert len(DECODED) >= 25
    frames = [bytes.fromhex(case["hex"]) for case in DECODED]
    for case, events in zip(DECODED, codec.events(*frames, pieces=pieces), strict=True):
        assert events == [{"message": for_json(case["message"])}], case["name"]
    # All of them as one stream, and half a frame behind it.
    (events,) = codec.events(b"".join(frames) + frames[0][:-1], pieces=pieces)
    assert events == [{"message": for_json(case["message"])} for case in DECODED]


@pytest.mark.parametrize("pieces", [1, 1 << 20], ids=["bytes", "whole"])
def test_every_frame_that_must_be_rejected_is_and_the_next_one_is_heard(
    codec: Codec, pieces: int
) -> None:
    assert len(REJECTED) >= 28
    good = DECODED[0]
    frames = [bytes.fromhex(case["hex"]) + bytes.fromhex(good["hex"]) for case in REJECTED]
    for case, (bad, after) in zip(REJECTED, codec.events(*frames, pieces=pieces), strict=True):
        found = {key: bad[key] for key in ("code", "id", "fatal")}
        assert found == {key: case[key] for key in ("code", "id", "fatal")}, case["name"]
        assert bad["says"], case["name"]
        assert after == {"message": for_json(good["message"])}, case["name"]


@pytest.mark.parametrize("pieces", [1, 1 << 20], ids=["bytes", "whole"])
def test_a_forbidden_length_is_refused_with_its_four_bytes_after_what_came_before_it(
    codec: Codec, pieces: int
) -> None:
    good = DECODED[0]
    frames = [bytes.fromhex(good["hex"]) + bytes.fromhex(case["hex"])[:4] for case in FORBIDDEN]
    assert len(frames) >= 4
    for case, (before, bad) in zip(FORBIDDEN, codec.events(*frames, pieces=pieces), strict=True):
        assert before == {"message": for_json(good["message"])}
        assert (bad["code"], bad["fatal"]) == (case["code"], True), case["name"]


def test_what_breaks_the_rules_for_all_messages_is_malformed_whoever_says_it(codec: Codec) -> None:
    """The vectors have most of these as requests; a float or a bomb is none the better from a server."""
    frames = [bytes.fromhex(case["hex"]) for case in MALFORMED if not case["fatal"]]
    found = codec.events(*frames)
    # Those that lack only what a request must have are no malformed pushes.
    assert sum(check_same(*each) == "malformed" for each in zip(frames, found, strict=True)) >= 40


def test_a_malformed_frame_is_told_by_the_byte_and_by_what_was_expected(codec: Codec) -> None:
    said = {
        "82a474797065a3627965a6726561736f6ecb3ff0000000000000": "byte 17: expected a type of the protocol; got a float",
        "82a474797065a3627965a6726561736f6ea2ff": "byte 17: expected 3 bytes; got the last 2",
        "81a474797065a26279ff": "byte 9: expected the end of the frame; got 1 bytes more",
        "93010203": "byte 0: expected a map; got an array",
        "8101c0": "byte 1: expected text as a key; got an integer",
        "81a474797065a2c328": "byte 7: expected text in UTF-8; got bytes that are none",
        "82a474797065a3627965a47479706501": "a map repeats a key",
        "81a47479706507": "key 'type': expected text, 1 to 64 characters; got 7",
        "81a474797065a3627965": "bye: key 'reason': expected text, at most 512 characters; got nothing",
    }
    frames = [len(one).to_bytes(4, "big") + one for one in map(bytes.fromhex, said)]
    found = [events[0].get("says") for events in codec.events(*frames)]
    assert found == list(said.values())


@pytest.mark.parametrize("case", REFUSED, ids=ids(REFUSED))
def test_a_request_that_the_server_would_refuse_is_refused_here_with_the_reason(
    codec: Codec, case: dict[str, Any]
) -> None:
    message = msgpack.unpackb(bytes.fromhex(case["hex"])[4:])
    # Undefined is JavaScript's absence; nil comes from nobody but a caller's mistake, and only where it is one.
    asked = {key: value for key, value in message.items() if value is not None}
    (said,) = codec.ask({"encode": for_json(asked)})
    assert said.get("error") == "InvalidArgumentError", said
    assert case["name"].split("_")[0] in said["says"]
    assert "expected" in said["says"]


# --- whatever it is given ------------------------------------------------------------------------------------


def expected(frame: bytes) -> list[dict[str, Any]]:
    """Return what the codec should make of a frame, by lmkd_proto."""
    try:
        message = decode(frame[4:], types=FROM_SERVER)
    except RemoteProtocolError as error:
        return [{"code": error.code, "id": error.request_id, "fatal": False}]
    return [{"message": show(message)}]


def check_same(frame: bytes, found: list[dict[str, Any]]) -> str:
    """Hold what the codec made of a frame against lmkd_proto, and return what it was: a message, or which fault."""
    (wanted,) = expected(frame)
    (event,) = found
    if wanted.get("code") == "malformed":
        # The id is read before the fault is found, or not: that is nobody's business.
        assert event.get("code") == "malformed", frame.hex()
    else:
        event.pop("says", None)
        assert event == wanted, frame.hex()
    return str(wanted.get("code", "message"))


def mutate(chance: random.Random, frame: bytes) -> bytes:
    """Change some bytes of a payload, drop some, or put some in."""
    payload = bytearray(frame[4:])
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(payload))
        match chance.randrange(4):
            case 0:
                payload[at] = chance.randrange(256)
            case 1:
                payload[at] = chance.choice(HEADERS)
            case 2:
                payload[at:at] = bytes([chance.choice(HEADERS)])
            case _ if len(payload) > 1:
                del payload[at]
    return len(payload).to_bytes(4, "big") + bytes(payload)


def rebuild(chance: random.Random, frame: bytes) -> bytes:
    """Change a value of a message, leave a key out, or put one in."""
    body = deepcopy(msgpack.unpackb(frame[4:]))
    where = body
    if isinstance(body.get("result"), dict) and body["result"] and chance.random() < 0.5:
        where = body["result"]
    key = chance.choice(sorted(where))
    match chance.randrange(4):
        case 0:
            del where[key]
        case 1:
            where["of_a_later_version"] = chance.choice(ODD_VALUES)
        case _:
            where[key] = chance.choice(ODD_VALUES)
    payload = bytes(msgpack.packb(body))
    return len(payload).to_bytes(4, "big") + payload


def test_twenty_thousand_changed_frames_mean_what_they_mean_to_lmkd_proto(codec: Codec) -> None:
    chance = random.Random(SEED)
    seeds = [bytes.fromhex(case["hex"]) for case in (*DECODED, *REJECTED)]
    seeds = [frame for frame in seeds if len(frame) < 2000]
    frames = []
    for number in range(CHANGED):
        seed = chance.choice(seeds)
        change = mutate
        if number % 2:
            try:
                if isinstance(msgpack.unpackb(seed[4:]), dict) and len(seed) > 5:
                    change = rebuild
            except ValueError:
                pass
        frames.append(change(chance, seed))
    good = 0
    for frame, found in zip(frames, codec.events(*frames), strict=True):
        good += check_same(frame, found) == "message"
    assert good > CHANGED // 10
