"""Wait for files of the kernel that signal by EPOLLPRI: PSI triggers, memory.events,
cgroup.events.

These files are also readable, always, so waiting for readability on them returns at once and for
ever. We put the files of one domain into an epoll of its own, subscribed to EPOLLPRI alone, and
let trio wait for that epoll.

The wake-up is the message. Which file it came from is not told, and it may be spurious: who waits
reads and judges. When the cgroup goes its PSI triggers signal, and would for ever, so all files
are let go after that one wake-up; events files alone say nothing of it (Linux 6.18), but they
tell of the last process that leaves.

One small gap is known: an event between the look and the moment trio arms, a few microseconds, is
lost until the trigger's next window. The clock that runs beside the triggers covers it.
"""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import Protocol

import trio

from lmkd.kernel.files import HeldFile, open_held


class Source(Protocol):
    """A file that signals by EPOLLPRI."""

    def fileno(self) -> int: ...

    def settle(self, events: int) -> bool:
        """Take note of a signal, so that it ends; False when the file's cgroup has gone."""
        ...

    def close(self) -> None: ...


class EventFile:
    """memory.events, memory.events.local or cgroup.events: signals a change until it is read."""

    __slots__ = ("_held",)

    def __init__(self, held: HeldFile) -> None:
        self._held = held

    def fileno(self) -> int:
        return self._held.fileno()

    def settle(self, events: int) -> bool:
        # EPOLLERR says nothing here: kernfs sets it with every change (fs/kernfs/file.c)
        return self._held.read() is not None

    def close(self) -> None:
        self._held.close()


def open_event_file(path: str) -> EventFile | None:
    """Open an events file of a cgroup; None when there is none.

    It is read once, for a fresh descriptor signals a change that nobody made.
    """
    held = open_held(path)
    if held is None:
        return None
    if held.read() is None:
        held.close()
        return None
    return EventFile(held)


class EventWatch:
    """The sources of one domain, waited for together.

    Owns them: they are closed with it, or all together when the first is found to be gone.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self._epoll = select.epoll()
        self._sources: dict[int, Source] = {}
        for source in sources:
            self._sources[source.fileno()] = source
            self._epoll.register(source.fileno(), select.EPOLLPRI)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left that could signal."""
        return not self._sources

    async def wait_changed(self) -> None:
        """Return when a source signals; for ever if there is none. An earlier signal counts."""
        await trio.lowlevel.checkpoint()
        if self._settle(self._epoll.poll(0)):
            return
        if self.is_empty:
            await trio.sleep_forever()
        await trio.lowlevel.wait_readable(self._epoll.fileno())
        # A trigger's signal was consumed by the wake-up itself; a file's stands until it is
        # settled.
        self._settle(self._epoll.poll(0))

    def _settle(self, ready: list[tuple[int, int]]) -> bool:
        is_gone = False
        for fd, events in ready:  # each of them, or one that is not settled signals for ever
            is_gone |= not self._sources[fd].settle(events)
        if is_gone:
            self._let_go()
        return bool(ready)

    def _let_go(self) -> None:
        for fd, source in self._sources.items():
            self._epoll.unregister(fd)
            source.close()
        self._sources.clear()

    def close(self) -> None:
        """Close the sources; who waits gets trio.ClosedResourceError."""
        if self._epoll.closed:
            return
        if trio.lowlevel.in_trio_run():
            trio.lowlevel.notify_closing(self._epoll.fileno())
        self._let_go()
        self._epoll.close()
