"""A program that runs beside a test, and is read line by line."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE_S = 20


class Program:
    """A program that runs, in a process group of its own; its output is read line by line, its errors among it."""

    def __init__(self, *command: str | Path, environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout
        os.set_blocking(self._out.fileno(), False)
        self._rest = b""
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # With all that it started; it may have ended by itself, and they too.
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._out.close()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def tell(self, line: str) -> None:
        """Give it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def ask(self, line: str, pattern: str) -> re.Match[str]:
        """Give it a line, and return the match of what it says next."""
        self.tell(line)
        return self.expect(pattern)

    def expect(self, *patterns: str) -> re.Match[str]:
        """Return the match of the next line (of the last, where there are more), which must be like this."""
        for pattern in patterns:
            line = self._read_line()
            found = re.fullmatch(pattern, line)
            assert found is not None, f"expected {pattern!r}, got {line!r}"
        return found

    def interrupt(self) -> None:
        """Ask it to end."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait until it has left, and return its exit code."""
        return self._process.wait(PATIENCE_S)

    def held_kib(self) -> int:
        """Return how much memory of its own is resident."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return sum(int(found) for found in re.findall(r"(?:RssAnon|RssShmem):\s+(\d+)", status))

    def _read_line(self) -> str:
        last_s = time.monotonic() + PATIENCE_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                assert selector.select(last_s - time.monotonic()), f"silent after {self._rest!r}"
                chunk = self._out.read()
                assert chunk, f"ended after {self._rest!r}"
                self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()
