"""Notices that are shed for by themselves, over all the ways to wait: the thread, and the three shells."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import lmkd_client
import lmkd_client.asyncio
import lmkd_client.trio
import msgpack
import pytest
import trio
from lmkd_client import Backoff, Listener, Notice, Shedders
from lmkd_client.rehearsal import AwaitedRehearsal
from lmkd_client.testing import FakeLmkd
from lmkd_proto import MAX_FRAME_BYTES, Ack, Error, Ok, Simulate, encode_frame

from .fake_daemon import PATIENCE_S, FakeDaemon, notice
from .heap import Block, Heap

Act = Callable[[FakeLmkd], None]


def run_thread(shedders: Shedders, lmkd: FakeLmkd, act: Act) -> None:
    listener = lmkd_client.shed_on_pressure(
        name="cache", sheddable_bytes=5000, shedders=shedders, backoff=Backoff(2, 8)
    )
    try:
        act(lmkd)
    finally:
        listener.close()


def run_blocking(shedders: Shedders, lmkd: FakeLmkd, act: Act) -> None:
    client = lmkd_client.connect(backoff=Backoff(2, 8))

    def serve() -> None:
        app = client.register("cache", "cached", 5000)
        with suppress(lmkd_client.ClosedClient):
            for notice in app.notices():
                app.shed(notice, shedders)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        act(lmkd)
    finally:
        client.close()
        thread.join()


def run_asyncio(shedders: Shedders, lmkd: FakeLmkd, act: Act) -> None:
    async def main() -> None:
        task = asyncio.create_task(
            lmkd_client.asyncio.shed_on_pressure(
                name="cache", sheddable_bytes=5000, shedders=shedders, backoff=Backoff(2, 8)
            )
        )
        await asyncio.to_thread(act, lmkd)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def run_trio(shedders: Shedders, lmkd: FakeLmkd, act: Act) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(
                    lmkd_client.trio.shed_on_pressure,
                    name="cache",
                    sheddable_bytes=5000,
                    shedders=shedders,
                    backoff=Backoff(2, 8),
                )
            )
            await trio.to_thread.run_sync(act, lmkd)
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.fixture
def listener(lmkd: FakeLmkd) -> Iterator[Listener]:
    """A program that frees 70 bytes, each time."""
    heap = Heap()
    shedders = heap.shedders()

    def shed(target_bytes: int) -> None:
        heap.held -= 70

    shedders.add_callback(shed)
    listener = lmkd_client.shed_on_pressure(
        name="cache", sheddable_bytes=500, shedders=shedders, backoff=Backoff(2, 8)
    )
    yield listener
    listener.close()


Run = Callable[[Shedders, FakeLmkd, Act], None]
each_way = pytest.mark.parametrize("run", [run_thread, run_blocking, run_asyncio, run_trio])


@each_way
def test_it_sheds_and_says_what_was_measured_and_what_is_normal_asks_for_nothing(
    run: Run, lmkd: FakeLmkd
) -> None:
    heap = Heap()
    shedders = heap.shedders()
    block = Block(heap, 800)
    shedders.add(block)

    def act(lmkd: FakeLmkd) -> None:
        assert lmkd.wait_app().name == "cache"
        answered = lmkd.notice("low", target_bytes=500)
        assert (answered.answer, answered.freed_bytes) == ("nothing", 0)
        answered = lmkd.notice("critical", target_bytes=500)
        assert (answered.answer, answered.freed_bytes) == ("done", 800)
        lmkd.tell("normal")
        answered = lmkd.notice("medium", target_bytes=500)
        assert (answered.answer, answered.freed_bytes) == ("nothing", 0)

    run(shedders, lmkd, act)
    assert block.asked == [500, 500]


@each_way
def test_a_daemon_that_restarts_in_mid_notice_costs_the_answer_and_nothing_else(
    run: Run, lmkd: FakeLmkd
) -> None:
    heap = Heap()
    shedders = heap.shedders()
    working, go_on = threading.Event(), threading.Event()

    def shed(target_bytes: int) -> None:
        working.set()
        assert go_on.wait(PATIENCE_S)
        heap.held -= 10

    shedders.add_callback(shed)

    def act(lmkd: FakeLmkd) -> None:
        lmkd.tell("critical", target_bytes=5)
        assert working.wait(PATIENCE_S)
        lmkd.restart()
        go_on.set()
        assert lmkd.notice("critical", target_bytes=5).freed_bytes == 10

    run(shedders, lmkd, act)


@each_way
def test_an_answer_that_is_refused_is_no_news_and_the_next_notice_is_shed_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heap = Heap()
    shedders = heap.shedders()
    blocks = [Block(heap, 10), Block(heap, 20)]
    for block in blocks:
        shedders.add(block)
    answers: list[int] = []

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.grant(notice(1, target_bytes=5))
            first = peer.expect(Ack)
            peer.say(
                Error(first.id, "unknown_notice", "not the latest"), notice(2, target_bytes=15)
            )
            second = peer.expect(Ack)
            peer.say(Ok(second.id))
            answers.extend([first.freed_bytes, second.freed_bytes])
            done.set()
            while peer.hear() is not None:
                pass

    done = threading.Event()
    monkeypatch.setenv("LMKD_SOCKET", str(tmp_path / "socket"))
    with FakeDaemon(str(tmp_path / "socket")) as daemon:
        daemon.run(script)
        run(shedders, FakeLmkd(""), lambda lmkd: assert_set(done))
    assert answers == [10, 20]


def assert_set(event: threading.Event) -> None:
    assert event.wait(PATIENCE_S)


@each_way
def test_a_notice_that_comes_while_one_is_shed_for_is_shed_for_next_and_only_the_latest(
    run: Run, lmkd: FakeLmkd
) -> None:
    heap = Heap()
    shedders = heap.shedders()
    asked: list[int] = []
    working, go_on = threading.Event(), threading.Event()

    def shed(target_bytes: int) -> None:
        asked.append(target_bytes)
        working.set()
        assert go_on.wait(PATIENCE_S)
        heap.held -= target_bytes

    shedders.add_callback(shed)

    def act(lmkd: FakeLmkd) -> None:
        lmkd.tell("medium", target_bytes=5)
        assert working.wait(PATIENCE_S)
        for target_bytes in (6, 7):
            lmkd.tell("critical", target_bytes=target_bytes)
        last = lmkd.tell("critical", target_bytes=8)
        go_on.set()
        assert lmkd.wait_answer(last).freed_bytes == 8

    run(shedders, lmkd, act)
    assert asked == [5, 8]


@pytest.mark.parametrize("run", [run_blocking, run_asyncio, run_trio])
def test_between_two_pieces_who_needs_longer_says_so(run: Run, lmkd: FakeLmkd) -> None:
    heap = Heap()
    shedders = heap.shedders()
    blocks = [Block(heap, 10, takes_ms=40_000) for _ in range(2)]
    for block in blocks:
        shedders.add(block)

    def act(lmkd: FakeLmkd) -> None:
        answered = lmkd.notice(target_bytes=100, deadline_ms=60_000)
        assert answered.said_working
        assert (answered.answer, answered.freed_bytes) == ("done", 20)

    run(shedders, lmkd, act)


def test_the_thread_says_working_in_the_middle_of_one_long_piece(lmkd: FakeLmkd) -> None:
    shed_on, told_ns = threading.Event(), []

    def shed(notice: Notice) -> int:
        told_ns.append(notice.notice)
        assert shed_on.wait(PATIENCE_S)
        return 3

    listener = lmkd_client.on_pressure(shed, name="cache", sheddable_bytes=9)
    try:
        told = lmkd.tell("critical", deadline_ms=2)
        with lmkd.changed:
            while not _words(lmkd):
                assert lmkd.changed.wait(PATIENCE_S)
            assert _words(lmkd) == [("working", 0)]
        shed_on.set()
        with lmkd.changed:
            while len(_words(lmkd)) < 2:
                assert lmkd.changed.wait(PATIENCE_S)
        assert _words(lmkd)[1] == ("done", 3)
        assert told_ns == [told.notice]
    finally:
        shed_on.set()
        listener.close()


def _words(lmkd: FakeLmkd) -> list[tuple[str, int]]:
    return [
        word for talk in lmkd._conversations for told in talk.told.values() for word in told.words
    ]


def test_a_notice_that_fills_its_frame_and_what_a_later_daemon_says_are_no_matter(
    lmkd: FakeLmkd, listener: Listener
) -> None:
    lmkd.wait_app()
    lmkd.say_bytes(encode_frame(b"\x81\xa4type\xa6parked"))  # an unknown push
    notice = {"type": "notice", "notice": 9, "domain": "system", "level": "critical"}
    notice |= {"target_bytes": 70, "deadline_ms": 1000, "reason": "a test"}
    size = MAX_FRAME_BYTES - len(msgpack.packb({**notice, "padding": b""})) - 1
    lmkd.say_bytes(encode_frame(msgpack.packb({**notice, "padding": bytes(size)})))
    with lmkd.changed:
        # The fake knows no notice 9: its refusal is no matter either.
        while listener.level != "critical":
            assert lmkd.changed.wait(PATIENCE_S)
    assert lmkd.notice(target_bytes=5).freed_bytes == 70


def test_a_daemon_that_goes_away_for_good_is_looked_for_with_growing_pauses_and_no_word(
    lmkd: FakeLmkd, capfd: pytest.CaptureFixture[str]
) -> None:
    pauses: list[int] = []
    away_long_enough = threading.Event()

    def draw(below: int) -> int:
        pauses.append(2 * (below - 1))
        if len(pauses) == 7:
            away_long_enough.set()
        return 0

    listener = lmkd_client.shed_on_pressure(
        name="cache", shedders=Heap().shedders(), backoff=Backoff(2, 16, draw)
    )
    try:
        lmkd.wait_app()
        lmkd.stop()
        assert away_long_enough.wait(PATIENCE_S)
        with pytest.raises(
            lmkd_client.DaemonUnavailable, match=f"^no lmkd at {lmkd.path}: No such"
        ):
            listener.simulate("low")
        assert (listener.level, listener.grant) == ("normal", None)
    finally:
        listener.close()
    assert pauses[:7] == [2, 4, 8, 16, 16, 16, 16]
    assert capfd.readouterr() == ("", "")


# --- rehearsals ------------------------------------------------------------------------------------------


def test_a_rehearsal_shows_what_the_program_does_and_is_over_when_it_returns(
    lmkd: FakeLmkd, listener: Listener
) -> None:
    for level in ("low", "critical", "medium"):
        seen = lmkd_client.simulate(level, 10)
        assert (seen.notice.level, seen.notice.target_bytes) == (level, 500)
        assert seen.notice.simulated
        freed_bytes = 0 if level == "low" else 70
        assert (seen.answer, seen.freed_bytes) == (
            "done" if freed_bytes else "nothing",
            freed_bytes,
        )
        assert 0 <= seen.took_ms < PATIENCE_S * 1000
        assert listener.level == "normal"


def test_a_rehearsal_without_a_daemon_or_of_nobody_is_one_clear_error_at_once(
    lmkd: FakeLmkd, listener: Listener
) -> None:
    lmkd.wait_app()
    lmkd.stop()
    error: Exception = lmkd_client.ConnectionLost("", "not known yet")
    while isinstance(error, lmkd_client.ConnectionLost):  # it may not have heard of the end yet
        with pytest.raises(lmkd_client.LmkdError) as caught:
            lmkd_client.simulate("low")
        error = caught.value
    assert isinstance(error, lmkd_client.DaemonUnavailable)
    assert str(error) == f"no lmkd at {lmkd.path}: No such file or directory"
    listener.close()
    with pytest.raises(lmkd_client.ClosedClient, match="this listener is closed"):
        listener.simulate("low")
    with pytest.raises(lmkd_client.ClosedClient, match="calls on_pressure or shed_on_pressure"):
        lmkd_client.simulate("low")


def test_a_daemon_that_has_not_quite_ended_the_one_before_is_asked_again(tmp_path: Path) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.grant()
            for _ in range(2):
                peer.say(Error(peer.expect(Simulate).id, "busy", "one is still running"))
            asked = peer.expect(Simulate)
            told = Notice(4, "system", asked.level, 9, 1000, "a test", False, True)
            peer.say(Ok(asked.id), told)
            peer.say(Ok(peer.expect(Ack).id), notice(5, "normal"))
            peer.say(Error(peer.expect(Simulate).id, "too_many", "enough of it"))
            peer.expect_end()

    with FakeDaemon(str(tmp_path / "socket")) as daemon:
        daemon.run(script)
        listener = lmkd_client.on_pressure(lambda notice: 9, name="cache", path=daemon.path)
        try:
            assert listener.simulate("low").freed_bytes == 9
            with pytest.raises(lmkd_client.RequestRefused, match="too_many: enough of it"):
                listener.simulate("low")
        finally:
            listener.close()


def test_who_rehearses_does_not_wait_for_the_end_of_a_pause(tmp_path: Path) -> None:
    away = threading.Event()

    def draw(below: int) -> int:
        away.set()
        return 0

    path = str(tmp_path / "socket")
    listener = lmkd_client.on_pressure(
        lambda notice: 9, name="cache", path=path, backoff=Backoff(600_000, 600_000, draw)
    )
    try:
        assert away.wait(PATIENCE_S)
        with FakeLmkd(path):
            assert listener.simulate("low", 1).freed_bytes == 9
    finally:
        listener.close()


def test_a_rehearsal_is_what_was_simulated_and_its_first_failure_counts() -> None:
    real = Notice(1, "system", "medium", 9, 1000, "a test")
    simulated = replace(real, notice=2, simulated=True)
    rehearsal = AwaitedRehearsal("medium", 1)
    rehearsal.is_asked = True
    rehearsal.told(real)
    rehearsal.answered(real, "done", 9, 1)
    rehearsal.told(simulated)
    with pytest.raises(TimeoutError, match="was told and has not answered"):
        rehearsal.wait(0)
    rehearsal.answered(simulated, "done", 7, 1)
    rehearsal.told(replace(simulated, notice=3))
    with pytest.raises(TimeoutError, match="the daemon has not ended it"):
        rehearsal.wait(0)
    rehearsal.told(replace(real, notice=4))
    assert rehearsal.wait(0).freed_bytes == 7
    for why in ("first", "second"):
        rehearsal.fail(lmkd_client.ConnectionLost("/socket", why))
    with pytest.raises(lmkd_client.ConnectionLost, match="first"):
        rehearsal.wait(0)


def test_a_rehearsal_of_what_is_none_is_refused_before_anything_is_said(
    lmkd: FakeLmkd, listener: Listener
) -> None:
    with pytest.raises(ValueError, match="level: normal asks for nothing"):
        lmkd_client.simulate("normal")
    with pytest.raises(lmkd_client.LocalProtocolError, match="'level': expected one of"):
        lmkd_client.simulate("high")


def test_a_program_that_does_not_answer_its_rehearsal_is_told_so(lmkd: FakeLmkd) -> None:
    go_on = threading.Event()
    errors: list[Exception] = []

    def shed(notice: Notice) -> int:
        try:
            lmkd_client.simulate("low")
        except lmkd_client.BusyClient as error:
            errors.append(error)
        assert go_on.wait(PATIENCE_S)
        return 1

    listener = lmkd_client.on_pressure(shed, name="cache", sheddable_bytes=9)
    try:
        lmkd.wait_app()
        with pytest.raises(TimeoutError, match="after 50 ms this program was told and has not"):
            listener.simulate("critical", 10, timeout_ms=50)
        assert [str(error) for error in errors] == ["this is what sheds: it would wait for itself"]
    finally:
        go_on.set()
        listener.close()


def test_a_rehearsal_ends_with_the_connection(lmkd: FakeLmkd, listener: Listener) -> None:
    ends: list[Exception] = []

    def rehearse() -> None:
        try:
            listener.simulate("low", 600_000)
        except lmkd_client.LmkdError as error:
            ends.append(error)

    lmkd.wait_app()
    thread = threading.Thread(target=rehearse)
    thread.start()
    with lmkd.changed:
        while not _words(lmkd):
            assert lmkd.changed.wait(PATIENCE_S)
    with pytest.raises(lmkd_client.BusyClient, match="another thread rehearses already"):
        listener.simulate("low")
    lmkd.restart()
    thread.join()
    (error,) = ends
    assert isinstance(error, lmkd_client.ConnectionLost)
    assert lmkd.wait_app().name == "cache"
