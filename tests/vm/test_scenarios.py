"""What must be seen to hold of lmkd on a real kernel under real memory pressure.

Each scenario of tests/vm/guest is played once with 200 MB of zram and once without any swap, by the real daemon in its
stock configuration (where not, the scenario says why); here its timeline is judged.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ..everyone.programs import commands
from ..interop.listeners import build_glib_monitor, build_sd_event_program
from .machine import Machine

Event = dict[str, Any]
SCENARIO_TIMEOUT_S = 240
FRAMES_WAY_MS = 50
"""From the daemon's send to the app's stamp, with two emulated processors that others want, too (seen: 13)."""

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Outcome:
    """What was left of a scenario."""

    events: list[Event]
    alive: list[str]
    oom_kills: int
    daemon_alive: bool
    daemon_majflt: int
    daemon_log: str
    history: list[dict[str, Any]]
    recordings: list[Path] = field(default_factory=list)

    def of(self, who: str, what: str, **more: Any) -> list[Event]:
        return [
            event
            for event in self.events
            if event["who"] == who
            and event["what"] == what
            and all(event.get(key) == value for key, value in more.items())
        ]

    def ended(self, who: str) -> Event:
        """When and how one program ended."""
        found = [event for event in self.events if event["what"] == "ended" and event["who"] == who]
        assert found, f"{who} did not end"
        return found[0]

    def records(self, kind: str) -> list[dict[str, Any]]:
        return [
            record
            for episode in self.history
            for record in episode["records"]
            if record["kind"] == kind
        ]


Play = Callable[..., Outcome]
"""Plays the scenario of this name, with these arguments after the kind of machine."""


@pytest.fixture(params=["zram", "noswap"])
def play(request: pytest.FixtureRequest, vm_machine: Callable[[int], Machine]) -> Play:
    """Return what plays a scenario in a machine of this kind."""
    swap_mib = 200 if request.param == "zram" else 0

    def run(name: str, *arguments: str) -> Outcome:
        machine = vm_machine(swap_mib)
        kind = "swap" if swap_mib else "noswap"
        argv = [sys.executable, "-m", f"tests.vm.guest.{name}", kind, *arguments]
        machine.run(argv, timeout_s=SCENARIO_TIMEOUT_S).check()
        outcome = Outcome(**json.loads((machine.out_dir / f"{name}.json").read_text()))
        print(timeline(outcome))  # shown when the test fails
        assert not outcome.of("stage", "timeout"), outcome.of("stage", "timeout")
        assert outcome.daemon_alive
        assert "Traceback" not in outcome.daemon_log
        recordings = sorted((machine.out_dir / f"{name}-recordings").glob("*.lmkdrec"))
        if outcome.history:
            assert recordings, "there were episodes, and none was recorded"
        for recording in recordings:
            it_replays(recording)
        outcome.recordings.extend(recordings)
        return outcome

    return run


def replay(recording: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a recording as a user does."""
    argv = [sys.executable, "-m", "lmkd.ctl", "replay", str(recording), *more]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)


def it_replays(recording: Path) -> None:
    """The verdicts of a recording, worked out again on this machine, are those of the guest, byte for byte."""
    again, then = replay(recording, "--json"), replay(recording, "--json", "--recorded")
    assert (again.returncode, then.returncode) == (0, 0), again.stderr + then.stderr
    assert again.stdout == then.stdout
    assert '"kind"' in again.stdout, "nothing was decided in it"


def timeline(outcome: Outcome) -> str:
    start = outcome.events[0]["t"]
    lines = []
    for event in outcome.events:
        rest = {key: value for key, value in event.items() if key not in ("t", "who", "what")}
        lines.append(f"{event['t'] - start:>7} {event['who']:<14} {event['what']:<12} {rest}")
    return "\n".join([*lines, f"alive: {outcome.alive}", outcome.daemon_log])


def test_caches_that_shed_live_and_the_leak_dies(play: Play, tmp_path: Path) -> None:
    """1: the caches are told before the leak is killed, they shed, they live; no kernel OOM kill."""
    outcome = play("leak")
    leak_started = outcome.of("leak", "started")[0]["t"]
    leak_ended = outcome.ended("leak")["t"]
    for cache in ("cache1", "cache2", "cache3"):
        told = [notice for notice in outcome.of(cache, "notice") if notice["level"] != "normal"]
        assert min(notice["t"] for notice in told) < leak_ended
        assert any(leak_started < notice["t"] < leak_ended for notice in told)
        assert sum(event["mib"] for event in outcome.of(cache, "shed")) >= 25
    assert set(outcome.alive) == {"watcher", "foreground", "cache1", "cache2", "cache3"}
    assert outcome.oom_kills == 0
    assert outcome.daemon_majflt == 0
    # What if the rules had been others: the recording says who would have died instead.
    kept = tmp_path / "kept.toml"
    kept.write_text('[[rule]]\nname = "kept"\nmatch = { oom_score_adj = 700 }\nexempt = true\n')
    (recording,) = [one for one in outcome.recordings if '"kill"' in replay(one, "--json").stdout]
    other = replay(recording, "--config", str(kept))
    assert other.returncode == 0, other.stderr
    leak = outcome.of("leak", "started")[0]["pid"]
    assert f"pid {leak}" in other.stdout, other.stdout
    print(other.stdout)


