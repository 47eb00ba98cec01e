"""The step itself: levels, episodes, domains, apps, settings, and when to wake."""

from __future__ import annotations

import pytest

from lmkd.model import SYSTEM_DOMAIN, Answer, AppClass, Level
from lmkd.policy import actions, events, heart
from lmkd.policy.actions import Broadcast, Notify, Record, ReleaseVictim, SendSignal
from lmkd.policy.state import NEVER_US

from .scenes import (
    BOX,
    MIB,
    MS,
    OWN_PID,
    SECOND,
    SETTINGS,
    Scene,
    app,
    only,
    process,
    process_of,
    reading,
    with_settings,
)


def levels(out: tuple[actions.Action, ...]) -> list[str]:
    return [sent.level.word for sent in only(Broadcast, out)]


# --- levels and episodes ----------------------------------------------------------------------------------------


def test_a_rise_is_immediate_and_a_fall_needs_a_calm_hold() -> None:
    scene = Scene()
    assert levels(scene.read(0, 500)) == []
    assert levels(scene.read(100, 40)) == ["critical"]
    assert levels(scene.read(200, 500)) == []
    assert levels(scene.read(3199, 500)) == []
    assert levels(scene.read(3200, 500)) == ["normal"]
    assert levels(scene.read(3300, 500)) == []


def test_a_level_falls_to_the_most_that_was_asked_for_during_the_hold() -> None:
    scene = Scene()
    scene.read(0, 40)
    scene.read(100, 500)
    scene.read(600, 110)
    scene.read(700, 500)
    assert levels(scene.read(3100, 500)) == ["low"]
    assert scene.domain().reason == "110.0 MiB of 1000.0 MiB available"
    assert levels(scene.read(3200, 500)) == []
    assert levels(scene.read(6200, 500)) == ["normal"]


def test_a_hold_that_is_broken_begins_anew() -> None:
    scene = Scene()
    scene.read(0, 40)
    scene.read(100, 500)
    scene.read(3000, 40)
    assert levels(scene.read(3100, 500)) == []
    assert levels(scene.read(6099, 500)) == []
    assert levels(scene.read(6100, 500)) == ["normal"]


def test_an_episode_runs_from_the_first_level_above_normal_until_calm() -> None:
    scene = Scene()
    scene.read(0, 500)
    opened = only(Record, scene.read(100, 110))
    assert [(one.episode, one.kind) for one in opened] == [(1, "opened"), (1, "level")]
    assert opened[0].detail == {"total_kib": 1000 * MIB}
    scene.read(200, 40)
    assert scene.domain().episode == 1
    scene.read(300, 500)
    closed = only(Record, scene.read(3300, 500))
    assert [one.kind for one in closed] == ["level", "closed"]
    assert closed[0].detail["to"] == "normal"
    assert scene.domain().episode is None
    scene.read(3400, 110)
    assert scene.domain().episode == 2


def test_numbers_go_on_from_what_the_history_holds() -> None:
    scene = Scene()
    scene.state = heart.start(SETTINGS, OWN_PID, first_episode=41, first_kill=7)
    scene.take(events.DomainOpened(SYSTEM_DOMAIN), 0)
    assert {one.episode for one in only(Record, scene.read(0, 40))} == {41}
    (sent,) = only(SendSignal, scene.scan(0, process(10)))
    assert sent.kill == 7


def test_the_reason_follows_the_readings_while_the_level_stands() -> None:
    scene = Scene()
    scene.read(0, 110)
    scene.read(100, 90)
    assert scene.domain().reason == "90.0 MiB of 1000.0 MiB available"
    scene.read(200, 500)
    assert scene.domain().reason == "90.0 MiB of 1000.0 MiB available"
    scene.read(3200, 500)
    assert scene.domain().reason == "calm again"


def test_hysteresis_does_not_outlive_a_hole_in_time() -> None:
    scene = Scene()
    scene.read(0, 110)
    scene.read(1000, 140)
    assert scene.domain().held == {"floor": Level.LOW}
    scene.read(60_000, 140)
    assert scene.domain().held == {}


def test_domains_have_levels_of_their_own() -> None:
    scene = Scene(domains=(SYSTEM_DOMAIN, BOX))
    scene.read(0, 40, BOX)
    scene.read(0, 500)
    assert scene.domain(BOX).level is Level.CRITICAL
    assert scene.domain().level is Level.NORMAL


# --- domains come and go ----------------------------------------------------------------------------------------


def test_a_domain_opened_twice_keeps_its_state() -> None:
    scene = Scene()
    scene.read(0, 40)
    before = scene.state
    assert scene.take(events.DomainOpened(SYSTEM_DOMAIN), 10) == ()
    assert scene.state == before


