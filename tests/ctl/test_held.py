"""What a program holds is what it and all that it started hold."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmkd.ctl.held import read_held_kib

HOLDS = """
import subprocess, sys
held = bytearray(b"x") * (16 << 20)
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[1]]) if len(sys.argv) > 1 else None
print("holding", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    program = subprocess.Popen(
        [sys.executable, "-c", HOLDS, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    try:
        program.stdout.readline()
        if arguments:
            program.stdout.readline()
        yield program
    finally:
        program.communicate("")


def test_it_is_anonymous_memory_with_that_of_descendants() -> None:
    with holding() as alone:
        one_kib = read_held_kib(alone.pid)
    assert one_kib >= 16 << 10
    with holding(
        "import sys\nheld = bytearray(b'x') * (16 << 20)\nprint('holding', flush=True)\nsys.stdin.read()"
    ) as two:
        both_kib = read_held_kib(two.pid)
    assert both_kib >= one_kib + (16 << 10)


def test_who_is_gone_holds_nothing() -> None:
    with holding() as gone:
        pass
    assert read_held_kib(gone.pid) == 0


def test_swap_counts_and_a_loop_ends(tmp_path: Path) -> None:
    """A tree read while it changes may seem to hold itself."""
    for pid, child in ((10, 11), (11, 10)):
        task = tmp_path / str(pid) / "task" / str(pid)
        task.mkdir(parents=True)
        (task / "children").write_text(f"{child} ")
        (tmp_path / str(pid) / "status").write_text(
            "Name:\tx\nVmRSS:\t  900 kB\nRssAnon:\t  100 kB\nVmSwap:\t   20 kB\n"
        )
    assert read_held_kib(10, tmp_path) == 240
    assert read_held_kib(os.getpid(), tmp_path) == 0