def test_an_app_that_ignores_its_notices_has_its_deadline_and_not_much_more(play: Play) -> None:
    """2: it outlives its deadline by less than 300 ms plus its time to exit, and by no moment less."""
    outcome = play("deadline")
    last = outcome.of("ignorer", "notice", level="critical")[-1]
    assert last["deadline_ms"] > 2_500, "the grace was cut short: this was an emergency"
    grant = outcome.of("ignorer", "registered")[0]
    # The receiver stamps a notice when it reads it, so the true deadline is not later than this sum.
    deadline = last["t"] + last["deadline_ms"]
    delivered_late_ms = grant["grace_ms"] - last["deadline_ms"]
    sigterm = outcome.of("ignorer", "sigterm")[0]["t"]
    ended = outcome.ended("ignorer")["t"]
    # By the daemon's own clock, exactly; by the app's, which stamps a notice when it comes to read it, less its way.
    [kill] = outcome.records("kill")
    told = [
        record["at_ms"]
        for record in outcome.records("told")
        if record["level"] == "critical" and record["at_ms"] <= kill["at_ms"]
    ]
    assert kill["at_ms"] - told[-1] >= grant["grace_ms"]
    assert sigterm >= deadline - delivered_late_ms - FRAMES_WAY_MS
    assert ended - deadline < 300 + grant["time_to_exit_ms"]
    assert outcome.ended("ignorer")["code"] == -9
    assert outcome.oom_kills == 0


CLASS_ORDER = ("cached", "background", "service", "perceptible")


def test_classes_die_in_order_one_at_a_time_and_only_until_it_is_enough(play: Play) -> None:
    """3: strictly in class order, one in flight at a time, and only until the level has fallen."""
    outcome = play("order")
    kills = outcome.records("kill")
    order = [CLASS_ORDER.index(kill["class"]) for kill in kills]
    assert order == sorted(order)
    assert order, "nobody died: the hog was too small for this machine"
    for app_class in CLASS_ORDER[: order[-1]]:
        assert not [name for name in outcome.alive if name.startswith(app_class)]
    for episode in outcome.history:
        in_flight = 0
        for record in episode["records"]:
            if record["kind"] == "kill":
                in_flight += 1
                assert in_flight == 1, "two kills at once"
            elif record["kind"] in ("exited", "failed"):
                in_flight -= 1
    survivors = [name for name in outcome.alive if name.startswith(CLASS_ORDER)]
    assert survivors, "everybody died: the hog was too large for this machine"
    full = outcome.of("hog", "full")[0]["t"]
    late = [event for event in outcome.of("watcher", "killed") if event["t"] > full + 3_000]
    assert not late, "killed when it was enough already"
    assert outcome.oom_kills == 0


def test_pressure_in_a_subtree_stays_there(play: Play) -> None:
    """4: only apps of that subtree are told, only they can die, and the system stays normal."""
    outcome = play("subtree")
    assert {event["level"] for event in outcome.of("watcher", "pressure")} == {"normal"}
    assert {event["level"] for event in outcome.of("inner-watcher", "pressure")} >= {"critical"}
    assert outcome.of("inside", "notice")
    assert {notice["domain"] for notice in outcome.of("inside", "notice")} == {"/work"}
    assert not outcome.of("outside", "notice")
    assert outcome.ended("filler")
    assert {"watcher", "inner-watcher", "outside"} <= set(outcome.alive)
    assert outcome.oom_kills == 0


def test_a_hostile_crowd_delays_nobody_for_long(play: Play) -> None:
    """5: with 50 deaf subscribers, a stopped client and a flood of garbage, 450 others hear every level."""
    outcome = play("crowd")
    spread = {}
    for what in ("quiet", "hostile"):
        rounds = outcome.of("stage", what)
        assert len(rounds) == 6
        for heard in rounds:
            assert heard["heard"] == heard["heard_end"] == 450
        spread[what] = sorted(heard["first_ms"] + heard["spread_ms"] for heard in rounds)
    # The flood, the crowd and the daemon share two emulated processors, so part of it is the crowd's own time.
    assert spread["hostile"][3] <= 3 * spread["quiet"][3] + 200


