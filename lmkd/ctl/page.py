"""Draw blocks of text: lines that wrap, and tables.

A block is a plain value; what it looks like on a narrow terminal, in colour or in a pipe is decided here alone. Rich
is imported when the first table is drawn. A table too wide for its terminal becomes a list, one line a cell, rather
than a table nobody can read.

- To a pipe: no colour, and everything as wide as it wants to be, so that a line of it is a whole one; but for
  COLUMNS, where that is set.
- `NO_COLOR` set and not empty, or TERM=dumb: no colour anywhere.
"""

from __future__ import annotations

import os
import re
import shutil
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TextIO

COLOURS = {"normal": "32", "low": "33", "medium": "35", "critical": "1;31"}
_STYLES = {"normal": "green", "low": "yellow", "medium": "magenta", "critical": "bold red"}
GAP = 2
WRAPPING_LEAST = 16
_WIDTH = re.compile(r"[1-9][0-9]{0,3}")
PIPE_WIDTH = 10_000


@dataclass(frozen=True, slots=True)
class Line:
    """Text that wraps. `lead` stands before its first line, and as much room before the others.

    `level`: a word in it that is to be seen at once.
    """

    text: str = ""
    lead: str = ""
    level: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. One that `wraps` gives way first when there is little room."""

    title: str
    right: bool = False
    wraps: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under titles; each row has one cell a column."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    indent: int = 0


Block = Line | Table


@dataclass(frozen=True, slots=True)
class Page:
    """Where blocks are drawn."""

    out: TextIO
    width: int = PIPE_WIDTH
    colour: bool = False

    def draw(self, blocks: Iterable[Block]) -> None:
        """Write blocks, one under the other, and see that they are out."""
        for block in blocks:
            if isinstance(block, Line):
                self.out.write(self._line(block) + "\n")
            else:
                self.out.write(self._table(block))
        self.out.flush()

    def _line(self, line: Line) -> str:
        lines = textwrap.wrap(
            line.text,
            max(self.width, len(line.lead) + WRAPPING_LEAST),
            initial_indent=line.lead,
            subsequent_indent=" " * len(line.lead),
            break_on_hyphens=False,
        )
        text = "\n".join(lines) if lines else line.lead.rstrip()
        if self.colour and line.level in COLOURS:
            painted = f"\x1b[{COLOURS[line.level]}m{line.level}\x1b[0m"
            text = re.sub(rf"\b{line.level}\b", painted, text, count=1)
        return text

    def _table(self, table: Table) -> str:
        from rich.cells import cell_len

        room = self.width - table.indent
        widths = [
            max(cell_len(cell) for cell in cells)
            for cells in zip(
                *([column.title for column in table.columns], *table.rows), strict=True
            )
        ]
        least = sum(
            min(width, WRAPPING_LEAST) if column.wraps else width
            for column, width in zip(table.columns, widths, strict=True)
        )
        if least + GAP * (len(widths) - 1) > room:
            return self._list(table)
        return self._rich_table(table, room)

    def _list(self, table: Table) -> str:
        title_width = max(len(column.title) for column in table.columns)
        margin = " " * table.indent
        lines: list[str] = []
        for row in table.rows:
            for column, cell in zip(table.columns, row, strict=True):
                if cell:
                    lead = f"{margin}{column.title:<{title_width}}  "
                    level = cell if cell in COLOURS else ""
                    lines.append(self._line(Line(cell, lead, level)))
            lines.append("")
        return "".join(f"{line}\n" for line in lines[:-1])

    def _rich_table(self, table: Table, room: int) -> str:
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        drawn = RichTable(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        for column in table.columns:
            drawn.add_column(
                Text(column.title),
                justify="right" if column.right else "left",
                no_wrap=not column.wraps,
                overflow="fold",
            )
        for row in table.rows:
            # As Text: what a process calls itself is never taken for markup.
            drawn.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in row))
        console = Console(
            width=room,
            color_system="standard" if self.colour else None,
            force_terminal=self.colour,
            no_color=not self.colour,
            legacy_windows=False,
            highlight=False,
        )
        with console.capture() as capture:
            console.print(drawn)
        margin = " " * table.indent
        lines = (f"{margin}{line}".rstrip() for line in capture.get().splitlines())
        return "".join(f"{line}\n" for line in lines)


def open_page(out: TextIO) -> Page:
    """Return a page for this stream, as wide as its terminal."""
    if not out.isatty():
        columns = os.environ.get("COLUMNS", "")
        return Page(out, int(columns) if _WIDTH.fullmatch(columns) else PIPE_WIDTH)
    width = shutil.get_terminal_size().columns
    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Page(out, width, colour)
