"""Hostile files: whatever they hold, there is nothing but their mistakes, each with a place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmkd.config import _SHIPPED, ConfigError, Mistake, load_config
from lmkd.config.schema import SCHEMA


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff", "1:1: not UTF-8 text"),
        ("[timing]\n# ö".encode() + b"\xe4\n", "2:4: not UTF-8 text"),
        (b"a = " + b"[" * 20_000, " not TOML: nested too deep"),
        (b"x = " + b"{a=" * 5_000, " not TOML: nested too deep"),
        (b"\n[service]\nhistory_episodes = " + b"9" * 5_000, " not TOML: Exceeds the limit"),
        (b"[service]\nhistory_episodes = 0x" + b"f" * 5_000, "2:20: service.history_episodes: "),
        (b'[service]\nsocket = "' + b"x" * 5_000 + b'"', "2:10: service.socket: "),
        (b"\x00", "1:1: not TOML: "),
    ],
)
def test_a_hostile_file_is_a_mistake_with_a_place_and_of_bounded_length(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "hostile.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config([path])
    (mistake,) = caught.value.mistakes
    assert str(mistake).startswith(f"{path}:{said}")
    assert len(str(mistake)) < len(str(path)) + 300


WORDS = st.sampled_from(
    [
        *SCHEMA,
        "low",
        "critical",
        "cached",
        "some",
        "full",
        "enter",
        "grace",
        "kill",
        "cgroup",
        "name",
        "class",
        "match",
        "comm",
        "uid",
        "exempt",
        "unit",
        "x",
    ]
)
VALUES = st.sampled_from(
    [
        '"7%"',
        '"3s"',
        '"64MiB"',
        "7",
        "true",
        "1.5",
        "[]",
        "{}",
        "[{}]",
        '"/a"',
        '"@x"',
        '["@sets", "("]',
        '">=5"',
        '{ comm = "a", uid = 5 }',
        '"cgroup"',
        '"never"',
        "1979-05-27",
    ]
)
LINES = st.one_of(
    st.builds("[{}]".format, WORDS),
    st.builds("[{}.{}]".format, WORDS, WORDS),
    st.builds("[[{}]]".format, WORDS),
    st.builds("{} = {}".format, WORDS, VALUES),
    st.builds("{}.{} = {}".format, WORDS, WORDS, VALUES),
    st.text(max_size=20),
)
LIKE_TOML = st.lists(LINES, max_size=12).map(
    lambda lines: "\n".join(lines).encode("utf-8", "replace")
)
hostile = settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def load_or_refuse(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    mistakes: tuple[Mistake, ...] | None = None
    try:
        load_config([path])
    except ConfigError as error:
        mistakes = error.mistakes
    assert mistakes != ()
    lines = content.count(b"\n") + 1
    for mistake in mistakes or ():
        assert mistake.file == str(path)
        assert mistake.line is not None
        assert 1 <= mistake.line <= lines


@hostile
@given(st.binary(max_size=200))
def test_whatever_bytes_a_file_holds_nothing_is_raised_but_its_mistakes(
    tmp_path: Path, content: bytes
) -> None:
    load_or_refuse(tmp_path / "any.toml", content)


@hostile
@given(LIKE_TOML)
def test_whatever_toml_a_file_holds_nothing_is_raised_but_its_mistakes(
    tmp_path: Path, content: bytes
) -> None:
    load_or_refuse(tmp_path / "any.toml", content)


SHIPPED = _SHIPPED.read_bytes()


@hostile
@given(st.integers(0, len(SHIPPED)), st.integers(0, 30), st.binary(max_size=10))
def test_the_defaults_with_a_piece_torn_out_raise_nothing_but_their_mistakes(
    tmp_path: Path, start: int, length: int, put: bytes
) -> None:
    load_or_refuse(tmp_path / "any.toml", SHIPPED[:start] + put + SHIPPED[start + length :])
