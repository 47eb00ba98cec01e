"""The recordings on disk: one file a segment, named by its episodes, the last few kept.

A file comes to be under its name whole or not at all. It holds names and sizes of everybody's processes, so only the
daemon's user may read it. Nothing is written while memory is short: who calls sees to that. Two threads may write at
once, the clerk's and one that was asked for a recording just now.

It knows nothing of what is in a recording beyond its header.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress

from lmkd.policy.actions import Plain
from lmkd.replay.errors import RecordingError
from lmkd.replay.packing import pack
from lmkd.replay.recorder import Segment
from lmkd.replay.recording import BEGINNING_MOST, decode_header, encode_recording

log = logging.getLogger("lmkd")

FOLDER = "recordings"
SUFFIX = ".lmkdrec"
UNFINISHED = SUFFIX + ".new"
CALM = "calm" + SUFFIX
"""What was asked for while there was no episode; there is only the latest."""
DESCRIBED_MOST_BYTES = 48 << 10
"""Of all that is described at once, packed: it has to fit into one frame (SPEC F-2)."""
TOLD = (
    *("version", "kernel", "unix_ms", "span_ms", "episodes", "begins_open", "ends_open"),
    *("events", "scans", "verdicts"),
)
"""Of a header."""
_NAME = re.compile(r"episode-([0-9]{1,19})(?:-([0-9]{1,19}))?\.lmkdrec")


class Recordings:
    """The files in one directory. `directory` None, or `keep` 0: nothing is written."""

    def __init__(self, directory: str | None, keep: int) -> None:
        self._directory = directory if keep > 0 else None
        self._keep = keep
        self._lock = threading.Lock()
        self._said: dict[tuple[str, str], str | None] = {}
        """By path and what cannot be done with it: why not, as it was last."""

    def write(self, segment: Segment) -> str | None:
        """Write a segment, and remove what is too old; return its path. Blocks for the disk.

        None where nothing is kept, or where it could not be written, which is logged.
        """
        directory = self._directory
        if directory is None:
            return None
        path = os.path.join(directory, _file_name(segment.episodes))
        try:
            content = encode_recording(
                segment, kernel=os.uname().release, unix_ms=time.time_ns() // 1_000_000
            )
            with self._lock:
                _put(path, content)
                self._remove_old(directory)
        except OSError as error:
            self._complain(directory, "written to", error.strerror)
        except (ValueError, OverflowError) as error:
            # A number beyond 64 bits, which no kernel says.
            self._complain(path, "put into bytes", str(error))
        else:
            self._said.pop((directory, "written to"), None)
            return path
        return None

    def describe(self) -> list[dict[str, Plain]]:
        """Return what is kept, the oldest first: path, episodes, bytes and saved_unix_ms of each, and its header.

        Where they are too many for one answer, the latest of them.
        """
        found: list[dict[str, Plain]] = []
        left_bytes = DESCRIBED_MOST_BYTES
        for path in self._latest_first():
            described = self._describe(path)
            if described is None:
                continue
            left_bytes -= len(pack(described))
            if left_bytes < 0:
                break
            found.append(described)
        return found[::-1]

    def _latest_first(self) -> Iterator[str]:
        directory = self._directory
        if directory is None:
            return
        found = []
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.name == CALM or _NAME.fullmatch(entry.name) is not None:
                        with suppress(FileNotFoundError):  # removed by the other thread just now
                            found.append((entry.stat().st_mtime_ns, entry.path))
        except OSError as error:
            self._complain(directory, "read", error.strerror)
            return
        for _, path in sorted(found, reverse=True):
            yield path

    def _describe(self, path: str) -> dict[str, Plain] | None:
        try:
            with open(path, "rb") as file:
                header = decode_header(file.read(BEGINNING_MOST), path)
                status = os.fstat(file.fileno())
        except FileNotFoundError:
            return None
        except OSError as error:
            self._complain(path, "read", error.strerror)
            return None
        except RecordingError as error:
            self._complain(path, "read", error.problem)
            return None
        saved: dict[str, Plain] = {
            "path": path,
            "bytes": status.st_size,
            "saved_unix_ms": status.st_mtime_ns // 1_000_000,
        }
        return {**_told(header), **saved}

    def _remove_old(self, directory: str) -> None:
        """Keep the recordings of the latest episodes, and nothing that a crash left half written."""
        numbered = []
        for name in os.listdir(directory):
            match = _NAME.fullmatch(name)
            if match is not None:
                first = int(match[1])
                numbered.append((int(match[2] or first), first, name))
            elif name.endswith(UNFINISHED):
                self._remove(os.path.join(directory, name))
        for _, _, name in sorted(numbered)[: -self._keep]:
            self._remove(os.path.join(directory, name))

    def _remove(self, path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._complain(path, "removed", error.strerror)

    def _complain(self, path: str, what: str, why: str | None) -> None:
        """Log a problem, once: the next episode has the same, and the log is for news."""
        if self._said.get((path, what), "") != why:
            self._said[path, what] = why
            log.error("recordings: %s: cannot be %s: %s", path, what, why)


def _told(header: Mapping[str, Plain]) -> dict[str, Plain]:
    """Return what of a header is passed on: who can put a file here can put anything into it."""
    return {
        key: value
        for key in TOLD
        if isinstance(value := header.get(key), int)
        or (isinstance(value, str) and value.isprintable())
        or (isinstance(value, list) and all(isinstance(one, int) for one in value))
    }


def _file_name(episodes: tuple[int, ...]) -> str:
    if not episodes:
        return CALM
    first, last = min(episodes), max(episodes)
    return f"episode-{first}{SUFFIX}" if first == last else f"episode-{first}-{last}{SUFFIX}"


def _put(path: str, content: bytes) -> None:
    """Have the file be there, with this content and readable for its owner alone."""
    fresh = path.removesuffix(SUFFIX) + UNFINISHED
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.replace(fresh, path)
    except BaseException:
        # What failed is what is to be told, not that cleaning up after it failed as well.
        with suppress(OSError):
            os.unlink(fresh)
        raise


def open_recordings(state_dir: str | None, keep: int) -> Recordings:
    """Return the recordings below that directory, made if need be; none are kept where it cannot be, which is said."""
    if state_dir is None or keep <= 0:
        return Recordings(None, keep)
    directory = os.path.join(state_dir, FOLDER)
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if not os.access(directory, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        log.warning("recordings: %s: %s; none are kept", directory, error.strerror)
        return Recordings(None, keep)
    return Recordings(directory, keep)
