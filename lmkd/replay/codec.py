"""Values of the heart to plain trees, and back.

How a value is written follows from its type hints alone: a dataclass or named tuple is a map of its fields by name,
an enum member its name, a set a list in order, a mapping a list of pairs in its own order, which may mean something.
Where a hint allows several classes, their name stands before. So a new type or field of lmkd.policy needs nothing
here, an older file is read as long as what is new has a default, and a field that this version does not know is
named and refused. Fields that are no part of a value (init=False: caches) are left out and made anew.

Reading builds no type but those that the hints name, and checks each field against its hint. Equal values give equal
bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from lmkd.replay.errors import RecordingError
from lmkd.replay.packing import Tree, pack, shown

_PLAIN_DEPTH = 8


class Form(NamedTuple):
    """How the values of one hint are written and read."""

    encode: Callable[[Any], Tree]
    decode: Callable[[Tree], Any]


class _Mismatch(Exception):
    """Something is not as its hint says; `place` is collected on the way out, innermost first."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        self.place: list[str] = []

    def at(self, part: str) -> _Mismatch:
        self.place.append(part)
        return self

    def __str__(self) -> str:
        place = "".join(reversed(self.place)).lstrip(".")
        return f"{place}: {self.problem}" if place else self.problem


def to_tree(hint: Any, value: Any) -> Tree:
    """Return a value of this hint as a tree."""
    return form_of(hint).encode(value)


def from_tree(hint: Any, tree: Tree, file: str, what: str) -> Any:
    """Return the value that a tree stands for. Raises RecordingError, saying where and what was expected."""
    try:
        return form_of(hint).decode(tree)
    except _Mismatch as mismatch:
        raise RecordingError(file, str(mismatch.at(what))) from None
    except RecursionError:
        raise RecordingError(file, f"{what}: nested too deep") from None


# --- forms --------------------------------------------------------------------------------------------------


