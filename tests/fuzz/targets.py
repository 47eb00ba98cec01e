"""What takes bytes from outside, and what it promises about them.

The parsers of lmkd.kernel are found by looking: every function called `parse_*` in any of its modules is a target, so a
new one is fuzzed from the day it is written, or `make test` fails and says what is missing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import json
import os
import pkgutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jeepney import (
    DBusAddress,
    HeaderFields,
    Introspectable,
    MessageType,
    Properties,
    new_signal,
)
from jeepney.bus_messages import message_bus
from lmkd_proto import (
    ClientConnection,
    Error,
    Hello,
    LocalProtocolError,
    Malformed,
    RemoteProtocolError,
    ServerConnection,
    UnknownMessage,
    Welcome,
    decode,
    encode,
)

import lmkd.kernel
from lmkd.config import ConfigError, load_config
from lmkd.config.layers import parse_layer
from lmkd.interop import bus, low_memory_monitor, varlink
from lmkd.interop.low_memory_monitor import answer_call
from lmkd.interop.pressure_listeners import parse_threshold
from lmkd.kernel.files import MalformedKernelFile
from lmkd.kernel.inotify import DirectoryEvent, Inotify
from lmkd.kernel.parse import parse_flat_keyed
from lmkd.kernel.probe import probe
from lmkd.replay.errors import RecordingError
from lmkd.replay.packing import pack, unpack_one
from lmkd.replay.recording import MAGIC, decode_header, decode_recording, encode_recording
from tests.fuzz.engine import Target
from tests.replay.scenes import leak_episode

REPO = Path(__file__).parents[2]
VECTORS = REPO / "proto" / "vectors"
CAPTURED = REPO / "tests" / "kernel" / "captured"
FRAME_MOST = 65_536 + 4
HEAD = struct.Struct(">III")

# What no captured file shows. Hostile names and files of other kernels.
MORE_FILES = (
    b"0::/user.slice/app.scope (deleted)\n",
    b"12:memory:/old\n1:name=systemd:/init.scope\n0::/\n",
    b"-1000\n",
    b"max\n",
    b"1 2 3\n",
    b"populated 1\nfrozen 0\n",
    b"4711 (foo) Z 1 () S 1 4711 4711 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 99 1000 200 18446744073709551615\n",
    b"Web Content\n",
    b"/usr/bin/python3\0-m\0lmkd\0",
    b"HOME=/root\0LANG=C.UTF-8\0=\0no pair\0CUT=sho",
    b"name type data\nhits 4 12\nc_min 4 1048576\nsize 4 99999744\n",
    b"Filename\tType\tSize\tUsed\tPriority\n/swap\\040file (deleted) file 1024 8 -2\n/dev/zram0 partition 2 1 100\n",
    b"some avg10=0.00 avg60=0.00 avg300=0.00 total=123\n",  # a kernel before 5.13, of the processor
    b"1\n2\n4711\n",
)


def find_parsers() -> dict[str, Callable[..., object]]:
    """Return every parse_* function of lmkd.kernel by its name."""
    return {
        name: value
        for module in pkgutil.iter_modules(lmkd.kernel.__path__, "lmkd.kernel.")
        for name, value in vars(importlib.import_module(module.name)).items()
        if name.startswith("parse_") and inspect.isfunction(value)
    }


@functools.cache
def captured_files() -> tuple[bytes, ...]:
    """Return the captured files, and more."""
    paths = sorted(path for path in CAPTURED.iterdir() if path.suffix != ".md")
    return (*(path.read_bytes() for path in paths), *MORE_FILES)


def take_of_parser(parser: Callable[..., object]) -> Callable[[bytes], object]:
    """Return what calls a parser with some bytes and, for its other arguments, what is usual."""
    names = set(inspect.signature(parser).parameters) - {"content"}
    if parser is parse_flat_keyed:
        return _take_flat_keyed
    if names == {"is_cut"}:
        return lambda content: (parser(content, is_cut=False), parser(content, is_cut=True))
    if names == {"path"}:
        return lambda content: parser(content, "proc/fuzzed")
    if not names:
        return parser
    raise TypeError(
        f"teach tests/fuzz/targets.py what to give {parser.__name__} for {sorted(names)}"
    )


KEYS = (
    *(b"workingset_refault_file", b"pgscan_kswapd", b"pgscan_direct"),
    *(b"low", b"high", b"max", b"oom", b"oom_kill", b"populated", b"frozen"),
    *(b"anon", b"active_file", b"inactive_file", b"nosuch"),
)


def _take_flat_keyed(content: bytes) -> object:
    return parse_flat_keyed(content, KEYS, "proc/fuzzed")


def parser_targets() -> Iterator[Target]:
    """Yield a target for each parser; its seeds are captured files that it accepts, and a few that it does not."""
    for name, parser in find_parsers().items():
        take = take_of_parser(parser)
        accepted, others = [], []
        for content in captured_files():
            try:
                take(content)
            except MalformedKernelFile:
                others.append(content)
            else:
                accepted.append(content)
        if not accepted:
            raise ValueError(f"no captured file is one that {name} accepts: add one")
        seeds = (*sorted(accepted, key=len)[-8:], *others[:2])
        yield Target(name, take, (MalformedKernelFile,), seeds)


# --- the protocol ---------------------------------------------------------------------------------------------


@functools.cache
def vector_frames() -> tuple[bytes, ...]:
    """Return the conformance vectors, whole frames and otherwise, that are not longer than 4 KiB."""
    frames = []
    for path in sorted(VECTORS.glob("*.json")):
        frames += [bytes.fromhex(vector["hex"]) for vector in json.loads(path.read_text())]
    return tuple(frame for frame in frames if len(frame) <= 4096)


def _take_payload(payload: bytes) -> object:
    """Whatever it is, it is a message, an unknown one or a fault; a message says itself again."""
    message = decode(payload)
    if not isinstance(message, UnknownMessage):
        assert decode(encode(message)[4:]) == message
    try:
        small = decode(payload, max_items=64)
    except RemoteProtocolError:
        return message, "too many items for a server"
    assert small == message
    return message


def _in_state(number: int) -> ServerConnection | ClientConnection:
    """Return a connection of either side, in one of its states."""
    if number & 1:
        server = ServerConnection()
        if number & 2:
            server.receive(encode(Hello(0, 1)))
            if number & 4:
                server.send(Welcome(0, 1, "fuzzed", True))
            elif number & 8:
                server.send(Error(0, "unsupported_version", "fuzzed"))
        return server
    client = ClientConnection()
    if number & 2:
        client.send(Hello(0, 1))
        if number & 4:
            client.receive(encode(Welcome(0, 1, "fuzzed", True)))
    return client


def _framed(content: bytes) -> bytes:
    """Cut some bytes into frames with true lengths, so that what is in them is reached."""
    framed, at = b"", 0
    while at < len(content):
        length = min(1 + content[at] * 2, len(content) - at)
        framed += length.to_bytes(4, "big") + content[at : at + length]
        at += length
    return framed


def _take_stream(content: bytes) -> object:
    """The first byte says in which state, the second how it is cut; cut or whole, the same events come of it."""
    if len(content) < 2:
        return None
    state, cut, stream = content[0], content[1], content[2:]
    if state & 16:
        stream = _framed(stream)
    whole, whole_fault = _hear(_in_state(state), [stream])
    width = 1 + (cut % 31 if len(stream) < 2_000 else 64 + cut)
    parts = [stream[at : at + width] for at in range(0, len(stream), width)]
    cut_up, cut_up_fault = _hear(_in_state(state), parts)
    assert (whole, whole_fault) == (cut_up, cut_up_fault), (
        "cut differently, other events came of it"
    )
    return whole, whole_fault


def _hear(
    connection: ServerConnection | ClientConnection, parts: list[bytes]
) -> tuple[list[object], str | None]:
    events: list[object] = []
    for part in [*parts, b""]:
        try:
            events += connection.receive(part)
        except RemoteProtocolError as error:
            assert connection.state in ("failed", "closed")
            return events, f"{error.code} {error.message}"
        except LocalProtocolError:
            assert connection.state == "closed"  # after a bye; what follows it is not for us
            return events, None
        reader = connection._reader
        assert reader is None or reader.buffered_bytes < FRAME_MOST
    assert all(
        event.request_id is None or event.code for event in events if isinstance(event, Malformed)
    )
    return events, None


def protocol_targets() -> Iterator[Target]:
    frames = vector_frames()
    payloads = tuple(frame[4:] for frame in frames)
    yield Target("decode", _take_payload, (RemoteProtocolError,), payloads, 4, packed=True)
    streams = tuple(
        bytes((state, number * 37 & 255)) + frame
        for number, frame in enumerate((*frames, b"".join(frames[:6])))
        for state in (6, 7, 3 + number % 2)
    )
    framed = tuple(
        bytes((22 + number % 2, number & 255)) + one for number, one in enumerate(payloads)
    )
    yield Target("connections", _take_stream, (), (*streams, *framed), 4)


# --- recordings -----------------------------------------------------------------------------------------------


@functools.cache
def recorded() -> bytes:
    """Return a recording of one episode."""
    return encode_recording(leak_episode(), kernel="6.1.0-18-amd64", unix_ms=1_772_366_400_000)


def _parts_of(recording: bytes) -> tuple[bytes, bytes]:
    start = len(MAGIC) + HEAD.size
    length, _, _ = HEAD.unpack_from(recording, len(MAGIC))
    return recording[start : start + length], zlib.decompress(recording[start + length :])


def _sealed(header: bytes, body: bytes) -> bytes:
    """Give a header and a body their true lengths and checksum."""
    packed = zlib.compress(body, 1)
    check = zlib.crc32(packed, zlib.crc32(header))
    return MAGIC + HEAD.pack(len(header), len(packed), check) + header + packed


def _take_recording(content: bytes) -> object:
    with contextlib.suppress(RecordingError):
        decode_header(content, "fuzzed")
    return decode_recording(content, "fuzzed").header


def _take_body(content: bytes) -> object:
    header, _ = _parts_of(recorded())
    return len(decode_recording(_sealed(header, content), "fuzzed").moments)


def _take_header(content: bytes) -> object:
    _, body = _parts_of(recorded())
    return decode_header(_sealed(content, body), "fuzzed")


def _take_part(*path: str | int) -> tuple[Callable[[bytes], object], bytes]:
    """Return what puts some bytes into the place of one part of a good recording, and that part as it was."""
    header, body = _parts_of(recorded())
    part = unpack_one(body, "recorded", "body")
    for step in path:
        part = part[step]

    def take(content: bytes) -> object:
        tree = holder = unpack_one(body, "recorded", "body")
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = (
            content if isinstance(part, bytes) else unpack_one(content, "fuzzed", "part")
        )
        decoded = decode_recording(_sealed(header, pack(tree)), "fuzzed")
        return len(decoded.moments), decoded.base

    return take, part if isinstance(part, bytes) else pack(part)


PARTS: tuple[tuple[str | int, ...], ...] = (
    ("base",),
    ("verdicts",),
    ("stretches", 0, "events"),
    ("stretches", 0, "times"),
    ("stretches", 0, "processes"),
)


def recording_targets() -> Iterator[Target]:
    header, body = _parts_of(recorded())
    errors = (RecordingError,)
    yield Target("recording", _take_recording, errors, (recorded(), _sealed(header, body)), 0.5)
    yield Target("recording's header", _take_header, errors, (header,), 0.5, packed=True)
    yield Target("recording's body", _take_body, errors, (body,), 0.2, packed=True)
    for path in PARTS:
        take, part = _take_part(*path)
        yield Target(
            f"recording's {path[-1]}", take, errors, (part,), 0.3, packed=path[-1] != "times"
        )


# --- configuration --------------------------------------------------------------------------------------------


class _File:
    """As much of a Path as the configuration asks of one."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read_bytes(self) -> bytes:
        return self._content

    def __str__(self) -> str:
        return "fuzzed.toml"


