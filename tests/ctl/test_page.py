"""What is drawn is readable at any width, and steers no terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO

import pytest

from lmkd.ctl.page import PIPE_WIDTH, Block, Column, Line, Table, open_page

from .literal import drawn

TABLE = Table(
    (Column("name", wraps=True), Column("level"), Column("size", right=True)),
    (("[bold]a[/bold]", "critical", "1 KiB"), ("b", "normal", "12.0 MiB")),
)


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_table_has_its_columns_in_line_and_takes_nothing_for_markup() -> None:
    assert drawn([TABLE]) == (
        "name            level         size\n"
        "[bold]a[/bold]  critical     1 KiB\n"
        "b               normal    12.0 MiB\n"
    )


def test_a_table_without_room_becomes_a_list() -> None:
    assert drawn([TABLE], 20) == (
        "name   [bold]a[/bold]\nlevel  critical\nsize   1 KiB\n\nname   b\nlevel  normal\nsize   12.0 MiB\n"
    )


def test_wrapped_text_stands_behind_its_lead() -> None:
    line = Line("one two three four five six seven", " +1 s  ")
    assert drawn([line], 23) == " +1 s  one two three\n       four five six\n       seven\n"


def test_a_width_of_one_is_survived() -> None:
    assert "critical" in drawn([TABLE, Line("critical", "  lead  ")], 1)


def test_levels_are_coloured_only_where_colour_is_wanted() -> None:
    blocks: list[Block] = [TABLE, Line("it is critical now", level="critical")]
    assert "\x1b" not in drawn(blocks)
    coloured = drawn(blocks, colour=True)
    assert "it is \x1b[1;31mcritical\x1b[0m now" in coloured
    assert "\x1b[32mnormal" in coloured


@pytest.mark.parametrize(
    ("name", "value", "colour"),
    [
        ("NO_COLOR", "1", False),
        ("NO_COLOR", "", True),
        ("TERM", "dumb", False),
        ("TERM", "xterm", True),
    ],
)
def test_a_terminal_has_colour_unless_it_is_declined(
    name: str, value: str, colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "91")
    page = open_page(Terminal())
    assert (page.colour, page.width) == (colour, 91)


@pytest.mark.parametrize(
    ("columns", "width"),
    [(None, PIPE_WIDTH), ("", PIPE_WIDTH), ("x", PIPE_WIDTH), ("0", PIPE_WIDTH), ("72", 72)],
)
def test_a_pipe_has_no_colour_and_no_width_but_columns(
    columns: str | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    page = open_page(StringIO())
    assert (page.colour, page.width) == (False, width)


def test_rich_is_not_imported_for_lines() -> None:
    program = (
        "import sys; from lmkd.ctl import __main__; from lmkd.ctl.page import Line, open_page;"
        "open_page(sys.stdout).draw([Line('x')]); sys.exit('rich' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0
