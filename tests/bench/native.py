"""The peers in C: compiled on the spot, driven line by line."""

import subprocess
from pathlib import Path


def compile_peer(name: str, directory: Path) -> Path:
    """Compile tests/bench/NAME.c and return the program."""
    program = directory / name
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run(["gcc", "-O2", "-o", program, source], check=True)
    return program


class Peer:
    """A running peer."""

    def __init__(self, program: Path, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def ask(self, line: str) -> str:
        """Say a line and return the one that comes back."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        return self.hear()

    def hear(self) -> str:
        """Return the next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended")
        return line.strip()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
