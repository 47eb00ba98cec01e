"""A daemon of our own on little simulated memory, and lmkctl as a program beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

START_MOST_S = 20
LMKCTL = (sys.executable, "-m", "lmkd.ctl")
PROGRAM_PATH = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def environment(**more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("LMKD_SOCKET", "XDG_RUNTIME_DIR", "COLUMNS", "NO_COLOR")
    }
    return {**kept, **PROGRAM_PATH, **more}


@dataclass(slots=True)
class SmallDaemon:
    """`python -m lmkd --simulated 256MiB`."""

    folder: Path
    settings: str = ""
    """Its configuration."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> str:
        return str(self.folder / "socket")

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        log, config = self.folder / "log", self.folder / "lmkd.toml"
        config.write_text(self.settings)
        with open(log, "wb") as out:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "lmkd", "--simulated", "256MiB"),
                    *("--socket", self.socket, "--state-dir", self.folder / "state"),
                    *("--config", config),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment(),
            )
        last_s = time.monotonic() + START_MOST_S
        while " ready" not in log.read_text():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < last_s, log.read_text()
            time.sleep(0.005)

    def stop(self) -> None:
        """Stop it, and wait until it is gone."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(START_MOST_S)

    def ctl(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run lmkctl to its end."""
        return run_ctl(*arguments, LMKD_SOCKET=self.socket, **more)


def run_ctl(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run lmkctl to its end, where no daemon is known but by what is given."""
    return subprocess.run(
        [*LMKCTL, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        env=environment(**more),
    )


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDaemon]:
    """A daemon for all tests of a module, which leave it as they found it."""
    small = SmallDaemon(tmp_path_factory.mktemp("lmkd"))
    small.start()
    yield small
    small.stop()