def _take_toml(content: bytes) -> object:
    return sorted(parse_layer("fuzzed.toml", content).table)[:4]


def _take_configuration(content: bytes) -> object:
    file: Any = _File(content)
    return load_config([file]).project


CONFIGURATIONS = tuple(
    text.encode()
    for text in (
        """
[[rule]]
name = "tabs"
match = { comm = ["Web Content", "Isolated .*"], uid = ">=1000" }
class = "cached"
""",
        """
[[rule]]
name = "db"
match = { systemd_unit = "postgresql*.service" }
unit = "cgroup"
grace = "5s"
""",
        """
[[rule]]
name = "x"
match = { cgroup = "/a/**/b*", exe = ["vim.*", "/opt/.*"], resident = ">=1GiB" }
exempt = true
""",
        """
[[rule]]
name = "y"
match = { oom_score_adj = "600..799", cmdline = ".*-m lmkd.*", parent = "make" }
class = "service"
""",
        """
[sets]
init = ["runit", "@way-in"]
[policy]
strict = true
project = "none"
[timing]
rest = "1min"
""",
        """
[[domain]]
cgroup = "/system.slice/*.service"
kill = ["cached"]
floor.low = { enter = "20%", leave = "25%" }
""",
        """
[floor.low]
enter = "12%"
leave = "15%"
most = "1GiB"
[stall.low]
some = "7.5%"
[victims]
least = "4MiB"
""",
        """
[service]
socket = "/run/x"
history_episodes = 20
[recording]
episodes = 2
most = "4MiB"
""",
    )
)


