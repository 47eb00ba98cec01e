"""What an answer is worth: trust, one extension, late and false words."""

from __future__ import annotations

import pytest

from lmkd.model import SYSTEM_DOMAIN, Answer, AppClass
from lmkd.policy import events
from lmkd.policy.actions import Record
from lmkd.policy.listen import (
    TRUST_MOST,
    bounded_trust,
    is_broken_word,
    open_promises,
    present_trust,
)
from lmkd.policy.state import UNTOLD

from .scenes import BOX, MIB, MS, SECOND, Scene, app, only

DONE, WORKING, NOTHING = Answer.DONE, Answer.WORKING, Answer.NOTHING


def asked_for_40() -> Scene:
    """Return a scene in which app 1, of 100 MiB, was asked for 40 MiB at 0, by 3 s."""
    scene = Scene(app(1, sheddable_mib=80))
    scene.read(0, 110)
    scene.measure(1, 1, 100)
    assert scene.domain().told[1].target_kib == 40 * MIB
    return scene


@pytest.mark.parametrize(
    ("freed_mib", "size_mib", "trust"),
    [
        (40, 60, 1),  # all of it, and it shows
        (20, 90, 1),  # half of what was asked, and half of the claim shows
        (19, 80, 0),  # less than half: no lie, no merit
        (40, 80, 1),
        (40, 81, -1),  # less than half of the claim shows
        (40, 100, -1),
        (40, 130, -1),  # it grew instead
        (1000, 60, -1),
        (0, 60, 0),  # it claims nothing
        (40, None, 0),  # could not be measured: nothing to judge
    ],
)
def test_a_claim_is_held_against_what_was_measured(
    freed_mib: int, size_mib: int | None, trust: int
) -> None:
    scene = asked_for_40()
    (record,) = only(Record, scene.ack(100, 1, DONE, freed_mib=freed_mib, size_mib=size_mib))
    assert scene.state.trust.get(1, 0) == trust
    assert record.kind == "ack"
    assert record.detail == {
        "app": 1,
        "name": "app1",
        "answer": "done",
        "asked_kib": 40 * MIB,
        "claimed_kib": freed_mib * MIB,
        "measured_kib": None if size_mib is None else (100 - size_mib) * MIB,
        "trust": trust,
    }


def test_without_a_size_to_begin_with_there_is_nothing_to_judge() -> None:
    scene = Scene(app(1, sheddable_mib=80))
    scene.read(0, 110)
    scene.ack(100, 1, DONE, freed_mib=40, size_mib=100)
    assert scene.state.trust == {}


def test_who_was_asked_for_nothing_earns_nothing() -> None:
    scene = Scene(app(1))
    scene.read(0, 110)
    scene.measure(1, 1, 100)
    scene.ack(100, 1, DONE, freed_mib=40, size_mib=60)
    assert scene.state.trust == {}


def test_one_notice_counts_once() -> None:
    scene = asked_for_40()
    for _ in range(5):
        scene.ack(100, 1, DONE, freed_mib=40, size_mib=60)
    assert scene.state.trust == {1: 1}


def test_to_say_nothing_honestly_costs_nothing() -> None:
    scene = asked_for_40()
    scene.ack(100, 1, NOTHING)
    assert not is_broken_word(scene.domain().told[1], 9 * SECOND)
    assert scene.state.trust == {}


def test_working_extends_the_deadline_by_the_grace_once() -> None:
    scene = asked_for_40()
    scene.ack(2000, 1, WORKING)
    assert scene.domain().told[1].deadline_us == 6 * SECOND
    scene.ack(5000, 1, WORKING)
    assert scene.domain().told[1].deadline_us == 6 * SECOND
    scene.ack(5500, 1, DONE, freed_mib=40, size_mib=60)
    assert scene.domain().told[1].deadline_us == 6 * SECOND
    assert scene.state.trust == {1: 1}


@pytest.mark.parametrize(("at_ms", "deadline_ms"), [(2999, 6000), (3000, 3000), (9000, 3000)])
def test_working_past_the_deadline_extends_nothing(at_ms: int, deadline_ms: int) -> None:
    scene = asked_for_40()
    scene.ack(at_ms, 1, WORKING)
    assert scene.domain().told[1].deadline_us == deadline_ms * MS


