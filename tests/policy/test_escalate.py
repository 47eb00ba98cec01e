"""Whether to kill, whom, when, and how the kill in flight goes on."""

from __future__ import annotations

import pytest

from lmkd.model import SYSTEM_DOMAIN, Answer, AppClass, Level, Process, Signal, Unit
from lmkd.policy import events
from lmkd.policy.actions import (
    Action,
    Notify,
    RaiseAlarm,
    Record,
    ReleaseVictim,
    ReportKilled,
    ScanProcesses,
    SendSignal,
    WarnKill,
)
from lmkd.policy.escalate import RECORDED_CANDIDATES

from .scenes import BOX, MIB, MS, SECOND, Scene, app, only, process, process_of, with_settings

CACHED, BACKGROUND, SERVICE = AppClass.CACHED, AppClass.BACKGROUND, AppClass.SERVICE
LEAK = process(10, 300, comm="leak", adj=700)


def signals(out: tuple[Action, ...]) -> list[tuple[int, str]]:
    return [(sent.victim.pid, sent.signal.value) for sent in only(SendSignal, out)]


def scans(out: tuple[Action, ...]) -> int:
    return len(only(ScanProcesses, out))


# --- whether --------------------------------------------------------------------------------------------------


def test_a_level_alone_asks_for_no_scan_and_kills_nobody() -> None:
    scene = Scene()
    for at_ms in range(0, 5000, 100):
        assert scans(scene.read(at_ms, 30, anon_mib=500, swap_free_mib=900)) == 0
    assert scene.domain().level is Level.MEDIUM
    assert signals(scene.scan(5000, LEAK)) == []


def test_harm_at_low_kills_nobody() -> None:
    scene = Scene(settings=with_settings(stall_harm=with_settings().stall[Level.LOW]))
    scene.read(0, 500, some_ms=0)
    assert scans(scene.read(1000, 500, some_ms=100)) == 0
    judgement = scene.domain().judgement
    assert judgement is not None
    assert judgement.harm


def test_exhaustion_asks_for_a_scan_of_what_is_worth_killing_and_the_scan_kills() -> None:
    scene = Scene()
    assert only(ScanProcesses, scene.read(0, 40)) == [ScanProcesses(SYSTEM_DOMAIN, 20 * MIB)]
    assert signals(scene.scan(1, LEAK)) == [(10, "SIGTERM")]


def test_where_a_cgroup_may_die_every_process_is_scanned() -> None:
    scene = Scene(app(1, unit=Unit.CGROUP, cgroup="/db"))
    assert only(ScanProcesses, scene.read(0, 40)) == [ScanProcesses(SYSTEM_DOMAIN, 0)]


def test_a_domain_in_which_nothing_may_die_is_only_told() -> None:
    scene = Scene(settings=with_settings(killable=frozenset()))
    assert scans(scene.read(0, 10)) == 0
    assert signals(scene.scan(0, LEAK)) == []


def test_a_scan_that_nobody_needs_any_more_kills_nobody() -> None:
    scene = Scene()
    assert signals(scene.scan(0, LEAK)) == []  # before the first reading
    scene.read(0, 40)
    scene.read(100, 500)
    assert signals(scene.scan(101, LEAK)) == []
    assert scene.scan(102, LEAK, domain="/gone") == ()


# --- whom, and how long to wait -------------------------------------------------------------------------------


def test_an_app_is_not_killed_before_its_deadline_and_then_at_once() -> None:
    scene = Scene(app(1))
    scene.read(0, 40)
    assert signals(scene.scan(0, process_of(app(1)))) == []
    assert scans(scene.read(2999, 40)) == 0
    assert scans(scene.read(3000, 40)) == 1
    out = scene.scan(3000, process_of(app(1)))
    assert signals(out) == [(1001, "SIGTERM")]
    reason = "40.0 MiB of 1000.0 MiB available"
    assert only(WarnKill, out) == [WarnKill(1, reason, 2 * SECOND)]
    assert only(Notify, out) == []


