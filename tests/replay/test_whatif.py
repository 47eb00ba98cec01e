"""An episode under another policy: who would have died, when, and instead of whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lmkd.model import SYSTEM_DOMAIN, AppClass, Level, Mark, Process, Signal, Unit
from lmkd.policy import events
from lmkd.policy.patterns import GlobTest, TextTest
from lmkd.policy.rules import Condition, Rule, Verdict
from lmkd.policy.settings import DomainPolicy, FloorStep, Settings
from lmkd.replay.caveats import ESTIMATED
from lmkd.replay.comparison import Comparison, Difference, replay_with
from lmkd.replay.errors import RecordingError
from lmkd.replay.recorder import Recorder, Segment
from lmkd.replay.recording import KnownProcesses, Moment, Recording
from lmkd.replay.whatif import EXIT_US

from .scenes import (
    BROWSER_FIRST,
    EDITOR_FIRST,
    MIB,
    MS,
    OWN_PID,
    SETTINGS,
    Machine,
    amount,
    leak_episode,
    recording_of,
    rule,
    settings_with,
)

LEAK = recording_of(leak_episode())
BROWSER_EXEMPT = settings_with(
    rule("browser", AppClass.CACHED, exempt=True), rule("editor", AppClass.BACKGROUND)
)


def raised_floor(settings: Settings) -> Settings:
    """Return settings in which it is critical as early as it was low."""
    step = FloorStep(amount(130), amount(140))
    return replace(settings, floor=dict.fromkeys(settings.floor, step))


def deaths(comparison: Comparison) -> list[Difference]:
    return [one for one in comparison.differences if one.kind != "level"]


def died(comparison: Comparison) -> tuple[list[str], list[str]]:
    """Return the names of who died then, and of who would have."""
    return [one.name for one in comparison.then], [one.name for one in comparison.now]


def without(recording: Recording, *kinds: type) -> Recording:
    left = tuple(one for one in recording.moments if not isinstance(one.event, kinds))
    return replace(recording, moments=left)


# --- who, instead of whom ---------------------------------------------------------------------------------------


def test_the_policy_that_was_in_force_changes_nothing() -> None:
    comparison = replay_with(LEAK, BROWSER_FIRST)
    assert comparison.differences == ()
    assert died(comparison) == (["browser"], ["browser"])
    assert comparison.then == comparison.now
    assert comparison.levels_then == comparison.levels_now
    assert comparison.notes == (ESTIMATED,)


def test_another_order_of_classes_has_another_victim() -> None:
    comparison = replay_with(LEAK, EDITOR_FIRST)
    (difference,) = deaths(comparison)
    then, now = difference.then, difference.now
    assert then is not None
    assert now is not None
    assert (difference.kind, then.name, now.name) == ("instead", "browser", "editor")
    assert (now.pid, now.start_ticks, now.app_class) == (12, 120, "cached")
    assert (now.rule, now.why_class) == ("editor is cached", "editor is cached")
    assert now.at_ms == then.at_ms == 30_100
    # It is not known how the editor takes a signal.
    assert now.ended_ms == now.at_ms + EXIT_US // MS
    assert (now.size_kib, then.size_kib) == (200 * MIB, 300 * MIB)
    # What it frees is its size; of the browser it was measured, with the leak still growing.
    assert now.freed_kib is not None
    assert 190 * MIB <= now.freed_kib <= 200 * MIB


def test_an_exempt_one_lives_and_the_next_one_dies() -> None:
    comparison = replay_with(LEAK, BROWSER_EXEMPT)
    assert died(comparison) == (["browser"], ["editor"])
    assert deaths(comparison)[0].kind == "instead"


def test_a_raised_floor_has_it_die_earlier_and_once() -> None:
    """What was stalled and short after that is not so any more, and nobody else dies for it."""
    comparison = replay_with(LEAK, raised_floor(BROWSER_FIRST))
    (difference,) = deaths(comparison)
    then, now = difference.then, difference.now
    assert then is not None
    assert now is not None
    assert (difference.kind, then.pid, now.pid) == ("otherwise", 13, 13)
    assert now.at_ms < then.at_ms
    # How long it took to end is known.
    assert now.ended_ms == now.at_ms + 70
    levels = {one.level: one for one in comparison.differences if one.kind == "level"}
    assert levels["critical"].then_ms == 30_100
    assert (levels["critical"].now_ms or 0) < 30_100


def test_where_nothing_may_die_all_live() -> None:
    comparison = replay_with(LEAK, replace(BROWSER_FIRST, killable=frozenset()))
    assert died(comparison) == (["browser"], [])
    (difference,) = deaths(comparison)
    assert difference.kind == "spared"
    # The memory that its end gave back is not there: it is not calm again.
    (calm,) = [one for one in comparison.differences if one.level == "normal"]
    assert (calm.then_ms, calm.now_ms) == (33_200, None)
    assert any("up to 10 s" in note for note in comparison.notes)


def test_who_is_too_small_does_not_help_and_more_die() -> None:
    """With what the editor gives it is not calm: the next one goes as well."""
    small = replace(EDITOR_FIRST, min_victim=amount(10))
    machine = Machine(BROWSER_FIRST)
    machine.start(12, "editor", 20)
    machine.start(13, "browser", 500)
    leak = machine.start(14, "leak", 150, grows_mib_s=60)
    while 13 in machine.programs:
        machine.run(0.1)
    machine.run(1)
    leak.grows_kib_s = 0
    comparison = replay_with(recording_of(machine.run_until_calm()), small)
    assert died(comparison) == (["browser"], ["editor", "browser"])
    assert sorted(one.kind for one in deaths(comparison)) == ["also", "otherwise"]


def test_a_dry_run_is_compared_as_one() -> None:
    recording = recording_of(leak_episode_dry())
    comparison = replay_with(recording, replace(EDITOR_FIRST, dry_run=False))
    then, now = died(comparison)
    assert set(then) == {"browser"}
    assert set(now) == {"editor"}
    assert all(one.start_ticks is None and one.ended_ms is None for one in comparison.now)
    assert deaths(comparison)[0].kind == "instead"
    assert replay_with(recording, BROWSER_FIRST).differences == ()


def leak_episode_dry() -> Any:
    machine = Machine(replace(BROWSER_FIRST, dry_run=True))
    machine.start(12, "editor", 200)
    machine.start(13, "browser", 300)
    machine.start(14, "leak", 360)
    machine.run(3)
    machine.programs.clear()
    return machine.run_until_calm()


# --- how victims end --------------------------------------------------------------------------------------------


def two_kills(**browser: Any) -> Machine:
    """Play a shortage in which the browser is ended first, and with it gone nobody else has to die."""
    machine = Machine(BROWSER_FIRST)
    machine.start(12, "editor", 200)
    machine.start(13, "browser", 300, **browser)
    machine.start(14, "leak", 360)
    machine.run(1)
    return machine


def test_one_that_needed_sigkill_needs_it_here_too() -> None:
    machine = two_kills(ends_on=Signal.KILL, ends_after_us=20 * MS)
    recording = recording_of(machine.run_until_calm())
    assert replay_with(recording, BROWSER_FIRST).differences == ()
    hasty = replace(
        BROWSER_FIRST,
        classes={
            one: replace(held, time_to_exit_us=1_000_000)
            for one, held in BROWSER_FIRST.classes.items()
        },
    )
    comparison = replay_with(recording, hasty)
    (was,), (kill,) = comparison.then, comparison.now
    assert deaths(comparison) == []
    assert was.sigkill
    assert kill.sigkill
    assert (was.ended_ms or 0) - was.at_ms == 2_020
    assert (kill.ended_ms or 0) - kill.at_ms == 1_020


def test_one_that_never_ended_does_not_end_here() -> None:
    machine = two_kills(ends_on=None)
    machine.run(6)
    segment = machine.run_until_calm()
    recording = recording_of(segment)
    comparison = replay_with(recording, BROWSER_FIRST)
    assert comparison.differences == ()
    assert [one.failed for one in comparison.now] == ["it did not end after SIGKILL", None]


def test_one_that_could_not_be_signalled_cannot_be_here() -> None:
    machine = two_kills(forbidden=True)
    recording = recording_of(machine.run_until_calm())
    for policy in (BROWSER_FIRST, raised_floor(BROWSER_FIRST)):
        comparison = replay_with(recording, policy)
        assert [(one.name, one.failed) for one in comparison.now] == [
            ("browser", "not permitted"),
            ("editor", None),
        ]


def test_a_cgroup_dies_as_a_whole_and_gives_all_it_held() -> None:
    machine = Machine(BROWSER_FIRST)
    for pid in (20, 21, 22):
        machine.start(pid, "worker", 60, cgroup="/work")
    machine.start(13, "browser", 300)
    machine.start(14, "leak", 380)
    machine.run(1)
    whole = settings_with(
        Rule(
            "the works",
            "a.toml:1",
            (Condition("cgroup", GlobTest(("/work/**",))),),
            Verdict(AppClass.CACHED, unit=Unit.CGROUP),
        )
    )
    machine_recording = recording_of(machine.run_until_calm())
    comparison = replay_with(machine_recording, whole)
    (now,) = comparison.now
    assert (now.unit, now.size_kib, now.freed_kib) == ("cgroup", 180 * MIB, 180 * MIB)


def test_the_programs_that_registered_in_a_cgroup_go_with_it() -> None:
    machine = Machine(
        settings_with(
            Rule(
                "the works",
                "a.toml:1",
                (Condition("cgroup", GlobTest(("/work/**",))),),
                Verdict(AppClass.CACHED, unit=Unit.CGROUP),
            )
        )
    )
    for pid in (20, 21):
        machine.start(pid, "worker", 60, cgroup="/work")
        machine.register(pid, AppClass.CACHED)
    machine.start(13, "browser", 300)
    machine.start(14, "leak", 440)
    machine.run(3)
    assert {20, 21}.isdisjoint(machine.programs)
    recording = recording_of(machine.run_until_calm())
    gone = [one for one in recording.moments if isinstance(one.event, events.AppGone)]
    assert len(gone) == 2
    assert replay_with(recording, recording.base.settings).differences == ()


# --- apps -------------------------------------------------------------------------------------------------------


def registered(app_class: AppClass) -> Machine:
    """Play a shortage in which the browser, which registered, is asked for memory and then ended."""
    machine = Machine(SETTINGS)
    machine.start(12, "editor", 200)
    machine.start(13, "browser", 300)
    machine.register(13, app_class, sheddable_mib=100)
    leak = machine.start(14, "leak", 300, grows_mib_s=60)
    for _ in range(80):
        machine.run(0.1)
        if 13 not in machine.programs:
            leak.grows_kib_s = 0
    return machine


def test_apps_that_died_are_gone_and_those_that_live_on_stay() -> None:
    machine = registered(AppClass.CACHED)
    assert 13 not in machine.programs
    recording = recording_of(machine.run_until_calm())
    assert replay_with(recording, SETTINGS).differences == ()
    spared = settings_with(
        rule("editor", AppClass.CACHED), rule("browser", AppClass.CACHED, bias=-50)
    )
    comparison = replay_with(recording, spared)
    assert died(comparison)[1][0] == "editor"


def test_classes_of_registered_programs_stay_as_granted() -> None:
    recording = recording_of(registered(AppClass.CACHED).run_until_calm())
    comparison = replay_with(recording, settings_with(rule("browser", AppClass.FOREGROUND)))
    assert [(one.name, one.app_class) for one in comparison.now[:1]] == [("browser", "cached")]


def test_an_answer_counts_for_the_latest_notice_here() -> None:
    """Told earlier, under a raised floor, its notices have other numbers; its answers still find them."""
    machine = registered(AppClass.BACKGROUND)
    machine.programs.clear()
    recording = recording_of(machine.run_until_calm())
    answers = [one for one in recording.moments if isinstance(one.event, events.AckReceived)]
    assert answers
    comparison = replay_with(recording, raised_floor(SETTINGS))
    assert (comparison.levels_now[0].level, comparison.levels_then[0].level) == ("critical", "low")


def test_programs_that_are_asked_here_alone_are_silent_and_that_is_said() -> None:
    machine = Machine(SETTINGS)
    machine.start(13, "browser", 300)
    machine.register(13, AppClass.CACHED, sheddable_mib=100)
    machine.start(14, "leak", 475)
    machine.note_known()
    machine.run(5)
    assert machine.level is Level.NORMAL
    segment = machine.recorder.snapshot()
    assert segment is not None
    comparison = replay_with(recording_of(segment), raised_floor(SETTINGS))
    assert comparison.then == ()
    assert [one.name for one in comparison.now] == ["browser"]
    assert any(note.startswith("1 registered program would be asked") for note in comparison.notes)


def test_a_program_that_comes_back_after_it_died_here_is_not_there() -> None:
    """Its reconnection was that of a process which here is dead; nothing that it says is heard."""
    machine = Machine(BROWSER_FIRST)
    machine.start(12, "editor", 200)
    machine.start(13, "browser", 300)
    leak = machine.start(14, "leak", 250, grows_mib_s=60)
    while 13 in machine.programs:
        machine.run(0.1)
    leak.grows_kib_s = 0
    machine.run(0.5)
    machine.register(12, AppClass.CACHED, sheddable_mib=50)
    machine.feed(events.AppUpdated(machine.programs[12].app or 0, sheddable_kib=1))
    recording = recording_of(machine.run_until_calm())
    comparison = replay_with(recording, EDITOR_FIRST)
    assert [one.name for one in comparison.now] == ["editor"]


# --- what the recording does not say ----------------------------------------------------------------------------


def test_without_a_scan_what_was_known_of_the_processes_has_to_do() -> None:
    recording = without(LEAK, events.ProcessesScanned, events.VictimExited)
    comparison = replay_with(recording, raised_floor(EDITOR_FIRST))
    assert [one.name for one in comparison.now] == ["editor"]


def test_before_anything_is_said_of_processes_they_are_taken_as_they_are_later() -> None:
    recording = without(LEAK, KnownProcesses)
    comparison = replay_with(recording, raised_floor(EDITOR_FIRST))
    assert comparison.now[0].name == "editor"
    assert any("before the recording says of any" in note for note in comparison.notes)
    nobody = without(LEAK, KnownProcesses, events.ProcessesScanned, events.VictimExited)
    assert replay_with(nobody, raised_floor(EDITOR_FIRST)).now == ()


def test_the_small_ones_that_no_scan_saw_are_missed_and_that_is_said() -> None:
    recording = without(LEAK, KnownProcesses)
    wanting = settings_with(rule("browser", AppClass.CACHED, least_kib=100))
    comparison = replay_with(recording, wanting)
    assert any(f"below {20 * MIB} KiB" in note for note in comparison.notes)
    assert replay_with(LEAK, wanting).notes == (ESTIMATED,)


@pytest.mark.parametrize(
    ("subject", "word"),
    [("cmdline", "command line"), ("environ", "environment"), ("parent", "parent")],
)
def test_rules_that_ask_for_what_was_not_read_are_named(subject: str, word: str) -> None:
    asking = Rule("r", "a:1", (Condition(subject, TextTest(("x",))),), Verdict(AppClass.CACHED))
    comparison = replay_with(LEAK, settings_with(*BROWSER_FIRST.rules.rules, asking))
    assert any(
        note.startswith(f"Rules ask for the {word} of processes") for note in comparison.notes
    )
    base = replace(LEAK.base, settings=settings_with(*BROWSER_FIRST.rules.rules, asking))
    read = replay_with(replace(LEAK, base=base), base.settings)
    assert read.notes == (ESTIMATED,)


def test_other_questions_about_environments_find_nothing_and_that_is_said() -> None:
    def asking(pattern: str) -> Rule:
        conditions = (Condition("environ", TextTest((pattern,))),)
        return Rule("r", "a:1", conditions, Verdict(AppClass.CACHED))

    base = replace(LEAK.base, settings=settings_with(*BROWSER_FIRST.rules.rules, asking("A=1")))
    recording = replace(LEAK, base=base)
    other = settings_with(asking("B=1"), domains=(DomainPolicy("/a", SETTINGS),))
    notes = replay_with(recording, other).notes
    assert any(note.startswith("Of environments only") for note in notes)
    assert any("no readings of a domain that '/a' names" in note for note in notes)


def test_a_policy_that_changed_in_mid_recording_is_left_out() -> None:
    middle = len(LEAK.moments) // 2
    changed = Moment(LEAK.moments[middle].at_us, events.SettingsChanged(BROWSER_EXEMPT))
    moments = (*LEAK.moments[: middle + 1], changed, *LEAK.moments[middle + 1 :])
    comparison = replay_with(replace(LEAK, moments=moments), BROWSER_EXEMPT)
    assert any(note.startswith("The policy was changed") for note in comparison.notes)
    # What was recorded came of another run than the one that is now in it.
    assert any("decides otherwise than the one that recorded it" in one for one in comparison.notes)


def test_a_recording_that_lacks_its_beginning_or_its_end_says_so() -> None:
    machine = Machine(BROWSER_FIRST, most_bytes=60_000)
    machine.start(14, "leak", 790)
    machine.run(30)
    running = machine.recorder.snapshot()
    assert running is not None
    machine.programs.clear()
    for segment, missing in ((running, ["begins", "ends"]), (machine.run_until_calm(), ["begins"])):
        comparison = replay_with(recording_of(segment), BROWSER_FIRST)
        assert comparison.differences == ()
        found = [note.split()[2] for note in comparison.notes if "in mid-episode" in note]
        assert found == missing


def test_what_a_session_ended_of_its_own_it_ends_under_another_policy_too() -> None:
    """Whose session it is, and its cgroup, is in no file that could be given instead."""
    owned = replace(BROWSER_FIRST, own_uid=1000)
    settings = replace(owned, domains=(DomainPolicy("/user", owned),))
    recording = recording_of(cgroup_episode(settings, "/user"))
    comparison = replay_with(recording, BROWSER_FIRST)
    assert died(comparison) == (["browser"], ["browser"])
    assert comparison.differences == ()
    assert died(replay_with(recording, EDITOR_FIRST)) == (["browser"], ["editor"])
    named = replace(
        BROWSER_FIRST, domains=(DomainPolicy("/user", replace(owned, killable=frozenset())),)
    )
    assert died(replay_with(recording, named)) == (["browser"], [])


def test_what_a_session_watches_by_its_files_alone_is_another_files_to_watch() -> None:
    """Only the session's own cgroup has the policy of the whole, and that is how it is known."""
    owned = replace(BROWSER_FIRST, own_uid=1000)
    watched = DomainPolicy("/user", replace(BROWSER_FIRST, calm_hold_us=1))
    recording = recording_of(cgroup_episode(replace(owned, domains=(watched,)), "/user"))
    assert died(replay_with(recording, BROWSER_FIRST)) == (["browser"], [])


