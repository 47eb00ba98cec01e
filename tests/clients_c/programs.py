"""Programs in C: what they need to be built, built once, and run line by line.

Where this machine lacks something the tests are skipped and say what; with LMKD_VM_REQUIRED=1, as in CI, they fail.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients" / "c"
HERE = Path(__file__).parent
EXAMPLES = ROOT / "examples" / "c"
MSGPACK = Path("/usr/include/msgpack/unpack_template.h")
PATIENCE_S = 20
STRICT = (
    *("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"),
    *("-O2", "-g"),
)
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def need(*commands: str) -> None:
    """Skip, or fail where nothing may be skipped, without these commands and the headers of msgpack-c."""
    missing = [command for command in commands if shutil.which(command) is None]
    if not MSGPACK.exists():
        missing.append("libmsgpack-dev")
    if missing:
        why = f"the client for C needs {', '.join(missing)} here"
        if os.environ.get("LMKD_VM_REQUIRED") == "1":
            pytest.fail(why)
        pytest.skip(why)


def need_package(name: str) -> list[str]:
    """Return the flags that pkg-config gives for a library, and skip (or fail) where it is not there."""
    need("pkg-config")
    asked = subprocess.run(
        ["pkg-config", "--cflags", "--libs", name], capture_output=True, text=True, check=False
    )
    if asked.returncode != 0:
        if os.environ.get("LMKD_VM_REQUIRED") == "1":
            pytest.fail(asked.stderr)
        pytest.skip(f"{name} is not installed, for development")
    return asked.stdout.split()


def build(program: Path, *arguments: str | Path, compiler: str = "gcc") -> Path:
    """Compile a program; what the compiler says is what the test says."""
    need(compiler)
    made = subprocess.run(
        [compiler, *arguments, f"-I{CLIENT}", "-o", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""
    return program


class Program:
    """A program that runs, in a process group of its own; its output is read line by line."""

    def __init__(self, *command: str | Path, environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
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
        self._process.kill()
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
