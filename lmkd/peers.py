"""Who is at the other end of a Unix socket, by the kernel's word."""

from __future__ import annotations

import socket
import struct
from typing import Protocol

_UCRED = struct.Struct("iII")
"""struct ucred of unix(7): pid, uid, gid."""


class HasOptions(Protocol):
    """A socket, or what stands for one: trio's sockets and streams have this too."""

    def getsockopt(self, level: int, option: int, buffersize: int) -> bytes: ...


def read_credentials(sock: HasOptions) -> tuple[int, int]:
    """Return (pid, uid) of the peer, as the kernel knows them (SO_PEERCRED). Pid 0: not in our namespace."""
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(packed)
    return pid, uid
