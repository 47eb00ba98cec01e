"""Who would die, in which order, and why the others would not."""

from __future__ import annotations

import pytest

from lmkd.model import SYSTEM_DOMAIN, Answer, App, AppClass, Level, Process, Unit
from lmkd.policy import events
from lmkd.policy.actions import Action, NoteSizes, SendSignal
from lmkd.policy.rank import Candidate, rank_candidates

from .scenes import BOX, MIB, OWN_PID, Scene, app, only, process, process_of

CACHED, BACKGROUND, SERVICE = AppClass.CACHED, AppClass.BACKGROUND, AppClass.SERVICE


def ranked(
    scene: Scene,
    *processes: Process,
    level: Level = Level.CRITICAL,
    domain: str = SYSTEM_DOMAIN,
    at_ms: int = 0,
) -> list[Candidate]:
    return rank_candidates(scene.turn(at_ms), scene.domain(domain), processes, level)


def pids(candidates: list[Candidate], *, spared: bool | None = None) -> list[int]:
    return [
        one.victim.pid for one in candidates if spared is None or (one.spared is not None) is spared
    ]


def pressed(*apps: App, domains: tuple[str, ...] = (SYSTEM_DOMAIN,)) -> Scene:
    scene = Scene(*apps, domains=domains)
    scene.read(0, 40)
    return scene


def test_class_comes_first_then_the_larger_then_the_pid() -> None:
    candidates = ranked(
        pressed(),
        process(10, 500, adj=-100),  # foreground
        process(11, 30, adj=900),
        process(12, 40, adj=700),
        process(13, 300),
        process(15, 60, adj=900),
        process(14, 60, adj=900),
        process(16, 900, adj=200),
    )
    assert pids(candidates) == [14, 15, 11, 12, 13, 16, 10]


def test_a_kept_word_ranks_later_in_its_class_and_a_broken_one_earlier() -> None:
    apps = [app(number, sheddable_mib=20) for number in (1, 2, 3)]
    scene = pressed(*apps)
    for number in (1, 2, 3):
        scene.measure(1, number, 100)
    scene.ack(100, 1, Answer.DONE, freed_mib=20, size_mib=80)
    scene.ack(100, 2, Answer.DONE, freed_mib=20, size_mib=100)
    scene.ack(100, 3, Answer.NOTHING)
    sizes = {1: 300, 2: 50, 3: 200}
    processes = [process_of(one, sizes[one.app]) for one in apps]
    stranger = process(10, 100, adj=700)
    candidates = ranked(scene, *processes, stranger, at_ms=200)
    assert [(one.victim.pid, one.trust) for one in candidates] == [
        (1002, -1),
        (1003, 0),
        (10, 0),
        (1001, 1),
    ]


def test_an_app_is_known_by_pid_and_start_and_ranks_by_its_registered_class() -> None:
    scene = pressed(app(1, CACHED))
    same, recycled = process(1001, adj=0), process(1001, adj=0, start_ticks=2)
    (known,) = ranked(scene, same)
    assert (known.victim.app, known.victim.app_class) == (1, CACHED)
    assert (known.victim.name, known.victim.why_class) == ("app1", "registered")
    (stranger,) = ranked(scene, recycled)
    assert (stranger.victim.app, stranger.victim.app_class) == (None, SERVICE)


