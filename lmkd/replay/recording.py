"""A recording: a segment as bytes that last, and what is read back from them.

    lmkd recording 1\\n
    4 bytes each, the high ones first: length of the header, of the body, CRC-32 of both
    header   a msgpack map of plain values, to be read without the rest
    body     a msgpack map, compressed by zlib; its large parts are bytes that hold one msgpack value after another

The header says with what version and kernel it was made, when, and what is in it. There is no host name in it. Of the
environments of processes there is only what the rules in force asked for; command lines are there as they were read,
and they are read only where a rule asks for them.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import lmkd
from lmkd.model import Process
from lmkd.policy.actions import Plain
from lmkd.policy.events import Event, ProcessesScanned
from lmkd.policy.state import State
from lmkd.replay.codec import decode_plain_map, from_tree, to_tree
from lmkd.replay.errors import RecordingError
from lmkd.replay.packing import Tree, pack, shown, unpack_all, unpack_one
from lmkd.replay.recorder import Scan, Segment, Stretch
from lmkd.replay.scans import (
    array_from_bytes,
    array_to_bytes,
    pick_rows,
    processes_from_tree,
)
from lmkd.replay.verdicts import Verdict

MAGIC = b"lmkd recording 1\n"
_KIND = b"lmkd recording "
_SIZES = struct.Struct(">III")
HEADER_MOST = 1 << 20
BEGINNING_MOST = len(MAGIC) + _SIZES.size + HEADER_MOST
"""Of a file: so much of it is enough for decode_header."""
BODY_MOST = 64 << 20
"""Of the body unpacked. A recorder of 16 MiB writes less than half of it."""
_SCAN, _KNOWN = "ProcessesScanned", "KnownProcesses"


class KnownProcesses(NamedTuple):
    """What the daemon knew of the processes at a moment, beside what the heart was given."""

    processes: tuple[Process, ...]


class Moment(NamedTuple):
    """One thing that came, and when."""

    at_us: int
    event: Event | KnownProcesses


@dataclass(frozen=True, slots=True)
class Recording:
    """What was read of a file."""

    file: str
    header: Mapping[str, Plain]
    base: State
    base_us: int
    moments: tuple[Moment, ...]
    verdicts: tuple[Verdict, ...]


def encode_recording(segment: Segment, *, kernel: str = "", unix_ms: int = 0) -> bytes:
    """Return a segment as the bytes of a file. `unix_ms`: when its last event came, or about then."""
    scans = sum(
        isinstance(moment.event, Scan) and moment.event.fed
        for stretch in segment.stretches
        for moment in stretch.moments
    )
    events = sum(len(stretch.moments) for stretch in segment.stretches)
    header: dict[str, Plain] = {
        "version": lmkd.__version__,
        "kernel": kernel,
        "unix_ms": unix_ms,
        "span_ms": (segment.last_us - segment.base_us) // 1000,
        "episodes": list(segment.episodes),
        "events": events,
        "scans": scans,
        "verdicts": len(segment.verdicts),
        "begins_open": segment.begins_open,
        "ends_open": segment.ends_open,
        "environ": "only what the rules asked for",
    }
    body = pack(
        {
            "base": pack(to_tree(State, segment.base)),
            "base_us": segment.base_us,
            "stretches": [_stretch_tree(stretch) for stretch in segment.stretches],
            "verdicts": b"".join(pack(dict(verdict)) for verdict in segment.verdicts),
        }
    )
    packed_header, packed_body = pack(header), zlib.compress(body, 6)
    check = zlib.crc32(packed_body, zlib.crc32(packed_header))
    sizes = _SIZES.pack(len(packed_header), len(packed_body), check)
    return b"".join((MAGIC, sizes, packed_header, packed_body))


def _stretch_tree(stretch: Stretch) -> Tree:
    packed = []
    for _, event in stretch.moments:
        if isinstance(event, Scan):
            name = _SCAN if event.fed else _KNOWN
            packed.append(pack([name, event.domain, array_to_bytes(event.rows)]))
        else:
            packed.append(pack(to_tree(Event, event)))
    times = array("q", [moment.at_us for moment in stretch.moments])
    return {
        "times": array_to_bytes(times),
        "events": b"".join(packed),
        "processes": stretch.table.to_tree(),
    }


def decode_header(content: bytes, file: str) -> dict[str, Plain]:
    """Return the header of a file, of which the beginning is enough. Raises RecordingError."""
    header, _, _ = _split(content, file)
    return decode_plain_map(unpack_one(header, file, "header"), file, "header")


def decode_recording(content: bytes, file: str) -> Recording:
    """Return what a file holds. Raises RecordingError, and nothing else, whatever the bytes are."""
    packed_header, start, (body_length, check) = _split(content, file)
    packed_body = content[start:]
    if len(packed_body) != body_length:
        raise RecordingError(
            file,
            f"expected {body_length} bytes of body, found {len(packed_body)}: cut short or added to",
        )
    if zlib.crc32(packed_body, zlib.crc32(packed_header)) != check:
        raise RecordingError(file, "the checksum is another: it was changed or damaged")
    header = decode_header(content, file)
    body = unpack_one(_inflate(packed_body, file), file, "body")
    if not isinstance(body, dict):
        raise RecordingError(file, f"body: expected a map, found {shown(body)}")
    base = unpack_one(_part(body, "base", file, "body"), file, "state")
    stretches = body.get("stretches")
    if not isinstance(stretches, list):
        raise RecordingError(file, f"body.stretches: expected a list, found {shown(stretches)}")
    moments: list[Moment] = []
    for number, stretch in enumerate(stretches):
        moments.extend(_read_stretch(stretch, file, f"stretches[{number}]"))
    base_us = from_tree(int, body.get("base_us"), file, "base_us")
    _demand_order(base_us, moments, file)
    packed_verdicts = _part(body, "verdicts", file, "body")
    return Recording(
        file=file,
        header=header,
        base=from_tree(State, base, file, "state"),
        base_us=base_us,
        moments=tuple(moments),
        verdicts=tuple(
            decode_plain_map(tree, file, f"verdicts[{number}]")
            for number, tree in enumerate(unpack_all(packed_verdicts, file, "verdicts"))
        ),
    )


def _split(content: bytes, file: str) -> tuple[bytes, int, tuple[int, int]]:
    """Return the header, where the body begins, and (its length, the checksum)."""
    if not content.startswith(MAGIC):
        if content.startswith(_KIND):
            version = content[len(_KIND) :].split(b"\n", 1)[0][:20].decode("ascii", "replace")
            raise RecordingError(file, f"expected a recording of format 1, found format {version}")
        raise RecordingError(file, "not a recording of lmkd: it does not begin like one")
    start = len(MAGIC) + _SIZES.size
    if len(content) < start:
        raise RecordingError(file, "cut short: it ends before its header")
    length, body_length, check = _SIZES.unpack_from(content, len(MAGIC))
    if length > HEADER_MOST:
        raise RecordingError(
            file, f"expected a header of at most {HEADER_MOST} bytes, found {length}"
        )
    header = content[start : start + length]
    if len(header) != length:
        raise RecordingError(
            file, f"cut short: expected {length} bytes of header, found {len(header)}"
        )
    return header, start + length, (body_length, check)


def _inflate(packed: bytes, file: str) -> bytes:
    inflater = zlib.decompressobj()
    try:
        body = inflater.decompress(packed, BODY_MOST)
    except zlib.error as error:
        raise RecordingError(file, f"body: not compressed by zlib: {error}") from None
    if inflater.unconsumed_tail:
        raise RecordingError(file, f"body: expected at most {BODY_MOST} bytes, unpacked")
    if not inflater.eof or inflater.unused_data:
        raise RecordingError(file, "body: cut short or added to")
    return body


def _part(tree: Tree, name: str, file: str, what: str) -> bytes:
    part = tree.get(name)
    if not isinstance(part, bytes):
        raise RecordingError(file, f"{what}.{name}: expected bytes, found {shown(part)}")
    return part


def _read_stretch(tree: Tree, file: str, what: str) -> Iterator[Moment]:
    if not isinstance(tree, dict) or not isinstance(tree.get("processes"), dict):
        raise RecordingError(file, f"{what}: expected times, events and processes")
    times = array_from_bytes("q", tree.get("times"), file, f"{what}.times")
    processes = processes_from_tree(tree["processes"], file, f"{what}.processes")
    events = list(unpack_all(_part(tree, "events", file, what), file, f"{what}.events"))
    if len(events) != len(times):
        raise RecordingError(
            file, f"{what}: expected a time for each event, found {len(times)} for {len(events)}"
        )
    for number, (at_us, event) in enumerate(zip(times, events, strict=True)):
        yield Moment(at_us, _read_event(event, processes, file, f"{what}.events[{number}]"))


def _read_event(
    tree: Tree, processes: list[Process], file: str, what: str
) -> Event | KnownProcesses:
    if isinstance(tree, list) and len(tree) == 3 and tree[0] in (_SCAN, _KNOWN):
        found = pick_rows(processes, tree[2], file, what)
        if tree[0] == _KNOWN:
            return KnownProcesses(found)
        return ProcessesScanned(from_tree(str, tree[1], file, what), found)
    event: Event = from_tree(Event, tree, file, what)
    return event


def _demand_order(base_us: int, moments: list[Moment], file: str) -> None:
    before_us = base_us
    for number, moment in enumerate(moments):
        if moment.at_us < before_us:
            raise RecordingError(
                file, f"event {number}: expected a time from {before_us} on, found {moment.at_us}"
            )
        before_us = moment.at_us
