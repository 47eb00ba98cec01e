"""A desktop session's cgroups, and the programs of a workload in them.

Each program is in a scope of its own below app.slice (or shares one it names), as `systemd --user` has it, with the
oom_score_adj of a real session and as user 1000. Who dies is known from wait(2): programs are children of the stage,
which is also given the orphans of those that fork.
"""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from lmkd_proto import ClientConnection, Hello, Register

from tests.arena.guards import Guard
from tests.arena.workloads import DATA_FILE, Program

ROOT = Path("/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service")
UID = 1000
LMKD_SOCKET = "/run/lmkd/socket"
BUS_SOCKET = "/run/dbus/system_bus_socket"
MIB = 1 << 20
_LMKD_ADDRESS = f"socket={LMKD_SOCKET}"


@dataclass(slots=True)
class Player:
    """A program that was started, and how it ended, if it did."""

    program: Program
    slot: int
    pid: int
    group: Path
    ended_ns: int = 0
    status: int = 0

    @property
    def ending(self) -> str:
        """In words: "signal 9", "exit 0", or "" while it lives."""
        if not self.ended_ns:
            return ""
        if os.WIFSIGNALED(self.status):
            return f"signal {os.WTERMSIG(self.status)}"
        return f"exit {os.WEXITSTATUS(self.status)}"


def prepare() -> None:
    """Have memory accounted for in every scope, and let the user own them."""
    while (
        not (ROOT / "init.scope" / "cgroup.events").exists() or (ROOT / "cgroup.procs").read_text()
    ):
        time.sleep(0.01)  # until the unit's own process is in its leaf; else EBUSY
    for group in (ROOT, ROOT / "app.slice", ROOT / "session.slice"):
        group.mkdir(exist_ok=True)
        (group / "cgroup.subtree_control").write_text("+memory +pids")
        if group != ROOT:
            _give(group)


def end_all() -> None:
    """Kill every program of the session, by one write."""
    (ROOT / "cgroup.kill").write_text("1")


def _give(group: Path) -> None:
    for path in (group, group / "cgroup.procs", group / "cgroup.subtree_control"):
        os.chown(path, UID, UID)


def start(
    program: Program, slot: int, binary: str, board: Path, guard: Guard, options: list[str]
) -> Player:
    """Start one program in its cgroup; it says on the board when it holds what it should."""
    name = program.scope or f"{program.name}-{slot}"
    slice_ = "session.slice" if program.session else "app.slice"
    group = ROOT / slice_ / f"app-{name.replace(' ', '-')}.scope"
    if not group.exists():
        group.mkdir()
        _give(group)
    words = [
        f"hold={program.hold_mib}",
        f"sheddable={program.sheddable_mib}",
        *program.options,
        *options,
    ]
    if program.app_class and guard.warns:
        words.extend(_listening(program, guard))

    def place() -> None:
        (group / "cgroup.procs").write_text("0")
        Path("/proc/self/oom_score_adj").write_text(str(program.adj))
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)

    process = subprocess.Popen(
        [binary, str(board), str(slot), program.name, *words],
        stdin=subprocess.DEVNULL,
        preexec_fn=place,
        env={"PATH": "/usr/bin:/bin"},
    )
    process.returncode = 0  # the stage waits for it, by pid
    return Player(program, slot, process.pid, group)


def _listening(program: Program, guard: Guard) -> list[str]:
    if guard.warns == "lmkd":
        connection = ClientConnection()
        greeting = connection.send(Hello(0, 1, program.name)) + connection.send(
            Register(2, program.name, program.app_class, program.sheddable_mib * MIB)
        )
        return [_LMKD_ADDRESS, "lmkd=1", f"greeting={greeting.hex()}"]
    return [f"socket={BUS_SOCKET}", f"greeting={bus_greeting(UID).hex()}"]


def bus_greeting(uid: int) -> bytes:
    """Return what a program says to the message bus to be told of LowMemoryWarning."""
    rule = "type='signal',interface='org.freedesktop.LowMemoryMonitor',member='LowMemoryWarning'"
    encoded = len(rule).to_bytes(4, "little") + rule.encode() + b"\0"
    return (
        b"\0AUTH EXTERNAL %s\r\nBEGIN\r\n" % str(uid).encode().hex().encode()
        + _call(1, "Hello", b"")
        + _call(2, "AddMatch", encoded)
    )


def _call(serial: int, member: str, body: bytes) -> bytes:
    """Return a method call to the bus itself, as the D-Bus specification lays it out."""
    fields = b""
    for code, kind, text in (
        (1, b"o", "/org/freedesktop/DBus"),
        (2, b"s", "org.freedesktop.DBus"),
        (3, b"s", member),
        (6, b"s", "org.freedesktop.DBus"),
        *([(8, b"g", "s")] if body else []),
    ):
        fields += b"\0" * (-len(fields) % 8) + bytes((code, 1)) + kind + b"\0"
        if kind == b"g":
            fields += bytes((len(text),)) + text.encode() + b"\0"
        else:
            fields += len(text).to_bytes(4, "little") + text.encode() + b"\0"
    head = b"l\1\0\1" + len(body).to_bytes(4, "little") + serial.to_bytes(4, "little")
    head += len(fields).to_bytes(4, "little") + fields
    return head + b"\0" * (-len(head) % 8) + body


def file_options(program: Program, data: str) -> Program:
    """Put the data file's path where the declaration says."""
    options = tuple(option.replace(DATA_FILE, data) for option in program.options)
    return Program(
        **{**{name: getattr(program, name) for name in program.__slots__}, "options": options}
    )
