"""The connection to a message bus: its framing, and what goes wrong with a bus."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from jeepney import DBusAddress, HeaderFields, Message, new_method_call, new_signal
from jeepney.bus_messages import message_bus

from lmkd.interop.bus import (
    MESSAGE_MOST_BYTES,
    RECEIVE_BYTES,
    Bus,
    BusError,
    Framing,
    keep_on_bus,
    on_bus,
    session_address,
)

from .bus_of_its_own import ALL_MAY
from .bus_of_its_own import message_bus as run_bus

EMITTER = DBusAddress("/a", interface="a.b")


def signal_of(text: str, serial: int = 1) -> bytes:
    raw: bytes = new_signal(EMITTER, "C", "s", (text,)).serialise(serial)
    return raw


def texts(messages: list[Message]) -> list[str]:
    return [message.body[0] for message in messages]


def test_messages_come_out_whole_however_they_are_cut() -> None:
    raw = signal_of("one") + signal_of("two")
    assert texts(Framing().receive(raw)) == ["one", "two"]
    framing = Framing()
    assert texts([m for byte in raw for m in framing.receive(bytes([byte]))]) == ["one", "two"]


def test_a_message_that_is_too_long_is_passed_over_and_never_held() -> None:
    """D-Bus allows 128 MiB, and anybody may send it to us."""
    raw = signal_of("x" * (4 * MESSAGE_MOST_BYTES)) + signal_of("after it")
    framing, found, held = Framing(), [], 0
    for start in range(0, len(raw), RECEIVE_BYTES):
        found += framing.receive(raw[start : start + RECEIVE_BYTES])
        held = max(held, len(framing._buffer))
    assert texts(found) == ["after it"]
    assert held <= 2 * RECEIVE_BYTES


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda raw: raw[:1] + b"\x09" + raw[2:], id="a type that there is not"),
        pytest.param(
            lambda raw: raw.replace(b"\x03\x01s\x00", b"\xc8\x01s\x00"),
            id="a field that there is not",
        ),
        pytest.param(lambda raw: raw[:-5] + b"\xff\xfe\xfd\xfc\x00", id="text that is none"),
        pytest.param(
            lambda raw: raw.replace(b"\x01s\x00", b"\x01(\x00"), id="a signature that is none"
        ),
    ],
)
def test_a_message_that_cannot_be_read_is_passed_over(damage: Callable[[bytes], bytes]) -> None:
    damaged = damage(signal_of("hurt"))
    assert damaged != signal_of("hurt")
    assert texts(Framing().receive(damaged + signal_of("after it"))) == ["after it"]


def test_what_is_not_d_bus_at_all_is_said() -> None:
    with pytest.raises(BusError, match=r"not D-Bus: a message begins with b'HTTP'"):
        Framing().receive(b"HTTP/1.1 200 OK\r\n")


def nothing(message: Message) -> None:
    return None


async def no_work(bus: Bus) -> None:
    """Say hello, and leave."""


async def test_a_call_is_answered_and_a_refusal_names_what_was_refused(tmp_path: Path) -> None:
    async def work(bus: Bus) -> None:
        (names,) = await bus.call(message_bus.ListNames())
        assert bus.unique_name in names
        with pytest.raises(
            BusError, match=r"RequestName: org\.freedesktop\.DBus\.Error\.InvalidArgs:"
        ) as refused:
            await bus.call(message_bus.RequestName("not a name"))
        assert refused.value.name == "org.freedesktop.DBus.Error.InvalidArgs"

    with run_bus(tmp_path) as bus:
        await on_bus(bus.address, nothing, work)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("tcp:host=localhost,port=1", "expected a bus address such as unix:path="),
        ("nonsense", "expected a bus address such as unix:path="),
        ("", "expected a bus address such as unix:path="),
        ("unix:path=/nowhere/bus", "no bus at '/nowhere/bus': No such file or directory"),
    ],
)
async def test_a_bus_that_is_not_there_is_said(address: str, said: str) -> None:
    with pytest.raises(BusError, match=said):
        await on_bus(address, nothing, no_work)


@pytest.mark.parametrize("answer", [b"REJECTED EXTERNAL\r\n", b"OK 1234\r\nmore", b""])
async def test_a_bus_that_does_not_let_us_in_is_said(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "bus"))
        listener.listen()

        def answer_once() -> None:
            with listener.accept()[0] as sock:
                sock.recv(100)
                sock.sendall(answer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, answer_once)
            with pytest.raises(BusError, match="does not let us in"):
                await on_bus(f"unix:path={tmp_path}/bus", nothing, no_work)


async def test_a_bus_that_goes_is_said_and_looked_for_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The pause is on an invented clock; the bus is a real one."""
    said: list[str] = []
    over = trio.Event()
    greeted = 0
    with run_bus(tmp_path) as bus:

        async def work(connected: Bus) -> None:
            nonlocal greeted
            greeted += 1
            bus.end()
            if greeted == 1:
                bus.start()
            await trio.sleep_forever()

        def failed(why: str) -> None:
            said.append(why)
            if len(said) == 4:
                over.set()

        autojump_clock.autojump_threshold = 0.2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_on_bus, bus.address, nothing, work, failed)
            await over.wait()
            nursery.cancel_scope.cancel()
    assert greeted == 2
    assert said[:2] == ["the bus has closed the connection"] * 2
    assert set(said[2:]) == {f"no bus at {str(tmp_path / 'bus')!r}: No such file or directory"}


async def test_a_giant_sent_by_a_neighbour_costs_nothing_and_the_next_call_is_served(
    tmp_path: Path,
) -> None:
    served: list[str] = []

    def serve(message: Message) -> None:
        if message.header.fields.get(HeaderFields.member) == "C":
            served.append(message.body[0][:5])
            come.set()

    async def receive(bus: Bus) -> None:
        names.append(bus.unique_name)
        ready.set()
        await come.wait()

    async def send(bus: Bus) -> None:
        await ready.wait()
        for text in ("giant" * 1_000_000, "small"):
            address = DBusAddress("/a", names[0], "a.b")
            await bus.send(new_method_call(address, "C", "s", (text,)))

    names: list[str] = []
    ready, come = trio.Event(), trio.Event()
    with run_bus(tmp_path, ALL_MAY) as bus:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(on_bus, bus.address, serve, receive)
            nursery.start_soon(on_bus, bus.address, nothing, send)
    assert served == ["small"]


@pytest.mark.parametrize(
    ("variables", "there", "address"),
    [
        ({"DBUS_SESSION_BUS_ADDRESS": "unix:path=/x"}, False, "unix:path=/x"),
        ({"XDG_RUNTIME_DIR": "{folder}"}, True, "unix:path={folder}/bus"),
        ({"XDG_RUNTIME_DIR": "{folder}"}, False, None),
        ({"XDG_RUNTIME_DIR": "relative"}, False, None),
        ({}, False, None),
    ],
)
def test_the_bus_of_a_session_is_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    there: bool,
    address: str | None,
) -> None:
    for name in ("DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(folder=tmp_path))
    if there:
        (tmp_path / "bus").touch()
    assert session_address() == (None if address is None else address.format(folder=tmp_path))
