"""Arm PSI triggers.

A trigger is a pressure file into which a threshold was written; its descriptor then reports
EPOLLPRI when the stall within a window passes it, at most once a window. lmkd.kernel.events waits
for it. How much pressure is too much is for lmkd.policy to say.

One trigger to a descriptor; the descriptor can still be read. Without CAP_SYS_RESOURCE at the
time of opening only windows of whole multiples of 2 s are taken, and such a trigger fires falsely
at 0.1 s and 2.2 s after it was armed on a system with past stalls (Linux 6.18).
"""

from __future__ import annotations

import errno
import os
import select
from typing import Final

from lmkd.kernel.files import is_vanished
from lmkd.kernel.windows import StallTrigger

_UNAVAILABLE: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EOPNOTSUPP})


class PressureTrigger:
    """An armed trigger. `armed` says what the kernel took, which may be the 2 s variant."""

    __slots__ = ("_fd", "armed", "path")

    def __init__(self, path: str, fd: int, armed: StallTrigger) -> None:
        self.path = path
        self.armed = armed
        self._fd = fd

    @property
    def window_us(self) -> int:
        return self.armed.window_us

    def fileno(self) -> int:
        return self._fd

    def settle(self, events: int) -> bool:
        """Nothing to do: the kernel's poll consumed the event. EPOLLERR says the cgroup has gone."""
        return not events & select.EPOLLERR

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_trigger(path: str, trigger: StallTrigger) -> PressureTrigger | None:
    """Arm a trigger; None when there is no PSI there, or this process may not arm one.

    Where the window is too short for this process, the same share of a 2 s window is armed.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if is_vanished(error) or error.errno in _UNAVAILABLE:
            return None
        raise
    try:
        return PressureTrigger(path, fd, _arm(fd, trigger))
    except OSError as error:
        os.close(fd)
        if is_vanished(error) or error.errno in _UNAVAILABLE:
            return None
        raise


def _arm(fd: int, trigger: StallTrigger) -> StallTrigger:
    try:
        _write(fd, trigger)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    else:
        return trigger
    longer = trigger.unprivileged()
    _write(fd, longer)
    return longer


def _write(fd: int, trigger: StallTrigger) -> None:
    # the kernel replaces the last byte written by NUL (kernel/sched/psi.c, psi_write)
    os.write(fd, f"{trigger.kind.value} {trigger.stall_us} {trigger.window_us}\0".encode())
