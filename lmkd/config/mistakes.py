"""What is wrong in a configuration, and where: plain values, and the words for what was found instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

DESCRIBED_MOST = 80
"""Characters of a wrong value that are repeated in a mistake."""
_NEAR = 0.5
"""How alike, by difflib's measure, a known name must be to be offered."""


class BadValue(Exception):
    """What was expected instead of a value."""


class Refused(BadValue):
    """What is wrong with a value that has the right form; a sentence of its own."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong, or worth a warning, in a configuration."""

    file: str
    line: int | None
    key: str
    expected: str
    column: int | None = None
    """Counted in characters, from 1, as editors do."""

    @property
    def place(self) -> str:
        """Where it is: "file:line:column", as far as known."""
        parts = [self.file]
        if self.line is not None:
            parts.append(str(self.line))
            if self.column is not None:
                parts.append(str(self.column))
        return ":".join(parts)

    @property
    def text(self) -> str:
        """What it is, without its place."""
        return f"{self.key}: {self.expected}" if self.key else self.expected

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class ConfigError(Exception):
    """A configuration with mistakes, all of them."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in mistakes))


def suggest(name: str, known: Iterable[str]) -> str:
    """Return what to say behind an unknown name: the nearest known one, or all of them."""
    # Imported here: a mistake is rare, and difflib costs the daemon a third of a MiB.
    from difflib import get_close_matches

    names = list(known)
    near = get_close_matches(name, names, n=1, cutoff=_NEAR)
    if near:
        return f"; did you mean {near[0]!r}?"
    return "; known here: " + ", ".join(names) if names else ""


def describe(value: object) -> str:
    """Return a wrong value as it is repeated to whoever wrote it."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        said = repr(value)
    except ValueError:
        # A hexadecimal number of more digits than Python is willing to write in decimal.
        return "a number without end"
    return said if len(said) <= DESCRIBED_MOST else said[: DESCRIBED_MOST - 3] + "..."
