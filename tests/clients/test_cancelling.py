"""The asynchronous shells, cancelled at the worst moment: no frame is torn, and nothing stays behind."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import lmkd_client.asyncio
import lmkd_client.trio
import pytest
import trio
import trio.testing
from lmkd_client import ConnectionLost, Reload, SetClass
from lmkd_proto import Bye, Ok, Register, Status, Subscribe, Unregister, Unsubscribe

from .fake_daemon import PATIENCE_S, FakeDaemon, pressure

MANY = 4000
"""Requests that no socket takes all at once."""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


def serve_late(daemon: FakeDaemon, told: socket.socket) -> None:
    """Greet, read nothing until told to, and then find every frame whole and in order."""
    with daemon.accept() as peer:
        peer.greet()
        told.recv(1)
        for number in range(MANY):
            assert peer.expect(SetClass).app == number
        peer.say(Ok(peer.expect(Status).id, {"whole": True}))
        peer.expect_end()


def test_a_trio_task_cancelled_while_its_frame_is_half_sent_tears_nothing(path: str) -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE_S)

    async def expect_whole(client: lmkd_client.trio.Client) -> None:
        with trio.fail_after(PATIENCE_S):
            assert await client.status() == {"whole": True}

    async def run() -> None:
        async with lmkd_client.trio.connect(path) as client:
            async with trio.open_nursery() as nursery:
                for number in range(MANY):
                    nursery.start_soon(client.request, SetClass(0, number, "cached"))
                    await trio.lowlevel.checkpoint()
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            assert client._session.outgoing, "all of it fitted: the test shows nothing"
            async with trio.open_nursery() as nursery:
                # Said before there is room for it: who sends the rest is not who asks.
                nursery.start_soon(expect_whole, client)
                await trio.testing.wait_all_tasks_blocked()
                ours.send(b"!")

    with ours, theirs, FakeDaemon(path) as daemon:
        daemon.run(lambda daemon: serve_late(daemon, theirs))
        trio.run(run)


def test_an_asyncio_task_cancelled_while_its_frame_is_half_sent_tears_nothing(path: str) -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE_S)

    async def run() -> None:
        async with lmkd_client.asyncio.connect(path) as client:
            tasks = []
            for number in range(MANY):
                tasks.append(asyncio.create_task(client.request(SetClass(0, number, "cached"))))
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert client._session.outgoing, "all of it fitted: the test shows nothing"
            # Said before there is room for it: who sends the rest is not who asks.
            status = asyncio.create_task(client.status())
            await asyncio.sleep(0)
            ours.send(b"!")
            async with asyncio.timeout(PATIENCE_S):
                assert await status == {"whole": True}

    with ours, theirs, FakeDaemon(path) as daemon:
        daemon.run(lambda daemon: serve_late(daemon, theirs))
        asyncio.run(run())


def take_back(daemon: FakeDaemon) -> None:
    """See a subscription and a registration come, unanswered, and go again."""
    with daemon.accept() as peer:
        peer.greet()
        first = peer.expect(Subscribe)
        peer.expect(Unsubscribe)
        second = peer.expect(Register)
        unregister = peer.expect(Unregister)
        peer.say(Ok(first.id), pressure("critical"), Ok(second.id), Ok(unregister.id))
        peer.show(pressure("low"))
        peer.expect_end()


def test_a_cancelled_subscription_or_registration_is_taken_back_in_trio(path: str) -> None:
    async def run() -> None:
        async with lmkd_client.trio.connect(path) as client:
            with trio.move_on_after(0.01) as scope:
                await client.subscribe()
            assert scope.cancelled_caught
            with trio.move_on_after(0.01) as scope:
                await client.register("cache", "cached")
            assert scope.cancelled_caught
            with trio.fail_after(PATIENCE_S):
                assert await anext(await client.subscribe()) == pressure("low")

    with FakeDaemon(path) as daemon:
        daemon.run(take_back)
        trio.run(run)


def test_a_cancelled_subscription_or_registration_is_taken_back_in_asyncio(path: str) -> None:
    async def run() -> None:
        async with lmkd_client.asyncio.connect(path) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await client.subscribe()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await client.register("cache", "cached")
            async with asyncio.timeout(PATIENCE_S):
                assert await anext(await client.subscribe()) == pressure("low")

    with FakeDaemon(path) as daemon:
        daemon.run(take_back)
        asyncio.run(run())


def test_a_cancelled_wait_for_an_event_loses_none(path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.show(pressure("low"))
            peer.say(Ok(peer.expect(Status).id), pressure("medium"))
            peer.expect_end()

    async def run() -> None:
        async with lmkd_client.trio.connect(path) as client:
            levels = await client.subscribe()
            assert await anext(levels) == pressure("low")
            with trio.move_on_after(0):
                await anext(levels)
            await client.status()
            with trio.CancelScope() as scope:
                scope.cancel()
                await anext(levels)
            assert scope.cancelled_caught
            with trio.fail_after(PATIENCE_S):
                assert await anext(levels) == pressure("medium")

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        trio.run(run)


def say_bye_and_leave(daemon: FakeDaemon, left: threading.Event) -> None:
    with daemon.accept() as peer:
        peer.greet()
        peer.show(pressure("low"))
        peer.expect(Reload)
        peer.say(Bye("no more today"))
    left.set()


def test_what_the_daemon_said_last_is_told_to_who_speaks_after_it_left(path: str) -> None:
    left = threading.Event()

    async def run() -> None:
        async with lmkd_client.trio.connect(path) as client:
            await client.subscribe()
            client._session.ask(Reload(0))
            client._say()
            # No checkpoint from here on, so nobody has read the bye when we speak into the closed socket.
            left.wait(PATIENCE_S)
            with pytest.raises(ConnectionLost, match="it left: no more today"):
                await client.status()

    with FakeDaemon(path) as daemon:
        daemon.run(lambda daemon: say_bye_and_leave(daemon, left))
        trio.run(run)
