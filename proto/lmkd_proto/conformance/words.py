"""Frames written by hand: whole ones, and those that a correct peer could not say."""

from __future__ import annotations

from typing import Any

import msgpack

from lmkd_proto.values import MAX_DEPTH, MAX_FRAME_BYTES

FORBIDDEN_LENGTHS = (0, MAX_FRAME_BYTES + 1, 2**32 - 1)


def pack(body: object) -> bytes:
    """Encode anything that msgpack can say."""
    packed: bytes = msgpack.packb(body)
    return packed


def frame(payload: bytes) -> bytes:
    """Put the length before a payload."""
    return len(payload).to_bytes(4, "big") + payload


def fill(body: dict[str, Any]) -> bytes:
    """Return a payload of exactly the largest size, by a key that nobody knows."""
    room = (
        MAX_FRAME_BYTES - len(pack({**body, "padding": b""})) - 1
    )  # so many take a byte more to say
    return pack({**body, "padding": bytes(room)})


def spread(body: dict[str, object]) -> bytes:
    """Encode in the longest forms there are, the keys in reverse order: the same message (T-4, T-9)."""
    parts = [b"\xdf" + len(body).to_bytes(4, "big")]
    for key, value in reversed(body.items()):
        parts += [_spread_text(key), _spread_value(value)]
    return b"".join(parts)


def _spread_value(value: object) -> bytes:
    if isinstance(value, str):
        return _spread_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return b"\xcf" + value.to_bytes(8, "big")
    return pack(value)


def _spread_text(text: str) -> bytes:
    content = text.encode()
    return b"\xdb" + len(content).to_bytes(4, "big") + content


def malformed(body: dict[str, object], most_items: int) -> list[tuple[str, str, bytes, bool]]:
    """Return frames that each break one rule for all messages, made from a message that is right.

    Each is the rule, the breach in words, the payload, and whether an id could still be read from it.
    """
    right = pack(body)
    deep: object = None
    for _ in range(MAX_DEPTH):
        deep = [deep]
    head = bytes([0x80 + len(body) + 1])  # the head of a map with one entry more

    def with_entry(entry: bytes) -> bytes:
        return head + right[1:] + entry

    return [
        ("T-1", "a list", pack([1, 2]), False),
        ("T-1", "something behind the map", right + b"\xc0", False),
        ("T-1", "a map that ends early", right[:-1], False),
        ("T-2", "a key that is no text", with_entry(pack(1) + pack(2)), True),
        (
            "T-2",
            "a key twice",
            bytes([head[0] + 1]) + right[1:] + pack("x") * 2 + pack("x") * 2,
            True,
        ),
        ("T-3", "a float", pack({**body, "x": 1.5}), True),
        ("T-3", "an extension type", pack({**body, "x": msgpack.ExtType(5, b"x")}), True),
        ("T-3", "text that is not UTF-8", with_entry(pack("x") + b"\xa2\xff\xfe"), False),
        ("T-5", f"values {MAX_DEPTH + 1} deep", pack({**body, "x": deep}), True),
        (
            "T-6",
            f"an array of {most_items + 1}",
            pack({**body, "x": [0] * (most_items + 1)}),
            False,
        ),
        (
            "T-6",
            f"a map of {most_items + 1}",
            pack({**body, "x": {str(number): 0 for number in range(most_items + 1)}}),
            False,
        ),
        (
            "T-6",
            "an array that claims 2^32-1",
            with_entry(pack("x") + b"\xdd" + b"\xff" * 4),
            False,
        ),
        ("T-7", "no type", pack({key: body[key] for key in body if key != "type"}), True),
        ("T-7", "a type of 65 characters", pack({**body, "type": "x" * 65}), True),
        ("T-7", "a type that is nil", pack({**body, "type": None}), True),
    ]
