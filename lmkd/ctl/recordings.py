"""Recordings of what the policy saw, as the daemon keeps them: list them, and find the latest.

Pure: results and the time in, blocks out. To run a recording again is for lmkd.ctl.replay.
"""

from __future__ import annotations

from datetime import tzinfo

from lmkd.ctl.page import Block, Column, Line, Table
from lmkd.ctl.result import Row, number, printable, rows, text
from lmkd.ctl.words import NOT_SAID, ago_words, date_words, size_words

NAMED_MOST = 6
"""So many episodes of one recording are named one by one."""
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
        _numbers_words([printable(one) for one in numbers]),
        NOT_SAID if size_bytes is None else size_words((size_bytes + 1023) >> 10),
        text(recording, "path", NOT_SAID),
    )


def _numbers_words(numbers: list[str]) -> str:
    if len(numbers) > NAMED_MOST:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(numbers) or NOT_SAID


def find_latest(recorded: Row) -> str | None:
    """Return the path of the latest recording of an episode, or else of calm; None where none is kept.

    Who asks some seconds after an episode asks for that, and not for the calm since.
    """
    kept, saved = rows(recorded, "recordings"), recorded.get("saved")
    calm = [one.get("path") for one in kept if not one.get("episodes")]
    if isinstance(saved, str) and saved not in calm:
        return saved
    latest = max(
        [one for one in kept if one.get("episodes")] or kept,
        key=lambda one: number(one, "saved_unix_ms") or 0,
        default=None,
    )
    path = None if latest is None else latest.get("path")
    return path if isinstance(path, str) else None
