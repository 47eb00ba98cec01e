"""Lines and columns of keys and values, however TOML lets them be written."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkd.config import ConfigError, load_config
from lmkd.config.places import Places, element, spoken_key

FIRST, SECOND = element(0), element(1)


@pytest.mark.parametrize(
    ("text", "key", "of_key", "of_value"),
    [
        ("a = 1", ("a",), (1, 1), (1, 5)),
        ("a.b . c = 1", ("a",), (1, 1), (1, 1)),
        ("a.b . c = 1", ("a", "b", "c"), (1, 7), (1, 11)),
        ("  'a b' = 1", ("a b",), (1, 3), (1, 11)),
        ('"a\\u0062" = 1', ("ab",), (1, 1), (1, 13)),
        ("[ a . b ] # [c]\n# x = 1\nd=2", ("a", "b"), (1, 7), (1, 7)),
        ("[ a . b ] # [c]\n# x = 1\nd=2", ("a", "b", "d"), (3, 1), (3, 3)),
        ("a = [1,\n # ]\n [2, 3],]", ("a", SECOND, SECOND), (3, 6), (3, 6)),
        ("a = { b = 1, c.d = { e = 2 } }", ("a", "c", "d", "e"), (1, 22), (1, 26)),
        ("[[a]]\nb = 1\n[[a]]\nb = 2", ("a", SECOND, "b"), (4, 1), (4, 5)),
        ("[[a]]\nb = 1\n[[a]]\nb = 2", ("a", SECOND), (3, 1), (3, 1)),
        ("[[a]]\n[a.b]\nc = 1\n[[a]]\n[a.b]\nc = 2", ("a", SECOND, "b", "c"), (6, 1), (6, 5)),
        ("[[a]]\n[[a.b]]\n[[a.b]]\nc = 2", ("a", FIRST, "b", SECOND, "c"), (4, 1), (4, 5)),
        ("a = [{ b = 1 }, { b = 2 }]", ("a", SECOND, "b"), (1, 19), (1, 23)),
        # what looks like a key inside a text
        ('x = """\n[a]\nb = 1\n"""\n[a]\nb = 2', ("a", "b"), (6, 1), (6, 5)),
        ("x = '''\n[a]\nb = ' ''''\n[a]\nb = 2", ("a", "b"), (5, 1), (5, 5)),
        ('x = """a\\""" b = 1 """""\na = 2', ("a",), (2, 1), (2, 5)),
        ('x = "\\\\"\na = 2', ("a",), (2, 1), (2, 5)),
        ('x = "\\""\na = 2', ("a",), (2, 1), (2, 5)),
        ("x = '\\'\na = 2", ("a",), (2, 1), (2, 5)),
        ("x = \"\"\na = ''", ("a",), (2, 1), (2, 5)),
        ("x = 1979-05-27 07:32:00\na = 2", ("a",), (2, 1), (2, 5)),
        # only \\n ends a line of TOML
        ("# \u2028 \x85 one line\na = 1", ("a",), (2, 1), (2, 5)),
        ("x = 1\r\na = 1\r\n", ("a",), (2, 1), (2, 5)),
        ("\tä = 1", ("ä",), None, None),
        ("'ä' = 1 # and columns are characters\n'ö' = 'ü'", ("ö",), (2, 1), (2, 7)),
    ],
)
def test_the_place_of_a_key_and_of_its_value(
    text: str, key: tuple[str, ...], of_key: tuple[int, int] | None, of_value: tuple[int, int]
) -> None:
    if of_key is None:
        with pytest.raises(tomllib.TOMLDecodeError):
            tomllib.loads(text)
        return
    tomllib.loads(text)
    places = Places(text)
    assert places.find_key(key) == of_key
    assert places.find_value(key) == of_value


def test_what_is_not_there_has_the_place_of_what_holds_it() -> None:
    places = Places("x = 1\na = { b = 1 }")
    assert places.find_key(("a", "c", "d")) == (2, 1)
    assert places.find_value(("a", "c")) == (2, 1)
    assert places.find_key(("c",)) is None


