"""Frames are cut out of a stream wherever it was cut before, and a forbidden length ends it."""

from __future__ import annotations

import sys

import pytest
from lmkd_proto import (
    MAX_FRAME_BYTES,
    FrameReader,
    LocalProtocolError,
    RemoteProtocolError,
    encode_frame,
)


def test_a_frame_is_its_length_in_four_bytes_and_its_payload() -> None:
    assert encode_frame(b"abc") == b"\x00\x00\x00\x03abc"


@pytest.mark.parametrize("size", [1, 255, 256, MAX_FRAME_BYTES])
def test_a_payload_of_every_allowed_size_comes_back(size: int) -> None:
    reader = FrameReader()
    reader.feed(encode_frame(b"x" * size))
    assert reader.next_frame() == b"x" * size
    assert reader.next_frame() is None


@pytest.mark.parametrize("size", [0, MAX_FRAME_BYTES + 1])
def test_a_payload_of_a_forbidden_size_cannot_be_framed(size: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"not {size}"):
        encode_frame(b"x" * size)


def test_many_frames_in_one_chunk_come_out_in_order() -> None:
    reader = FrameReader()
    reader.feed(b"".join(encode_frame(bytes([number])) for number in range(1, 10)))
    assert [reader.next_frame() for _ in range(9)] == [bytes([number]) for number in range(1, 10)]
    assert reader.next_frame() is None


@pytest.mark.parametrize("length", [0, MAX_FRAME_BYTES + 1, 2**32 - 1])
def test_a_forbidden_length_is_refused_with_its_fourth_byte(length: int) -> None:
    header = length.to_bytes(4, "big")
    reader = FrameReader()
    reader.feed(header[:3])
    assert reader.next_frame() is None
    reader.feed(header[3:])
    with pytest.raises(RemoteProtocolError) as caught:
        reader.next_frame()
    assert caught.value.code == ("frame_too_long" if length else "malformed")


def test_a_broken_reader_takes_and_gives_nothing_more() -> None:
    reader = FrameReader()
    reader.feed(b"\xff\xff\xff\xff")
    with pytest.raises(RemoteProtocolError):
        reader.next_frame()
    assert reader.buffered_bytes == 0
    with pytest.raises(LocalProtocolError):
        reader.feed(encode_frame(b"x"))
    with pytest.raises(LocalProtocolError):
        reader.next_frame()


def test_an_idle_reader_holds_no_buffer() -> None:
    reader = FrameReader()
    reader.feed(encode_frame(b"x" * 1000) + b"\x00")
    assert reader.next_frame() == b"x" * 1000
    assert reader.buffered_bytes == 1
    reader.feed(b"\x00\x00\x01y")
    assert reader.next_frame() == b"y"
    assert reader.buffered_bytes == 0
    reader.feed(b"")
    assert reader.buffered_bytes == 0
    assert sys.getsizeof(reader) < 100


def test_bytearrays_and_memoryviews_are_bytes_too() -> None:
    reader = FrameReader()
    frame = encode_frame(b"abcdef")
    reader.feed(bytearray(frame[:5]))
    reader.feed(memoryview(frame)[5:])
    assert reader.next_frame() == b"abcdef"
