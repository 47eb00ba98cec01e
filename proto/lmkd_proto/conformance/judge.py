"""Judge what a peer sends: every frame of a run, whatever it was sent for.

The codec reads generously where it may (T-10) and names no rule where it refuses. Here each breach has its number.
"""

from __future__ import annotations

from typing import Any

import msgpack

from lmkd_proto.codec import decode
from lmkd_proto.conformance.findings import Findings
from lmkd_proto.errors import RemoteProtocolError
from lmkd_proto.messages import Message, UnknownMessage
from lmkd_proto.values import ERROR_CODES, MAX_DEPTH

_STRUCTURE = "T-1 T-2 T-3 T-5 T-6 T-7"
_TYPE_CHARS_MOST = 64
_WORDS = "expected one of"
"""What the codec says of a word that is not of its closed set (lmkd_proto.values.Choice)."""


class _Pairs(list[tuple[Any, Any]]):
    """A map as it was sent, with what it repeats."""


def judge(payload: bytes, findings: Findings, most_items: int) -> Message | UnknownMessage | None:
    """Note which rules for all messages a frame keeps, and return what it says; None where it cannot be read."""
    breach = find_breach(payload, most_items)
    if breach is not None:
        number, detail = breach
        findings.expect(number, False, f"sent {detail}: {_shown(payload)}")
        return None
    findings.expect(_STRUCTURE, True, "")
    try:
        message = decode(payload, max_items=most_items)
    except RemoteProtocolError as error:
        number = "V-4" if _WORDS in error.message else "T-8"
        if error.code == "malformed":
            number = "R-1"  # all else that is malformed was found above
        findings.expect(number, False, f"sent what may not be: {error.message}: {_shown(payload)}")
        return None
    findings.expect("T-8 V-4", True, "")
    if message.type == "error":
        code = getattr(message, "code", "")
        findings.expect("R-10", code in ERROR_CODES, f"sent the error code {code!r}")
    return message


def find_breach(payload: bytes, most_items: int) -> tuple[str, str] | None:
    """Return which of the rules for all frames one breaks, and how; None: none of them."""
    try:
        body = msgpack.unpackb(payload, strict_map_key=False, object_pairs_hook=_Pairs)
    except UnicodeDecodeError:
        return "T-3", "text that is not UTF-8"
    except msgpack.StackError:
        return "T-5", f"values nested more than {MAX_DEPTH} deep"
    except ValueError as error:  # what msgpack raises are all of this kind
        return "T-1", f"what is not one msgpack value ({type(error).__name__})"
    if type(body) is not _Pairs:
        return "T-1", f"{type(body).__name__} instead of a map"
    breach = _find_below(body, most_items)
    if breach is not None:
        return breach
    kind = dict(body).get("type")
    if not isinstance(kind, str) or not 1 <= len(kind) <= _TYPE_CHARS_MOST:
        return "T-7", f"the type {kind!r}"
    return None


def _find_below(root: _Pairs, most_items: int) -> tuple[str, str] | None:
    pending: list[tuple[Any, int]] = [(root, 1)]
    while pending:
        node, depth = pending.pop()
        if depth > MAX_DEPTH:
            return "T-5", f"values nested more than {MAX_DEPTH} deep"
        if len(node) > most_items:
            return "T-6", f"{len(node)} entries, where {most_items} are allowed"
        below = node
        if type(node) is _Pairs:
            keys = [key for key, _ in node]
            if not all(isinstance(key, str) for key in keys):
                return "T-2", "a key that is not text"
            if len(set(keys)) < len(keys):
                return "T-2", "a key twice"
            below = [value for _, value in node]
        for value in below:
            if isinstance(value, list):
                pending.append((value, depth + 1))
            elif not isinstance(value, int | str | bytes | bool | None):
                return "T-3", f"a {type(value).__name__}"
    return None


def _shown(payload: bytes) -> str:
    return payload[:40].hex() + ("…" if len(payload) > 40 else "")
