"""Where each key and value of a TOML text stands, which tomllib does not keep.

Follows strings, comments and brackets of a text that tomllib has accepted; what a value means is not known here. No
regular expressions: to compile those that did this once cost the daemon 1.5 MiB for good.

A key is the names on the way to it. The elements of an array, of tables or of values, are named by `element`.
"""

from __future__ import annotations

import tomllib
from contextlib import suppress

Key = tuple[str, ...]

_BARE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_BLANK = frozenset(" \t\r\n")
_SCALAR_ENDS = frozenset(",]}#\n")


def element(number: int) -> str:
    """Return the name of an element, counted from 0. No bare key of TOML looks like it."""
    return f"#{number}"


def spoken_key(key: Key) -> str:
    """Return a key as it is told: without the elements, for whose place there are line and column."""
    return ".".join(name for name in key if not (name[:1] == "#" and name[1:].isdecimal()))


class Places:
    """The lines and columns of one text, both counted from 1; columns in characters."""

    def __init__(self, text: str) -> None:
        self._text = text
        scanner = _Scanner(text)
        # Brackets may be deeper than we can follow, though tomllib could; what was found before them stands.
        with suppress(RecursionError):
            scanner.scan()
        self._keys = scanner.keys
        self._values = scanner.values

    def find_key(self, key: Key) -> tuple[int, int] | None:
        """Return where a key is written, or the nearest one that holds it; of an element, where it begins."""
        while key and key not in self._keys:
            key = key[:-1]
        return self._place(self._keys.get(key))

    def find_value(self, key: Key) -> tuple[int, int] | None:
        """Return where the value of a key begins; of a table under a header, where the header names it."""
        found = self._values.get(key)
        return self.find_key(key) if found is None else self._place(found)

    def _place(self, at: int | None) -> tuple[int, int] | None:
        if at is None:
            return None
        return self._text.count("\n", 0, at) + 1, at - self._text.rfind("\n", 0, at)


class _Scanner:
    """One pass over a text; keeps where keys and values begin."""

    def __init__(self, text: str) -> None:
        self._text = text + "\n"
        self._end = len(text)
        self._at = 0
        self._tables: dict[Key, int] = {}
        """Of an array of tables: how many there are."""
        self.keys: dict[Key, int] = {}
        self.values: dict[Key, int] = {}

    def scan(self) -> None:
        table: Key = ()
        while True:
            self._skip_blank()
            if self._at >= self._end:
                return
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip_space(self) -> None:
        while self._text[self._at] in " \t":
            self._at += 1

    def _skip_blank(self) -> None:
        while self._at < self._end:
            if self._text[self._at] == "#":
                self._at = self._text.index("\n", self._at)
            elif self._text[self._at] not in _BLANK:
                return
            else:
                self._at += 1

    def _header(self) -> Key:
        start = self._at
        is_array = self._text.startswith("[[", start)
        brackets = 2 if is_array else 1
        self._at += brackets
        names = self._names()
        self._at += brackets
        key: Key = ()
        for name, at in names[:-1]:
            key = self._within((*key, name), at)
        name, at = names[-1]
        key = (*key, name)
        if not is_array:
            return self._within(key, at)
        self.keys.setdefault(key, at)
        number = self._tables.get(key, 0)
        self._tables[key] = number + 1
        key = (*key, element(number))
        self.keys[key] = start
        return key

    def _within(self, key: Key, at: int) -> Key:
        """Keep the place of a table that a header names; of an array of tables, the last one is meant."""
        self.keys.setdefault(key, at)
        number = self._tables.get(key)
        return key if number is None else (*key, element(number - 1))

    def _names(self) -> list[tuple[str, int]]:
        """Read a dotted key up to what follows it."""
        names = []
        while True:
            self._skip_space()
            start = self._at
            if self._text[start] in "\"'":
                self._string()
                name = _unquote(self._text[start : self._at])
            else:
                while self._text[self._at] in _BARE:
                    self._at += 1
                name = self._text[start : self._at]
            names.append((name, start))
            self._skip_space()
            if self._text[self._at] != ".":
                return names
            self._at += 1

    def _pair(self, table: Key) -> None:
        key = table
        for name, at in self._names():
            key = (*key, name)
            self.keys.setdefault(key, at)
        self._at += 1  # the equals sign
        self._skip_space()
        self._value(key)

    def _value(self, key: Key) -> None:
        self.values[key] = self._at
        match self._text[self._at]:
            case '"' | "'":
                self._string()
            case "[":
                self._array(key)
            case "{":
                self._inline_table(key)
            case _:
                while self._text[self._at] not in _SCALAR_ENDS:
                    self._at += 1

    def _array(self, key: Key) -> None:
        self._at += 1
        number = 0
        while True:
            self._skip_blank()
            if self._text[self._at] == "]":
                self._at += 1
                return
            inner = (*key, element(number))
            self.keys[inner] = self._at
            self._value(inner)
            self._skip_blank()
            if self._text[self._at] == ",":
                self._at += 1
            number += 1

    def _inline_table(self, key: Key) -> None:
        self._at += 1
        while True:
            self._skip_blank()
            if self._text[self._at] == "}":
                self._at += 1
                return
            self._pair(key)
            self._skip_blank()
            if self._text[self._at] == ",":
                self._at += 1

    def _string(self) -> None:
        quote = self._text[self._at]
        closing = quote * 3 if self._text.startswith(quote * 3, self._at) else quote
        self._at += len(closing)
        while not self._text.startswith(closing, self._at):
            end = self._text.index(closing, self._at)
            escape = self._text.find("\\", self._at, end) if quote == '"' else -1
            self._at = end if escape < 0 else escape + 2
        self._at += len(closing)
        # Up to two quotes right before the three that close a string belong to it.
        while len(closing) == 3 and self._text[self._at] == quote:
            self._at += 1


def _unquote(name: str) -> str:
    if name[0] == "'" or "\\" not in name:
        return name[1:-1]
    (unquoted,) = tomllib.loads(f"{name} = 0")
    return unquoted