def test_a_signal_says_why_and_how_long_its_victim_has() -> None:
    """A program that never registered has no other word of ours."""
    scene = Scene()
    scene.read(0, 40)
    (term,) = only(SendSignal, scene.scan(0, LEAK))
    reason = "40.0 MiB of 1000.0 MiB available"
    assert (term.reason, term.time_to_exit_us) == (reason, 2 * SECOND)
    (kill,) = only(SendSignal, scene.read(2000, 40))
    assert (kill.signal.value, kill.reason, kill.time_to_exit_us) == ("SIGKILL", reason, 0)


def test_while_a_lower_class_has_its_grace_no_higher_one_is_touched() -> None:
    """Invariant 6: to wait is the decision then."""
    scene = Scene(app(1))
    scene.read(0, 40)
    service = process(10, 500)
    assert signals(scene.scan(0, service, process_of(app(1), 30))) == []
    assert signals(scene.scan(3000, service, process_of(app(1), 30))) == [(1001, "SIGTERM")]


def test_in_one_class_the_first_whose_time_has_come_dies() -> None:
    scene = Scene(app(1))
    scene.read(0, 40)
    assert signals(scene.scan(0, process_of(app(1), 300), process(10, 40, adj=700))) == [
        (10, "SIGTERM")
    ]


def test_the_longer_of_two_deadlines_counts() -> None:
    boxed = app(1, cgroup=BOX)
    scene = Scene(boxed, domains=(SYSTEM_DOMAIN, BOX))
    scene.read(0, 40, BOX)
    scene.read(2000, 40)
    assert signals(scene.scan(3000, process_of(boxed), domain=BOX)) == []
    assert scene.domain(BOX).scan_after_us == 5 * SECOND
    scene.read(5000, 40, BOX)
    assert signals(scene.scan(5000, process_of(boxed), domain=BOX)) == [(1001, "SIGTERM")]


def test_a_stranger_is_not_killed_while_open_promises_cover_the_need() -> None:
    scene = Scene(app(1, SERVICE, sheddable_mib=110), app(2, SERVICE, sheddable_mib=500))
    scene.take(events.AppUpdated(2, sheddable_kib=0), 0)
    scene.read(0, 40)
    assert signals(scene.scan(0, LEAK)) == []
    assert scene.domain().scan_after_us == 5 * SECOND
    assert scans(scene.read(4999, 40)) == 0
    assert scans(scene.read(5000, 40)) == 1
    assert signals(scene.scan(5000, LEAK)) == [(10, "SIGTERM")]


@pytest.mark.parametrize("sheddable_mib", [0, 109])
def test_a_stranger_has_no_grace_of_its_own(sheddable_mib: int) -> None:
    scene = Scene(app(1, SERVICE, sheddable_mib=sheddable_mib))
    scene.read(0, 40)
    assert signals(scene.scan(0, LEAK)) == [(10, "SIGTERM")]


@pytest.mark.parametrize("answer", [Answer.NOTHING, Answer.DONE])
def test_an_answer_ends_the_wait_for_a_promise(answer: Answer) -> None:
    scene = Scene(app(1, SERVICE, sheddable_mib=200))
    scene.read(0, 40)
    scene.scan(0, LEAK)
    assert scans(scene.read(100, 40)) == 0
    scene.ack(150, 1, answer)
    assert scans(scene.read(200, 40)) == 1
    assert signals(scene.scan(200, LEAK)) == [(10, "SIGTERM")]


def test_a_promise_ends_with_the_app_that_made_it() -> None:
    scene = Scene(app(1, SERVICE, sheddable_mib=200))
    scene.read(0, 40)
    scene.scan(0, LEAK)
    scene.take(events.AppGone(1), 150)
    assert scans(scene.read(200, 40)) == 1


def test_a_domain_without_size_that_needs_nothing_waits_for_nobody() -> None:
    """memory.max may be 0: the need is 0 then, and no promise is open."""
    scene = Scene(domains=(BOX,))
    scene.read(0, 0, BOX, total_mib=0, some_ms=0, full_ms=0, oom=0)
    scene.read(1000, 0, BOX, total_mib=0, some_ms=900, full_ms=100, oom=1)
    victim = process(10, 300, adj=700, cgroup=BOX)
    assert signals(scene.scan(1000, victim, domain=BOX)) == [(10, "SIGTERM")]


