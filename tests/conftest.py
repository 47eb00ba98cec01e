"""A real lmkd for the tests that need one: simulated memory, over the real processes that register with it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

SIZE = "4GiB"
"""So much that a test's own process, which appears in it all at once, is no leak to a forecast."""
START_MOST_S = 20
LOOKS_APART_S = 0.005


class RealDaemon:
    """`python -m lmkd` on simulated memory, with nothing of this machine's configuration or history."""

    def __init__(
        self,
        folder: Path,
        size: str | None = SIZE,
        configuration: str = "",
        arguments: Sequence[str] = (),
    ) -> None:
        """`size` None: on the real memory."""
        self.socket = str(folder / "socket")
        self._folder = folder
        self._arguments = list(arguments)
        if size is not None:
            self._arguments += ["--simulated", size]
        self._log = folder / "log"
        (folder / "lmkd.toml").write_text(configuration)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it says that it is ready."""
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    *("-m", "lmkd", *self._arguments, "--socket", self.socket),
                    *("--state-dir", self._folder / "state"),
                    *("--config", self._folder / "lmkd.toml"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        last_s = time.monotonic() + START_MOST_S
        while " ready" not in self._log.read_text():
            assert self._process.poll() is None, f"lmkd has left:\n{self._log.read_text()}"
            assert time.monotonic() < last_s, f"lmkd is not ready:\n{self._log.read_text()}"
            time.sleep(LOOKS_APART_S)

    def wait_logged(self, text: str) -> str:
        """Wait until it has logged this; return all that it has logged."""
        last_s = time.monotonic() + START_MOST_S
        while text not in (logged := self._log.read_text()):
            assert time.monotonic() < last_s, f"{text!r} is not logged:\n{logged}"
            time.sleep(LOOKS_APART_S)
        return logged

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait until it is gone."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(START_MOST_S)


@pytest.fixture
def real_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealDaemon]:
    """A running daemon; LMKD_SOCKET leads to it."""
    daemon = RealDaemon(tmp_path)
    daemon.start()
    monkeypatch.setenv("LMKD_SOCKET", daemon.socket)
    try:
        yield daemon
    finally:
        daemon.end(signal.SIGKILL)


@pytest.fixture
def daemon_socket(real_daemon: RealDaemon) -> str:
    """The socket of a running daemon."""
    return real_daemon.socket
