"""Tell the service manager how we are: one datagram (sd_notify(3)). No manager, no word."""

from __future__ import annotations

import os
import socket


def watchdog_interval_s() -> float | None:
    """Return how often the manager wants to hear WATCHDOG=1 (sd_watchdog_enabled(3)): twice as often as it must.

    None where it does not ask for it, or asks another process.
    """
    asked = os.environ.get("WATCHDOG_USEC", "")
    whom = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not (asked.isascii() and asked.isdecimal()) or int(asked) == 0 or whom != str(os.getpid()):
        return None
    return int(asked) / 2_000_000


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