def test_an_app_that_rests_between_notices_is_told_before_its_grace_begins() -> None:
    scene = Scene(app(1))
    scene.read(0, 40)
    scene.read(100, 70)
    scene.read(3100, 70)  # medium, told
    scene.read(3200, 40)  # critical again: its word is owed until 5 s
    assert signals(scene.scan(3200, process_of(app(1)))) == []
    assert scene.domain().scan_after_us == 5 * SECOND
    (notice,) = only(Notify, scene.read(5000, 40))
    assert notice.deadline_us == 8 * SECOND
    assert signals(scene.scan(5000, process_of(app(1)))) == []
    scene.read(8000, 40)
    assert signals(scene.scan(8000, process_of(app(1)))) == [(1001, "SIGTERM")]


def test_at_medium_only_what_may_die_at_medium_dies() -> None:
    scene = Scene(app(1, CACHED), app(2))
    scene.read(0, 70, some_ms=0)
    scene.read(1000, 70, some_ms=300)
    out = scene.scan(1000, process_of(app(2), 300), process_of(app(1), 30))
    assert signals(out) == [(1001, "SIGTERM")]


def test_a_rise_of_the_level_ends_a_wait_taken_at_the_lower_one() -> None:
    scene = Scene()
    scene.read(0, 70, some_ms=0)
    scene.read(1000, 70, some_ms=300)
    scene.scan(1000, LEAK)
    assert scans(scene.read(1100, 70, some_ms=330)) == 0
    assert scans(scene.read(1200, 40, some_ms=360)) == 1
    assert signals(scene.scan(1200, LEAK)) == [(10, "SIGTERM")]


# --- emergency --------------------------------------------------------------------------------------------------


def test_in_an_emergency_the_app_first_hears_that_no_grace_is_left() -> None:
    scene = Scene(app(1, sheddable_mib=80))
    scene.read(0, 40)
    scene.read(800, 10)
    scene.read(1000, 10)
    out = scene.scan(1000, process_of(app(1)))
    (notice,) = only(Notify, out)
    assert (notice.app, notice.level, notice.emergency) == (1, Level.CRITICAL, True)
    assert notice.deadline_us == 1000 * MS
    kinds = [type(one) for one in out if not isinstance(one, Record)]
    assert kinds == [Notify, WarnKill, SendSignal]
    assert signals(out) == [(1001, "SIGTERM")]
    assert only(WarnKill, out)[0].time_to_exit_us == 200 * MS


def test_an_app_whose_deadline_has_passed_needs_no_second_word_in_an_emergency() -> None:
    scene = Scene(app(1))
    scene.read(0, 40)
    scene.read(3000, 10)
    assert only(Notify, scene.scan(3000, process_of(app(1)))) == []


def test_an_app_that_was_never_told_is_told_zero_in_an_emergency() -> None:
    scene = Scene(app(1))
    scene.read(0, 40)
    scene.read(100, 70)
    scene.read(3100, 500)
    scene.read(6100, 500)  # normal, told
    scene.read(6200, 10)
    assert scene.domain().told[1].level is Level.CRITICAL
    (notice,) = only(Notify, scene.scan(6200, process_of(app(1))))
    assert notice.emergency


def test_in_an_emergency_promises_are_not_waited_for() -> None:
    scene = Scene(app(1, SERVICE, sheddable_mib=500))
    scene.read(0, 10)
    assert signals(scene.scan(0, LEAK)) == [(10, "SIGTERM")]


def test_in_an_emergency_the_lowest_class_still_dies_first() -> None:
    scene = Scene(app(1, CACHED))
    scene.read(0, 10)
    out = scene.scan(0, process(11, 500), LEAK, process_of(app(1), 30))
    assert signals(out) == [(1001, "SIGTERM")]


