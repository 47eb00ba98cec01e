"""What can be asked of lmkctl. A wrong argument ends it with 2, before anybody is asked anything."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence

from lmkd_proto import CLASSES, LEVELS

import lmkd

DONE, FAILED, WRONG_ARGUMENTS, NO_DAEMON, INTERRUPTED = 0, 1, 2, 3, 130

EPILOG = """\
exit:   0 done; 1 refused or failed; 2 wrong arguments; 3 no daemon there, or it went away;
        130 interrupted (watch and simulate end with 0 then)
socket: --socket, else $LMKD_SOCKET, else the session's, else /run/lmkd/socket
"""
MOST_PID = 2**31 - 1
MOST_NUMBER = 2**63 - 1
SIMULATED_MOST_S = 600


def parse_arguments(argv: Sequence[str] | None) -> Namespace:
    """Return the arguments; exits with 2 when they are wrong."""
    shared = ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print JSON, for scripts")
    shared.add_argument("--socket", type=_path, metavar="PATH", help="where the daemon listens")
    parser = ArgumentParser(
        "lmkctl",
        description="Ask lmkd, the low-memory service, how things stand and why.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lmkctl {lmkd.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, help_text: str) -> ArgumentParser:
        return commands.add_parser(
            name,
            help=help_text,
            description=f"{help_text[0].upper()}{help_text[1:]}.",
            epilog=EPILOG,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
            parents=[shared],
        )

    add("status", "how memory stands, and what the daemon lacks here")
    add("apps", "the programs that registered, and what they were told and answered")
    watched = add("watch", "levels and kills as they happen, until Ctrl-C")
    watched.add_argument(
        "--domain",
        action="append",
        metavar="DOMAIN",
        help="`system` or a watched cgroup; may be given again (default: system)",
    )
    history = add("history", "past episodes, or one of them in full")
    which = history.add_mutually_exclusive_group()
    which.add_argument(
        "episode",
        nargs="?",
        type=_number(0, MOST_NUMBER),
        metavar="N",
        help="tell this one in full",
    )
    which.add_argument(
        "--limit",
        type=_number(1, MOST_NUMBER),
        default=20,
        metavar="COUNT",
        help="how many episodes at most (default: 20)",
    )
    simulate = add("simulate", "rehearse a level: show what a program hears; nothing is killed")
    simulate.add_argument("level", choices=LEVELS, metavar="LEVEL", help=", ".join(LEVELS))
    simulate.add_argument(
        "--all",
        action="store_true",
        help="tell every program, not only this one (root, or the session's owner)",
    )
    simulate.add_argument(
        "--seconds",
        dest="duration_ms",
        type=_seconds_ms,
        default=5_000,
        metavar="N",
        help=f"for how long (default: 5, at most {SIMULATED_MOST_S})",
    )
    explain = add("explain", "how a process would be treated, and why")
    explain.add_argument("pid", type=_number(1, MOST_PID), metavar="PID")
    add("reload", "have the daemon read its configuration again (root, or the session's owner)")
    set_class = add("set-class", "give an app another class (root, or the session's owner)")
    set_class.add_argument(
        "app",
        type=_number(0, MOST_NUMBER),
        metavar="APP",
        help="its number, as `lmkctl apps` shows",
    )
    set_class.add_argument("app_class", choices=CLASSES, metavar="CLASS", help=", ".join(CLASSES))
    return parser.parse_args(argv)


def _path(given: str) -> str:
    if not given:
        raise ArgumentTypeError("expected a path, got nothing")
    return given


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(given: str) -> int:
        if re.fullmatch(r"[0-9]{1,19}", given) is None or not least <= int(given) <= most:
            raise ArgumentTypeError(
                f"expected a whole number from {least} to {most}, got {given!r}"
            )
        return int(given)

    return parse


def _seconds_ms(given: str) -> int:
    match = re.fullmatch(r"([0-9]{1,3})(?:\.([0-9]{1,3}))?", given)
    duration_ms = int(match[1]) * 1000 + int((match[2] or "").ljust(3, "0")) if match else 0
    if not 0 < duration_ms <= SIMULATED_MOST_S * 1000:
        raise ArgumentTypeError(
            f"expected seconds, more than 0 to {SIMULATED_MOST_S}, got {given!r}"
        )
    return duration_ms