def test_readings_of_a_domain_that_is_gone_are_let_go() -> None:
    scene = Scene()
    before = scene.state
    assert scene.read(0, 10, BOX) == ()
    assert scene.take(events.DomainClosed(BOX), 0) == ()
    assert scene.state == before


def test_a_domain_that_closes_leaves_nobody_at_its_level_and_no_kill_behind() -> None:
    quiet, boxed = app(1), app(2, AppClass.SERVICE, cgroup=BOX)
    scene = Scene(quiet, boxed, domains=(SYSTEM_DOMAIN, BOX))
    scene.read(0, 40, BOX)
    scene.scan(0, process(10, adj=700, cgroup=BOX), domain=BOX)
    out = scene.take(events.DomainClosed(BOX), 100)
    assert only(ReleaseVictim, out) == [ReleaseVictim(BOX, 1)]
    assert levels(out) == ["normal"]
    assert [(sent.app, sent.level.word, sent.target_kib) for sent in only(Notify, out)] == [
        (2, "normal", 0)
    ]
    assert [one.kind for one in only(Record, out)] == ["told", "closed"]
    assert set(scene.state.domains) == {SYSTEM_DOMAIN}


def test_a_calm_domain_closes_in_silence() -> None:
    scene = Scene(app(1, cgroup=BOX), domains=(SYSTEM_DOMAIN, BOX))
    assert scene.take(events.DomainClosed(BOX), 100) == ()


def test_a_word_owed_when_a_domain_closes_is_given_then() -> None:
    scene = Scene(app(1, cgroup=BOX), domains=(BOX,))
    for at_ms, available_mib in ((0, 110), (500, 500), (3500, 500), (3600, 70), (3700, 500)):
        scene.read(at_ms, available_mib, BOX)
    assert only(Notify, scene.read(6700, 500, BOX)) == []  # normal again, told at 3.5 s
    out = scene.take(events.DomainClosed(BOX), 6800)
    assert [sent.level for sent in only(Notify, out)] == [Level.NORMAL]


# --- apps come and go -------------------------------------------------------------------------------------------


def test_an_app_that_goes_leaves_nothing_behind() -> None:
    scene = Scene(app(1, sheddable_mib=80), domains=(SYSTEM_DOMAIN, BOX))
    scene.take(events.SimulationAsked((1,), Level.LOW, 60 * SECOND), 0)
    scene.read(0, 110)
    scene.measure(1, 1, 100)
    scene.ack(10, 1, Answer.DONE, freed_mib=40, size_mib=60)
    scene.take(events.SimulationAsked((1,), Level.LOW, 60 * SECOND), 20)
    assert scene.state.trust
    scene.take(events.AppGone(1), 30)
    assert scene.state.apps == {}
    assert scene.state.trust == {}
    assert scene.state.simulations == {}
    assert scene.domain().told == {}
    assert scene.state.deadline_us(1) == NEVER_US


def test_an_update_changes_what_it_names_and_an_unknown_app_nothing() -> None:
    scene = Scene(app(1))
    scene.take(events.AppUpdated(1, app_class=AppClass.CACHED), 0)
    scene.take(events.AppUpdated(1, sheddable_kib=5), 0)
    scene.take(events.AppUpdated(1, name="x"), 0)
    changed = scene.state.apps[1]
    assert (changed.app_class, changed.sheddable_kib, changed.name) == (AppClass.CACHED, 5, "x")
    before = scene.state
    assert scene.take(events.AppUpdated(7, name="x"), 0) == ()
    assert scene.state == before


def test_an_app_that_goes_while_it_is_being_ended_is_reported_all_the_same() -> None:
    scene = Scene(app(1))
    scene.read(0, 40)
    scene.read(3000, 40)
    scene.scan(3000, process_of(app(1)))
    scene.take(events.AppGone(1), 3100)
    (reported, *_) = only(actions.ReportKilled, scene.exited(3200, 1))
    assert reported.victim.app == 1


def test_new_settings_hold_from_the_next_reading() -> None:
    scene = Scene()
    scene.read(0, 40)
    scene.take(events.SettingsChanged(with_settings(killable=frozenset())), 10)
    assert only(SendSignal, scene.scan(20, process(10))) == []
    assert scene.state.settings.killable == frozenset()


def test_a_step_leaves_the_state_it_was_given_as_it_was() -> None:
    scene = Scene(app(1, sheddable_mib=80))
    before = scene.state
    event = events.ReadingTaken(reading(0, 40))
    first = heart.step(before, event, 0)
    assert heart.step(before, event, 0) == first
    assert before.domains[SYSTEM_DOMAIN].told == {}