def test_an_emergency_asks_for_a_scan_though_a_wait_was_decided() -> None:
    scene = Scene(app(1))
    scene.read(0, 40)
    scene.scan(0, process_of(app(1)))
    assert scans(scene.read(100, 40)) == 0
    assert scans(scene.read(200, 10)) == 1


def test_a_notice_that_left_no_time_breaks_no_word() -> None:
    scene = Scene(app(1, sheddable_mib=80))
    scene.read(0, 40)
    scene.read(1000, 10)
    scene.scan(1000, process_of(app(1)))
    scene.take(events.SignalFailed(SYSTEM_DOMAIN, 1, "not permitted"), 1001)
    for at_ms in (2000, 5000, 8000, 11_000):
        scene.read(at_ms, 500)
    assert scene.domain().level is Level.NORMAL
    assert scene.state.trust == {}


def test_working_extends_nothing_in_an_emergency() -> None:
    scene = Scene(app(1))
    scene.read(0, 10)
    scene.scan(0, process_of(app(1)))
    scene.ack(0, 1, Answer.WORKING)
    assert scene.domain().told[1].deadline_us == 0


# --- the kill in flight -----------------------------------------------------------------------------------------


def killing(*, available_mib: int = 40) -> Scene:
    """Return a scene in which SIGTERM went to the leak (background, 2 s to exit) at 0."""
    scene = Scene()
    scene.read(0, available_mib)
    assert signals(scene.scan(0, LEAK)) == [(10, "SIGTERM")]
    return scene


def test_sigkill_comes_when_the_time_to_exit_is_over_and_once() -> None:
    scene = killing()
    assert signals(scene.read(1999, 40)) == []
    assert signals(scene.read(2000, 40)) == [(10, "SIGKILL")]
    assert signals(scene.read(2100, 40)) == []


def test_in_an_emergency_sigkill_comes_sooner() -> None:
    scene = killing(available_mib=10)
    assert signals(scene.read(199, 10)) == []
    assert signals(scene.read(200, 10)) == [(10, "SIGKILL")]


@pytest.mark.parametrize(
    ("available_mib", "given_up_ms"),
    [(40, 5000), (10, 1200)],  # 3 s after SIGKILL, 1 s in an emergency
)
def test_a_victim_that_does_not_end_is_given_up_sooner_in_an_emergency(
    available_mib: int, given_up_ms: int
) -> None:
    scene = killing(available_mib=available_mib)
    kill_ms = 2000 if available_mib == 40 else 200
    assert signals(scene.read(kill_ms, available_mib)) == [(10, "SIGKILL")]
    assert only(ReleaseVictim, scene.read(given_up_ms - 1, available_mib)) == []
    assert only(ReleaseVictim, scene.read(given_up_ms, available_mib))
    assert scene.domain().spared == {(10, 1)}


def test_a_victim_whose_memory_comes_back_is_dying_and_not_given_up() -> None:
    scene = killing()
    for at_ms, available_mib in ((2000, 40), (3000, 41), (4000, 41), (4500, 50), (5000, 61)):
        assert only(ReleaseVictim, scene.read(at_ms, available_mib)) == []
    assert only(ReleaseVictim, scene.read(5100, 61)) == []
    assert only(ReleaseVictim, scene.read(6300, 62))


def test_what_falls_too_fast_for_the_time_to_exit_has_half_of_what_is_left() -> None:
    """400 MiB/s from 48 MiB on: 120 ms are left, so it is SIGTERM, and 60 ms later SIGKILL."""
    scene = Scene()
    scene.read(0, 88)
    scene.read(100, 48)
    out = scene.scan(100, process_of(app(1)), LEAK)
    assert signals(out) == [(10, "SIGTERM")]
    assert signals(scene.read(159, 48)) == []
    assert signals(scene.read(161, 47)) == [(10, "SIGKILL")]


def test_a_class_with_less_time_to_exit_keeps_it_in_an_emergency() -> None:
    scene = Scene(settings=with_settings(exit_emergency_us=60 * SECOND))
    scene.read(0, 10)
    scene.scan(0, LEAK)
    assert signals(scene.read(2000, 10)) == [(10, "SIGKILL")]


