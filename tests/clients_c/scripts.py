"""The probe, and a scripted daemon that it talks with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack
from lmkd_proto import (
    Message,
    encode,
)

from ..clients.fake_daemon import FakeDaemon, Script
from ..program import Program

QUICK = ("10", "50")
GRANTED = r"ok register 7 cached process system 1000 500"


@contextmanager
def playing(probe: Path, path: str, script: Script, *arguments: str) -> Iterator[Program]:
    """Run the probe against a daemon that plays this script."""
    environment = {"LMKD_SOCKET": path}
    with (
        FakeDaemon(path) as daemon,
        Program(probe, *(arguments or QUICK), environment=environment) as program,
    ):
        daemon.run(script)
        yield program
        program.ask("quit", "done")
        assert program.wait() == 0


def told(number: int, level: str = "medium", reason: str = "a test") -> str:
    return f"notice {number} system {level} 1048576 1000 0 0 {reason}"


def lost(path: str, why: str, how: str = "away") -> str:
    return f"{how} lost lmkd at {re.escape(path)}: {why}"


def padded(message: Message, length: int) -> bytes:
    """Return a frame of exactly this length that says the same, with a key of a later version."""
    body = msgpack.unpackb(encode(message)[4:])
    body["of_a_later_version"] = b""
    spare = length - len(msgpack.packb(body)) - 1  # what says how long it is takes a byte more
    body["of_a_later_version"] = bytes(spare)
    payload = bytes(msgpack.packb(body))
    assert len(payload) == length
    return length.to_bytes(4, "big") + payload
