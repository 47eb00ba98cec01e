"""A connection to a D-Bus message bus.

jeepney has the words, to and from bytes; the socket and the framing are ours. D-Bus lets anybody send a message of 128
MiB, and jeepney's own connection would take it into memory: here what is longer than MESSAGE_MOST_BYTES is passed over
as it comes. What is said on a bus, and who listens, is not known here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio
from jeepney import Message, MessageType
from jeepney.auth import BEGIN, AuthenticationError, Authenticator
from jeepney.bus import get_connectable_addresses
from jeepney.bus_messages import message_bus
from jeepney.low_level import HeaderFields

SYSTEM_ADDRESS: Final = "unix:path=/run/dbus/system_bus_socket"
MESSAGE_MOST_BYTES: Final = 65_536
HEADER_BYTES: Final = 16
"""Of the part whose size is always the same; the lengths of all others stand in it (D-Bus specification)."""
RECEIVE_BYTES: Final = 4096
PATIENCE_S: Final = 25
"""For a reply; it is what libdbus waits as well."""
LOOK_AGAIN_S: Final = 10
"""After a bus could not be reached, or went away."""

Serve = Callable[[Message], "Message | None"]
"""Takes a call or a signal from others; returns what is to be answered."""


class BusError(Exception):
    """The bus cannot be reached, has gone, or refused something; the message says which."""

    def __init__(self, text: str, name: str = "") -> None:
        super().__init__(text)
        self.name = name
        """The D-Bus name of an error that was replied, else empty."""


class Framing:
    """Bytes to messages. One that is too long, or cannot be read, is passed over, whoever sent it."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip_bytes = 0

    def receive(self, chunk: bytes) -> list[Message]:
        """Return the messages that these bytes complete. Raises BusError for what is no message."""
        self._buffer += chunk
        found: list[Message] = []
        while True:
            skipped = min(self._skip_bytes, len(self._buffer))
            del self._buffer[:skipped]
            self._skip_bytes -= skipped
            if self._skip_bytes or len(self._buffer) < HEADER_BYTES:
                return found
            length = self._length()
            if length > MESSAGE_MOST_BYTES:
                self._skip_bytes = length
            elif len(self._buffer) < length:
                return found
            else:
                message = _parse(bytes(self._buffer[:length]))
                if message is not None:
                    found.append(message)
                del self._buffer[:length]

    def _length(self) -> int:
        order = {ord("l"): "<", ord("B"): ">"}.get(self._buffer[0])
        if order is None:
            raise BusError(f"not D-Bus: a message begins with {bytes(self._buffer[:4])!r}")
        body, _, fields = struct.unpack_from(f"{order}III", self._buffer, 4)
        return HEADER_BYTES + -(-int(fields) // 8) * 8 + int(body)


def _parse(raw: bytes) -> Message | None:
    """Return the message; None for one that cannot be read: anybody may send us such, and it concerns nobody else."""
    try:
        return Message.from_buffer(raw)
    except Exception:  # whatever jeepney meets: struct.error, ValueError (a header field it does not know), KeyError
        return None


@dataclass(slots=True)
class _Reply:
    """A place for what a call is answered."""

    come: trio.Event
    message: Message | None = None


class Bus:
    """A connection that has said hello. Made by `on_bus`."""

    def __init__(self, stream: trio.SocketStream, serve: Serve) -> None:
        self._stream = stream
        self._serve = serve
        self._serial = 0
        self._sending = trio.Lock()
        self._replies: dict[int, _Reply] = {}
        self.unique_name = ""

    async def send(self, message: Message) -> None:
        """Send a message, whose answer nobody waits for. Raises BusError when the bus is gone."""
        await self._write(message, None)

    async def call(self, message: Message) -> tuple[Any, ...]:
        """Call a method; return what it answers. Raises BusError."""
        reply = _Reply(trio.Event())
        serial = await self._write(message, reply)
        try:
            with trio.move_on_after(PATIENCE_S) as patience:
                await reply.come.wait()
        finally:
            del self._replies[serial]
        member = message.header.fields.get(HeaderFields.member)
        if patience.cancelled_caught:
            raise BusError(f"{member}: no answer for {PATIENCE_S} s")
        answer = reply.message
        assert answer is not None
        if answer.header.message_type is MessageType.error:
            name = str(answer.header.fields.get(HeaderFields.error_name))
            said = answer.body[0] if answer.body else ""
            raise BusError(f"{member}: {name}: {said}", name)
        body: tuple[Any, ...] = answer.body
        return body

    async def _write(self, message: Message, reply: _Reply | None) -> int:
        async with self._sending:
            self._serial += 1
            serial = self._serial
            if reply is not None:
                self._replies[serial] = reply
            try:
                with trio.fail_after(PATIENCE_S):
                    await self._stream.send_all(message.serialise(serial))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise BusError(f"the bus is gone: {error}") from None
            except trio.TooSlowError:
                raise BusError(f"the bus has taken nothing for {PATIENCE_S} s") from None
            return serial

    async def attend(self) -> None:
        """Take what comes, until the bus goes: always by BusError."""
        framing = Framing()
        while True:
            try:
                chunk = await self._stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise BusError(f"the bus is gone: {error}") from None
            if not chunk:
                raise BusError("the bus has closed the connection")
            for message in framing.receive(chunk):
                await self._take(message)

    async def _take(self, message: Message) -> None:
        kind, fields = message.header.message_type, message.header.fields
        if kind in (MessageType.method_return, MessageType.error):
            reply = self._replies.get(fields.get(HeaderFields.reply_serial, 0))
            if reply is not None:
                reply.message = reply.message or message
                reply.come.set()
            return
        answer = self._serve(message)
        if answer is not None and kind is MessageType.method_call:
            await self.send(answer)


async def on_bus(address: str, serve: Serve, work: Callable[[Bus], Awaitable[None]]) -> None:
    """Connect, say hello, and do the work while what comes is served. Raises BusError, whatever goes wrong."""
    fault: list[BusError] = []
    stream = await _connect(address)

    async def attend(bus: Bus, scope: trio.CancelScope) -> None:
        try:
            await bus.attend()
        except BusError as error:
            fault.append(error)
            scope.cancel()

    async with stream, trio.open_nursery() as nursery:
        bus = Bus(stream, serve)
        nursery.start_soon(attend, bus, nursery.cancel_scope)
        try:
            (bus.unique_name,) = await bus.call(message_bus.Hello())
            await work(bus)
        except BusError as error:
            fault.append(error)
        nursery.cancel_scope.cancel()
    if fault:
        raise fault[0]


async def keep_on_bus(
    address: str,
    serve: Serve,
    work: Callable[[Bus], Awaitable[None]],
    failed: Callable[[str], None],
) -> None:
    """Do that for ever, with a pause after each failure, of which `failed` hears."""
    while True:
        try:
            await on_bus(address, serve, work)
        except BusError as error:
            failed(str(error))
        await trio.sleep(LOOK_AGAIN_S)


def system_address() -> str:
    """Return the address of the system bus."""
    return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or SYSTEM_ADDRESS


def session_address() -> str | None:
    """Return the address of this session's bus; None: there is none."""
    given = os.environ.get("DBUS_SESSION_BUS_ADDRESS")
    if given:
        return given
    usual = Path(os.environ.get("XDG_RUNTIME_DIR", ""), "bus")
    return f"unix:path={usual}" if usual.is_absolute() and usual.exists() else None


async def _connect(address: str) -> trio.SocketStream:
    try:
        path = next(iter(get_connectable_addresses(address)))
    except (RuntimeError, ValueError, KeyError, StopIteration):
        raise BusError(
            f"expected a bus address such as {SYSTEM_ADDRESS}, got {address!r}"
        ) from None
    try:
        with trio.fail_after(PATIENCE_S):
            stream = await trio.open_unix_socket(path)
            try:
                await _authenticate(stream)
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
    except OSError as error:
        raise BusError(f"no bus at {path!r}: {error.strerror or error}") from None
    except (trio.BrokenResourceError, AuthenticationError) as error:
        raise BusError(f"the bus at {path!r} does not let us in: {error}") from None
    except trio.TooSlowError:
        raise BusError(f"the bus at {path!r} does not answer for {PATIENCE_S} s") from None
    return stream


async def _authenticate(stream: trio.SocketStream) -> None:
    """Have the bus know who we are, by SO_PEERCRED."""
    authenticator = Authenticator()
    for line in authenticator:
        if line:
            await stream.send_all(line)
        chunk = await stream.receive_some(RECEIVE_BYTES)
        if not chunk:
            raise trio.BrokenResourceError("it closed the connection")
        authenticator.feed(chunk)
        if authenticator.authenticated:
            break
    await stream.send_all(BEGIN)