def test_one_kill_is_in_flight_and_the_next_waits_for_its_end_and_a_new_reading() -> None:
    scene = killing()
    other = process(11, 200, adj=700)
    assert scans(scene.read(100, 40)) == 0
    assert signals(scene.scan(100, LEAK, other)) == []
    out = scene.exited(500, 1)
    assert [type(one) for one in out] == [ReportKilled, Record]
    # A scan that was under way all the while is of the time before.
    assert signals(scene.scan(550, other)) == []
    assert signals(scene.scan(600, other)) == []
    assert scans(scene.read(599, 40)) == 0  # settle
    assert scans(scene.read(600, 40)) == 1
    assert signals(scene.scan(600, other)) == [(11, "SIGTERM")]


def test_the_end_of_a_victim_is_reported_with_its_size_and_reason() -> None:
    scene = killing()
    reported, record = scene.exited(500, 1)
    assert isinstance(reported, ReportKilled)
    assert (reported.victim.pid, reported.freed_kib) == (10, 300 * MIB)
    assert isinstance(record, Record)
    assert (record.kind, record.detail) == (
        "exited",
        {"kill": 1, "after_ms": 500, "sigkill": False},
    )


def test_a_victim_that_does_not_end_after_sigkill_is_given_up() -> None:
    scene = killing()
    scene.read(2000, 40)
    assert only(ReleaseVictim, scene.read(4999, 40)) == []
    out = scene.read(5000, 40)
    assert only(ReleaseVictim, out) == [ReleaseVictim(SYSTEM_DOMAIN, 1)]
    assert scans(out) == 1
    assert signals(scene.scan(5000, LEAK, process(11, 50, adj=700))) == [(11, "SIGTERM")]


def test_a_signal_that_failed_is_remembered_and_the_next_victim_taken() -> None:
    scene = killing()
    out = scene.take(events.SignalFailed(SYSTEM_DOMAIN, 1, "it vanished"), 10)
    assert [(one.kind, one.detail) for one in only(Record, out)] == [
        ("failed", {"kill": 1, "reason": "it vanished"})
    ]
    scene.read(100, 40)
    assert signals(scene.scan(100, LEAK, process(11, 50, adj=700))) == [(11, "SIGTERM")]


@pytest.mark.parametrize(
    "event",
    [
        events.VictimExited(SYSTEM_DOMAIN, 7),
        events.VictimExited("/gone", 1),
        events.SignalFailed(SYSTEM_DOMAIN, 7, "x"),
        events.SignalFailed("/gone", 1, "x"),
    ],
)
def test_news_of_another_kill_changes_nothing(event: events.Event) -> None:
    scene = killing()
    before = scene.state
    assert scene.take(event, 10) == ()
    assert scene.state == before


def test_news_of_a_kill_when_none_is_in_flight_changes_nothing() -> None:
    scene = killing()
    scene.exited(10, 1)
    before = scene.state
    assert scene.exited(20, 1) == ()
    assert scene.take(events.SignalFailed(SYSTEM_DOMAIN, 1, "x"), 20) == ()
    assert scene.state == before


@pytest.mark.parametrize(
    "event",
    [
        events.AppUpdated(1, app_class=AppClass.SYSTEM),
        events.AppRegistered(app(2, AppClass.SYSTEM, pid=1001)),
    ],
)
def test_who_becomes_system_after_sigterm_gets_no_sigkill(event: events.Event) -> None:
    """Invariant 1 holds also for the second signal."""
    scene = Scene(app(1))
    scene.read(0, 40)
    scene.read(3000, 40)
    assert signals(scene.scan(3000, process_of(app(1)))) == [(1001, "SIGTERM")]
    scene.take(event, 3500)
    out = scene.read(9000, 40)
    assert signals(out) == []
    assert only(ReleaseVictim, out) == [ReleaseVictim(SYSTEM_DOMAIN, 1)]
    assert scene.domain().in_flight is None


# --- nothing left, dry run, the record --------------------------------------------------------------------------


