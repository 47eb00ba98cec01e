"""Each detector at each edge, and the judgement made of all of them."""

from __future__ import annotations

import pytest

from lmkd.model import Level, Reading
from lmkd.policy.detect import (
    DETECTORS,
    Detector,
    Judgement,
    detect_floor,
    detect_forecast,
    detect_limit,
    detect_stall,
    detect_swap,
    detect_thrash,
    is_exhausted,
    is_reclaiming,
    judge,
    mib,
    need_kib,
    percent,
    swap_relief_kib,
)
from lmkd.policy.state import NEVER_US
from lmkd.policy.window import Window

from .scenes import BOX, MIB, MS, SETTINGS, level_of, reading

NORMAL, LOW, MEDIUM, CRITICAL = Level


def asked(detector: Detector, window: Window, held: Level = NORMAL) -> Level:
    finding = detector(window, SETTINGS, held)
    return NORMAL if finding is None else finding.level


def judged(
    *window: Reading, held: dict[str, Level] | None = None, relieved_ms: int = -1
) -> Judgement:
    relieved_us = NEVER_US if relieved_ms < 0 else relieved_ms * MS
    return judge(window, SETTINGS, held or {}, relieved_us)


# --- stall --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("some_ms", "full_ms", "level"),
    [
        (69, 29, "normal"),
        (70, 0, "low"),
        (0, 30, "low"),
        (199, 69, "low"),
        (200, 0, "medium"),
        (0, 70, "medium"),
        (599, 149, "medium"),
        (600, 0, "critical"),
        (0, 150, "critical"),
        (1000, 1000, "critical"),
    ],
)
def test_stall_is_judged_over_one_second(some_ms: int, full_ms: int, level: str) -> None:
    window = (
        reading(0, 149, some_ms=0, full_ms=0),
        reading(1000, 149, some_ms=some_ms, full_ms=full_ms),
    )
    assert asked(detect_stall, window) is level_of(level)


@pytest.mark.parametrize(
    ("full_ms", "level"),
    [
        # (at 1 s, 2 s, 3 s): a moment's stall, and one that lasts
        ((0, 0, 150), "low"),
        ((0, 0, 449), "low"),
        ((0, 0, 450), "medium"),  # 15% of three seconds, which is critical elsewhere
        ((150, 300, 450), "medium"),
        ((500, 1000, 1499), "medium"),
        ((500, 1000, 1500), "critical"),  # and 50%, which is an emergency
    ],
)
def test_with_as_much_available_as_in_calm_only_a_stall_that_lasts_is_more_than_low(
    full_ms: tuple[int, int, int], level: str
) -> None:
    moments = zip((0, 1000, 2000, 3000), (0, *full_ms), strict=True)
    window = tuple(reading(at_ms, 150, some_ms=full, full_ms=full) for at_ms, full in moments)
    assert asked(detect_stall, window) is level_of(level)


@pytest.mark.parametrize(
    "window",
    [
        (reading(0), reading(1000)),  # no PSI
        (reading(0, some_ms=0, full_ms=0),),  # one reading has no rate
        (reading(0, some_ms=500, full_ms=500), reading(1000, some_ms=0, full_ms=0)),  # reset
        (reading(0), reading(1000, some_ms=900, full_ms=900)),  # came only now
    ],
)
def test_without_two_readings_of_psi_there_is_no_stall(window: Window) -> None:
    assert asked(detect_stall, window) is NORMAL


def stalled(domain: str = "system", **figures: tuple[int, int]) -> Window:
    """Return a second of full stall, with counters as (before, now) and 149 MiB available."""
    first = {name: before for name, (before, _) in figures.items()}
    last = {name: now for name, (_, now) in figures.items()}
    return (
        reading(0, 149, domain=domain, some_ms=0, full_ms=0, **first),
        reading(1000, 149, domain=domain, some_ms=1000, full_ms=1000, **last),
    )


