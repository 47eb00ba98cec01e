"""Run a target on many inputs, keep those that leave it by a new way, and shrink what makes it fail."""

from __future__ import annotations

import random
import re
import time
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass

from tests.fuzz.mutator import mutate, mutate_packed

CORPUS_MOST = 400
SLOWEST_S = 1.0
"""Of processor time, for one input of at most 16 KiB: a parser that takes longer is as good as one that hangs."""
SHRINK_TRIES = 2_000
_FOUND = re.compile(r" found | got |['\"]")
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Target:
    """What is fuzzed: `take` may return anything, or raise one of `errors`."""

    name: str
    take: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    share: float = 1.0
    """Of the inputs, against the others'."""
    packed: bool = False
    """Whether its inputs are msgpack, so that values are exchanged in them and not only bytes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An input on which a target broke its word."""

    target: str
    content: bytes
    what: str

    def __str__(self) -> str:
        return f"{self.what}\nfor tests/fuzz/found.py:\n    ({self.target!r}, bytes.fromhex({self.content.hex()!r})),"


@dataclass(frozen=True, slots=True)
class Run:
    """What came of it."""

    target: str
    inputs: int
    accepted: int
    ways: int
    seconds: float
    finding: Finding | None

    def line(self) -> str:
        return (
            f"{self.target:<28} {self.inputs:>8,} inputs {self.accepted:>8,} accepted {self.ways:>5} ways out"
            f" {self.inputs / max(self.seconds, 1e-6):>8,.0f}/s  {'FAILED' if self.finding else 'ok'}"
        )


def fuzz(target: Target, inputs: int, seed: int) -> Run:
    """Give a target its seeds and then so many inputs; stop at the first fault."""
    chance = random.Random(zlib.crc32(target.name.encode()) ^ seed)
    change = mutate_packed if target.packed else mutate
    corpus = list(target.seeds)
    ways: set[object] = set()
    accepted = 0
    began = time.perf_counter()
    for number in range(inputs):
        if number < len(target.seeds):
            content = target.seeds[number]
        else:
            # Also from the good ones again: what is changed ten times over is accepted by nobody.
            content = change(chance, target.seeds if chance.random() < 0.4 else corpus)
        way, what = _try(target, content)
        if what is not None:
            finding = Finding(target.name, shrink(target, content, what), what)
            return Run(
                target.name, number + 1, accepted, len(ways), time.perf_counter() - began, finding
            )
        accepted += way[0] == "accepted"
        if way not in ways:
            ways.add(way)
            if number >= len(target.seeds):
                if len(corpus) < CORPUS_MOST:
                    corpus.append(content)
                else:
                    corpus[int(chance.random() * CORPUS_MOST)] = content
    return Run(target.name, inputs, accepted, len(ways), time.perf_counter() - began, None)


def check(target: Target, content: bytes) -> str | None:
    """Return how a target breaks its word on an input, or None."""
    return _try(target, content)[1]


def _try(target: Target, content: bytes) -> tuple[tuple[object, ...], str | None]:
    began = time.thread_time()
    try:
        value = target.take(content)
    except target.errors as error:
        way: tuple[object, ...] = ("refused", type(error), _words(error), *_lines(error))
    except Exception as error:
        return (), "".join(traceback.format_exception(error, limit=-6))
    else:
        way = ("accepted", *_shape(value, 3))
    took_s = time.thread_time() - began
    if took_s > SLOWEST_S:
        return (), f"{took_s:.1f} s of processor time for {len(content)} bytes"
    return way, None


def _lines(error: BaseException) -> list[int]:
    """Return the lines that an error passed on its way out, and those of its cause: together, which way out it was."""
    lines = []
    link: BaseException | None = error
    while link is not None:
        frame = link.__traceback__
        while frame is not None:
            lines.append(frame.tb_lineno)
            frame = frame.tb_next
        link = link.__cause__
    return lines


def _words(error: Exception) -> str:
    """Return what an error says before it comes to what was found, without numbers."""
    return _NUMBERS.sub("", _FOUND.split(str(error), maxsplit=1)[0])[:80]


def _shape(value: object, depth: int) -> list[object]:
    """Return what kind of value it is: types, which numbers are 0, and which texts and lists are empty."""
    shape: list[object] = [type(value)]
    if isinstance(value, bool | None):
        shape.append(value)
    elif isinstance(value, int):
        shape.append((value > 0) - (value < 0))
    elif isinstance(value, str | bytes):
        shape.append(min(len(value), 1))
    elif depth and isinstance(value, list | tuple):
        for part in value[:4]:
            shape.extend(_shape(part, depth - 1))
    elif depth and is_dataclass(value):
        for field in fields(value):
            shape.extend(_shape(getattr(value, field.name), depth - 1))
    return shape


def shrink(target: Target, content: bytes, what: str) -> bytes:
    """Return a shorter input that fails in the same way, as far as some tries find one."""
    kind, tries, length = what.splitlines()[-1].partition(":")[0], 0, len(content) // 2
    while length and tries < SHRINK_TRIES:
        at = 0
        while at < len(content) and tries < SHRINK_TRIES:
            shorter = content[:at] + content[at + length :]
            tries += 1
            still = check(target, shorter)
            if still is not None and still.splitlines()[-1].partition(":")[0] == kind:
                content = shorter
            else:
                at += length
        length //= 2
    return content
