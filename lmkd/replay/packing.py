"""Plain trees to bytes and back, by msgpack, within limits: what is read may come from anybody.

It knows nothing of what a tree stands for; that is for lmkd.replay.codec.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack

from lmkd.replay.errors import RecordingError

Tree = Any
"""What msgpack knows: None, bool, int, str, bytes, and lists and maps of them."""

ITEMS_MOST = 1 << 15
"""Of one list. The unpacker makes room for as many as a header claims, on each of up to 512 levels (msgpack 1.2.4):
this bounds a bomb of nested headers at 70 MiB (measured)."""
SHOWN_MOST = 60


def pack(tree: Tree) -> bytes:
    """Return a tree as bytes."""
    # surrogatepass: whatever text Python holds comes back as it was.
    packed: bytes = msgpack.packb(tree, unicode_errors="surrogatepass")
    return packed


def unpack_all(packed: bytes, file: str, what: str) -> Iterator[Tree]:
    """Yield the trees that follow each other in some bytes. Raises RecordingError."""
    unpacker = msgpack.Unpacker(
        unicode_errors="surrogatepass",
        max_buffer_size=max(len(packed), 1),
        max_array_len=ITEMS_MOST,
        max_map_len=ITEMS_MOST,
        max_ext_len=0,
    )
    number = 0
    try:
        unpacker.feed(packed)
        while unpacker.tell() < len(packed):
            yield unpacker.unpack()
            number += 1
    except Exception as error:  # FACTS: seven kinds of exception, two of them not msgpack's own
        raise RecordingError(
            file, f"{what}[{number}]: not a msgpack value within the limits: {type(error).__name__}"
        ) from None


def unpack_one(packed: bytes, file: str, what: str) -> Tree:
    """Return the one tree that some bytes are. Raises RecordingError."""
    trees = list(unpack_all(packed, file, what))
    if len(trees) != 1:
        raise RecordingError(file, f"{what}: expected one value, found {len(trees)}")
    return trees[0]


def shown(tree: Tree) -> str:
    """Return what was found, for a message: short, whatever it is."""
    if isinstance(tree, list | dict):
        return f"{'a list' if isinstance(tree, list) else 'a map'} of {len(tree)}"
    if isinstance(tree, bytes):
        return f"{len(tree)} bytes"
    text = ascii(tree[: SHOWN_MOST + 1]) if isinstance(tree, str) else ascii(tree)
    return text if len(text) <= SHOWN_MOST else f"{text[:SHOWN_MOST]}..."
