"""What only the blocking shell has: times that are up, and other threads."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from lmkd_client import (
    BusyClient,
    Client,
    ClosedClient,
    ConnectionLost,
    DaemonUnavailable,
    connect,
)
from lmkd_proto import Hello, Ok, Register, Status, Subscribe, Unregister, Unsubscribe

from .fake_daemon import PATIENCE_S, FakeDaemon, notice, pressure


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


def test_a_daemon_that_never_greets_is_given_up_in_time(path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.expect(Hello)
            peer.expect_end()

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        with pytest.raises(ConnectionLost, match="no greeting came in time"):
            connect(path, reply_timeout_ms=20)


def test_a_daemon_that_never_answers_is_given_up_in_time(path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.expect(Status)
            peer.expect_end()

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        with connect(path, reconnect=False, reply_timeout_ms=1000) as client:
            client._reply_timeout_ms = 20
            with pytest.raises(ConnectionLost, match="no answer came in time"):
                client.status()


def test_a_wait_ends_when_its_time_is_up_and_misses_nothing(path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.show(pressure("low"))
            peer.grant()
            peer.say(Ok(peer.expect(Status).id), pressure("medium"), notice(1))
            peer.expect_end()

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        with connect(path) as client:
            levels = client.subscribe()
            notices = client.register("cache", "cached").notices()
            assert levels.wait(PATIENCE_S * 1000) == pressure("low")
            assert levels.wait(1) is None
            assert notices.wait(0) is None
            client.status()
            assert levels.wait(PATIENCE_S * 1000) == pressure("medium")
            assert notices.wait(PATIENCE_S * 1000) == notice(1)


def test_another_thread_may_interrupt_a_wait_or_end_it(path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.show(pressure("low"))
            peer.expect_end()

    ends: list[object] = []
    interrupted = threading.Event()

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        client = connect(path)
        levels = client.subscribe()
        assert next(levels) == pressure("low")

        def wait_twice() -> None:
            ends.append(levels.wait())
            interrupted.set()
            try:
                next(levels)
            except ClosedClient as error:
                ends.append(error)

        waiting = threading.Thread(target=wait_twice)
        waiting.start()
        client.interrupt()
        assert interrupted.wait(PATIENCE_S)
        client.close()
        client.close()  # again: nothing left to do
        client.interrupt()
        waiting.join(PATIENCE_S)
        assert not waiting.is_alive()
    assert ends[0] is None
    assert isinstance(ends[1], ClosedClient)


def test_two_threads_cannot_use_one_client_at_once(path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.expect_end()

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        with connect(path) as client:
            client._claim()  # as the other thread does while it waits
            with pytest.raises(BusyClient, match="another thread"):
                client.status()
            client._turn.release()


def test_no_descriptor_is_left_behind(path: str) -> None:
    def open_fds() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.expect_end()

    before = open_fds()
    with pytest.raises(DaemonUnavailable):
        connect(path)
    with FakeDaemon(path) as daemon:
        daemon.run(script)
        client: Client = connect(path)
        client.close()
    assert open_fds() == before


def test_an_interrupted_subscription_or_registration_is_taken_back(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            first = peer.expect(Subscribe)
            peer.expect(Unsubscribe)
            second = peer.expect(Register)
            peer.expect(Unregister)
            peer.say(Ok(first.id), Ok(second.id))
            peer.show(pressure("low"))
            peer.grant()
            peer.expect_end()

    def press_ctrl_c(reply: object) -> None:
        raise KeyboardInterrupt

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        with connect(path) as client:
            with monkeypatch.context() as patched:
                patched.setattr(client, "_wait_reply", press_ctrl_c)
                with pytest.raises(KeyboardInterrupt):
                    client.subscribe()
                with pytest.raises(KeyboardInterrupt):
                    client.register("cache", "cached")
            assert next(client.subscribe()) == pressure("low")
            client.register("cache", "cached")