@pytest.mark.parametrize(
    ("one", "level", "spared"),
    [
        (process(10, 20, adj=900), Level.MEDIUM, None),
        (process(10, 20, adj=900), Level.CRITICAL, None),
        (
            process(10, 19, adj=900),
            Level.CRITICAL,
            "not worth killing: 19456 KiB, the least is 20480 KiB",
        ),
        (process(10, 20, adj=900, swap_mib=20), Level.CRITICAL, None),  # swap is given back too
        (process(10, adj=900), Level.LOW, "its class may be killed at medium only"),
        (process(10), Level.MEDIUM, "its class may be killed at critical only"),
        (process(10), Level.CRITICAL, None),
        (
            process(10, adj=-900),
            Level.CRITICAL,
            "never killed: somebody protected it: oom_score_adj of -900 or less",
        ),
        (process(1), Level.CRITICAL, "never killed: init"),
        (process(OWN_PID), Level.CRITICAL, "never killed: this daemon"),
        (
            process(10, exe="/usr/bin/sway"),
            Level.CRITICAL,
            "never killed: a compositor or display server",
        ),
        (process(10, kernel_thread=True), Level.CRITICAL, "never killed: kernel thread"),
    ],
)
def test_each_candidate_that_is_spared_says_why(
    one: Process, level: Level, spared: str | None
) -> None:
    (candidate,) = ranked(pressed(), one, level=level)
    if spared is None:
        assert candidate.spared is None
    else:
        assert candidate.spared is not None
        assert candidate.spared.startswith(spared)


def test_an_app_of_class_system_is_never_for_killing() -> None:
    scene = pressed(app(1, AppClass.SYSTEM))
    (candidate,) = ranked(scene, process_of(app(1), 500))
    assert candidate.spared == "its class is never killed"


def test_registering_lifts_nobody_out_of_the_never_kill_set() -> None:
    scene = pressed(app(1, CACHED))
    (candidate,) = ranked(scene, process(1001, exe="/usr/sbin/sshd"))
    assert candidate.spared is not None
    assert candidate.spared.startswith("never killed: the way into the machine")


def test_nothing_outside_the_subtree_is_ranked() -> None:
    scene = pressed(domains=(SYSTEM_DOMAIN, BOX))
    scene.read(0, 40, BOX)
    inside = process(10, cgroup=f"{BOX}/job")
    candidates = ranked(scene, inside, process(11), process(12, cgroup="/boxer"), domain=BOX)
    assert pids(candidates) == [10]


def test_without_a_reading_the_least_worth_is_the_least_of_all() -> None:
    small, smaller = process(10, 4, adj=900), process(11, 3, adj=900)
    candidates = ranked(Scene(), small, smaller)
    assert pids(candidates, spared=False) == [10]


# --- a cgroup as a whole ------------------------------------------------------------------------------------

DATABASE = app(1, SERVICE, cgroup="/db", unit=Unit.CGROUP)


