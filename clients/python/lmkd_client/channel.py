"""The session's socket: found, opened, written and read without ever waiting.

How to wait until it can be read or written again is what the shells differ in. Nothing here raises for what the
daemon does: a connection that ends is told to the session.
"""

from __future__ import annotations

import os
import socket

from lmkd_client.errors import DaemonUnavailable

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from lmkd_client.session import Session

SYSTEM_SOCKET = "/run/lmkd/socket"
RECEIVE_BYTES = 65_536
READS_AT_ONCE = 16


def find_socket() -> str:
    """Return where lmkd is to be found: $LMKD_SOCKET, else the session's socket if it is there, else the system's."""
    named = os.environ.get("LMKD_SOCKET")
    if named:
        return named
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        path = f"{runtime}/lmkd/socket"
        if os.path.exists(path):  # noqa: PTH110 - pathlib would double what this client imports
            return path
    return SYSTEM_SOCKET


class Channel:
    """One connection of a session."""

    __slots__ = ("_session", "_sock")

    def __init__(self, session: Session, sock: socket.socket) -> None:
        self._session = session
        self._sock = sock
        session.connected()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._sock.fileno()

    def flush(self) -> None:
        """Send what the socket takes now; the rest stays in `session.outgoing`."""
        session = self._session
        while outgoing := session.outgoing:
            try:
                session.sent(self._sock.send(outgoing, socket.MSG_NOSIGNAL))
            except BlockingIOError:
                return
            except OSError:
                # The daemon is gone, but may have said why: reading on will tell.
                session.drop_outgoing()

    def fill(self) -> None:
        """Read what is there and give it to the session, all of it, so that what is latest is known to be.

        A daemon that sends faster than this reads is left for the next call.
        """
        for _ in range(READS_AT_ONCE):
            try:
                chunk = self._sock.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._session.lost(error.strerror or str(error))
                return
            self._session.receive(chunk)
            if self._session.is_away:
                return

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


def open_channel(session: Session) -> Channel:
    """Connect, and have the session say what it wants. Raises DaemonUnavailable."""
    session.look_again()
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise DaemonUnavailable(session.path, error.strerror or str(error)) from None
    try:
        sock.setblocking(False)
        sock.connect(session.path)
    except OSError as error:
        sock.close()
        crowded = isinstance(error, BlockingIOError)
        why = "too many others wait to be let in" if crowded else error.strerror or str(error)
        raise DaemonUnavailable(session.path, why) from None
    return Channel(session, sock)
