"""A client that keeps the rules is found to; and one that breaks a rule is found to break that one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from lmkd_proto.conformance.client import CHECKS, look_at_client
from lmkd_proto.conformance.findings import BROKEN, HOLDS, NOT_SEEN, Outcome
from lmkd_proto.conformance.rules import CLIENT_RULES

PATIENCE_S = 1.0
GUEST = Path(__file__).with_name("guest.py")

WRONGS = (
    # what it does wrong, which look finds it, what is found broken
    ("elsewhere", "greeting", "S-2 H-1"),
    ("crashes", "greeting", "S-2 H-1"),
    ("mute", "greeting", "H-1"),
    ("register_first", "greeting", "H-1"),
    ("floats", "greeting", "T-3"),
    ("no_id", "greeting", "R-1"),
    ("too_long", "greeting", "F-2 H-1"),
    ("never_acks", "answers", "L-3 L-9 L-14"),
    ("late", "answers", "L-6"),
    ("works", "answers", "L-10"),
    ("no_plays", "answers", "L-14"),
    ("whole_reads", "pieces", "F-6"),
    ("short_forms_only", "forms", "T-4 T-9"),
    ("no_nil", "forms", "T-8"),
    ("known_keys_only", "forms", "T-10"),
    ("small_frames", "largest", "F-2 T-10"),
    ("no_nonsense", "malformed", "T-11"),
    ("stays", "forbidden_length", "F-3 F-4"),
    ("no_news", "unknown_push", "R-8"),
    ("odd_code", "unknown_code", "R-9"),
    ("needs_result", "old_server", "Q-3"),
    ("gives_up", "restart", "S-4"),
    ("gives_up", "bye", "L-17"),
    ("spins", "pauses", "S-4"),
    ("leaves", "bye", "L-17"),
    ("comes_and_goes", "bye", "L-17"),
)


def look(wrong: str, name: str = "") -> list[Outcome]:
    checks = [check for check in CHECKS if name in ("", check.look.__name__.strip("_"))]
    assert checks, f"there is no such look: {name}"
    return look_at_client([sys.executable, str(GUEST), wrong], PATIENCE_S, checks)


def numbers_of(outcomes: list[Outcome], result: str) -> set[str]:
    return {one.rule.number for one in outcomes if one.result == result}


def test_a_client_that_keeps_the_rules_breaks_none() -> None:
    outcomes = look("")
    assert numbers_of(outcomes, BROKEN) == set()
    unseen = {rule.number for rule in CLIENT_RULES if rule.unseen}
    assert numbers_of(outcomes, HOLDS) == {rule.number for rule in CLIENT_RULES} - unseen


@pytest.mark.parametrize(("wrong", "name", "numbers"), WRONGS)
def test_what_a_client_does_wrong_is_found(wrong: str, name: str, numbers: str) -> None:
    assert numbers_of(look(wrong, name), BROKEN) == set(numbers.split())


def test_every_rule_that_shows_is_broken_by_somebody() -> None:
    """But for what makes a frame malformed: that is judged frame by frame, and tested there."""
    found = {number for _, _, numbers in WRONGS for number in numbers.split()}
    shows = {rule.number for rule in CLIENT_RULES if not rule.unseen}
    assert shows - found == {"T-1", "T-2", "T-5", "T-6", "T-7"}


def test_one_that_says_working_and_then_done_is_done() -> None:
    assert numbers_of(look("slow", "answers"), BROKEN) == set()


@pytest.mark.parametrize("wrong", ["", "odder_code"])
def test_whatever_is_done_of_a_refusal_is_right_as_long_as_it_is_the_same(wrong: str) -> None:
    assert "R-9" in numbers_of(look(wrong, "unknown_code"), HOLDS)


def test_what_a_program_does_not_do_is_not_seen() -> None:
    (q3,) = [one for one in look("never_subscribes", "old_server") if one.rule.number == "Q-3"]
    assert (q3.result, q3.details) == (NOT_SEEN, ("the program does not subscribe",))
    (f6,) = [one for one in look("never_registers", "pieces") if one.rule.number == "F-6"]
    assert (f6.result, f6.details) == (NOT_SEEN, ("the program does not register",))


def test_how_a_program_ended_is_told() -> None:
    (s2,) = [one for one in look("crashes", "greeting") if one.rule.number == "S-2"]
    assert s2.details == ("greeting: the program ended with status 1: it was all too much",)


def test_one_that_will_not_end_is_ended() -> None:
    assert numbers_of(look("stubborn", "greeting"), BROKEN) == set()
