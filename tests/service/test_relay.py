"""The system daemon's levels in a session: its word while it is heard, one's own judgement when it is not."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import lmkd_proto as wire
import pytest
import trio
from trio.testing import MockClock

from lmkd.model import SYSTEM_DOMAIN, Level
from lmkd.policy.events import LevelRelayed
from lmkd.service.relay import LOOK_AGAIN_S, SILENCE_S, Relay

from .house import running

Answer = Callable[[wire.Event], list[wire.Message]]
GONE = LevelRelayed(SYSTEM_DOMAIN, None)


def word(level: str, domain: str = SYSTEM_DOMAIN, *, simulated: bool = False) -> wire.Pressure:
    return wire.Pressure(domain, level, f"it is {level}", 1 << 20, simulated)


def polite(event: wire.Event) -> list[wire.Message]:
    """Answer as a calm daemon does."""
    if isinstance(event, wire.Hello):
        return [wire.Welcome(event.id, 1, "lmkd test", False)]
    assert isinstance(event, wire.Subscribe), event
    return [wire.Ok(event.id, {"domain": "system", "propagation": "local"}), word("normal")]


class Other:
    """Somebody who answers at a socket, one connection at a time."""

    def __init__(self, path: str, answer: Answer = polite) -> None:
        self.path = path
        self.answer = answer
        self.asked: list[wire.Event] = []
        self.connections = 0
        self.peer: trio.SocketStream | None = None
        self._scope = trio.CancelScope()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self._scope, trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            await listener.bind(self.path)
            listener.listen()
            task_status.started()
            while True:
                sock, _ = await listener.accept()
                self.connections += 1
                with sock, suppress(trio.BrokenResourceError):  # it may go in mid-answer
                    await self._answer(trio.SocketStream(sock))

    async def _answer(self, stream: trio.SocketStream) -> None:
        self.peer = stream
        connection = wire.ServerConnection()
        while chunk := await stream.receive_some(4096):
            for event in connection.receive(chunk):
                self.asked.append(event)
                await self.say(*self.answer(event))
        self.peer = None

    async def say(self, *messages: wire.Message) -> None:
        assert self.peer is not None
        await self.peer.send_all(b"".join(wire.encode(message) for message in messages))

    def go(self) -> None:
        """End at once, without a word."""
        os.unlink(self.path)
        self._scope.cancel()


class Listening:
    def __init__(
        self,
        relay: Relay,
        other: Other,
        fed: list[LevelRelayed],
        killed: list[wire.Killed],
        nursery: trio.Nursery,
    ) -> None:
        self.relay = relay
        self.killed = killed
        self.other = other
        self.fed = fed
        self.nursery = nursery

    @property
    def levels(self) -> list[Level | None]:
        return [event.level for event in self.fed]


@asynccontextmanager
async def listening(
    tmp_path: Path, answer: Answer = polite, *, is_there: bool = True, pid: int = 1
) -> AsyncIterator[Listening]:
    path = str(tmp_path / "system")
    fed: list[LevelRelayed] = []
    killed: list[wire.Killed] = []
    relay = Relay(path, fed.append, lambda sock: (pid, 0), killed.append)
    other = Other(path, answer)
    async with trio.open_nursery() as nursery:
        if is_there:
            await nursery.start(other.serve)
        nursery.start_soon(relay.run)
        yield Listening(relay, other, fed, killed, nursery)
        nursery.cancel_scope.cancel()


async def test_its_word_is_relayed_from_the_first_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with listening(tmp_path) as place:
        await trio.sleep(1)
        assert place.fed == [LevelRelayed(SYSTEM_DOMAIN, Level.NORMAL, "it is normal")]
        assert place.relay.source == place.other.path
        await place.other.say(word("critical"), word("low"))
        await trio.sleep(1)
        assert place.levels == [Level.NORMAL, Level.CRITICAL, Level.LOW]


async def test_what_is_not_of_the_system_or_not_real_is_not_relayed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with listening(tmp_path) as place:
        await trio.sleep(1)
        await place.other.say(word("critical", simulated=True), word("critical", "/box"))
        await place.other.say(wire.Killed("system", 5, "x", "cached", "why", 0))
        await trio.sleep(1)
        assert place.levels == [Level.NORMAL]


async def test_whom_it_has_ended_is_told_on_whoever_that_was(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    killed = wire.Killed("system", 5, "x", "cached", "why", 4096)
    async with listening(tmp_path) as place:
        await trio.sleep(1)
        await place.other.say(word("critical"), killed, word("low"))
        await trio.sleep(1)
        assert place.killed == [killed]
        assert place.levels == [Level.NORMAL, Level.CRITICAL, Level.LOW]


async def test_when_it_goes_we_judge_for_ourselves_and_look_for_it_again(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(tmp_path) as place:
        await trio.sleep(1)
        place.other.go()
        await trio.sleep(1)
        assert place.levels == [Level.NORMAL, None]
        assert place.relay.source is None
        await trio.sleep(10 * LOOK_AGAIN_S)
        assert place.levels == [Level.NORMAL, None], "it is over once"
        place.other = Other(place.other.path)
        await place.nursery.start(place.other.serve)
        await trio.sleep(LOOK_AGAIN_S + 1)
        assert place.levels == [Level.NORMAL, None, Level.NORMAL]
    assert caplog.text.count("is not heard any more") == 1


async def test_where_there_is_none_nothing_is_said_and_one_that_comes_later_is_found(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(tmp_path, is_there=False) as place:
        await trio.sleep(5 * LOOK_AGAIN_S)
        assert place.fed == []
        assert caplog.text == ""
        await place.nursery.start(place.other.serve)
        await trio.sleep(LOOK_AGAIN_S + 1)
        assert place.levels == [Level.NORMAL]


async def test_its_goodbye_is_taken_for_what_it_is(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(tmp_path) as place:
        await trio.sleep(1)
        await place.other.say(wire.Bye("the daemon leaves"))
        await trio.sleep(1)
        assert place.levels == [Level.NORMAL, None]
        assert "not heard any more (the daemon leaves)" in caplog.text


async def test_one_that_is_stuck_is_as_good_as_gone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A daemon that was stopped at `critical` must not keep a session there, nor one at `normal` blind."""
    async with listening(tmp_path) as place:
        await trio.sleep(1)
        place.other.answer = lambda event: []
        await trio.sleep(2 * SILENCE_S - 2)
        assert place.levels == [Level.NORMAL]
        await trio.sleep(3)
        assert place.levels == [Level.NORMAL, None]


