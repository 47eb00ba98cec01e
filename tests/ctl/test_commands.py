"""Each command does what it says, against a real daemon on simulated memory."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmkd.ctl.commands import read_parts
from lmkd.ctl.result import Row

from .conftest import LMKCTL, SmallDaemon, environment, run_ctl

LEAK = """
import sys, time
from lmkd_client import connect
with connect(name="leak") as client:
    client.register("leak", "cached")
    held = bytearray(b"x") * (240 << 20)
    time.sleep(60)
"""


def as_json(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


# --- what comes back ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["status"], {"version", "pid", "clients", "missing", "domains", "apps"}),
        (["apps"], {"apps", "app_count", "truncated"}),
        (["history"], {"episodes", "total"}),
        (["explain", "1"], {"pid", "class", "why_class", "never_killed", "size_kib"}),
        (["explain", "1"], {"rule", "rule_place", "unit", "projected", "ranks"}),
        (["apps", "--unruled"], {"processes", "total"}),
        (["rules"], {"rules", "total", "strict", "unruled", "unruled_hits", "warnings"}),
        (["record"], {"recordings", "saved", "copied_to"}),
        (["reload"], {"config_files"}),
        (["simulate", "low", "--seconds", "0.1"], {"level", "scope", "duration_ms", "heard"}),
    ],
)
def test_json_is_one_document(daemon: SmallDaemon, arguments: list[str], keys: set[str]) -> None:
    assert keys <= as_json(daemon.ctl(*arguments, "--json")).keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status"], "system  normal"),
        (["apps"], "No program has registered.\n"),
        (["history"], "No episode yet: memory has not been short.\n"),
        (["explain", "1"], "  killed  never: init\n"),
        (["rules"], "the way into the machine"),
        (["rules"], "What no rule matches is of class service ("),
        (["record"], "Saved: "),
        (["reload"], "Configuration read again: "),
    ],
)
def test_people_get_text(daemon: SmallDaemon, arguments: list[str], said: str) -> None:
    done = daemon.ctl(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout
    assert "\x1b" not in done.stdout


def test_the_socket_may_be_given(daemon: SmallDaemon) -> None:
    assert run_ctl("apps", "--socket", daemon.socket).returncode == 0


@pytest.mark.parametrize("scope", [[], ["--all"]])
def test_a_rehearsal_is_heard_from_its_start_to_its_end(
    daemon: SmallDaemon, scope: list[str]
) -> None:
    done = daemon.ctl("simulate", "critical", "--seconds", "0.2", "--json", *scope)
    heard = as_json(done)["heard"]
    levels = [event["level"] for event in heard if event["event"] == "pressure"]
    notices = [event for event in heard if event["event"] == "notice"]
    assert levels == ["normal", "critical", "normal"]
    assert [(notice["level"], notice["simulated"]) for notice in notices] == [
        ("critical", True),
        ("normal", False),
    ]
    assert notices[0]["target_bytes"] > 0


def test_a_class_is_set(daemon: SmallDaemon) -> None:
    program = (
        "from lmkd_client import connect\n"
        "with connect() as client:\n"
        "    print(client.register('editor', 'background').grant.app, flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(LMKD_SOCKET=daemon.socket),
    ) as editor:
        assert editor.stdout is not None
        app = editor.stdout.readline().strip()
        done = daemon.ctl("set-class", app, "foreground")
        listed = as_json(daemon.ctl("apps", "--json"))["apps"]
        editor.communicate("\n", timeout=20)
    assert done.stdout == f"App {app} is foreground now: 5 s of grace, 5 s to exit.\n"
    assert [found["class"] for found in listed] == ["foreground"]


# --- an episode, watched and told afterwards -----------------------------------------------------------


def test_an_episode_is_watched_and_told(tmp_path: Path) -> None:
    """A leak is ended; `watch` hears it as it happens, `history` tells it, and a restart ends neither."""
    # However slow the machine is, the episode is still going on when it is asked about.
    daemon = SmallDaemon(tmp_path, 'timing.calm_hold = "60s"\n')
    daemon.start()
    known = environment(LMKD_SOCKET=daemon.socket)
    watching = subprocess.Popen(
        [*LMKCTL, "watch", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=known,
    )
    try:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["level"] == "normal"
        leak = subprocess.Popen([sys.executable, "-c", LEAK], env=known)
        ended = next(
            event for event in map(json.loads, watching.stdout) if event["event"] == "killed"
        )
        assert (ended["pid"], ended["class"]) == (leak.pid, "cached")
        assert leak.wait(20) in (-signal.SIGTERM, -signal.SIGKILL)
        episode = as_json(daemon.ctl("history", "--json"))["episodes"][0]
        assert episode["kills"] == 1
        number = str(episode["episode"])
        told = as_json(daemon.ctl("history", number, "--json"))
        assert {"summary", "records"} == told.keys()
        kill = next(record["kill"] for record in told["records"] if record["kind"] == "kill")
        explained = daemon.ctl("explain", "--kill", str(kill)).stdout
        assert explained.startswith(f"Kill {kill} of episode {number}, ")
        assert f"SIGTERM to leak (pid {leak.pid}, cached" in explained
        assert "leak was gone" in explained
        story = daemon.ctl("history", number).stdout
        assert f"  ended  leak (pid {leak.pid}, cached" in story
        assert "It is still going on." in story
        assert daemon.ctl("history").stdout.count("going on") == 1
        daemon.stop()
        lost = next(event for event in map(json.loads, watching.stdout) if event["event"] == "lost")
        assert lost["said"]
        daemon.start()
        back = next(event for event in map(json.loads, watching.stdout) if event["event"] == "back")
        assert back["said"].startswith("lmkd ")
        assert json.loads(watching.stdout.readline())["level"] == "normal"
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 0
        assert watching.stderr is not None
        assert watching.stderr.read() == ""
        assert "cut short" in daemon.ctl("history", number).stdout
    finally:
        watching.kill()
        watching.communicate()
        daemon.stop()


# --- what goes wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["explain", "2147483647"], 1, "lmkctl: no process has the pid 2147483647\n"),
        (["history", "999"], 1, "lmkctl: no episode 999 is kept\n"),
        (["set-class", "999", "cached"], 1, "lmkctl: no app has the number 999\n"),
        (["watch", "--domain", "/none"], 1, "lmkctl: no domain '/none'"),
        (["watch", "--domain", "x"], 2, "lmkctl: subscribe: key 'domain': expected `system`"),
        ([], 2, "the following arguments are required: COMMAND"),
        (["nothing"], 2, "invalid choice: 'nothing'"),
        (["explain", "0"], 2, "expected a whole number from 1 to 2147483647, got '0'"),
        (["explain", "\N{SUPERSCRIPT TWO}"], 2, "expected a whole number"),
        (["explain"], 2, "one of the arguments PID --kill is required"),
        (["explain", "1", "--kill", "1"], 2, "not allowed with argument"),
        (["explain", "--kill", "-1"], 2, "expected a whole number from 0"),
        (["explain", "--kill", "999"], 1, "lmkctl: no kill 999 is kept"),
        (["watch", "--propagation", "up"], 2, "invalid choice: 'up'"),
        (["rules", "nothing"], 2, "invalid choice: 'nothing'"),
        (["rules", "test"], 2, "expected a PID, or what is supposed of a process, such as --comm"),
        (["rules", "test", "--registered"], 2, "expected a PID, or what is supposed"),
        (["rules", "test", "--uid", "-1"], 2, "expected a whole number from 0 to 4294967294"),
        (["rules", "test", "--resident", "64"], 2, "expected a size such as 64MiB, got '64'"),
        (["rules", "test", "--environ", "A"], 2, "expected NAME=VALUE, got 'A'"),
        (["rules", "check", "--socket", "/x"], 2, "unrecognized arguments: --socket"),
        (["replay"], 2, "the following arguments are required: FILE"),
        (["replay", "/none"], 1, "lmkctl: /none: cannot be read: No such file or directory\n"),
        (["record", "/none/copy"], 1, "lmkctl: /none/copy: No such file or directory\n"),
        (["history", "-1"], 2, "lmkctl"),
        (["history", "--limit", "0"], 2, "expected a whole number from 1"),
        (["history", "3", "--limit", "2"], 2, "not allowed with argument"),
        (["simulate", "panic"], 2, "invalid choice: 'panic'"),
        (["simulate", "low", "--seconds", "0"], 2, "expected seconds, more than 0 to 600"),
        (["simulate", "low", "--seconds", "601"], 2, "expected seconds, more than 0 to 600"),
        (["set-class", "1", "kingly"], 2, "invalid choice: 'kingly'"),
        (["status", "--socket", ""], 2, "expected a path, got nothing"),
        (["--help"], 0, ""),
        (["--version"], 0, ""),
    ],
)
def test_exit_codes(daemon: SmallDaemon, arguments: list[str], code: int, said: str) -> None:
    done = daemon.ctl(*arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_exit_codes_are_in_the_help(daemon: SmallDaemon) -> None:
    expected = "0 done; 1 refused or failed; 2 wrong arguments; 3 no daemon"
    for arguments in (["--help"], ["watch", "--help"]):
        assert expected in daemon.ctl(*arguments).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["apps"],
        ["watch"],
        ["history"],
        ["history", "1"],
        ["simulate", "low"],
        ["explain", "1"],
        ["explain", "--kill", "1"],
        ["apps", "--unruled"],
        ["rules"],
        ["record"],
        ["reload"],
        ["set-class", "1", "cached"],
        ["status", "--json"],
    ],
)
def test_no_daemon_is_one_clear_line(tmp_path: Path, arguments: list[str]) -> None:
    path = str(tmp_path / "socket")
    done = run_ctl(*arguments, "--socket", path)
    expected = f"lmkctl: no lmkd at {path}: start it, or give --socket\n"
    assert (done.returncode, done.stdout, done.stderr) == (3, "", expected)


def test_a_socket_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    done = run_ctl("status", "--socket", str(tmp_path / ("x" * 200)))
    assert done.returncode == 3
    assert done.stderr.endswith("cannot be reached: AF_UNIX path too long\n")


def test_a_reader_that_leaves_is_no_error(daemon: SmallDaemon) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as out:
        done = subprocess.run(
            [*LMKCTL, "status"],
            stdout=out,
            stderr=subprocess.PIPE,
            timeout=30,
            env=environment(LMKD_SOCKET=daemon.socket),
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_is_one_line(daemon: SmallDaemon) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*LMKCTL, "apps"],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=30,
            env=environment(LMKD_SOCKET=daemon.socket),
        )
    assert (done.returncode, done.stderr) == (1, b"lmkctl: No space left on device\n")


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_a_terminal_has_colour_unless_no_color(
    daemon: SmallDaemon, no_color: str, coloured: bool
) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*LMKCTL, "status"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        env=environment(LMKD_SOCKET=daemon.socket, NO_COLOR=no_color, TERM="xterm", COLUMNS="100"),
    )
    try:
        assert process.wait(30) == 0
        text = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "normal" in text
    assert ("\x1b[" in text) is coloured


# --- what asks no daemon --------------------------------------------------------------------------------

RULE = """
[[rule]]
name = "tabs go first"
match = { comm = "tab" }
class = "%s"
"""


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[str]:
    """The path of a socket at which nobody may knock."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        listener.setblocking(False)
        yield path
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("json_first", [False, True])
def test_rules_are_checked_and_tried_without_a_daemon(
    tmp_path: Path, deaf: str, json_first: bool
) -> None:
    def run(*arguments: str) -> Any:
        ordered = ("rules", "--json", *arguments) if json_first else ("rules", *arguments, "--json")
        return as_json(run_ctl(*ordered, LMKD_SOCKET=deaf))

    file = tmp_path / "rules.toml"
    file.write_text(RULE % "cached")
    assert run("check", str(file))["rules"] == 1
    supposed = ("--comm", "tab", "--uid", "1001", "--oom-score-adj", "-5", "--resident", "2MiB")
    variables = ("--environ", "A=1", "--environ", "B=", "--cgroup", "/a", "--registered")
    tried = run("test", *supposed, *variables, "--config", str(file))
    assert (tried["verdict"]["class"], tried["verdict"]["rule"]) == ("cached", "tabs go first")
    process = tried["process"]
    assert (process["uid"], process["oom_score_adj"], process["resident_kib"]) == (1001, -5, 2048)
    assert (process["cgroup"], process["registered"]) == ("/a", True)
    assert run("test", str(os.getpid()))["process"]["pid"] == os.getpid()