@pytest.mark.parametrize(
    ("window", "reclaiming"),
    [
        (stalled(), True),  # a kernel that does not say is believed
        (stalled(scanned=(5, 6)), True),
        (stalled(scanned=(5, 5)), False),  # one throttled container is not the machine's pressure
        (stalled(scanned=(6, 5)), False),
        (stalled(BOX, high=(1, 2)), True),
        (stalled(BOX, high=(1, 1), at_max=(3, 4)), True),
        (stalled(BOX, high=(1, 1), at_max=(3, 3)), False),  # somebody else's limit holds it
        (stalled(BOX, at_max=(3, 3)), False),
        (stalled(BOX, high=(3, 3)), False),
    ],
)
def test_a_stall_counts_only_where_the_domain_reclaims_for_its_own_sake(
    window: Window, reclaiming: bool
) -> None:
    assert is_reclaiming(window) is reclaiming
    assert asked(detect_stall, window) is (CRITICAL if reclaiming else NORMAL)
    assert judge(window, SETTINGS, {}, NEVER_US).emergency is reclaiming


@pytest.mark.parametrize(("available_mib", "reclaiming"), [(51, False), (50, True)])
def test_a_cgroup_near_its_limit_answers_for_its_stall_without_a_new_event(
    available_mib: int, reclaiming: bool
) -> None:
    one = reading(0, available_mib, domain=BOX, high=1, at_max=1)
    assert is_reclaiming((one, one)) is reclaiming


# --- floor --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available_mib", "held", "level"),
    [
        (120, "normal", "normal"),
        (119, "normal", "low"),
        (120, "low", "low"),
        (149, "low", "low"),
        (150, "low", "normal"),
        (80, "low", "low"),
        (79, "low", "medium"),
        (99, "medium", "medium"),
        (100, "medium", "low"),
        (150, "medium", "normal"),
        (50, "normal", "medium"),
        (49, "normal", "critical"),
        (64, "critical", "critical"),
        (65, "critical", "medium"),
        (100, "critical", "low"),
        (150, "critical", "normal"),
        (0, "normal", "critical"),
    ],
)
def test_a_floor_is_entered_low_and_left_high(available_mib: int, held: str, level: str) -> None:
    assert asked(detect_floor, (reading(0, available_mib),), level_of(held)) is level_of(level)


@pytest.mark.parametrize(("available_mib", "level"), [(1023, "low"), (1024, "normal")])
def test_a_floor_stops_growing_with_the_machine(available_mib: int, level: str) -> None:
    window = (reading(0, available_mib, total_mib=64_000),)
    assert asked(detect_floor, window) is level_of(level)


@pytest.mark.parametrize(("anon_mib", "level"), [(64, "critical"), (65, "medium"), (0, "critical")])
def test_the_lowest_floor_asks_for_medium_while_swap_can_still_take_pages(
    anon_mib: int, level: str
) -> None:
    one = reading(0, 10, anon_mib=anon_mib, swap_total_mib=500, swap_free_mib=500)
    assert asked(detect_floor, (one,)) is level_of(level)


@pytest.mark.parametrize(
    ("available_mib", "full_ms", "scanned", "level"),
    [
        (64, 69, (1, 2), "medium"),
        (64, 70, (1, 2), "critical"),  # harm, at the edge of the lowest floor
        (65, 70, (1, 2), "medium"),
        (49, 69, (1, 2), "medium"),
        (49, 70, (1, 2), "critical"),
        (49, 70, (1, 1), "medium"),  # somebody else's stall
    ],
)
def test_swap_that_does_not_keep_up_is_no_reason_to_wait(
    available_mib: int, full_ms: int, scanned: tuple[int, int], level: str
) -> None:
    at_floor = {"anon_mib": 500, "swap_total_mib": 500, "swap_free_mib": 500}
    window = (
        reading(0, available_mib, some_ms=0, full_ms=0, scanned=scanned[0], **at_floor),
        reading(
            1000, available_mib, some_ms=full_ms, full_ms=full_ms, scanned=scanned[1], **at_floor
        ),
    )
    assert asked(detect_floor, window) is level_of(level)


def test_a_moments_stall_after_the_start_is_not_taken_for_a_second_of_it() -> None:
    at_floor = {"anon_mib": 500, "swap_total_mib": 500, "swap_free_mib": 500}
    window = (
        reading(0, 49, some_ms=0, full_ms=0, **at_floor),
        reading(250, 49, some_ms=69, full_ms=69, **at_floor),
    )
    assert asked(detect_floor, window) is MEDIUM


