"""Cut a stream of bytes into frames, and put frames into it.

A frame is four bytes of length, big-endian, and then that many bytes of payload, 1 to 65,536. This
module does not know what a payload means.

Between frames a reader holds no buffer at all, since a server has thousands of silent clients. A
forbidden length is reported as soon as its four bytes are there: nothing of such a frame is ever
kept.
"""

from __future__ import annotations

from lmkd_proto.errors import LocalProtocolError, RemoteProtocolError
from lmkd_proto.values import MAX_FRAME_BYTES

LENGTH_BYTES = 4


def encode_frame(payload: bytes) -> bytes:
    """Put the length before a payload."""
    length = len(payload)
    if not 1 <= length <= MAX_FRAME_BYTES:
        raise LocalProtocolError(f"a frame holds 1 to {MAX_FRAME_BYTES} bytes, not {length}")
    return length.to_bytes(LENGTH_BYTES, "big") + payload


class FrameReader:
    """Collects bytes and gives back whole payloads.

    After a forbidden length there is no telling where the next frame begins: the reader is broken
    for good.
    """

    __slots__ = ("_broken", "_buffer")

    def __init__(self) -> None:
        self._buffer: bytearray | None = None
        self._broken = False

    @property
    def buffered_bytes(self) -> int:
        """How much has been fed and not yet given back."""
        return 0 if self._buffer is None else len(self._buffer)

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take in bytes as they came.

        Take out every frame before feeding again, or the buffer grows.
        """
        if self._broken:
            raise LocalProtocolError("the stream ended with a frame of a forbidden length")
        if self._buffer is not None:
            self._buffer += chunk
        elif chunk:
            self._buffer = bytearray(chunk)

    def next_frame(self) -> bytes | None:
        """Give back the next payload, or None when it is not all there yet."""
        if self._broken:
            raise LocalProtocolError("the stream ended with a frame of a forbidden length")
        buffer = self._buffer
        if buffer is None or len(buffer) < LENGTH_BYTES:
            return None
        length = int.from_bytes(buffer[:LENGTH_BYTES], "big")
        if not 1 <= length <= MAX_FRAME_BYTES:
            self._broken = True
            self._buffer = None
            if length == 0:
                raise RemoteProtocolError("malformed", "a frame of length 0")
            raise RemoteProtocolError(
                "frame_too_long",
                f"a frame of {length} bytes, where at most {MAX_FRAME_BYTES} are allowed",
            )
        end = LENGTH_BYTES + length
        if len(buffer) < end:
            return None
        payload = bytes(buffer[LENGTH_BYTES:end])
        if len(buffer) == end:
            self._buffer = None
        else:
            del buffer[:end]
        return payload
