"""The raw numbers: a file of one JSON line per run, only ever appended to.

A line that was cut short by a power failure is a mistake that is named, with its number; nothing is skipped silently.
"""

import json
import os
from pathlib import Path
from typing import Any

_NEEDED = ("workload", "guard", "run", "revision")


class RawError(Exception):
    """A line is broken; the message says which, and what was expected."""


def parse_line(line: str, where: str) -> dict[str, Any]:
    """Return one run."""
    try:
        run = json.loads(line)
    except json.JSONDecodeError as error:
        raise RawError(
            f"{where}: not JSON ({error.msg}): remove the line, and that run is played again"
        ) from None
    if not isinstance(run, dict):
        raise RawError(f"{where}: expected a map of one run")
    for name in _NEEDED:
        if name not in run:
            raise RawError(f"{where}: a run has {', '.join(_NEEDED)}; {name!r} is missing")
    return run


def read_runs(path: Path) -> list[dict[str, Any]]:
    """Return all runs in the file, in the order they were played; none where there is no file."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    return [
        parse_line(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()
    ]


def append_run(path: Path, run: dict[str, Any]) -> None:
    """Put one more run at the end, on disk before we return."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(run, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