# --- swap ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "relief_mib"),
    [
        (reading(anon_mib=300), 0),
        (reading(anon_mib=300, swap_free_mib=100), 100),
        (reading(anon_mib=30, swap_free_mib=100), 30),  # no more can go out than there is
        (reading(anon_mib=300, swap_free_mib=100, zram_free_mib=100), 50),  # empty: taken at half
        (
            reading(
                anon_mib=300,
                swap_free_mib=100,
                zram_free_mib=100,
                zram_stored_mib=1,
                zram_used_mib=1,
            ),
            50,  # next to nothing stored is no measure
        ),
        (
            reading(
                anon_mib=300,
                swap_free_mib=100,
                zram_free_mib=100,
                zram_stored_mib=100,
                zram_used_mib=25,
            ),
            75,
        ),
        (
            reading(
                anon_mib=300,
                swap_free_mib=100,
                zram_free_mib=100,
                zram_stored_mib=100,
                zram_used_mib=104,
            ),
            0,  # incompressible pages gain nothing, and cost no more than that
        ),
        (reading(anon_mib=300, swap_free_mib=140, zram_free_mib=100), 90),
        (reading(anon_mib=60, swap_free_mib=140, zram_free_mib=100), 50),  # 40 to disk, 20 at half
        (reading(anon_mib=300, swap_free_mib=50, zram_free_mib=100), 50),  # read at two moments
    ],
)
def test_room_on_zram_counts_at_what_it_costs(one: Reading, relief_mib: int) -> None:
    assert swap_relief_kib(one) == relief_mib * MIB


def swapping(free_mib: int, available_mib: int = 140, scanned: tuple[int, int] = (0, 9)) -> Window:
    before, now = scanned
    return tuple(
        reading(
            at_ms,
            available_mib,
            anon_mib=500,
            swap_total_mib=100,
            swap_free_mib=free_mib,
            scanned=count,
        )
        for at_ms, count in ((0, before), (1000, now))
    )


@pytest.mark.parametrize(
    ("free_mib", "level"),
    [(25, "normal"), (24, "low"), (15, "low"), (14, "medium"), (5, "medium"), (4, "critical")],
)
def test_swap_is_judged_by_what_it_can_still_take(free_mib: int, level: str) -> None:
    assert asked(detect_swap, swapping(free_mib)) is level_of(level)


@pytest.mark.parametrize(
    "window",
    [
        swapping(0, scanned=(9, 9)),  # nobody reclaims
        swapping(0, available_mib=150),  # nobody lacks memory
        (reading(0, 10, scanned=0), reading(1000, 10, scanned=9)),  # no swap at all
    ],
)
def test_full_swap_that_is_idle_hurts_nobody(window: Window) -> None:
    assert asked(detect_swap, window) is NORMAL


# --- thrash -------------------------------------------------------------------------------------------------


def thrashing(refaulted_mib: int, some_ms: int | None = None, available_mib: int = 149) -> Window:
    """Return a second in which this much of a page cache of 100 MiB was read again."""
    before_some = None if some_ms is None else 0
    return (
        reading(0, available_mib, file_mib=100, refaults=1000, some_ms=before_some),
        reading(
            1000,
            available_mib,
            file_mib=100,
            refaults=1000 + refaulted_mib * 256,
            some_ms=some_ms,
        ),
    )


@pytest.mark.parametrize(
    ("refaulted_mib", "level"),
    [
        (0, "normal"),
        (19, "normal"),
        (20, "low"),
        (49, "low"),
        (50, "medium"),
        (99, "medium"),
        (100, "critical"),
    ],
)
def test_refaults_are_judged_as_a_share_of_the_page_cache(refaulted_mib: int, level: str) -> None:
    assert asked(detect_thrash, thrashing(refaulted_mib)) is level_of(level)
    assert asked(detect_thrash, thrashing(refaulted_mib, some_ms=70)) is level_of(level)


@pytest.mark.parametrize(("some_ms", "level"), [(1799, LOW), (1800, MEDIUM), (None, CRITICAL)])
def test_with_as_much_available_as_in_calm_refaults_are_more_than_low_where_a_stall_lasts(
    some_ms: int | None, level: Level
) -> None:
    """60% of three seconds; where there is no PSI, nothing denies the refaults."""
    assert asked(detect_thrash, thrashing(100, some_ms, 150)) is level


def test_refaults_that_stall_nobody_ask_for_low_only() -> None:
    assert asked(detect_thrash, thrashing(100, some_ms=69)) is LOW
    assert not judge(thrashing(100, some_ms=69), SETTINGS, {}, NEVER_US).harm
    assert judge(thrashing(100, some_ms=70), SETTINGS, {}, NEVER_US).harm


