"""Every value of the heart comes back as it was, and nothing else is ever made of bytes."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmkd.model import AppClass, Level, Reading
from lmkd.policy import events
from lmkd.policy.actions import Action, Record
from lmkd.policy.events import Event
from lmkd.policy.patterns import TextTest
from lmkd.policy.settings import Settings
from lmkd.policy.state import NEVER_US, DomainState, State, Told
from lmkd.replay import codec
from lmkd.replay.codec import from_tree, to_tree
from lmkd.replay.errors import RecordingError
from lmkd.replay.packing import pack, unpack_one

from .scenes import BROWSER_FIRST, SETTINGS, Machine, rule, settings_with
from .values import classes_in, values

FILE = "some.lmkdrec"
ROOTS = [State, DomainState, *get_args(Event), *get_args(Action)]
READING = Reading("system", 1, 2, 3)


def encoded(value: Any) -> bytes:
    return pack(to_tree(type(value), value))


def decoded(cls: Any, packed: bytes) -> Any:
    return from_tree(cls, unpack_one(packed, FILE, "value"), FILE, cls.__name__)


def refusal(cls: Any, packed: bytes) -> str:
    with pytest.raises(RecordingError) as raised:
        decoded(cls, packed)
    return str(raised.value)


def changed(value: Any, **fields: Any) -> tuple[type, bytes]:
    """Return a value's class and its bytes, with some of its fields changed; ... takes one away."""
    tree = {**to_tree(type(value), value), **fields}
    return type(value), pack({key: item for key, item in tree.items() if item is not ...})


