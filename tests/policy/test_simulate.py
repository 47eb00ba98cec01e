"""Levels that are not there."""

from __future__ import annotations

from lmkd.model import SYSTEM_DOMAIN, Answer, AppClass, Level
from lmkd.policy import events
from lmkd.policy.actions import Notify, SendSignal
from lmkd.policy.simulate import SIMULATED_REASON

from .scenes import BOX, MIB, MS, SECOND, Scene, app, only, process_of


def simulate(scene: Scene, at_ms: int, *apps: int, level: Level = Level.CRITICAL) -> list[Notify]:
    return only(Notify, scene.take(events.SimulationAsked(apps, level, SECOND), at_ms))


def test_a_simulation_tells_the_apps_named_and_says_that_it_is_one() -> None:
    scene = Scene(app(1, AppClass.CACHED, sheddable_mib=30), app(2))
    (notice,) = simulate(scene, 100, 1, 7)
    assert (notice.app, notice.level, notice.domain) == (1, Level.CRITICAL, SYSTEM_DOMAIN)
    assert (notice.target_kib, notice.deadline_us) == (30 * MIB, 1100 * MS)
    assert notice.simulated
    assert notice.reason == SIMULATED_REASON


def test_a_simulated_normal_asks_for_nothing() -> None:
    (notice,) = simulate(Scene(app(1, sheddable_mib=30)), 0, 1, level=Level.NORMAL)
    assert (notice.target_kib, notice.deadline_us) == (0, 0)


def test_when_its_time_is_up_the_app_hears_that_all_is_calm() -> None:
    scene = Scene(app(1))
    simulate(scene, 0, 1)
    assert only(Notify, scene.read(999)) == []
    (notice,) = only(Notify, scene.read(1000))
    assert (notice.level, notice.simulated) == (Level.NORMAL, False)
    assert only(Notify, scene.read(1100)) == []


def test_its_end_does_not_wait_for_a_reading() -> None:
    """Asleep, that may be 2.5 s away."""
    scene = Scene(app(1), app(2))
    simulate(scene, 0, 1)
    simulate(scene, 500, 2)
    (notice,) = only(Notify, scene.take(events.SimulationEnded(), 1000))
    assert (notice.app, notice.level, notice.simulated) == (1, Level.NORMAL, False)
    assert only(Notify, scene.take(events.SimulationEnded(), 1000)) == []


def test_a_simulation_ends_also_where_the_system_is_not_watched() -> None:
    scene = Scene(app(1), domains=(BOX,))
    simulate(scene, 0, 1)
    (notice,) = only(Notify, scene.read(1000, domain=BOX))
    assert notice.level is Level.NORMAL


def test_nothing_is_killed_for_a_simulation() -> None:
    scene = Scene(app(1))
    simulate(scene, 0, 1)
    scene.read(100)
    assert only(SendSignal, scene.scan(100, process_of(app(1)))) == []


def test_an_answer_to_a_simulation_counts_for_nothing() -> None:
    scene = Scene(app(1, sheddable_mib=30))
    (notice,) = simulate(scene, 0, 1)
    scene.ack(10, 1, Answer.DONE, freed_mib=30, size_mib=30, notice=notice.notice)
    assert scene.state.trust == {}


def test_a_real_notice_ends_a_simulation() -> None:
    scene = Scene(app(1))
    simulate(scene, 0, 1, level=Level.LOW)
    (notice,) = only(Notify, scene.read(100, 40))
    assert not notice.simulated
    assert scene.state.simulations == {}
    assert only(Notify, scene.read(1000, 40)) == []


def test_a_notice_of_another_domain_leaves_the_simulation_to_its_end() -> None:
    """It was told in the name of the system, so the system's word has to follow."""
    scene = Scene(app(1, cgroup=BOX), domains=(SYSTEM_DOMAIN, BOX))
    simulate(scene, 0, 1)
    scene.read(100, 110, BOX)
    assert [sent.domain for sent in only(Notify, scene.read(1000))] == [SYSTEM_DOMAIN]


def test_who_simulates_for_itself_gains_no_time_by_it() -> None:
    scene = Scene(app(1, sheddable_mib=80))
    (real,) = only(Notify, scene.read(0, 40))
    simulate(scene, 500, 1, level=Level.LOW)
    (repeated,) = only(Notify, scene.read(1500, 40))
    assert repeated == real
    scene.read(3000, 40)
    assert len(only(SendSignal, scene.scan(3000, process_of(app(1))))) == 1


def test_a_repeated_calm_is_the_calm_that_was_told() -> None:
    scene = Scene(app(1))
    scene.read(0, 110)
    scene.read(100)
    (calm,) = only(Notify, scene.read(3100))
    simulate(scene, 3200, 1)
    assert only(Notify, scene.read(4200)) == [calm]


def test_after_a_simulation_a_word_that_is_owed_comes_when_its_rest_is_over() -> None:
    scene = Scene(app(1))
    scene.read(0, 110)
    scene.read(100, 70)
    scene.read(200, 110)
    scene.read(3200, 110)
    simulate(scene, 3300, 1)
    assert only(Notify, scene.read(4300, 110)) == []
    (notice,) = only(Notify, scene.read(5000, 110))
    assert (notice.level, notice.simulated) == (Level.LOW, False)


def test_a_simulation_goes_with_its_app() -> None:
    scene = Scene(app(1))
    simulate(scene, 0, 1)
    scene.take(events.AppGone(1), 10)
    assert only(Notify, scene.read(1000)) == []
