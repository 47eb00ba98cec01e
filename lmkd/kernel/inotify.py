"""inotify, as far as it takes to see directories come and go.

Three calls of libc, which has no other binding in the standard library. `inotify_simple` is the library for it; it
looks libc up by running ldconfig as a child, at its first use, and costs 0.45 MiB and 1.8 ms, for a daemon that has
ctypes loaded anyway, keeps its memory locked and had better not need a child. What is watched, and what an event
means, is not known here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final, NamedTuple

import trio

from lmkd.kernel.files import is_vanished

IN_MOVED_FROM: Final = 0x40
IN_MOVED_TO: Final = 0x80
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_Q_OVERFLOW: Final = 0x4000
IN_IGNORED: Final = 0x8000
"""The watch has gone: with its directory, or because it was removed."""
_IN_ONLYDIR: Final = 0x01000000
_COMES_AND_GOES: Final = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | _IN_ONLYDIR

_HEAD: Final = struct.Struct("=iIII")
_BLOCK: Final = 64 * 1024
_libc: Final = ctypes.CDLL(None, use_errno=True)


class DirectoryEvent(NamedTuple):
    """One event; `name` is what came or went in the directory."""

    watch: int
    mask: int
    name: str


class Inotify:
    """An inotify instance for directories. Raises OSError where this user may have no more of them."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise _last_error("inotify_init1")

    def add(self, directory: str) -> int | None:
        """Watch a directory, and return the number of the watch; None when there is no such directory.

        Numbers are not used again before 2**31 watches. Raises OSError, ENOSPC when this user may have no more.
        """
        watch: int = _libc.inotify_add_watch(self._fd, os.fsencode(directory), _COMES_AND_GOES)
        if watch >= 0:
            return watch
        error = _last_error(directory)
        if is_vanished(error):
            return None
        raise error

    def remove(self, watch: int) -> None:
        """End a watch; one that has gone with its directory already is no error."""
        _libc.inotify_rm_watch(self._fd, watch)

    def take_nowait(self) -> list[DirectoryEvent]:
        """Take all events that have come."""
        events: list[DirectoryEvent] = []
        while True:
            try:
                content = os.read(self._fd, _BLOCK)
            except BlockingIOError:
                return events
            at = 0
            while at < len(content):
                watch, mask, _, length = _HEAD.unpack_from(content, at)
                at += _HEAD.size + length
                name = content[at - length : at].rstrip(b"\0")
                events.append(DirectoryEvent(watch, mask, os.fsdecode(name)))

    async def wait_readable(self) -> None:
        """Return when there are events; they stay until they are taken, so none is missed."""
        await trio.lowlevel.wait_readable(self._fd)

    def close(self) -> None:
        """End all watches; who waits gets trio.ClosedResourceError."""
        if self._fd >= 0:
            if trio.lowlevel.in_trio_run():
                trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)
            self._fd = -1


def _last_error(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code or errno.EIO, os.strerror(code or errno.EIO), what)
