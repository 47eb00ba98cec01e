"""A recording is the same bytes for the same run, comes back whole, and is refused in words when anything is wrong."""

from __future__ import annotations

import struct
import zlib
from array import array
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lmkd
from lmkd.policy import events
from lmkd.policy.state import State
from lmkd.replay import recording as module
from lmkd.replay.codec import to_tree
from lmkd.replay.errors import RecordingError
from lmkd.replay.packing import pack, unpack_one
from lmkd.replay.recording import (
    MAGIC,
    KnownProcesses,
    decode_header,
    decode_recording,
    encode_recording,
)
from lmkd.replay.run import replay, run
from lmkd.replay.scans import array_to_bytes
from lmkd.replay.verdicts import first_difference, verdict_text

from .scenes import BROWSER_FIRST, MS, OWN_PID, leak_episode, recording_of

FILE = "some.lmkdrec"
SEGMENT = leak_episode()
CONTENT = encode_recording(SEGMENT, kernel="6.1.0-18-amd64", unix_ms=1_772_366_400_000)
SIZES = struct.Struct(">III")


def refusal(content: bytes) -> str:
    with pytest.raises(RecordingError) as raised:
        decode_recording(content, FILE)
    told = str(raised.value)
    assert told.startswith(f"{FILE}: ")
    return told.removeprefix(f"{FILE}: ")


def parts(content: bytes = CONTENT) -> tuple[bytes, dict[str, Any]]:
    """Return the header and the unpacked body of a file."""
    length, _, _ = SIZES.unpack_from(content, len(MAGIC))
    start = len(MAGIC) + SIZES.size
    body = zlib.decompress(content[start + length :])
    return content[start : start + length], unpack_one(body, FILE, "body")


def put_together(header: bytes, body: bytes) -> bytes:
    """Return a file whose lengths and checksum are right, whatever is in it."""
    check = zlib.crc32(body, zlib.crc32(header))
    return MAGIC + SIZES.pack(len(header), len(body), check) + header + body


def with_body(**changes: Any) -> bytes:
    """Return the file with parts of its body changed."""
    header, body = parts()
    return put_together(header, zlib.compress(pack({**body, **changes})))


def with_stretch(**changes: Any) -> bytes:
    """Return the file with its events, as far as they matter, and parts of those changed."""
    stretch = {
        "times": array_to_bytes(array("q", [6_000_000])),
        "events": pack(["DomainOpened", {"domain": "/a"}]),
        "processes": {"facts": b"", "rows": b"", "states": []},
        **changes,
    }
    return with_body(stretches=[{key: value for key, value in stretch.items() if value is not ...}])


def test_a_recording_comes_back_whole() -> None:
    recording = decode_recording(CONTENT, FILE)
    assert recording.base == SEGMENT.base
    assert recording.base_us == SEGMENT.base_us
    assert recording.verdicts == SEGMENT.verdicts
    times = [moment.at_us for stretch in SEGMENT.stretches for moment in stretch.moments]
    assert [moment.at_us for moment in recording.moments] == times
    assert recording.base.settings == BROWSER_FIRST
    assert recording.base.own_pid == OWN_PID


def test_the_same_run_gives_the_same_bytes() -> None:
    assert encode_recording(leak_episode()) == encode_recording(SEGMENT)
    assert encode_recording(SEGMENT) == encode_recording(SEGMENT)


def test_what_is_read_back_and_run_again_gives_the_same_verdicts_byte_for_byte() -> None:
    recording = decode_recording(CONTENT, FILE)
    again = replay(recording)
    assert len(again) == len(recording.verdicts) == 14
    assert first_difference(again, recording.verdicts) is None
    assert [verdict_text(one) for one in again] == [verdict_text(one) for one in SEGMENT.verdicts]