def test_nothing_left_is_said_loudly_once_an_episode_and_looked_at_again_after_a_pause() -> None:
    scene = Scene()
    scene.read(0, 40)
    out = scene.scan(0, process(10, 5))
    (alarm,) = only(RaiseAlarm, out)
    assert alarm.reason.endswith("nothing worth killing is left")
    assert [one.kind for one in only(Record, out)] == ["nothing_left"]
    assert scans(scene.read(999, 40)) == 0
    assert scans(scene.read(1000, 40)) == 1
    assert scene.scan(1000, process(10, 5)) == ()
    scene.read(1100, 500)
    scene.read(4100, 500)
    scene.read(4200, 40)
    assert len(only(RaiseAlarm, scene.scan(4200))) == 1


def test_what_only_critical_would_reach_is_no_alarm_at_medium() -> None:
    scene = Scene()
    scene.read(0, 70, some_ms=0)
    scene.read(1000, 70, some_ms=300)
    assert scene.scan(1000, LEAK) == ()
    assert scans(scene.read(1100, 70, some_ms=330)) == 0
    # The alarm is kept for when it is true.
    scene.read(1200, 40, some_ms=360)
    assert len(only(RaiseAlarm, scene.scan(1200, process(10, 5)))) == 1


def test_a_dry_run_decides_and_records_and_never_signals() -> None:
    scene = Scene(app(1), settings=with_settings(dry_run=True))
    scene.read(0, 40)
    out = scene.scan(0, LEAK)
    assert [(type(one), getattr(one, "kind", "")) for one in out] == [(Record, "would_kill")]
    assert scene.domain().in_flight is None
    assert scans(scene.read(5000, 40)) == 0
    assert scans(scene.read(5100, 40)) == 1


def test_the_record_of_a_kill_says_all_that_it_followed_from() -> None:
    scene = Scene(app(1))
    scene.read(0, 40)
    small = [
        process(100 + number, 1 + number % 5, adj=900, exe=f"/bin/{number}") for number in range(40)
    ]
    (record,) = only(Record, scene.scan(0, LEAK, process_of(app(1), 200), *small))
    ranked = record.detail["ranked"]
    assert isinstance(ranked, list)
    assert len(ranked) == RECORDED_CANDIDATES
    assert ranked[0] == {
        "pid": 10,
        "name": "leak",
        "class": "background",
        "why_class": "oom_score_adj from 600 to 799",
        "unit": "process",
        "count": 1,
        "size_kib": 300 * MIB,
        "grown_kib": 0,
        "trust": 0,
        "bias": 0,
        "mark": "none",
        "unruled_first": False,
        "spared": None,
    }
    assert isinstance(ranked[1], dict)
    assert ranked[1]["name"] == "app1"
    assert {key: value for key, value in record.detail.items() if key != "ranked"} == {
        "kill": 1,
        "pid": 10,
        "app": None,
        "name": "leak",
        "class": "background",
        "why_class": "oom_score_adj from 600 to 799",
        "rule": "oom_score_adj from 600 to 799",
        "size_kib": 300 * MIB,
        "grown_kib": 0,
        "unit": "process",
        "cgroup": "/",
        "count": 1,
        "reason": "40.0 MiB of 1000.0 MiB available",
        "level": "critical",
        "harm": False,
        "exhausted": True,
        "emergency": False,
        "need_kib": 110 * MIB,
        "available_kib": 40 * MIB,
        "swap_free_kib": 0,
        "findings": [
            {
                "detector": "floor",
                "level": "critical",
                "reason": "40.0 MiB of 1000.0 MiB available",
            }
        ],
    }


@pytest.mark.parametrize(
    "guest",
    [
        process(11, 30, cgroup="/db", exe="/usr/sbin/sshd"),
        process(11, 1, cgroup="/db", exe="/usr/sbin/sshd"),
    ],
)
def test_a_cgroup_that_holds_one_never_killed_loses_its_app_alone(guest: Process) -> None:
    database = app(1, unit=Unit.CGROUP, cgroup="/db")
    scene = Scene(database)
    scene.read(0, 40)
    scene.read(3000, 40)
    (sent,) = only(SendSignal, scene.scan(3000, process_of(database), guest))
    assert (sent.victim.unit, sent.victim.pid, sent.signal) == (Unit.PROCESS, 1001, Signal.TERM)


