"""Whatever comes, comes out as events or as RemoteProtocolError; whatever is said arrives as it was said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lmkd_proto import (
    MESSAGES,
    ClientConnection,
    Hello,
    LocalProtocolError,
    Malformed,
    Message,
    RemoteProtocolError,
    ServerConnection,
    UnknownMessage,
    Welcome,
    decode,
    encode,
    encode_frame,
)
from lmkd_proto.values import (
    Choice,
    Code,
    Domain,
    DomainAsked,
    Flag,
    Integer,
    Map,
    Name,
    Text,
    find_fault,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from lmkd_proto.values import Kind

bounded = settings(
    deadline=None,
    max_examples=200,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)

# No surrogates (Cs) anywhere; no control characters (Cc) in names and paths.
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
plain = st.characters(exclude_categories=["Cs", "Cc"])
parts = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=20
)
atoms = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | words | st.binary(max_size=20)
)
trees = st.recursive(
    atoms,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(words, inner, max_size=5),
    max_leaves=15,
)


def values_of(kind: Kind) -> st.SearchStrategy[Any]:
    """Say what a kind accepts, in hypothesis's words."""
    match kind:
        case Integer():
            return st.integers(kind.least, kind.most)
        case Flag():
            return st.booleans()
        case Text():
            return st.text(st.characters(exclude_categories=["Cs"]), max_size=kind.most_chars)
        case Name():
            return st.text(plain, min_size=kind.least_chars, max_size=kind.most_chars)
        case Domain():
            paths = st.lists(parts.filter(lambda part: part not in (".", "..")), max_size=5)
            words_too = ["system", "own"] if isinstance(kind, DomainAsked) else ["system"]
            return st.sampled_from(words_too) | paths.map(lambda path: "/" + "/".join(path))
        case Choice():
            return st.sampled_from(kind.words)
        case Code():
            return st.text(st.characters(max_codepoint=127), min_size=1, max_size=64)
        case Map():
            return st.dictionaries(words, trees, max_size=5)
    raise AssertionError(kind)


def messages_of(message: type[Message]) -> st.SearchStrategy[Message]:
    strategies = {}
    for declared in message.fields:
        accepted = values_of(declared.kind)
        strategies[declared.attribute] = (
            accepted | st.none() if declared.default is None else accepted
        )
    if message.type == "update":
        strategies["sheddable_bytes"] = st.integers(0, 2**63 - 1)
    if message.type == "explain":
        # One of the two, never both.
        named = {
            key: strategies.pop(key).filter(lambda number: number is not None)
            for key in ("pid", "kill")
        }
        return st.one_of(
            [st.builds(message, **strategies, **{key: one}) for key, one in named.items()]
        )
    return st.builds(message, **strategies)


messages = st.one_of([messages_of(message) for message in MESSAGES])


def open_server() -> ServerConnection:
    server = ServerConnection()
    server.receive(encode(Hello(0, 1)))
    server.send(Welcome(0, 1, "test", True))
    return server


def open_client() -> ClientConnection:
    client = ClientConnection()
    client.send(Hello(0, 1))
    client.receive(encode(Welcome(0, 1, "test", True)))
    return client


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)
def test_every_message_comes_back_as_it_was_sent(message: type[Message]) -> None:
    @settings(bounded, max_examples=40)
    @given(messages_of(message))
    def comes_back(sent: Message) -> None:
        assert decode(encode(sent)[4:]) == sent

    comes_back()


def outcome(call: Callable[[], object]) -> object:
    """Give what a call returned, or the RemoteProtocolError it raised. Anything else goes through."""
    try:
        return call()
    except RemoteProtocolError as error:
        return error


@bounded
@given(st.binary(max_size=300))
def test_a_random_payload_gives_a_message_or_a_remote_error(payload: bytes) -> None:
    result = outcome(lambda: decode(payload))
    assert isinstance(result, (*MESSAGES, UnknownMessage, RemoteProtocolError))
    if isinstance(result, RemoteProtocolError):
        assert result.code in ("malformed", "bad_value")
        assert len(result.message) <= 512


@bounded
@given(messages, st.data())
def test_a_frame_with_one_byte_changed_gives_events_or_a_remote_error(
    sent: Message, data: st.DataObject
) -> None:
    frame = bytearray(encode(sent))
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] = data.draw(st.integers(0, 255))
    sides = (open_server(), open_client(), ServerConnection(), ClientConnection())
    for result in [outcome(lambda side=side: side.receive(frame)) for side in sides]:  # type: ignore[misc]
        if isinstance(result, RemoteProtocolError):
            assert result.code in ("malformed", "frame_too_long")
        else:
            assert isinstance(result, list)
            assert all(isinstance(e, (*MESSAGES, UnknownMessage, Malformed)) for e in result)


@bounded
@given(st.lists(st.binary(max_size=100), max_size=10))
def test_random_bytes_give_events_or_a_remote_error(chunks: list[bytes]) -> None:
    for connection in (open_server(), open_client()):
        for chunk in chunks:
            try:
                connection.receive(chunk)
            except RemoteProtocolError:
                break
            except LocalProtocolError:
                assert connection.state == "closed"
                break


@bounded
@given(st.sampled_from(MESSAGES), st.dictionaries(words, trees, max_size=3), st.data())
def test_a_map_with_the_right_keys_and_any_values_gives_a_message_or_a_remote_error(
    message: type[Message], more: dict[str, object], data: st.DataObject
) -> None:
    body: dict[str, object] = {**more, "type": message.type}
    for declared in message.fields:
        body[declared.key] = data.draw(values_of(declared.kind) | trees)
    [event] = open_server().receive(encode_frame(msgpack.packb(body)))
    assert isinstance(event, (*MESSAGES, UnknownMessage, Malformed))
    if isinstance(event, Malformed):
        # Whatever the peer sent, the answer can be sent back.
        assert encode(event.reply())


@bounded
@given(
    st.lists(messages.filter(lambda m: m.type not in ("bye", "welcome", "hello")), max_size=6),
    st.data(),
)
def test_a_stream_may_be_cut_anywhere(sent: list[Message], data: st.DataObject) -> None:
    stream = b"".join(encode(message) for message in sent)
    whole = open_client().receive(stream)
    client = open_client()
    events = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        events += client.receive(stream[:size])
        stream = stream[size:]
    assert events == whole
    assert len(events) == len(sent)


@bounded
@given(trees)
def test_what_can_be_packed_within_the_limits_has_no_fault(tree: object) -> None:
    assert find_fault([tree]) is None
    assert msgpack.unpackb(msgpack.packb(tree)) == tree