def configuration_targets() -> Iterator[Target]:
    shipped = (REPO / "lmkd" / "defaults.toml").read_bytes()
    yield Target("TOML", _take_toml, (ConfigError,), (*CONFIGURATIONS, shipped[:3000]), 0.5)
    yield Target("configuration", _take_configuration, (ConfigError,), CONFIGURATIONS, 0.25)


# --- what else the kernel says ---------------------------------------------------------------------------------


def _take_process_event() -> Callable[[bytes], object]:
    from pyroute2.netlink import NLMSG_DONE
    from pyroute2.netlink.connector import cn_proc

    from lmkd.kernel.process_events import _LONGEST, _Words

    words = _Words(cn_proc, NLMSG_DONE)
    buffer = bytearray(_LONGEST)

    def take(content: bytes) -> object:
        message = content[:_LONGEST]
        buffer[: len(message)] = message  # as it is received: behind it stands what came before
        return words.unpack(buffer, len(message)), words.unpack_ack(message)

    return take


def _take_directory_events(content: bytes) -> object:
    """Names of any bytes, in events as the kernel pads them: as many come out, and no name is lost."""
    names = content.split(b"\0")[:60]
    packed = b""
    for number, name in enumerate(names):
        padded = name[:255] + bytes(-len(name[:255]) % 16)
        packed += (
            struct.pack("=iIII", number, (len(name) * 0x9E3779B9) & 0xFFFFFFFF, 0, len(padded))
            + padded
        )
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    inotify = Inotify.__new__(Inotify)
    inotify._fd = reader
    try:
        os.write(writer, packed)
        events: list[DirectoryEvent] = inotify.take_nowait()
    finally:
        os.close(writer)
        inotify.close()
    assert [os.fsencode(event.name) for event in events] == [name[:255] for name in names]
    return len(events)


