"""The socket: connections, streams of requests, and telling many, of whom some do not listen."""

from __future__ import annotations

import itertools
import logging
import os
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import lmkd_proto as wire
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmkd.model import AppClass, Level, Propagation, Unit, Victim
from lmkd.policy.actions import Broadcast, Notify, ReportKilled, WarnKill
from lmkd.service.client import KILLED_MOST, Client
from lmkd.service.listening import bind_socket
from lmkd.service.server import (
    REQUESTS_A_TURN,
    TURN_US,
    Server,
    pressure_frame,
    printable,
)

from .house import Peer, read_bound_credentials, socket_of

LONG = "x" * 400


class Desk:
    """A server with clerks that say yes to everything, and keep what they were asked."""

    def __init__(self, path: str, now_us: Callable[[], int], most_clients: int) -> None:
        self.path = path
        self.asked: list[tuple[int, wire.Event]] = []
        self.left: list[int] = []
        self.clients: dict[int, Client] = {}
        self.peers: list[Peer] = []
        self.server = Server(
            bind_socket(path),
            self.handle,
            self.forget,
            now_us,
            read_bound_credentials,
            most_clients,
        )

    def handle(self, client: Client, event: wire.Event) -> None:
        self.asked.append((client.pid, event))
        self.clients[client.pid] = client
        match event:
            case wire.Malformed():
                client.reply(wire.encode(event.reply()))
            case wire.Hello():
                client.reply(wire.encode(wire.Welcome(event.id, 1, "desk", False)))
            case wire.Subscribe():
                self.server.subscribers.add(client, event.domain, event.domain, Propagation.LOCAL)
                client.reply(wire.encode(wire.Ok(event.id)))
            case wire.Unsubscribe():
                self.server.unsubscribe(client, event.domain)
                client.reply(wire.encode(wire.Ok(event.id)))
            case wire.Register():
                self.server.name_app(client.pid, client)
                client.reply(wire.encode(wire.Ok(event.id)))
            case wire.Unregister():
                self.server.unname_app(client)
                client.reply(wire.encode(wire.Ok(event.id)))
            case wire.Explain():
                raise ZeroDivisionError("a fault of ours")
            case wire.History():
                client.reply(wire.encode(wire.Ok(event.id, {"long": LONG * 8})))
            case _:
                client.reply(wire.encode(wire.Ok(getattr(event, "id", 0))))

    def forget(self, client: Client) -> None:
        self.left.append(client.pid)

    async def connect(self, pid: int, *, uid: int = 1000, hello: bool = True) -> Peer:
        sock = socket_of(pid, uid)
        await sock.connect(self.path)
        peer = Peer(sock, pid)
        self.peers.append(peer)
        if hello:
            await peer.ask(wire.Hello, version=1)
        return peer

    async def subscribe(self, pid: int) -> Peer:
        peer = await self.connect(pid)
        await peer.get(wire.Subscribe)
        return peer

    def tell(self, level: Level, reason: str = "because") -> None:
        self.server.broadcast(Broadcast("system", level, reason, 1024))


@asynccontextmanager
async def opened(
    tmp_path: Path, now_us: Callable[[], int] = lambda: 0, most_clients: int = 100
) -> AsyncIterator[Desk]:
    desk = Desk(str(tmp_path / "socket"), now_us, most_clients)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.server.serve)
            yield desk
            nursery.cancel_scope.cancel()
    finally:
        desk.server.say_bye("closing time")
        for peer in desk.peers:
            peer.close()


# --- streams of requests ---------------------------------------------------------------------------------