# --- when to wake -----------------------------------------------------------------------------------------------


def wake_after_ms(scene: Scene, name: str = SYSTEM_DOMAIN) -> int:
    """Return how long after its last reading a domain is to be read again."""
    return (heart.next_wake_us(scene.state, name) - scene.domain(name).reading_us) // MS


def test_before_the_first_reading_there_is_no_time_to_lose() -> None:
    scene = Scene()
    assert heart.next_wake_us(scene.state, SYSTEM_DOMAIN) == NEVER_US + SETTINGS.read_emergency_us


@pytest.mark.parametrize(
    ("available_mib", "after_ms"),
    [
        (900, 1000),
        (520, 1000),  # 400 MiB above the low floor, at 400 MiB a second
        (270, 375),
        (170, 125),
        (130, 100),
        (110, 100),  # low
        (10, 10),  # emergency
    ],
)
def test_the_less_is_left_the_sooner_it_is_read_again(available_mib: int, after_ms: int) -> None:
    scene = Scene(settings=with_settings(killable=frozenset()))
    scene.read(0, available_mib)
    assert wake_after_ms(scene) == after_ms


def test_what_falls_fast_is_read_sooner() -> None:
    forecast = {Level.LOW: 900 * MS, Level.MEDIUM: 500 * MS}
    scene = Scene(settings=with_settings(forecast=forecast))
    for at_ms, available_mib in ((0, 620), (500, 570), (1000, 520)):
        scene.read(at_ms, available_mib)
    assert wake_after_ms(scene) == 1000  # 400 MiB above the low floor, at four times 100 MiB/s
    scene.read(1500, 420)
    scene.read(2000, 320)
    assert wake_after_ms(scene) == 250  # 200 MiB, at four times 200 MiB/s


def test_a_level_that_is_held_is_read_as_often_as_one_that_is_asked_for() -> None:
    scene = Scene()
    scene.read(0, 110)
    scene.read(100, 900)
    assert wake_after_ms(scene) == 100


def test_it_wakes_for_a_word_that_is_owed() -> None:
    scene = Scene(app(1))
    for at_ms, available_mib in ((0, 110), (500, 900), (3500, 900), (3600, 70), (3700, 900)):
        scene.read(at_ms, available_mib)
    scene.read(7700, 900)
    scene.read(8450, 900)
    assert wake_after_ms(scene) == 50


def test_it_wakes_for_sigkill_and_for_the_end_of_a_wait() -> None:
    scene = Scene(app(1))
    scene.read(0, 40)
    scene.scan(0, process_of(app(1)))
    scene.read(2950, 40)
    assert wake_after_ms(scene) == 50
    scene.read(3000, 40)
    scene.scan(3000, process_of(app(1)))
    scene.read(4930, 40)
    assert wake_after_ms(scene) == 70
    scene.read(5000, 40)
    assert wake_after_ms(scene) == 100


def test_it_wakes_when_a_kill_has_settled() -> None:
    scene = Scene()
    scene.read(0, 40)
    scene.scan(0, process(10))
    scene.exited(150, 1)
    scene.read(200, 40)
    assert wake_after_ms(scene) == 50


@pytest.mark.parametrize(
    ("available_mib", "killable"), [(40, frozenset[AppClass]()), (110, SETTINGS.killable)]
)
def test_where_nothing_may_die_it_does_not_hurry(
    available_mib: int, killable: frozenset[AppClass]
) -> None:
    settings = with_settings(killable=killable, stall_harm=SETTINGS.stall[Level.LOW])
    scene = Scene(settings=settings)
    scene.read(0, available_mib, some_ms=0)
    scene.read(1000, available_mib, some_ms=100)
    judgement = scene.domain().judgement
    assert judgement is not None
    assert judgement.may_kill
    assert wake_after_ms(scene) == 100


def test_it_wakes_for_the_end_of_a_simulation_and_never_without_a_pause() -> None:
    scene = Scene(app(1))
    scene.read(0, 900)
    scene.take(events.SimulationAsked((1,), Level.LOW, 300 * MS), 0)
    assert wake_after_ms(scene) == 300
    scene.take(events.SimulationAsked((1,), Level.LOW, 0), 0)
    assert wake_after_ms(scene) == 10


def test_a_domain_without_size_is_read_at_the_pace_of_pressure() -> None:
    scene = Scene()
    scene.read(0, 0, total_mib=0)
    assert wake_after_ms(scene) == 100
