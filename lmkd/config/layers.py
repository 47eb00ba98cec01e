"""One file of a configuration: its text, its TOML, and the mistakes found in it.

What its keys mean is not known here.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from lmkd.config.mistakes import BadValue, ConfigError, Mistake, Refused, describe, suggest
from lmkd.config.places import Key, Places, element, spoken_key

Table = dict[str, Any]
Mistakes = dict[Mistake, None]
"""A set in the order of finding: the same thing may be met on several ways, and is said once."""


class Layer:
    """A file that is TOML."""

    def __init__(self, file: str, table: Table, text: str, *, shipped: bool = False) -> None:
        self.file = file
        self.table = table
        self.shipped = shipped
        """Whether it came with lmkd."""
        self._text = text
        self._places: Places | None = None

    @property
    def places(self) -> Places:
        """Where things stand; looked for when somebody asks, and once."""
        if self._places is None:
            self._places = Places(self._text)
        return self._places

    def mistake(self, key: Key, expected: str, *, of_value: bool = False) -> Mistake:
        """Return a mistake at a key, or at its value."""
        found = self.places.find_value(key) if of_value else self.places.find_key(key)
        line, column = (None, None) if found is None else found
        return Mistake(self.file, line, spoken_key(key), expected, column)

    def place(self, key: Key) -> str:
        """Return where a key stands, as "file:line"."""
        found = self.places.find_key(key)
        return self.file if found is None else f"{self.file}:{found[0]}"


def parse_layer(file: str, content: bytes, *, shipped: bool = False) -> Layer:
    """Read a file's content as TOML. Raises ConfigError with the one mistake that keeps it from being that."""
    try:
        text = content.decode()
        table = tomllib.loads(text)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise ConfigError([Mistake(file, line, "", "not UTF-8 text", column)]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_mistake(file, text, str(error))]) from None
    except RecursionError:
        raise ConfigError([Mistake(file, None, "", "not TOML: nested too deep")]) from None
    except ValueError as error:
        # int() of Python 3.11 refuses more than 4,300 digits; tomllib lets that through.
        raise ConfigError([Mistake(file, None, "", f"not TOML: {error}")]) from None
    return Layer(file, table, text, shipped=shipped)


def _syntax_mistake(file: str, text: str, said: str) -> Mistake:
    match = re.match(r"(.*) \(at line (\d+), column (\d+)\)", said)
    if match:
        return Mistake(file, int(match[2]), "", f"not TOML: {match[1]}", int(match[3]))
    said = said.removesuffix(" (at end of document)")
    column = len(text) - text.rfind("\n")
    return Mistake(file, text.count("\n") + 1, "", f"not TOML: {said}", column)


def check_table(
    layer: Layer, at: Key, table: Table, schema: Mapping[str, Any], mistakes: Mistakes
) -> None:
    """Keep what is wrong in a table: unknown keys, and values that their check refuses.

    A schema maps a key to a check, to the schema of a table, or to None for what is checked elsewhere.
    """
    for name, value in table.items():
        key = (*at, name)
        if name not in schema:
            mistakes[layer.mistake(key, "unknown key" + suggest(name, schema))] = None
            continue
        expected = schema[name]
        if isinstance(expected, Mapping):
            if isinstance(value, dict):
                check_table(layer, key, value, expected, mistakes)
            else:
                told = f"expected a table, got {describe(value)}"
                mistakes[layer.mistake(key, told, of_value=True)] = None
        elif expected is not None:
            checked(layer, key, value, expected, mistakes)


def checked(layer: Layer, key: Key, value: object, check: Any, mistakes: Mistakes) -> Any:
    """Return what a check makes of a value; None where it refuses, and keep the mistake."""
    try:
        return check(value)
    except BadValue as bad:
        mistakes[layer.mistake(key, refusal(bad, value), of_value=True)] = None
        return None


def refusal(bad: BadValue, value: object) -> str:
    """Return what is said of a value that was refused."""
    return str(bad) if isinstance(bad, Refused) else f"expected {bad}, got {describe(value)}"


def find_tables(layer: Layer, name: str, mistakes: Mistakes) -> list[tuple[Key, Table]]:
    """Return the tables of [[name]], each with its key."""
    value = layer.table.get(name, [])
    if isinstance(value, dict):
        told = f"expected [[{name}]] tables; write two brackets instead of one"
    elif not isinstance(value, list):
        told = f"expected [[{name}]] tables, got {describe(value)}"
    else:
        told = f"expected [[{name}]] tables, got an array of something else"
        if all(isinstance(item, dict) for item in value):
            return [((name, element(number)), item) for number, item in enumerate(value)]
    mistakes[layer.mistake((name,), told, of_value=True)] = None
    return []
