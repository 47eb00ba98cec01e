"""Which runs there are, in what order, and which of them are still to be played. Pure: no clock, no files.

A run is known by workload, guard and number, and counts as played only under the same configuration: the hash of
what decides how a run goes, which is the arena's own code and, for lmkd, lmkd's.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.arena.guards import BY_NAME as GUARDS
from tests.arena.workloads import BY_NAME as WORKLOADS

DEFAULT_RUNS = 3
DEFAULT_SEED = 1


class PlanError(Exception):
    """What was asked for cannot be; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One run to play."""

    workload: str
    guard: str
    number: int
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        return self.workload, self.guard, self.number

    @property
    def id(self) -> str:
        return f"{self.workload}-{self.guard}-{self.number}"


def parse_names(asked: str, known: Mapping[str, Any], what: str) -> tuple[str, ...]:
    """Return the names in a list with spaces or commas; all that are known, for an empty one."""
    names = tuple(dict.fromkeys(asked.replace(",", " ").split()))
    for name in names:
        if name not in known:
            raise PlanError(f"{what}: no such name as {name!r}; there are: {' '.join(known)}")
    return names or tuple(known)


def parse_count(asked: str, what: str, absent: int) -> int:
    """Return a number of at least 1."""
    if not asked:
        return absent
    if not asked.isascii() or not asked.isdigit() or int(asked) < 1:
        raise PlanError(f"{what}: expected a whole number of at least 1, not {asked!r}")
    return int(asked)


def order_runs(
    workloads: Iterable[str], guards: Iterable[str], runs: int, seed: int
) -> list[Planned]:
    """Return all runs, shuffled within each round: the first is over everywhere before the second begins.

    The seed of a run, from which its memory's content follows, is the same for all guards.
    """
    rounds = []
    for number in range(1, runs + 1):
        one_round = [
            Planned(workload, guard, number, seed * 1000 + number)
            for workload in sorted(workloads)
            for guard in sorted(guards)
        ]
        random.Random(seed * 1000 + number).shuffle(one_round)
        rounds.extend(one_round)
    return rounds


def select_remaining(
    planned: Iterable[Planned], played: Iterable[Mapping[str, Any]], revisions: Mapping[str, str]
) -> list[Planned]:
    """Leave out the runs that were played under the same revision; `revisions` is by guard."""
    done = {
        (run["workload"], run["guard"], run["run"])
        for run in played
        if run["revision"] == revisions.get(run["guard"])
    }
    return [run for run in planned if run.key not in done]


def plan(asked: Mapping[str, str]) -> tuple[list[Planned], int]:
    """Return the runs that GUARDS, WORKLOADS, RUNS and SEED ask for, and the seed."""
    guards = parse_names(asked.get("GUARDS", ""), GUARDS, "GUARDS")
    workloads = parse_names(asked.get("WORKLOADS", ""), WORKLOADS, "WORKLOADS")
    seed = parse_count(asked.get("SEED", ""), "SEED", DEFAULT_SEED)
    runs = parse_count(asked.get("RUNS", ""), "RUNS", DEFAULT_RUNS)
    return order_runs(workloads, guards, runs, seed), seed
