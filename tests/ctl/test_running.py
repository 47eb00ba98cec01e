"""`lmkctl run`: any program is an app, told by signals and commands, and answered for."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmkd_client
import pytest
from lmkd_client.testing import FakeLmkd

from lmkd.ctl.pressure import choose, find_pressure_file
from lmkd.ctl.running import name_of, reaction_to

from .conftest import LMKCTL, SmallDaemon, environment, run_ctl

MIB = 1 << 20
PATIENCE_S = 30
CACHE = """
import mmap, signal, sys, time
held = [mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(int(sys.argv[1]))]
for block in held:
    block.write(bytes([1]) * (1 << 20))
def shed(*_):
    while held:
        held.pop().close()
signal.signal(signal.SIGUSR1, shed)
print("ready", flush=True)
while True:
    time.sleep(60)
"""


@contextmanager
def run(
    socket: str, *options: str, program: tuple[str, ...] = (), **more: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a program, by default a cache of 32 MiB that drops all at SIGUSR1, until the block is left."""
    cache = (sys.executable, "-c", CACHE, "32")
    running = subprocess.Popen(
        [*LMKCTL, "run", *options, "--", *(program or cache)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(LMKD_SOCKET=socket, **more),
    )
    try:
        yield running
    finally:
        running.terminate()
        running.communicate()


def wait_until_ready(running: subprocess.Popen[str]) -> None:
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"


def wait_for(something: Callable[[], Any], what: str) -> Any:
    until = time.monotonic() + PATIENCE_S
    while not (found := something()):
        assert time.monotonic() < until, what
        time.sleep(0.02)
    return found


def app_named(socket: str, name: str) -> dict[str, Any] | None:
    with lmkd_client.connect(socket) as client:
        apps = [app for app in client.status()["apps"] if app["name"] == name]
    return apps[0] if apps else None


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeLmkd]:
    """A daemon that says what a test wants said, and returns what is answered."""
    with FakeLmkd(str(tmp_path / "fake")) as lmkd:
        yield lmkd


# --- the program ------------------------------------------------------------------------------------------


