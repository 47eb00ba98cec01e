"""What `lmkctl run` puts into $MEMORY_PRESSURE_WATCH, so that a program on sd-event hears lmkd with no option at all.

The socket is lmkctl's own and for this program alone: lmkctl knows whether it listens, can say what came of a notice,
and stays where it is when the daemon is started anew.
"""

from __future__ import annotations

import base64
import mmap
import os
import select
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from lmkd.interop.pressure_listeners import PressureListeners
from lmkd.kernel.probe import below, probe
from lmkd.model import Level

AUTO, KERNEL, OFF = "auto", "kernel", "off"
"""What may be wanted instead of a level from which on it is woken."""
USUAL: Final = "medium"
GIO: Final = "libgio-2.0.so.0"
GIO_DEAF_AT_SOCKETS: Final = 8900
"""In the file name of the library: 2.89, whose memory monitor waits at a socket for EPOLLPRI, which never comes (seen
with 2.90.1, where nobody owns org.freedesktop.LowMemoryMonitor)."""
LIBRARIES: Final = ("usr/lib/*", "lib/*", "usr/lib", "usr/lib64", "usr/local/lib")
WATCH, WRITE = "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE"
KERNEL_TRIGGER: Final = b"some 200000 2000000\0"
"""What systemd has programs wait for: 200 ms of stall in 2 s, which takes no privilege (MEMORY_PRESSURE.md)."""


class WokenProgram:
    """The socket at which a program waits to be woken, and the thread that lets it in."""

    def __init__(self, level: str, say: Callable[[str], None]) -> None:
        """`level`: from which on it is woken, where it does not say so itself. Raises OSError."""
        self._folder = Path(tempfile.mkdtemp(prefix="lmkctl-"))
        # Others may pass, and no more: a program may have become another user before it connects.
        self._folder.chmod(0o711)
        self._path = self._folder / "memory-pressure"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._path))
        self._path.chmod(0o666)
        listener.listen()
        listener.setblocking(False)
        self._listeners = PressureListeners(listener, lambda pid: "/", say)
        self._turn = threading.Lock()
        self._over = os.eventfd(0)
        self._thread = threading.Thread(target=self._run, name="lmkd-pressure", daemon=True)
        self._thread.start()
        self.environment = {
            WATCH: str(self._path),
            WRITE: base64.b64encode(level.encode()).decode(),
        }

    def wake(self, level: str) -> bool:
        """Wake whoever wants that at this level; whether there is somebody."""
        with self._turn:
            self._listeners.turn()  # one that has just connected
            return self._listeners.wake(Level[level.upper()]) > 0

    def close(self) -> None:
        """Let go of all, and remove the socket."""
        os.eventfd_write(self._over, 1)
        self._thread.join()
        os.close(self._over)
        self._listeners.close()
        with suppress(OSError):
            shutil.rmtree(self._folder)

    def _run(self) -> None:
        waiting = [self._listeners.fileno(), self._over]
        while self._over not in (ready := select.select(waiting, [], [])[0]) and ready:
            with self._turn:
                self._listeners.turn()


def choose(wanted: str, program: str, root: Path = Path("/")) -> str:
    """Return what a program is given where that is left to us: the kernel's file if it waits as GLib does from 2.89 on.

    It is known by the library that it is linked with. What loads GLib later, such as a script, is not.
    """
    if wanted != AUTO:
        return wanted
    versions = [version for version in _gio_versions(root) if version >= GIO_DEAF_AT_SOCKETS]
    return KERNEL if versions and _is_linked_with(program, GIO.encode()) else USUAL


def _gio_versions(root: Path) -> Iterator[int]:
    """Yield the versions of the GIO libraries that are there: 7400 of libgio-2.0.so.0.7400.6."""
    for folder in LIBRARIES:
        for path in root.glob(f"{folder}/{GIO}"):
            number = path.resolve().name.removeprefix(f"{GIO}.").partition(".")[0]
            if number.isdigit():
                yield int(number)


def _is_linked_with(program: str, library: bytes) -> bool:
    path = shutil.which(program)
    if path is None:
        return False
    with (
        suppress(OSError, ValueError),  # of mmap, for an empty file
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content[:4] == b"\x7fELF" and content.find(library + b"\0") >= 0
    return False


def kernel_environment() -> dict[str, str]:
    """Return the variables for the kernel's own pressure file, that of this cgroup where it has one."""
    return {WATCH: find_pressure_file(), WRITE: base64.b64encode(KERNEL_TRIGGER).decode()}


def find_pressure_file(root: str = "/") -> str:
    """Return the PSI file of our own cgroup; that of the system where the cgroup has none."""
    features = probe(root)
    # The root cgroup has no file of its own: /proc/pressure/memory is that.
    if features.cgroup_mount is not None and features.own_cgroup != "/":
        path = f"{features.cgroup_mount}{features.own_cgroup}/memory.pressure"
        if Path(below(root, path)).exists():
            return path
    return "/proc/pressure/memory"
