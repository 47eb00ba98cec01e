"""Many small processes that are worth a kill together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lmkd.model import SYSTEM_DOMAIN, AppClass, Process, Signal, Unit
from lmkd.policy.actions import (
    Action,
    RaiseAlarm,
    Record,
    ReleaseVictim,
    ScanProcesses,
    SendSignal,
)
from lmkd.policy.patterns import ExeTest
from lmkd.policy.swarms import SWARM_LEAST, SWARM_WHOLE, find_kin, kin_of, part_to_end

from .scenes import MIB, SETTINGS, Scene, app, only, process, rule, ruled, with_settings

WORKER = process(1000, 2, comm="worker", exe="/usr/bin/worker", cgroup="/app")


def workers(count: int, size_mib: int = 2, first: int = 1000, **changes: object) -> list[Process]:
    """Return a pool of workers, each a little older than the next."""
    return [
        replace(WORKER, pid=first + n, start_ticks=1 + n, anon_kib=size_mib * MIB, **changes)  # type: ignore[arg-type]
        for n in range(count)
    ]


def pids(part: list[Process]) -> list[int]:
    return [one.pid for one in part]


def signals(out: tuple[Action, ...]) -> list[tuple[int, Unit, int]]:
    sent = [one for one in only(SendSignal, out) if one.signal is Signal.TERM]
    return [(one.victim.pid, one.victim.unit, len(one.victim.members)) for one in sent]


# --- who is kin -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"cgroup": "/other"},
        {"uid": 1001},
        {"session": 7},
        {"exe": "/usr/bin/other"},
        {"comm": "other"},  # another script of the same interpreter, as it is started by its name
    ],
)
def test_kin_are_of_one_program_user_cgroup_and_session(other: dict[str, object]) -> None:
    assert kin_of(replace(WORKER, pid=1)) == kin_of(WORKER)
    assert kin_of(replace(WORKER, **other)) != kin_of(WORKER)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("processes", "found"),
    [
        (workers(SWARM_LEAST), [SWARM_LEAST]),
        (workers(SWARM_LEAST - 1, 19), []),  # too few
        (workers(SWARM_LEAST, 1), []),  # too little
        (workers(30, 20), []),  # each is worth a kill by itself
        (workers(30) + workers(3, 50, first=5000), [30]),
        (workers(30, kernel_thread=True), []),
        (workers(12) + workers(15, first=5000, cgroup="/other"), [12, 15]),
        ([], []),
    ],
)
def test_a_swarm_is_of_ten_and_more_that_are_each_too_small(
    processes: list[Process], found: list[int]
) -> None:
    assert [len(kin) for kin in find_kin(processes, 20 * MIB, ())] == found


def test_whoever_has_a_place_of_its_own_is_in_no_swarm() -> None:
    assert [len(kin) for kin in find_kin(workers(30), 20 * MIB, {1000, 1001})] == [28]
    assert find_kin(workers(SWARM_LEAST), 20 * MIB, {1000}) == []


def test_of_a_swarm_as_many_die_as_cover_the_need_the_largest_first() -> None:
    kin = [*workers(10), *workers(5, 9, first=2000)]
    assert pids(part_to_end(kin, 20 * MIB)) == [2000, 2001, 2002]
    assert len(part_to_end(kin, 1000 * MIB)) == 15


def test_of_a_great_many_all_die() -> None:
    assert len(part_to_end(workers(SWARM_WHOLE), 20 * MIB)) == SWARM_WHOLE
    assert len(part_to_end(workers(SWARM_WHOLE - 1), 20 * MIB)) == 10


# --- in the ladder ----------------------------------------------------------------------------------------------


def short(scene: Scene, anon_mib: int) -> tuple[Action, ...]:
    return scene.read(0, 40, anon_mib=anon_mib)


def test_a_leak_that_is_spread_over_three_hundred_dies_as_one_and_not_the_larger_editor() -> None:
    scene = Scene()
    assert only(ScanProcesses, short(scene, 700)) == [ScanProcesses(SYSTEM_DOMAIN, 20 * MIB)]
    editor = process(10, 90, comm="editor", exe="/usr/bin/editor")
    # 610 MiB are in what was too small to be scanned, and the editor is not worth that: look at all.
    out = scene.scan(0, editor)
    assert only(ScanProcesses, out) == [ScanProcesses(SYSTEM_DOMAIN, 20 * MIB, small=True)]
    assert signals(out) == []
    out = scene.scan(0, editor, *workers(300))
    assert signals(out) == [(1000, Unit.SWARM, 300)]
    (kill,) = only(Record, out)
    assert (kill.detail["unit"], kill.detail["count"], kill.detail["size_kib"]) == (
        "swarm",
        300,
        600 * MIB,
    )


def test_in_the_lowest_class_what_holds_more_than_all_crumbs_goes_without_a_second_look() -> None:
    scene = Scene()
    short(scene, 700)
    assert signals(scene.scan(0, process(10, 400, adj=900))) == [(10, Unit.PROCESS, 0)]


def test_from_the_second_look_on_all_are_scanned_until_it_is_calm() -> None:
    scene = Scene()
    short(scene, 700)
    scene.scan(0, process(10, 90))
    scene.scan(0, process(10, 90))
    scene.exited(100, 1)
    assert only(ScanProcesses, scene.read(300, 40)) == [
        ScanProcesses(SYSTEM_DOMAIN, 20 * MIB, small=True)
    ]
    for at_ms in (400, 3400):
        scene.read(at_ms, 500)
    assert only(ScanProcesses, scene.read(4000, 40)) == [ScanProcesses(SYSTEM_DOMAIN, 20 * MIB)]


@pytest.mark.parametrize(("count", "given_up_ms"), [(300, 2990), (900, 5000)])
def test_of_many_each_has_its_turn_to_die_before_they_are_given_up(
    count: int, given_up_ms: int
) -> None:
    """In an emergency, and nothing comes back: 10 ms for each beyond the first, 5 s at the most."""
    scene = Scene()
    scene.read(0, 10, anon_mib=700)
    scene.scan(0, process(10, 90))
    assert signals(scene.scan(0, process(10, 90), *workers(count))) == [(1000, Unit.SWARM, count)]
    assert only(SendSignal, scene.read(200, 10))[0].signal is Signal.KILL
    last_ms = 200 + 1000 + given_up_ms
    for at_ms in range(1000, last_ms, 1000):
        assert only(ReleaseVictim, scene.read(at_ms, 10)) == []
    assert only(ReleaseVictim, scene.read(last_ms - 1, 10)) == []
    assert only(ReleaseVictim, scene.read(last_ms, 10))


def test_a_second_look_that_finds_no_swarm_is_the_last() -> None:
    scene = Scene()
    short(scene, 700)
    scene.scan(0, process(10, 90))
    strangers = [
        process(100 + n, 2, exe=f"/usr/bin/{n}") for n in range(300)
    ]  # as many programs as processes
    assert signals(scene.scan(0, process(10, 90), *strangers)) == [(10, Unit.PROCESS, 0)]


def test_where_neither_one_nor_many_are_worth_it_that_is_said() -> None:
    scene = Scene()
    short(scene, 700)
    assert only(ScanProcesses, scene.scan(0)) == [
        ScanProcesses(SYSTEM_DOMAIN, 20 * MIB, small=True)
    ]
    assert only(RaiseAlarm, scene.scan(0, *workers(9)))


def test_a_swarm_has_the_class_of_its_program_and_goes_when_that_may_go() -> None:
    """Tabs are cached: as many as cover the need of 110 MiB go, though one of a higher class is larger than all."""
    tabs = ruled(rule("tabs", AppClass.CACHED, ("exe", ExeTest(("worker",)))))
    scene = Scene(settings=tabs)
    short(scene, 800)
    assert only(ScanProcesses, scene.scan(0, process(10, 500)))
    out = scene.scan(0, process(10, 500), *workers(20, 15))
    assert signals(out) == [(1000, Unit.SWARM, 8)]


def test_what_is_never_killed_is_in_no_swarm() -> None:
    kept = ruled(rule("kept", AppClass.SYSTEM, ("exe", ExeTest(("worker",))), exempt=True))
    scene = Scene(settings=kept)
    short(scene, 700)
    scene.scan(0)
    assert only(RaiseAlarm, scene.scan(0, *workers(300)))


def test_an_app_in_the_midst_of_a_swarm_keeps_its_own_place_and_grace() -> None:
    scene = Scene(app(1, AppClass.SERVICE, pid=1000))
    short(scene, 700)
    scene.scan(0)
    (sent,) = only(SendSignal, scene.scan(0, *workers(300)))
    assert (1000, 1) not in sent.victim.members
    assert len(sent.victim.members) == 299


def test_what_a_rule_makes_a_unit_is_no_swarm_as_well() -> None:
    as_tree = ruled(rule("tree", AppClass.SERVICE, ("exe", ExeTest(("worker",))), unit=Unit.TREE))
    scene = Scene(settings=as_tree)
    assert only(ScanProcesses, short(scene, 700)) == [ScanProcesses(SYSTEM_DOMAIN, 0)]
    out = scene.scan(0, *[replace(one, ppid=1000) for one in workers(300)])
    assert signals(out) == [(1000, Unit.TREE, 0)]


def test_a_swarm_that_waits_for_medium_and_below_is_left_alone() -> None:
    scene = Scene(settings=with_settings(killable=frozenset({AppClass.CACHED})))
    short(scene, 700)
    scene.scan(0)
    assert signals(scene.scan(0, *workers(300))) == []
    assert SETTINGS.classes[AppClass.SERVICE].killed_at is not None
