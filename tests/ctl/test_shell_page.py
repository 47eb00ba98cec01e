"""docs/clients.md, the shell's part: each block runs as it stands, and does at a notice what the page says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lmkd_client.testing import FakeLmkd

from .conftest import environment

PAGE = (Path(__file__).parents[2] / "docs/clients.md").read_text().split("\n## Shell\n")[1]
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
RUNS = [block for block in BLOCKS if "lmkctl run" in block]
WATCHES = "".join(block for block in BLOCKS if "lmkctl watch" in block).splitlines()
PATIENCE_S = 30
CACHE = """#!{python}
import signal, sys, time
held = [b"x" * (1 << 20) for _ in range(48)]
signal.signal(signal.SIGUSR1, lambda *_: held.clear())
while True:
    time.sleep(60)
"""
STUBS = {
    "lmkctl": '#!/bin/sh\nexec {python} -m lmkd.ctl "$@"\n',
    "thumbnailer": CACHE,
    "redis-server": CACHE,
    "journal-server": """#!{python}
import base64, os, socket
held = [b"x" * (1 << 20) for _ in range(48)]
watch = socket.socket(socket.AF_UNIX)
watch.connect(os.environ["MEMORY_PRESSURE_WATCH"])
watch.send(base64.b64decode(os.environ["MEMORY_PRESSURE_WRITE"]))
while watch.recv(4096):
    held.clear()
""",
    "redis-cli": '#!/bin/sh\n[ "$*" = "memory purge" ] && kill -USR1 "$LMKD_PID" && sleep 0.5\n',
    "logger": '#!/bin/sh\necho "$@" >> "$SPOOL/logged"\n',
}


@contextmanager
def shell(block: str, folder: Path, fake: FakeLmkd) -> Iterator[subprocess.Popen[str]]:
    """Run a block with programs of these names that do as those would; end all of it afterwards."""
    for name, text in STUBS.items():
        (folder / name).write_text(text.format(python=sys.executable))
        (folder / name).chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    with subprocess.Popen(
        ["/bin/sh", "-c", block],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment(PATH=path, SPOOL=str(folder), LMKD_SOCKET=fake.path),
    ) as running:
        try:
            yield running
        finally:
            os.killpg(running.pid, signal.SIGKILL)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeLmkd]:
    with FakeLmkd(str(tmp_path / "fake")) as lmkd:
        yield lmkd


def wait_for(something: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not something():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_every_sort_of_block_is_there() -> None:
    assert (len(RUNS), len(WATCHES), len(BLOCKS)) == (4, 2, 5)
    assert BLOCKS[0].count("\n") == 3


@pytest.mark.parametrize("block", RUNS[:2], ids=["signal", "command"])
def test_a_program_under_it_gives_back_and_is_answered_for(
    block: str, tmp_path: Path, fake: FakeLmkd
) -> None:
    with shell(block, tmp_path, fake):
        assert fake.wait_app(timeout_s=PATIENCE_S).sheddable_bytes >= 64 << 20
        time.sleep(1)  # whether it holds all that it will does not show from outside
        answered = fake.notice("medium", 32 << 20, deadline_ms=20_000)
    assert answered.answer == "done"
    assert answered.freed_bytes >= 32 << 20


def test_a_program_on_sd_event_needs_no_action(tmp_path: Path, fake: FakeLmkd) -> None:
    with shell(RUNS[2], tmp_path, fake):
        assert fake.wait_app(timeout_s=PATIENCE_S).sheddable_bytes == 40 << 20
        time.sleep(1)  # as above
        answered = fake.notice("low", 32 << 20, deadline_ms=20_000)
    assert answered.answer == "done"
    assert answered.freed_bytes >= 32 << 20


def test_a_script_sheds_by_itself(tmp_path: Path, fake: FakeLmkd) -> None:
    """What it drops is in a file system, and not its own: it is done, and claims no amount."""
    with shell(RUNS[3], tmp_path, fake):
        wait_for((tmp_path / "a.cached").exists)
        answered = fake.notice("low", 32 << 20, deadline_ms=20_000, app="spool")
        assert answered.answer == "done"
        assert answered.freed_bytes < 1 << 20
        assert not (tmp_path / "a.cached").exists()


def test_watching_tells_of_every_level(tmp_path: Path, fake: FakeLmkd) -> None:
    with shell(WATCHES[0], tmp_path, fake):
        logged = tmp_path / "logged"
        wait_for(logged.exists)
        fake.pressure("low")
        wait_for(lambda: "-t memory pressure system low\n" in logged.read_text())
    with shell(WATCHES[1], tmp_path, fake) as running:
        assert running.stdout is not None
        assert '"level": "low"' in running.stdout.readline()