def test_elements_are_not_spoken() -> None:
    assert spoken_key(("rule", FIRST, "match", "comm", SECOND)) == "rule.match.comm"
    assert spoken_key(("sets", "#", "5", "#x")) == "sets.#.5.#x"


def test_brackets_deeper_than_can_be_followed_leave_what_stood_before_them() -> None:
    places = Places("a = 1\nb = " + "[" * 5000 + "]" * 5000)
    assert places.find_key(("a",)) == (1, 1)
    assert places.find_key(("b",)) == (2, 1)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("stall.low.some = 7\n", (1, 18)),
        ('[stall]\n"low".some = 7\n', (2, 14)),
        ("[ stall . low ] # here\n\nsome=7\n", (3, 6)),
        ("[stall]\nlow = { full = '1%', some = 7 }\n", (2, 29)),
        ("stall = { low = { some = 7 } }\n", (1, 26)),
        ("# \u2028 \x85 one line\n[stall.low]\nsome = 7\n", (3, 8)),
        ("[stall.low]\r\nsome = 7\r\n", (2, 8)),
    ],
)
def test_the_place_of_a_mistake_is_found_however_the_key_is_written(
    tmp_path: Path, text: str, place: tuple[int, int]
) -> None:
    path = tmp_path / "lmkd.toml"
    path.write_bytes(text.encode())
    with pytest.raises(ConfigError) as caught:
        load_config([path])
    assert [(one.line, one.column, one.key) for one in caught.value.mistakes] == [
        (*place, "stall.low.some")
    ]


# --- whatever tomllib reads, every key of it is found where it is written ---------------------------------------------

NAMES = st.sampled_from(["a", "b", "'c d'", '"e\\"f"', '"#0"', "x-1"])
DOTTED = st.lists(NAMES, min_size=1, max_size=2).map(" . ".join)
LEAVES = st.sampled_from(
    [
        "1",
        "true",
        '"x # ]"',
        "'y = {'",
        '"""\n[a]\n"""',
        "'''\n# '\n'''",
        '""',
        "1979-05-27 07:32:00",
        "[]",
        "{}",
    ]
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(
            lambda all_: "[\n" + ", # ]\n".join(all_) + "\n]"
        ),
        st.lists(
            st.tuples(NAMES, inner), min_size=1, max_size=2, unique_by=lambda pair: pair[0]
        ).map(lambda pairs: "{ " + ", ".join(f"{name} = {value}" for name, value in pairs) + " }"),
    ),
    max_leaves=6,
)
LINES = st.one_of(
    st.builds("[{}] # x".format, DOTTED),
    st.builds("[[{}]]".format, DOTTED),
    st.builds("{} = {}".format, DOTTED, VALUES),
    st.sampled_from(["", "# [a]", "\t"]),
)


def keys_of(value: object, at: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    found: list[tuple[tuple[str, ...], object]] = []
    if isinstance(value, dict):
        for name, inner in value.items():
            found += [((*at, name), inner), *keys_of(inner, (*at, name))]
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            found += [((*at, element(number)), inner), *keys_of(inner, (*at, element(number)))]
    return found


@settings(derandomize=True, deadline=None, max_examples=500)
@given(st.lists(LINES, max_size=8))
def test_every_value_is_found_where_it_is_written(lines: list[str]) -> None:
    text = "\n".join(lines)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    rows = text.split("\n")
    places = Places(text)
    for key, value in keys_of(table):
        assert key in places._keys
        found = places.find_value(key)
        assert found is not None
        line, column = found
        written = "\n".join([rows[line - 1][column - 1 :], *rows[line:]])
        if not isinstance(value, dict | list):
            # What stands there is read as the value once more, as far as the text of it goes.
            ends = [end for end in range(1, len(written) + 1) if _reads_as(written[:end], value)]
            assert ends, (key, written)


def _reads_as(text: str, value: object) -> bool:
    try:
        return bool(tomllib.loads(f"v = {text}")["v"] == value)
    except tomllib.TOMLDecodeError:
        return False
