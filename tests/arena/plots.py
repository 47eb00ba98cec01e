"""The plots of docs/arena.md: bars of a figure over guards in each workload, and memory over time in each workload.

SVG, the same bytes from the same numbers, so that a change in them shows as one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

from tests.arena.guards import GUARDS
from tests.arena.metrics import NEVER, Figures

_NAMES = [guard.name for guard in GUARDS]
_COLOURS = {name: f"C{number}" for number, name in enumerate(_NAMES)} | {"lmkd": "black"}
_BARS: tuple[tuple[str, str, Callable[[Figures], float | None], float], ...] = (
    ("full-stall", "full stall, s", lambda figures: figures.full_us, 1_000_000),
    ("culprit-over", "culprit over after, s", lambda figures: figures.over_ms, 1000),
    ("lost", "memory lost besides the culprit, MB", lambda figures: figures.useful_kib, 1024),
)


def draw(
    runs: list[dict[str, Any]], table: dict[str, dict[str, Figures]], directory: Path
) -> list[str]:
    """Draw all, and return the files' names as docs/arena.md has them."""
    with mpl.rc_context({"svg.hashsalt": "arena", "svg.fonttype": "none", "font.size": 8}):
        names = [_draw_bars(table, directory, *bars) for bars in _BARS]
        return [*names, _draw_memory(runs, list(table), directory)]


def _save(figure: Any, directory: Path, name: str) -> str:
    figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
    return f"{directory.name}/{name}.svg"


def _panels(count: int, height: float) -> tuple[Any, list[Any]]:
    across = min(count, 3)
    down = -(-count // across)
    figure, axes = plt.subplots(
        down, across, figsize=(11, height * down), squeeze=False, layout="constrained"
    )
    flat = list(axes.flat)
    for unused in flat[count:]:
        unused.set_axis_off()
    return figure, flat


def _draw_bars(
    table: dict[str, dict[str, Figures]],
    directory: Path,
    name: str,
    title: str,
    of: Callable[[Figures], float | None],
    unit: float,
) -> str:
    figure, panels = _panels(len(table), 2.2)
    figure.suptitle(title)
    for panel, (workload, rows) in zip(panels, table.items(), strict=False):
        guards = [guard for guard in reversed(_NAMES) if guard in rows]
        found = [of(rows[guard]) for guard in guards]
        lengths = [0 if one is None or one == NEVER else one / unit for one in found]
        bars = panel.barh(guards, lengths, color=[_COLOURS[guard] for guard in guards])
        labels = [
            "never" if one == NEVER else f"{length:.2g}"
            for one, length in zip(found, lengths, strict=True)
        ]
        panel.bar_label(bars, labels, padding=2)
        panel.set_title(workload)
        panel.margins(x=0.15)
    return _save(figure, directory, name)


def _draw_memory(runs: list[dict[str, Any]], workloads: list[str], directory: Path) -> str:
    figure, panels = _panels(len(workloads), 2.4)
    figure.suptitle("available memory, MB, over seconds of load; each guard's first run")
    for panel, workload in zip(panels, workloads, strict=False):
        for run in runs:
            if run["workload"] == workload and run["run"] == 1 and run.get("timeline"):
                panel.plot(
                    [at[0] / 1000 for at in run["timeline"]],
                    [at[1] for at in run["timeline"]],
                    color=_COLOURS[run["guard"]],
                    label=run["guard"],
                    linewidth=1.8 if run["guard"] == "lmkd" else 1,
                )
        panel.set_title(workload)
        panel.set_ylim(bottom=0)
    handles = {
        label: handle
        for panel in panels
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    shown = [name for name in _NAMES if name in handles]
    figure.legend([handles[name] for name in shown], shown, loc="outside lower center", ncols=5)
    return _save(figure, directory, "available")
