"""A small arena, as CI plays it: the baseline under nobody, earlyoom and lmkd, once each."""

import os
from typing import Any

import pytest

from tests.arena.contest import Contest, find_lacking
from tests.arena.plan import Planned

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]
_GUARDS = ("none", "earlyoom", "lmkd")


@pytest.fixture(scope="module")
def played() -> dict[str, dict[str, Any]]:
    """The raw numbers, by guard."""
    lacking = find_lacking()
    if lacking:
        reason = f"no arena here: {'; '.join(lacking)}"
        if os.environ.get("LMKD_VM_REQUIRED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with Contest() as contest:
        return {guard: contest.play(Planned("baseline", guard, 1, 1001)) for guard in _GUARDS}


def test_every_run_came_to_its_end(played: dict[str, dict[str, Any]]) -> None:
    for guard, run in played.items():
        assert "failed" not in run, (guard, run["failed"])
        assert run["guard_alive"], run["guard_log"]
        assert run["before"]["available_kib"] > 80 * 1024
        assert run["culprit_kib_s"] > 10 * 1024, (
            "the leak was slower than half of what it should be"
        )
        assert run["sweeps_us"]["foreground"]["count"] > 50


def test_without_a_guard_the_kernel_has_to_kill(played: dict[str, dict[str, Any]]) -> None:
    """Else the load is none, and whoever does well under it has shown nothing."""
    assert played["none"]["oom_kills"] >= 1
    assert played["none"]["full_us"] > 500_000


def test_under_lmkd_the_leak_alone_ends_and_sooner_than_under_earlyoom(
    played: dict[str, dict[str, Any]],
) -> None:
    """The margins are for noise: 60% of the time and a tenth of the stall are what the arena's medians are held to."""
    ours, theirs = played["lmkd"], played["earlyoom"]
    assert [one["name"] for one in ours["lost"]] == ["leak"], ours["guard_log"]
    assert ours["lost"][0]["by"].startswith("signal")
    assert ours["oom_kills"] == 0
    assert ours["culprits_over_ms"] < theirs["culprits_over_ms"], (ours, theirs)
    assert ours["full_us"] < theirs["full_us"] * 0.8, (ours, theirs)