@pytest.mark.parametrize(
    "window",
    [
        (reading(0, file_mib=100), reading(1000, file_mib=100)),  # not counted
        (reading(0, file_mib=9, refaults=900), reading(1000, file_mib=9, refaults=1)),  # reset
        (reading(0, refaults=0), reading(1000, refaults=9999)),  # no page cache to speak of
    ],
)
def test_without_a_growing_counter_and_a_page_cache_nothing_thrashes(window: Window) -> None:
    assert asked(detect_thrash, window) is NORMAL


# --- limit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "last", "level"),
    [
        ((1, 1, 1), (1, 1, 1), "normal"),
        ((1, 1, 1), (2, 1, 1), "low"),  # high alone is what a full page cache does all day
        ((1, 1, 1), (9, 2, 1), "medium"),
        ((1, 1, 1), (9, 2, 2), "critical"),
        ((9, 9, 9), (0, 0, 0), "normal"),
        ((None, None, None), (None, None, None), "normal"),
        ((None, None, None), (5, 5, 5), "normal"),
    ],
)
def test_a_cgroup_is_judged_by_its_own_events(
    first: tuple[int | None, ...], last: tuple[int | None, ...], level: str
) -> None:
    window = tuple(
        reading(at_ms, domain=BOX, high=counts[0], at_max=counts[1], oom=counts[2])
        for at_ms, counts in ((0, first), (1000, last))
    )
    assert asked(detect_limit, window) is level_of(level)


def test_an_event_of_more_than_a_second_ago_is_forgotten() -> None:
    window = (
        reading(0, domain=BOX, oom=1),
        reading(500, domain=BOX, oom=2),
        reading(1500, domain=BOX, oom=2),
    )
    assert asked(detect_limit, window[:2]) is CRITICAL
    assert asked(detect_limit, window) is NORMAL


# --- forecast -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before_mib", "now_mib", "level"),
    [
        (750 + 101, 750, "normal"),  # 6.9 s at 101 MiB/s
        (750, 650, "low"),  # 600 MiB above the floor at 100 MiB/s: 6.0 s
        (751, 651, "normal"),
        (400, 300, "medium"),  # 2.5 s
        (401, 301, "low"),
        (60, 50, "medium"),
        (60, 40, "medium"),  # past the floor it is still never more
        (53, 50, "normal"),  # 3 MiB/s is no forecast
        (54, 50, "medium"),
    ],
)
def test_a_fall_is_told_ahead_of_the_floor_and_never_above_medium(
    before_mib: int, now_mib: int, level: str
) -> None:
    middle_mib = (before_mib + now_mib) // 2
    window = (reading(0, before_mib), reading(500, middle_mib), reading(1000, now_mib))
    assert asked(detect_forecast, window) is level_of(level)


def test_a_forecast_alone_never_kills() -> None:
    judgement = judged(reading(0, 400), reading(500, 300), reading(1000, 200))
    assert [finding.detector for finding in judgement.findings] == ["forecast"]
    assert judgement.level is MEDIUM
    assert not judgement.may_kill


# --- the judgement ------------------------------------------------------------------------------------------


def test_calm_is_one_word() -> None:
    assert judged(reading(0)) == Judgement(NORMAL, "calm", (), False, False, False, 0)


def test_the_level_is_the_highest_that_any_detector_asks_for() -> None:
    judgement = judged(
        reading(0, 119, some_ms=0, full_ms=0, file_mib=100, refaults=0),
        reading(1000, 119, some_ms=250, full_ms=0, file_mib=100, refaults=50 * 256),
    )
    assert [(found.detector, found.level.word) for found in judgement.findings] == [
        ("stall", "medium"),
        ("thrash", "medium"),
        ("floor", "low"),
    ]
    assert judgement.level is MEDIUM
    assert judgement.reason == "tasks stalled 25.0% (all of them 0.0%) of 1 s"


def test_every_detector_sees_every_reading() -> None:
    """Invariant 8, first half: none is left out because another has spoken already."""

    def at(at_ms: int, available_mib: int, count: int) -> Reading:
        return reading(
            at_ms,
            available_mib,
            domain=BOX,
            some_ms=count,
            full_ms=count,
            anon_mib=500,
            swap_total_mib=100,
            file_mib=100,
            refaults=count * 100,
            high=count,
            at_max=count,
            oom=count,
        )

    judgement = judged(at(0, 400, 0), at(500, 202, 500), at(1000, 4, 999))
    assert {found.detector for found in judgement.findings} == set(DETECTORS)


