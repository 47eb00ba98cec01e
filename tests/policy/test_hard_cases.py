"""The hard cases of docs/hard-cases.md that are the heart's to decide; the others are tested where they happen."""

from __future__ import annotations

import pytest

from lmkd.model import SYSTEM_DOMAIN, AppClass, Level, Process, Unit, Victim
from lmkd.policy import events
from lmkd.policy.actions import (
    Action,
    RaiseAlarm,
    Record,
    ReleaseVictim,
    ReportKilled,
    ScanProcesses,
    SendSignal,
)
from lmkd.policy.escalate import find_first

from .scenes import (
    BOX,
    MIB,
    MS,
    SETTINGS,
    Scene,
    app,
    only,
    policies,
    process,
    process_of,
    with_settings,
)

LEAK = process(10, 300, comm="leak", adj=700)


def signals(out: tuple[Action, ...]) -> list[tuple[int, str]]:
    return [(sent.victim.pid, sent.signal.value) for sent in only(SendSignal, out)]


def spared(out: tuple[Action, ...]) -> dict[int, str]:
    """Return why each was spared, from the record of a decision."""
    (record,) = (one for one in only(Record, out) if "ranked" in one.detail)
    ranked = record.detail["ranked"]
    assert isinstance(ranked, list)
    return {row["pid"]: row["spared"] for row in ranked if isinstance(row, dict) and row["spared"]}  # type: ignore[misc]


# --- victims that do not end --------------------------------------------------------------------------------


def test_a_victim_in_the_kernels_hands_is_given_up_and_the_next_one_goes() -> None:
    """Uninterruptible sleep: SIGKILL is taken and nothing happens. It is not tried again in this episode."""
    scene = Scene()
    scene.read(0, 10)
    assert signals(scene.scan(0, LEAK, process(11, 100))) == [(10, "SIGTERM")]
    assert signals(scene.read(200, 10)) == [(10, "SIGKILL")]
    out = scene.read(1200, 10)
    assert only(ReleaseVictim, out)
    assert only(ScanProcesses, out)
    assert signals(scene.scan(1200, LEAK, process(11, 100))) == [(11, "SIGTERM")]


def test_a_victim_of_ten_seconds_has_its_classes_time_and_then_sigkill() -> None:
    scene = Scene()
    scene.read(0, 40)
    scene.scan(0, process(10, 300))  # a service: 5 s
    for at_ms in range(100, 5000, 100):
        assert signals(scene.read(at_ms, 40)) == []
    assert signals(scene.read(5000, 40)) == [(10, "SIGKILL")]
    assert only(SendSignal, scene.exited(5100, 1)) == []


# --- nothing gained -----------------------------------------------------------------------------------------


def test_memory_that_is_shared_or_nobodys_makes_nobody_worth_a_kill() -> None:
    """900 MiB in tmpfs or in huge pages, and programs of a few MiB: an alarm, once, and nobody dies for nothing."""
    scene = Scene()
    small = [process(100 + n, 5 + n, exe=f"/usr/bin/{n}") for n in range(8)]
    scene.read(0, 10, anon_mib=900)
    scene.scan(0)
    out = scene.scan(0, *small)
    assert signals(out) == []
    (alarm,) = only(RaiseAlarm, out)
    assert alarm.reason == "10.0 MiB of 1000.0 MiB available, and nothing worth killing is left"
    assert set(spared(out)) == {one.pid for one in small}
    scene.read(1100, 10, anon_mib=900)
    assert only(RaiseAlarm, scene.scan(1100, *small)) == []


def test_a_leak_in_a_class_that_may_not_be_killed_is_named_when_nobody_else_is_left() -> None:
    scene = Scene()
    scene.read(0, 10)
    out = scene.scan(0, process(10, 800, comm="leak", adj=-950))
    assert signals(out) == []
    assert only(RaiseAlarm, out)
    assert spared(out) == {10: "never killed: somebody protected it: oom_score_adj of -900 or less"}


# --- two at once --------------------------------------------------------------------------------------------


def test_two_domains_in_an_emergency_each_end_their_own_and_nobody_twice() -> None:
    scene = Scene(domains=(SYSTEM_DOMAIN, BOX))
    inside, outside = process(10, 300, cgroup=f"{BOX}/a"), process(11, 200)
    scene.read(0, 5)
    scene.read(0, 2, BOX, total_mib=300, at_max=0)
    scene.read(100, 2, BOX, total_mib=300, at_max=9)
    assert signals(scene.scan(100, inside, outside, domain=BOX)) == [(10, "SIGTERM")]
    # The largest of the machine is being ended already: it is waited for, and no second life is taken for one need.
    assert signals(scene.scan(100, inside, outside)) == []
    scene.take(events.VictimExited(BOX, 1), 150)
    scene.read(160, 5)
    assert signals(scene.scan(160, outside)) == [(11, "SIGTERM")]


