"""The main job of lmkd in half a minute: programs are told, give memory back, and live; a leak does not.

Starts a real daemon and real programs. Where this machine can give real pressure safely, in a memory cgroup of their
own of 128 MB, it does; elsewhere the same daemon runs on a simulated memory of 128 MB that the same real programs
fill. Which of the two is said first. Nothing outside is told, pressed or ended.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmkd_client

from lmkd.kernel.probe import probe

MIB = 1 << 20
TOTAL_MIB = 128
GROUP = "/lmkd-demo"
BLOCK = MIB
LEAK_AFTER_S = 3
LASTS_S = 120
"""At the most; as a rule it is over in a quarter of that."""

# A cache that has shed all it holds is still a Python of 12 MiB: in so small a memory that would be worth killing.
CONFIG = """
[policy]
project = "registered"    # this machine's other programs keep their places
[victims]
least = "20MiB"
[timing]
rest = "3s"
"""
CAST = (
    ("cache-1", "cached", 10, 0),
    ("cache-2", "cached", 10, 0),
    ("cache-3", "cached", 10, 0),
    ("editor", "foreground", 4, 0),
    ("leak", "background", 1, 5),
)
"""Name, class, MiB held, MiB a second of growth."""


# --- a program of the cast ----------------------------------------------------------------------------------


def play_role(name: str, app_class: str, hold_mib: int, grow_mib_s: int) -> None:
    """Be one program: hold memory, shed when told if it is a cache, grow if it is the leak."""
    blocks = [bytearray(os.urandom(BLOCK)) for _ in range(hold_mib)]
    sheddable = hold_mib * MIB if app_class == "cached" else 0

    def shed(notice: lmkd_client.Notice) -> int:
        within = f"within {notice.deadline_ms / 1000:.1f} s" if notice.deadline_ms else "at once"
        if not notice.target_bytes:
            print(f"told {notice.level}; nothing is asked of it", flush=True)
            return 0
        count = min(-(-notice.target_bytes // BLOCK), len(blocks))
        del blocks[len(blocks) - count :]
        asked = f"told {notice.level}, {notice.target_bytes / MIB:.0f} MiB {within}"
        gave = f"gave {count} MiB, keeps {len(blocks)}" if count else "has nothing left to give"
        print(f"{asked}: {gave}", flush=True)
        return count * BLOCK

    lmkd_client.on_pressure(shed, name=name, app_class=app_class, sheddable_bytes=sheddable)
    started = time.monotonic()
    while True:
        time.sleep(0.1)
        if grow_mib_s and time.monotonic() - started > LEAK_AFTER_S:
            blocks.extend(bytearray(os.urandom(BLOCK // 10)) for _ in range(grow_mib_s))


# --- the show -----------------------------------------------------------------------------------------------


@dataclass
class Show:
    """What is on, and where it is printed."""

    directory: Path
    group: Path | None
    """The cgroup directory; None: simulated memory."""
    began: float = field(default_factory=time.monotonic)
    programs: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    @property
    def domain(self) -> str:
        return GROUP if self.group is not None else "system"

    def say(self, who: str, what: str) -> None:
        # One write, end of line and all: several threads say something at once.
        line = f"{time.monotonic() - self.began:6.1f} s  {who:<9} {what}\n"
        print(line, end="", flush=True)

    def start_daemon(self) -> subprocess.Popen[bytes]:
        config = self.directory / "lmkd.toml"
        argv = [sys.executable, "-m", "lmkd", "--quiet", "--config", str(config)]
        argv += [
            "--socket",
            os.environ["LMKD_SOCKET"],
            "--state-dir",
            str(self.directory / "state"),
        ]
        if self.group is None:
            config.write_text(CONFIG)
            argv += ["--simulated", f"{TOTAL_MIB}MiB"]
        else:
            # The system as a whole is watched as always, but in a demonstration nobody outside dies.
            config.write_text(CONFIG + f'[system]\nkill = false\n[[domain]]\ncgroup = "{GROUP}"\n')
        return subprocess.Popen(argv, stderr=(self.directory / "lmkd.log").open("wb"))

    def start_program(self, name: str, app_class: str, hold_mib: int, grow_mib_s: int) -> None:
        argv = [sys.executable, __file__, "--role", name, app_class, str(hold_mib), str(grow_mib_s)]
        if self.group is not None:
            argv += ["--group", str(self.group)]
        program = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self.programs[name] = program
        threading.Thread(target=self._relay, args=(name, program), daemon=True).start()

    def _relay(self, name: str, program: subprocess.Popen[str]) -> None:
        assert program.stdout is not None
        for line in program.stdout:
            self.say(name, line.rstrip())

    def name_of(self, pid: int) -> str:
        return next(
            (name for name, program in self.programs.items() if program.pid == pid), str(pid)
        )

    def end_all(self) -> None:
        for program in self.programs.values():
            program.kill()
            program.wait()


def run_show(show: Show) -> bool:
    """Run it; return whether it went as it should: all but the leak are left alive."""
    daemon = show.start_daemon()
    try:
        with lmkd_client.connect(name="demo", wait=True) as client:
            subscription = client.subscribe(show.domain)
            for member in CAST:
                show.start_program(*member)
            follow(show, subscription)
            alive = {name: program.poll() is None for name, program in show.programs.items()}
            print_closing(show, client, alive)
    finally:
        daemon.terminate()
        daemon.wait()
        show.end_all()
    return all(lives != (name == "leak") for name, lives in alive.items())


def follow(show: Show, subscription: lmkd_client.Subscription) -> None:
    """Print levels and kills until the leak has ended and all is calm again, or time is up."""
    leak_ended = False
    while (left_ms := int((show.began + LASTS_S - time.monotonic()) * 1000)) > 0:
        event = subscription.wait(left_ms)
        if isinstance(event, lmkd_client.Pressure):
            available = f"{event.available_bytes / MIB:.0f} MiB available"
            show.say("lmkd", f"{event.level.upper()}: {event.reason} ({available})")
            if leak_ended and event.level == "normal":
                return
        elif isinstance(event, lmkd_client.Killed):
            show.say("lmkd", f"ended {event.name} (pid {event.pid}): {event.reason}")
            leak_ended = leak_ended or event.pid == show.programs["leak"].pid


def print_closing(show: Show, client: lmkd_client.Client, alive: dict[str, bool]) -> None:
    """Print who was told, who shed how much, and who was ended and why, from the daemon's own history."""
    from rich.console import Console
    from rich.table import Table

    told: dict[str, int] = {}
    shed_kib: dict[str, int] = {}
    killed: dict[str, str] = {}
    for record in read_history(client, show.domain):
        if record["kind"] == "told" and record["level"] != "normal":
            for app in record["apps"]:
                told[app["name"]] = told.get(app["name"], 0) + 1
        elif record["kind"] == "ack":
            shed_kib[record["name"]] = shed_kib.get(record["name"], 0) + record["claimed_kib"]
        elif record["kind"] == "kill":
            why = f"{record['size_kib'] / 1024:.0f} MiB, {record['reason']}"
            killed[show.name_of(record["pid"])] = why
    table = Table(title="What happened", title_justify="left")
    for column in ("program", "class", "told", "gave back", "now"):
        table.add_column(column)
    for name, app_class, *_ in CAST:
        now = f"ended: {killed[name]}" if name in killed else "alive" if alive[name] else "gone"
        gave = f"{shed_kib[name] / 1024:.0f} MiB" if shed_kib.get(name) else "-"
        table.add_row(name, app_class, f"{told.get(name, 0)} times", gave, now)
    print()
    Console().print(table)


