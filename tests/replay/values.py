"""Any value of the heart, for hypothesis, and all classes that one holds: by the type hints, apart from the codec."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)
TEXTS = st.text(max_size=5)
# Text with what Python makes of bytes that are no UTF-8.
ODD_TEXTS = st.text(st.characters(categories=("Cs", "L", "Cc")), max_size=5)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=5,
)
DEEPEST = 5


def values(hint: Any, depth: int = 0) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of a hint."""
    if hint in _SCALARS:
        return _SCALARS[hint]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    if isinstance(hint, type):
        return _records(hint, depth)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if any(get_origin(one) in (list, dict) for one in arguments):
            return PLAIN
        return st.one_of([values(one, depth) for one in arguments])
    if depth > DEEPEST and origin is not tuple:
        return st.just(frozenset() if origin is frozenset else {})
    if origin is tuple and arguments[-1] is Ellipsis:
        if depth > DEEPEST:
            return st.just(())
        return st.lists(values(arguments[0], depth + 1), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*(values(one, depth + 1) for one in arguments))
    if origin is frozenset:
        return st.frozensets(values(arguments[0], depth + 1), max_size=3)
    assert origin is Mapping, hint
    key, held = (values(one, depth + 1) for one in arguments)
    return st.dictionaries(key, held, max_size=2)


def classes_in(*roots: Any) -> set[type]:
    """Return every dataclass, named tuple and enum that values of these hints may hold."""
    found: set[type] = set()
    waiting = list(roots)
    while waiting:
        hint = waiting.pop()
        if not isinstance(hint, type) or get_origin(hint) is not None:
            waiting.extend(get_args(hint))
        elif hint not in found and hint not in _SCALARS:
            found.add(hint)
            if not issubclass(hint, Enum):
                waiting.extend(_fields_of(hint).values())
    return found


_SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: NUMBERS,
    str: TEXTS | ODD_TEXTS,
    bool: st.booleans(),
    NoneType: st.none(),
}


def _fields_of(cls: Any) -> dict[str, Any]:
    """Return the fields that make a value, each with its hint."""
    hints = get_type_hints(cls)
    if dataclasses.is_dataclass(cls):
        return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}
    return {name: hints[name] for name in cls._fields}


def _records(cls: Any, depth: int) -> st.SearchStrategy[Any]:
    fields = _fields_of(cls)
    # A class may hold itself: its fields are asked for when one is drawn.
    return st.deferred(
        lambda: st.builds(cls, **{name: values(hint, depth + 1) for name, hint in fields.items()})
    )
