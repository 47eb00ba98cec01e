"""Recordings of what the policy saw, as the daemon keeps them: list them, and find the latest.

Pure: results and the time in, blocks out. To run a recording again is for lmkd.ctl.replay.
"""

from __future__ import annotations

from datetime import tzinfo

from lmkd.ctl.page import Block, Column, Line, Table
from lmkd.ctl.result import Row, number, printable, rows, text
from lmkd.ctl.words import NOT_SAID, ago_words, date_words, size_words

_COLUMNS = (
    Column("saved"),
    Column("when"),
    Column("episodes", wraps=True),
    Column("size", right=True),
    Column("file", wraps=True),
)


def describe_recordings(recorded: Row, now_unix_ms: int, zone: tzinfo | None) -> list[Block]:
    """Return the recordings that are kept as a table, and which was saved just now."""
    kept = rows(recorded, "recordings")
    saved = recorded.get("saved")
    blocks: list[Block] = []
    if isinstance(saved, str):
        blocks += [Line(f"Saved: {printable(saved)}"), Line()]
    if not kept:
        return [*blocks, Line("No recording is kept yet.")]
    cells = tuple(_cells(one, now_unix_ms, zone) for one in kept)
    return [*blocks, Table(_COLUMNS, cells)]


def _cells(recording: Row, now_unix_ms: int, zone: tzinfo | None) -> tuple[str, ...]:
    saved_ms, size_bytes = number(recording, "saved_unix_ms"), number(recording, "bytes")
    episodes = recording.get("episodes")
    numbers = [str(one) for one in episodes] if isinstance(episodes, list) else []
    return (
        date_words(saved_ms, zone),
        "" if saved_ms is None else ago_words(saved_ms, now_unix_ms),
        ", ".join(map(printable, numbers)) or NOT_SAID,
        NOT_SAID if size_bytes is None else size_words((size_bytes + 1023) >> 10),
        text(recording, "path", NOT_SAID),
    )


def find_latest(recorded: Row) -> str | None:
    """Return the path of the recording that was saved last; None where none is kept."""
    saved = recorded.get("saved")
    if isinstance(saved, str):
        return saved
    latest = max(
        rows(recorded, "recordings"),
        key=lambda one: number(one, "saved_unix_ms") or 0,
        default=None,
    )
    path = None if latest is None else latest.get("path")
    return path if isinstance(path, str) else None
