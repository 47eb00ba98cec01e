"""What a program holds is what it and all that it started hold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
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
        process = tmp_path / "proc" / str(pid)
        task = process / "task" / str(pid)
        task.mkdir(parents=True)
        (process / "stat").write_text(f"{pid} (x) S {child} 1 1{' 0' * 12} 20 0 1 0 7 0 0\n")
        (task / "children").write_text(f"{child} ")
        (process / "status").write_text(
            "Name:\tx\nVmRSS:\t  900 kB\nRssAnon:\t  100 kB\nVmSwap:\t   20 kB\n"
        )
    assert read_held_kib(10, str(tmp_path)) == 240
    assert read_held_kib(os.getpid(), str(tmp_path)) == 0


FORKS = """
import os, sys, time
held = bytearray(b"x") * (64 << 20)
print("holding", flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        time.sleep(20)
    print(child, flush=True)
"""


def test_a_child_that_was_forked_just_now_is_not_counted_and_a_worker_is() -> None:
    """A script forks all the time: its memory would count twice for as long as an exec takes."""
    program = subprocess.Popen(
        [sys.executable, "-c", FORKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        program.stdout.readline()
        alone_kib = read_held_kib(program.pid)
        program.stdin.write("fork\n")
        program.stdin.flush()
        program.stdout.readline()
        assert read_held_kib(program.pid) < alone_kib + (8 << 10)
        until = time.monotonic() + 10
        while read_held_kib(program.pid) < alone_kib + (60 << 10):
            assert time.monotonic() < until, "it is taken for a copy for ever"
            time.sleep(0.05)
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.communicate()
