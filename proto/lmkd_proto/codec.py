"""Messages to bytes, and bytes to messages.

Knows msgpack and the tables of the messages; it does not know who is talking, or in what
order. Whatever the bytes are, `decode` gives a message, an UnknownMessage, or a RemoteProtocolError
that says what was expected.

Decoding is strict in what could hide a mistake (a repeated key, a float, a key that is not text)
and open to what a later version may add (unknown keys, unknown types).
"""

from __future__ import annotations

import msgpack

from lmkd_proto.errors import LocalProtocolError, RemoteProtocolError
from lmkd_proto.fields import ID, REQUIRED
from lmkd_proto.framing import encode_frame
from lmkd_proto.messages import MESSAGES, Message, UnknownMessage
from lmkd_proto.values import MAX_ID, MAX_ITEMS, RepeatedKeys, find_fault, show

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

_BY_TYPE: dict[str, type[Message]] = {message.type: message for message in MESSAGES}
MESSAGE_TYPES = frozenset(_BY_TYPE)
_MAX_TYPE_CHARS = 64


def encode(message: Message) -> bytes:
    """Encode a message as a whole frame, in canonical form: what equals its default is left out."""
    body: dict[str, object] = {"type": message.type}
    for declared in message.fields:
        value = getattr(message, declared.attribute)
        if value != declared.default:
            body[declared.key] = value
    try:
        payload: bytes = msgpack.packb(body)
    except (TypeError, ValueError, OverflowError) as error:
        raise LocalProtocolError(f"{message.type}: changed after it was built: {error}") from error
    return encode_frame(payload)


def decode(
    payload: bytes, *, max_items: int = MAX_ITEMS, types: Collection[str] = MESSAGE_TYPES
) -> Message | UnknownMessage:
    """Decode the payload of one frame.

    Arrays and maps may hold `max_items` entries; all but `types` are unknown, whatever their keys.
    RemoteProtocolError is `malformed` when the payload breaks the rules for every message, and
    `bad_value` when it breaks those of its own type.
    """
    try:
        body: object = msgpack.unpackb(
            payload,
            strict_map_key=False,  # refused below, where the id can be told
            object_pairs_hook=_collect_pairs,
            # The unpacker makes room for as many entries as a header claims before it reads the
            # first of them.
            max_array_len=max_items,
            max_map_len=max_items,
        )
    except Exception as error:  # FACTS: seven kinds of exception, two of them not msgpack's own
        raise RemoteProtocolError(
            "malformed", f"not one msgpack value within the limits: {type(error).__name__}"
        ) from error

    if not isinstance(body, dict):
        raise RemoteProtocolError("malformed", f"expected a map; got {show(body)}")
    request_id = _read_id(body.get("id"))
    fault = find_fault(body)
    if fault is not None:
        raise RemoteProtocolError("malformed", fault, request_id)
    name = body.get("type")
    if not isinstance(name, str) or not 1 <= len(name) <= _MAX_TYPE_CHARS:
        raise RemoteProtocolError(
            "malformed",
            f"key 'type': expected text, 1 to {_MAX_TYPE_CHARS} characters; got {show(name)}",
            request_id,
        )
    message = _BY_TYPE.get(name)
    if message is None or name not in types:
        return UnknownMessage(name, request_id)
    return _build(message, body, request_id)


def _build(message: type[Message], body: dict[str, object], request_id: int | None) -> Message:
    # Without an id there is nothing to reply to, so this is no fault of a value but of the request
    # itself.
    if message.fields[0] is ID and request_id is None:
        raise RemoteProtocolError(
            "malformed",
            f"{message.type}: key 'id': expected {ID.kind.expected}; got {show(body.get('id'))}",
        )
    values: dict[str, Any] = {}
    for declared in message.fields:
        value = body.get(declared.key)
        if value is not None:
            values[declared.attribute] = value
        elif declared.default is REQUIRED:
            raise RemoteProtocolError(
                "bad_value",
                f"{message.type}: key '{declared.key}': expected {declared.kind.expected}; got nothing",
                request_id,
            )
        elif declared.default is None:
            values[declared.attribute] = None
    try:
        return message(**values)
    except LocalProtocolError as error:
        raise RemoteProtocolError("bad_value", str(error), request_id) from error


def _collect_pairs(pairs: list[tuple[object, object]]) -> dict[object, object]:
    collected = dict(pairs)
    if len(collected) == len(pairs):
        return collected
    once = RepeatedKeys()
    seen: set[object] = set()
    for key, value in pairs:
        if key in seen:
            once.pop(key, None)
        else:
            seen.add(key)
            once[key] = value
    return once


def _read_id(value: object) -> int | None:
    if type(value) is int and 0 <= value <= MAX_ID:
        return value
    return None
