"""[sets]: patterns under a name, for any rule to refer to as "@name".

A set of a later file takes the place of one of the same name, the shipped ones too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lmkd.config.layers import Layer, Mistakes
from lmkd.config.mistakes import describe, suggest
from lmkd.config.places import Key, element

REFERENCE = "@"


class Entry(NamedTuple):
    """A pattern, and where it stands."""

    value: object
    layer: Layer
    key: Key
    set_name: str | None = None
    """The set that it comes from, if any."""


def list_entries(layer: Layer, key: Key, value: object) -> list[Entry]:
    """Return the elements of an array, or the one value that stands for itself."""
    if isinstance(value, list):
        return [Entry(one, layer, (*key, element(n))) for n, one in enumerate(value)]
    return [Entry(value, layer, key)]


class Sets:
    """The sets of all layers."""

    def __init__(self, layers: Sequence[Layer], mistakes: Mistakes) -> None:
        self._mistakes = mistakes
        self._entries: dict[str, list[Entry]] = {}
        self._places: dict[str, tuple[Layer, Key]] = {}
        self._flat: dict[str, dict[object, Entry]] = {}
        """What each set holds when its references are followed; once, and each pattern once, for sets may hold sets
        that hold sets, and what is doubled thirty times over ends no more."""
        self._used: set[str] = set()
        for layer in layers:
            self._take(layer)
        for name in self._entries:
            # What is wrong with the references of a set is said whether or not a rule uses it.
            self._flatten(name, ())

    def _take(self, layer: Layer) -> None:
        table = layer.table.get("sets", {})
        if not isinstance(table, dict):
            told = f"expected a table, got {describe(table)}"
            self._mistakes[layer.mistake(("sets",), told, of_value=True)] = None
            return
        for name, value in table.items():
            key = ("sets", name)
            self._places[name] = layer, key
            self._entries[name] = []
            if not isinstance(value, list):
                told = f'expected an array of patterns, such as ["a", "b"], got {describe(value)}'
                self._mistakes[layer.mistake(key, told, of_value=True)] = None
                continue
            if not value:
                self._mistakes[layer.mistake(key, "a set with nothing in it", of_value=True)] = None
            for entry in list_entries(layer, key, value):
                if isinstance(entry.value, str) and entry.value:
                    self._entries[name].append(entry._replace(set_name=name))
                else:
                    told = f"expected a pattern, got {describe(entry.value)}"
                    self._mistakes[layer.mistake(entry.key, told, of_value=True)] = None

    def expand(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return the entries with every reference replaced by what its set holds, and count those sets as used."""
        found: list[Entry] = []
        for entry in entries:
            name = _referred(entry.value)
            if name is None:
                found.append(entry)
            elif self._is_known(name, entry):
                self._use(name)
                found.extend(self._flat[name].values())
        return found

    def _flatten(self, name: str, trail: tuple[str, ...]) -> dict[object, Entry]:
        known = self._flat.get(name)
        if known is not None:
            return known
        trail = (*trail, name)
        found: dict[object, Entry] = {}
        for entry in self._entries[name]:
            inner = _referred(entry.value)
            if inner is None:
                found.setdefault(entry.value, entry)
            elif inner in trail:
                way = " -> ".join(REFERENCE + one for one in (*trail[trail.index(inner) :], inner))
                told = f"the set holds itself: {way}"
                self._mistakes[entry.layer.mistake(entry.key, told, of_value=True)] = None
            elif self._is_known(inner, entry):
                for one in self._flatten(inner, trail).values():
                    found.setdefault(one.value, one)
        self._flat[name] = found
        return found

    def _is_known(self, name: str, entry: Entry) -> bool:
        if name in self._entries:
            return True
        told = f"no set {entry.value!r}" + suggest(name, self._entries)
        self._mistakes[entry.layer.mistake(entry.key, told, of_value=True)] = None
        return False

    def _use(self, name: str) -> None:
        waiting = [name]
        while waiting:
            one = waiting.pop()
            if one in self._entries and one not in self._used:
                self._used.add(one)
                inner = (_referred(entry.value) for entry in self._entries[one])
                waiting.extend(name for name in inner if name is not None)

    @property
    def used(self) -> frozenset[str]:
        """The names of the sets that a rule uses, directly or through others."""
        return frozenset(self._used)

    @property
    def places(self) -> dict[str, tuple[Layer, Key]]:
        """Where each set is written that counts."""
        return dict(self._places)


def _referred(value: object) -> str | None:
    if isinstance(value, str) and value.startswith(REFERENCE):
        return value.removeprefix(REFERENCE)
    return None
