"""docs/clients.md says what is so: each block of Python runs, and does at a notice what the page says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmkd_client
import lmkd_client.asyncio
import lmkd_client.errors
import lmkd_client.trio
import pytest
from lmkd_client.testing import FakeLmkd

from .fake_daemon import PATIENCE_S

PAGE = (Path(__file__).parents[2] / "docs/clients.md").read_text()
PYTHON = PAGE.split("\n## Python\n")[1].split("\n## ")[0]
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PYTHON, re.MULTILINE | re.DOTALL)
TESTS = [block for block in BLOCKS if "def test_" in block]
SUBSCRIBERS = [block for block in BLOCKS if "subscribe(" in block]
REHEARSALS = [block for block in BLOCKS if "simulate(" in block]
APPS = [block for block in BLOCKS if block not in TESTS + SUBSCRIBERS + REHEARSALS]


@contextmanager
def running(tmp_path: Path, block: str) -> Iterator[subprocess.Popen[str]]:
    """Run a block as a program, which stays when it has come to its end."""
    program = tmp_path / "program.py"
    program.write_text(block + "\nimport signal\nsignal.pause()\n")
    with subprocess.Popen(
        [sys.executable, "-W", "error", program], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def test_every_sort_of_block_is_there() -> None:
    assert (len(APPS), len(SUBSCRIBERS), len(REHEARSALS), len(TESTS)) == (6, 1, 1, 1)


def test_it_begins_with_three_lines() -> None:
    assert APPS[0] == BLOCKS[0]
    assert len(BLOCKS[0].splitlines()) == 3


@pytest.mark.parametrize("block", APPS, ids=range(len(APPS)))
def test_every_program_registers_and_answers(tmp_path: Path, lmkd: FakeLmkd, block: str) -> None:
    with running(tmp_path, block):
        assert lmkd.wait_app().name in block
        for level in ("medium", "critical"):
            assert lmkd.notice(level, deadline_ms=PATIENCE_S * 1000).answer in ("done", "nothing")


@pytest.mark.parametrize("block", SUBSCRIBERS)
def test_who_subscribes_hears_every_level(tmp_path: Path, lmkd: FakeLmkd, block: str) -> None:
    with running(tmp_path, block) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "system normal\n"
        lmkd.pressure("low")
        assert program.stdout.readline() == "system low\n"


@pytest.mark.parametrize("block", REHEARSALS)
def test_a_rehearsal_comes_to_its_end(tmp_path: Path, lmkd: FakeLmkd, block: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(block)
    subprocess.run([sys.executable, program], check=True, timeout=PATIENCE_S)


@pytest.mark.parametrize("block", TESTS)
def test_the_tests_that_are_shown_pass_and_would_fail(tmp_path: Path, block: str) -> None:
    for source, code in ((block, 0), (block.replace("cache.rows) <= 24", "cache.rows) <= 3"), 1)):
        (tmp_path / "test_shop.py").write_text(source)
        ran = subprocess.run(
            [*(sys.executable, "-m", "pytest", "-q"), *("-p", "lmkd_client.pytest_plugin")],
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == code, ran.stdout


def test_every_error_that_is_listed_is_one_and_none_is_missing() -> None:
    rows = re.findall(r"^\| (`[A-Z].*?) \|", PYTHON, re.MULTILINE)
    listed = set(re.findall(r"`(\w+)`", " ".join(rows)))
    ours = {
        name
        for name, thing in vars(lmkd_client.errors).items()
        if isinstance(thing, type) and name != "LmkdError"
    }
    assert listed == ours | {"LocalProtocolError"}


def test_every_name_of_ours_that_the_page_uses_is_there() -> None:
    for module, name in re.findall(r"\b(lmkd_client(?:\.asyncio|\.trio)?)\.(\w+)\b", PYTHON):
        if module == "lmkd_client" and name in ("asyncio", "trio"):
            continue
        assert hasattr(sys.modules[module], name), f"{module}.{name}"
    for name in re.findall(r"\blmkd\.(\w+)\(?", PYTHON):
        assert hasattr(FakeLmkd, name), name
