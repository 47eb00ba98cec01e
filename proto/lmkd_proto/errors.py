"""What can go wrong between two peers, by whose fault it is.

Knows no message and no state. A `LocalProtocolError` is a mistake in this program and is fixed
here; a `RemoteProtocolError` is the peer's, and carries what the peer may be told about it.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """Either side broke the protocol."""


class LocalProtocolError(ProtocolError):
    """We broke it: an invalid message, or one that may not be sent now.

    The connection is as before.
    """


class RemoteProtocolError(ProtocolError):
    """The peer broke it.

    `code` is one of ERROR_CODES, `message` says what was expected, and `request_id` is the id of
    the offending request where it could be read.
    """

    def __init__(self, code: str, message: str, request_id: int | None = None) -> None:
        super().__init__(code, message, request_id)
        self.code = code
        self.message = message
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