def test_a_cgroup_that_the_other_configuration_does_not_name_has_no_kills() -> None:
    """Of the system's own daemon every entry comes from a file."""
    settings = replace(BROWSER_FIRST, domains=(DomainPolicy("/box", BROWSER_FIRST),))
    comparison = replay_with(recording_of(cgroup_episode(settings, "/box")), BROWSER_FIRST)
    assert died(comparison) == (["browser"], [])


def test_a_watched_cgroup_keeps_its_kills_inside() -> None:
    settings = replace(BROWSER_FIRST, domains=(DomainPolicy("/box", BROWSER_FIRST),))
    recording = recording_of(cgroup_episode(settings, "/box"))
    assert replay_with(recording, settings).differences == ()
    other = replace(EDITOR_FIRST, domains=settings.domains)
    comparison = replay_with(recording, other)
    assert [(one.domain, one.name) for one in comparison.then] == [("/box", "browser")]
    assert [(one.domain, one.name) for one in comparison.now] == [("/box", "editor")]
    assert deaths(comparison)[0].domain == "/box"


def cgroup_episode(settings: Settings, cgroup: str) -> Segment:
    """Play a shortage in one cgroup, with a browser and an editor in it, of which the browser is ended."""
    machine = Machine(settings)
    machine.feed(events.DomainOpened(cgroup))
    machine.start(12, "editor", 100, cgroup=cgroup)
    machine.start(13, "browser", 100, cgroup=cgroup)
    short = replace(machine.reading(), domain=cgroup, total_kib=500 * MIB, available_kib=10 * MIB)
    for _ in range(3):
        machine.run(0.1)
        if 13 in machine.programs:
            machine.feed(events.ReadingTaken(replace(short, at_us=machine.now_us)))
    machine.run(0.5)
    calm = replace(short, available_kib=200 * MIB)
    for _ in range(50):
        machine.run(0.1)
        machine.feed(events.ReadingTaken(replace(calm, at_us=machine.now_us)))
    segment = machine.recorder.take()
    assert segment is not None
    return segment


