"""The page, from raw numbers that stand here: medians, never, failures, and what was written by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.arena.metrics import NEVER, median, summarize
from tests.arena.raw import RawError, append_run, parse_line, read_runs
from tests.arena.report import BEGIN, END, kept_reading, render, say, say_lost, tabulate


def raw(**changed: Any) -> dict[str, Any]:
    """Return one run, as the guest writes it."""
    return {
        "workload": "baseline",
        "guard": "earlyoom",
        "run": 1,
        "revision": "r",
        "at": "2026-01-02T03:04:05+00:00",
        "versions": {"kernel": "6.1"},
        "lost": [{"name": "leak", "role": "culprit", "held_kib": 1, "at_ms": 1, "by": "kernel"}],
        "useful_lost_kib": 0,
        "shed_kib": 0,
        "asked_kib": 0,
        "culprits_over_ms": 10_000,
        "calm_ms": 12_000,
        "full_us": 3_000_000,
        "sweeps_us": {"foreground": {"count": 3, "p50": 1000, "p99": 2000, "max": 3000}},
        "oom_kills": 1,
        "notices": 0,
        "first_notice_ms": None,
        "first_stall_ms": 5000,
        "guard_peak_rss_kib": 1024,
        "guard_cpu_ms": 10,
        "guard_major_faults": 2,
        "guard_alive": True,
        "timeline": [[0, 100, 0, 0, 5]],
        **changed,
    }


WORKER = {"name": "worker1", "role": "missed", "held_kib": 61440, "at_ms": 9, "by": "signal 9"}


def test_the_median_is_the_middle_and_never_is_later_than_any_time() -> None:
    assert median([]) is None
    assert median([3, 1, 2]) == 2
    assert median([1, 2]) == 1.5
    assert median([1, NEVER]) == NEVER
    figures = summarize([raw(calm_ms=None), raw(calm_ms=None), raw()])
    assert figures.calm_ms == NEVER
    assert say(figures.calm_ms, 1000, 1) == "never"
    assert summarize([raw(calm_ms=None), raw(), raw()]).calm_ms == 12_000


def test_a_run_that_failed_is_counted_and_in_no_median() -> None:
    figures = summarize([raw(), {"workload": "baseline", "failed": "hung"}])
    assert (figures.runs, figures.failed) == (1, 1)
    assert figures.full_us == 3_000_000
    assert summarize([{"failed": "hung"}]).full_us is None


def test_the_lost_are_named_and_the_culprit_is_not_one_of_them() -> None:
    lost = [*raw()["lost"], WORKER]
    figures = summarize([raw(lost=lost), raw(), raw()])
    assert say_lost(figures) == "worker1 (1 in 3 runs)"
    assert figures.missed == 0
    assert say_lost(summarize([raw()])) == "nobody"


def test_a_program_that_was_killed_answers_never_again() -> None:
    """Else a guard that kills it as soon as it stalls would have the best of foreground programs."""
    killed = {"name": "foreground", "role": "missed", "held_kib": 1, "at_ms": 9, "by": "kernel"}
    lost = raw(lost=[killed])
    figures = summarize([lost, lost, raw()])
    assert (figures.p50_us, figures.p99_us, figures.max_us) == (1000, NEVER, NEVER)
    assert summarize([lost, raw(), raw()]).p99_us == 2000
    assert summarize([raw(lost=[WORKER])]).p99_us == 2000
    assert summarize([raw(sweeps_us={})]).p99_us is None


def test_the_lead_is_from_the_first_notice_to_the_first_stall() -> None:
    assert summarize([raw(first_notice_ms=2000)]).lead_ms == 3000
    assert summarize([raw()]).lead_ms is None


def test_the_page_has_a_table_for_each_workload_and_keeps_what_was_written_by_hand(
    tmp_path: Path,
) -> None:
    page = tmp_path / "arena.md"
    page.write_text(f"old\n{BEGIN}\nA word.\n{END}\nold\n")
    runs = [raw(), raw(guard="none"), raw(workload="spread", lost=[WORKER]), raw(run=1)]
    text = render(runs, kept_reading(page), ["arena/x.svg"])
    assert f"{BEGIN}\nA word.\n{END}" in text
    assert "\nold" not in text
    assert "## baseline" in text
    assert "## spread" in text
    assert "## fork-bomb" not in text
    assert "| earlyoom | worker1 | 0 | 0 | 10.0 | 12.0 | 3.00 | 1.0 / 2.0 / 3.0 | 1 |" in text
    assert "![x](arena/x.svg)" in text
    assert "3 runs, 2026-01-02;" in text
    assert list(tabulate(runs)["baseline"]) == ["none", "earlyoom"]
    assert kept_reading(tmp_path / "none.md").startswith("_Nothing")


def test_the_raw_file_is_appended_to_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "runs.jsonl"
    assert read_runs(path) == []
    append_run(path, raw())
    append_run(path, raw(run=2))
    assert read_runs(path) == [raw(), raw(run=2)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"workload": "base', "runs:1: not JSON"),
        ("[1]", "runs:1: expected a map"),
        (json.dumps({"workload": "baseline"}), "runs:1: a run has workload, guard, run, revision"),
    ],
)
def test_a_broken_line_is_named_with_what_was_expected(line: str, expected: str) -> None:
    with pytest.raises(RawError) as raised:
        parse_line(line, "runs:1")
    assert str(raised.value).startswith(expected)
    assert "\n" not in str(raised.value)


def test_the_plots_are_drawn_alike_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tests.arena.plots import draw

    runs = [raw(), raw(guard="none", calm_ms=None, culprits_over_ms=None)]
    drawn = []
    for name in ("one", "two"):
        directory = tmp_path / name / "arena"
        directory.mkdir(parents=True)
        names = draw(runs, tabulate(runs), directory)
        drawn.append({file: (directory.parent / file).read_bytes() for file in names})
    assert drawn[0] == drawn[1]
    assert all(content.startswith(b"<?xml") for content in drawn[0].values())