def test_a_daemon_killed_in_mid_episode_comes_back_to_its_clients(play: Play) -> None:
    """6: clients come back by themselves, and the episode is carried on sensibly."""
    outcome = play("comeback")
    for who in ("keeper", "cache"):
        assert len(outcome.of(who, "registered")) == 2
        assert outcome.of(who, "disconnected")
    before, after = (outcome.of("stage", "adj", when=when)[0] for when in ("before", "after"))
    assert (before["cache"], before["keeper"]) == (after["cache"], after["keeper"]) == (900, 200)
    again = outcome.of("cache", "registered")[1]["t"]
    assert any(
        notice["t"] >= again
        for notice in outcome.of("cache", "notice")
        if notice["level"] != "normal"
    )
    assert outcome.ended("leak")["t"] > again
    leak = outcome.of("leak", "started")[0]["pid"]
    assert [kill["pid"] for kill in outcome.records("kill")] == [leak]
    assert set(outcome.alive) == {"keeper", "cache"}
    assert outcome.oom_kills == 0


def test_kills_follow_the_rules_and_stay_in_the_pressed_subtree(play: Play) -> None:
    """Ten programs in four subtrees: in the order of the rules, groups and trees whole, and nobody else."""
    outcome = play("rules")
    kills = [(kill["rule"], kill["unit"], kill["count"]) for kill in outcome.records("kill")]
    assert kills == [
        ("tabs go first", "process", 1),
        ("tabs go first", "process", 1),
        ("the database as a whole", "cgroup", 3),
        ("a build with all it started", "tree", 3),
    ]
    assert {kill["cgroup"].split("/")[1] for kill in outcome.records("kill")} == {"work"}
    ended = {event["who"] for event in outcome.events if event["what"] == "ended"}
    assert ended == {"tab1", "tab2", "db1", "db2", "db3", "make"}
    assert [event["alive"] for event in outcome.of("stage", "build_child")] == [False, False]
    assert outcome.oom_kills == 0
    assert outcome.daemon_majflt == 0
    [places] = outcome.of("stage", "places")
    expected = {
        "tab1": 900,
        "db2": 700,
        "make": 500,
        "editor": 200,
        "safe": -1000,
        "bystander": 500,
    }
    assert {name: places[name] for name in expected} == expected
    marks = {
        event["group"]: (event["ooms"], event["kill"]) for event in outcome.of("stage", "marks")
    }
    assert marks == {"/work/tabs": ("2", "2"), "/work/db": ("1", "3")}
    # Started by exec in mid-episode, they had their places before the next kill.
    first, second, *_ = [event["t"] for event in outcome.of("watcher", "killed")]
    classed = {event["program"]: event["t"] for event in outcome.of("stage", "classed")}
    assert set(classed) == {"late-tab", "late-editor"}
    assert all(first <= at < second for at in classed.values())


def test_when_the_loop_hangs_the_watchdog_ends_the_leak(play: Play) -> None:
    """A leak that ignores SIGTERM, and a loop that reads nothing: it ends before the kernel has to act."""
    outcome = play("hung")
    leak = outcome.of("leak", "started")[0]["pid"]
    assert outcome.ended("leak")["code"] == -9
    [kill] = outcome.records("watchdog")
    assert kill["pid"] == leak
    assert "the loop had not answered for " in kill["reason"]
    assert outcome.records("kill") == []
    assert outcome.alive == ["keeper"]
    assert outcome.oom_kills == 0


def test_ten_thousand_groups_come_and_go_and_all_is_given_back(vm_noswap: Machine) -> None:
    argv = [sys.executable, "-m", "tests.vm.guest.groups", "noswap"]
    vm_noswap.run(argv, timeout_s=SCENARIO_TIMEOUT_S).check()
    outcome = Outcome(**json.loads((vm_noswap.out_dir / "groups.json").read_text()))
    print(timeline(outcome))
    assert not outcome.of("stage", "timeout")
    [before], [after] = outcome.of("stage", "before"), outcome.of("stage", "after")
    [watched] = outcome.of("stage", "watched")
    assert watched["descriptors"] >= watched["before"] + 100  # one or more for each of them
    # The question that asks for them may still be closing.
    assert after["descriptors"] <= before["descriptors"] + 2
    assert after["resident_kib"] <= before["resident_kib"] + 512