def test_a_program_is_registered_as_it_is_asked(daemon: SmallDaemon) -> None:
    with run(daemon.socket, "--class", "cached", "--sheddable", "8MiB", "--name", "mine"):
        app = wait_for(lambda: app_named(daemon.socket, "mine"), "it did not register")
    assert (app["class"], app["unit"], app["sheddable_kib"]) == ("cached", "tree", 8 << 10)


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 128 + 9)]
)
def test_its_end_is_the_end_of_the_program(daemon: SmallDaemon, script: str, status: int) -> None:
    done = daemon.ctl("run", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_its_streams_are_those_of_the_program(daemon: SmallDaemon) -> None:
    done = daemon.ctl("run", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


@pytest.mark.parametrize(
    ("program", "status", "said"),
    [
        ("/no/such/program", 127, "lmkctl: /no/such/program: No such file or directory\n"),
        ("/", 126, "lmkctl: /: Permission denied\n"),
    ],
)
def test_what_cannot_be_run_is_told(program: str, status: int, said: str) -> None:
    done = run_ctl("run", "--", program)
    assert (done.returncode, done.stderr) == (status, said)


def test_it_runs_without_a_daemon_and_says_so_once(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "none")
    done = run_ctl("run", "--", "sh", "-c", "sleep 0.5; echo done", LMKD_SOCKET=nowhere)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert (
        done.stderr
        == f"lmkctl: no lmkd at {nowhere}: sh runs, and is told as soon as there is one\n"
    )


def test_a_daemon_that_comes_later_is_found(tmp_path: Path) -> None:
    small = SmallDaemon(tmp_path)
    with run(small.socket, "--name", "early"):
        small.start()
        try:
            wait_for(lambda: app_named(small.socket, "early"), "it did not register")
        finally:
            small.stop()


def test_signals_reach_the_program(daemon: SmallDaemon) -> None:
    with run(daemon.socket) as running:
        wait_until_ready(running)
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE_S) == 128 + signal.SIGTERM


# --- notices ----------------------------------------------------------------------------------------------


def test_a_signal_frees_and_what_was_freed_is_the_answer(fake: FakeLmkd) -> None:
    options = ("--class", "cached", "--sheddable", "32MiB", "--on", "low=SIGUSR1")
    with run(fake.path, *options) as running:
        wait_until_ready(running)
        answered = fake.notice("critical", deadline_ms=20_000)
    assert (answered.notice.target_bytes, answered.answer) == (32 * MIB, "done")
    assert 31 * MIB <= answered.freed_bytes <= 33 * MIB


def test_a_program_with_nothing_to_give_says_so_before_its_deadline(fake: FakeLmkd) -> None:
    with run(fake.path, "--on", "low=SIGWINCH") as running:
        wait_until_ready(running)
        answered = fake.notice("low", 64 * MIB, deadline_ms=1000)
    assert (answered.answer, answered.freed_bytes) == ("nothing", 0)


def test_a_level_for_which_nothing_was_given_has_nothing(fake: FakeLmkd) -> None:
    with run(fake.path, "--on", "critical=SIGUSR1") as running:
        wait_until_ready(running)
        assert fake.notice("medium", MIB).answer == "nothing"
        assert fake.notice("critical", MIB, deadline_ms=20_000).answer == "done"


def test_a_command_is_told_all_and_its_status_is_the_answer(fake: FakeLmkd, tmp_path: Path) -> None:
    script = (
        'echo "$LMKD_LEVEL $LMKD_TARGET_BYTES $LMKD_DEADLINE_MS $LMKD_PID $LMKD_REASON" > "$OUT"; '
        'kill -USR1 "$LMKD_PID"; sleep 0.5'
    )
    out = tmp_path / "out"
    with run(fake.path, "--on", f"medium={script}", OUT=str(out)) as running:
        wait_until_ready(running)
        answered = fake.notice("critical", 16 * MIB, deadline_ms=20_000)
        level, target, deadline, pid, reason = out.read_text().rstrip().split(" ", 4)
        assert (level, int(target), int(deadline), reason) == (
            "critical",
            16 * MIB,
            20_000,
            "a test",
        )
        assert int(pid) != running.pid
    assert answered.answer == "done"
    assert answered.freed_bytes >= 31 * MIB, "what was freed, and not what was asked"


@pytest.mark.parametrize(
    ("script", "said"),
    [("exit 1", ""), ("exit 3", "lmkctl: 'exit 3' ended with status 3\n")],
)
def test_a_command_that_fails_has_freed_nothing(fake: FakeLmkd, script: str, said: str) -> None:
    with run(fake.path, "--on", f"low={script}") as running:
        wait_until_ready(running)
        answered = fake.notice("medium", MIB, deadline_ms=20_000)
        assert (answered.answer, answered.freed_bytes) == ("nothing", 0)
        assert running.stderr is not None
        if said:
            assert running.stderr.readline() == said


def test_a_command_that_frees_what_is_not_the_programs_is_done(fake: FakeLmkd) -> None:
    with run(fake.path, "--on", "low=true") as running:
        wait_until_ready(running)
        answered = fake.notice("medium", MIB, deadline_ms=20_000)
        assert (answered.answer, answered.freed_bytes) == ("done", 0)


def test_a_command_that_takes_long_is_announced_and_answered_for_in_time(fake: FakeLmkd) -> None:
    with run(fake.path, "--on", "low=sleep 4") as running:
        wait_until_ready(running)
        answered = fake.notice("medium", MIB, deadline_ms=500)
        assert answered.said_working
        assert answered.answer == "nothing"
        assert running.stderr is not None
        assert running.stderr.readline() == "lmkctl: 'sleep 4' takes longer than there is time\n"


def test_in_an_emergency_it_is_not_put_off_but_answered_when_it_is_done(fake: FakeLmkd) -> None:
    with run(
        fake.path, "--class", "service", "--on", 'low=kill -USR1 "$LMKD_PID"; sleep 0.5'
    ) as running:
        wait_until_ready(running)
        answered = fake.notice("critical", MIB, emergency=True)
    assert (answered.answer, answered.said_working) == ("done", False)
    assert answered.freed_bytes >= 31 * MIB


def test_the_end_of_it_is_told_too(fake: FakeLmkd, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with run(fake.path, "--on", f"low=true,normal=echo $LMKD_LEVEL > {out}") as running:
        wait_until_ready(running)
        fake.notice("low", MIB, deadline_ms=20_000)
        fake.tell("normal")
        wait_for(lambda: out.exists() and out.read_text(), "it was not told of the end")
    assert out.read_text() == "normal\n"


def test_after_a_restart_of_the_daemon_it_is_registered_again(fake: FakeLmkd) -> None:
    with run(fake.path, "--name", "again", "--on", "low=SIGUSR1") as running:
        wait_until_ready(running)
        fake.wait_app("again")
        fake.restart()
        assert fake.notice("low", MIB, deadline_ms=20_000, app="again").answer == "done"


def test_a_unit_that_was_not_granted_is_told(fake: FakeLmkd) -> None:
    with run(fake.path, "--in-scope", "--unit", "cgroup", program=("sleep", "30")) as running:
        app = fake.wait_app()
        assert running.stderr is not None
        if app.describe()["unit"] != "cgroup":
            assert "not cgroup: that takes the controller" in running.stderr.readline()


# --- a scope of its own -----------------------------------------------------------------------------------


def test_a_cgroup_of_its_own_is_a_scope_of_systemds(tmp_path: Path) -> None:
    starter = tmp_path / "systemd-run"
    starter.write_text('#!/bin/sh\nfor each in "$@"; do echo "$each"; done\n')
    starter.chmod(0o755)
    done = run_ctl(
        "run",
        "--unit",
        "cgroup",
        "--name",
        "web",
        "--",
        "httpd",
        "-f",
        PATH=str(tmp_path) + ":/bin:/usr/bin",
    )
    manager = [] if os.geteuid() == 0 else ["--user"]
    assert done.stdout.splitlines() == [
        *manager,
        *("--scope", "--quiet", "--collect", "--", sys.executable, "-m", "lmkd.ctl"),
        *("run", "--in-scope", "--unit", "cgroup", "--name", "web", "--", "httpd", "-f"),
    ]


def test_where_there_is_no_systemd_that_is_said(tmp_path: Path) -> None:
    done = run_ctl("run", "--unit", "cgroup", "httpd", PATH=str(tmp_path))
    assert done.returncode == 126
    assert done.stderr == (
        "lmkctl: a cgroup of its own takes systemd-run, which is not here; --unit tree does without\n"
    )


# --- what is asked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected a program to run"),
        (["--"], "expected a program to run"),
        (
            ["--on", "dire=true", "x"],
            "expected LEVEL=COMMAND or LEVEL=SIGNAL, with a level of normal, low,",
        ),
        (["--on", "low=", "x"], "got 'low='"),
        (["--on", "low=SIGFOO", "x"], "there is no signal SIGFOO"),
        (["--on", "low=SIGKILL", "x"], "SIGKILL frees nothing that a program could give back"),
        (["--on", "low=a,low=b", "x"], "low is given twice"),
        (["--on", "low=a", "--on", "low=b", "x"], "argument --on: low is given twice"),
        (["--class", "system", "x"], "invalid choice: 'system'"),
    ],
)
def test_wrong_arguments_are_told_before_anything_runs(arguments: list[str], said: str) -> None:
    done = run_ctl("run", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_level_without_a_reaction_has_that_of_the_next_lower() -> None:
    reactions = {"low": "a", "medium": signal.SIGUSR1, "normal": "n"}
    assert [reaction_to(level, reactions) for level in ("normal", "low", "medium", "critical")] == [
        "n",
        "a",
        signal.SIGUSR1,
        signal.SIGUSR1,
    ]
    assert reaction_to("low", {"medium": "b", "normal": "n"}) is None
    assert reaction_to("normal", {"low": "a"}) is None


def test_a_program_is_called_as_its_file() -> None:
    assert name_of(["/usr/bin/httpd", "-f"]) == "httpd"
    assert name_of(["a\nb" + "c" * 100]) == "a?b" + "c" * 61


# --- watch --exec -------------------------------------------------------------------------------------------


def test_watch_runs_a_command_for_each_event(fake: FakeLmkd, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = (
        '[ "$LMKD_LEVEL" != low ] || exit 5; '
        f'echo "$LMKD_EVENT $LMKD_DOMAIN $LMKD_LEVEL" >> {out}; cat >> {out}'
    )
    watching = subprocess.Popen(
        [*LMKCTL, "watch", "--exec", command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(LMKD_SOCKET=fake.path),
    )
    try:
        wait_for(lambda: out.exists() and out.read_text().count("\n") == 2, "no first event")
        fake.pressure("low")
        assert watching.stderr is not None
        assert "ended with status 5" in watching.stderr.readline()
        fake.pressure("critical")
        wait_for(lambda: out.read_text().count("\n") == 4, "no last event")
    finally:
        watching.terminate()
        watching.communicate()
    first, of_first, last, of_last = out.read_text().splitlines()
    assert (first, last) == ("pressure system normal", "pressure system critical")
    assert [json.loads(event)["level"] for event in (of_first, of_last)] == ["normal", "critical"]


# --- programs that wait at $MEMORY_PRESSURE_WATCH ----------------------------------------------------------

LISTENER = """
import base64, mmap, os, select, socket
held = [mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)]
held[0].write(bytes([1]) * (32 << 20))
watch = socket.socket(socket.AF_UNIX)
watch.connect(os.environ["MEMORY_PRESSURE_WATCH"])
watch.send(base64.b64decode(os.environ["MEMORY_PRESSURE_WRITE"]))
print("ready", flush=True)
times = 0
while read := watch.recv(4096):
    while held:
        held.pop().close()
    times += len(read)
    print("woken", times, flush=True)
"""
"""The protocol by hand, as MEMORY_PRESSURE.md of systemd has it."""


@contextmanager
def listening(socket: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    with run(socket, *options, program=(sys.executable, "-c", LISTENER)) as running:
        wait_until_ready(running)
        yield running


def test_a_program_that_waits_for_pressure_is_woken_and_credited(fake: FakeLmkd) -> None:
    with listening(fake.path) as running:
        answered = fake.notice("medium", 24 * MIB, deadline_ms=20_000)
        assert running.stdout is not None
        assert running.stdout.readline() == "woken 1\n"
    assert answered.answer == "done"
    assert 24 * MIB <= answered.freed_bytes <= 33 * MIB


def test_it_is_woken_from_the_level_on_that_is_wanted_and_else_left_alone(fake: FakeLmkd) -> None:
    with listening(fake.path, "--memory-pressure", "critical") as running:
        assert fake.notice("medium", MIB).answer == "nothing"
        assert fake.notice("critical", 24 * MIB, deadline_ms=20_000).answer == "done"
        assert running.stdout is not None
        assert running.stdout.readline() == "woken 1\n"


def test_it_is_found_again_by_a_daemon_that_is_started_anew(tmp_path: Path) -> None:
    """The socket is lmkctl's: the program never sees the daemon go."""
    with FakeLmkd(str(tmp_path / "fake")) as fake, listening(fake.path) as running:
        fake.wait_app()
        fake.restart()
        fake.wait_app()
        assert fake.notice("medium", 24 * MIB, deadline_ms=20_000).answer == "done"
        assert running.poll() is None


def test_the_socket_is_gone_with_the_program(daemon: SmallDaemon) -> None:
    done = daemon.ctl(
        "run", "--", "sh", "-c", "test -S $MEMORY_PRESSURE_WATCH && echo $MEMORY_PRESSURE_WATCH"
    )
    path = Path(done.stdout.strip())
    assert path.name == "memory-pressure"
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("option", "write"),
    [("low", b"low"), ("medium", b"medium"), ("kernel", b"some 200000 2000000\0")],
)
def test_what_is_written_says_from_when_on(daemon: SmallDaemon, option: str, write: bytes) -> None:
    script = "echo $MEMORY_PRESSURE_WRITE; echo $MEMORY_PRESSURE_WATCH"
    done = daemon.ctl("run", "--memory-pressure", option, "--", "sh", "-c", script)
    written, watch = done.stdout.split()
    assert base64.b64decode(written) == write
    assert watch.endswith(
        "/memory-pressure" if option != "kernel" else ("/memory", "/memory.pressure")
    )


@pytest.mark.parametrize(
    ("content", "library", "wanted", "chosen"),
    [
        (b"\x7fELF...libgio-2.0.so.0\0...", "libgio-2.0.so.0.9000.1", "auto", "kernel"),
        (b"\x7fELF...libgio-2.0.so.0\0...", "libgio-2.0.so.0.8900.1", "auto", "kernel"),
        (b"\x7fELF...libgio-2.0.so.0\0...", "libgio-2.0.so.0.8803.0", "auto", "medium"),
        (b"\x7fELF...libgio-2.0.so.0\0...", "libgio-2.0.so.0.x", "auto", "medium"),
        (b"\x7fELF...libc.so.6\0...", "libgio-2.0.so.0.9000.1", "auto", "medium"),
        (b"#!/bin/sh\n# libgio-2.0.so.0\0", "libgio-2.0.so.0.9000.1", "auto", "medium"),
        (b"", "libgio-2.0.so.0.9000.1", "auto", "medium"),
        (b"\x7fELF...libgio-2.0.so.0\0...", "libgio-2.0.so.0.9000.1", "low", "low"),
        (b"\x7fELF...libgio-2.0.so.0\0...", "libgio-2.0.so.0.9000.1", "off", "off"),
    ],
)
def test_what_would_be_deaf_at_a_socket_gets_the_kernels_file(
    tmp_path: Path, content: bytes, library: str, wanted: str, chosen: str
) -> None:
    """GLib from 2.89 on waits for EPOLLPRI, whatever is at the path."""
    program, folder = tmp_path / "program", tmp_path / "usr/lib/x86_64-linux-gnu"
    program.write_bytes(content)
    program.chmod(0o755)
    folder.mkdir(parents=True)
    (folder / library).touch()
    (folder / "libgio-2.0.so.0").symlink_to(library)
    assert choose(wanted, str(program), tmp_path) == chosen
    assert choose("auto", str(tmp_path / "none"), tmp_path) == "medium"


def test_where_it_is_off_the_variables_stay_as_they_are(daemon: SmallDaemon) -> None:
    script = "echo $MEMORY_PRESSURE_WATCH"
    mine = environment(LMKD_SOCKET=daemon.socket, MEMORY_PRESSURE_WATCH="/dev/null")
    done = subprocess.run(
        [*LMKCTL, "run", "--memory-pressure", "off", "--", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=mine,
    )
    assert done.stdout == "/dev/null\n"


@pytest.mark.parametrize(
    ("mounts", "cgroup", "there", "found"),
    [
        (
            "cgroup2 /sys/fs/cgroup cgroup2 rw",
            "0::/a/b",
            True,
            "/sys/fs/cgroup/a/b/memory.pressure",
        ),
        ("cgroup2 /sys/fs/cgroup cgroup2 rw", "0::/a/b", False, "/proc/pressure/memory"),
        ("cgroup2 /sys/fs/cgroup cgroup2 rw", "0::/", True, "/proc/pressure/memory"),
        (
            "cgroup /sys/fs/cgroup/memory cgroup rw",
            "1:memory:/a\n0::/a/b",
            True,
            "/proc/pressure/memory",
        ),
        ("", "", False, "/proc/pressure/memory"),
    ],
)
def test_the_kernels_file_is_that_of_the_own_cgroup(
    tmp_path: Path, mounts: str, cgroup: str, there: bool, found: str
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mounts").write_text(mounts + "\n")
    (tmp_path / "proc/self/cgroup").write_text(cgroup + "\n")
    if there:
        for folder in ("sys/fs/cgroup/a/b", "sys/fs/cgroup"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / "memory.pressure").touch()
    assert find_pressure_file(str(tmp_path)) == found
