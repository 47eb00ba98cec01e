"""What can go wrong for a client, by whose fault it is.

`Closed…` and `Busy…` are mistakes of this program; what is broken, lost, refused or away lies outside it. Knows no
socket and no message. A message with a wrong value is refused before any of these, by lmkd_proto, as
LocalProtocolError.
"""

from __future__ import annotations


class LmkdError(Exception):
    """Anything that a client of lmkd may have to deal with."""


class DaemonUnavailable(LmkdError):
    """There is nobody at the socket now."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"no lmkd at {path}: {why}")
        self.path = path
        self.why = why


class ConnectionLost(LmkdError):
    """The connection ended before what was waited for. Whether a request was still done is not known."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"lost lmkd at {path}: {why}")
        self.path = path
        self.why = why


class BrokenReply(LmkdError):
    """The daemon answered, but not with what the protocol says it must."""


class RequestRefused(LmkdError):
    """The daemon answered with an error. `code` is for programs; one that is not known means `failed`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class ClosedClient(LmkdError):
    """This program closed the client, and used it all the same."""


class BusyClient(LmkdError):
    """This program waits for one thing in two places at once."""
