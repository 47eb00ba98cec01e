"""docs/policy.md says what is so: its files load, and its commands print what it shows."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from lmkd.config import load_config
from lmkd.policy.patterns import SYSTEM_PLACES
from lmkd.policy.rules import SUBJECTS

from ..ctl.conftest import LMKCTL, environment

PAGE = (Path(__file__).parents[2] / "docs/policy.md").read_text()
COLUMNS = "100"


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Return each command that is shown, and what it is shown to print."""
    shown = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, out = part.partition("\n")
            shown.append((command, out))
    return shown


@pytest.mark.parametrize("text", blocks("toml"))
def test_every_file_that_is_shown_is_without_mistakes_and_warnings(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "lmkd.toml"
    path.write_text(text)
    assert [str(warning) for warning in load_config([path]).warnings] == []


def test_there_is_something_to_check() -> None:
    assert len(blocks("toml")) >= 5
    assert len(commands()) >= 4


@pytest.mark.parametrize(("command", "out"), commands())
def test_every_command_prints_what_is_shown(tmp_path: Path, command: str, out: str) -> None:
    (tmp_path / "lmkd.toml").write_text(blocks("toml")[0])
    name, *arguments = shlex.split(command)
    assert name == "lmkctl"
    done = subprocess.run(
        [*LMKCTL, *arguments],
        cwd=tmp_path,
        env=environment(COLUMNS=COLUMNS),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.stderr, done.stdout) == ("", out)


def test_everything_that_a_rule_may_ask_is_in_the_table() -> None:
    rows = [line for line in PAGE.split("\n") if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert set(SUBJECTS) <= named


def test_the_places_where_a_name_counts_are_those() -> None:
    (row,) = [line for line in PAGE.split("\n") if line.startswith("| `exe`")]
    for place in SYSTEM_PLACES:
        assert f"`{place}" in row, place
