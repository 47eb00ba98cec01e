"""SPEC.md says what the code does: its tables are read and held against the tables of declarations."""

from __future__ import annotations

import json
import re
from pathlib import Path

import lmkd_proto
import pytest
from lmkd_proto import (
    ERROR_CODES,
    MESSAGES,
    REQUESTS,
    ClientConnection,
    Message,
    ServerConnection,
    UnknownMessage,
    decode,
)
from lmkd_proto.fields import REQUIRED

SPEC = (Path(__file__).parents[2] / "proto" / "SPEC.md").read_text()


def section(heading: str) -> str:
    """Give the text under a heading, up to the next heading of any level."""
    start = SPEC.index(f"\n{heading}\n") + len(heading) + 2
    end = re.compile(r"^#", re.MULTILINE).search(SPEC, start)
    return SPEC[start : end.start() if end else None]


def table(text: str) -> list[list[str]]:
    """Give the rows of the one table in a text, without its head."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def default_in_words(default: object) -> str:
    if default is REQUIRED:
        return "required"
    return "none" if default is None else f"`{json.dumps(default)}`"


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)
def test_every_message_has_its_keys_values_and_defaults_in_the_spec(message: type[Message]) -> None:
    written = [row[:3] for row in table(section(f"### `{message.type}`"))]
    assert written == [
        [f"`{declared.key}`", declared.kind.expected, default_in_words(declared.default)]
        for declared in message.fields
    ]


def test_the_spec_has_no_message_that_the_code_lacks() -> None:
    assert re.findall(r"^### `(\w+)`$", SPEC, re.MULTILINE) == [m.type for m in MESSAGES]


def test_every_request_says_what_answers_it_in_codes_that_exist() -> None:
    for message in REQUESTS:
        [replies] = re.findall(r"^Replies: (.*)$", section(f"### `{message.type}`"), re.MULTILINE)
        words = set(re.findall(r"`(\w+)`", replies))
        assert words <= {*ERROR_CODES, "ok", "welcome", "error", "pressure", "notice", "normal"}


def test_the_error_codes_are_those_of_the_code_in_its_order() -> None:
    assert [row[0] for row in table(section("## Error codes"))] == [f"`{c}`" for c in ERROR_CODES]


def test_the_limits_are_those_of_the_code() -> None:
    rows = table(section("## Limits"))
    assert len(rows) == 5
    for name, value, _ in rows:
        assert getattr(lmkd_proto, name.strip("`")) == int(value)


def test_every_rule_has_a_number_of_its_own_and_every_must_stands_in_a_rule() -> None:
    rules = re.findall(r"^- \[([A-Z]-\d+)\]", SPEC, re.MULTILINE)
    assert len(rules) == len(set(rules)) > 50
    rule = re.compile(r"^- \[[A-Z]-\d+\].*(?:\n  .*)*", re.MULTILINE)
    outside = rule.sub("", SPEC).replace("MUST, MUST NOT, SHOULD and MAY are used", "")
    assert not re.search(r"\b(MUST|SHOULD|MAY)\b", outside)


def test_a_rule_that_is_referred_to_exists() -> None:
    rules = set(re.findall(r"^- \[([A-Z]-\d+)\]", SPEC, re.MULTILINE))
    assert set(re.findall(r"\b[A-Z]-\d+\b", SPEC)) == rules


def test_the_example_is_a_conversation_that_two_peers_can_have() -> None:
    lines = re.findall(
        r"^([CS]) ([0-9a-f]{8}) ([0-9a-f]+)$", section("## An example"), re.MULTILINE
    )
    assert len(lines) == 11
    client, server = ClientConnection(), ServerConnection()
    for speaker, length, payload in lines:
        frame = bytes.fromhex(length + payload)
        message = decode(frame[4:])
        assert not isinstance(message, UnknownMessage)
        sender, receiver = (client, server) if speaker == "C" else (server, client)
        assert sender.send(message) == frame
        assert receiver.receive(frame) == [message]
    assert client.state == server.state == "closed"