def test_a_cgroup_dies_with_the_grace_of_its_app() -> None:
    database = app(1, unit=Unit.CGROUP, cgroup="/db")
    scene = Scene(database)
    scene.read(0, 40)
    worker = process(11, 400, cgroup="/db", adj=900)
    assert signals(scene.scan(0, process_of(database), worker)) == []
    scene.read(3000, 40)
    (sent,) = only(SendSignal, scene.scan(3000, process_of(database), worker))
    assert (sent.victim.unit, sent.victim.cgroup) == (Unit.CGROUP, "/db")


def test_a_victim_of_another_domain_is_waited_for_also_in_an_emergency() -> None:
    scene = Scene(domains=(SYSTEM_DOMAIN, BOX))
    inside = process(10, 300, adj=900, cgroup=BOX)
    above = process(11, 300, adj=700)
    scene.read(0, 40, BOX)
    assert signals(scene.scan(0, inside, domain=BOX)) == [(10, "SIGTERM")]
    scene.read(0, 10)
    judgement = scene.domain().judgement
    assert judgement is not None
    assert judgement.emergency
    assert signals(scene.scan(0, inside, above)) == []
    assert scene.domain().scan_after_us == 100 * MS


def test_what_came_back_is_kept_at_the_first_reading_after_the_kill_has_settled() -> None:
    scene = Scene()
    scene.read(0, 40)
    scene.scan(0, LEAK)
    scene.exited(50, 1)
    assert not [one for one in only(Record, scene.read(100, 300)) if one.kind == "measured"]
    (record,) = (one for one in only(Record, scene.read(150, 340)) if one.kind == "measured")
    assert record.detail == {"kill": 1, "before_kib": 40 * MIB, "available_kib": 340 * MIB}
    assert not [one for one in only(Record, scene.read(250, 340)) if one.kind == "measured"]


def test_the_notice_that_takes_the_grace_back_is_kept_too() -> None:
    scene = Scene(app(1))
    scene.read(0, 40)
    scene.read(100, 10)
    out = scene.scan(100, process_of(app(1), 300))
    (record,) = (one for one in only(Record, out) if one.kind == "told")
    assert record.detail["emergency"] is True


OTHERS = process(20, 700)
"""The rest of what a stalled machine holds."""


def stalled(scene: Scene, at_ms: int, some_ms: int) -> tuple[Action, ...]:
    """Read a domain in which programs stall while swap has room: medium, and harm."""
    return scene.read(
        at_ms, 70, some_ms=some_ms, anon_mib=900, swap_total_mib=900, swap_free_mib=900
    )


def test_below_critical_whoever_kept_its_word_is_asked_again_before_it_is_ended() -> None:
    cache = app(1, CACHED, sheddable_mib=300)
    scene = Scene(cache)
    stalled(scene, 0, 0)
    scene.measure(0, 1, 300)
    scene.ack(100, 1, Answer.DONE, freed_mib=80, size_mib=220)
    stalled(scene, 1500, 500)
    judgement = scene.domain().judgement
    assert judgement is not None
    assert (judgement.level, judgement.harm) == (Level.MEDIUM, True)
    assert signals(scene.scan(1500, process_of(cache, 220), OTHERS)) == []
    assert scene.domain().scan_after_us == 5 * SECOND
    (again,) = only(Notify, stalled(scene, 5000, 2000))
    assert again.target_kib > 0


def test_one_that_broke_its_word_is_not_waited_for() -> None:
    cache = app(1, CACHED, sheddable_mib=300)
    scene = Scene(cache)
    stalled(scene, 0, 0)
    scene.measure(0, 1, 300)
    scene.ack(100, 1, Answer.DONE, freed_mib=80, size_mib=300)
    stalled(scene, 1500, 500)
    assert signals(scene.scan(1500, process_of(cache, 300), OTHERS)) == [(1001, "SIGTERM")]
