"""The one-liner: called back in a thread, whatever the daemon and the callback do."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import lmkd_client
import pytest
from lmkd_client import Backoff, LocalProtocolError
from lmkd_client.listener import Listener
from lmkd_proto import Ack, Error, Notice, Ok, Register, Update

from .fake_daemon import GRANT, PATIENCE_S, FakeDaemon, notice


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


def listen(
    path: str,
    shed: Callable[[Notice], int | None],
    report: Callable[[Exception], None] | None = None,
) -> Listener:
    return lmkd_client.on_pressure(
        shed, name="cache", sheddable_bytes=99, path=path, backoff=Backoff(2, 8), report=report
    )


@pytest.mark.parametrize(
    ("freed_bytes", "answer"), [(5, ("done", 5)), (0, ("nothing", 0)), (None, ("done", 0))]
)
def test_what_the_callback_returns_is_what_is_answered(
    path: str, freed_bytes: int | None, answer: tuple[str, int]
) -> None:
    told: list[Notice] = []

    def shed(asked: Notice) -> int | None:
        told.append(asked)
        return freed_bytes

    with FakeDaemon(path) as daemon:
        listener = listen(path, shed)
        with daemon.accept() as peer:
            assert peer.greet().name == "cache"
            register = peer.grant(notice(1, "critical"))
            assert register == Register(register.id, "cache", "cached", 99)
            ack = peer.expect(Ack)
            assert (ack.notice, (ack.answer, ack.freed_bytes)) == (1, answer)
            assert listener.level == "critical"
            assert listener.grant is not None
            peer.say(Ok(ack.id), notice(2, "normal"))
            last_s = time.monotonic() + PATIENCE_S
            while listener.level != "normal":
                assert time.monotonic() < last_s
            peer.say(notice(3, "low"))
            peer.say(Ok(peer.expect(Ack).id))
            listener.close()
            peer.expect_end()
        # The fall to normal asked for nothing.
        assert [seen.notice for seen in told] == [1, 3]
        assert listener.level == "normal"


def test_to_free_nothing_when_nothing_is_asked_is_not_to_have_nothing(path: str) -> None:
    with FakeDaemon(path) as daemon:
        listener = listen(path, lambda asked: 0)
        with daemon.accept() as peer:
            peer.greet()
            peer.grant(notice(1, target_bytes=0))
            ack = peer.expect(Ack)
            assert (ack.answer, ack.freed_bytes) == ("done", 0)
            peer.say(Ok(ack.id))
            listener.close()


def test_an_error_in_the_callback_is_reported_and_ends_nothing(path: str) -> None:
    reported: queue.Queue[Exception] = queue.Queue()
    returns: list[object] = [KeyError("a mistake of the program"), -1, "much", 7]

    def shed(asked: Notice) -> int | None:
        what = returns.pop(0)
        if isinstance(what, Exception):
            raise what
        return what  # type: ignore[return-value]

    with FakeDaemon(path) as daemon:
        listener = listen(path, shed, reported.put)
        with daemon.accept() as peer:
            peer.greet()
            peer.grant(notice(1))
            answers = []
            for number in (2, 3, 4, 5):
                ack = peer.expect(Ack)
                answers.append((ack.notice, ack.answer, ack.freed_bytes))
                peer.say(Ok(ack.id), *([notice(number)] if number < 5 else []))
            listener.close()
        assert answers == [(1, "nothing", 0), (2, "nothing", 0), (3, "nothing", 0), (4, "done", 7)]
        kinds = [type(reported.get(timeout=PATIENCE_S)) for _ in range(3)]
        assert kinds == [KeyError, LocalProtocolError, TypeError]


def test_without_a_report_an_error_goes_where_errors_of_threads_go(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", hooked.append)

    def shed(asked: Notice) -> int:
        raise KeyError("mine")

    with FakeDaemon(path) as daemon:
        listener = listen(path, shed)
        with daemon.accept() as peer:
            peer.greet()
            peer.grant(notice(1))
            peer.say(Ok(peer.expect(Ack).id))
            listener.close()
    (args,) = hooked
    assert args.exc_type is KeyError
    assert args.thread is not None
    assert args.thread.name == "lmkd shed"


@pytest.mark.parametrize("raised", [SystemExit(3), KeyError("and the report raises as well")])
def test_whatever_the_callback_raises_the_next_notice_is_answered(
    path: str, raised: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", hooked.append)
    raises = [raised]

    def shed(asked: Notice) -> int:
        if raises:
            raise raises.pop()
        return 5

    def report(error: Exception) -> None:
        raise error

    with FakeDaemon(path) as daemon:
        listener = listen(path, shed, report)
        with daemon.accept() as peer:
            peer.greet()
            peer.grant(notice(1))
            ack = peer.expect(Ack)
            assert (ack.answer, ack.freed_bytes) == ("nothing", 0)
            peer.say(Ok(ack.id), notice(2))
            ack = peer.expect(Ack)
            assert (ack.answer, ack.freed_bytes) == ("done", 5)
            peer.say(Ok(ack.id))
            listener.close()
    assert [args.exc_value for args in hooked] == [raised]


def test_of_notices_that_come_while_one_is_worked_on_only_the_latest_is_worked_on_next(
    path: str,
) -> None:
    told: list[int] = []
    working, go_on = threading.Event(), threading.Event()

    def shed(asked: Notice) -> int:
        told.append(asked.notice)
        working.set()
        assert go_on.wait(PATIENCE_S)
        return 1

    with FakeDaemon(path) as daemon:
        listener = listen(path, shed)
        with daemon.accept() as peer:
            peer.greet()
            peer.grant(notice(1))
            assert working.wait(PATIENCE_S)
            # More than one read takes.
            peer.say(*[notice(number) for number in range(2, 1500)])
            go_on.set()
            first = peer.expect(Ack)
            assert first.notice == 1
            # Too late for it: the daemon may say so, and it is no news to the program.
            peer.say(Error(first.id, "unknown_notice", "not the latest"))
            last = peer.expect(Ack)
            assert last.notice == 1499
            peer.say(Ok(last.id))
            listener.close()
            peer.expect_end()
    assert told == [1, 1499]


def test_it_comes_back_whenever_the_daemon_does_and_says_nothing_in_between(
    path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[int] = []

    def shed(asked: Notice) -> int:
        told.append(asked.notice)
        return 1

    with FakeDaemon(path) as daemon:
        daemon.stop()
        listener = listen(path, shed)  # nobody there: that is no error
        daemon.start()
        for number in (1, 2):
            with daemon.accept() as peer:
                peer.greet()
                peer.grant(notice(number))
                peer.expect(Ack)  # and is gone before it answers
        with daemon.accept() as peer:
            peer.greet()
            peer.say(Error(peer.expect(Register).id, "too_many", "enough"))
            peer.expect_end()
        with daemon.accept() as peer:
            peer.greet()
            peer.grant(notice(3))
            peer.say(Ok(peer.expect(Ack).id))
            listener.close()
    assert told == [1, 2, 3]
    assert capfd.readouterr() == ("", "")


def test_an_update_reaches_the_daemon_while_the_thread_waits_and_holds_after_a_restart(
    path: str,
) -> None:
    with FakeDaemon(path) as daemon:
        listener = listen(path, lambda asked: 0)
        with daemon.accept() as peer:
            peer.greet()
            peer.grant()
            listener.update(sheddable_bytes=12)
            update = peer.expect(Update)
            assert update.sheddable_bytes == 12
            peer.say(Ok(update.id, GRANT))
        with daemon.accept() as peer:
            peer.greet()
            assert peer.grant().sheddable_bytes == 12
            listener.close()


def test_close_ends_a_thread_that_waits_for_a_daemon_that_never_greets(path: str) -> None:
    with FakeDaemon(path) as daemon:
        listener = listen(path, lambda asked: 0)
        with daemon.accept() as peer:
            listener.close()
            assert not listener._thread.is_alive()
            peer.close()


def test_close_is_allowed_from_within_the_callback(path: str) -> None:
    listeners: queue.Queue[Listener] = queue.Queue()

    def shed(asked: Notice) -> int:
        listeners.get(timeout=PATIENCE_S).close()
        return 1

    with FakeDaemon(path) as daemon:
        listener = listen(path, shed)
        listeners.put(listener)
        with daemon.accept() as peer:
            peer.greet()
            peer.grant(notice(1))
            listener._thread.join(PATIENCE_S)
            assert not listener._thread.is_alive()


def test_a_mistake_in_the_one_line_itself_is_told_at_once(path: str) -> None:
    with pytest.raises(LocalProtocolError, match="'class': expected one of"):
        lmkd_client.on_pressure(lambda asked: 0, name="cache", app_class="first", path=path)