def test_the_header_is_read_without_the_rest_and_names_no_host() -> None:
    header = decode_header(CONTENT[:400], FILE)
    assert header == {
        "version": lmkd.__version__,
        "kernel": "6.1.0-18-amd64",
        "unix_ms": 1_772_366_400_000,
        "span_ms": 33_200,
        "episodes": [12],
        "events": 111,
        "scans": 1,
        "verdicts": 14,
        "begins_open": False,
        "ends_open": False,
        "environ": "only what the rules asked for",
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a recording of lmkd"),
        (b"PK\x03\x04 something else", "not a recording of lmkd"),
        (b"lmkd recording 2\n???", "expected a recording of format 1, found format 2"),
        (MAGIC + b"\x00", "cut short: it ends before its header"),
        (
            MAGIC + SIZES.pack(1 << 31, 0, 0),
            f"expected a header of at most {1 << 20} bytes, found {1 << 31}",
        ),
        (MAGIC + SIZES.pack(9, 0, 0) + b"123", "cut short: expected 9 bytes of header, found 3"),
        (CONTENT[:-1], "cut short or added to"),
        (CONTENT + b"x", "cut short or added to"),
        (CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), "the checksum is another"),
        (put_together(pack([1]), b""), "header: expected a map, found a list of 1"),
        (put_together(pack({"x": 1.5}), b""), "header: expected text, an integer"),
        (put_together(b"\xc1", b""), "header[0]: not a msgpack value"),
        (put_together(pack({}), b"plain"), "body: not compressed by zlib"),
        (put_together(pack({}), zlib.compress(b"x")[:-1]), "body: cut short or added to"),
        (put_together(pack({}), zlib.compress(b"x") + b"y"), "body: cut short or added to"),
        (put_together(pack({}), zlib.compress(pack(1))), "body: expected a map, found 1"),
        (put_together(pack({}), zlib.compress(pack({}))), "body.base: expected bytes, found None"),
        (with_body(base=pack(3)), "state: expected the fields of State, found 3"),
        (with_body(base_us=None), "base_us: expected an integer, found None"),
        (with_body(stretches=None), "body.stretches: expected a list, found None"),
        (with_body(stretches=[1]), "stretches[0]: expected times, events and processes"),
        (with_body(verdicts=pack(1)), "verdicts[0]: expected a map, found 1"),
        (with_body(verdicts=7), "body.verdicts: expected bytes, found 7"),
        (with_stretch(times=b"123"), "stretches[0].times: expected bytes, 8 for each number"),
        (with_stretch(times=b""), "expected a time for each event, found 0 for 1"),
        (
            with_stretch(times=array_to_bytes(array("q", [1]))),
            "event 0: expected a time from 5000000 on, found 1",
        ),
        (with_stretch(events=...), "stretches[0].events: expected bytes, found None"),
        (
            with_stretch(events=pack(["Popen", {}])),
            "stretches[0].events[0]: expected one of ReadingTaken,",
        ),
        (
            with_stretch(events=pack(["DomainOpened", {"domain": 1}])),
            "stretches[0].events[0].DomainOpened.domain: expected text, found 1",
        ),
        (
            with_stretch(events=pack(["ProcessesScanned", "system", b"\x00\x00\x00\x00"])),
            "stretches[0].events[0]: expected rows below 0, found 0",
        ),
        (
            with_stretch(events=pack(["ProcessesScanned", "system", b"\x00"])),
            "stretches[0].events[0]: expected bytes, 4 for each number",
        ),
        (
            with_stretch(events=pack(["ProcessesScanned", 1, b""])),
            "stretches[0].events[0]: expected text, found 1",
        ),
        (
            with_stretch(processes={"facts": b"", "rows": b"", "states": [1]}),
            "stretches[0].processes.states[0]: expected text, found 1",
        ),
        (
            with_stretch(processes={"facts": 1, "rows": b"", "states": []}),
            "stretches[0].processes.facts: expected bytes, found 1",
        ),
        (
            with_stretch(processes={"facts": b"", "rows": bytes(8), "states": []}),
            "stretches[0].processes.rows: expected 5 numbers each, found 1",
        ),
        (
            with_stretch(processes={"facts": b"", "rows": bytes(40), "states": []}),
            "stretches[0].processes.rows[0]: expected one of 0 processes and 0 states, found 0 and 0",
        ),
        (
            with_stretch(processes={"facts": pack({"pid": 1}), "rows": b"", "states": []}),
            "stretches[0].processes.facts[0]: Process lacks its field 'start_ticks'",
        ),
    ],
)
def test_what_is_wrong_is_named(content: bytes, said: str) -> None:
    assert said in refusal(content)


def test_a_small_file_that_unpacks_to_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_MOST", 1000)
    bomb = put_together(pack({}), zlib.compress(bytes(100_000)))
    assert refusal(bomb) == "body: expected at most 1000 bytes, unpacked"


def test_known_processes_come_back_as_such() -> None:
    content = with_stretch(events=pack(["KnownProcesses", "system", b""]))
    assert decode_recording(content, FILE).moments == ((6_000_000, KnownProcesses(())),)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.integers(0, len(CONTENT)), st.binary(min_size=1, max_size=8))
def test_a_damaged_file_is_a_recording_error(place: int, damage: bytes) -> None:
    damaged = CONTENT[:place] + damage + CONTENT[place + len(damage) :]
    if damaged != CONTENT:
        refusal(damaged)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.data())
def test_a_forged_file_is_a_recording_error_or_runs(data: st.DataObject) -> None:
    """Checksum and compression are right, and what is in it is not what lmkd wrote."""
    header, body = parts()
    packed = bytearray(pack(body))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    with suppress(RecordingError):
        list(run(decode_recording(put_together(header, zlib.compress(packed)), FILE)))


def test_a_step_that_fails_is_the_recordings_fault_and_is_numbered() -> None:
    """Types say nothing of what makes sense together: here a policy without the levels that the heart looks up."""
    recording = recording_of(SEGMENT, FILE)
    bare = events.SettingsChanged(replace(BROWSER_FIRST, floor={}))
    moments = (module.Moment(recording.base_us, bare), *recording.moments)
    broken = module.Recording(
        FILE, recording.header, recording.base, recording.base_us, moments, ()
    )
    with pytest.raises(
        RecordingError, match=r"some.lmkdrec: event 2 \(ReadingTaken\): .* KeyError"
    ):
        replay(broken)


def test_a_rule_that_is_no_regular_expression_is_the_recordings_fault() -> None:
    base = to_tree(State, replace(SEGMENT.base, settings=BROWSER_FIRST))
    base["settings"]["rules"]["rules"][0]["conditions"][0]["test"][1]["patterns"] = ["(unclosed"]
    told = refusal(with_body(base=pack(base)))
    assert told.startswith("state.settings.rules: these fields make no RuleSet: missing )")


def test_times_of_one_moment_stay_in_order() -> None:
    """What comes of an event at once is noted at the same microsecond."""
    recording = decode_recording(CONTENT, FILE)
    scanned = next(
        place
        for place, moment in enumerate(recording.moments)
        if isinstance(moment.event, events.ProcessesScanned)
    )
    before = recording.moments[scanned - 2 : scanned]
    assert any(moment.at_us == recording.moments[scanned].at_us for moment in before)
    assert recording.moments[scanned].at_us % MS == 0
