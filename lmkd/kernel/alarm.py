"""Wait in a thread for memory to stall, beside the loop that waits for the same.

It has a trigger, a reader and an epoll of its own: whatever the loop hangs in, none of it is shared. The loop may call,
too, for not every shortage stalls anybody. What to do then is not known here.
"""

from __future__ import annotations

import os
import select
import time

from lmkd.kernel import files
from lmkd.kernel.pressure import open_trigger
from lmkd.kernel.readings import SystemReader
from lmkd.kernel.windows import DEFAULT_TRIGGERS
from lmkd.model import Reading


class StallAlarm:
    """Signals when tasks stall. Belongs to one thread, but for `call` and `close`."""

    def __init__(self, root: str = "/") -> None:
        self._reader = SystemReader(root)
        self._called = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll.register(self._called, select.EPOLLIN)
        path = os.path.join(root, files.PRESSURE_MEMORY)
        armed = (open_trigger(path, trigger) for trigger in DEFAULT_TRIGGERS)
        self._triggers = [trigger for trigger in armed if trigger is not None]
        for trigger in self._triggers:
            self._epoll.register(trigger.fileno(), select.EPOLLPRI)

    def wait(self, timeout_s: float | None) -> None:
        """Return when tasks stall, when somebody calls, or after so long; None: only then."""
        ready = self._epoll.poll(timeout_s)
        if any(fd == self._called for fd, _ in ready):
            os.eventfd_read(self._called)

    def call(self) -> None:
        """Have whoever waits return. From any thread."""
        os.eventfd_write(self._called, 1)

    def read(self) -> Reading | None:
        """Measure the system now."""
        return self._reader.read(time.monotonic_ns() // 1000)

    def close(self) -> None:
        """Close all files. Nobody may be waiting."""
        self._epoll.close()
        os.close(self._called)
        for trigger in self._triggers:
            trigger.close()
        self._reader.close()
