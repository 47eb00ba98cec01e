"""What can be asked of lmkctl. A wrong argument ends it with 2, before anybody is asked anything."""

from __future__ import annotations

import sys
from argparse import REMAINDER, SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmkd_proto import CLASSES, LEVELS, PROPAGATIONS

import lmkd
from lmkd.ctl.given import (
    SIMULATED_MOST_S,
    Reaction,
    take_number,
    take_path,
    take_reactions,
    take_seconds_ms,
    take_size_kib,
    take_variable,
)

if TYPE_CHECKING:
    from argparse import _SubParsersAction

DONE, FAILED, WRONG_ARGUMENTS, NO_DAEMON, INTERRUPTED = 0, 1, 2, 3, 130

EPILOG = """\
exit:   0 done; 1 refused or failed; 2 wrong arguments; 3 no daemon there, or it went away;
        130 interrupted (watch and simulate end with 0 then)
socket: --socket, else $LMKD_SOCKET, else the session's, else /run/lmkd/socket
"""
OFFLINE_EPILOG = """\
No daemon is asked, and nothing is changed.

exit:   0 done; 1 mistakes found, or failed; 2 wrong arguments; 130 interrupted
"""
PROPAGATION_EPILOG = f"""\
propagation, as the kernel's memory.pressure_level had it:
  local      the levels of the domain itself alone
  default    also those of domains below it, where no subscriber nearer to them hears of them
  hierarchy  also those of all domains below it

{EPILOG}"""
REPLAY_EPILOG = """\
No daemon is asked, and nothing is changed.

exit:   0 done; 1 other verdicts came of it than were recorded, or failed; 2 wrong arguments;
        130 interrupted
"""
TEST_EPILOG = f"""\
With PID, that process as it is now, with what is supposed in place of what was read of it; without, a
process of which nothing is known but what is supposed:

  lmkctl rules test 4711
  lmkctl rules test 4711 --cgroup /system.slice/db.service
  lmkctl rules test --comm postgres --exe /usr/bin/postgres --uid 70 --config new.toml

{OFFLINE_EPILOG}"""
RUN_EPILOG = """\
actions: a signal for the program, such as SIGUSR1, or a command for the shell, which finds LMKD_LEVEL,
         LMKD_TARGET_BYTES, LMKD_DEADLINE_MS, LMKD_REASON and LMKD_PID (the program's) in its environment.
         A level without one has that of the next lower. `normal` is the end of it, and is not answered.
answers: after a signal, and after a command that ends with 0, what the program and all that it started
         hold less; a command ends with 1 where there is nothing to free. One that takes long is
         announced, and has the time of its class once more.

  lmkctl run --class cached --on low=SIGUSR1 -- ./thumbnailer
  lmkctl run --sheddable 200MiB --on 'medium=redis-cli memory purge' -- redis-server

exit:   that of the program, 128 + N where signal N ended it; 127 there is no such program, 126 it
        cannot be run; 2 wrong arguments. Without a daemon the program runs all the same.
socket: --socket, else $LMKD_SOCKET, else the session's, else /run/lmkd/socket
"""
MOST_PID = 2**31 - 1
MOST_UID = 2**32 - 2
MOST_NUMBER = 2**63 - 1
MOST_SCORE = 1000
"""Of oom_score_adj, up and down (include/uapi/linux/oom.h)."""
CONTROLLER = "(root, or the session's owner)"

if TYPE_CHECKING:
    Commands = _SubParsersAction[ArgumentParser]