def test_mistakes_in_rules_are_named_and_exit_with_1(tmp_path: Path, deaf: str) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(RULE % "kingly")
    done = run_ctl("rules", "check", str(file), LMKD_SOCKET=deaf)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"{file}:5" in done.stdout


def test_a_recording_is_saved_copied_and_run_again(
    daemon: SmallDaemon, tmp_path: Path, deaf: str
) -> None:
    copy = str(tmp_path / "recording")
    assert as_json(daemon.ctl("record", copy, "--json"))["copied_to"] == copy
    for arguments in ([], ["--recorded"], ["--config", os.devnull]):
        done = run_ctl("replay", copy, *arguments, LMKD_SOCKET=deaf)
        assert (done.returncode, done.stderr) == (0, ""), arguments
        assert done.stdout
    assert {"recording", "verdicts"} <= as_json(
        run_ctl("replay", copy, "--json", LMKD_SOCKET=deaf)
    ).keys()


def test_who_asks_a_daemon_does_not_pay_for_the_policy() -> None:
    program = (
        "import lmkd.ctl.__main__, sys; "
        "print(*[name for name in sys.modules if name.startswith(('lmkd.policy', 'lmkd.kernel', 'lmkd.config'))])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout == "\n"


# --- lists in parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "count", "asked"),
    [
        (None, 7, [(0, 1_000), (3, 1_000), (6, 1_000)]),
        (4, 4, [(0, 4), (3, 1)]),
        (3, 3, [(0, 3)]),
    ],
)
def test_parts_are_asked_for_until_the_list_is_whole(
    limit: int | None, count: int, asked: list[tuple[int, int]]
) -> None:
    """A frame holds three rows here, whatever was asked for."""
    calls: list[tuple[int, int]] = []

    def ask(after: int, most: int) -> Row:
        calls.append((after, most))
        end = after + min(most, 3)
        part = [{"row": row} for row in range(7)][after:end]
        return {"rows": part, "next": end if end < 7 else None}

    found, _ = read_parts(ask, "rows", limit)
    assert [row["row"] for row in found] == list(range(count))
    assert calls == asked


def test_a_daemon_that_goes_in_circles_is_not_followed() -> None:
    started_s = time.monotonic()
    found, _ = read_parts(lambda after, most: {"rows": [{}], "next": 0}, "rows")
    assert len(found) == 1
    assert time.monotonic() - started_s < 5
