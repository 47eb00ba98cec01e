"""Make inputs from inputs: bytes, numbers, words and lines are changed, by a generator that can be seeded.

It knows the words of the formats and not their grammar.
"""

from __future__ import annotations

import copy
import random
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

WORDS = (
    *(
        b"\n",
        b" ",
        b"\0",
        b"\t",
        b"\r",
        b"\x0b",
        b"\x1c",
        b"\x85",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
    ),
    *(
        b") ",
        b" (",
        b"(",
        b")",
        b":",
        b"/",
        b"=",
        b"-",
        b"-1",
        b"+1",
        b"1_0",
        b"0x1",
        b" 1",
        b"1e9",
    ),
    *(
        b"max",
        b" kB",
        b"total=",
        b"some ",
        b"full ",
        b"Uid:\t",
        b"Gid:\t",
        b"VmRSS:\t",
        b"0::",
        b"\n0::",
    ),
    *(
        b"MemTotal:",
        b"MemAvailable:",
        b"Filename",
        b"size 4 ",
        b"c_min 4 ",
        b" (deleted)",
        b"populated ",
    ),
    *(
        b"\xc2\xb2",
        b"\xd9\xa3",
        b"\xe2\x80\xa8",
        "\u0661".encode(),
        b"NaN",
        b"",
        b"9" * 4301,
        b"0" * 4301,
    ),
    # msgpack: nil, never used, booleans, bin, ext, float, integers, strings, arrays and maps that claim much
    *(
        b"\xc0",
        b"\xc1",
        b"\xc2",
        b"\xc3",
        b"\xc4\x01a",
        b"\xc7\x01\x05a",
        b"\xd6\xff\0\0\0\0",
        b"\xca\0\0\0\0",
    ),
    *(
        b"\xcb\x7f\xf8" + bytes(6),
        b"\xcf" + b"\xff" * 8,
        b"\xd3\x80" + bytes(7),
        b"\xd9\xff",
        b"\xdb" + b"\xff" * 4,
    ),
    *(
        b"\xdd" + b"\xff" * 4,
        b"\xdf" + b"\xff" * 4,
        b"\xdc\x00\x40",
        b"\x90",
        b"\x91" * 600,
        b"\x81" * 40,
        b"\x80",
    ),
    *(
        b"\xa4type",
        b"\xa2id",
        b"\xa5hello",
        b"\xa8register",
        b"\xa9subscribe",
        b"\xa3ack",
        b"\xa7welcome",
    ),
    # TOML
    *(
        b"[[rule]]\n",
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b"'''",
        b"\\u",
        b"\\U0011FFFF",
        b"# ",
        b"name = ",
        b"match = ",
    ),
    *(
        b'comm = "',
        b"class = ",
        b'"1e400"',
        b"1e400",
        b"nan",
        b"1979-05-27T07:32:00Z",
        b"[" * 400,
        b"*",
        b"(?:",
        b"{1,9}",
    ),
)
NUMBERS = tuple(
    str(number).encode()
    for number in (
        0,
        1,
        255,
        2**31 - 1,
        2**31,
        2**32 - 1,
        2**32,
        2**63 - 1,
        2**63,
        2**64 - 1,
        2**64,
        -1,
        10**40,
    )
)
EDGES = (0, 1, 0x7F, 0x80, 0xFF)
_DIGITS = re.compile(rb"\d+")
LONGEST = 16_384

Step = Callable[[random.Random, bytearray, Sequence[bytes]], None]


