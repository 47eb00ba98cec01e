"""The command: arguments in, exit code and words out; and once as a process, from start to SIGTERM."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import lmkd_proto as wire
import pytest

import lmkd
from lmkd.cli import main, service_unit

PATIENCE_S = 20
BAD = """\
[classes.cached]
grace = 1
[stall]
lwo = 1
"""


@dataclass(frozen=True)
class Case:
    claim: str
    arguments: tuple[str, ...]
    code: int
    out: tuple[str, ...] = ()
    err: tuple[str, ...] = ()


CASES = (
    Case(
        "help names the signals and the exit codes",
        ("--help",),
        0,
        out=(
            "--dry-run",
            "SIGHUP reads the configuration again",
            "3 mistakes in the configuration",
        ),
    ),
    Case("version", ("--version",), 0, out=(f"lmkd {lmkd.__version__}\n",)),
    Case(
        "a unit for the service manager",
        ("--print-unit",),
        0,
        out=(f'ExecStart="{sys.executable}" -m lmkd\n', "MemoryMin=", "WatchdogSec="),
    ),
    Case(
        "a policy for the message bus",
        ("--print-dbus-policy",),
        0,
        out=('<allow own="org.freedesktop.LowMemoryMonitor"/>', "</busconfig>\n"),
    ),
    Case(
        "a service for the message bus",
        ("--print-dbus-service",),
        0,
        out=("Name=org.freedesktop.LowMemoryMonitor\n", "SystemdService=lmkd.service\n"),
    ),
    Case(
        "a session has no unit of the system's",
        ("--print-unit", "--session"),
        2,
        err=("--print-unit is for the system's daemon",),
    ),
    Case("an unknown argument", ("--sokcet", "x"), 2, err=("unrecognized arguments: --sokcet",)),
    Case("no argument is guessed from its beginning", ("--sim", "1GiB"), 2, err=("--sim",)),
    Case("a word too many", ("start",), 2, err=("unrecognized arguments: start",)),
    Case("a size without a unit", ("--simulated", "256"), 2, err=("such as 128MiB, got '256'",)),
    Case("no memory at all", ("--simulated", "0MiB"), 2, err=("such as 128MiB, got '0MiB'",)),
    Case(
        "every mistake is named with its line",
        ("--config", "bad.toml"),
        3,
        err=("bad.toml:2:9: classes.cached.grace: ", "bad.toml:4:1: ", "lmkd: 2 mistakes in the"),
    ),
    Case("a bad configuration fails a check", ("--check", "--config", "bad.toml"), 3),
    Case(
        "a configuration that is not there",
        ("--config", "missing.toml"),
        3,
        err=("missing.toml: cannot be read: No such file", "lmkd: 1 mistake in the"),
    ),
    Case(
        "a configuration that is no text",
        ("--config", "binary.toml"),
        3,
        err=("binary.toml:1:1: not UTF-8 text",),
    ),
    Case(
        "a check prints what would be watched and done",
        ("--check", "--config", "good.toml"),
        0,
        out=(
            "configuration: lmkd/defaults.toml, good.toml",
            "domain system (may kill)",
            "domain /no/such/box: no such cgroup now",
            "critical",
            "perceptible",
        ),
    ),
    Case("a path too long", ("--socket", "x" * 108), 1, err=("lmkd: socket path", "107")),
    Case(
        "a directory whose parent is missing",
        ("--socket", "missing/parent/socket"),
        1,
        err=("lmkd: socket directory missing/parent: No such file",),
    ),
    Case("a file in the way", ("--socket", "good.toml"), 1, err=("is not a socket",)),
    Case("another daemon", ("--socket", "live"), 1, err=("another daemon answers at live",)),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.claim)
def test_the_command(
    case: Case,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LMKD_SOCKET", raising=False)
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    Path("bad.toml").write_text(BAD)
    Path("binary.toml").write_bytes(b"\xff\xfe")
    Path("good.toml").write_text('[[domain]]\ncgroup = "/no/such/box"\nkill = false\n')
    with socket.socket(socket.AF_UNIX) as live:
        live.bind("live")
        live.listen()
        try:
            code = main(case.arguments)
        except SystemExit as left:  # argparse leaves by itself
            code = left.code  # type: ignore[assignment]
    printed = capsys.readouterr()
    assert code == case.code, printed
    for words in case.out:
        assert words in printed.out
    for words in case.err:
        assert words in printed.err
    if code not in (0, 2):
        assert "Traceback" not in printed.err
        assert printed.out == ""
    assert Path("good.toml").read_text().startswith("[[domain]]")


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze: install systemd to have the unit verified")
    unit = tmp_path / "lmkd.service"
    unit.write_text(service_unit(sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    # It speaks of other units of this machine as well.
    assert not [line for line in done.stderr.splitlines() if "lmkd" in line], done.stderr


def test_an_interpreter_with_odd_signs_in_its_path_is_quoted() -> None:
    assert r'ExecStart="/a \"b\" 100%%/python" -m lmkd' in service_unit('/a "b" 100%/python')


def test_the_socket_of_the_environment_is_used_where_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMKD_SOCKET", "a/b/c")
    assert main(("--config", os.devnull)) == 1
    assert "socket directory a/b" in capsys.readouterr().err
    assert main(("--config", os.devnull, "--socket", "d/e/f")) == 1
    assert "socket directory d/e" in capsys.readouterr().err


class Log:
    """What a daemon writes to stderr, as it comes."""

    def __init__(self, daemon: subprocess.Popen[bytes]) -> None:
        assert daemon.stderr is not None
        self._fd = daemon.stderr.fileno()
        self.text = ""

    def wait_for(self, words: str) -> None:
        """Return when it has written this."""
        deadline = time.monotonic() + PATIENCE_S
        while words not in self.text:
            left_s = deadline - time.monotonic()
            assert select.select([self._fd], [], [], max(left_s, 0))[0], self.text
            chunk = os.read(self._fd, 4096)
            assert chunk, f"it left before it said {words!r}: {self.text}"
            self.text += chunk.decode()


def test_a_daemon_serves_reloads_says_bye_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path, config = tmp_path / "run" / "socket", tmp_path / "lmkd.toml"
    config.write_text("")
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "lmkd", "--simulated", "256MiB"),
            *("--socket", str(path), "--config", str(config), "--state-dir", str(tmp_path / "s")),
        ],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    ) as daemon:
        log = Log(daemon)
        try:
            log.wait_for("ready, listening at")
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE_S)
                sock.connect(str(path))
                client = wire.ClientConnection()
                sock.sendall(
                    client.send(wire.Hello(0, wire.PROTOCOL_VERSION))
                    + client.send(wire.Subscribe(1))
                    + client.send(wire.Register(2, "test", "foreground"))
                )
                heard: list[wire.Event] = []
                while not any(isinstance(event, wire.Ok) and event.id == 2 for event in heard):
                    heard += client.receive(sock.recv(4096))
                assert isinstance(heard[0], wire.Welcome)
                config.write_text(BAD)
                daemon.send_signal(signal.SIGHUP)
                log.wait_for("lmkd.toml:2:9: classes.cached.grace: ")
                config.write_text("")
                daemon.send_signal(signal.SIGHUP)
                log.wait_for("configuration read again")
                daemon.send_signal(signal.SIGTERM)
                while chunk := sock.recv(4096):
                    heard += client.receive(chunk)
                assert isinstance(heard[-1], wire.Bye)
            assert daemon.wait(PATIENCE_S) == 0
        finally:
            daemon.kill()
        log.wait_for("lmkd: left")
    assert not path.exists()
    assert "Traceback" not in log.text
