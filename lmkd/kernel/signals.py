"""Signal processes and cgroups so that no recycled pid is ever hit, and see them go.

A victim is held by a pidfd that is opened first and checked afterwards: once the start time in
/proc matches while the pidfd is open, the pidfd is of the process that was ranked, whatever
becomes of its pid. Whom to signal is not known here.

ctypes is needed for process_mrelease alone, which has no other binding. trio 0.35 imports it in
any case, so it costs nothing more; it is loaded with this module, not when memory is short.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
from typing import Final

import trio

from lmkd.kernel import files
from lmkd.kernel.cgroups import cgroup_directory
from lmkd.kernel.events import EventWatch, open_event_file
from lmkd.kernel.parse import parse_flat_keyed
from lmkd.kernel.processes import read_identity
from lmkd.model import Signal

_SYS_PROCESS_MRELEASE: Final = 448  # the same number on every architecture (Linux 5.15)
_SIGNUMS: Final = {Signal.TERM: signal.SIGTERM, Signal.KILL: signal.SIGKILL}
_syscall: Final = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_uint)
_syscall.restype = ctypes.c_long


class PidfdVictim:
    """A VictimHandle by pidfd."""

    __slots__ = ("_pidfd", "pid", "start_ticks")

    def __init__(self, pid: int, start_ticks: int, pidfd: int) -> None:
        self.pid: Final = pid
        self.start_ticks: Final = start_ticks
        self._pidfd = pidfd

    def send(self, what: Signal) -> bool:
        """Send the signal; False when the process has exited, reaped or not.

        Raises PermissionError.
        """
        return self._send(_SIGNUMS[what])

    def stop(self) -> bool:
        """Stop the process, with all its threads; False when it has exited. Raises PermissionError.

        It runs on for the moment that the signal takes to reach it: what it forks until then is in its list of
        children when that is read after it is seen stopped. SIGKILL ends a stopped process, SIGTERM waits.
        """
        return self._send(signal.SIGSTOP)

    def _send(self, signum: signal.Signals) -> bool:
        if self._has_exited():  # the kernel takes signals for a zombie, as if they did anything
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, signum)
        except ProcessLookupError:
            return False
        return True

    def _has_exited(self) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    async def wait_exit(self) -> None:
        """Return when the process has exited, reaped or not. Raises trio.ClosedResourceError when it was let go."""
        if self._pidfd < 0:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(self._pidfd)

    def release_memory(self) -> bool:
        """Take a dying process's memory back ahead of its exit; whether that was done. Blocks."""
        result: int = _syscall(_SYS_PROCESS_MRELEASE, self._pidfd, 0)
        return result == 0

    def close(self) -> None:
        """Let the process go; who waits gets trio.ClosedResourceError."""
        if self._pidfd >= 0:
            if trio.lowlevel.in_trio_run():
                trio.lowlevel.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


def open_victim(root: str, pid: int, start_ticks: int) -> PidfdVictim | None:
    """Take hold of the process; None when it is gone, a zombie, or its pid is another's by now."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if read_identity(root, pid) != start_ticks:
        os.close(pidfd)
        return None
    return PidfdVictim(pid, start_ticks, pidfd)


def kill_cgroup(mount: str, path: str) -> bool:
    """Kill all processes of the subtree; False when there is no such cgroup or it has no
    cgroup.kill.

    Works on frozen cgroups and against fork loops. The root has none. Raises PermissionError.
    """
    directory = cgroup_directory(mount, path)
    if directory is None:
        return False
    try:
        fd = os.open(f"{directory}/{files.CGROUP_KILL}", os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        if files.is_vanished(error):
            return False
        raise
    try:
        os.write(fd, b"1")
    except OSError as error:
        if files.is_vanished(error) or error.errno == errno.EOPNOTSUPP:  # threaded, or going
            return False
        raise
    finally:
        os.close(fd)
    return True


async def wait_cgroup_empty(mount: str, path: str) -> None:
    """Return when no live process is left in the subtree, or the cgroup is gone."""
    directory = cgroup_directory(mount, path)
    name = f"{directory}/{files.CGROUP_EVENTS}"
    source = None if directory is None else open_event_file(name)
    if source is None:
        await trio.lowlevel.checkpoint()
        return
    watch = EventWatch([source])
    try:
        while not watch.is_empty:
            content = files.read_file(name)
            if content is None or parse_flat_keyed(content, (b"populated",), name) == [0]:
                await trio.lowlevel.checkpoint()
                return
            await watch.wait_changed()
    finally:
        watch.close()
