"""What may be said when, and what becomes of what may not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from lmkd_proto import (
    MESSAGES,
    PUSHES,
    REPLIES,
    REQUESTS,
    Bye,
    ClientConnection,
    Error,
    Hello,
    LocalProtocolError,
    Malformed,
    Message,
    Ok,
    Pressure,
    RemoteProtocolError,
    ServerConnection,
    Status,
    Subscribe,
    UnknownMessage,
    Welcome,
    decode,
    encode,
    encode_frame,
)
from lmkd_proto.connection import CLIENT_TRANSITIONS, SERVER_TRANSITIONS

VECTORS = Path(__file__).parents[2] / "proto" / "vectors"
HELLO = Hello(0, 1, "test")
WELCOME = Welcome(0, 1, "lmkd test", False)
PRESSURE = Pressure("system", "low", "a test", 1 << 20)
GARBAGE = encode_frame(b"\xc1")
TOO_LONG = b"\x00\x01\x00\x01"


def minimal_messages() -> dict[str, Message]:
    found: dict[str, Message] = {}
    for name in ("client_to_server", "server_to_client"):
        for vector in json.loads((VECTORS / f"{name}.json").read_text()):
            if vector["name"].endswith("_minimal"):
                message = decode(bytes.fromhex(vector["hex"])[4:])
                assert not isinstance(message, UnknownMessage)
                found[message.type] = message
    return found


MINIMAL = minimal_messages()
STATES = ("await_hello", "greeting", "open", "failed", "closed")


def server_in(state: str) -> ServerConnection:
    server = ServerConnection()
    if state in ("greeting", "open"):
        server.receive(encode(HELLO))
    if state == "open":
        server.send(WELCOME)
    if state == "failed":
        with pytest.raises(RemoteProtocolError):
            server.receive(TOO_LONG)
    if state == "closed":
        server.send(Bye("a test"))
    assert server.state == state
    return server


def client_in(state: str) -> ClientConnection:
    client = ClientConnection()
    if state in ("greeting", "open"):
        client.send(HELLO)
    if state == "open":
        client.receive(encode(WELCOME))
    if state == "closed":
        client.receive(encode(Bye("a test")))
    assert client.state == state
    return client


class ConnectionPair:
    """Two peers that hear every word the other says, whole and byte by byte."""

    def __init__(self) -> None:
        self.client = ClientConnection()
        self.server = ServerConnection()

    def ask(self, message: Message) -> None:
        frame = self.client.send(message)
        events = [event for byte in frame for event in self.server.receive(bytes([byte]))]
        assert events == [message]
        assert self.client.state == self.server.state

    def answer(self, message: Message) -> None:
        frame = self.server.send(message)
        assert self.client.receive(frame) == [message]
        assert self.client.state == self.server.state


def test_every_message_passes_between_two_peers_and_they_always_agree_on_the_state() -> None:
    pair = ConnectionPair()
    pair.ask(HELLO)
    pair.answer(Error(0, "bad_version", "only 1 is spoken here"))
    pair.ask(HELLO)
    pair.ask(Status(1))
    pair.answer(WELCOME)
    pair.answer(Ok(1))
    for message in MINIMAL.values():
        if message.type not in ("hello", "welcome", "bye"):
            (pair.ask if isinstance(message, REQUESTS) else pair.answer)(message)
    pair.answer(Bye("done"))
    assert pair.client.state == "closed"


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)
@pytest.mark.parametrize("state", STATES)
def test_the_server_sends_what_its_table_allows_and_nothing_else(
    state: str, message: type[Message]
) -> None:
    server = server_in(state)
    after = {
        key[0]: next_state
        for key, next_state in SERVER_TRANSITIONS.items()
        if key[1:] == ("send", message.type)
    }.get(server.state)
    if after is None:
        with pytest.raises(LocalProtocolError, match=f"{message.type} may not be sent"):
            server.send(MINIMAL[message.type])
        assert server.state == state
    else:
        assert server.send(MINIMAL[message.type]) == encode(MINIMAL[message.type])
        assert server.state == after


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)
@pytest.mark.parametrize("state", ["await_hello", "greeting", "open", "closed"])
def test_the_client_sends_what_its_table_allows_and_nothing_else(
    state: str, message: type[Message]
) -> None:
    client = client_in(state)
    allowed = (state == "await_hello" and message is Hello) or (
        state in ("greeting", "open") and message in REQUESTS and message is not Hello
    )
    if allowed:
        assert client.send(MINIMAL[message.type]) == encode(MINIMAL[message.type])
    else:
        with pytest.raises(LocalProtocolError, match=f"in state {state}"):
            client.send(MINIMAL[message.type])
        assert client.state == state


def test_the_two_tables_are_each_other_s_mirror() -> None:
    mirror = {"send": "receive", "receive": "send"}
    server = {
        (state, mirror[direction], name): after
        for (state, direction, name), after in SERVER_TRANSITIONS.items()
        if state != "failed"
    }
    assert server == CLIENT_TRANSITIONS


@pytest.mark.parametrize("message", [*REQUESTS[1:], *REPLIES, *PUSHES], ids=lambda m: m.type)
def test_before_hello_the_server_answers_anything_with_hello_first(message: type[Message]) -> None:
    server = ServerConnection()
    [event] = server.receive(encode(MINIMAL[message.type]))
    assert isinstance(event, Malformed)
    assert event.code == "hello_first"
    assert event.request_id == getattr(MINIMAL[message.type], "id", None)
    assert server.send(event.reply())
    assert server.state == "await_hello"


def test_an_unknown_type_before_hello_gets_hello_first_too() -> None:
    [event] = ServerConnection().receive(encode_frame(b"\x82\xa4type\xa4park\xa2id\x07"))
    assert isinstance(event, Malformed)
    assert (event.code, event.request_id) == ("hello_first", 7)


@pytest.mark.parametrize("state", ["greeting", "open"])
def test_a_second_hello_gets_hello_twice_and_changes_nothing(state: str) -> None:
    server = server_in(state)
    [event] = server.receive(encode(Hello(9, 1)))
    assert isinstance(event, Malformed)
    assert (event.code, event.request_id) == ("hello_twice", 9)
    assert server.state == state


def test_requests_may_follow_hello_at_once() -> None:
    server = ServerConnection()
    assert server.receive(encode(HELLO) + encode(Subscribe(1))) == [HELLO, Subscribe(1)]
    with pytest.raises(LocalProtocolError, match="ok may not be sent in state greeting"):
        server.send(Ok(1))
    assert server.send(WELCOME) + server.send(Ok(1)) + server.send(PRESSURE)


def test_a_refused_hello_may_be_said_again() -> None:
    server = server_in("greeting")
    server.send(Error(0, "bad_version", "only 1 is spoken here"))
    assert server.state == "await_hello"
    assert server.receive(encode(HELLO)) == [HELLO]


@pytest.mark.parametrize("message", [WELCOME, Ok(1), PRESSURE], ids=lambda m: m.type)
def test_what_the_server_says_too_early_is_its_mistake_and_the_client_goes_on(
    message: Message,
) -> None:
    client = client_in("await_hello")
    [event] = client.receive(encode(message))
    assert isinstance(event, Malformed)
    assert event.code == "malformed"
    assert f"{message.type} may not come in state await_hello" in event.message
    assert client.state == "await_hello"


def test_a_client_does_not_mind_an_unknown_push_in_any_state() -> None:
    client = client_in("await_hello")
    frame = encode_frame(b"\x81\xa4type\xa6parked")
    assert client.receive(frame) == [UnknownMessage("parked", None)]


def test_garbage_between_good_frames_loses_none_of_them() -> None:
    server = server_in("open")
    first, garbage, last = server.receive(encode(Status(1)) + GARBAGE + encode(Status(2)))
    assert (first, last) == (Status(1), Status(2))
    assert isinstance(garbage, Malformed)
    assert (garbage.code, garbage.request_id) == ("malformed", None)


@pytest.mark.parametrize("chunk", [b"", b"more"])
def test_good_frames_before_a_fatal_one_come_first_and_the_fault_is_raised_next(
    chunk: bytes,
) -> None:
    assert server_in("open").fault is None
    server = server_in("open")
    assert server.receive(encode(Status(1)) + TOO_LONG + b"rest") == [Status(1)]
    assert server.state == "failed"
    assert server.fault is not None
    assert server.fault.code == "frame_too_long"
    with pytest.raises(RemoteProtocolError, match="65537 bytes"):
        server.receive(chunk)
    with pytest.raises(LocalProtocolError, match="cannot receive in state failed"):
        server.receive(chunk)


def test_after_a_fatal_frame_the_server_says_so_once_and_nothing_else() -> None:
    server = server_in("failed")
    with pytest.raises(LocalProtocolError):
        server.send(Bye("x"))
    assert server.send(Error(None, "frame_too_long", "65537 bytes"))
    with pytest.raises(LocalProtocolError):
        server.send(Error(None, "frame_too_long", "65537 bytes"))
    assert server.state == "closed"


def test_after_a_fatal_frame_the_client_is_closed() -> None:
    client = client_in("open")
    with pytest.raises(RemoteProtocolError):
        client.receive(b"\x00\x00\x00\x00")
    assert client.state == "closed"
    with pytest.raises(LocalProtocolError):
        client.send(Status(1))


def test_after_bye_the_client_hears_nothing_more() -> None:
    client = client_in("open")
    bye = Bye("shutting down")
    assert client.receive(encode(bye) + encode(PRESSURE) + TOO_LONG) == [bye]
    assert client.state == "closed"
    with pytest.raises(LocalProtocolError):
        client.receive(b"")


def test_no_bytes_are_not_the_end() -> None:
    server = server_in("open")
    assert server.receive(b"") == []
    assert server.receive(encode(Status(1))) == [Status(1)]


def test_a_message_that_cannot_be_encoded_leaves_the_connection_as_it_was() -> None:
    server = server_in("open")
    with pytest.raises(LocalProtocolError, match="1 to 65536 bytes"):
        server.send(Ok(1, {"text": "x" * 65536}))
    assert server.receive(encode(Status(1))) == [Status(1)]
    assert server.send(Ok(1))


@pytest.mark.parametrize("connection", [server_in("open"), client_in("open")])
def test_an_idle_connection_is_small(connection: ServerConnection | ClientConnection) -> None:
    """A server has thousands of them: 500 bytes each is the bound, reader included."""
    assert not hasattr(connection, "__dict__")
    frame = encode(Status(1) if isinstance(connection, ServerConnection) else PRESSURE)
    connection.receive(frame[:5])
    connection.receive(frame[5:])
    assert connection._reader is None
    assert sys.getsizeof(connection) < 200