def test_an_emergency_in_one_domain_shortens_nobodys_grace_in_another() -> None:
    calm_app = app(1, AppClass.SERVICE, cgroup="/other", sheddable_mib=100)
    settings = with_settings(domains=policies("/other", BOX))
    scene = Scene(calm_app, settings=settings, domains=(BOX, "/other"))
    scene.read(0, 40, "/other", at_max=0)
    scene.read(0, 2, BOX, total_mib=300, at_max=0)
    scene.read(100, 2, BOX, total_mib=300, at_max=9)
    assert signals(scene.scan(100, process_of(calm_app), domain="/other")) == []


# --- grace, cut short ---------------------------------------------------------------------------------------


def test_a_grace_window_is_cut_short_by_a_jump_and_the_last_word_says_so() -> None:
    cache = app(1, AppClass.CACHED, sheddable_mib=200)
    scene = Scene(cache)
    scene.read(0, 40, some_ms=0, full_ms=0)
    assert signals(scene.scan(0, process_of(cache, 300))) == []
    out = scene.read(400, 40, some_ms=300, full_ms=300)
    assert only(ScanProcesses, out)
    out = scene.scan(400, process_of(cache, 300))
    assert signals(out) == [(1001, "SIGTERM")]
    kinds = [type(one).__name__ for one in out]
    assert kinds.index("Notify") < kinds.index("SendSignal")


# --- swap that comes and goes -------------------------------------------------------------------------------


def test_swap_that_is_added_in_mid_episode_ends_the_exhaustion() -> None:
    scene = Scene()
    scene.read(0, 30, anon_mib=900)
    judgement = scene.domain().judgement
    assert judgement is not None
    assert judgement.exhausted
    out = scene.read(100, 30, anon_mib=900, swap_total_mib=500, swap_free_mib=500)
    assert only(ScanProcesses, out) == []
    judgement = scene.domain().judgement
    assert judgement is not None
    assert not judgement.may_kill
    assert judgement.level is Level.MEDIUM


def test_swap_that_is_taken_away_in_mid_episode_is_missed_at_the_next_reading() -> None:
    scene = Scene()
    scene.read(0, 30, anon_mib=900, swap_total_mib=500, swap_free_mib=500)
    assert only(ScanProcesses, scene.read(100, 30, anon_mib=900))


@pytest.mark.parametrize(
    ("stored_mib", "used_mib", "exhausted"),
    [
        (90, 30, False),  # three to one: 300 MiB of room still free 200
        (90, 88, True),  # incompressible: room that costs what it gives is none
    ],
)
def test_zram_counts_for_what_it_really_gives(
    stored_mib: int, used_mib: int, exhausted: bool
) -> None:
    scene = Scene()
    figures = {"anon_mib": 900, "swap_total_mib": 400, "swap_free_mib": 300, "zram_free_mib": 300}
    scene.read(0, 30, **figures, zram_stored_mib=stored_mib, zram_used_mib=used_mib)
    judgement = scene.domain().judgement
    assert judgement is not None
    assert judgement.exhausted is exhausted


# --- file pages ---------------------------------------------------------------------------------------------


def thrashing(scene: Scene, at_ms: int) -> tuple[Action, ...]:
    """Read a machine of which 400 MiB are cache that is read again and again; nothing else is short."""
    return scene.read(
        at_ms, 400, some_ms=at_ms * 7 // 10, full_ms=at_ms * 6 // 10, file_mib=400,
        refaults=at_ms * 200, scanned=at_ms * 10, anon_mib=350,
    )  # fmt: skip


def test_a_healthy_machine_full_of_cache_hears_nothing_above_low_and_nobody_dies() -> None:
    """Files are read and dropped at 200 MB/s; a little of it comes back, kswapd runs, nobody stalls."""
    scene = Scene()
    for at_ms in range(0, 20_000, 1000):
        out = scene.read(
            at_ms, 400, some_ms=at_ms // 100, full_ms=0, file_mib=700,
            refaults=at_ms * 40, scanned=at_ms * 50, anon_mib=100,
        )  # fmt: skip
        assert only(ScanProcesses, out) == []
        assert scene.domain().level <= Level.LOW


def test_a_steady_thrash_of_file_pages_ends_the_cached_and_the_background_and_no_more() -> None:
    scene = Scene()
    thrashing(scene, 0)
    out = thrashing(scene, 1000)
    judgement = scene.domain().judgement
    assert judgement is not None
    assert (judgement.level, judgement.harm, judgement.file_bound) == (Level.CRITICAL, True, True)
    assert only(ScanProcesses, out)
    editor, cache = process(11, 340, comm="editor"), process(12, 50, adj=900)
    assert signals(scene.scan(1000, editor, cache)) == [(12, "SIGTERM")]
    scene.exited(1100, 1)
    thrashing(scene, 1500)
    thrashing(scene, 2500)
    out = scene.scan(2500, editor)
    assert signals(out) == []
    assert spared(out)[11] == (
        "memory is short for file pages alone, and nothing of its class is ended for that"
    )
    assert only(RaiseAlarm, out)


