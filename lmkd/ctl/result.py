"""Take what a result says, whatever its shape.

The keys of results grow and may be absent (SPEC Q-1), so nothing here ever fails: what is not there, or is not of the
kind expected, is None, empty or false. Text comes out fit for a terminal: a process may call itself what it likes.
"""

from __future__ import annotations

from collections.abc import Mapping

Row = Mapping[str, object]
REPLACEMENT = "\ufffd"


def printable(text: str) -> str:
    """Return text without what could steer a terminal or break a line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else REPLACEMENT for char in text)


def text(row: Row, key: str, absent: str = "") -> str:
    """Return the text under a key."""
    value = row.get(key)
    return printable(value) if isinstance(value, str) else absent


def number(row: Row, key: str) -> int | None:
    """Return the integer under a key."""
    value = row.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def flag(row: Row, key: str) -> bool:
    """Return whether a key is there and true."""
    return row.get(key) is True


def row(holder: Row, key: str) -> Row:
    """Return the map under a key."""
    value = holder.get(key)
    return value if isinstance(value, dict) else {}


def rows(holder: Row, key: str) -> list[Row]:
    """Return the maps in the list under a key."""
    value = holder.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def texts(holder: Row, key: str) -> list[str]:
    """Return the texts in the list under a key."""
    value = holder.get(key)
    found = value if isinstance(value, list) else []
    return [printable(item) for item in found if isinstance(item, str)]