@functools.cache
def _probed_root() -> tempfile.TemporaryDirectory[str]:
    root = tempfile.TemporaryDirectory()
    for name in ("proc/pressure", "proc/self", "mount"):
        os.makedirs(f"{root.name}/{name}")
    return root


def _take_root(content: bytes) -> object:
    """Whatever stands in the files that are probed at start, a start is not refused."""
    root = _probed_root().name
    for name in ("mounts", "cgroup", "status"):
        Path(root, "proc/self", name).write_bytes(content)
    for name in ("swaps", "meminfo", "pressure/memory"):
        Path(root, "proc", name).write_bytes(content)
    Path(root, "mount/cgroup.controllers").write_bytes(content)
    return probe(root)


MOUNTS = b"proc /proc proc rw,hidepid=invisible 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\nx /a\\040b cgroup2 rw 0 0\n"


def kernel_targets() -> Iterator[Target]:
    fork = struct.pack("=16x20xIIQIIII", 1, 0, 1, 10, 10, 11, 11)
    yield Target("process events", _take_process_event(), (), (fork, fork[:60], bytes(76)), 0.5)
    yield Target(
        "directory events", _take_directory_events, (), (b"a.scope\0b\xff\0", b"x" * 255), 0.2
    )
    seeds = (MOUNTS, *captured_files())
    yield Target("probe", _take_root, (), seeds, 0.25)


# --- what others say in protocols of theirs --------------------------------------------------------------------


def _take_bus(content: bytes) -> object:
    """Take what comes over a message bus: each call in it gets an answer that can be sent."""
    return [
        answer_call(message).serialise(1)
        for message in bus.Framing().receive(content)
        if message.header.message_type is MessageType.method_call
    ]


def bus_messages() -> tuple[bytes, ...]:
    monitor = DBusAddress(low_memory_monitor.PATH, low_memory_monitor.NAME)
    asked = Properties(DBusAddress(monitor.object_path, monitor.bus_name, monitor.bus_name))
    calls = [
        Introspectable(monitor.object_path, monitor.bus_name).Introspect(),
        asked.get_all(),
        asked.get("Level"),
        asked.set("Level", "y", 7),
        message_bus.ListNames(),
        new_signal(asked.obj, "LowMemoryWarning", "y", (50,)),
    ]
    for number, call in enumerate(calls):
        call.header.fields[HeaderFields.sender] = f":1.{number}"
    return tuple(call.serialise(number + 1) for number, call in enumerate(calls))


def _take_varlink(content: bytes) -> object:
    calls = varlink.Framing().receive(content)
    described = {"io.systemd.oom.Prekill": "interface io.systemd.oom.Prekill\n"}
    return [varlink.answer_about_service(call, "1", described) for call in calls]


VARLINK_CALLS = (
    b'{"method":"io.systemd.oom.Prekill.Notify","parameters":{"cgroup":"/user.slice/app.scope"}}\0',
    b'{"method":"org.varlink.service.GetInfo"}\0',
    b'{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"a.b"},"more":true}\0',
    b'{"method":"a.b.C","parameters":null,"oneway":true}\0{"method":"x"}\0',
)


def interop_targets() -> list[Target]:
    return [
        Target("bus", _take_bus, (bus.BusError,), bus_messages()),
        Target("varlink", _take_varlink, (varlink.NotVarlink,), VARLINK_CALLS),
        Target(
            "parse_threshold",
            parse_threshold,
            (),
            (b"low", b"critical\n", b"some 200000 2000000\0"),
        ),
    ]


def targets() -> list[Target]:
    """Return all of them."""
    return [
        *parser_targets(),
        *protocol_targets(),
        *recording_targets(),
        *configuration_targets(),
        *kernel_targets(),
        *interop_targets(),
    ]
