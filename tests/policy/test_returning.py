"""Whoever leaves in mid-episode and comes back finds its last word, deadline and trust as it left them."""

from __future__ import annotations

from dataclasses import replace

from lmkd.model import SYSTEM_DOMAIN, Answer, App, Level
from lmkd.policy import events
from lmkd.policy.actions import Notify
from lmkd.policy.returning import DEPARTED_MOST

from .scenes import BOX, SECOND, Scene, app, only, process_of

ONE = app(1, sheddable_mib=50)


def leave(scene: Scene, at_ms: int, one: App) -> None:
    scene.take(events.AppGone(one.app), at_ms)


def back(scene: Scene, at_ms: int, one: App, number: int) -> list[Notify]:
    """Register the same process again, under a new number."""
    return only(Notify, scene.take(events.AppRegistered(replace(one, app=number)), at_ms))


def test_to_come_back_renews_no_deadline() -> None:
    scene = Scene(ONE)
    (first,) = only(Notify, scene.read(0, 40))
    leave(scene, 1000, ONE)
    (again,) = back(scene, 2000, ONE, 7)
    assert (again.app, again.notice, again.deadline_us) == (7, first.notice, first.deadline_us)
    assert (again.level, again.target_kib) == (Level.CRITICAL, first.target_kib)


def test_one_that_comes_and_goes_is_ended_at_its_first_deadline() -> None:
    scene = Scene(ONE)
    scene.read(0, 40)
    number = 1
    for at_ms in range(500, 3000, 500):
        leave(scene, at_ms, replace(ONE, app=number))
        number += 1
        back(scene, at_ms, ONE, number)
    scene.read(3000, 40)
    out = scene.scan(3000, process_of(ONE, 300))
    assert scene.domain().in_flight is not None
    assert not only(Notify, out), "the deadline had passed: there was nothing to take back"


def test_a_new_process_under_an_old_pid_starts_afresh() -> None:
    scene = Scene(ONE)
    (first,) = only(Notify, scene.read(0, 40))
    leave(scene, 1000, ONE)
    (word,) = back(scene, 2000, replace(ONE, start_ticks=2), 7)
    assert word.notice > first.notice
    assert word.deadline_us == 5 * SECOND


def test_trust_comes_back_too() -> None:
    scene = Scene(ONE)
    scene.read(0, 40)
    scene.measure(0, 1, 100)
    scene.ack(500, 1, Answer.DONE, freed_mib=50, size_mib=50)
    assert scene.state.trust == {1: 1}
    leave(scene, 1000, ONE)
    back(scene, 1500, ONE, 7)
    assert scene.state.trust == {7: 1}


def test_a_level_that_changed_meanwhile_is_told_with_its_own_deadline() -> None:
    scene = Scene(ONE)
    scene.read(0, 110)
    leave(scene, 100, ONE)
    scene.read(200, 40)
    (word,) = back(scene, 1000, ONE, 7)
    assert (word.level, word.deadline_us) == (Level.CRITICAL, 4 * SECOND)


def test_a_domain_that_had_told_it_nothing_tells_it_on_return() -> None:
    inside = app(1, cgroup=BOX, sheddable_mib=50)
    scene = Scene(inside, domains=(SYSTEM_DOMAIN, BOX))
    scene.read(0, 40)
    leave(scene, 100, inside)
    scene.read(200, 110, BOX)
    words = back(scene, 300, inside, 7)
    assert [(word.domain, word.level) for word in words] == [
        (SYSTEM_DOMAIN, Level.CRITICAL),
        (BOX, Level.LOW),
    ]


def test_a_calm_domain_and_one_it_is_not_in_say_nothing_on_return() -> None:
    scene = Scene(ONE, domains=(SYSTEM_DOMAIN, BOX))
    scene.read(0, 40)
    scene.read(0, 40, BOX)
    leave(scene, 100, ONE)
    assert [word.domain for word in back(scene, 300, ONE, 7)] == [SYSTEM_DOMAIN]

    inside = app(2, cgroup=BOX)
    scene = Scene(inside, domains=(SYSTEM_DOMAIN, BOX))
    scene.read(0, 500)
    scene.read(0, 40, BOX)
    leave(scene, 100, inside)
    assert [word.domain for word in back(scene, 300, inside, 7)] == [BOX]


def test_when_the_domain_is_calm_again_all_is_forgotten() -> None:
    inside = app(1, cgroup=BOX)
    scene = Scene(inside, domains=(SYSTEM_DOMAIN, BOX))
    scene.read(0, 40)
    scene.read(0, 40, BOX)
    leave(scene, 100, inside)
    for at_ms in range(200, 4000, 100):
        scene.read(at_ms, 500)
    (departed,) = scene.state.departed.values()
    assert list(departed.told) == [BOX]
    for at_ms in range(200, 4000, 100):
        scene.read(at_ms, 500, BOX)
    assert scene.state.departed == {}


def test_who_was_told_nothing_is_not_remembered() -> None:
    scene = Scene(ONE)
    scene.read(0, 500)
    leave(scene, 100, ONE)
    leave(scene, 200, ONE)
    assert scene.state.departed == {}


def test_only_so_many_are_remembered() -> None:
    scene = Scene()
    scene.read(0, 40)
    for number in range(1, DEPARTED_MOST + 3):
        scene.take(events.AppRegistered(app(number)), 0)
        leave(scene, 0, app(number))
    assert len(scene.state.departed) == DEPARTED_MOST
    assert (app(1).pid, 1) not in scene.state.departed


def test_a_level_whose_word_still_rests_is_told_at_once_with_the_old_deadline() -> None:
    scene = Scene(ONE)
    scene.read(0, 110)
    scene.read(100, 40)
    deadline_us = scene.domain().told[1].deadline_us
    leave(scene, 200, ONE)
    for at_ms in (300, 3300):
        scene.read(at_ms, 110)
    assert scene.domain().level is Level.LOW
    (word,) = back(scene, 3400, ONE, 7)
    assert (word.level, word.target_kib, word.deadline_us) == (Level.LOW, 0, deadline_us)
    assert only(Notify, scene.read(9000, 110)) == []
