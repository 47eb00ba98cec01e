"""`python -m tests.fuzz [--inputs N] [--seed N] [TARGET ...]`"""

import argparse
import secrets
import sys
import time

from tests.fuzz.engine import Run, fuzz
from tests.fuzz.targets import targets

INPUTS = 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=INPUTS, help=f"for the whole ({INPUTS:,})")
    parser.add_argument("--seed", type=int, help="another one each time, if not given")
    parser.add_argument("target", nargs="*", help="names, or parts of them; all, if none is given")
    arguments = parser.parse_args()
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    chosen = [
        one
        for one in targets()
        if not arguments.target or any(part in one.name for part in arguments.target)
    ]
    print(f"seed {seed}, {len(chosen)} targets", flush=True)
    shares = sum(one.share for one in chosen)
    began = time.monotonic()
    runs: list[Run] = []
    for target in chosen:
        # Rounded up, so that the whole is not less than was asked for.
        run = fuzz(target, -int(-arguments.inputs * target.share // shares), seed)
        runs.append(run)
        print(run.line(), flush=True)
    for run in runs:
        if run.finding is not None:
            print(f"\n{run.target}: {run.finding}")
    whole = sum(run.inputs for run in runs)
    failed = sum(run.finding is not None for run in runs)
    print(
        f"{whole:,} inputs in {time.monotonic() - began:.0f} s, {failed} of {len(runs)} targets failed"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
