"""What a rule, a mark, a domain and another daemon's word make of a kill, a notice and a place in the order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lmkd.model import SYSTEM_DOMAIN, App, AppClass, Level, Mark, Process, Signal, Unit
from lmkd.policy import events
from lmkd.policy.actions import Broadcast, Notify, ScanProcesses, SendSignal, WarnKill
from lmkd.policy.classify import classify
from lmkd.policy.patterns import TextTest
from lmkd.policy.place import place_of
from lmkd.policy.rank import rank_candidates, stand_at
from lmkd.policy.settings import DomainPolicy

from .scenes import (
    BOX,
    MIB,
    MS,
    OWN_PID,
    SETTINGS,
    Scene,
    app,
    only,
    policies,
    process,
    process_of,
    reading,
    rule,
    ruled,
    with_settings,
)

CACHED, BACKGROUND, SERVICE = AppClass.CACHED, AppClass.BACKGROUND, AppClass.SERVICE


def called(comm: str) -> tuple[str, TextTest]:
    return "comm", TextTest((comm,))


def order(scene: Scene, *processes: Process, domain: str = SYSTEM_DOMAIN) -> list[int]:
    """Return the pids of those for killing at critical, in order."""
    ranked = rank_candidates(scene.turn(0), scene.domain(domain), processes, Level.CRITICAL)
    return [one.victim.pid for one in ranked if one.spared is None]


def pressed(*rules: object, **changes: object) -> Scene:
    scene = Scene(settings=ruled(*rules, **changes))  # type: ignore[arg-type]
    scene.read(0, 40)
    return scene


# --- in the order -------------------------------------------------------------------------------------------


def test_bias_then_size_inside_a_class_and_never_across() -> None:
    early = rule("early", BACKGROUND, called("early"), bias=1)
    late = rule("late", BACKGROUND, called("late"), bias=-100)
    scene = pressed(early, late)
    processes = (
        process(10, 300, comm="late"),
        process(11, 50, comm="early"),
        process(12, 100, adj=700),
        process(13, 900),
        process(14, 25, adj=900),
    )
    assert order(scene, *processes) == [14, 11, 12, 10, 13]


def test_marks_come_before_bias_and_an_omitted_group_is_left_alone() -> None:
    early = rule("early", BACKGROUND, called("early"), bias=100)
    scene = pressed(early)
    processes = (
        process(10, 50, comm="early"),
        process(11, 40, adj=700, mark=Mark.PREFER),
        process(12, 400, adj=700, mark=Mark.AVOID),
        process(13, 500, adj=700, mark=Mark.OMIT),
        process(14, 60, adj=700),
    )
    assert order(scene, *processes) == [11, 10, 14, 12]
    (omitted,) = [
        one
        for one in rank_candidates(scene.turn(0), scene.domain(), processes, Level.CRITICAL)
        if one.victim.pid == 13
    ]
    assert omitted.spared == "its cgroup is marked user.oomd_omit"


def test_in_strict_mode_the_unruled_go_before_all_cached_but_not_those_who_registered() -> None:
    registered = app(1, SERVICE)
    scene = Scene(registered, settings=with_settings(strict=True))
    scene.read(0, 40)
    processes = (process(10, 30), process(11, 500, adj=900), process_of(registered, 600))
    assert order(scene, *processes) == [10, 11, 1001]


def test_a_rule_says_what_is_worth_a_kill() -> None:
    crumbs = rule("crumbs", CACHED, called("crumb"), least_kib=5 * MIB)
    large = rule("large only", CACHED, called("large"), least_kib=500 * MIB)
    scene = pressed(crumbs, large)
    processes = (process(10, 6, comm="crumb"), process(11, 499, comm="large"), process(12, 25))
    assert order(scene, *processes) == [10, 12]
    (scan,) = only(ScanProcesses, scene.read(100, 40))
    assert scan.min_size_kib == 5 * MIB, "or it would not even be seen"


# --- at the kill --------------------------------------------------------------------------------------------


def test_a_rule_says_how_long_a_victim_has_to_exit() -> None:
    scene = pressed(rule("slow", CACHED, called("slow"), time_to_exit_us=1_700 * MS))
    scene.scan(0, process(10, 300, comm="slow"))
    assert only(SendSignal, scene.read(1_600, 40)) == []
    (sent,) = only(SendSignal, scene.read(1_700, 40))
    assert sent.signal is Signal.KILL


def test_a_rules_grace_is_in_the_notice_and_bounds_the_kill() -> None:
    patient = replace(app(1, CACHED, sheddable_mib=10), grace_us=2_500 * MS)
    scene = Scene(patient)
    (notify,) = only(Notify, scene.read(0, 40))
    assert notify.deadline_us == 2_500 * MS
    assert only(SendSignal, scene.scan(2_400, process_of(patient, 300))) == []
    scene.read(2_500, 40)
    assert only(SendSignal, scene.scan(2_500, process_of(patient, 300)))


def test_a_rule_may_change_the_grace_of_an_app_that_is_there() -> None:
    scene = Scene(app(1, CACHED))
    scene.take(events.AppRuled(1, 2_500 * MS), 0)
    scene.take(events.AppRuled(7, 1), 0)  # gone meanwhile
    assert scene.state.settings.grace_us(scene.state.apps[1]) == 2_500 * MS
    scene.take(events.AppRuled(1, None), 0)
    assert scene.state.settings.grace_us(scene.state.apps[1]) == 1_000 * MS


def test_everybody_registered_in_a_tree_is_warned_and_waited_for() -> None:
    tree = rule("tree", CACHED, called("make"), unit=Unit.TREE)
    child = replace(app(2, CACHED), grace_us=3_000 * MS)
    scene = Scene(child, settings=ruled(tree))
    scene.read(0, 40)
    members = (
        process(10, 100, comm="make"),
        replace(process_of(child, 50), ppid=10),
    )
    scene.read(1_100, 40)
    assert only(SendSignal, scene.scan(1_100, *members)) == []
    scene.read(3_000, 40)
    out = scene.scan(3_000, *members)
    assert [sent.victim.pid for sent in only(SendSignal, out)] == [10]
    assert [warned.app for warned in only(WarnKill, out)] == [2]


# --- domains ------------------------------------------------------------------------------------------------


def box(**changes: object) -> Scene:
    inner = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    settings = with_settings(domains=(DomainPolicy("/bo?", inner),))
    scene = Scene(settings=settings, domains=(SYSTEM_DOMAIN, BOX))
    scene.read(0, 900)
    return scene


def test_a_domain_has_its_own_classes_that_may_die() -> None:
    scene = box(killable=frozenset({CACHED}))
    scene.read(0, 40, BOX)
    processes = (process(10, 300, cgroup=BOX), process(11, 100, cgroup=BOX, adj=900))
    assert order(scene, *processes, domain=BOX) == [11]
    (kept, *_) = [
        one
        for one in rank_candidates(scene.turn(0), scene.domain(BOX), processes, Level.CRITICAL)
        if one.victim.pid == 10
    ]
    assert kept.spared == "nothing of its class may die in this domain"


def test_a_domain_has_its_own_thresholds_and_rest() -> None:
    floors = {
        level: replace(step, enter=replace(step.enter, permyriad=1))
        for level, step in SETTINGS.floor.items()
    }
    scene = box(floor=floors, rest_us=60_000 * MS)
    assert only(Broadcast, scene.read(0, 40, BOX)) == []
    assert only(Broadcast, scene.read(0, 40))
    assert scene.state.settings.of(BOX).rest_us == 60_000 * MS


def test_where_no_entry_names_a_group_it_is_told_and_nobody_dies() -> None:
    scene = Scene(settings=with_settings(), domains=(SYSTEM_DOMAIN, "/other"))
    out = scene.read(0, 10, "/other")
    assert only(Broadcast, out)
    assert only(ScanProcesses, out) == []


def test_the_settings_of_many_groups_are_not_all_remembered() -> None:
    settings = with_settings(domains=policies(BOX))
    for number in range(3_000):
        settings.of(f"/{number}")
    assert len(settings._of) <= 1_024
    assert settings.of(BOX).killable == settings.killable


@pytest.mark.parametrize(
    ("limited_by", "asks"), [(BOX, True), ("/elsewhere", True), ("/above", False), ("", True)]
)
def test_a_kill_is_decided_where_the_limit_is(limited_by: str, asks: bool) -> None:
    """/above is watched and may kill: what its limit does to the groups in it, it answers for itself."""
    settings = with_settings(domains=policies(BOX, "/above"))
    scene = Scene(settings=settings, domains=(SYSTEM_DOMAIN, BOX, "/above"))
    short = replace(reading(0, 40, domain=BOX), limited_by=limited_by)
    out = scene.take(events.ReadingTaken(short), 0)
    assert bool(only(ScanProcesses, out)) is asks


# --- another daemon's word ----------------------------------------------------------------------------------


def test_a_relayed_level_is_told_and_nobody_dies_for_it() -> None:
    shedder = app(1, CACHED, sheddable_mib=50)
    scene = Scene(shedder)
    scene.read(0, 500)
    scene.take(events.LevelRelayed(SYSTEM_DOMAIN, Level.CRITICAL, "the machine is short"), 10)
    out = scene.read(100, 30)
    (word,) = only(Broadcast, out)
    assert (word.level, word.reason) == (Level.CRITICAL, "the machine is short")
    (notify,) = only(Notify, out)
    assert notify.target_kib > 0
    assert only(ScanProcesses, out) == []
    scene.take(events.LevelRelayed(SYSTEM_DOMAIN, Level.NORMAL, "calm again"), 200)
    scene.read(300, 30)
    (calm,) = only(Broadcast, scene.read(3_400, 30))
    assert calm.level is Level.NORMAL
    scene.take(events.LevelRelayed(SYSTEM_DOMAIN, None), 3_500)
    assert only(ScanProcesses, scene.read(3_600, 30)), "judged here again"
    scene.take(events.LevelRelayed("/gone", Level.LOW), 3_700)


# --- where one stands ---------------------------------------------------------------------------------------


def test_where_a_process_stands_and_who_would_go_before_it() -> None:
    scene = pressed()
    processes = [process(10, 100, adj=900), process(11, 200), process(12, 300), process(13, 2)]
    turn, domain = scene.turn(0), scene.domain()
    last = stand_at(turn, domain, processes, Level.CRITICAL, 11)
    assert last is not None
    assert (last.rank, last.of, last.spared) == (3, 3, None)
    assert [victim.pid for victim in last.before] == [10, 12]
    early = stand_at(turn, domain, processes, Level.MEDIUM, 11)
    assert early is not None
    assert (early.rank, early.of) == (None, 1)
    assert early.spared == "its class may be killed at critical only"
    small = stand_at(turn, domain, processes, Level.CRITICAL, 13)
    assert small is not None
    assert small.spared is not None
    assert small.spared.startswith("not worth killing")
    assert stand_at(turn, domain, processes, Level.CRITICAL, 99) is None


# --- places -------------------------------------------------------------------------------------------------


def place(one: Process, app: App | None = None, **changes: object) -> int | None:
    settings = with_settings(**changes)
    classed = classify(one, settings, OWN_PID, registered=app is not None)
    return place_of(one, classed, app, settings)


def test_a_registered_program_has_the_place_of_its_class() -> None:
    assert place(process(1001), app(1, AppClass.PERCEPTIBLE)) == 200
    assert place(process(1001, adj=-300), app(1, AppClass.FOREGROUND)) == 0
    assert place(process(OWN_PID)) is None


def test_no_shift_reaches_the_next_class_however_close_the_classes_are() -> None:
    close = {
        one: replace(meant, oom_score_adj=500 - 10 * one) for one, meant in SETTINGS.classes.items()
    }
    biased = ruled(rule("biased", SERVICE, called("x"), bias=100), classes=close)
    one = process(10, comm="x")
    placed = place_of(one, classify(one, biased, OWN_PID), None, biased)
    assert placed == close[SERVICE].oom_score_adj + 4
