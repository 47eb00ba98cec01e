"""What may stand on the wire, and how it is shown when it may not."""

from __future__ import annotations

import pytest
from lmkd_proto import MAX_DEPTH, MAX_ITEMS, LocalProtocolError, Ok
from lmkd_proto.values import RepeatedKeys, find_fault, show


def nested(depth: int) -> list[object]:
    tree: list[object] = []
    for _ in range(depth - 1):
        tree = [tree]
    return tree


@pytest.mark.parametrize(
    "tree",
    [
        {},
        [],
        {"a": [None, True, False, 0, -(2**63), 2**64 - 1, "ä", b"\xff", {}, []]},
        nested(MAX_DEPTH),
        [0] * MAX_ITEMS,
    ],
)
def test_every_type_of_the_wire_may_stand_in_a_tree(tree: object) -> None:
    assert find_fault(tree) is None


@pytest.mark.parametrize(
    ("tree", "fault"),
    [
        ({"a": 1.0}, "'a': float is no type of this protocol"),
        ([1, 1.5], "1: float is no type"),
        ({"a": (1, 2)}, "'a': tuple is no type"),
        ({"a": object()}, "'a': object is no type"),
        ({"a": {"b": 2**64}}, "'b': an integer must be in -2^63 to 2^64-1"),
        ([-(2**63) - 1], "0: an integer must be in"),
        ({"a": "\ud800"}, "'a': the text is not valid UTF-8"),
        ({"\udfff": 1}, "a map key is not valid UTF-8"),
        ({1: 1}, "a map key must be text, not int"),
        ({b"a": 1}, "a map key must be text, not bytes"),
        ([RepeatedKeys()], "a map repeats a key"),
        (nested(MAX_DEPTH + 1), "nested more than 32 deep"),
        (nested(100_000), "nested more than 32 deep"),
        ([0] * (MAX_ITEMS + 1), "more than 1024 entries"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_is_found_and_said_in_words(tree: object, fault: str) -> None:
    found = find_fault(tree)
    assert found is not None
    assert fault in found


def test_a_list_that_holds_itself_is_refused_in_bounded_time() -> None:
    tree: list[object] = []
    tree.extend([tree] * MAX_ITEMS)
    found = find_fault(tree)
    assert found is not None


def test_a_result_counts_its_depth_from_the_message() -> None:
    deep = nested(MAX_DEPTH - 2)
    assert Ok(1, {"a": deep}).result == {"a": deep}
    with pytest.raises(LocalProtocolError, match="nested more than 32 deep"):
        Ok(1, {"a": [deep]})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "nil"),
        (True, "True"),
        (-7, "-7"),
        (2**64, "a value of type int"),
        ("a\nb", r"'a\nb'"),
        ("x" * 32, repr("x" * 32)),
        ("x" * 33, repr("x" * 32 + "…")),
        ([1], "a value of type list"),
        (b"x", "a value of type bytes"),
    ],
)
def test_a_value_is_shown_short_and_on_one_line(value: object, shown: str) -> None:
    assert show(value) == shown