@cache
def form_of(hint: Any) -> Form:
    """Return how values of a hint are written and read. Raises TypeError for a hint that no value here should have."""
    if hint in _SCALARS:
        return Form(_same, _SCALARS[hint])
    if _is_enum(hint):
        return _enum_form(hint)
    if _is_record(hint):
        return _record_form(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _union_form(arguments)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _list_form(form_of(arguments[0]), tuple)
    if origin is tuple:
        return _tuple_form(tuple(form_of(one) for one in arguments))
    if origin is frozenset:
        return _set_form(form_of(arguments[0]))
    if origin in (Mapping, dict):
        if str in arguments[:1] and _is_plain(arguments[1]):
            return Form(_same, _decode_plain_map)
        return _mapping_form(form_of(arguments[0]), form_of(arguments[1]))
    raise TypeError(f"no form for {hint!r}: values of the heart hold none of these")


def _same(value: Any) -> Tree:
    return value


def _expect(kind: type, words: str) -> Callable[[Tree], Any]:
    def decode(tree: Tree) -> Any:
        # Not isinstance: a bool is an int.
        if type(tree) is not kind:
            raise _Mismatch(f"expected {words}, found {shown(tree)}")
        return tree

    return decode


_SCALARS: dict[Any, Callable[[Tree], Any]] = {
    int: _expect(int, "an integer"),
    str: _expect(str, "text"),
    bool: _expect(bool, "yes or no"),
    NoneType: _expect(NoneType, "nothing"),
}


def _enum_form(kind: type[Enum]) -> Form:
    members = dict(kind.__members__)

    def decode(tree: Tree) -> Enum:
        found = members.get(tree) if isinstance(tree, str) else None
        if found is None:
            raise _Mismatch(f"expected one of {', '.join(members)}, found {shown(tree)}")
        return found

    return Form(lambda value: value.name, decode)


def _list_form(inner: Form, make: Callable[[list[Any]], Any]) -> Form:
    encode_one, decode_one = inner

    def decode(tree: Tree) -> Any:
        _demand_list(tree)
        found = []
        for number, item in enumerate(tree):
            try:
                found.append(decode_one(item))
            except _Mismatch as mismatch:
                raise mismatch.at(f"[{number}]") from None
        return make(found)

    return Form(lambda value: [encode_one(item) for item in value], decode)


def _tuple_form(inner: tuple[Form, ...]) -> Form:
    def encode(value: Any) -> Tree:
        return [form.encode(item) for form, item in zip(inner, value, strict=True)]

    def decode(tree: Tree) -> Any:
        _demand_list(tree)
        if len(tree) != len(inner):
            raise _Mismatch(f"expected a list of {len(inner)}, found {shown(tree)}")
        return tuple(form.decode(item) for form, item in zip(inner, tree, strict=True))

    return Form(encode, decode)


def _set_form(inner: Form) -> Form:
    listed = _list_form(inner, frozenset)
    return Form(lambda value: sorted(listed.encode(value), key=pack), listed.decode)


def _mapping_form(key: Form, value: Form) -> Form:
    def encode(mapping: Mapping[Any, Any]) -> Tree:
        return [[key.encode(one), value.encode(held)] for one, held in mapping.items()]

    def decode(tree: Tree) -> Any:
        _demand_list(tree)
        found = {}
        for number, pair in enumerate(tree):
            if not isinstance(pair, list) or len(pair) != 2:
                raise _Mismatch(f"expected a key and a value, found {shown(pair)}").at(
                    f"[{number}]"
                )
            try:
                found[key.decode(pair[0])] = value.decode(pair[1])
            except _Mismatch as mismatch:
                raise mismatch.at(f"[{shown(pair[0])}]") from None
        if len(found) != len(tree):
            raise _Mismatch("expected each key once, found one twice")
        return found

    return Form(encode, decode)


def _demand_list(tree: Tree) -> None:
    if not isinstance(tree, list):
        raise _Mismatch(f"expected a list, found {shown(tree)}")


def _union_form(arguments: tuple[Any, ...]) -> Form:
    others = [one for one in arguments if one is not NoneType]
    if len(others) < len(arguments):
        inner = form_of(others[0]) if len(others) == 1 else _union_form(tuple(others))
        return Form(
            lambda value: None if value is None else inner.encode(value),
            lambda tree: None if tree is None else inner.decode(tree),
        )
    if not all(isinstance(one, type) and _is_record(one) for one in others):
        raise TypeError(f"no form for one of {others!r}: they cannot be told apart")
    by_name: dict[str, Any] = {one.__name__: one for one in others}

    def decode(tree: Tree) -> Any:
        name = tree[0] if isinstance(tree, list) and len(tree) == 2 else None
        one = by_name.get(name) if isinstance(name, str) else None
        if one is None:
            found = shown(tree) if name is None else shown(name)
            raise _Mismatch(f"expected one of {', '.join(by_name)}, found {found}")
        try:
            return form_of(one).decode(tree[1])
        except _Mismatch as mismatch:
            raise mismatch.at(f".{name}") from None

    def encode(value: Any) -> Tree:
        name = type(value).__name__
        return [name, form_of(by_name[name]).encode(value)]

    return Form(encode, decode)


# --- dataclasses and named tuples ---------------------------------------------------------------------------


class _Field(NamedTuple):
    name: str
    hint: Any
    required: bool


def _is_record(hint: Any) -> bool:
    return isinstance(hint, type) and (
        dataclasses.is_dataclass(hint) or (issubclass(hint, tuple) and hasattr(hint, "_fields"))
    )


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


@cache
def _fields_of(cls: Any) -> tuple[_Field, ...]:
    hints = get_type_hints(cls)
    if not dataclasses.is_dataclass(cls):
        return tuple(
            _Field(name, hints[name], name not in cls._field_defaults) for name in cls._fields
        )
    missing = dataclasses.MISSING
    return tuple(
        _Field(
            field.name,
            hints[field.name],
            field.default is missing and field.default_factory is missing,
        )
        for field in dataclasses.fields(cls)
        if field.init
    )


def _record_form(cls: Any) -> Form:
    # A class may hold itself, so its fields are looked at when the first value comes, not here.
    @cache
    def forms() -> dict[str, Form]:
        return {field.name: form_of(field.hint) for field in _fields_of(cls)}

    def encode(value: Any) -> Tree:
        return {name: form.encode(getattr(value, name)) for name, form in forms().items()}

    def decode(tree: Tree) -> Any:
        if not isinstance(tree, dict):
            raise _Mismatch(f"expected the fields of {cls.__name__}, found {shown(tree)}")
        known, found = forms(), {}
        for name, item in tree.items():
            form = known.get(name)
            if form is None:
                raise _Mismatch(f"this version's {cls.__name__} has no field {shown(name)}")
            try:
                found[name] = form.decode(item)
            except _Mismatch as mismatch:
                raise mismatch.at(f".{name}") from None
        if len(found) < len(known):
            for field in _fields_of(cls):
                if field.required and field.name not in found:
                    raise _Mismatch(f"{cls.__name__} lacks its field {field.name!r}")
        try:
            return cls(**found)
        except RecursionError:
            raise
        except Exception as error:
            raise _Mismatch(f"these fields make no {cls.__name__}: {error}") from None

    return Form(encode, decode)


# --- what JSON and msgpack both know ------------------------------------------------------------------------


def _is_plain(hint: Any) -> bool:
    return any(get_origin(one) in (list, dict) for one in get_args(hint))


def decode_plain_map(tree: Tree, file: str, what: str) -> dict[str, Any]:
    """Return a map of plain values, without floats, as it is. Raises RecordingError."""
    try:
        return _decode_plain_map(tree)
    except _Mismatch as mismatch:
        raise RecordingError(file, str(mismatch.at(what))) from None


def _decode_plain_map(tree: Tree) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise _Mismatch(f"expected a map, found {shown(tree)}")
    found: dict[str, Any] = _decode_plain(tree, _PLAIN_DEPTH)
    return found


def _decode_plain(tree: Tree, depth: int) -> Any:
    if tree is None or type(tree) in (bool, int, str):
        return tree
    if depth == 0:
        raise _Mismatch("nested too deep")
    if isinstance(tree, list):
        return [_decode_plain(item, depth - 1) for item in tree]
    if isinstance(tree, dict) and all(isinstance(key, str) for key in tree):
        return {key: _decode_plain(item, depth - 1) for key, item in tree.items()}
    raise _Mismatch(f"expected text, an integer, yes, no, nothing, or these, found {shown(tree)}")