async def test_a_thousand_requests_at_once_are_answered_in_order_and_others_are_served_meanwhile(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as desk:
        eager = await desk.connect(1)
        other = await desk.connect(2)
        flood = b"".join(wire.encode(wire.Status(number)) for number in range(1000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(eager.send_bytes, flood)
            await other.ask(wire.Status)
        answered = sum(pid == 1 for pid, _ in desk.asked)
        assert answered < 100, "the other one had to wait for the flood"
        ids = [(await eager.hear(wire.Ok)).id for _ in range(1000)]
        assert ids == list(range(1000))


async def test_of_what_came_in_one_piece_a_few_are_taken_before_others_have_their_turn(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as desk:
        eager, other = await desk.connect(1), await desk.connect(2)
        asked_before = len(desk.asked)
        # Past trio, so that the server does not run between the two.
        os.write(eager.sock.fileno(), wire.encode(wire.Status(1)) * 150)
        os.write(other.sock.fileno(), wire.encode(wire.Status(1)))
        await wait_all_tasks_blocked()
        order = [pid for pid, _ in desk.asked[asked_before:]]
        assert order.count(1) > 8
        assert order.index(2) <= 8


async def test_replies_that_are_not_read_stop_the_reading_of_requests_and_none_is_lost(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as desk:
        peer = await desk.connect(1)
        flood = b"".join(wire.encode(wire.History(number)) for number in range(200))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send_bytes, flood)
            await trio.sleep(1)
            assert len(desk.asked) < 100
            assert len(desk.clients[1].out) <= 65_540
            assert [(await peer.hear(wire.Ok)).id for _ in range(200)] == list(range(200))


async def test_a_request_in_single_bytes_is_a_request(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as desk:
        peer = await desk.connect(1)
        for byte in wire.encode(wire.Status(77)):
            await peer.send_bytes(bytes([byte]))
            await wait_all_tasks_blocked()
        assert (await peer.hear(wire.Ok)).id == 77


async def test_half_a_frame_at_the_end_is_dropped(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as desk:
        peer = await desk.connect(1)
        await peer.send_bytes(wire.encode(wire.Status(77))[:-1])
        await wait_all_tasks_blocked()
        peer.close()
        await wait_all_tasks_blocked()
        assert desk.left == [1]
        assert not [event for _, event in desk.asked if isinstance(event, wire.Status)]


async def test_garbage_is_answered_and_the_connection_stays(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as desk:
        peer = await desk.connect(1)
        for garbage in (b"\xc1", b"\xff" * 1000, b"\x93\x01\x02", b"\x81\xa4type\x01"):
            await peer.send_bytes(wire.encode_frame(garbage))
            assert (await peer.hear(wire.Error)).code == "malformed"
        await peer.get(wire.Status)


async def test_the_longest_frame_is_taken(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with opened(tmp_path) as desk:
        peer = await desk.connect(1)
        head = b"\x83\xa4type\xa6status\xa2id\x07\xa3pad\xc6"
        padding = wire.MAX_FRAME_BYTES - len(head) - 4
        payload = head + padding.to_bytes(4, "big") + bytes(padding)
        assert len(payload) == wire.MAX_FRAME_BYTES
        await peer.send_bytes(wire.encode_frame(payload))
        assert (await peer.hear(wire.Ok)).id == 7


@pytest.mark.parametrize(
    ("length", "code"),
    [(65_537, "frame_too_long"), (2**32 - 1, "frame_too_long"), (0, "malformed")],
)
async def test_a_forbidden_length_is_answered_and_ends_the_connection(
    tmp_path: Path, autojump_clock: MockClock, length: int, code: str
) -> None:
    async with opened(tmp_path) as desk:
        peer = await desk.connect(1)
        await peer.send_bytes(length.to_bytes(4, "big"))
        error = await peer.hear(wire.Error)
        assert (error.id, error.code) == (None, code)
        await peer.hear_end()
        assert desk.left == [1]


async def test_what_came_before_a_forbidden_length_is_answered_first(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as desk:
        peer = await desk.connect(1, hello=False)
        requests = wire.encode(wire.Hello(1, 1)) + wire.encode(wire.Status(2))
        await peer.send_bytes(requests + b"\xff\xff\xff\xff")
        await peer.hear_end()
        assert [type(message) for message in peer.heard] == [wire.Welcome, wire.Ok, wire.Error]


async def test_what_comes_before_hello_does_not_spoil_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as desk:
        peer = await desk.connect(1, hello=False)
        await peer.send_bytes(wire.encode(wire.Status(1)) + wire.encode(wire.Hello(2, 1)))
        assert (await peer.hear(wire.Error)).code == "hello_first"
        assert (await peer.hear(wire.Welcome)).id == 2


@pytest.mark.timeout(10)  # the fault that this is about is a loop without end
async def test_who_asks_much_and_leaves_at_once_is_forgotten(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as desk:
        peer = await desk.connect(1)
        await peer.send_bytes(b"".join(wire.encode(wire.Status(number)) for number in range(50)))
        peer.close()
        await wait_all_tasks_blocked()
        assert desk.left == [1]
        assert len(desk.server) == 0


async def test_a_fault_of_ours_ends_one_client_and_is_logged(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as desk:
        unlucky, other = await desk.connect(1), await desk.connect(2)
        await unlucky.send_bytes(wire.encode(wire.Explain(1, 1)))
        await unlucky.hear_end()
        await other.get(wire.Status)
        assert "ZeroDivisionError" in caplog.text


async def test_a_descriptor_that_is_used_again_belongs_to_the_new_client(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as desk:
        first = await desk.subscribe(1)
        number = desk.clients[1].sock.fileno()
        first.close()
        await wait_all_tasks_blocked()
        second = await desk.connect(2)
        assert desk.clients[2].sock.fileno() == number
        assert desk.server.subscribers.count("system") == 0
        desk.tell(Level.LOW)
        await second.get(wire.Status)
        assert [type(message) for message in second.heard] == [wire.Welcome, wire.Ok]


# --- telling many ------------------------------------------------------------------------------------------


async def test_a_slow_reader_hears_the_latest_level_and_holds_up_nobody(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as desk:
        slow, quick = await desk.subscribe(1), await desk.subscribe(2)
        levels = itertools.cycle(Level)
        for number in range(1000):
            desk.tell(next(levels), f"{number} {LONG}")
            word = await quick.hear(wire.Pressure)
            assert word.reason.startswith(f"{number} ")
        client = desk.clients[1]
        assert client.waiting is not None
        assert len(client.waiting) == 1
        assert len(client.out) < 1000
        while not (last := await slow.hear(wire.Pressure)).reason.startswith("999 "):
            pass
        assert last.level == "critical"
        assert len(slow.heard) < 100
        desk.tell(Level.NORMAL, "after that")
        assert (await slow.hear(wire.Pressure)).reason == "after that"


async def test_a_slow_reader_gets_each_frame_whole_and_the_reply_it_waits_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as desk:
        slow = await desk.subscribe(1)
        for number in range(100):
            desk.tell(Level.LOW, f"{number} {LONG}")
        await slow.send_bytes(wire.encode(wire.Status(7)))
        await wait_all_tasks_blocked()
        assert (await slow.hear(wire.Ok)).id == 7
        desk.tell(Level.NORMAL, "the end")
        while (await slow.hear(wire.Pressure)).reason != "the end":
            pass


async def test_reports_of_kills_wait_for_a_slow_reader_in_bounded_number(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    def victim(number: int) -> ReportKilled:
        killed = Victim(number, 1, f"v{number}\n", AppClass.CACHED, "", 7, Unit.PROCESS, "/", None)
        return ReportKilled("system", killed, LONG, 7)

    async with opened(tmp_path) as desk:
        slow = await desk.subscribe(1)
        for number in range(1, 501):
            desk.server.report(victim(number))
        assert len(desk.clients[1].killed or ()) <= KILLED_MOST
        while (killed := await slow.hear(wire.Killed)).pid != 500:
            pass
        assert killed.name == "v500?"
        assert len(slow.heard) < 100


async def test_a_notice_that_waited_says_the_time_that_is_left_when_it_goes_out(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    now = [0]
    async with opened(tmp_path, lambda: now[0]) as desk:
        slow = await desk.subscribe(1)
        await slow.get(wire.Register, name="slow", app_class="cached")
        for number in range(100):
            desk.tell(Level.LOW, f"{number} {LONG}")
        for number, late in ((1, False), (2, True)):
            desk.server.notify(
                Notify(1, number, "system", Level.LOW, 1, 5_000_000, "shed", simulated=late)
            )
        now[0] = 3_000_000
        notice = await slow.hear(wire.Notice)
        assert (notice.notice, notice.deadline_ms) == (2, 2000), "the latest, with what is left"


async def test_the_numbers_an_app_may_answer_span_its_notices_in_whatever_order_they_came(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Who comes back hears the word that stands in each domain once more, with the numbers these had."""
    async with opened(tmp_path) as desk:
        app = await desk.connect(1)
        await app.get(wire.Register, name="app", app_class="cached")
        client = desk.clients[1]
        assert not client.notices
        for number, span in ((50, range(50, 51)), (30, range(30, 51)), (60, range(30, 61))):
            desk.server.notify(Notify(1, number, "system", Level.LOW, 1, 0, "shed"))
            assert client.notices == span
        await app.get(wire.Unregister)
        await app.get(wire.Register, name="app", app_class="cached")
        assert not client.notices


async def test_what_waits_is_taken_back_by_unsubscribe_and_unregister(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as desk:
        slow = await desk.subscribe(1)
        await slow.get(wire.Register, name="slow", app_class="cached")
        for number in range(100):
            desk.tell(Level.LOW, f"{number} {LONG}")
        desk.server.notify(Notify(1, 1, "system", Level.LOW, 1, 0, "shed"))
        desk.server.warn(WarnKill(1, "too late", 1))
        client = desk.clients[1]
        assert list(client.waiting or ()) == ["pressure system", "notice system", "warning"]
        desk.server.unsubscribe(client, "system")
        desk.server.unname_app(client)
        assert not client.waiting
        desk.tell(Level.CRITICAL)
        await slow.get(wire.Status)
        assert not [word for word in slow.heard if isinstance(word, wire.Notice | wire.KillWarning)]


async def test_a_cgroup_that_died_is_reported_under_pid_0(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as desk:
        peer = await desk.subscribe(1)
        victim = Victim(7, 1, "job", AppClass.CACHED, "", 7, Unit.CGROUP, "/job", None)
        desk.server.report(ReportKilled("system", victim, "because", 7))
        assert (await peer.hear(wire.Killed)).pid == 0


async def test_one_that_has_gone_in_the_middle_of_a_broadcast_is_dropped_and_the_rest_is_told(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as desk:
        peers = [await desk.subscribe(pid) for pid in (1, 2, 3)]
        peers[1].close()
        desk.tell(Level.LOW)  # the server has not seen yet that the second has closed
        assert desk.left == [2]
        for peer in (peers[0], peers[2]):
            assert (await peer.hear(wire.Pressure)).level == "low"


# --- room for connections ------------------------------------------------------------------------------------


async def test_a_full_house_takes_the_next_one_when_somebody_leaves(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, most_clients=2) as desk:
        first, _second = await desk.connect(1), await desk.connect(2, uid=1001)
        third = await desk.connect(3, hello=False)
        await third.send_bytes(wire.encode(wire.Hello(1, 1)))
        await trio.sleep(10)
        assert len(desk.server) == 2
        assert "no more are taken until one leaves" in caplog.text
        first.close()
        await third.hear(wire.Welcome)


async def test_one_user_gets_half_of_all_connections_and_root_as_many_as_there_are(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, most_clients=6) as desk:
        held = [await desk.connect(pid) for pid in (1, 2, 3)]
        for pid in (4, 5):
            refused = await desk.connect(pid, hello=False)
            error = await refused.hear(wire.Error)
            assert (error.id, error.code) == (None, "too_many")
            await refused.hear_end()
        assert caplog.text.count("uid 1000 has 3 connections: it gets no more") == 1
        assert desk.left == [], "who never got in does not leave"
        await desk.connect(6, uid=1001)
        held[0].close()
        await desk.connect(7)
        assert len(desk.server) == 4
    async with opened(tmp_path, most_clients=6) as desk:
        for pid in range(6):
            await desk.connect(pid, uid=0)
        assert len(desk.server) == 6


async def test_a_user_whose_connections_are_all_gone_may_have_as_many_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path, most_clients=4) as desk:
        for _ in range(3):
            peers = [await desk.connect(pid) for pid in (1, 2)]
            refused = await desk.connect(3, hello=False)
            assert (await refused.hear(wire.Error)).code == "too_many"
            for peer in peers:
                peer.close()
            await trio.sleep(1)
            assert len(desk.server) == 0


async def test_without_descriptors_it_pauses_and_tries_again_though_nobody_leaves(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "lmkd")
    async with opened(tmp_path) as desk:
        peer = Peer(socket_of(1), 1)
        desk.peers.append(peer)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            await peer.sock.connect(desk.path)
            await trio.sleep(5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert len(desk.server) == 0
        assert caplog.text.count("no connection can be taken: Too many open files") == 1
        assert isinstance(await peer.ask(wire.Hello, version=1), wire.Welcome)


# --- frames ------------------------------------------------------------------------------------------------


def test_a_reason_of_any_length_and_a_negative_amount_are_brought_within_the_rules() -> None:
    (message,) = _decode(pressure_frame("system", Level.LOW, "r" * 600, -5))
    assert isinstance(message, wire.Pressure)
    assert (len(message.reason), message.available_bytes) == (512, 0)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a\nb\x1b[31m", "a?b?[31m"), ("é" * 70, "é" * 64), ("\udcff", "?"), ("", "")],
)
def test_a_name_is_made_printable(name: str, shown: str) -> None:
    assert printable(name) == shown


def _decode(frame: bytes) -> list[wire.Message | wire.UnknownMessage]:
    return [wire.decode(frame[4:])]


async def test_a_flood_of_many_keeps_nobody_waiting_for_longer_than_a_turn(tmp_path: Path) -> None:
    """Fifty clients ask for all they can get; between two turns others run, the readings among them."""
    request_us, clock = 300, [0]
    async with opened(tmp_path, lambda: clock[0]) as desk:
        peers = [await desk.connect(100 + number) for number in range(50)]
        answer = desk.handle

        def handle(client: Client, event: wire.Event) -> None:
            clock[0] += request_us
            answer(client, event)

        desk.server._handle = handle
        asked = len(desk.asked)
        flood = b"".join(wire.encode(wire.Status(number)) for number in range(10))
        for peer in peers:
            os.write(peer.sock.fileno(), flood)  # all at once: nobody is served meanwhile
        waits = []
        while len(desk.asked) < asked + 50 * 10:
            before_us = clock[0]
            await trio.lowlevel.checkpoint()
            waits.append(clock[0] - before_us)
        # A client's few requests are not cut in half.
        assert max(waits) <= TURN_US + REQUESTS_A_TURN * request_us
        served = [pid for pid, _ in desk.asked[asked : asked + 50 * REQUESTS_A_TURN]]
        assert len(set(served)) == 50, "some had all of theirs before others had any"
