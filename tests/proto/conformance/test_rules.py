"""The tables of rules, held against SPEC.md; and what is said of each rule."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lmkd_proto.conformance.findings import BROKEN, HOLDS, NOT_SEEN, Findings
from lmkd_proto.conformance.rules import CLIENT_RULES, SERVER_RULES, Rule

SPEC = (Path(__file__).parents[3] / "proto" / "SPEC.md").read_text()
RULE = re.compile(r"^- \[([A-Z]-\d+)\] (.*(?:\n  .*)*)", re.MULTILINE)
BODIES = dict(RULE.findall(SPEC))
TABLES = pytest.mark.parametrize("table", [SERVER_RULES, CLIENT_RULES], ids=["server", "client"])


def test_every_must_and_should_of_the_spec_is_in_a_table() -> None:
    listed = {rule.number for rule in (*SERVER_RULES, *CLIENT_RULES)}
    asked = {number for number, body in BODIES.items() if re.search(r"\b(MUST|SHOULD)\b", body)}
    assert asked - listed == set()


@TABLES
def test_what_is_in_a_table_is_in_the_spec_once(table: tuple[Rule, ...]) -> None:
    numbers = [rule.number for rule in table]
    assert len(numbers) == len(set(numbers))
    assert set(numbers) <= BODIES.keys()


@TABLES
def test_a_rule_without_a_must_is_not_said_to_be_one(table: tuple[Rule, ...]) -> None:
    """The other way round one rule may hold both: a MUST for the server and a SHOULD for the client."""
    for rule in table:
        if not rule.must:
            assert "SHOULD" in BODIES[rule.number], rule


RULES = (Rule("A-1", "one"), Rule("A-2", "two"), Rule("A-3", "three", "does not show"))


def test_a_rule_holds_when_it_was_seen_and_never_broken() -> None:
    findings = Findings(RULES)
    findings.expect("A-1 A-2", True, "")
    findings.expect("A-2", False, "broke")
    findings.expect("A-2", True, "")
    findings.expect("A-2", False, "broke")
    assert [(one.result, one.details) for one in findings.outcomes()] == [
        (HOLDS, ()),
        (BROKEN, ("broke",)),
        (NOT_SEEN, ("does not show",)),
    ]


def test_what_was_not_looked_at_has_a_reason() -> None:
    findings = Findings(RULES)
    findings.miss("A-1 A-3", "nobody there")
    assert [one.details[0] for one in findings.outcomes()] == [
        "nobody there",
        "nothing showed it",
        "does not show",
    ]
