"""An episode with a kill, from the daemon that lived it to what another configuration would have made of it."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import SmallDaemon, environment, run_ctl

PATIENCE_S = 20
PROGRAM = """
import sys
from lmkd_client import connect
name = sys.argv[1]
with connect(name=name) as client:
    client.register(name, "cached")
    held = []
    print("there", flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            held.append(bytearray(b"x") * (1 << 20))
        print("full", flush=True)
"""
TOTAL_MIB = 256
LEFT_MIB = 3
"""What is left of that in the end: so little that somebody has to go."""


@dataclass(frozen=True, slots=True)
class Lived:
    """What is left of the episode."""

    daemon: SmallDaemon
    editor_pid: int
    tab_pid: int
    recorded: str
    """What `lmkctl record FILE` said."""
    file: Path


class Program:
    """A program that the kernel calls so, registered and without anything yet."""

    def __init__(self, daemon: SmallDaemon, name: str) -> None:
        executable = daemon.folder / name
        executable.symlink_to(sys.executable)
        self.process = subprocess.Popen(
            [executable, "-c", PROGRAM, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(LMKD_SOCKET=daemon.socket),
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "there\n"

    def grow(self, mib: int) -> None:
        """Have it grow by so much; whoever reads its next line waits for that."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{mib}\n")
        self.process.stdin.flush()

    def held_mib(self) -> int:
        """Return how much memory of its own is resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) >> 10

    def leave(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    """An editor of 60 MiB, and a tab that grows until one of the two has to go, and no further."""
    daemon = SmallDaemon(tmp_path_factory.mktemp("lmkd"), 'timing.calm_hold = "1s"\n')
    daemon.start()
    with ExitStack() as leaving:
        leaving.callback(daemon.stop)
        editor, tab = Program(daemon, "editor"), Program(daemon, "tab")
        leaving.callback(editor.leave)
        leaving.callback(tab.leave)
        editor.grow(60)
        assert editor.process.stdout is not None
        assert editor.process.stdout.readline() == "full\n"
        tab.grow(TOTAL_MIB - LEFT_MIB - editor.held_mib() - tab.held_mib())
        assert tab.process.wait(PATIENCE_S) in (-signal.SIGTERM, -signal.SIGKILL)
        wait_saved(daemon)
        file = daemon.folder / "copy.lmkdrec"
        done = daemon.ctl("record", str(file))
        assert (done.returncode, done.stderr) == (0, "")
        yield Lived(daemon, editor.process.pid, tab.process.pid, done.stdout, file)


def wait_saved(daemon: SmallDaemon) -> None:
    """Wait until the episode is over, the disk has it, and the calm after it has begun, too."""
    last_s = time.monotonic() + PATIENCE_S
    while json.loads(daemon.ctl("record", "--json").stdout)["saved"] != str(calm(daemon)):
        assert time.monotonic() < last_s, daemon.ctl("history").stdout


def calm(daemon: SmallDaemon) -> Path:
    return daemon.folder / "state/recordings/calm.lmkdrec"


def replay(lived: Lived, *arguments: str) -> str:
    done = run_ctl("replay", str(lived.file), *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_episode_is_what_is_copied_and_not_the_calm_since(lived: Lived) -> None:
    kept = lived.daemon.folder / "state/recordings/episode-1.lmkdrec"
    assert lived.recorded.startswith(f"Saved: {calm(lived.daemon)}\n")
    assert str(kept) in lived.recorded
    assert lived.recorded.endswith(f"To run it again: lmkctl replay {lived.file}\n")
    assert kept.read_bytes() == lived.file.read_bytes()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_it_comes_to_the_same_and_is_told(lived: Lived) -> None:
    told = replay(lived)
    assert told.startswith("A recording of episode 1 over ")
    assert f"SIGTERM to tab (pid {lived.tab_pid}, cached, " in told
    assert "tab was gone" in told
    assert "  normal: calm again.\n" in told
    assert "\nThe same as was recorded: " in told


def test_a_script_gets_the_recorded_bytes_anew(lived: Lived) -> None:
    again = replay(lived, "--json")
    assert again == replay(lived, "--json", "--recorded")
    verdicts = json.loads(again)["verdicts"]
    (sent,) = [one["pid"] for one in verdicts if one.get("signal") == "SIGTERM"]
    assert sent == lived.tab_pid


def test_another_order_in_the_class_says_who_would_have_died_instead(lived: Lived) -> None:
    other = lived.daemon.folder / "other.toml"
    other.write_text(
        """\
timing.calm_hold = "1s"

[[rule]]
name = "editors before tabs"
match = { comm = "editor" }
class = "cached"
bias = 50
"""
    )
    told = replay(lived, "--config", str(other))
    assert f"editor (pid {lived.editor_pid}, cached, " in told
    assert f"would have died instead of tab (pid {lived.tab_pid}, cached, " in told
    assert "by the rule 'editors before tabs'.\n" in told
    (first, *_) = json.loads(replay(lived, "--config", str(other), "--json"))["differences"]
    assert (first["kind"], first["then"]["pid"], first["now"]["pid"]) == (
        "instead",
        lived.tab_pid,
        lived.editor_pid,
    )


def test_the_configuration_of_then_makes_no_difference(lived: Lived) -> None:
    told = replay(lived, "--config", str(lived.daemon.folder / "lmkd.toml"))
    assert f"nothing would have been different: tab (pid {lived.tab_pid}, cached, " in told
    assert told.endswith("for the rest, programs do what they did.\n")
