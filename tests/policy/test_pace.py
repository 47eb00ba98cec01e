"""How often to look and how soon to act, and that it is soon enough: 400 MB/s without swap."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lmkd.model import SYSTEM_DOMAIN, Level, Signal
from lmkd.policy.actions import Action, Broadcast, SendSignal
from lmkd.policy.events import Event
from lmkd.policy.pace import left_us, read_interval_us
from lmkd.policy.window import Window, push

from .scenes import MIB, MS, SECOND, SETTINGS, Scene, reading
from .world import TOTAL_KIB, Ends, World


def window_of(*readings_mib: tuple[int, int]) -> Window:
    window: Window = ()
    for at_ms, available_mib in readings_mib:
        window = push(window, reading(at_ms, available_mib))
    return window


@pytest.mark.parametrize(
    ("readings_mib", "after_ms"),
    [
        (((0, 110),), 100),  # nothing is known of a slope yet
        (((0, 110), (100, 110)), 100),
        (((0, 110), (100, 115)), 100),
        (((0, 112), (100, 110)), 100),  # 20 MiB/s: 4.5 s to the hard limit of 20 MiB
        (((0, 140), (100, 100)), 50),  # 400 MiB/s: 200 ms to it, and four looks on the way
        (((0, 100), (100, 60)), 25),
        (((0, 70), (100, 30)), 10),  # no sooner than in an emergency
    ],
)
def test_above_normal_it_looks_four_times_on_the_way_to_the_hard_limit(
    readings_mib: tuple[tuple[int, int], ...], after_ms: int
) -> None:
    scene = Scene()
    for at_ms, available_mib in readings_mib:
        scene.read(at_ms, available_mib)
    assert read_interval_us(scene.domain(), SETTINGS) == after_ms * MS


@pytest.mark.parametrize(
    ("stalled_ms", "after_ms"),
    [
        ((0, 0), 100),
        ((0, 10), 100),  # a tenth of the time: 600 ms to harm, which is 70 ms of a second
        ((0, 30), 33),  # three tenths: 133 ms to it
        ((0, 60), 10),  # 17 ms to it, and no sooner than in an emergency
        ((70, 110), 25),  # past harm, 100 ms to critical, which is 150
        ((100, 160), 100),  # past both: it is a matter of the deadline now
    ],
)
def test_a_stall_that_grows_is_read_four_times_on_its_way_to_the_next_step(
    stalled_ms: tuple[int, int], after_ms: int
) -> None:
    scene = Scene()
    scene.read(0, 110, some_ms=0, full_ms=0)
    scene.read(800, 110, some_ms=stalled_ms[0], full_ms=stalled_ms[0])
    scene.read(900, 110, some_ms=stalled_ms[1], full_ms=stalled_ms[1])
    assert read_interval_us(scene.domain(), SETTINGS) // MS == after_ms


def test_in_an_emergency_and_before_the_first_reading_it_looks_at_once() -> None:
    scene = Scene()
    assert read_interval_us(scene.domain(), SETTINGS) == 10 * MS
    scene.read(0, 10)
    assert read_interval_us(scene.domain(), SETTINGS) == 10 * MS


@pytest.mark.parametrize(
    ("readings_mib", "lasts_ms"),
    [
        (((0, 500),), None),
        (((0, 500), (100, 500)), None),
        (((0, 500), (100, 600)), None),
        (((0, 500), (100, 400)), 400),
        (((0, 500), (100, 0)), 0),
        # Of the last tenth of a second, not of what was before.
        (((0, 900), (100, 100), (150, 100), (200, 90)), 900),
    ],
)
def test_what_is_left_lasts_as_long_as_the_present_slope_says(
    readings_mib: tuple[tuple[int, int], ...], lasts_ms: int | None
) -> None:
    expected = None if lasts_ms is None else lasts_ms * MS
    assert left_us(window_of(*readings_mib)) == expected


@pytest.mark.parametrize("scan_ms", [0, 20])
@pytest.mark.parametrize("growth_mib_s", [25, 100, 400])
@pytest.mark.parametrize("offset_ms", [0, 130, 333])
def test_without_swap_a_leak_is_ended_before_the_memory_is_gone(
    growth_mib_s: int, scan_ms: int, offset_ms: int
) -> None:
    """The leak ignores SIGTERM, the scan takes 20 ms, a killed process 20 ms; nothing stalls before all is gone."""
    world = World(SETTINGS)
    world.scan_delay_us = scan_ms * MS
    world.spawn(200 * MIB, adj=-200)
    least_kib, told_us, signalled_us, at_floor_us = TOTAL_KIB, [], [], []

    def watch(event: Event, out: tuple[Action, ...]) -> None:
        nonlocal least_kib
        least_kib = min(least_kib, world.available_kib())
        for action in out:
            if isinstance(action, Broadcast) and action.level > Level.NORMAL:
                told_us.append(world.now_us)
            if isinstance(action, SendSignal) and action.signal is Signal.TERM:
                signalled_us.append(world.now_us)

    world.observers.append(watch)
    world.run(2 * SECOND + offset_ms * MS)
    leak = world.spawn(1 * MIB, adj=700, growth_kib_s=growth_mib_s * MIB, ends=Ends.ON_KILL)
    began_us, had_kib = world.now_us, world.available_kib()
    world.run(60 * SECOND)
    assert leak.pid not in world.programs
    assert len(world.programs) == 1, "nobody else was ended"
    floor_kib = SETTINGS.floor[Level.CRITICAL].enter.of(TOTAL_KIB)
    at_floor_us.append(began_us + (had_kib - floor_kib) * SECOND // (growth_mib_s * MIB))
    if growth_mib_s == 25:
        assert at_floor_us[0] - told_us[0] >= SECOND
    assert told_us[0] < at_floor_us[0]
    assert signalled_us
    assert least_kib > 0, "the kernel would have had to act"


def test_a_machine_that_was_suspended_is_judged_by_what_came_after() -> None:
    """The stall counters went on, or the swap-in of a resume stalled: nobody dies for that (systemd #35270)."""
    scene = Scene()
    for at_ms, some_ms in ((0, 0), (1000, 0)):
        scene.read(at_ms, 500, some_ms=some_ms, full_ms=some_ms)
    resumed = replace(
        reading(1100, 70, some_ms=900, full_ms=900),
        suspended_us=3600 * SECOND,
        domain=SYSTEM_DOMAIN,
    )
    scene.take_reading(resumed)
    judgement = scene.domain().judgement
    assert judgement is not None
    assert (judgement.harm, judgement.emergency) == (False, False)
    later = replace(resumed, at_us=1600 * MS, some_total_us=1300 * MS, full_total_us=1300 * MS)
    scene.take_reading(later)
    judgement = scene.domain().judgement
    assert judgement is not None
    assert judgement.harm, "what stalls after the resume does count"
