"""The stage of a scenario: the real daemon, programs, and one timeline of all that happened.

Runs inside the guest. Times are milliseconds of CLOCK_MONOTONIC, the same clock for all. The outcome goes to /out as
JSON, and the test on the host judges it.
"""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lmkd_proto import ClientConnection, Error, Hello, Ok

SOCKET = "/run/lmkd/socket"
OUT = Path("/out")
Event = dict[str, Any]


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Program:
    """One program on the stage."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log
        self.pidfd = os.pidfd_open(process.pid)
        self.ended_ms: int | None = None

    def events(self) -> list[Event]:
        lines = self.log.read_bytes().splitlines(keepends=True)
        return [{"who": self.name, **json.loads(line)} for line in lines if line.endswith(b"}\n")]

    def has(self, what: str, **more: Any) -> bool:
        return any(
            event["what"] == what and all(event.get(key) == value for key, value in more.items())
            for event in self.events()
        )


class Stage:
    """Everything that runs in one scenario."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.directory = Path("/tmp/stage")
        self.directory.mkdir()
        self.programs: list[Program] = []
        self.daemon: subprocess.Popen[bytes] | None = None
        self.notes: list[Event] = []
        self.oom_kills = self._oom_kills()
        self.majflt = 0

    def start_daemon(
        self,
        config: str = "",
        program: tuple[str, ...] = ("lmkd",),
        *,
        prefix: Sequence[str] = (),
    ) -> None:
        """Start lmkd, or what runs it otherwise, by another program if there is a prefix; wait until it listens."""
        path = self.directory / "lmkd.toml"
        path.write_text(config)
        log = self.directory / "daemon.log"
        log.touch()
        before = log.read_bytes().count(b" ready")
        began = now_ms()
        self.daemon = subprocess.Popen(
            [
                *prefix,
                *(sys.executable, "-m", *program),
                *("--config", str(path), "--state-dir", "/tmp/state"),
            ],
            stderr=log.open("ab"),
            env={**os.environ, "LMKD_SOCKET": SOCKET},
        )
        self.wait(lambda: log.read_bytes().count(b" ready") > before, 60, "the daemon")
        self.note("daemon", started_in_ms=now_ms() - began)
        self.majflt = self._daemon_majflt()

    def start(self, name: str, *options: str, wait: bool = True) -> Program:
        """Start a member; wait until it holds what it should and, if it registers, is registered."""
        log = self.directory / f"{name}.log"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.vm.guest.member", name, "--socket", SOCKET, *options],
            stdout=log.open("wb"),
            stderr=sys.stderr,
        )
        program = Program(name, process, log)
        self.programs.append(program)
        if wait:
            what = "registered" if "--register" in options else "started"
            self.wait(lambda: program.has(what), 60, f"{name} to be {what}")
        return program

    def start_plain(
        self,
        name: str,
        hold: int,
        *options: str,
        comm: str = "plain",
        cgroup: str = "/",
        adj: int | None = None,
        wait: bool = True,
    ) -> Program:
        """Start a program that knows nothing of lmkd, under a comm of its own, in a cgroup from its first instant."""
        link = self.directory / "bin" / comm
        link.parent.mkdir(exist_ok=True)
        if not link.exists():
            link.symlink_to(os.path.realpath(sys.executable))
        log = self.directory / f"{name}.log"

        def place() -> None:
            if cgroup != "/":
                Path(f"/sys/fs/cgroup{cgroup}/cgroup.procs").write_text("0")
            if adj is not None:
                Path("/proc/self/oom_score_adj").write_text(str(adj))

        process = subprocess.Popen(
            [str(link), "-S", str(Path(__file__).with_name("plain.py")), name, str(hold), *options],
            stdout=log.open("wb"),
            stderr=sys.stderr,
            env={"PYTHONHOME": sys.base_prefix, "PATH": "/usr/bin:/bin"},
            preexec_fn=place,
        )
        program = Program(name, process, log)
        self.programs.append(program)
        if wait:
            self.wait(lambda: program.has("started"), 60, f"{name} to be started")
        return program

    def make_group(self, path: str, **files: str) -> None:
        """Make a cgroup, with these control files set (memory_swap_max is memory.swap.max)."""
        directory = Path(f"/sys/fs/cgroup{path}")
        directory.mkdir()
        for name, value in files.items():
            (directory / name.replace("_", ".")).write_text(value)

    def delegate_memory(self, path: str) -> None:
        """Have the groups in this one have memory files of their own; it may then hold no process itself."""
        Path(f"/sys/fs/cgroup{path}/cgroup.subtree_control").write_text("+memory")

    def adj(self, pid: int) -> int | None:
        """Read what the kernel goes by."""
        try:
            return int(Path(f"/proc/{pid}/oom_score_adj").read_text())
        except (FileNotFoundError, ProcessLookupError):
            return None

    def ask(self, request: Any) -> dict[str, Any]:
        """Put one question to the daemon, and return its result."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(SOCKET)
            connection = ClientConnection()
            sock.sendall(connection.send(Hello(0, 1, "stage")) + connection.send(request))
            while True:
                for event in connection.receive(sock.recv(65536)):
                    if isinstance(event, Ok):
                        return event.result
                    if isinstance(event, Error):
                        raise AssertionError(event)

    def kill_daemon(self) -> None:
        """End the daemon by SIGKILL: it can put nothing back."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()
        self.note("daemon_killed")

    def wait(self, true: Callable[[], bool], timeout_s: float, what: str) -> bool:
        """Wait for something, noting who ends meanwhile; say so when it did not come to be."""
        deadline = time.monotonic() + timeout_s
        while not true():
            if time.monotonic() > deadline:
                self.note("timeout", waited_for=what)
                return False
            alive = [program for program in self.programs if program.ended_ms is None]
            for fd in select.select([program.pidfd for program in alive], [], [], 0.02)[0]:
                program = next(one for one in alive if one.pidfd == fd)
                program.ended_ms = now_ms()
                self.note("ended", who=program.name, code=program.process.wait())
        return True

    def sleep(self, seconds: float) -> None:
        """Let time pass, noting who ends."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= end, seconds + 1, "time")

    def note(self, what: str, who: str = "stage", **more: Any) -> None:
        self.notes.append({"t": now_ms(), "who": who, "what": what, **more})

    def finish(self) -> None:
        """Write the outcome, end everything, and say where it is."""
        events = [*self.notes]
        for program in self.programs:
            events.extend(program.events())
        events.sort(key=lambda event: event["t"])
        alive = [program.name for program in self.programs if program.ended_ms is None]
        for program in self.programs:
            if program.ended_ms is None:
                program.process.kill()
                program.process.wait()
        daemon_alive = self.daemon is not None and self.daemon.poll() is None
        majflt = 0
        if self.daemon is not None and daemon_alive:
            majflt = self._daemon_majflt() - self.majflt
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait(20)
        history = Path("/tmp/state/history.jsonl")
        outcome = {
            "events": events,
            "alive": alive,
            "oom_kills": self._oom_kills() - self.oom_kills,
            "daemon_alive": daemon_alive,
            "daemon_majflt": majflt,
            "daemon_log": (self.directory / "daemon.log").read_text(),
            "history": [json.loads(line) for line in history.read_text().splitlines()]
            if history.exists()
            else [],
        }
        (OUT / f"{self.name}.json").write_text(json.dumps(outcome))
        recordings = Path("/tmp/state/recordings")
        if recordings.is_dir():
            shutil.copytree(recordings, OUT / f"{self.name}-recordings", dirs_exist_ok=True)

    def _daemon_majflt(self) -> int:
        assert self.daemon is not None
        return int(Path(f"/proc/{self.daemon.pid}/stat").read_text().rpartition(") ")[2].split()[9])

    def _oom_kills(self) -> int:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0