def test_an_answer_to_an_earlier_notice_is_of_no_consequence() -> None:
    scene = asked_for_40()
    earlier = scene.domain().told[1].notice
    scene.read(200, 70)
    before = scene.state
    assert scene.ack(300, 1, DONE, freed_mib=40, size_mib=60, notice=earlier) == ()
    assert scene.state == before


def test_an_answer_from_nobody_is_of_no_consequence() -> None:
    scene = asked_for_40()
    before = scene.state
    assert scene.take(events.AckReceived(7, 1, DONE, 0, None), 100) == ()
    assert scene.state == before


def test_an_answer_is_found_in_the_domain_of_its_notice() -> None:
    scene = Scene(app(1, cgroup=BOX, sheddable_mib=80), domains=(SYSTEM_DOMAIN, BOX))
    scene.read(0, 110, BOX)
    scene.read(0, 110)
    scene.ack(100, 1, NOTHING)
    assert scene.domain().told[1].answer is NOTHING
    assert scene.domain(BOX).told[1].answer is None


@pytest.mark.parametrize(
    ("answer", "at_ms", "broken"),
    [
        (None, 2999, False),
        (None, 3000, True),
        (WORKING, 5999, False),
        (WORKING, 6000, True),
        (DONE, 9000, False),
        (NOTHING, 9000, False),
    ],
)
def test_a_deadline_passed_in_silence_is_a_broken_word(
    answer: Answer | None, at_ms: int, broken: bool
) -> None:
    scene = asked_for_40()
    if answer is not None:
        scene.ack(100, 1, answer)
    assert is_broken_word(scene.domain().told[1], at_ms * MS) is broken
    assert present_trust(scene.turn(at_ms), scene.domain(), app(1)) == (-1 if broken else 0)


def test_a_broken_word_is_kept_in_mind_when_the_next_notice_goes_out() -> None:
    scene = asked_for_40()
    scene.read(3000, 70)
    assert scene.state.trust == {1: -1}
    assert not is_broken_word(scene.domain().told[1], 3100 * MS)


def test_silence_where_nothing_was_asked_breaks_no_word() -> None:
    assert not is_broken_word(UNTOLD, 0)
    scene = Scene(app(1))
    scene.read(0, 110)
    scene.read(9000, 70)
    assert scene.state.trust == {}


def test_trust_stays_within_its_bounds_whichever_way_it_moves() -> None:
    scene = asked_for_40()
    for round_ms in range(10_000, 200_000, 10_000):  # each episode is one more broken word
        scene.read(round_ms - 9000, 500)
        scene.read(round_ms - 5500, 500)
        scene.read(round_ms - 1000, 500)
        scene.read(round_ms, 110)
    assert scene.state.trust == {1: -TRUST_MOST}
    scene.measure(190_001, 1, 100)
    scene.ack(190_100, 1, DONE, freed_mib=40, size_mib=60)
    assert scene.state.trust == {1: 1 - TRUST_MOST}
    assert [bounded_trust(trust) for trust in (-9, -3, 0, 3, 9)] == [-3, -3, 0, 3, 3]


def test_the_class_keeps_its_place_whatever_the_trust() -> None:
    scene = asked_for_40()
    scene.take(events.AppUpdated(1, app_class=AppClass.FOREGROUND), 50)
    scene.ack(100, 1, DONE, freed_mib=40, size_mib=100)
    assert scene.state.apps[1].app_class is AppClass.FOREGROUND


def test_a_promise_is_open_until_it_is_answered_or_its_deadline_has_passed() -> None:
    scene = Scene(app(1, sheddable_mib=30), app(2, sheddable_mib=30), app(3))
    scene.read(0, 110)
    now_us = 100 * MS
    assert [told.target_kib // MIB for told in open_promises(scene.domain(), now_us)] == [20, 20]
    scene.ack(100, 1, WORKING)
    assert len(open_promises(scene.domain(), now_us)) == 2
    scene.ack(100, 2, DONE)
    assert len(open_promises(scene.domain(), 5999 * MS)) == 1
    assert open_promises(scene.domain(), 6000 * MS) == []


def test_measures_of_apps_and_domains_that_are_gone_are_let_go() -> None:
    scene = asked_for_40()
    scene.measure(10, 7, 100)
    before = scene.state
    assert scene.take(events.AppsMeasured("/gone", ((1, 5),)), 20) == ()
    assert scene.state == before
    assert set(scene.domain().told) == {1}
