"""Who is told, of what, by when; rest, owed words and renewals."""

from __future__ import annotations

import pytest

from lmkd.model import SYSTEM_DOMAIN, Answer, AppClass, Level, Unit
from lmkd.policy import events
from lmkd.policy.actions import Broadcast, MeasureApps, Notify, Record
from lmkd.policy.tell import RECORDED_NOTICES

from .scenes import BOX, MIB, MS, SECOND, Scene, app, only, process, process_of, with_settings

CACHED, BACKGROUND, SERVICE = AppClass.CACHED, AppClass.BACKGROUND, AppClass.SERVICE


def told(out: tuple[object, ...]) -> list[tuple[int, str]]:
    return [(sent.app, sent.level.word) for sent in out if isinstance(sent, Notify)]


def test_a_rise_tells_every_app_at_once_its_share_and_its_deadline() -> None:
    scene = Scene(
        app(1, SERVICE, sheddable_mib=100), app(2, CACHED, sheddable_mib=80), app(3, CACHED)
    )
    out = scene.read(0, 40)
    notices = only(Notify, out)
    assert [(sent.app, sent.target_kib // MIB, sent.deadline_us) for sent in notices] == [
        (1, 30, 5 * SECOND),
        (2, 80, 1 * SECOND),
        (3, 0, 1 * SECOND),
    ]
    assert {sent.level for sent in notices} == {Level.CRITICAL}
    assert {sent.reason for sent in notices} == {"40.0 MiB of 1000.0 MiB available"}
    assert len({sent.notice for sent in notices}) == 3
    assert not any(sent.emergency or sent.simulated for sent in notices)


def test_the_order_is_broadcast_then_measure_then_notices() -> None:
    """An app may shed within a millisecond of its notice, and would seem to have shed nothing."""
    scene = Scene(app(1, sheddable_mib=80), app(2))
    kinds = [type(one) for one in scene.read(0, 40) if not isinstance(one, Record)]
    assert kinds[:4] == [Broadcast, MeasureApps, Notify, Notify]
    again = Scene(app(1, sheddable_mib=80), app(2))
    assert only(MeasureApps, again.read(0, 40)) == [MeasureApps(SYSTEM_DOMAIN, (1,))]


def test_who_is_asked_for_nothing_is_not_measured() -> None:
    assert only(MeasureApps, Scene(app(1)).read(0, 40)) == []


def test_the_same_level_is_not_told_twice_to_one_that_is_silent() -> None:
    scene = Scene(app(1, sheddable_mib=80))
    assert told(scene.read(0, 110)) == [(1, "low")]
    for at_ms in range(100, 20_000, 100):
        assert told(scene.read(at_ms, 110)) == []


def test_a_fall_to_normal_is_a_notice_that_asks_for_nothing() -> None:
    scene = Scene(app(1, sheddable_mib=80))
    scene.read(0, 110)
    scene.read(1000, 500)
    (notice,) = only(Notify, scene.read(4000, 500))
    assert (notice.level, notice.target_kib, notice.deadline_us) == (Level.NORMAL, 0, 4 * SECOND)
    assert notice.reason == "calm again"


def test_a_word_that_rests_is_owed_and_given_when_the_rest_is_over() -> None:
    scene = Scene(app(1))
    scene.read(0, 110)  # low
    assert told(scene.read(100, 70)) == [(1, "medium")]
    scene.read(200, 110)
    assert told(scene.read(3200, 110)) == []  # low again, told at 0
    assert scene.domain().level is Level.LOW
    assert scene.domain().tell_due_us == 5000 * MS
    assert told(scene.read(4999, 110)) == []
    assert told(scene.read(5000, 110)) == [(1, "low")]
    assert scene.domain().tell_due_us is None


def test_an_owed_word_is_dropped_when_the_level_is_again_what_was_told() -> None:
    scene = Scene(app(1))
    scene.read(0, 110)
    scene.read(100, 70)
    scene.read(200, 110)
    scene.read(3200, 110)
    assert told(scene.read(3300, 70)) == []  # medium is the last word it heard
    assert scene.domain().tell_due_us is None
    assert told(scene.read(9000, 70)) == []


def test_an_owed_fall_to_normal_is_told_after_the_episode_has_closed() -> None:
    scene = Scene(app(1))
    scene.read(0, 110)
    scene.read(500, 500)
    assert told(scene.read(3500, 500)) == [(1, "normal")]
    scene.read(3600, 70)
    scene.read(3700, 500)
    assert told(scene.read(6700, 500)) == []
    assert scene.domain().episode is None
    assert told(scene.read(8500, 500)) == [(1, "normal")]


def test_an_app_that_answered_is_asked_again_after_the_rest_while_the_need_stands() -> None:
    scene = Scene(app(1, sheddable_mib=80), app(2, sheddable_mib=80))
    scene.read(0, 110)
    scene.ack(500, 1, Answer.DONE, freed_mib=20)
    assert told(scene.read(4900, 110)) == []
    assert told(scene.read(5000, 110)) == [(1, "low")]
    assert told(scene.read(20_000, 110)) == []  # it was silent this time


def test_a_renewal_does_not_come_after_a_word_that_is_owed_sooner() -> None:
    scene = Scene(app(1, sheddable_mib=80))
    scene.read(0, 110)
    scene.take(events.AppRegistered(app(2, sheddable_mib=80)), 1000)
    scene.ack(1500, 2, Answer.DONE)
    scene.ack(1600, 1, Answer.DONE)
    assert told(scene.read(5000, 110)) == [(1, "low")]
    assert told(scene.read(5900, 110)) == []
    assert told(scene.read(6000, 110)) == [(2, "low")]


@pytest.mark.parametrize("answer", [Answer.NOTHING, Answer.WORKING])
def test_nothing_and_working_are_not_renewed(answer: Answer) -> None:
    scene = Scene(app(1, sheddable_mib=80))
    scene.read(0, 110)
    scene.ack(500, 1, answer)
    assert told(scene.read(9000, 110)) == []


def test_who_said_nothing_leaves_its_share_to_the_others_at_the_next_level() -> None:
    scene = Scene(app(1, CACHED, sheddable_mib=500), app(2, SERVICE, sheddable_mib=500))
    first = {sent.app: sent.target_kib // MIB for sent in only(Notify, scene.read(0, 110))}
    assert first == {1: 40, 2: 0}
    scene.ack(100, 1, Answer.NOTHING)
    second = {sent.app: sent.target_kib // MIB for sent in only(Notify, scene.read(200, 70))}
    assert second == {1: 0, 2: 80}


def test_who_registers_under_pressure_is_told_at_once_and_in_calm_not() -> None:
    scene = Scene()
    assert told(scene.take(events.AppRegistered(app(1)), 0)) == []
    scene.read(0, 110)
    assert told(scene.take(events.AppRegistered(app(2)), 50)) == [(2, "low")]


def test_only_the_apps_of_a_subtree_are_told_of_its_level() -> None:
    inside, below = app(1, cgroup=BOX), app(2, cgroup=f"{BOX}/job")
    outside, alike = app(3), app(4, cgroup=f"{BOX}er")
    scene = Scene(inside, below, outside, alike, domains=(SYSTEM_DOMAIN, BOX))
    out = scene.read(0, 40, BOX)
    assert [(sent.app, sent.domain) for sent in only(Notify, out)] == [(1, BOX), (2, BOX)]
    assert told(scene.take(events.AppRegistered(app(5)), 100)) == []


def test_an_app_whose_end_has_begun_is_promised_no_time() -> None:
    """Otherwise SIGKILL would come before the deadline of its last notice (invariant 4)."""
    scene = Scene(app(1, SERVICE, sheddable_mib=80), app(2, SERVICE, sheddable_mib=80))
    scene.read(0, 40)
    scene.read(5000, 40)
    scene.scan(5000, process_of(app(1)), process_of(app(2), 40))
    assert scene.domain().in_flight is not None
    scene.read(5100, 70)
    notices = only(Notify, scene.read(8100, 70))
    assert [(sent.app, sent.level.word, sent.target_kib, sent.deadline_us) for sent in notices] == [
        (1, "medium", 0, 8100 * MS),
        (2, "medium", notices[1].target_kib, 13_100 * MS),
    ]
    assert notices[1].target_kib > 0


def test_a_process_that_registers_while_it_is_being_ended_is_promised_no_time() -> None:
    scene = Scene()
    scene.read(0, 40)
    scene.scan(0, process(1001))
    (notice,) = only(Notify, scene.take(events.AppRegistered(app(1, SERVICE)), 100))
    assert notice.deadline_us == 100 * MS


def test_a_thousand_notices_are_one_record_of_bounded_length() -> None:
    scene = Scene(*(app(number) for number in range(1, 201)))
    (record,) = [one for one in only(Record, scene.read(0, 110)) if one.kind == "told"]
    assert record.detail["count"] == 200
    apps = record.detail["apps"]
    assert isinstance(apps, list)
    assert len(apps) == RECORDED_NOTICES
    assert apps[0] == {
        "app": 1,
        "name": "app1",
        "class": "background",
        "target_kib": 0,
        "grace_ms": 3000,
    }


def test_a_unit_does_not_change_who_is_told() -> None:
    scene = Scene(app(1, unit=Unit.CGROUP, cgroup=BOX))
    assert told(scene.read(0, 110)) == [(1, "low")]


def test_nothing_from_one_of_whom_nothing_was_asked_leaves_it_in_the_next_share() -> None:
    first, second = app(1, CACHED, sheddable_mib=300), app(2, BACKGROUND, sheddable_mib=300)
    scene = Scene(first, second)
    scene.read(0, 110)
    assert scene.domain().told[2].target_kib == 0
    scene.ack(100, 2, Answer.NOTHING)
    scene.ack(100, 1, Answer.NOTHING)
    out = only(Notify, scene.read(200, 40))
    assert [(word.app, word.target_kib > 0) for word in out] == [(1, False), (2, True)]


def test_a_level_that_is_only_held_is_not_told_again() -> None:
    scene = Scene(app(1, sheddable_mib=300), settings=with_settings(calm_hold_us=20 * SECOND))
    scene.read(0, 110)
    scene.ack(100, 1, Answer.DONE, freed_mib=100)
    scene.read(200, 500)
    assert told(scene.read(6000, 500)) == []
    assert told(scene.read(6100, 110)) == []
    assert told(scene.read(11_000, 110)) == [(1, "low")]
