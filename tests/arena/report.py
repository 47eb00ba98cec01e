"""`make arena-report`: from the raw numbers to docs/arena.md and its plots, by one command.

What stands between the two marks of "reading" in docs/arena.md is written by hand, and is kept. matplotlib is for
this module alone; without it (`--no-plots`) there are the tables only.
"""

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.arena.guards import GUARDS
from tests.arena.metrics import NEVER, Figures, select_latest, summarize
from tests.arena.raw import RawError, read_runs
from tests.arena.workloads import WORKLOADS, Workload

RAW = Path("docs/arena/runs.jsonl")
PAGE = Path("docs/arena.md")
BEGIN, END = "<!-- reading: by hand, kept -->", "<!-- end of reading -->"
_COLUMNS = (
    "guard",
    "lost besides the culprit",
    "MB lost",
    "MB shed",
    "culprit over, s",
    "calm, s",
    "full stall, s",
    "foreground p50 / p99 / max, ms",
    "kernel's kills",
    "notices",
    "first, before stall, s",
    "own MB",
    "own CPU, ms",
    "own major faults",
)
Table = dict[str, dict[str, Figures]]


def tabulate(runs: Iterable[dict[str, Any]]) -> Table:
    """Return workload to guard to figures, in the order of their declarations, of what was played."""
    latest = select_latest(runs)
    table: Table = {}
    for workload in WORKLOADS:
        for guard in GUARDS:
            chosen = [
                run
                for run in latest
                if run["workload"] == workload.name and run["guard"] == guard.name
            ]
            if chosen:
                table.setdefault(workload.name, {})[guard.name] = summarize(chosen)
    return table


def say(figure: float | None, unit: float = 1, digits: int = 0) -> str:
    """Say one figure, in a unit: "never" and "-" are figures too."""
    if figure is None:
        return "-"
    return "never" if figure == NEVER else f"{figure / unit:.{digits}f}"


def say_lost(figures: Figures) -> str:
    """Name the lost, with in how many runs where it was not in all."""
    if not figures.lost:
        return "nobody"
    return ", ".join(
        name if count == figures.runs else f"{name} ({count} in {figures.runs} runs)"
        for name, count in sorted(figures.lost.items())
    )


def row(guard: str, figures: Figures) -> str:
    """Return one line of a workload's table."""
    marks = f" ({figures.failed} failed)" if figures.failed else ""
    marks += f" (died in {figures.guard_deaths})" if figures.guard_deaths else ""
    sweeps = " / ".join(
        say(figure, 1000, 1) for figure in (figures.p50_us, figures.p99_us, figures.max_us)
    )
    alone = guard == "none"
    cells = (
        guard + marks,
        say_lost(figures),
        say(figures.useful_kib, 1024),
        say(figures.shed_kib, 1024),
        say(figures.over_ms, 1000, 1),
        say(figures.calm_ms, 1000, 1),
        say(figures.full_us, 1_000_000, 2),
        sweeps,
        say(figures.oom_kills),
        say(figures.notices),
        say(figures.lead_ms, 1000, 1),
        "-" if alone else say(figures.guard_rss_kib, 1024, 1),
        "-" if alone else say(figures.guard_cpu_ms),
        "-" if alone else say(figures.guard_major_faults),
    )
    return f"| {' | '.join(cells)} |"


def kept_reading(page: Path) -> str:
    """Return what was written by hand between the marks, or a word that nothing was."""
    if page.exists():
        _, begin, rest = page.read_text().partition(BEGIN)
        reading, end, _ = rest.partition(END)
        if begin and end:
            return reading.strip()
    return "_Nothing was written here yet._"


def render(runs: list[dict[str, Any]], reading: str, plots: list[str]) -> str:
    """Return the page."""
    table = tabulate(runs)
    latest = select_latest(runs)
    lines = [
        "# The arena",
        "",
        "Made by `make arena-report` from [`arena/runs.jsonl`](arena/runs.jsonl); `make arena` plays the runs.",
        "",
        *_head(latest),
        "",
        "## Reading",
        "",
        BEGIN,
        reading,
        END,
        "",
        "## At a glance",
        "",
        *_glance(table),
    ]
    lines += [f"![{Path(plot).stem}]({plot})\n" for plot in plots]
    for workload in WORKLOADS:
        if workload.name in table:
            lines += _section(workload, table[workload.name])
    return "\n".join(lines).rstrip() + "\n"


