"""A recorder keeps what is needed to run an episode again, and never more than it may."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest

from lmkd.model import SYSTEM_DOMAIN, AppClass, Level, Process, Reading
from lmkd.policy import events, heart
from lmkd.policy.patterns import RangeTest, TextTest
from lmkd.policy.rules import Condition, Rule, Verdict
from lmkd.policy.settings import DomainPolicy
from lmkd.replay.recorder import LEAD_US, Recorder, Scan, Segment
from lmkd.replay.recording import KnownProcesses, encode_recording
from lmkd.replay.run import replay
from lmkd.replay.scans import ProcessTable, environ_tests
from lmkd.replay.verdicts import verdict_text

from .scenes import (
    BROWSER_FIRST,
    MIB,
    MOST_BYTES,
    MS,
    OWN_PID,
    SECOND,
    SETTINGS,
    Machine,
    leak_episode,
    recording_of,
    settings_with,
)


def count_events(segment: Segment) -> int:
    return sum(len(stretch.moments) for stretch in segment.stretches)


def process(pid: int, size_kib: int = 1000, **given: object) -> Process:
    """Return a process whose texts are its own, as those that were read just now are."""
    made = Process(
        pid=pid,
        start_ticks=pid,
        ppid=1,
        comm="".join(("prog", str(pid))),
        exe="".join(("/usr/bin/prog", str(pid))),
        uid=1000,
        cgroup="".join(("/user.slice/app-", str(pid), ".scope")),
        oom_score_adj=0,
        anon_kib=size_kib,
        swap_kib=0,
        state="S",
    )
    return replace(made, **given)  # type: ignore[arg-type]


def reading(at_us: int, available_mib: int) -> events.ReadingTaken:
    return events.ReadingTaken(Reading(SYSTEM_DOMAIN, at_us, 1000 * MIB, available_mib * MIB))


def replays_the_same(segment: Segment) -> bool:
    recording = recording_of(segment)
    again = [verdict_text(verdict) for verdict in replay(recording)]
    return again == [verdict_text(verdict) for verdict in recording.verdicts]


# --- segments -------------------------------------------------------------------------------------------------


def test_an_episode_is_a_segment_with_its_lead_in_and_all_that_came_of_it() -> None:
    segment = leak_episode()
    assert segment.episodes == (12,)
    assert (segment.begins_open, segment.ends_open) == (False, False)
    opened_us = next(v["at_us"] for v in segment.verdicts if v.get("kind") == "opened")
    assert isinstance(opened_us, int)
    assert isinstance(opened_us, int)
    assert opened_us - segment.base_us >= LEAD_US
    kinds = [verdict.get("kind") for verdict in segment.verdicts if "kind" in verdict]
    assert kinds == ["opened", "level", "level", "level", "kill", "exited", "measured", "level", "closed"]  # fmt: skip
    assert [v["signal"] for v in segment.verdicts if v["verdict"] == "signal"] == ["SIGTERM"]
    assert replays_the_same(segment)


def test_the_lead_in_of_long_calm_is_bounded() -> None:
    """Two hours of calm are not kept, and neither is more than two stretches of them."""
    machine = Machine(BROWSER_FIRST)
    for _ in range(24):
        machine.run(300, 1000)
    segment = machine.recorder.snapshot()
    assert segment is not None
    assert LEAD_US <= segment.last_us - segment.base_us <= 2 * LEAD_US + SECOND
    assert count_events(segment) <= 2 * (LEAD_US // SECOND + 1)
    assert replays_the_same(segment)


def test_a_storm_of_registrations_in_calm_takes_no_more_than_its_share() -> None:
    machine = Machine(BROWSER_FIRST, most_bytes=200_000)
    for number in range(1, 3000):
        machine.start(number + 100, f"app{number}", 0)
        machine.register(number + 100, AppClass.CACHED)
        machine.feed(events.AppGone(machine.programs.pop(number + 100).app or 0))
    assert machine.recorder.size_bytes <= 200_000


def test_the_next_episode_is_a_segment_of_its_own() -> None:
    machine = Machine(BROWSER_FIRST)
    machine.start(13, "browser", 500)
    leak = machine.start(14, "leak", 370)
    first = machine.run_until_calm()
    assert 13 not in machine.programs
    leak.grows_kib_s = 100 * MIB
    machine.run(5.2)
    leak.grows_kib_s = 0
    second = machine.run_until_calm()
    assert (first.episodes, second.episodes) == ((12,), (13,))
    assert second.base_us >= first.last_us
    assert replays_the_same(first)
    assert replays_the_same(second)


def test_episodes_that_overlap_are_one_segment() -> None:
    settings = replace(BROWSER_FIRST, domains=(DomainPolicy("/box", BROWSER_FIRST),))
    machine = Machine(settings)
    machine.feed(events.DomainOpened("/box"))
    machine.start(14, "leak", 790)
    machine.run(1)
    assert machine.level > Level.NORMAL
    machine.feed(
        events.ReadingTaken(replace(machine.reading(), domain="/box", total_kib=500 * MIB))
    )
    machine.feed(events.ReadingTaken(replace(machine.reading(), domain="/box", available_kib=0)))
    machine.programs.clear()
    machine.run(4)
    assert machine.level is Level.NORMAL
    assert machine.recorder.take() is None
    machine.feed(events.DomainClosed("/box"))
    segment = machine.recorder.take()
    assert segment is not None
    assert segment.episodes == (12, 13)
    assert replays_the_same(segment)


def test_a_running_segment_can_be_had_and_goes_on() -> None:
    machine = Machine(BROWSER_FIRST)
    machine.start(14, "leak", 790)
    machine.run(1)
    assert machine.level is Level.LOW
    so_far = machine.recorder.snapshot()
    assert so_far is not None
    assert so_far.episodes == (12,)
    before = encode_recording(so_far)
    assert replays_the_same(so_far)
    machine.note_known()
    machine.programs.clear()
    whole = machine.run_until_calm()
    assert count_events(whole) > count_events(so_far)
    assert encode_recording(so_far) == before
    assert replays_the_same(whole)


def test_nothing_has_happened_so_there_is_nothing() -> None:
    recorder = Recorder(heart.start(SETTINGS, OWN_PID), MOST_BYTES)
    assert recorder.snapshot() is None
    assert recorder.take() is None
    recorder.keep(())
    recorder.note_processes(0, (process(1),))
    assert recorder.snapshot() is None


def test_a_recorder_that_begins_in_an_episode_ends_with_it() -> None:
    machine = Machine(BROWSER_FIRST)
    machine.start(14, "leak", 790)
    machine.run(1)
    machine.recorder = Recorder(machine.state, MOST_BYTES)
    machine.programs.clear()
    segment = machine.run_until_calm()
    assert segment.episodes == (12,)
    assert replays_the_same(segment)


def test_segments_that_nobody_takes_do_not_pile_up() -> None:
    machine = Machine(BROWSER_FIRST, most_bytes=60_000)
    for _ in range(20):
        machine.start(14, "leak", 790)
        machine.run(1)
        machine.programs.clear()
        machine.run(5)
    assert machine.recorder.size_bytes < 120_000
    latest = None
    while (segment := machine.recorder.take()) is not None:
        latest = segment
    assert latest is not None
    assert latest.episodes == (31,)


def test_known_processes_are_kept_beside_the_events_and_are_no_event() -> None:
    recording = recording_of(leak_episode())
    known = [m.event for m in recording.moments if isinstance(m.event, KnownProcesses)]
    assert [sorted(one.pid for one in found.processes) for found in known] == [[12, 13, 14]]


def test_of_too_many_known_processes_the_largest_are_kept() -> None:
    machine = Machine(SETTINGS, most_bytes=100_000)
    machine.recorder.note_processes(0, tuple(process(pid, pid) for pid in range(1, 1000)))
    segment = machine.recorder.snapshot()
    assert segment is not None
    kept = segment.stretches[0].table.facts
    assert [one.pid for one in kept] == list(range(999, 999 - len(kept), -1))
    assert 10 <= len(kept) <= 30


# --- bounds ---------------------------------------------------------------------------------------------------


def test_an_episode_without_end_takes_no_more_room_and_its_last_minutes_are_kept() -> None:
    machine = Machine(BROWSER_FIRST, most_bytes=100_000)
    machine.start(14, "leak", 790)
    for _ in range(120):
        machine.run(1)
        assert machine.recorder.size_bytes < 105_000
    assert machine.level is Level.LOW
    running = machine.recorder.snapshot()
    assert running is not None
    assert (running.begins_open, running.ends_open) == (True, True)
    machine.programs.clear()
    segment = machine.run_until_calm()
    assert (segment.begins_open, segment.ends_open) == (True, False)
    assert segment.episodes == (12,)
    assert segment.last_us == machine.now_us
    assert machine.now_us - segment.base_us > 4 * SECOND
    assert replays_the_same(running)
    assert replays_the_same(segment)
    machine.start(14, "leak", 790)
    machine.run(1)
    machine.programs.clear()
    assert not machine.run_until_calm().begins_open


def test_a_cgroup_that_is_short_for_ever_hides_no_episode_of_the_others() -> None:
    """Only what has ended before the oldest moment that is kept is not in the segment any more."""
    settings = replace(BROWSER_FIRST, domains=(DomainPolicy("/box", BROWSER_FIRST),))
    machine = Machine(settings, most_bytes=100_000)
    machine.feed(events.DomainOpened("/box"))
    box = replace(machine.reading(), domain="/box", total_kib=500 * MIB, available_kib=0)
    machine.feed(events.ReadingTaken(box))
    for _ in range(12):
        machine.start(14, "leak", 790)
        machine.run(1)
        machine.programs.clear()
        machine.run(4)
        assert machine.level is Level.NORMAL
    assert machine.recorder.take() is None
    segment = machine.recorder.snapshot()
    assert segment is not None
    assert segment.episodes[0] == 12
    assert segment.episodes[1] > 13
    assert segment.episodes[-1] == 24
    assert replays_the_same(segment)


def grown(pid: int, scan: int) -> Process:
    """Return a process of a scan; one of five has grown since the one before."""
    return process(pid, 1000 + pid + (scan if pid % 5 == 0 else 0))


def test_a_minute_of_scans_of_300_processes_is_held_in_little_memory() -> None:
    """600 scans are 180,000 processes, 100 MiB of them as they come."""
    state = heart.start(SETTINGS, OWN_PID)
    state, _ = heart.step(state, events.DomainOpened(SYSTEM_DOMAIN), 0)
    recorder = Recorder(state, 16 << 20)
    recorder.note(0, reading(0, 110), state)
    state, out = heart.step(state, reading(0, 110), 0)
    recorder.keep(out)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for scan in range(600):
            found = tuple(grown(pid, scan) for pid in range(300))
            recorder.note(scan * 100 * MS, reading(scan * 100 * MS, 100), state)
            recorder.note(scan * 100 * MS, events.ProcessesScanned(SYSTEM_DOMAIN, found), state)
        del found
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    held = after - before
    assert held < 6 << 20
    # The estimate by which it is bounded is on the high side, and not by much.
    assert held <= recorder.size_bytes <= 2 * held
    segment = recorder.snapshot()
    assert segment is not None
    assert count_events(segment) == 1201
    assert len(encode_recording(segment)) < 2 << 20


def test_scans_come_back_in_their_order_with_every_figure() -> None:
    machine = Machine(SETTINGS)
    scans = [
        (process(3, swap_kib=5, resident_kib=7, state="D"), process(1), process(2)),
        (process(2), process(3, 4000)),
        (),
        (process(3, 4000), process(3, 4000, oom_score_adj=7), process(9, state="R")),
    ]
    for found in scans:
        machine.feed(events.ProcessesScanned(SYSTEM_DOMAIN, found))
    segment = machine.recorder.snapshot()
    assert segment is not None
    back = [
        moment.event.processes
        for moment in recording_of(segment).moments
        if isinstance(moment.event, events.ProcessesScanned)
    ]
    assert back == scans
    (stretch,) = segment.stretches
    assert len(stretch.table.facts) == 5
    assert stretch.table.row_count == 6
    assert isinstance(stretch.moments[-1].event, Scan)


# --- privacy --------------------------------------------------------------------------------------------------

SECRET = ("PATH=/bin", "TOKEN=hunter2", "LMKD_ROLE=cache", "ROLE=db")


def environ_rule(subject: str = "environ", pattern: str = "LMKD_ROLE=.*") -> Rule:
    conditions = (Condition(subject, TextTest((pattern,))),)
    return Rule("role", "a.toml:1", conditions, Verdict(AppClass.CACHED))


def test_of_an_environment_only_what_a_rule_asks_for_is_kept() -> None:
    machine = Machine(settings_with(environ_rule(), environ_rule(pattern="ROLE=db")))
    for cmdline in ("prog --as-it-was-read", None):
        found = process(5, environ=SECRET, cmdline=cmdline)
        machine.feed(events.ProcessesScanned(SYSTEM_DOMAIN, (found, found)))
        machine.recorder.note_processes(machine.now_us, (found,))
    segment = machine.recorder.snapshot()
    assert segment is not None
    packed = encode_recording(segment)
    processes = [
        one
        for moment in recording_of(segment).moments
        if isinstance(moment.event, events.ProcessesScanned | KnownProcesses)
        for one in moment.event.processes
    ]
    assert {one.environ for one in processes} == {("LMKD_ROLE=cache", "ROLE=db")}
    assert {one.cmdline for one in processes} == {"prog --as-it-was-read", None}
    assert recording_of(segment).header["environ"] == "only what the rules asked for"
    assert b"hunter2" not in packed


def test_a_process_that_execs_has_another_environment() -> None:
    table, tests = ProcessTable(), environ_tests(settings_with(environ_rule()))
    rows = [
        table.add((process(5, environ=environ),), tests)[0]
        for environ in (("LMKD_ROLE=a", "X=1"), ("LMKD_ROLE=b",), ("LMKD_ROLE=a", "X=1"), ())
    ]
    assert [one.environ for one in table.facts] == [("LMKD_ROLE=a",), ("LMKD_ROLE=b",), ()]
    assert rows[0] == rows[2]


def test_other_rules_in_force_keep_other_entries() -> None:
    machine = Machine(settings_with(environ_rule()))
    found = process(5, environ=SECRET)
    machine.feed(events.ProcessesScanned(SYSTEM_DOMAIN, (found,)))
    machine.feed(events.SettingsChanged(settings_with(environ_rule(pattern="ROLE=db"))))
    machine.feed(events.ProcessesScanned(SYSTEM_DOMAIN, (found,)))
    segment = machine.recorder.snapshot()
    assert segment is not None
    kept = [one.environ for one in segment.stretches[0].table.facts]
    assert kept == [("LMKD_ROLE=cache",), ("ROLE=db",)]


def test_without_a_rule_that_asks_nothing_of_an_environment_is_kept() -> None:
    ranged = Rule("r", "a:1", (Condition("uid", RangeTest(((0, 5),))),), Verdict(AppClass.CACHED))
    table = ProcessTable()
    table.add((process(5, environ=SECRET),), environ_tests(settings_with(ranged)))
    assert table.facts[0].environ == ()


@pytest.mark.parametrize(
    "event",
    [
        events.SettingsChanged(
            replace(BROWSER_FIRST, domains=(DomainPolicy("/a", BROWSER_FIRST),) * 5)
        ),
        events.AppsMeasured("system", tuple((n, 1) for n in range(100))),
        events.SimulationAsked(tuple(range(100)), Level.LOW, 1),
    ],
    ids=lambda event: type(event).__name__,
)
def test_large_events_count_for_more_than_small_ones(event: events.Event) -> None:
    machine = Machine(BROWSER_FIRST)
    before = machine.recorder.size_bytes
    machine.feed(event)
    large = machine.recorder.size_bytes - before
    machine.feed(events.AppGone(77))
    assert large > 2 * (machine.recorder.size_bytes - before - large)
