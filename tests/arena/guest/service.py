"""A guard's unit in the guest: prepared, started until it watches, looked at, stopped.

Units are the packages' own. Two things are added to each: its output goes to a file, and it does not pull in the
rest of a boot. The users that a package's scripts would have made are made here. lmkd's unit is what
`lmkd --print-unit` prints.
"""

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmkd.cli import service_unit
from tests.arena.guards import Guard

UNITS = Path("/run/systemd/system")
LOG = Path("/run/arena/guard.log")
USER_UNIT = "user@1000.service"
BUS_UNITS = ("dbus.socket", "dbus.service")
_USERS = {"messagebus": 991, "systemd-oom": 992}
_READY_TIMEOUT_S = 45
_FREE = "[Unit]\nDefaultDependencies=no\n"
_NO_BYTECODE = "[Service]\nEnvironment=PYTHONDONTWRITEBYTECODE=1\n"
# As `systemd --user` does it, with nothing in it: the group is delegated, and its own process sits in a leaf.
_USER = f"""{_FREE}[Service]
Slice=user-1000.slice
Delegate=yes
OOMScoreAdjust=100
ExecStart=/.vm/busybox sh -c 'group=/sys/fs/cgroup$$(/.vm/busybox cut -d: -f3 /proc/self/cgroup); \
/.vm/busybox mkdir $$group/init.scope && echo 0 >$$group/init.scope/cgroup.procs && \
exec /.vm/busybox sleep 100000'
"""


@dataclass(slots=True)
class Figures:
    """What a guard has cost so far, as last seen."""

    peak_rss_kib: int = 0
    rss_kib: int = 0
    cpu_ms: int = 0
    minor_faults: int = 0
    major_faults: int = 0


class GuardFailedError(Exception):
    """The guard did not come to watch; its log is in the message."""


def systemctl(*words: str) -> str:
    """Run systemctl and return what it says."""
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise GuardFailedError(f"systemctl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Service:
    """One guard, or none."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.pid = 0
        self.figures = Figures()
        self._from = Figures()
        self._originals: dict[Path, bytes | None] = {}

    def start_session(self) -> None:
        """Start the session's cgroups, and prepare the guard's unit."""
        _make_users()
        LOG.write_bytes(b"")
        self._put(UNITS / USER_UNIT, _USER)
        for unit in (*BUS_UNITS, self.guard.unit):
            if unit:
                self._put(UNITS / f"{unit}.d/arena.conf", _FREE)
        if self.guard.unit:
            self._put(
                UNITS / f"{self.guard.unit}.d/output.conf",
                f"[Service]\nStandardOutput=append:{LOG}\nStandardError=append:{LOG}\n",
            )
        if self.guard.name == "lmkd":
            shutil.rmtree("/var/lib/lmkd", ignore_errors=True)
            self._put(UNITS / self.guard.unit, service_unit(sys.executable))
            self._put(UNITS / f"{self.guard.unit}.d/bytecode.conf", _NO_BYTECODE)
        for path, content in self.guard.files.items():
            self._put(Path(path), content)
        systemctl("daemon-reload")
        subprocess.run(["systemctl", "reset-failed"], check=False)
        systemctl("start", USER_UNIT)

    def start_guard(self) -> None:
        """Start the guard, and wait until it watches."""
        if self.guard.needs_bus:
            systemctl("start", *BUS_UNITS)
        if self.guard.unit:
            systemctl("start", self.guard.unit)
            self._wait_watching()

    def begin(self) -> None:
        """Count cost and faults from here on: an emulated start says nothing of a guard."""
        self.look()
        self._from = self.figures

    def look(self) -> bool:
        """Read what the guard has cost; False when it is no longer there."""
        if not self.pid:
            return self.guard.unit == ""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
            status = Path(f"/proc/{self.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        if fields[0] == "Z":
            return False
        sizes = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Vm"))
        self.figures = Figures(
            peak_rss_kib=int(sizes["VmHWM"].split()[0]),
            rss_kib=int(sizes["VmRSS"].split()[0]),
            cpu_ms=(int(fields[11]) + int(fields[12])) * 10,
            minor_faults=int(fields[7]),
            major_faults=int(fields[9]),
        )
        return True

    def stop(self) -> dict[str, Any]:
        """Say how the guard stands and what it cost, stop everything, and put files back as they were."""
        standing: dict[str, Any] = {"alive": self.look(), "restarts": 0}
        standing["peak_rss_kib"] = self.figures.peak_rss_kib
        standing["rss_kib"] = self.figures.rss_kib
        for name in ("cpu_ms", "minor_faults", "major_faults"):
            standing[name] = getattr(self.figures, name) - getattr(self._from, name)
        if self.guard.unit:
            standing["restarts"] = int(
                systemctl("show", "-p", "NRestarts", "--value", self.guard.unit) or 0
            )
            standing["alive"] = standing["alive"] and self._main_pid() == self.pid
        units = [self.guard.unit] if self.guard.unit else []
        if self.guard.needs_bus:
            units.extend(BUS_UNITS)
        systemctl("stop", USER_UNIT, *units)
        for path, content in self._originals.items():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content)
        return standing

    def _put(self, path: Path, content: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._originals.setdefault(path, path.read_bytes() if path.exists() else None)
        path.write_text(content)

    def _main_pid(self) -> int:
        return int(systemctl("show", "-p", "MainPID", "--value", self.guard.unit))

    def _wait_watching(self) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not self._watches():
            if time.monotonic() > deadline:
                raise GuardFailedError(f"{self.guard.name} does not watch: {LOG.read_text()}")
            time.sleep(0.1)
        self.pid = self._main_pid()
        if not self.look():
            raise GuardFailedError(f"{self.guard.name} ended: {LOG.read_text()}")

    def _watches(self) -> bool:
        said = LOG.read_text(errors="replace")
        if self.guard.asks:
            done = subprocess.run(self.guard.asks, capture_output=True, text=True, check=False)
            if done.returncode:
                return False
            said = done.stdout
        return self.guard.says in said


def _make_users() -> None:
    for name, number in _USERS.items():
        for file, line in (
            ("/etc/passwd", f"{name}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin\n"),
            ("/etc/group", f"{name}:x:{number}:\n"),
        ):
            known = Path(file).read_text()
            if not any(entry.startswith(f"{name}:") for entry in known.splitlines()):
                Path(file).write_text(known + line)