def _head(latest: list[dict[str, Any]]) -> list[str]:
    versions: dict[str, set[str]] = {}
    for run in latest:
        for name, version in run.get("versions", {}).items():
            versions.setdefault(name, set()).add(version)
    days = sorted({run["at"][:10] for run in latest if "at" in run})
    return [
        f"{len(latest)} runs, {' to '.join(dict.fromkeys((*days[:1], *days[-1:])))}; each figure is the median"
        " of a guard's runs in a workload, and times are from the start of the load.",
        "",
        "Every run is in a virtual machine with 2 processors and 512 MB, in software emulation (some 15 times slower"
        " than the host: compare figures with each other, not with those of real machines), with Debian's kernel and"
        " systemd as PID 1; each program is in a scope of its own below `user@1000.service/app.slice`, as a desktop has"
        " it. Swap, where a workload has some, is 200 MB of zram, and what programs hold is incompressible. Guards are"
        " Debian's packages, with their own units and stock configuration; what `-best` adds is in"
        " `tests/arena/guards.py`."
        " No program knows of the guard but in the desktop day, where programs listen to lmkd, or to"
        " low-memory-monitor, and give back what they can.",
        "",
        "*Culprit over* is when it has ended, or has all it wanted; *calm* is that, and full stall below 1% for 1 s."
        " *MB lost* is what killed programs held that were not culprits. *Foreground*: how long it took to touch all"
        " that it holds; one that was killed never does it again.",
        "",
        "Versions: "
        + ", ".join(
            f"{name} {' '.join(sorted(of))}" for name, of in sorted(versions.items()) if of != {""}
        ),
    ]


def _glance(table: Table) -> list[str]:
    guards = [guard.name for guard in GUARDS if any(guard.name in rows for rows in table.values())]
    lines = [
        "Programs lost that the user would miss, and the full stall in seconds:",
        "",
        f"| workload | {' | '.join(guards)} |",
        f"|---|{'---|' * len(guards)}",
    ]
    for workload, rows in table.items():
        cells = [
            f"{say(rows[guard].missed)}, {say(rows[guard].full_us, 1_000_000, 2)}"
            if guard in rows
            else "-"
            for guard in guards
        ]
        lines.append(f"| {workload} | {' | '.join(cells)} |")
    return [*lines, ""]


def _section(workload: Workload, rows: dict[str, Figures]) -> list[str]:
    swap = f"{workload.swap_mib} MB of swap" if workload.swap_mib else "no swap"
    return [
        f"## {workload.name}",
        "",
        f"{workload.about}; {swap}, looked at for {_span(workload)}.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"|{'---|' * len(_COLUMNS)}",
        *(row(guard, _without_culprit(figures, workload)) for guard, figures in rows.items()),
        "",
    ]


def _span(workload: Workload) -> str:
    most = f"at most {workload.bound_ms // 1000} s"
    return f"at least {workload.least_ms // 1000} and {most}" if workload.least_ms else most


def _without_culprit(figures: Figures, workload: Workload) -> Figures:
    """Where nobody should act there is nothing that could be over."""
    if workload.nobody_should_act:
        return replace(figures, over_ms=None, calm_ms=None)
    return figures


def main() -> int:
    """Write the page; 1 where a line of the raw numbers is broken, or there are none."""
    raw = Path(os.environ.get("ARENA_RAW") or RAW)
    try:
        runs = read_runs(raw)
    except RawError as error:
        print(f"arena: {error}", file=sys.stderr)
        return 1
    if not runs:
        print(f"arena: no runs in {raw}; `make arena` plays some", file=sys.stderr)
        return 1
    plots: list[str] = []
    if "--no-plots" not in sys.argv:
        from tests.arena.plots import draw

        PAGE.with_suffix("").mkdir(parents=True, exist_ok=True)
        plots = draw(select_latest(runs), tabulate(runs), PAGE.with_suffix(""))
    PAGE.write_text(render(runs, kept_reading(PAGE), plots))
    print(f"{PAGE}: {len(runs)} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
