"""SPEC.md says what the code does: its tables are read and held against the tables of declarations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import lmkd_proto
import msgpack
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
from lmkd_proto.connection import CLIENT_TRANSITIONS, SERVER_TRANSITIONS
from lmkd_proto.fields import REQUIRED

if TYPE_CHECKING:
    from lmkd_proto.connection import Transitions

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


def example() -> list[tuple[str, list[tuple[str, str]]]]:
    """Give the frames of the example: who speaks, and each line as hex and what is written beside it."""
    block = section("## An example, byte by byte").split("```hex\n")[1].split("```")[0]
    frames: list[tuple[str, list[tuple[str, str]]]] = []
    for line in block.splitlines():
        if line.startswith("  "):
            content, beside = re.split(r" {2,}", line.strip(), maxsplit=1)
            frames[-1][1].append((content, beside))
        else:
            frames.append((line[0], []))
    return frames


def test_the_example_is_a_conversation_that_two_peers_can_have() -> None:
    client, server = ClientConnection(), ServerConnection()
    assert len(example()) == 11
    for speaker, lines in example():
        frame = bytes.fromhex("".join(content for content, _ in lines))
        message = decode(frame[4:])
        assert not isinstance(message, UnknownMessage)
        sender, receiver = (client, server) if speaker == "C" else (server, client)
        assert sender.send(message) == frame
        assert receiver.receive(frame) == [message]
    assert client.state == server.state == "closed"


def test_what_stands_beside_the_bytes_of_the_example_is_what_they_say() -> None:
    for _, lines in example():
        (length, said), (head, beside), *entries = lines
        assert said == f"{int(length, 16)} bytes follow"
        assert beside == f"a map of {int(head, 16) - 0x80}"
        for content, beside in entries:
            key, value = content.split(" ")
            name = json.dumps(msgpack.unpackb(bytes.fromhex(key)))
            if beside.endswith(f"a map of {int(value, 16) - 0x80}"):
                assert beside.startswith(f"{name}: a map")
            else:
                assert beside == f"{name}: {json.dumps(msgpack.unpackb(bytes.fromhex(value)))}"


@pytest.mark.parametrize(
    ("side", "transitions", "after_fault"),
    [
        ("the server", SERVER_TRANSITIONS, ServerConnection._after_fault),
        ("the client", CLIENT_TRANSITIONS, ClientConnection._after_fault),
    ],
)
def test_the_drawing_of_a_side_is_its_table(
    side: str, transitions: Transitions, after_fault: str
) -> None:
    drawing = SPEC.split(f'state "{side}" as')[1].split("    }")[0]
    drawn = set(re.findall(r"(\w+) --> (\w+): (.+)", drawing))
    told = {
        (before, after, word) for (before, _, word), after in transitions.items() if after != before
    }
    faults = {
        (state, after_fault, "a forbidden length") for state in ("await_hello", "greeting", "open")
    }
    assert drawn == told | faults
