"""From raw runs to the figures of a table: medians over the runs of one workload under one guard. Pure.

Never is larger than any time: where most runs never came to it, so does the median. Runs that failed are counted, and
in no median.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Raw = dict[str, Any]
NEVER = float("inf")


def median(figures: Iterable[float]) -> float | None:
    """Return the middle one, or the mean of the two; None of none."""
    ordered = sorted(figures)
    if not ordered:
        return None
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low if low == high else (low + high) / 2


def lead_ms(run: Raw) -> float | None:
    """How long before the first stall the first notice came; None where one of them was not."""
    first_notice, first_stall = run["first_notice_ms"], run["first_stall_ms"]
    return None if first_notice is None or first_stall is None else first_stall - first_notice


def _sweep(run: Raw, name: str) -> float | None:
    """Return a figure of the first program that sweeps; of one that was killed, all but the median is never.

    It does not answer any more, and its last sweep before was not the worst of it.
    """
    program, taken = next(iter(run["sweeps_us"].items()), ("", {}))
    if name != "p50" and any(one["name"] == program for one in run["lost"]):
        return NEVER
    figure: float | None = taken.get(name)
    return figure


@dataclass(frozen=True, slots=True)
class Figures:
    """One row: a guard in a workload."""

    runs: int
    failed: int
    lost: dict[str, int]  # name to how often, of those that are not culprits
    missed: float | None  # how many that the user would miss
    useful_kib: float | None
    shed_kib: float | None
    asked_kib: float | None
    over_ms: float | None
    calm_ms: float | None
    full_us: float | None
    p50_us: float | None
    p99_us: float | None
    max_us: float | None
    oom_kills: float | None
    notices: float | None
    lead_ms: float | None
    guard_rss_kib: float | None
    guard_cpu_ms: float | None
    guard_major_faults: float | None
    guard_deaths: int


def summarize(runs: Iterable[Raw]) -> Figures:
    """Return the medians of runs of one workload under one guard."""
    every = list(runs)
    good = [run for run in every if "failed" not in run]

    def middle(of: Callable[[Raw], float | None], absent: float | None = None) -> float | None:
        found = [of(run) for run in good]
        known = [absent if figure is None else figure for figure in found]
        return median(figure for figure in known if figure is not None)

    def sweep(name: str) -> float | None:
        return middle(lambda run: _sweep(run, name))

    return Figures(
        runs=len(good),
        failed=len(every) - len(good),
        lost=dict(
            Counter(one["name"] for run in good for one in run["lost"] if one["role"] != "culprit")
        ),
        missed=middle(lambda run: sum(one["role"] == "missed" for one in run["lost"])),
        useful_kib=middle(lambda run: run["useful_lost_kib"]),
        shed_kib=middle(lambda run: run["shed_kib"]),
        asked_kib=middle(lambda run: run["asked_kib"]),
        over_ms=middle(lambda run: run["culprits_over_ms"], NEVER),
        calm_ms=middle(lambda run: run["calm_ms"], NEVER),
        full_us=middle(lambda run: run["full_us"]),
        p50_us=sweep("p50"),
        p99_us=sweep("p99"),
        max_us=sweep("max"),
        oom_kills=middle(lambda run: run["oom_kills"]),
        notices=middle(lambda run: run["notices"]),
        lead_ms=middle(lead_ms),
        guard_rss_kib=middle(lambda run: run["guard_peak_rss_kib"]),
        guard_cpu_ms=middle(lambda run: run["guard_cpu_ms"]),
        guard_major_faults=middle(lambda run: run["guard_major_faults"]),
        guard_deaths=sum(not run["guard_alive"] for run in good),
    )


def select_latest(runs: Iterable[Raw]) -> list[Raw]:
    """Keep, of each workload, guard and number, the run that was played last."""
    latest: dict[tuple[str, str, int], Raw] = {}
    for run in runs:
        latest[run["workload"], run["guard"], run["run"]] = run
    return list(latest.values())