@pytest.mark.parametrize("cls", ROOTS, ids=[cls.__name__ for cls in ROOTS])
def test_every_state_event_and_action_comes_back_as_it_was(cls: type) -> None:
    @settings(
        derandomize=True,
        deadline=None,
        max_examples=15,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(values(cls))
    def comes_back(value: Any) -> None:
        packed = encoded(value)
        again = decoded(cls, packed)
        assert again == value
        assert type(again) is cls
        assert encoded(again) == packed

    comes_back()


def test_every_class_that_a_state_may_hold_has_a_form() -> None:
    """A new type in lmkd.policy that has none fails here, not in a recording."""
    found = classes_in(State, Event, Action)
    assert {State, Reading, Told, Level, AppClass, TextTest, Record} <= found
    for cls in found:
        codec.form_of(cls)


def test_equal_sets_give_equal_bytes() -> None:
    one = DomainState("system", spared=frozenset({(1, 2), (3, 4), (5, 6)}))
    other = DomainState("system", spared=frozenset({(5, 6), (3, 4), (1, 2)}))
    assert encoded(one) == encoded(other)


def test_the_order_of_a_mapping_is_kept() -> None:
    """Apps are asked in the order of their registration."""
    state = State(SETTINGS, 1, trust={7: 1, 3: 0, 5: 2})
    assert list(decoded(State, encoded(state)).trust) == [7, 3, 5]


def test_caches_are_left_out_and_made_anew() -> None:
    settled = settings_with(rule("browser", AppClass.CACHED))
    fresh = encoded(settled)
    settled.of("/a")
    assert encoded(settled) == fresh
    again = decoded(Settings, fresh)
    assert again == settled
    browser = Machine(settled).start(1, "browser", 1).process
    assert again.rules.find(browser) == settled.rules.rules[0]


def test_numbers_of_64_bits_and_the_empty_past_come_back() -> None:
    told = Told(0, Level.NORMAL, NEVER_US, 0, (NEVER_US,) * 4)
    assert decoded(Told, encoded(told)) == told


def test_a_field_that_an_older_version_did_not_write_takes_its_default() -> None:
    assert decoded(*changed(READING, limited_by=..., events_oom=...)) == READING


@pytest.mark.parametrize(
    ("forged", "said"),
    [
        (changed(READING, newer=1), "Reading: this version's Reading has no field 'newer'"),
        (changed(READING, total_kib=...), "Reading: Reading lacks its field 'total_kib'"),
        (
            changed(READING, total_kib="1"),
            "Reading.total_kib: expected an integer, found '1'",
        ),
        (changed(READING, total_kib=True), "Reading.total_kib: expected an integer, found True"),
        (changed(READING, total_kib=1.5), "Reading.total_kib: expected an integer, found 1.5"),
        (changed(READING, domain=b"x"), "Reading.domain: expected text, found 1 bytes"),
        (
            changed(events.SimulationAsked((1,), Level.LOW, 1), level="HIGH"),
            "SimulationAsked.level: expected one of NORMAL, LOW, MEDIUM, CRITICAL, found 'HIGH'",
        ),
        (
            changed(events.SimulationAsked((1,), Level.LOW, 1), apps=[1, None]),
            "SimulationAsked.apps[1]: expected an integer, found None",
        ),
        (
            changed(events.AppsMeasured("system", ()), sizes_kib=[[1]]),
            "AppsMeasured.sizes_kib[0]: expected a list of 2, found a list of 1",
        ),
        (
            changed(State(SETTINGS, 1), trust=[[1, 2], [1, 3]]),
            "State.trust: expected each key once, found one twice",
        ),
        (
            changed(State(SETTINGS, 1), trust=[[1, 2], 3]),
            "State.trust[1]: expected a key and a value, found 3",
        ),
        (
            changed(State(SETTINGS, 1), trust=[[7, "much"]]),
            "State.trust[7]: expected an integer, found 'much'",
        ),
        (changed(State(SETTINGS, 1), trust={}), "State.trust: expected a list, found a map of 0"),
        (
            changed(Record(1, "system", 1, "level"), detail={"x": 1.5}),
            "Record.detail: expected text, an integer, yes, no, nothing, or these, found 1.5",
        ),
        (
            changed(Record(1, "system", 1, "level"), detail={"x": [[[[[[[[1]]]]]]]]}),
            "Record.detail: nested too deep",
        ),
        (
            changed(Record(1, "system", 1, "level"), detail=[]),
            "Record.detail: expected a map, found a list of 0",
        ),
        (
            changed(State(SETTINGS, 1), apps=[[1, {"pid": "x" * 80}]]),
            f"State.apps[1].pid: expected an integer, found '{'x' * 59}...",
        ),
        ((Reading, pack(1)), "Reading: expected the fields of Reading, found 1"),
        ((Reading, b""), "value: expected one value, found 0"),
        ((Reading, b"\xc1"), "value[0]: not a msgpack value within the limits: FormatError"),
        ((Reading, b"\x92"), "value[0]: not a msgpack value within the limits: OutOfData"),
        ((Reading, pack([1, 2])[:-1] + b"\xd9"), "not a msgpack value within the limits"),
        ((Reading, b"\xdd\x7f\xff\xff\xff"), "not a msgpack value within the limits"),
        ((Reading, b"\xdd\x00\x00\x80\x00" * 2000), "not a msgpack value within the limits"),
        ((Reading, pack({1: 2})), "not a msgpack value within the limits"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(forged: tuple[type, bytes], said: str) -> None:
    told = refusal(*forged)
    assert told.startswith(f"{FILE}: ")
    assert said in told


def test_a_rule_of_an_unknown_kind_of_test_is_refused() -> None:
    tree = to_tree(Settings, BROWSER_FIRST)
    tree["rules"]["rules"][0]["conditions"][0]["test"] = ["Callable", {}]
    told = refusal(Settings, pack(tree))
    assert "Settings.rules.rules[0].conditions[0].test: expected one of TextTest," in told


def test_what_a_class_refuses_itself_is_told() -> None:
    @dataclasses.dataclass(frozen=True)
    class Positive:
        number: int

        def __post_init__(self) -> None:
            if self.number < 0:
                raise ValueError("below zero")

    codec.form_of(Positive)
    assert from_tree(Positive, {"number": 1}, FILE, "it") == Positive(1)
    with pytest.raises(RecordingError, match="it: these fields make no Positive: below zero"):
        from_tree(Positive, {"number": -1}, FILE, "it")


def test_settings_nested_without_end_are_refused() -> None:
    """A recording may be made to hold a policy in a policy in a policy."""
    outer = to_tree(Settings, SETTINGS)
    tree = outer
    for _ in range(3000):
        tree = {**outer, "domains": [{"pattern": "/a", "settings": tree}]}
    with pytest.raises(RecordingError, match="nested too deep"):
        from_tree(Settings, tree, FILE, "settings")


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.binary(max_size=60), st.integers(0, 400))
def test_garbage_is_a_recording_error_or_a_value(garbage: bytes, place: int) -> None:
    whole = encoded(State(BROWSER_FIRST, 1, domains={"system": DomainState("system")}))
    place = min(place, len(whole))
    for packed in (garbage, whole[:place] + garbage + whole[place + len(garbage) :]):
        with suppress(RecordingError):
            decoded(State, packed)


def test_a_hint_without_a_form_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError, match="no form for"):
        codec.form_of(list[float])
    with pytest.raises(TypeError, match="cannot be told apart"):
        codec.form_of(int | str)


def test_bytes_are_msgpack_that_others_can_read() -> None:
    assert msgpack.unpackb(encoded(READING))["available_kib"] == 3
