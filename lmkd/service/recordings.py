"""The recordings on disk: one file a segment, named by its episodes, the last few kept.

A file comes to be under its name whole or not at all. It holds names and sizes of everybody's processes, so only the
daemon's user may read it. Nothing is written while memory is short: who calls sees to that. Two threads may write at
once, the clerk's and one that was asked for a recording just now.

It knows nothing of what is in a recording beyond its header.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time

from lmkd.policy.actions import Plain
from lmkd.replay.errors import RecordingError
from lmkd.replay.recorder import Segment
from lmkd.replay.recording import HEADER_MOST, decode_header, encode_recording

log = logging.getLogger("lmkd")

FOLDER = "recordings"
SUFFIX = ".lmkdrec"
CALM = "calm" + SUFFIX
"""What was asked for while there was no episode; there is only the latest."""
_NAME = re.compile(r"episode-([0-9]{1,19})(?:-([0-9]{1,19}))?\.lmkdrec")


class Recordings:
    """The files in one directory. `directory` None, or `keep` 0: nothing is written."""

    def __init__(self, directory: str | None, keep: int) -> None:
        self._directory = directory if keep > 0 else None
        self._keep = keep
        self._lock = threading.Lock()
        self._said: set[str] = set()

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
            self._complain(f"{path} cannot be written: {error.strerror}")
        except (ValueError, OverflowError) as error:
            # A number beyond 64 bits, which no kernel says.
            self._complain(f"{path}: it cannot be put into bytes: {error}")
        else:
            return path
        return None

    def describe(self) -> list[dict[str, Plain]]:
        """Return what is kept, the oldest first: path, episodes, bytes and saved_unix_ms of each, and its header."""
        directory = self._directory
        if directory is None:
            return []
        found: list[tuple[int, dict[str, Plain]]] = []
        try:
            names = sorted(os.listdir(directory))
        except OSError as error:
            self._complain(f"{directory} cannot be read: {error.strerror}")
            return []
        for name in names:
            if name != CALM and _NAME.fullmatch(name) is None:
                continue
            path = os.path.join(directory, name)
            try:
                with open(path, "rb") as file:
                    header = decode_header(file.read(HEADER_MOST + 64), path)
                    status = os.fstat(file.fileno())
            except FileNotFoundError:
                continue  # removed by the other thread just now
            except OSError as error:
                self._complain(f"{path} cannot be read: {error.strerror}")
                continue
            except RecordingError as error:
                self._complain(str(error))
                continue
            saved: dict[str, Plain] = {
                "path": path,
                "bytes": status.st_size,
                "saved_unix_ms": status.st_mtime_ns // 1_000_000,
            }
            found.append((status.st_mtime_ns, {**header, **saved}))
        found.sort(key=lambda one: one[0])
        return [described for _, described in found]

    def _remove_old(self, directory: str) -> None:
        """Keep the recordings of the latest episodes."""
        numbered = []
        for name in os.listdir(directory):
            match = _NAME.fullmatch(name)
            if match is not None:
                first = int(match[1])
                numbered.append((int(match[2] or first), first, name))
        for _, _, name in sorted(numbered)[: -self._keep]:
            os.unlink(os.path.join(directory, name))

    def _complain(self, problem: str) -> None:
        """Log a problem, once: the next episode has the same, and the log is for news."""
        if problem not in self._said:
            self._said.add(problem)
            log.error("recordings: %s", problem)


def _file_name(episodes: tuple[int, ...]) -> str:
    if not episodes:
        return CALM
    first, last = min(episodes), max(episodes)
    return f"episode-{first}{SUFFIX}" if first == last else f"episode-{first}-{last}{SUFFIX}"


def _put(path: str, content: bytes) -> None:
    """Have the file be there, with this content and readable for its owner alone."""
    fresh = path + ".new"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.replace(fresh, path)
    except OSError:
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
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        log.warning("recordings: %s: %s; none are kept", directory, error.strerror)
        return Recordings(None, keep)
    return Recordings(directory, keep)