def test_the_kernels_own_killer_takes_whom_lmkd_would_have_taken(
    vm_noswap: Machine,
) -> None:
    """After SIGKILL of lmkd, in five arrangements; what is exempt outlives the kernel's killer, too."""
    argv = [sys.executable, "-m", "tests.vm.guest.orders", "noswap"]
    said_before = len(vm_noswap.console())
    vm_noswap.run(argv, timeout_s=SCENARIO_TIMEOUT_S).check()
    # In the kernel's own words: which of two that end within 30 ms is seen to end first is the scheduler's choice.
    killed = re.findall(r"Killed process (\d+) \(", vm_noswap.console()[said_before:])
    outcome = Outcome(**json.loads((vm_noswap.out_dir / "orders.json").read_text()))
    print(timeline(outcome))
    arranged, taken = outcome.of("stage", "arranged"), outcome.of("stage", "taken")
    assert len(arranged) == len(taken) == 5
    for before, after in zip(arranged, taken, strict=True):
        ranks = before["ranks"]
        assert sorted(rank for rank in ranks.values() if rank is not None)[0] == 1
        names = {str(outcome.of(name, "started")[0]["pid"]): name for name in ranks}
        order = [ranks[names[pid]] for pid in killed if pid in names]
        assert {names[pid] for pid in killed if pid in names} == set(after["taken"])
        assert order[0] == 1, before["arrangement"]
        assert order == sorted(order), before["arrangement"]  # and so on, as long as it went on
    exempt = arranged[2]["ranks"]
    assert [name for name, rank in exempt.items() if rank is None] == ["kept-2"]
    assert "kept-2" not in taken[2]["taken"]
    assert [event["together"] for event in arranged] == ["0", "0", "0", "1", "0"]
    assert taken[3]["group_kills"] == 1
    assert {"one-3", "two-3"} <= set(taken[3]["taken"])


def test_the_demonstration_has_real_pressure_where_there_is_a_memory_cgroup(
    vm_noswap: Machine,
) -> None:
    """`make demo` as a user sees it: the leak ends, the caches and the editor live."""
    output = vm_noswap.run(
        [sys.executable, "examples/demo.py"], timeout_s=SCENARIO_TIMEOUT_S
    ).check()
    assert output.startswith("Real pressure: a memory cgroup of 128 MB"), output
    assert "ended leak" in output
    assert output.count("alive") == 4


@pytest.mark.parametrize("play", ["noswap"], indirect=True)
def test_every_program_hears_of_a_real_episode_and_who_sheds_is_credited(
    play: Play, vm_machine: Callable[[int], Machine]
) -> None:
    """14: five languages, GLib's memory monitor and sd-event, none of which knows of the others."""
    folder = vm_machine(0).out_dir / "everyone"
    folder.mkdir()
    given: dict[str, Any] = {
        "commands": commands(folder, 24),
        "glib": str(build_glib_monitor(folder)),
        "sd_event": None,
    }
    on_sd_event = build_sd_event_program(folder)
    if on_sd_event is not None:
        given["sd_event"], given["sd_environment"] = str(on_sd_event[0]), on_sd_event[1]
    here = json.dumps(given).replace(str(folder), "/out/everyone")
    (folder / "commands.json").write_text(here)
    outcome = play("everyone", "/out/everyone")

    assert outcome.oom_kills == 0
    assert outcome.daemon_majflt == 0
    assert set(outcome.alive) == {*given["commands"], "glib", "sd_event"} - (
        set() if given["sd_event"] else {"sd_event"}
    )
    numbers = {event["who"]: event["app"] for event in outcome.events if event["what"] == "app"}
    assert set(numbers) == set(given["commands"])
    for language, number in numbers.items():
        ack = next(record for record in outcome.records("ack") if record["app"] == number)
        told = next(
            (record, one)
            for record in outcome.records("told")
            for one in record["apps"]
            if one["app"] == number and one["target_kib"]
        )
        print(language, told[1], {**ack, "after_ms": ack["at_ms"] - told[0]["at_ms"]})
        assert ack["answer"] == "done", language
        assert ack["claimed_kib"] >= ack["asked_kib"] == told[1]["target_kib"], language
        assert ack["at_ms"] - told[0]["at_ms"] <= told[1]["grace_ms"], language
        assert ack["trust"] == 1, language
    (calm,) = outcome.of("stage", "calm")
    heard = [event for event in outcome.of("glib", "said") if event["line"].startswith("warning ")]
    assert all(event["t"] > calm["t"] for event in heard)
    warnings = [int(event["line"].removeprefix("warning ")) for event in heard]
    assert {50, 100, 255} <= set(warnings)
    assert warnings[-1] == 0
    woken = [event for event in outcome.of("sd_event", "said") if "woken" in event["line"]]
    assert bool(woken) is bool(given["sd_event"])
    first_medium = next(
        event["t"] for event in heard if event["line"] in ("warning 100", "warning 255")
    )
    assert all(event["t"] > first_medium - 1000 for event in woken)
