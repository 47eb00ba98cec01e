"""Tell the service manager how we are: one datagram (sd_notify(3)). No manager, no word."""

from __future__ import annotations

import os
import socket


def notify_manager(state: str) -> None:
    """Send a state such as "READY=1". A manager that cannot be reached is none of our trouble."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), socket.MSG_DONTWAIT, address)
        except OSError:
            return