def mutate(chance: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Return one of the corpus, changed in one to five places."""
    content = bytearray(corpus[int(chance.random() * len(corpus))])
    for _ in range(1 + int(chance.random() * chance.random() * 5)):
        STEPS[int(chance.random() * len(STEPS))](chance, content, corpus)
    return bytes(content[:LONGEST])


ATOMS: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        64,
        2**31,
        2**32,
        2**63 - 1,
        2**63,
        2**64 - 1,
        -(2**63),
        1.5,
        float("nan"),
    ),
    *(
        "",
        "system",
        "/a",
        "/a/../b",
        "a\0b",
        "critical",
        "cached",
        "\u2028",
        "\ud800",
        "x" * 70,
        "y" * 600,
        "id",
        "type",
    ),
    *(b"", b"\xff" * 8, b"\0" * 12, [], {}, [[]], [0] * 70, {"": None}, {1: 2}, {"type": "ack"}),
)


def mutate_packed(chance: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Return one of the corpus with values exchanged in it, as msgpack has them; some then also changed as bytes."""
    content = corpus[int(chance.random() * len(corpus))]
    if chance.random() < 0.3:
        return mutate(chance, corpus)
    trees: list[Any] = []
    unpacker = msgpack.Unpacker(
        strict_map_key=False, unicode_errors="surrogatepass", max_array_len=4096, max_map_len=4096
    )
    try:
        unpacker.feed(content)
        trees.extend(unpacker)
        for _ in range(1 + int(chance.random() * chance.random() * 4)):
            _change_tree(chance, trees)
        packed = b"".join(msgpack.packb(tree, unicode_errors="surrogatepass") for tree in trees)
    except Exception:  # FACTS: seven kinds of exception, for what is not msgpack any more
        return mutate(chance, corpus)
    return mutate(chance, (packed,)) if chance.random() < 0.2 else packed[:LONGEST]


def _change_tree(chance: random.Random, tree: Any) -> None:
    """Go down some way, and exchange, drop, double or wrap what is there."""
    while True:
        if not isinstance(tree, list | dict) or not tree:
            return
        key = chance.choice(range(len(tree)) if isinstance(tree, list) else list(tree))
        if isinstance(tree[key], list | dict) and tree[key] and chance.random() < 0.75:
            tree = tree[key]
            continue
        what = chance.random()
        if what < 0.6:
            tree[key] = copy.deepcopy(chance.choice(ATOMS))
        elif what < 0.7:
            del tree[key]
        elif what < 0.8:
            tree[key] = [tree[key]]
        elif isinstance(tree, list):
            tree.insert(int(chance.random() * len(tree)), tree[key])
        else:
            tree[chance.choice(("", "id", "type", "at_us", "unheard", 7))] = tree[key]
        return


def _place(chance: random.Random, content: bytearray) -> int:
    return int(chance.random() * (len(content) + 1))


def _span(chance: random.Random, content: bytearray) -> slice:
    start = _place(chance, content)
    # Mostly short, sometimes anything.
    length = int(chance.random() ** 4 * (len(content) - start + 1)) + 1
    return slice(start, start + length)


def _flip_bit(chance: random.Random, content: bytearray, _: Sequence[bytes]) -> None:
    if content:
        content[int(chance.random() * len(content))] ^= 1 << int(chance.random() * 8)


def _set_byte(chance: random.Random, content: bytearray, _: Sequence[bytes]) -> None:
    if content:
        edge = chance.choice(EDGES) if chance.random() < 0.5 else int(chance.random() * 256)
        content[int(chance.random() * len(content))] = edge


def _drop(chance: random.Random, content: bytearray, _: Sequence[bytes]) -> None:
    del content[_span(chance, content)]


def _repeat(chance: random.Random, content: bytearray, _: Sequence[bytes]) -> None:
    at = _place(chance, content)
    content[at:at] = content[_span(chance, content)] * (1 + int(chance.random() * 3))


def _cut_short(chance: random.Random, content: bytearray, _: Sequence[bytes]) -> None:
    del content[_place(chance, content) :]


def _insert_word(chance: random.Random, content: bytearray, _: Sequence[bytes]) -> None:
    at = _place(chance, content)
    content[at:at] = chance.choice(WORDS)


def _write_word(chance: random.Random, content: bytearray, _: Sequence[bytes]) -> None:
    at, word = _place(chance, content), chance.choice(WORDS)
    content[at : at + len(word)] = word


def _change_number(chance: random.Random, content: bytearray, _: Sequence[bytes]) -> None:
    found = [match.span() for match in _DIGITS.finditer(content, _place(chance, content) // 2)]
    if found:
        start, end = chance.choice(found[:40])
        content[start:end] = chance.choice(NUMBERS if chance.random() < 0.5 else WORDS)


def _change_line(chance: random.Random, content: bytearray, _: Sequence[bytes]) -> None:
    lines = content.split(b"\n")
    at, to = int(chance.random() * len(lines)), int(chance.random() * len(lines))
    what = chance.random()
    if what < 0.4:
        del lines[at]
    elif what < 0.7:
        lines.insert(to, lines[at])
    else:
        lines[at], lines[to] = lines[to], lines[at]
    content[:] = b"\n".join(lines)


def _write_integer(chance: random.Random, content: bytearray, _: Sequence[bytes]) -> None:
    """As lengths and counts stand in binary formats."""
    form = chance.choice((">B", ">H", ">I", ">Q", "<I", "<Q"))
    most = (1 << 8 * struct.calcsize(form)) - 1
    number = chance.choice(
        (0, 1, most, most >> 1, len(content) & most, int(chance.random() * 70000) & most)
    )
    at = _place(chance, content)
    content[at : at + struct.calcsize(form)] = struct.pack(form, number)


def _splice(chance: random.Random, content: bytearray, corpus: Sequence[bytes]) -> None:
    other = corpus[int(chance.random() * len(corpus))]
    start = int(chance.random() * (len(other) + 1))
    if chance.random() < 0.5:
        content[_place(chance, content) :] = other[start:]
    else:
        content[_span(chance, content)] = other[start : start + 1 + int(chance.random() * 40)]


STEPS: tuple[Step, ...] = (
    *(_flip_bit, _set_byte, _drop, _repeat, _cut_short, _insert_word, _insert_word, _write_word),
    *(_change_number, _change_number, _change_line, _write_integer, _splice),
)