def test_a_cgroup_dies_as_a_whole_and_counts_as_a_whole() -> None:
    worker = process(11, 30, cgroup="/db/workers", adj=900)
    candidates = ranked(pressed(DATABASE), process_of(DATABASE, 10), worker, process(12, 35))
    assert [
        (one.victim.pid, one.victim.unit, one.victim.size_kib // MIB) for one in candidates
    ] == [
        (1001, Unit.CGROUP, 40),
        (12, Unit.PROCESS, 35),
    ]
    assert candidates[0].victim.cgroup == "/db"


@pytest.mark.parametrize(
    ("others", "apps"),
    [
        ([process(11, exe="/usr/sbin/sshd", cgroup="/db")], []),
        ([process(11, adj=-1000, cgroup="/db/x")], []),
        ([process(1002, cgroup="/db")], [app(2, cgroup="/db")]),
    ],
)
def test_a_cgroup_that_holds_another_app_or_one_never_killed_is_no_unit(
    others: list[Process], apps: list[App]
) -> None:
    scene = pressed(DATABASE, *apps)
    candidates = ranked(scene, process_of(DATABASE), *others)
    assert {one.victim.unit for one in candidates} == {Unit.PROCESS}
    assert sorted(pids(candidates)) == sorted([1001, *(one.pid for one in others)])


def test_the_root_is_never_a_unit() -> None:
    scene = pressed(app(1, CACHED, unit=Unit.CGROUP))
    candidates = ranked(scene, process(1001), process(10))
    assert {one.victim.unit for one in candidates} == {Unit.PROCESS}


@pytest.mark.parametrize("seen", [[], [process(1001, cgroup="/db", start_ticks=2)]])
def test_a_cgroup_whose_app_is_not_there_is_no_unit(seen: list[Process]) -> None:
    candidates = ranked(pressed(DATABASE), *seen, process(11, cgroup="/db"))
    assert {one.victim.unit for one in candidates} == {Unit.PROCESS}


def test_the_order_of_the_scan_makes_no_difference() -> None:
    scene = pressed(DATABASE, app(2))
    processes = [
        process_of(DATABASE),
        process_of(app(2), 70),
        process(11, 30, cgroup="/db"),
        process(12, 70, adj=700),
        process(13, 5),
    ]
    forward = ranked(scene, *processes)
    assert forward == ranked(scene, *reversed(processes))


def test_a_process_that_could_not_be_killed_is_passed_over_until_calm() -> None:
    scene = pressed()
    one = process(10, adj=900)
    scene.scan(0, one)
    scene.take(events.SignalFailed(SYSTEM_DOMAIN, 1, "not permitted"), 10)
    (candidate,) = ranked(scene, one)
    assert candidate.spared == "it could not be killed before"
    scene.read(100, 500)
    scene.read(3100, 500)
    (candidate,) = ranked(scene, one)
    assert candidate.spared is None


# --- growth -----------------------------------------------------------------------------------------------------


def signals_of(out: tuple[Action, ...]) -> list[int]:
    return [sent.victim.pid for sent in only(SendSignal, out)]


def test_in_a_class_what_has_grown_since_the_episode_began_goes_before_what_is_merely_large() -> (
    None
):
    """A leak of 30 MiB that began at nothing, and an editor of 85 that was there all day."""
    scene = Scene()
    editor, leak = process(10, 85, comm="editor"), process(11, 30, comm="leak")
    scene.read(0, 110)
    assert signals_of(scene.scan(0, editor, leak)) == []
    scene.take(events.SizesNoted(SYSTEM_DOMAIN, ((10, 1, 84 * MIB), (11, 1, 2 * MIB))), 0)
    scene.read(100, 40)
    assert signals_of(scene.scan(100, editor, leak)) == [11]


def test_without_sizes_from_the_beginning_the_larger_one_goes() -> None:
    scene = Scene()
    scene.read(0, 40)
    assert signals_of(scene.scan(0, process(10, 85), process(11, 30))) == [10]


def test_growth_is_of_memory_and_not_what_went_to_swap_meanwhile() -> None:
    scene = Scene()
    scene.read(0, 110)
    scene.take(events.SizesNoted(SYSTEM_DOMAIN, ((10, 1, 85 * MIB), (11, 1, 40 * MIB))), 0)
    scene.read(100, 40)
    swapped = process(10, 85, swap_mib=60)
    assert signals_of(scene.scan(100, swapped, process(11, 55))) == [11]


def test_sizes_are_noted_once_an_episode_and_after_all_have_been_told() -> None:
    scene = Scene(app(1, sheddable_mib=80))
    out = scene.read(0, 110)
    assert only(NoteSizes, out) == [NoteSizes(SYSTEM_DOMAIN)]
    assert isinstance(out[-1], NoteSizes)
    assert only(NoteSizes, scene.read(100, 40)) == []
    noted = ((10, 1, 85 * MIB),)
    scene.take(events.SizesNoted(SYSTEM_DOMAIN, noted), 100)
    scene.take(events.SizesNoted(SYSTEM_DOMAIN, ()), 200)
    assert scene.domain().sizes_kib == {(10, 1): 85 * MIB}
    for at_ms in (300, 3400):
        scene.read(at_ms, 500)
    assert scene.domain().sizes_kib is None
    scene.take(events.SizesNoted(SYSTEM_DOMAIN, noted), 3500)
    scene.take(events.SizesNoted("/gone", noted), 3500)
    assert scene.domain().sizes_kib is None
