"""The conformance vectors, which any implementation in any language must pass.

They are read from proto/vectors as they are published. A vector holds one whole frame; it is fed
whole, byte by byte, and with the beginning of a next frame behind it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
from lmkd_proto import (
    MESSAGES,
    ClientConnection,
    Error,
    Hello,
    LocalProtocolError,
    Malformed,
    Message,
    RemoteProtocolError,
    ServerConnection,
    UnknownMessage,
    Welcome,
    encode,
)
from lmkd_proto.fields import REQUIRED

VECTORS = Path(__file__).parents[2] / "proto" / "vectors"
BY_TYPE: dict[str, type[Message]] = {message.type: message for message in MESSAGES}

Vector = dict[str, Any]


def load(*names: str) -> list[Any]:
    return [
        pytest.param(vector, id=f"{name}-{vector['name']}")
        for name in names
        for vector in json.loads((VECTORS / f"{name}.json").read_text())
    ]


CANONICAL = load("client_to_server", "server_to_client")
ACCEPTED = [*CANONICAL, *load("noncanonical", "unknown")]
REJECTED = load("reject")
# After these three only another message may follow; test_connection has them.
REPEATABLE = [
    v for v in ACCEPTED if v.values[0]["message"].get("type") not in ("hello", "welcome", "bye")
]


def value_of(shown: Any) -> Any:
    """Undo the vectors' way to show bytes in JSON."""
    if isinstance(shown, dict):
        if set(shown) == {"$hex"}:
            return bytes.fromhex(shown["$hex"])
        return {key: value_of(value) for key, value in shown.items()}
    if isinstance(shown, list):
        return [value_of(value) for value in shown]
    return shown


def message_of(shown: dict[str, Any]) -> Message | UnknownMessage:
    if "$unknown" in shown:
        return UnknownMessage(**shown["$unknown"])
    body = value_of(shown)
    message = BY_TYPE[body.pop("type")]
    attributes = {declared.key: declared.attribute for declared in message.fields}
    values = {attributes[key]: value for key, value in body.items()}
    if message is Error:
        values.setdefault("id", None)
    return message(**values)


def receiver(vector: Vector) -> ServerConnection | ClientConnection:
    """Build the side that this vector is sent to, in the state in which it may come."""
    kind = vector.get("message", {}).get("type")
    client, server = ClientConnection(), ServerConnection()
    greeting = client.send(Hello(0, 1))
    if vector["direction"] == "client_to_server":
        if kind != "hello":
            server.receive(greeting)
            server.send(Welcome(0, 1, "s", False))
        return server
    if kind != "welcome":
        client.receive(encode(Welcome(0, 1, "s", False)))
    return client


@pytest.mark.parametrize("vector", ACCEPTED)
def test_an_accepted_frame_gives_its_message(vector: Vector) -> None:
    connection = receiver(vector)
    assert connection.receive(bytes.fromhex(vector["hex"])) == [message_of(vector["message"])]


@pytest.mark.parametrize("vector", ACCEPTED)
def test_an_accepted_frame_byte_by_byte_gives_its_message_with_the_last_byte(
    vector: Vector,
) -> None:
    connection = receiver(vector)
    frame = bytes.fromhex(vector["hex"])
    for index in range(len(frame) - 1):
        assert connection.receive(frame[index : index + 1]) == []
    assert connection.receive(frame[-1:]) == [message_of(vector["message"])]


@pytest.mark.parametrize("vector", REPEATABLE)
def test_the_beginning_of_a_next_frame_changes_nothing_and_is_kept(vector: Vector) -> None:
    connection = receiver(vector)
    frame = bytes.fromhex(vector["hex"])
    expected = message_of(vector["message"])
    assert connection.receive(frame + frame[:5]) == [expected]
    assert connection.receive(frame[5:]) == [expected]


@pytest.mark.parametrize("vector", CANONICAL)
def test_a_message_is_encoded_to_the_bytes_of_its_vector(vector: Vector) -> None:
    message = message_of(vector["message"])
    assert not isinstance(message, UnknownMessage)
    assert encode(message).hex() == vector["hex"]


@pytest.mark.parametrize("vector", load("noncanonical"))
def test_what_is_not_canonical_is_encoded_otherwise_or_allowed_to_the_limit(vector: Vector) -> None:
    """Non-canonical frames carry something the encoder leaves out, or unknown keys at the limit of what may come."""
    message = message_of(vector["message"])
    assert not isinstance(message, UnknownMessage)
    same = encode(message).hex() == vector["hex"]
    assert same == (vector["name"] == "hundreds_of_entries")


