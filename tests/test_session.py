"""`lmkd --session`: its places, what is the user's, and a real daemon that runs as an ordinary user."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmkd_client
import lmkd_client.blocking as lmkd_blocking
import lmkd_proto
import pytest
import trio

import lmkd
from lmkd.cli import main
from lmkd.kernel.simulated import SimulatedKernel
from lmkd.session import SessionError, SessionPlaces, find_delegated, session_places

NOBODY = 65534
INTERPRETERS = (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}")
"""The tests' own may lie in a home that nobody else can enter."""
PACKAGES = ":".join(
    dict.fromkeys(
        str(Path(str(package.__file__)).parents[1])
        for package in (lmkd, lmkd_proto, lmkd_client, trio)
    )
)
PATIENCE_S = 30
LOOKS_APART_S = 0.02
HOLD = """
import sys, time
from lmkd_client.blocking import connect
with connect(sys.argv[1], name="hold") as client:
    client.register("hold", "foreground")
    held = []
    def anon_kib():
        status = open("/proc/self/status").read()
        return int(status.split("RssAnon:")[1].split()[0])
    while anon_kib() < int(sys.argv[2]):
        held.append(b"x" * (1 << 20))
    print("held", flush=True)
    time.sleep(600)
"""


# --- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "places"),
    [
        (
            {"XDG_RUNTIME_DIR": "/run/user/5", "HOME": "/home/a"},
            SessionPlaces(
                "/run/user/5/lmkd/socket",
                "/home/a/.local/state/lmkd",
                Path("/home/a/.config/lmkd"),
            ),
        ),
        (
            {"XDG_RUNTIME_DIR": "/r", "XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c"},
            SessionPlaces("/r/lmkd/socket", "/s/lmkd", Path("/c/lmkd")),
        ),
        (
            {"XDG_RUNTIME_DIR": "/r", "HOME": "/h", "XDG_STATE_HOME": "s", "XDG_CONFIG_HOME": ""},
            SessionPlaces("/r/lmkd/socket", "/h/.local/state/lmkd", Path("/h/.config/lmkd")),
        ),
    ],
)
def test_places_are_those_of_the_xdg_specification(
    environ: Mapping[str, str], places: SessionPlaces
) -> None:
    """A path that is not absolute is to be ignored, by the same specification."""
    assert session_places(environ) == places


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "XDG_RUNTIME_DIR is not set"),
        ({"XDG_RUNTIME_DIR": "run", "HOME": "/h"}, "XDG_RUNTIME_DIR is not set"),
        ({"XDG_RUNTIME_DIR": "/r"}, "HOME is not set"),
        ({"XDG_RUNTIME_DIR": "/r", "HOME": "h"}, "HOME is not set"),
        ({"XDG_RUNTIME_DIR": "/r", "XDG_STATE_HOME": "/s"}, "HOME is not set"),
    ],
)
def test_what_is_missing_is_said(environ: Mapping[str, str], said: str) -> None:
    with pytest.raises(SessionError, match=said):
        session_places(environ)


def test_without_a_session_the_command_says_why_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert main(["--session"]) == 1
    assert "no session: $XDG_RUNTIME_DIR is not set" in capsys.readouterr().err


def test_a_session_is_configured_from_its_own_directory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config/lmkd/lmkd.d").mkdir(parents=True)
    (tmp_path / "config/lmkd/lmkd.d/9.toml").write_text("[polcy]\n")
    assert main(["--session", "--check"]) == 3
    assert "config/lmkd/lmkd.d/9.toml:1:2: " in capsys.readouterr().err


# --- what is the user's ---------------------------------------------------------------------------------------------

USER_MANAGER = "/user.slice/user-7.slice/user@7.service"


