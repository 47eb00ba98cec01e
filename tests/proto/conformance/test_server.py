"""A server that keeps the rules is found to; and one that breaks a rule is found to break that one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lmkd_proto.conformance.command import SERVER_CHECKS, look_at_server
from lmkd_proto.conformance.findings import BROKEN, HOLDS, NOT_SEEN
from lmkd_proto.conformance.rules import SERVER_RULES

from .servant import Servant

PATIENCE_S = 1.0
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become another user")

WRONGS = (
    # what it does wrong, which look finds it, what is found broken
    ("believes", "kernels_word", "S-3"),
    ("keeps_apps", "goodbye", "S-5"),
    ("stays", "forbidden_lengths", "F-3 F-4"),
    ("odd_fault", "forbidden_lengths", "F-4"),
    ("says_no_fault", "forbidden_lengths", ""),
    ("forgets_before", "forbidden_lengths", "F-5 R-2 R-3"),
    ("whole_reads", "pieces", "F-6"),
    ("small_frames", "largest", "F-2"),
    ("long_frame", "pieces", "F-2 F-6"),
    ("shouts_nonsense", "hello_first", "T-1"),
    ("takes_malformed", "malformed", "T-2 T-3 T-5 T-7 T-11"),
    ("forgets_id", "malformed", "T-11"),
    ("takes_bad_value", "values", "T-4 T-8"),
    ("takes_bad_value", "bad_values", "R-7 T-12"),
    ("mutters", "bad_values", "T-12"),
    ("odd_codes", "bad_values", "R-7 R-10"),
    ("says_it_twice", "in_order", "R-2 R-3"),
    ("reverses", "in_order", "H-5 R-2 R-3"),
    ("slow_of_mind", "in_order", "R-2 R-3"),
    ("odd_unknown", "unknown_types", "R-6"),
    ("too_long", "long_results", "R-11"),
    ("takes_hello_first", "hello_first", "H-1 H-5"),
    ("higher", "greeting", "H-2"),
    ("early", "greeting", "H-5"),
    ("takes_hello_twice", "hello_twice", "H-6"),
    ("shows_nothing", "subscribe", "L-1 L-24"),
    ("odd_words", "subscribe", "V-4"),
    ("once_only", "subscribe", "L-24 Q-2"),
    ("always_ok", "subscribe", "L-24"),
    ("never_over", "latest", "L-2"),
    ("other_domain", "own", "L-18"),
    ("counts_down", "acks", "L-11"),
    ("any_ack", "acks", "L-11"),
    ("last_ack_only", "acks", "L-11 Q-2"),
    ("normal_ack_refused", "acks", "L-12"),
    ("short_forms_only", "values", "T-4 T-9"),
    ("known_keys_only", "values", "T-10"),
    ("kills", "rehearsal", "L-14"),
    ("hides_rehearsal", "rehearsal", "L-14"),
    ("all_controllers", "controllers_only", "P-4 P-7"),
    ("any_domain", "controllers_only", "P-7"),
    ("lacks_keys", "registration", "Q-2"),
    ("no_apps", "acks", "L-4"),
    ("no_apps", "rehearsal", "L-4"),
    ("no_apps", "registration", "L-4"),
    ("no_apps", "goodbye", "L-4"),
)


def look(path: Path, name: str = "") -> dict[str, str]:
    """Return how each rule is, by one look or by all of them."""
    checks = [check for check in SERVER_CHECKS if name in ("", check.look.__name__.strip("_"))]
    assert checks, f"there is no such look: {name}"
    outcomes = look_at_server(str(path), PATIENCE_S, checks)
    return {one.rule.number: one.result for one in outcomes}


def let_others_in(path: Path) -> None:
    for above in (path, path.parent, path.parent.parent):
        above.chmod(0o755)


def broken(results: dict[str, str]) -> set[str]:
    return {number for number, result in results.items() if result == BROKEN}


@needs_root
def test_a_server_that_keeps_the_rules_breaks_none(tmp_path: Path) -> None:
    let_others_in(tmp_path)
    with Servant(str(tmp_path / "socket")):
        results = look(tmp_path / "socket")
    assert broken(results) == set()
    unseen = {rule.number for rule in SERVER_RULES if rule.unseen}
    assert {number for number, result in results.items() if result != HOLDS} == {*unseen, "L-4"}


def test_every_rule_that_shows_is_broken_by_somebody() -> None:
    """But for the many entries: no id can be read there, and what they are answered is the same for all of T-11."""
    found = {number for _, _, numbers in WRONGS for number in numbers.split()}
    shows = {rule.number for rule in SERVER_RULES if not rule.unseen}
    assert shows - found == {"T-6"}


@needs_root
@pytest.mark.parametrize(("wrong", "name", "numbers"), WRONGS)
def test_what_a_server_does_wrong_is_found(
    wrong: str, name: str, numbers: str, tmp_path: Path
) -> None:
    let_others_in(tmp_path)
    with Servant(str(tmp_path / "socket"), wrong):
        assert broken(look(tmp_path / "socket", name)) == set(numbers.split())


@needs_root
@pytest.mark.parametrize(
    ("wrong", "name", "number"), [("no_own", "own", "L-18"), ("trusts_nobody", "goodbye", "S-5")]
)
def test_what_a_server_may_refuse_is_not_seen(
    wrong: str, name: str, number: str, tmp_path: Path
) -> None:
    with Servant(str(tmp_path / "socket"), wrong):
        assert look(tmp_path / "socket", name)[number] == NOT_SEEN


@pytest.mark.parametrize(("wrong", "result"), [("", HOLDS), ("tells_no_app", BROKEN)])
def test_a_server_that_is_short_of_memory_tells_new_apps(
    wrong: str, result: str, tmp_path: Path
) -> None:
    with Servant(str(tmp_path / "socket"), wrong, level="low"):
        assert look(tmp_path / "socket", "registration")["L-4"] == result
