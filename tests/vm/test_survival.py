"""The daemon survives: episodes back to back, SIGKILL at random moments, and a kill that makes and imports nothing."""

from __future__ import annotations

import json
import os
import shutil
import sys
from statistics import median

import pytest

from tests.strace import broken_rules, window

from .machine import Machine
from .test_scenarios import Event, Outcome, timeline

EPISODES = int(os.environ.get("LMKD_VM_EPISODES", "30"))
"""2 s each on a machine of two processors that has nothing else to do; a release is given 100, and 20 murders."""
MURDERS = int(os.environ.get("LMKD_VM_MURDERS", "8"))
SEED = 4
TIMEOUT_S = 900
GROWTH_MOST_KIB = 768
"""The index of the history holds up to 200 episodes; a hundred of them were 508 KiB (seen)."""

pytestmark = pytest.mark.timeout(TIMEOUT_S + 120)


def play(machine: Machine, name: str, *arguments: str) -> Outcome:
    """Play a scenario, and return what was left of it."""
    argv = [sys.executable, "-m", f"tests.vm.guest.{name}", "noswap", *arguments]
    machine.run(argv, timeout_s=TIMEOUT_S).check()
    outcome = Outcome(**json.loads((machine.out_dir / f"{name}.json").read_text()))
    print(timeline(outcome))  # shown when the test fails
    assert not outcome.of("stage", "timeout"), outcome.of("stage", "timeout")
    assert outcome.daemon_alive
    assert "Traceback" not in outcome.daemon_log
    return outcome


def middle(episodes: list[Event], what: str) -> float:
    return float(median(episode["held"][what] for episode in episodes))


def test_many_episodes_in_a_row_leave_the_daemon_as_it_was(vm_noswap: Machine) -> None:
    """Back to back: none is missed, and descriptors, threads and resident set do not grow."""
    outcome = play(vm_noswap, "episodes", str(EPISODES))
    episodes = outcome.of("stage", "episode")
    assert [episode["number"] for episode in episodes] == list(range(1, EPISODES + 1))
    with_kills = [episode for episode in outcome.history if episode["kills"]]
    assert len(with_kills) == EPISODES
    assert [kill["pid"] for kill in outcome.records("kill")] == [leak["pid"] for leak in episodes]
    assert outcome.alive == ["keeper", "ballast"]
    assert outcome.oom_kills == 0
    # Of all of it; that none lies between a critical reading and SIGKILL is for the traced kill to show.
    print(f"major faults of the daemon: {outcome.daemon_majflt}")
    first, last = episodes[:10], episodes[-10:]
    for what in ("descriptors", "threads"):
        assert middle(last, what) == middle(first, what)
    assert middle(last, "resident_kib") <= middle(first, "resident_kib") + GROWTH_MOST_KIB
    slowest = max(episode["ms"] for episode in last)
    print(f"episodes: first ten {first}\nlast ten {last}\nslowest of the last {slowest} ms")


def test_a_daemon_killed_at_any_moment_harms_nobody(vm_noswap: Machine) -> None:
    """At random moments of an episode: only leaks die, every app is back, and the history can be read."""
    outcome = play(vm_noswap, "murdered", str(MURDERS), str(SEED))
    murders = outcome.of("stage", "murder")
    assert len(murders) == MURDERS
    leaks = {event["pid"] for event in (*murders, *outcome.of("stage", "undisturbed"))}
    # By a signal of lmkd's, whether the daemon that sent it lived to tell or not.
    assert all(murder["code"] in (-9, -15) for murder in murders)
    assert {kill["pid"] for kill in outcome.records("kill")} <= leaks
    assert outcome.alive == ["keeper", "cache", "bystander", "ballast"]
    assert outcome.oom_kills == 0
    for app in ("keeper", "cache"):
        assert len(outcome.of(app, "registered")) == MURDERS + 1
    moments = {(murder["level"], murder["dead_before"]) for murder in murders}
    assert len(moments) >= 3, f"all at the same moment: {moments}"
    # Every line was one of JSON, or there would be no outcome; what the daemon makes of it:
    [told] = outcome.of("stage", "told")
    assert told["code"] == 0, told["error"]
    assert "critical" in told["text"]
    numbers = [episode["episode"] for episode in outcome.history]
    assert numbers == sorted(set(numbers))


def test_between_the_critical_reading_and_sigkill_nothing_is_made_or_imported(
    vm_noswap: Machine,
) -> None:
    """Under real pressure: no major fault, thread, process or file, and no module or library is opened."""
    if shutil.which("strace") is None:
        if os.environ.get("LMKD_VM_REQUIRED") == "1":
            pytest.fail("no strace here: install strace")
        pytest.skip("no strace here: install strace")
    outcome = play(vm_noswap, "traced")
    assert outcome.of("stage", "leak")[0]["code"] == -9
    assert outcome.daemon_majflt == 0
    trace = (vm_noswap.out_dir / "trace").read_text(errors="replace")
    seen = window(trace.splitlines())
    print("\n".join(seen))
    assert len(seen) > 20, "hardly anything was seen"
    assert broken_rules(seen) == []