@pytest.mark.parametrize(("swapped_mib", "signalled"), [(0, []), (19, []), (20, [(11, "SIGTERM")])])
def test_a_stall_with_plenty_available_while_swap_fills_is_no_matter_of_file_pages(
    swapped_mib: int, signalled: list[tuple[int, str]]
) -> None:
    """A fork bomb: everybody stalls with a fifth available, for swap takes what it takes."""
    scene = Scene()
    for at_ms in (0, 1000, 2000, 3000):
        scene.read(
            at_ms, 200, some_ms=at_ms * 9 // 10, full_ms=at_ms * 6 // 10, scanned=at_ms * 10,
            anon_mib=600, swap_total_mib=400, swap_free_mib=400 - swapped_mib * at_ms // 3000,
        )  # fmt: skip
    builder = process(11, 600 + swapped_mib, swap_mib=swapped_mib)
    assert signals(scene.scan(3000, builder)) == signalled


def test_where_the_cache_is_squeezed_out_by_programs_the_largest_goes_all_the_same() -> None:
    """The classic freeze: programs hold nearly all, what is left of the cache thrashes, little is available."""
    scene = Scene()
    for at_ms in (0, 1000):
        scene.read(
            at_ms, 90, some_ms=at_ms * 7 // 10, full_ms=at_ms * 4 // 10, file_mib=60,
            refaults=at_ms * 50, scanned=at_ms * 10, anon_mib=600,
        )  # fmt: skip
    assert signals(scene.scan(1000, process(11, 600, comm="builder"))) == [(11, "SIGTERM")]


# --- time ---------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_back_or_far_ahead_begins_the_windows_anew() -> None:
    scene = Scene()
    scene.read(10_000, 500, some_ms=0, full_ms=0)
    for at_ms in (1_000, 900_000):
        scene.read(at_ms, 500, some_ms=at_ms, full_ms=at_ms)
        judgement = scene.domain().judgement
        assert judgement is not None
        assert not judgement.harm
        assert len(scene.domain().window) == 1


def test_a_domain_that_goes_in_an_emergency_lets_its_victim_go() -> None:
    scene = Scene(domains=(SYSTEM_DOMAIN, BOX))
    scene.read(0, 2, BOX, total_mib=300, at_max=0)
    scene.read(100, 2, BOX, total_mib=300, at_max=9)
    victim: Process = process(10, 300, cgroup=BOX)
    assert signals(scene.scan(100, victim, domain=BOX)) == [(10, "SIGTERM")]
    out = scene.take(events.DomainClosed(BOX), 150)
    assert only(ReleaseVictim, out) == [ReleaseVictim(BOX, 1)]
    assert SETTINGS.min_victim_kib(1000 * MIB) == 20 * MIB


# --- the watchdog -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available_mib", "kinds"), [(500, ["opened", "watchdog", "closed"]), (40, ["watchdog"])]
)
def test_what_the_watchdog_did_is_told_and_kept_also_where_the_loop_slept_through_all_of_it(
    available_mib: int, kinds: list[str]
) -> None:
    scene = Scene()
    scene.read(0, available_mib)
    victim = Victim(10, 1, "leak", AppClass.SERVICE, "", 300 * MIB, Unit.PROCESS, "/")
    out = scene.take(events.WatchdogKilled(SYSTEM_DOMAIN, victim, "in time"), 100)
    assert [record.kind for record in only(Record, out)] == kinds
    assert only(ReportKilled, out) == [ReportKilled(SYSTEM_DOMAIN, victim, "in time", 300 * MIB)]
    assert scene.domain().relieved_us == 100 * MS
    assert (scene.domain().episode is None) is (available_mib == 500)
    assert scene.take(events.WatchdogKilled("/gone", victim, "in time"), 200) == ()


@pytest.mark.parametrize("killable", [True, False])
def test_whom_the_watchdog_would_take_is_whom_the_ladder_would(killable: bool) -> None:
    settings = with_settings() if killable else with_settings(killable=frozenset())
    scene = Scene(settings=settings)
    scene.read(0, 5)
    first = find_first(scene.state, scene.domain(), (LEAK, process(11, 500)), 0)
    assert (first is not None and first.pid == 10) is killable
    assert find_first(scene.state, Scene().domain(), (LEAK,), 0) is None  # nothing was read yet
