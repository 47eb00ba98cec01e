"""`python -m tests.bench [--check] [NAME …]`"""

import argparse
import importlib
import sys

from tests.bench.rows import Row

BENCHES = (
    *("footprint", "policy_step", "rules", "broadcast", "trigger", "python_client", "client_c"),
    "client_node",
    *("latency", "kills", "load", "hostile"),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a ratio is over 1")
    parser.add_argument("name", nargs="*", choices=[[], *BENCHES], help=f"of {', '.join(BENCHES)}")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for name in arguments.name or BENCHES:
        for row in importlib.import_module(f"tests.bench.{name}").measure():
            rows.append(row)
            print(row.line(), flush=True)
    return 1 if arguments.check and any(row.ratio > 1 for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