def read_history(client: lmkd_client.Client, domain: str) -> Iterator[dict[str, Any]]:
    """Yield the records of all episodes of a domain, in order."""
    episodes: Any = client.history(limit=1000)["episodes"]
    for episode in sorted(row["episode"] for row in episodes if row["domain"] == domain):
        after: Any = 0
        while after is not None:
            part: Any = client.history(episode=episode, after=after, limit=1000)
            yield from part["records"]
            after = part["next"]


def find_group() -> Path | None:
    """Make a memory cgroup of 128 MB for the cast, if this machine lets us; None: it does not."""
    features = probe()
    if not features.memory_controller or features.cgroup_mount is None:
        return None
    group = Path(features.cgroup_mount + GROUP)
    try:
        group.mkdir(exist_ok=True)
        (group / "memory.max").write_text(f"{TOTAL_MIB}M")
        with contextlib.suppress(FileNotFoundError):
            (group / "memory.swap.max").write_text("0")
    except OSError:
        return None
    return group


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--simulated", action="store_true", help="on simulated memory, whatever this machine can"
    )
    parser.add_argument("--role", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--group", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        if arguments.group is not None:
            (arguments.group / "cgroup.procs").write_text("0")
        name, app_class, hold_mib, grow_mib_s = arguments.role
        play_role(name, app_class, int(hold_mib), int(grow_mib_s))
        return 0
    group = None if arguments.simulated else find_group()
    if group is not None:
        print(f"Real pressure: a memory cgroup of {TOTAL_MIB} MB at {group}")
    else:
        why = "asked for" if arguments.simulated else "no memory cgroup (v2) that we may use here"
        print(
            f"Simulated memory of {TOTAL_MIB} MB ({why}); the daemon, the programs and the signals are real"
        )
    print("Three caches, an editor and a leak of 5 MiB a second. It takes about half a minute.\n")
    with tempfile.TemporaryDirectory(prefix="lmkd-demo-") as directory:
        os.environ["LMKD_SOCKET"] = f"{directory}/socket"
        try:
            went_well = run_show(Show(Path(directory), group))
        finally:
            if group is not None:
                remove_group(group)
    return 0 if went_well else 1


def remove_group(group: Path) -> None:
    """Remove the cgroup, once its last process has been reaped."""
    for _ in range(50):
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