async def test_one_that_has_nothing_to_say_is_asked_and_stays(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with listening(tmp_path) as place:
        await trio.sleep(5 * SILENCE_S + 1)
        assert set(place.levels) == {Level.NORMAL}
        assert place.other.connections == 1
        assert len(place.other.asked) == 7


def refuse(code: str) -> Answer:
    def answer(event: wire.Event) -> list[wire.Message]:
        assert isinstance(event, wire.Hello | wire.Subscribe)
        return [wire.Error(event.id, code, "no")]

    return answer


def refuse_subscribe(event: wire.Event) -> list[wire.Message]:
    return polite(event) if isinstance(event, wire.Hello) else refuse("too_many")(event)


@pytest.mark.parametrize("answer", [refuse("bad_version"), refuse_subscribe])
async def test_one_that_refuses_us_is_tried_again_later(
    tmp_path: Path, autojump_clock: MockClock, answer: Answer
) -> None:
    async with listening(tmp_path, answer) as place:
        await trio.sleep(1)
        assert place.fed == []
        assert place.other.connections == 1
        place.other.answer = polite
        await trio.sleep(LOOK_AGAIN_S)
        assert place.levels == [Level.NORMAL]


async def test_one_that_talks_nonsense_ends_nothing_here(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with listening(tmp_path) as place:
        await trio.sleep(1)
        assert place.other.peer is not None
        await place.other.peer.send_all(wire.encode_frame(b"\xc1") + wire.encode(word("low")))
        await trio.sleep(1)
        assert place.levels == [Level.NORMAL, Level.LOW], "a bad frame is passed over"
        await place.other.peer.send_all(b"\xff\xff\xff\xff")
        await trio.sleep(1)
        assert place.levels == [Level.NORMAL, Level.LOW, None]
        await trio.sleep(LOOK_AGAIN_S)
        assert place.levels[-1] is Level.NORMAL


async def test_our_own_socket_is_nothing_to_relay(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Else its own `normal`, relayed to itself, would stand for ever."""
    async with listening(tmp_path, pid=os.getpid()) as place:
        await trio.sleep(3 * LOOK_AGAIN_S)
        assert place.fed == []
        assert place.other.asked == []


async def test_a_whole_daemon_is_heard_and_its_end_too(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    fed: list[LevelRelayed] = []
    async with trio.open_nursery() as nursery, running(tmp_path) as house:
        house.kernel.set_available(55 * 1024)
        # As the house's clients say who they are by the name of their socket, so must this one.
        house.parts.server._credentials = lambda sock: (77, 1000)
        nursery.start_soon(Relay(house.path, fed.append, lambda sock: (1, 0)).run)
        await trio.sleep(2)
        assert fed[-1].level is Level.LOW
        await house.leave()
        await trio.sleep(1)
        assert fed[-1] == GONE
        nursery.cancel_scope.cancel()
