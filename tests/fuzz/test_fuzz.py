"""Nothing but a parser's own error leaves it: a small, seeded share of `make fuzz`, and whatever that found once."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import pytest

from lmkd.kernel import parse
from lmkd.kernel.files import MalformedKernelFile
from tests.fuzz.engine import Target, check, fuzz
from tests.fuzz.found import FOUND
from tests.fuzz.targets import find_parsers, take_of_parser, targets

INPUTS = 50_000
"""5 s on an idle machine, of which most are recordings; `make fuzz` takes a million."""
SEED = 4
TARGETS = {target.name: target for target in targets()}
SHARES = sum(target.share for target in TARGETS.values())


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_makes_it_break_its_word(name: str) -> None:
    target = TARGETS[name]
    run = fuzz(target, int(INPUTS * target.share / SHARES), SEED)
    assert run.finding is None, str(run.finding)


def test_what_was_found_once_is_not_found_again() -> None:
    for name, content in FOUND:
        assert check(TARGETS[name], content) is None, (name, content)


def test_every_parser_is_a_target() -> None:
    parsers = {
        name
        for name, _ in inspect.getmembers(parse, inspect.isfunction)
        if name.startswith("parse_")
    }
    assert parsers
    assert parsers <= set(find_parsers()) <= set(TARGETS)


def test_a_parser_that_asks_for_something_new_is_not_passed_over() -> None:
    def parse_new(content: bytes, page_kib: int) -> None:
        pass

    with pytest.raises(TypeError, match=r"teach .* parse_new for .*page_kib"):
        take_of_parser(parse_new)


def _unguarded_number(content: bytes) -> int:
    """As parse_number was before somebody wrote 4,301 digits."""
    word = content.strip()
    if not word.isdigit():
        raise MalformedKernelFile("planted", content, "a number")
    return int(word)


def _unguarded_fields(content: bytes) -> Sequence[int]:
    """A name that holds a parenthesis, cut at the first of them instead of the last."""
    name, _, rest = content.partition(b") ")
    fields = rest.split()
    if len(fields) < 20 or not name:
        raise MalformedKernelFile("planted", content, "at least 22 fields")
    if not fields[1].isdigit():
        raise MalformedKernelFile("planted", content, "a ppid")
    return [int(field) for field in fields[3:20]]


@pytest.mark.parametrize(
    ("take", "seed"),
    [
        (_unguarded_number, b"4096\n"),
        (
            _unguarded_fields,
            b"1 (foo) S 1 4711 4711 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 99 1000 200 7\n",
        ),
    ],
)
def test_a_planted_fault_is_found_and_made_small(take: object, seed: bytes) -> None:
    target = Target("planted", take, (MalformedKernelFile,), (seed,))  # type: ignore[arg-type]
    run = fuzz(target, 5_000, SEED)
    assert run.finding is not None
    assert "ValueError" in run.finding.what
    assert check(target, run.finding.content) is not None
    assert len(run.finding.content) <= 4_400
    assert "bytes.fromhex(" in str(run.finding)


def test_the_same_seed_gives_the_same_inputs() -> None:
    taken: list[list[bytes]] = []
    for _ in range(2):
        inputs: list[bytes] = []
        fuzz(
            Target("kept", inputs.append, (), (b"some total=1\n", b"\x81\xa2id\x01"), packed=True),
            500,
            SEED,
        )
        taken.append(inputs)
    assert taken[0] == taken[1]
    assert len(set(taken[0])) > 300
