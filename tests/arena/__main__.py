"""`make arena`: play what is still to be played, and say how it goes.

GUARDS, WORKLOADS, RUNS and SEED cut it (names with spaces between; default: all, 3 runs); ARENA_RAW says where the raw
numbers are, docs/arena/runs.jsonl otherwise. To begin anew, remove that file.
"""

import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.arena.contest import Contest, find_lacking, revisions
from tests.arena.layer import LayerError
from tests.arena.plan import PlanError, plan, select_remaining
from tests.arena.raw import RawError, append_run, read_runs

RAW = Path("docs/arena/runs.jsonl")


def raw_path() -> Path:
    """Return where the raw numbers are."""
    return Path(os.environ.get("ARENA_RAW") or RAW)


def tell(run: dict[str, Any]) -> str:
    """Say in one line what became of a run."""
    if "failed" in run:
        return f"FAILED {run['failed'].splitlines()[0][:100]}"
    lost = [one["name"] for one in run["lost"] if one["role"] != "culprit"]
    over = run["culprits_over_ms"]
    words = [
        "never over" if over is None else f"over at {over / 1000:.1f} s",
        f"full stall {run['full_us'] / 1_000_000:.2f} s",
        f"lost {', '.join(lost) if lost else 'nobody'}",
    ]
    if run["oom_kills"]:
        words.append(f"{run['oom_kills']} by the kernel")
    if run["shed_kib"]:
        words.append(f"{run['shed_kib'] // 1024} MB shed")
    if not run["guard_alive"]:
        words.append("the guard died")
    return ", ".join(words)


def minutes(seconds: float) -> str:
    """Say a time to go as a person would."""
    whole = int(seconds)
    return f"{whole // 60} min" if whole >= 90 else f"{whole} s"


def main() -> int:
    """Play; 1 where something was wrong with what was asked."""
    if len(sys.argv) > 1:
        print(f"arena: it takes no arguments, but these variables.\n\n{__doc__}", file=sys.stderr)
        return 2
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # so that what is temporary goes with us
    try:
        planned, _ = plan(os.environ)
        raw = raw_path()
        known = revisions([run.guard for run in planned])
        remaining = select_remaining(planned, read_runs(raw), known)
        lacking = find_lacking()
        if lacking:
            raise PlanError(f"no arena here: {'; '.join(lacking)}")
        print(
            f"{len(planned)} runs, {len(planned) - len(remaining)} of them are in {raw} (remove it to begin anew)"
        )
        if remaining:
            _play_all(remaining, raw, known)
    except (PlanError, RawError, LayerError) as error:
        print(f"arena: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the next `make arena` goes on from here", file=sys.stderr)
        return 130
    return 0


def _play_all(remaining: list[Any], raw: Path, known: dict[str, str]) -> None:
    began = time.monotonic()
    with Contest() as contest:
        for number, planned in enumerate(remaining, 1):
            run = contest.play(planned)
            if "failed" in run:
                # In a new machine: after a fork bomb this one's files over 9p may answer EINVAL.
                run = contest.play(planned)
            run["revision"] = known[planned.guard]
            run["order"] = number
            run["at"] = datetime.now(UTC).isoformat(timespec="seconds")
            append_run(raw, run)
            each_s = (time.monotonic() - began) / number
            left = (len(remaining) - number) * each_s
            print(
                f"{number:>4}/{len(remaining)}  {planned.workload:<12} {planned.guard:<18} {tell(run)}"
                f"  [{minutes(left)} to go]",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