def test_a_kill_in_flight_when_the_recording_begins_ends_here_as_it_did() -> None:
    machine = two_kills(ends_after_us=1_500 * MS)
    machine.recorder = Recorder(machine.state, 1 << 20)
    assert machine.state.domains[SYSTEM_DOMAIN].in_flight is not None
    recording = recording_of(machine.run_until_calm())
    assert replay_with(recording, BROWSER_FIRST).differences == ()


def test_a_policy_that_the_heart_cannot_take_is_an_error() -> None:
    with pytest.raises(RecordingError, match=r"event \d+ \(ReadingTaken\)"):
        replay_with(LEAK, replace(BROWSER_FIRST, floor={}))


def test_the_comparison_is_the_same_each_time_and_plain() -> None:
    one, other = (replay_with(LEAK, EDITOR_FIRST).as_plain() for _ in range(2))
    assert one == other
    assert OWN_PID not in [death["pid"] for death in one["now"]]  # type: ignore[index, union-attr, call-overload]


def test_marks_of_others_count_as_they_were_seen() -> None:
    moments = []
    for moment in LEAK.moments:
        event = moment.event
        if isinstance(event, KnownProcesses | events.ProcessesScanned):
            marked: tuple[Process, ...] = tuple(
                replace(one, mark=Mark.OMIT) if one.comm == "editor" else one
                for one in event.processes
            )
            changed = (
                KnownProcesses(marked)
                if isinstance(event, KnownProcesses)
                else replace(event, processes=marked)
            )
            moments.append(Moment(moment.at_us, changed))
        else:
            moments.append(moment)
    comparison = replay_with(replace(LEAK, moments=tuple(moments)), EDITOR_FIRST)
    assert "editor" not in died(comparison)[1]