@pytest.mark.parametrize("vector", REJECTED)
def test_a_rejected_frame_gives_its_code_and_its_id(vector: Vector) -> None:
    connection = receiver(vector)
    frame = bytes.fromhex(vector["hex"])
    if vector["fatal"]:
        with pytest.raises(RemoteProtocolError) as caught:
            connection.receive(frame)
        assert (caught.value.code, caught.value.request_id) == (vector["code"], vector["id"])
        assert connection.state in ("failed", "closed")
        return
    [event] = connection.receive(frame)
    assert isinstance(event, Malformed)
    assert (event.code, event.request_id) == (vector["code"], vector["id"])
    assert event.message
    assert connection.state == "open"


@pytest.mark.parametrize("vector", REJECTED)
def test_a_rejected_frame_byte_by_byte_gives_the_same(vector: Vector) -> None:
    connection = receiver(vector)
    frame = bytes.fromhex(vector["hex"])
    if vector["fatal"]:
        for index in range(3):
            assert connection.receive(frame[index : index + 1]) == []
        with pytest.raises(RemoteProtocolError, match=vector["code"]):
            connection.receive(frame[3:4])
        return
    for index in range(len(frame) - 1):
        assert connection.receive(frame[index : index + 1]) == []
    [event] = connection.receive(frame[-1:])
    assert isinstance(event, Malformed)
    assert (event.code, event.request_id) == (vector["code"], vector["id"])


@pytest.mark.parametrize("vector", [v for v in REJECTED if not v.values[0]["fatal"]])
def test_the_connection_outlives_a_rejected_frame(vector: Vector) -> None:
    connection = receiver(vector)
    next_name = "status" if vector["direction"] == "client_to_server" else "pressure"
    [next_vector] = [
        v.values[0] for v in CANONICAL if v.values[0]["name"] == f"{next_name}_minimal"
    ]
    frames = bytes.fromhex(vector["hex"]) + bytes.fromhex(next_vector["hex"])
    malformed, message = connection.receive(frames)
    assert isinstance(malformed, Malformed)
    assert message == message_of(next_vector["message"])


@pytest.mark.parametrize("vector", [v for v in REJECTED if v.values[0]["code"] == "bad_value"])
def test_a_bad_value_is_named_by_its_key_and_by_what_was_expected(vector: Vector) -> None:
    [event] = receiver(vector).receive(bytes.fromhex(vector["hex"]))
    assert isinstance(event, Malformed)
    assert "expected" in event.message
    assert "key" in event.message
    # A server answers with it, so it must fit into an error.
    assert event.reply() == Error(event.request_id, event.code, event.message)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)
def test_every_message_has_a_minimal_and_a_full_vector(message: type[Message]) -> None:
    vectors = {v.values[0]["name"]: v.values[0]["message"] for v in CANONICAL}
    minimal = vectors[f"{message.type}_minimal"]
    full = vectors[f"{message.type}_full"]
    required = {declared.key for declared in message.fields if declared.default is REQUIRED}
    if message.type == "explain":
        # It names one of two, so neither has both, and the one that is full has the other.
        assert [set(minimal), set(full)] == [{"type", "id", "pid"}, {"type", "id", "kill"}]
        return
    assert set(full) == {"type", *(declared.key for declared in message.fields)}
    assert required <= set(minimal)
    if message.type == "update":
        assert len(minimal) == len(required) + 2
    else:
        assert set(minimal) == {"type", *required}


@pytest.mark.parametrize(
    "message",
    [m for m in MESSAGES if {declared.key for declared in m.fields} != {"id"}],
    ids=lambda message: message.type,
)
def test_every_message_with_keys_of_its_own_has_vectors_that_must_be_rejected(
    message: type[Message],
) -> None:
    assert any(v.values[0]["name"].startswith(message.type) for v in REJECTED)


@pytest.mark.parametrize(
    "vector",
    [v for v in REJECTED if v.values[0]["code"] == "bad_value"],
)
def test_what_must_be_rejected_cannot_be_built_here_either(vector: Vector) -> None:
    """Except for an absent required key, which Python itself refuses."""
    body = msgpack.unpackb(bytes.fromhex(vector["hex"])[4:])
    message = BY_TYPE[body.pop("type")]
    attributes = {declared.key: declared.attribute for declared in message.fields}
    values = {attributes[key]: value for key, value in body.items()}
    with pytest.raises((LocalProtocolError, TypeError)):
        message(**values)
