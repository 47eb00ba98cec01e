"""The listening socket: made safely, found again when a service manager holds it, and removed when we leave."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import select
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("lmkd")

BACKLOG = 4096
PASSED_FD = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""
SO_PEERPIDFD = 77
"""asm-generic/socket.h, Linux 6.5; not in Python 3.11's socket module."""
LOCK_TRIES = 200
LOCK_PAUSE_S = 0.01
"""It is held for a few system calls; two seconds are for a machine that is very busy."""
PATH_MOST_BYTES = 107
"""sun_path holds 108 bytes with the final NUL (unix(7))."""


class SocketError(Exception):
    """The socket cannot be made; the message says why and what would help."""


def bind_socket(path: str) -> socket.socket:
    """Listen at a path. A stale socket is replaced; one that somebody answers is refused.

    Of several that start at once, one listens and the others are refused. Raises SocketError. The directory is made
    only one level deep: /run/lmkd is ours, /run is not.
    """
    encoded = os.fsencode(path)
    if len(encoded) > PATH_MOST_BYTES:
        raise SocketError(
            f"socket path {path!r} is {len(encoded)} bytes long; the kernel takes {PATH_MOST_BYTES}"
        )
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        try:
            os.mkdir(directory, 0o755)
        except OSError as error:
            if not os.path.isdir(directory):  # another that starts may have made it
                raise SocketError(f"socket directory {directory}: {error.strerror}") from None
    _find_stale(path)  # who may not write there is told the same as who may
    with _held_lock(path + ".lock"):
        if _find_stale(path):
            os.unlink(path)
        return _listen(path)


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        # Anyone may listen to the level of memory and register itself; the rest is checked per request.
        os.chmod(path, 0o666)  # noqa: S103 - open on purpose, as said above
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise SocketError(f"socket {path}: {error.strerror}") from None
    return listener


def inherited_socket() -> socket.socket | None:
    """Return the socket that a service manager passed (LISTEN_FDS), or None."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "0")
    if count == "0":
        return None
    if count != "1":
        raise SocketError(f"LISTEN_FDS={count}: expected one socket")
    try:
        listener = socket.socket(fileno=PASSED_FD)
        listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise SocketError(f"LISTEN_FDS: descriptor {PASSED_FD}: {error.strerror}") from None
    if listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM or not listening:
        listener.detach()  # whatever it is, it is not ours to close
        raise SocketError("LISTEN_FDS: expected an AF_UNIX stream socket that listens")
    listener.setblocking(False)
    return listener


def remove_socket(path: str, inode: int) -> None:
    """Remove our socket, but not one that another daemon has put in its place."""
    try:
        if os.lstat(path).st_ino == inode:
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("socket %s cannot be removed: %s", path, error.strerror)


def has_peer_left(sock: socket.socket) -> bool:
    """Whether the process that connected has exited, so that its pid may be another's by now.

    False where the kernel has no SO_PEERPIDFD (before 6.5): it cannot be told there.
    """
    try:
        pidfd = sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        return error.errno == errno.ESRCH
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(0))
    finally:
        os.close(pidfd)


def _find_stale(path: str) -> bool:
    """Return whether a socket is there that nobody answers; raises SocketError for all else that may be there."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SocketError(f"socket {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(found.st_mode):
        raise SocketError(f"{path} is there and is not a socket; it is left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except FileNotFoundError:
            return False  # it has just been removed
        except OSError as error:
            raise SocketError(f"socket {path} is in use: {error.strerror}") from None
    raise SocketError(f"another daemon answers at {path}; stop it first, or give another --socket")


@contextmanager
def _held_lock(path: str) -> Iterator[None]:
    """Hold a lock file, and leave none behind. It is held only while a daemon makes its socket."""
    fd = _wait_lock(path)
    try:
        yield
    finally:
        os.unlink(path)
        os.close(fd)


def _wait_lock(path: str) -> int:
    for _ in range(LOCK_TRIES):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SocketError(f"{path}: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it before has removed it: then this is a lock that nobody else will ever see.
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)
        time.sleep(LOCK_PAUSE_S)
    raise SocketError(f"{path} is held: another daemon has been starting for too long")