def parse_arguments(argv: Sequence[str] | None) -> Namespace:
    """Return the arguments; exits with 2 when they are wrong. `action` is the command, with that below it."""
    parser = ArgumentParser(
        "lmkctl",
        description="Ask lmkd, the low-memory service, how things stand and why.",
        epilog=f"`lmkctl COMMAND --help` tells more of each.\n\n{EPILOG}",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lmkctl {lmkd.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_asking(commands)
    _add_explaining(commands)
    tested = _add_rules(commands)
    _add_recordings(commands)
    _add_steering(commands)
    runs = _add_running(commands)
    arguments = parser.parse_args(argv)
    if arguments.action == "run":
        _complete_running(runs, arguments, sys.argv[1:] if argv is None else argv)
    if arguments.action == "rules test" and not _names_a_process(arguments):
        tested.error("expected a PID, or what is supposed of a process, such as --comm NAME")
    return arguments


def _names_a_process(arguments: Namespace) -> bool:
    supposed = (value for name, value in vars(arguments).items() if name.startswith("supposed_"))
    return arguments.pid is not None or any(value is not None for value in supposed)


def _add(
    commands: Commands,
    name: str,
    help_text: str,
    *,
    action: str = "",
    description: str = "",
    epilog: str = EPILOG,
    offline: bool = False,
    prints: bool = True,
) -> ArgumentParser:
    parser = commands.add_parser(
        name,
        help=help_text,
        description=description or f"{help_text[0].upper()}{help_text[1:]}.",
        epilog=epilog,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if prints:
        # Not set where it is not given: before or after a command below this one, it means the same.
        parser.add_argument(
            "--json", action="store_true", default=SUPPRESS, help="print JSON, for scripts"
        )
    if not offline:
        parser.add_argument(
            "--socket", type=take_path, metavar="PATH", help="where the daemon listens"
        )
    parser.set_defaults(action=action or name)
    return parser


def _add_asking(commands: Commands) -> None:
    _add(commands, "status", "how memory stands, and what the daemon lacks here")
    apps = _add(commands, "apps", "the programs that registered, what they were told and answered")
    apps.add_argument(
        "--unruled",
        action="store_true",
        help="instead, the processes that no rule speaks for and that did not register",
    )
    watched = _add(
        commands,
        "watch",
        "levels and kills as they happen, until Ctrl-C",
        epilog=PROPAGATION_EPILOG,
    )
    watched.add_argument(
        "--domain",
        action="append",
        metavar="DOMAIN",
        help="`system`, `own` (the cgroup that lmkctl runs in) or a cgroup's path; may be given again "
        "(default: system)",
    )
    watched.add_argument(
        "--propagation",
        choices=PROPAGATIONS,
        default="local",
        metavar="MODE",
        help="local, default or hierarchy: whose levels below these are shown too (default: local)",
    )
    watched.add_argument(
        "--exec",
        metavar="COMMAND",
        help="run this by the shell for each of them, one after the other: it finds what happened as JSON on its "
        "standard input, and as LMKD_EVENT, LMKD_DOMAIN, LMKD_LEVEL and so on in its environment",
    )
    history = _add(commands, "history", "past episodes, or one of them in full")
    which = history.add_mutually_exclusive_group()
    which.add_argument(
        "episode",
        nargs="?",
        type=take_number(0, MOST_NUMBER),
        metavar="N",
        help="tell this one in full",
    )
    which.add_argument(
        "--limit",
        type=take_number(1, MOST_NUMBER),
        default=20,
        metavar="COUNT",
        help="how many episodes at most (default: 20)",
    )


def _add_explaining(commands: Commands) -> None:
    explain = _add(
        commands,
        "explain",
        "how a process would be treated, or why a kill was made",
        description="How a process would be treated now: its class and the rule that gave it, its place in line at "
        "each level,\nand what would have to die before it. Or with --kill: why that one, why not the next "
        "three, and what came back.",
    )
    which = explain.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "pid", nargs="?", type=take_number(1, MOST_PID), metavar="PID", help="the process"
    )
    which.add_argument(
        "--kill",
        type=take_number(0, MOST_NUMBER),
        metavar="N",
        help="the kill's number, as `lmkctl history` tells it",
    )


def _add_rules(commands: Commands) -> ArgumentParser:
    rules = _add(
        commands,
        "rules",
        "the rules, and how many processes each was given to; check rules, and try them",
        description="The rules that the daemon goes by, in the order in which they are tried, and how many processes "
        "each was\ngiven to. `check` and `test` ask no daemon: they read files.",
    )
    rules.usage = "lmkctl rules [-h] [--json] [--socket PATH] [{check,test} ...]"
    below = rules.add_subparsers(
        dest="rules_command", metavar="COMMAND", prog="lmkctl rules", title="without a daemon"
    )
    check = _add(
        below,
        "check",
        "what is wrong with configuration files, and what is doubtful",
        action="rules check",
        epilog=OFFLINE_EPILOG,
        offline=True,
    )
    check.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="each is laid over those before it (default: those that the daemon reads)",
    )
    test = _add(
        below,
        "test",
        "which rule speaks for a process, and why the others do not",
        action="rules test",
        epilog=TEST_EPILOG,
        offline=True,
    )
    test.add_argument(
        "pid",
        nargs="?",
        type=take_number(1, MOST_PID),
        metavar="PID",
        help="a process that is there",
    )
    test.add_argument(
        "--config",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="the rules of these files, given again for more (default: those that the daemon reads)",
    )
    _add_supposed(test)
    return test


def _add_supposed(test: ArgumentParser) -> None:
    supposed = test.add_argument_group("what is supposed of the process")
    for flag, metavar, help_text in (
        ("--comm", "NAME", "its name, at most 15 characters"),
        ("--exe", "PATH", "its executable"),
        ("--cmdline", "TEXT", "its arguments, joined by spaces"),
        ("--cgroup", "PATH", "its cgroup"),
        ("--parent", "NAME", "the name of its parent"),
    ):
        name = f"supposed_{flag[2:]}"
        supposed.add_argument(flag, dest=name, metavar=metavar, help=help_text)
    supposed.add_argument(
        "--environ",
        dest="supposed_environ",
        action="append",
        type=take_variable,
        metavar="NAME=VALUE",
        help="a variable of its environment; may be given again",
    )
    for flag, least, most, help_text in (
        ("--uid", 0, MOST_UID, "its user"),
        ("--gid", 0, MOST_UID, "its group"),
        ("--oom-score-adj", -MOST_SCORE, MOST_SCORE, "what others set for the kernel"),
    ):
        supposed.add_argument(
            flag,
            dest=f"supposed_{flag[2:].replace('-', '_')}",
            type=take_number(least, most),
            metavar="N",
            help=help_text,
        )
    supposed.add_argument(
        "--resident",
        dest="supposed_resident_kib",
        type=take_size_kib,
        metavar="SIZE",
        help="its resident size, such as 64MiB",
    )
    supposed.add_argument("--registered", action="store_true", help="that it has registered")


def _add_recordings(commands: Commands) -> None:
    record = _add(
        commands,
        "record",
        f"save what the policy saw, and list what is kept {CONTROLLER}",
    )
    record.add_argument(
        "file",
        nargs="?",
        type=take_path,
        metavar="FILE",
        help="copy the latest recording of an episode, or else of the calm, to this file",
    )
    replay = _add(
        commands,
        "replay",
        "run a recording again: its verdicts, or those of another configuration",
        description="Run a recording again: which levels were reached, who was ended and when, and whether the same "
        "verdicts\ncame of it as were recorded. With --config: what another configuration would have made of it.",
        epilog=REPLAY_EPILOG,
        offline=True,
    )
    replay.add_argument(
        "file", type=Path, metavar="FILE", help="a recording, as `lmkctl record` makes it"
    )
    how = replay.add_mutually_exclusive_group()
    how.add_argument(
        "--recorded",
        action="store_true",
        help="print the verdicts that were recorded, and run nothing",
    )
    how.add_argument(
        "--config",
        action="append",
        type=Path,
        default=[],
        metavar="OTHER",
        help="run it under this configuration, and print what would have been different: what would have died, when, "
        "instead; given again, each file is laid over those before it",
    )


def _add_steering(commands: Commands) -> None:
    simulate = _add(
        commands, "simulate", "rehearse a level: show what a program hears; nothing is killed"
    )
    simulate.add_argument("level", choices=LEVELS, metavar="LEVEL", help=", ".join(LEVELS))
    simulate.add_argument(
        "--all",
        action="store_true",
        help=f"tell every program, not only this one {CONTROLLER}",
    )
    simulate.add_argument(
        "--seconds",
        dest="duration_ms",
        type=take_seconds_ms,
        default=5_000,
        metavar="N",
        help=f"for how long (default: 5, at most {SIMULATED_MOST_S})",
    )
    _add(commands, "reload", f"have the daemon read its configuration again {CONTROLLER}")
    set_class = _add(commands, "set-class", f"give an app another class {CONTROLLER}")
    set_class.add_argument(
        "app",
        type=take_number(0, MOST_NUMBER),
        metavar="APP",
        help="its number, as `lmkctl apps` shows",
    )
    set_class.add_argument("app_class", choices=CLASSES, metavar="CLASS", help=", ".join(CLASSES))


def _add_running(commands: Commands) -> ArgumentParser:
    run = _add(
        commands,
        "run",
        "run any program as an app: notices become signals or commands",
        description="Run a program, and have lmkd know it: it has its class, is told of pressure by signals or "
        "commands, and is\nended, if it must be, with all that it started.",
        epilog=RUN_EPILOG,
        prints=False,
    )
    run.usage = "lmkctl run [-h] [OPTION ...] [--] PROGRAM [ARGUMENT ...]"
    run.add_argument(
        "--class",
        dest="app_class",
        choices=CLASSES[:-1],
        default="background",
        metavar="CLASS",
        help=f"how much it would be missed: {', '.join(CLASSES[:-1])} (default: background)",
    )
    run.add_argument(
        "--unit",
        choices=("tree", "cgroup"),
        default="tree",
        metavar="UNIT",
        help="what dies together: tree, the program and all that it started (default); or cgroup, in a "
        f"scope of systemd's that it is started in {CONTROLLER}",
    )
    run.add_argument("--name", metavar="NAME", help="what it is called (default: as its file is)")
    run.add_argument(
        "--sheddable",
        dest="sheddable_kib",
        type=take_size_kib,
        default=0,
        metavar="SIZE",
        help="how much it could free if asked, such as 64MiB",
    )
    run.add_argument(
        "--on",
        action="append",
        type=take_reactions,
        default=[],
        metavar="LEVEL=ACTION[,…]",
        help="what to do at a level; may be given again",
    )
    run.add_argument(
        "--memory-pressure",
        choices=(*LEVELS[1:], "auto", "kernel", "off"),
        default="auto",
        metavar="FROM",
        help="for a program on sd-event, which waits at $MEMORY_PRESSURE_WATCH: woken from low, medium or critical "
        "on. kernel: that is the kernel's pressure file; off: it is left alone; auto (default): medium, and the "
        "kernel's file for what is linked with GLib 2.89 or later",
    )
    run.add_argument("--in-scope", action="store_true", help=SUPPRESS)
    run.add_argument("program", nargs=REMAINDER, metavar="PROGRAM", help="it, and its arguments")
    return run


def _complete_running(parser: ArgumentParser, arguments: Namespace, argv: Sequence[str]) -> None:
    """Check what argparse cannot; `on` becomes one map, and `again` what was given, to be given again."""
    if arguments.program[:1] == ["--"]:
        arguments.program = arguments.program[1:]
    if not arguments.program or not arguments.program[0]:
        parser.error("expected a program to run")
    reactions: dict[str, Reaction] = {}
    for given in arguments.on:
        for level, reaction in given.items():
            if level in reactions:
                parser.error(f"argument --on: {level} is given twice")
            reactions[level] = reaction
    arguments.on = reactions
    arguments.again = list(argv[list(argv).index("run") + 1 :])
