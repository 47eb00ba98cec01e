"""Which runs are played, and in what order: the same for the same seed, and none twice."""

import subprocess
import sys

import pytest

from tests.arena.contest import revisions
from tests.arena.guards import BY_NAME as GUARDS
from tests.arena.guards import GUARDS as DECLARED
from tests.arena.plan import PlanError, order_runs, plan, select_remaining
from tests.arena.workloads import BY_NAME as WORKLOADS
from tests.arena.workloads import WORKLOADS as DECLARED_WORKLOADS


def test_all_guards_under_all_workloads_three_times_unless_it_is_cut() -> None:
    planned, _ = plan({})
    assert len(planned) == len({run.key for run in planned}) == 10 * 9 * 3
    assert len(GUARDS) == len(DECLARED) == 10
    assert len(WORKLOADS) == len(DECLARED_WORKLOADS) == 9


def test_a_cut_names_guards_workloads_and_runs() -> None:
    planned, seed = plan(
        {"GUARDS": "none, lmkd", "WORKLOADS": "baseline", "RUNS": "2", "SEED": "7"}
    )
    assert {run.guard for run in planned} == {"none", "lmkd"}
    assert len(planned) == 4
    assert seed == 7


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"GUARDS": "oomkiller"}, "GUARDS: no such name as 'oomkiller'; there are: none earlyoom"),
        ({"WORKLOADS": "baseline x"}, "WORKLOADS: no such name as 'x'; there are: baseline"),
        ({"RUNS": "0"}, "RUNS: expected a whole number of at least 1, not '0'"),
        ({"SEED": "²"}, "SEED: expected a whole number of at least 1, not '²'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(asked: dict[str, str], expected: str) -> None:
    with pytest.raises(PlanError) as raised:
        plan(asked)
    assert str(raised.value).startswith(expected)
    assert "\n" not in str(raised.value)


def test_the_order_is_shuffled_by_the_seed_and_by_nothing_else() -> None:
    runs = order_runs(("a", "b", "c"), ("x", "y"), 2, 1)
    assert runs == order_runs(("c", "b", "a"), ("y", "x"), 2, 1)
    assert runs != order_runs(("a", "b", "c"), ("x", "y"), 2, 2)
    assert [run.number for run in runs] == [1] * 6 + [2] * 6
    assert len({run.seed for run in runs if run.number == 1}) == 1


def test_a_run_is_played_again_only_when_what_decides_it_has_changed() -> None:
    planned = order_runs(("a",), ("x", "lmkd"), 1, 1)
    played = [
        {"workload": "a", "guard": "x", "run": 1, "revision": "arena"},
        {"workload": "a", "guard": "lmkd", "run": 1, "revision": "arena-old"},
    ]
    remaining = select_remaining(planned, played, {"x": "arena", "lmkd": "arena-new"})
    assert [run.guard for run in remaining] == ["lmkd"]


def test_what_decides_for_one_guard_is_no_matter_of_the_others() -> None:
    known = revisions(["none", "earlyoom", "lmkd"])
    assert len({*known.values()}) == 3
    assert (
        len({revision.split("-")[0] for revision in known.values()}) == 1
    )  # what all have in common
    assert len(known["lmkd"].split("-")) == 3  # and lmkd's own code
    assert revisions(["earlyoom"])["earlyoom"] == known["earlyoom"]


def test_an_argument_is_not_taken_for_a_wish_to_begin() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.arena", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "it takes no arguments" in done.stderr
