"""Keep what happened, by episode: in memory while it happens, on disk when it is over.

One line of JSON an episode, oldest first, in `history.jsonl`; nothing is written while memory is short. A line that
a crash cut short is set apart by the next start and never hides the ones around it. Both the lines kept and the
records in one of them are bounded; what was left out is counted.

One thread writes while another one asks: what both look at is changed under a lock, which nobody holds while it
waits for the disk.

It knows nothing of policy beyond the shape of a record.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from lmkd.policy.actions import Plain, Record

log = logging.getLogger("lmkd")

RECORDS_MOST = 1_000
"""Of one episode. The first half is kept as it came and the second is a window on the end: how it began and how it
ended are what is asked for."""
KILLS_MOST = 10_000
"""Kills whose episode is known by their number; earlier ones are found by their episode."""
FILE_NAME = "history.jsonl"


@dataclass(slots=True)
class Episode:
    """One episode, open or closed."""

    episode: int
    domain: str
    opened_us: int
    opened_unix_ms: int
    first: list[dict[str, Plain]] = field(default_factory=list)
    latest: deque[dict[str, Plain]] = field(default_factory=lambda: deque(maxlen=RECORDS_MOST // 2))
    left_out: int = 0
    closed: bool = False
    peak: str = "low"
    kills: int = 0
    shed_kib: int = 0
    duration_ms: int = 0

    @property
    def records(self) -> list[dict[str, Plain]]:
        return [*self.first, *self.latest]

    def add(self, record: Record) -> None:
        """Keep a record, and what it says of the episode as a whole."""
        at_ms = (record.at_us - self.opened_us) // 1000
        kept: dict[str, Plain] = {"at_ms": at_ms, "kind": record.kind, **record.detail}
        if len(self.first) < RECORDS_MOST // 2:
            self.first.append(kept)
        else:
            self.left_out += len(self.latest) == self.latest.maxlen
            self.latest.append(kept)
        self.duration_ms = at_ms
        if record.kind == "level":
            words = ("normal", "low", "medium", "critical")
            self.peak = max(self.peak, str(record.detail["to"]), key=words.index)
        elif record.kind in ("exited", "watchdog"):
            self.kills += 1
        elif record.kind == "ack":
            measured = record.detail["measured_kib"]
            self.shed_kib += max(measured, 0) if isinstance(measured, int) else 0
        elif record.kind == "closed":
            self.closed = True

    def summary(self) -> dict[str, Plain]:
        """Return all but the records, as it is written. Whether it is open is true of a moment, and not written."""
        return {
            "episode": self.episode,
            "domain": self.domain,
            "opened_unix_ms": self.opened_unix_ms,
            "duration_ms": self.duration_ms,
            "closed": self.closed,
            "peak": self.peak,
            "kills": self.kills,
            "shed_kib": self.shed_kib,
            "left_out": self.left_out,
        }


@dataclass(frozen=True, slots=True)
class _Line:
    """Where an episode lies in the file."""

    offset: int
    length: int
    summary: dict[str, Plain]


class Journal:
    """The history of episodes. `state_dir` None: in memory only.

    All but `write` belongs to one thread; `write` may run in another.
    """

    def __init__(self, state_dir: str | None, keep: int) -> None:
        self._path = os.path.join(state_dir, FILE_NAME) if state_dir is not None else None
        self._keep = keep
        self._open: dict[int, Episode] = {}
        self._written: dict[int, _Line] = {}
        self._unwritten: dict[int, Episode] = {}
        self._lock = threading.Lock()
        self._kills: dict[int, int] = {}
        """The episode of each kill."""
        if self._path is not None:
            self._load(self._path)

    @property
    def last_episode(self) -> int:
        """The highest number that an episode has had."""
        return max([0, *self._open, *self._written, *self._unwritten])

    @property
    def last_kill(self) -> int:
        """The highest number that a kill has had."""
        return max(self._kills, default=0)

    def find_kill(self, kill: int) -> tuple[dict[str, Plain], list[dict[str, Plain]]] | None:
        """Return the summary of the episode of a kill and its records about it, or None when it is not kept."""
        number = self._kills.get(kill)
        records = None if number is None else self.records(number)
        summary = next((row for row in self.summaries() if row["episode"] == number), None)
        if records is None or summary is None:
            return None
        found = [record for record in records if record.get("kill") == kill]
        return (summary, found) if found else None

    def add(self, record: Record) -> Episode | None:
        """Keep a record; return its episode when that is over and wants writing."""
        episode = self._open.get(record.episode)
        if episode is None:
            episode = Episode(
                record.episode, record.domain, record.at_us, time.time_ns() // 1_000_000
            )
            self._open[record.episode] = episode
        episode.add(record)
        if record.kind in ("kill", "would_kill"):
            self._note_kill(int(str(record.detail["kill"])), record.episode)
        if not episode.closed:
            return None
        with self._lock:
            del self._open[record.episode]
            self._unwritten[record.episode] = episode
            while len(self._unwritten) > self._keep:
                del self._unwritten[min(self._unwritten)]
        return episode

    def _note_kill(self, kill: int, episode: int) -> None:
        self._kills[kill] = episode
        if len(self._kills) > KILLS_MOST:
            del self._kills[min(self._kills)]

    def write(self, episode: Episode) -> None:
        """Append an episode to the file. Blocks for the disk: to be called from a thread of its own.

        When the file cannot be written the episode stays in memory, and the failure is logged.
        """
        if self._path is None:
            return
        line = json.dumps({**episode.summary(), "records": episode.records}, separators=(",", ":"))
        encoded = line.encode() + b"\n"
        try:
            offset = _append(self._path, encoded)
            with self._lock:
                self._written[episode.episode] = _Line(offset, len(encoded), episode.summary())
                self._unwritten.pop(episode.episode, None)
            if len(self._written) > 2 * self._keep:
                self._shorten(self._path)
        except OSError as error:
            log.error("history: %s cannot be written: %s", self._path, error.strerror)

    def close(self) -> None:
        """Write what is still open, as cut short."""
        for episode in list(self._open.values()):
            self.write(episode)
        self._open.clear()

    def summaries(self) -> list[dict[str, Plain]]:
        """Return every episode kept, the latest first. What is neither open nor closed was cut short."""
        with self._lock:
            found = {number: line.summary for number, line in self._written.items()}
            for held in (self._unwritten, self._open):
                found.update({number: episode.summary() for number, episode in held.items()})
        numbers = sorted(found, reverse=True)[: self._keep]
        return [{**found[number], "open": number in self._open} for number in numbers]

    def records(self, number: int) -> list[dict[str, Plain]] | None:
        """Return the records of an episode, or None when there is no such episode, or no more."""
        path = self._path
        try:
            with self._lock:
                episode = self._open.get(number) or self._unwritten.get(number)
                if episode is not None:
                    return episode.records
                line = self._written.get(number)
                if line is None or path is None:
                    return None
                file = open(path, "rb")  # noqa: SIM115 - the place in it holds for this very file
            with file:
                file.seek(line.offset)
                found = json.loads(file.read(line.length))
            records: list[dict[str, Plain]] = found["records"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("history: %s: episode %d cannot be read: %s", path, number, error)
            return None
        return records

    def _load(self, path: str) -> None:
        offset, line = 0, b"\n"
        try:
            with open(path, "rb") as file:
                for line in file:
                    self._take_line(path, offset, line)
                    offset += len(line)
        except FileNotFoundError:
            return
        except OSError as error:
            log.error("history: %s cannot be read: %s", path, error.strerror)
            self._path = None
            return
        if not line.endswith(b"\n"):
            # Cut short by a crash: set it apart, so that the next line is whole.
            try:
                _append(path, b"\n")
            except OSError as error:
                log.error("history: %s cannot be written: %s", path, error.strerror)

    def _take_line(self, path: str, offset: int, line: bytes) -> None:
        if not line.strip():
            return
        try:
            found: dict[str, Any] = json.loads(line)
            records = found.pop("records")
            number = int(found["episode"])
            kills = [int(r["kill"]) for r in records if r.get("kind") in ("kill", "would_kill")]
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ):
            log.warning("history: %s: byte %d: not a whole episode, passed over", path, offset)
            return
        self._written[number] = _Line(offset, len(line), found)
        for kill in kills:
            self._note_kill(kill, number)

    def _shorten(self, path: str) -> None:
        """Keep the latest episodes, by way of a new file put in place of the old one."""
        numbers = sorted(self._written)[-self._keep :]
        fresh: dict[int, _Line] = {}
        size = 0
        with open(path, "rb") as old, open(path + ".new", "wb", opener=_open_private) as new:
            for number in numbers:
                line = self._written[number]
                old.seek(line.offset)
                new.write(old.read(line.length))
                fresh[number] = _Line(size, line.length, line.summary)
                size += line.length
            new.flush()
            os.fsync(new.fileno())
        with self._lock:
            os.replace(path + ".new", path)
            self._written = fresh


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o640)


def _append(path: str, encoded: bytes) -> int:
    """Append all of it or nothing, and return where it begins."""
    fd = _open_private(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        offset = os.fstat(fd).st_size
        try:
            if os.write(fd, encoded) < len(encoded):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
        except OSError:
            os.ftruncate(fd, offset)
            raise
    finally:
        os.close(fd)
    return offset


def open_journal(state_dir: str, keep: int) -> Journal:
    """Return a journal in that directory, made if need be; in memory only where that cannot be, which is said once."""
    try:
        os.makedirs(state_dir, mode=0o750, exist_ok=True)
        if not os.access(state_dir, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        log.warning("history: %s: %s; it is kept in memory only", state_dir, error.strerror)
        return Journal(None, keep)
    return Journal(state_dir, keep)