@pytest.mark.parametrize(
    ("own", "owned", "uid", "found"),
    [
        (f"{USER_MANAGER}/app.slice/lmkd.service", USER_MANAGER, 7, USER_MANAGER),
        (USER_MANAGER, USER_MANAGER, 7, USER_MANAGER),
        ("/user.slice/user-7.slice/session-1.scope", USER_MANAGER, 7, None),
        (f"{USER_MANAGER}/app.slice/lmkd.service", USER_MANAGER, 8, None),
        (f"{USER_MANAGER}/app.slice/lmkd.service", USER_MANAGER, 0, None),
        ("/", "/", 7, None),
    ],
)
def test_the_delegated_part_is_the_topmost_of_those_above_us_that_the_user_owns(
    own: str, owned: str, uid: int, found: str | None
) -> None:
    kernel = SimulatedKernel(features=replace(SimulatedKernel().features(), own_cgroup=own))
    kernel.add_cgroup(f"{USER_MANAGER}/app.slice/lmkd.service")
    kernel.add_cgroup(own)
    for path in kernel.machine.cgroups:
        if path == owned or path.startswith(owned + "/"):
            kernel.machine.cgroups[path].owner = 7
    assert find_delegated(kernel, uid) == found


# --- a real one ----------------------------------------------------------------------------------------------------


def wait_for(is_true: Callable[[], Any], why: Callable[[], str] = lambda: "") -> Any:
    """Return what is true once it is."""
    last_s = time.monotonic() + PATIENCE_S
    while not (found := is_true()):
        assert time.monotonic() < last_s, why()
        time.sleep(LOOKS_APART_S)
    return found


class Process:
    """A program that runs, with its words in a file."""

    def __init__(self, log: Path, *arguments: str, user: int | None = None, **environ: str) -> None:
        self.log = log
        with open(log, "wb") as file:
            self.running = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": PACKAGES, **environ},
                cwd="/",
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def pid(self) -> int:
        return self.running.pid

    def wait_said(self, words: str) -> None:
        wait_for(lambda: words in self.said or self.running.poll() is not None, lambda: self.said)
        assert words in self.said, self.said

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.running.send_signal(how)
        return self.running.wait(PATIENCE_S)


