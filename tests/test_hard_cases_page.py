"""docs/hard-cases.md names a test for each case, and each is there."""

from __future__ import annotations

import re
from pathlib import Path

REPO = Path(__file__).parents[1]
PAGE = (REPO / "docs" / "hard-cases.md").read_text()


def test_every_test_that_the_page_names_is_there() -> None:
    tests = {
        name
        for file in (REPO / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    named = re.findall(r"`(test_\w+)`", PAGE)
    assert len(named) >= 20
    assert [name for name in named if name not in tests] == []


def test_every_case_names_one() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "shown by" not in line]
    assert len(rows) >= 20
    assert [row for row in rows if "`test_" not in row] == []
