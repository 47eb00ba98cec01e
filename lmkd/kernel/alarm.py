"""Wait in a thread for memory to stall, beside the loop that waits for the same.

It has triggers, a reader and an epoll of its own: whatever the loop hangs in, none of it is shared. Not every shortage
stalls anybody, so the loop may call, too; and when it does not say for a while that all is well, a timer goes off. As
long as it does, nobody is woken. What to do then is not known here.

The timer is a timerfd by ctypes: os.timerfd_create came with Python 3.13.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import time
from contextlib import suppress
from typing import Final

from lmkd.kernel import files
from lmkd.kernel.pressure import open_trigger
from lmkd.kernel.readings import SystemReader
from lmkd.kernel.windows import DEFAULT_TRIGGERS
from lmkd.model import Reading

_TFD_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK
"""TFD_CLOEXEC and TFD_NONBLOCK are these (include/linux/timerfd.h)."""
_libc: Final = ctypes.CDLL(None, use_errno=True)


class StallAlarm:
    """Signals when tasks stall. Belongs to one thread, but for `call`, `expect` and `close`."""

    def __init__(self, root: str = "/") -> None:
        self._reader = SystemReader(root)
        self._called = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll.register(self._called, select.EPOLLIN)
        self._timer: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_FLAGS)
        if self._timer < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"timerfd_create: {os.strerror(code)}")
        self._epoll.register(self._timer, select.EPOLLIN)
        path = os.path.join(root, files.PRESSURE_MEMORY)
        armed = (open_trigger(path, trigger) for trigger in DEFAULT_TRIGGERS)
        self._triggers = [trigger for trigger in armed if trigger is not None]
        for trigger in self._triggers:
            self._epoll.register(trigger.fileno(), select.EPOLLPRI)

    def wait(self, timeout_s: float | None) -> None:
        """Return when tasks stall, somebody calls or was to be heard of, or after so long; None: only then."""
        for fd, _ in self._epoll.poll(timeout_s):
            if fd in (self._called, self._timer):
                with suppress(BlockingIOError):  # the timer may have been set anew just now
                    os.read(fd, 8)

    def call(self) -> None:
        """Have whoever waits return. From any thread."""
        os.eventfd_write(self._called, 1)

    def expect(self, within_us: int) -> None:
        """Have whoever waits return, unless this is said again within so long. From any thread."""
        seconds, us = divmod(max(within_us, 1), 1_000_000)
        _libc.timerfd_settime(self._timer, 0, struct.pack("llll", 0, 0, seconds, us * 1000), None)

    def read(self) -> Reading | None:
        """Measure the system now."""
        return self._reader.read(time.monotonic_ns() // 1000)

    def close(self) -> None:
        """Close all files. Nobody may be waiting."""
        self._epoll.close()
        os.close(self._called)
        os.close(self._timer)
        for trigger in self._triggers:
            trigger.close()
        self._reader.close()
