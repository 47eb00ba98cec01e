"""What the command prints, and with which status it ends."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import textwrap
from collections.abc import Sequence

from lmkd_proto.conformance import levels, server
from lmkd_proto.conformance.checks import Check
from lmkd_proto.conformance.client import look_at_client
from lmkd_proto.conformance.findings import BROKEN, HOLDS, NOT_SEEN, Findings, Outcome
from lmkd_proto.conformance.rules import SERVER_RULES

_EPILOG = """\
status: 0 where no MUST is broken, 1 where one is, 2 where there was nothing to look at.

A client is any program that registers with the service and answers notices: it is started some
twenty times, each time for a few seconds, with LMKD_SOCKET naming a server that is in part wrong
on purpose, and ended with SIGTERM.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Look at what the arguments name; return the status."""
    parser = argparse.ArgumentParser(
        prog="python -m lmkd_proto.conformance",
        description="Hold an implementation of the lmkd protocol against the rules of SPEC.md, from outside.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "socket", nargs="?", metavar="SOCKET", help="the socket of a server to look at"
    )
    parser.add_argument(
        "--client",
        nargs=argparse.REMAINDER,
        metavar="CMD",
        help="a client to look at: its command line, which is all that follows",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON array instead of lines")
    parser.add_argument(
        "--patience",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="how long to wait for what is expected (2)",
    )
    own, command = _split(sys.argv[1:] if argv is None else argv)
    asked = parser.parse_args(own)
    asked.client = command
    if (asked.socket is None) is (not asked.client):
        parser.error("expected either SOCKET or --client CMD")
    if asked.patience <= 0:
        parser.error(f"--patience: expected more than 0 seconds, not {asked.patience}")
    try:
        if asked.socket is not None:
            outcomes = look_at_server(asked.socket, asked.patience)
        else:
            command = asked.client if len(asked.client) > 1 else shlex.split(asked.client[0])
            outcomes = look_at_client(command, asked.patience)
    except OSError as error:
        what = asked.socket or shlex.join(asked.client)
        print(f"{what}: {error.strerror or error}", file=sys.stderr)
        return 2
    print(_as_json(outcomes) if asked.json else _as_lines(outcomes))
    return 1 if any(one.result == BROKEN and one.rule.must for one in outcomes) else 0


def _split(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return our own arguments, and the command line behind --client: argparse would take a -- in it for its own."""
    if "--client" not in argv:
        return argv, ()
    at = list(argv).index("--client")
    return argv[:at], argv[at + 1 :]


SERVER_CHECKS = (*server.CHECKS, *levels.CHECKS)


def look_at_server(
    path: str, patience_s: float, checks: Sequence[Check[server.Stage]] = SERVER_CHECKS
) -> list[Outcome]:
    """Return what became of each rule for servers. OSError where nobody can connect."""
    findings = Findings(SERVER_RULES)
    server.Stage(path, findings, patience_s).connect().close()
    for check in checks:
        stage = server.Stage(path, findings, patience_s)
        try:
            check.run(stage, findings, broken_by=(OSError,))
        finally:
            stage.close()
    return findings.outcomes()


def _as_json(outcomes: Sequence[Outcome]) -> str:
    rows = [
        {
            "rule": one.rule.number,
            "asks": one.rule.asks,
            "must": one.rule.must,
            "result": one.result.replace(" ", "_"),
            "details": list(one.details),
        }
        for one in outcomes
    ]
    return json.dumps(rows, indent=1)


def _as_lines(outcomes: Sequence[Outcome]) -> str:
    lines = []
    for one in outcomes:
        shown = one.result
        if one.result == BROKEN:
            shown = "BROKEN" if one.rule.must else "differs"
        asks = one.rule.asks if one.rule.must else f"{one.rule.asks} (should)"
        if one.result == NOT_SEEN:
            asks = f"{asks}: {one.details[0]}"
        lines.append(f"{one.rule.number:<6}{shown:<10}{asks}")
        if one.result == BROKEN:
            for detail in one.details:
                lines += textwrap.wrap(
                    detail, 100, initial_indent=" " * 16, subsequent_indent=" " * 18
                )
    counts = {
        result: sum(one.result == result for one in outcomes)
        for result in (HOLDS, BROKEN, NOT_SEEN)
    }
    advice = sum(one.result == BROKEN and not one.rule.must for one in outcomes)
    broken = counts[BROKEN] - advice
    differs = f", {advice} that it should keep differ" if advice else ""
    lines.append("")
    lines.append(
        f"{counts[HOLDS]} of {len(outcomes)} rules hold, {broken} broken{differs}, {counts[NOT_SEEN]} not seen"
    )
    return "\n".join(lines)
