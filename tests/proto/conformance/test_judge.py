"""Frames that a correct peer could not say are what they are said to be, and each breach is given its number."""

from __future__ import annotations

import msgpack
import pytest
from lmkd_proto import (
    MAX_FRAME_BYTES,
    MAX_ITEMS,
    REQUEST_MAX_ITEMS,
    Error,
    Notice,
    Pressure,
    RemoteProtocolError,
    Status,
    UnknownMessage,
    decode,
    encode,
)
from lmkd_proto.conformance.findings import Findings, Outcome
from lmkd_proto.conformance.judge import find_breach, judge
from lmkd_proto.conformance.rules import SERVER_RULES, Rule
from lmkd_proto.conformance.words import fill, malformed, pack, spread

STATUS: dict[str, object] = {"type": "status", "id": 100}
MALFORMED = malformed(STATUS, REQUEST_MAX_ITEMS)
EACH = pytest.mark.parametrize(
    ("number", "payload", "readable"),
    [(number, payload, readable) for number, _, payload, readable in MALFORMED],
    ids=[what for _, what, _, _ in MALFORMED],
)


def broken(payload: bytes, most_items: int = MAX_ITEMS) -> dict[str, str]:
    """Return what a frame of a peer breaks, by rule."""
    findings = Findings((*SERVER_RULES, Rule("R-1", "")))
    judge(payload, findings, most_items)
    return {one.rule.number: one.details[0] for one in findings.outcomes() if is_broken(one)}


def is_broken(outcome: Outcome) -> bool:
    return outcome.result == "broken"


@EACH
def test_our_codec_refuses_each_malformed_frame(
    number: str, payload: bytes, readable: bool
) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        decode(payload, max_items=REQUEST_MAX_ITEMS)
    assert refused.value.code == "malformed"
    if readable:
        assert refused.value.request_id == 100


@EACH
def test_each_breach_is_given_the_rule_that_it_breaks(
    number: str, payload: bytes, readable: bool
) -> None:
    # What claims more than it holds is not one value to begin with.
    expected = "T-1" if b"\xdd\xff\xff\xff\xff" in payload else number
    assert list(broken(payload, REQUEST_MAX_ITEMS)) == [expected]


def test_what_msgpack_itself_finds_too_deep_is_too_deep() -> None:
    assert find_breach(b"\x82\xa4type\xa1x\xa1y" + b"\x91" * 40_000 + b"\xc0", 9) is not None
    assert list(broken(b"\x82\xa4type\xa1x\xa1y" + b"\x91" * 40_000 + b"\xc0")) == ["T-5"]


def test_messages_that_are_right_break_nothing() -> None:
    for message in (
        Status(3),
        Notice(1, "system", "low", 0, 0, ""),
        Pressure("/a", "normal", "", 0),
        Error(None, "busy", ""),
    ):
        assert broken(encode(message)[4:]) == {}
    assert broken(pack({"type": "from_the_future", "x": {"y": [1, b"2", True, None]}})) == {}


def test_what_the_tables_do_not_allow_is_named() -> None:
    right = {
        "type": "pressure",
        "domain": "system",
        "level": "low",
        "reason": "",
        "available_bytes": 0,
    }
    assert list(broken(pack({**right, "level": "dire"}))) == ["V-4"]
    assert list(broken(pack({**right, "reason": None}))) == ["T-8"]
    assert list(broken(pack({"type": "status"}))) == ["R-1"]
    assert list(broken(pack({"type": "error", "id": 1, "code": "odd", "message": ""}))) == ["R-10"]


def test_the_largest_frame_is_exactly_that() -> None:
    payload = fill({"type": "status", "id": 1})
    assert len(payload) == MAX_FRAME_BYTES
    assert decode(payload) == Status(1)


def test_the_longest_forms_say_the_same() -> None:
    body: dict[str, object] = {"type": "from_the_future", "id": 7, "flag": True, "none": None}
    payload = spread(body)
    assert list(msgpack.unpackb(payload).items()) == list(reversed(body.items()))
    assert len(payload) > len(pack(body)) + 20
    assert decode(payload) == UnknownMessage("from_the_future", 7)