class Desk:
    """One user's places, and what runs there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.system_socket = str(root / "system")
        self.socket = str(root / "run/lmkd/socket")
        self.interpreter = sys.executable
        """One that the user can run, too."""
        self._running: list[Process] = []
        for name in ("run", "home", "home/.config", "home/.config/lmkd"):
            (root / name).mkdir(0o700)
            os.chown(root / name, NOBODY, NOBODY)

    def start(self, name: str, *arguments: str, user: int | None = None, **environ: str) -> Process:
        log = self.root / f"{name}-{len(self._running)}.log"
        process = Process(log, *arguments, user=user, **environ)
        self._running.append(process)
        return process

    def start_session(self, text: str = "", *, wait: bool = True) -> Process:
        config = self.root / "home/.config/lmkd/lmkd.toml"
        # It only tells: this is the real machine, and others may be running tests of theirs as that user.
        told_only = "[system]\nkill = false\n"
        config.write_text(f'[service]\nsocket = "{self.system_socket}"\n{told_only}{text}')
        process = self.start(
            "session",
            *(self.interpreter, "-m", "lmkd", "--session"),
            user=NOBODY,
            XDG_RUNTIME_DIR=str(self.root / "run"),
            HOME=str(self.root / "home"),
        )
        if wait:
            process.wait_said(" ready")
        return process

    def start_system(self) -> Process:
        (self.root / "system.toml").write_text("")
        process = self.start(
            "system",
            *(sys.executable, "-m", "lmkd", "--simulated", "256MiB"),
            *("--socket", self.system_socket, "--state-dir", str(self.root / "state")),
            *("--config", str(self.root / "system.toml")),
        )
        process.wait_said(" ready")
        return process

    def connect(self) -> lmkd_blocking.Client:
        return lmkd_blocking.connect(self.socket, name="a test")

    def find_interpreter(self) -> bool:
        """Find one that the user can run; whether there is any."""
        for self.interpreter in INTERPRETERS:
            with suppress(OSError):
                probe = self.start(
                    "probe", self.interpreter, "-c", "import lmkd.service.daemon", user=NOBODY
                )
                if probe.running.wait(PATIENCE_S) == 0:
                    return True
        return False

    def end_all(self) -> None:
        for process in self._running:
            process.end(signal.SIGKILL)


@pytest.fixture
def desk() -> Iterator[Desk]:
    """One user's places; pytest's own directory cannot be entered by that user."""
    if os.geteuid() != 0:
        pytest.skip("to run something as another user takes root")
    root = Path(tempfile.mkdtemp(prefix="lmkd-session-"))
    root.chmod(0o755)
    desk = Desk(root)
    try:
        if not desk.find_interpreter():
            pytest.skip(f"uid {NOBODY} can run none of {', '.join(INTERPRETERS)} with our packages")
        yield desk
    finally:
        desk.end_all()
        shutil.rmtree(root)


def adj_of(process: Process) -> int:
    return int(Path(f"/proc/{process.pid}/oom_score_adj").read_text())


TABS = '[[rule]]\nname = "tabs"\nmatch = { comm = "sleep" }\nclass = "cached"\n'


def test_a_session_serves_its_user_and_never_has_a_place_for_anybody_else(desk: Desk) -> None:
    """On the real kernel, where it may give places to what is the user's own."""
    own = desk.start("own", "sleep", "600", user=NOBODY)
    other = desk.start("other", "sleep", "600")
    before = adj_of(own), adj_of(other)
    session = desk.start_session(TABS)
    place = os.stat(desk.socket)
    assert (place.st_uid, place.st_mode & 0o777) == (NOBODY, 0o666)
    assert (desk.root / "home/.local/state/lmkd").is_dir()
    with desk.connect() as client:
        mine = client.explain(own.pid)
        assert (mine["rule"], mine["never_killed"], mine["killed_at"]) == ("tabs", None, "medium")
        reason = f"it belongs to uid 0, and this is the session of {NOBODY}"
        for pid in (other.pid, os.getpid()):
            theirs: Any = client.explain(pid)
            assert (theirs["never_killed"], theirs["rule"]) == (reason, "")
            assert {row["spared"] for row in theirs["ranks"]} == {f"never killed: {reason}"}
        rows: Any = client.processes(limit=1000)["processes"]
        assert {row["projected"] for row in rows if row["uid"] != NOBODY} <= {None}
        status: Any = client.status()
        assert status["config_files"][-1] == str(desk.root / "home/.config/lmkd/lmkd.toml")
        assert status["relayed_from"] is None
        assert status["pid"] == session.pid
    wait_for(lambda: adj_of(own) == 900)
    assert adj_of(other) == before[1]
    assert session.end() == 0
    assert not os.path.exists(desk.socket)
    # To lower it again takes CAP_SYS_RESOURCE only below what it was started with.
    assert adj_of(own) == before[0]
    assert "Traceback" not in session.said


def test_a_session_relays_the_systems_levels_and_judges_for_itself_when_that_one_goes(
    desk: Desk,
) -> None:
    system = desk.start_system()
    session = desk.start_session()
    session.wait_said(f"the level of the system is that of the lmkd at {desk.system_socket}")
    with desk.connect() as client:

        def status() -> Any:
            return client.status()

        assert status()["relayed_from"] == desk.system_socket
        hold = desk.start("hold", sys.executable, "-c", HOLD, desk.system_socket, str(228 << 10))
        hold.wait_said("held")
        said = wait_for(lambda: (row := status()["domains"][0])["level"] != "normal" and row)
        # In the other's words: it may say first how soon its floor is met, of which this one, with GiBs, knows nothing.
        words = ("of 256.0 MiB available", "s to the floor at")
        assert any(one in said["reason"] for one in words), said["reason"]
        assert said["total_kib"] > 256 << 10, "of which it has none"
        assert system.end() == 0
        session.wait_said("the level of the system is judged here now")
        assert status()["relayed_from"] is None
        # Where it really is short of memory, it says so in its own words.
        wait_for(lambda: "of 256.0 MiB" not in status()["domains"][0]["reason"])
    assert session.end() == 0


def test_a_session_beside_one_that_runs_is_refused(desk: Desk) -> None:
    desk.start_session()
    second = desk.start_session(wait=False)
    assert second.running.wait(PATIENCE_S) == 1
    assert f"another daemon answers at {desk.socket}" in second.said