@pytest.mark.parametrize(
    ("some_ms", "full_ms", "harm", "emergency"),
    [
        (299, 69, False, False),
        (300, 0, True, False),
        (0, 70, True, False),
        (1000, 499, True, False),
        (1000, 500, True, True),
    ],
)
def test_harm_and_emergency_begin_at_their_shares_of_stall(
    some_ms: int, full_ms: int, harm: bool, emergency: bool
) -> None:
    judgement = judged(
        reading(0, some_ms=0, full_ms=0), reading(1000, some_ms=some_ms, full_ms=full_ms)
    )
    assert (judgement.harm, judgement.emergency) == (harm, emergency)
    assert judgement.may_kill is harm


def test_harm_is_measured_only_since_the_last_kill_ended() -> None:
    """Stall that a dead victim caused is no reason for another kill; the level may stand all the same."""
    window = [reading(0, 149, some_ms=0, full_ms=0), reading(500, 149, some_ms=500, full_ms=500)]
    after = reading(1000, 149, some_ms=500, full_ms=500)
    assert judged(*window, after).harm
    spared = judged(*window, after, relieved_ms=500)
    assert (spared.level, spared.harm, spared.emergency) == (CRITICAL, False, False)
    # With no reading since then, there is nothing to hold against anybody.
    assert not judged(*window, relieved_ms=501).harm
    # Stall that goes on is seen again a quarter of a second later.
    again = reading(750, 149, some_ms=575, full_ms=575)
    assert judged(*window, again, relieved_ms=500).harm


@pytest.mark.parametrize(
    ("available_mib", "anon_mib", "exhausted", "emergency"),
    [
        (50, 0, False, False),
        (49, 0, True, False),
        (49, 50, False, False),  # idle pages can still go out
        (49, 49, True, False),
        (20, 0, True, False),
        (19, 0, True, True),
        (19, 50, False, False),  # past the hard limit, and nobody is harmed: swap does its work
    ],
)
def test_exhaustion_is_memory_and_swap_near_their_end(
    available_mib: int, anon_mib: int, exhausted: bool, emergency: bool
) -> None:
    one = reading(0, available_mib, anon_mib=anon_mib, swap_total_mib=500, swap_free_mib=500)
    assert is_exhausted(one, SETTINGS) is exhausted
    judgement = judged(one)
    assert (judgement.exhausted, judgement.emergency) == (exhausted, emergency)


def test_harm_past_the_hard_limit_is_no_emergency_while_swap_has_room() -> None:
    """There reclaim begins: it does not end there."""
    judgement = judged(
        reading(0, 19, some_ms=0, anon_mib=500, swap_free_mib=500),
        reading(1000, 19, some_ms=300, anon_mib=500, swap_free_mib=500),
    )
    assert judgement.harm
    assert not judgement.exhausted
    assert not judgement.emergency


@pytest.mark.parametrize(
    ("window", "need_mib"),
    [
        ((reading(0, 100),), 50),  # up to where the low floor is left
        ((reading(0, 300),), 20),  # a stall with memory to spare: a fiftieth
        ((reading(0, 140),), 20),
        (
            (reading(0, 110), reading(500, 105), reading(1000, 100)),
            100,
        ),  # and what goes until one may ask again
        ((reading(0, 100), reading(1000, 110)), 40),
    ],
)
def test_the_need_is_what_leaves_the_low_floor(window: Window, need_mib: int) -> None:
    assert need_kib(window, SETTINGS) == need_mib * MIB


def test_figures_in_reasons_are_cut_and_never_rounded_up() -> None:
    assert [percent(value) for value in (0, 9, 10, 1234, 10_000)] == [
        "0.0%",
        "0.0%",
        "0.1%",
        "12.3%",
        "100.0%",
    ]
    assert [mib(kib) for kib in (0, 1023, 1024, 1536)] == [
        "0.0 MiB",
        "0.9 MiB",
        "1.0 MiB",
        "1.5 MiB",
    ]


def test_an_emergency_is_critical_also_where_the_last_whole_second_was_not() -> None:
    judgement = judged(
        reading(0, 500, some_ms=0, full_ms=0),
        reading(1000, 500, some_ms=0, full_ms=0),
        reading(1140, 500, some_ms=140, full_ms=140),
        relieved_ms=1000,
    )
    assert judgement.findings[0].level is not Level.CRITICAL
    assert judgement.emergency
    assert judgement.level is Level.CRITICAL
