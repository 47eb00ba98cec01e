"""Kills that somebody else announces: who is told, who is waited for, and for how long."""

from __future__ import annotations

import pytest

from lmkd.model import SYSTEM_DOMAIN, Answer, AppClass, Level
from lmkd.policy import actions, events
from lmkd.policy.actions import AllowOutsideKill, DelayOutsideKill, Notify, WarnKill

from .scenes import MIB, MS, SECOND, Scene, app, only

GROUP = "/user.slice/app.scope"


def announce(scene: Scene, at_ms: int, until_ms: int = 10_000) -> tuple[actions.Action, ...]:
    return scene.take(events.OutsideKillAnnounced(7, GROUP, "oomd", until_ms * MS), at_ms)


def answer(scene: Scene, notice: Notify, word: Answer, at_ms: int) -> tuple[actions.Action, ...]:
    return scene.take(events.AckReceived(notice.app, notice.notice, word, 0, None), at_ms)


def two_apps() -> Scene:
    return Scene(
        app(1, AppClass.CACHED, sheddable_mib=30, cgroup=GROUP),
        app(2, AppClass.BACKGROUND, cgroup=GROUP + "/below"),
        app(3, AppClass.CACHED, cgroup="/user.slice/app.scope2"),
        app(4, AppClass.CACHED),
    )


def test_the_apps_of_the_cgroup_and_no_others_get_a_last_notice_and_a_warning() -> None:
    out = announce(two_apps(), 100)
    first, second = only(Notify, out)
    reason = f"oomd is about to end {GROUP}"
    assert (first.app, first.level, first.domain) == (1, Level.CRITICAL, SYSTEM_DOMAIN)
    assert (first.target_kib, first.deadline_us, first.reason) == (30 * MIB, 1100 * MS, reason)
    assert not first.simulated
    assert (second.app, second.target_kib, second.deadline_us) == (2, 0, 3100 * MS)
    assert only(WarnKill, out) == [WarnKill(1, reason, SECOND), WarnKill(2, reason, 3 * SECOND)]
    assert only(DelayOutsideKill, out) == [DelayOutsideKill(7, 3100 * MS)]


def test_no_grace_is_longer_than_the_other_waits() -> None:
    out = announce(two_apps(), 100, until_ms=600)
    assert [notice.deadline_us for notice in only(Notify, out)] == [600 * MS] * 2
    assert only(DelayOutsideKill, out) == [DelayOutsideKill(7, 600 * MS)]


def test_a_time_that_is_over_already_is_no_grace() -> None:
    out = announce(two_apps(), 100, until_ms=50)
    assert [warned.time_to_exit_us for warned in only(WarnKill, out)] == [0, 0]
    assert only(DelayOutsideKill, out) == [DelayOutsideKill(7, 100 * MS)]


def test_where_no_app_is_the_other_goes_on_at_once() -> None:
    scene = Scene(app(4))
    assert announce(scene, 100) == (AllowOutsideKill(7),)
    assert scene.state.announced == {}


@pytest.mark.parametrize("last", [Answer.DONE, Answer.NOTHING])
def test_the_other_goes_on_when_all_have_answered(last: Answer) -> None:
    scene = two_apps()
    first, second = only(Notify, announce(scene, 100))
    assert only(AllowOutsideKill, answer(scene, first, last, 200)) == []
    assert only(AllowOutsideKill, answer(scene, first, last, 210)) == []
    assert only(AllowOutsideKill, answer(scene, second, last, 220)) == [AllowOutsideKill(7)]
    assert only(AllowOutsideKill, answer(scene, second, last, 230)) == []


def test_one_that_is_at_work_is_waited_for_and_gains_no_time() -> None:
    scene = two_apps()
    first, second = only(Notify, announce(scene, 100))
    answer(scene, first, Answer.DONE, 150)
    out = answer(scene, second, Answer.WORKING, 200)
    assert only(AllowOutsideKill, out) == []
    assert only(DelayOutsideKill, out) == []


def test_one_that_leaves_is_waited_for_no_more() -> None:
    scene = two_apps()
    first, _ = only(Notify, announce(scene, 100))
    answer(scene, first, Answer.DONE, 150)
    assert only(AllowOutsideKill, scene.take(events.AppGone(2), 200)) == [AllowOutsideKill(7)]


def test_an_answer_to_another_notice_ends_no_waiting() -> None:
    scene = Scene(app(1, AppClass.CACHED, cgroup=GROUP))
    (notice,) = only(Notify, announce(scene, 100))
    other = notice._replace(notice=notice.notice + 1)
    assert only(AllowOutsideKill, answer(scene, other, Answer.DONE, 150)) == []


def test_who_was_spared_is_told_how_things_are() -> None:
    """The last word an app hears is the present level, whoever kills."""
    scene = two_apps()
    announce(scene, 100)
    scene.take(events.AppGone(1), 200)
    (notice,) = only(Notify, scene.take(events.OutsideKillOver(7), 5000))
    assert (notice.app, notice.level) == (2, Level.NORMAL)
    assert notice.reason == "the kill that was announced is over"
    assert scene.state.announced == {}
    assert scene.take(events.OutsideKillOver(7), 5100) == ()


def test_in_an_episode_the_word_that_stands_is_repeated() -> None:
    scene = Scene(app(1, AppClass.BACKGROUND, sheddable_mib=30, cgroup=GROUP))
    (standing,) = only(Notify, scene.read(0, 70))
    announce(scene, 100)
    (repeated,) = only(Notify, scene.take(events.OutsideKillOver(7), 5000))
    assert (repeated.notice, repeated.level) == (standing.notice, standing.level)


def test_two_announcements_are_kept_apart() -> None:
    scene = two_apps()
    first, second = only(Notify, announce(scene, 100))
    out = scene.take(events.OutsideKillAnnounced(8, GROUP + "/below", "oomd", 9000 * MS), 200)
    (again,) = only(Notify, out)
    answer(scene, first, Answer.DONE, 300)
    assert only(AllowOutsideKill, answer(scene, again, Answer.DONE, 300)) == [AllowOutsideKill(8)]
    assert only(AllowOutsideKill, answer(scene, second, Answer.DONE, 400)) == [AllowOutsideKill(7)]
