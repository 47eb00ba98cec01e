"""The contract of the three shells: what holds for one holds for all, against a scripted daemon on a real socket."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lmkd_client import (
    Backoff,
    BusyClient,
    ClosedClient,
    ConnectionLost,
    DaemonUnavailable,
    LocalProtocolError,
    RequestRefused,
    Status,
)
from lmkd_client.session import Question
from lmkd_proto import (
    MAX_FRAME_BYTES,
    Ack,
    Bye,
    Error,
    Explain,
    Hello,
    History,
    Killed,
    KillWarning,
    Notice,
    Ok,
    Pressure,
    Processes,
    Record,
    Register,
    Reload,
    Rules,
    SetClass,
    Simulate,
    Subscribe,
    Unregister,
    Unsubscribe,
    Update,
    encode_frame,
)

from .fake_daemon import PATIENCE_S, FakeDaemon, notice, once, pressure
from .shells import SHELLS, Shell

pytestmark = pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell.name)

QUICK_MS = 4


def quick() -> Backoff:
    return Backoff(QUICK_MS, 4 * QUICK_MS)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


def test_a_missing_daemon_is_one_clear_error_at_once(shell: Shell, path: str) -> None:
    async def scenario(shell: Shell) -> None:
        with pytest.raises(
            DaemonUnavailable, match=f"^no lmkd at {path}: No such file or directory$"
        ):
            async with shell.connect(path):
                raise AssertionError("connected to nobody")

    shell.run(scenario)


def test_waits_for_a_daemon_that_comes_later(shell: Shell, path: str) -> None:
    pauses: list[int] = []

    def draw(below: int) -> int:
        # The daemon appears after the third attempt has failed.
        pauses.append(below)
        if len(pauses) == 3:
            daemon.start()
            daemon.run(script)
        return 0

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path, wait=True, backoff=Backoff(2, 8, draw)) as client:
            assert client.welcome.server == "lmkd fake"

    with FakeDaemon(path) as daemon:
        daemon.stop()
        shell.run(scenario)
    assert len(pauses) == 3


def test_every_question_is_asked_as_it_was_put_and_answered_with_its_result(
    shell: Shell, path: str
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            assert peer.greet().name == "a program"
            questions: tuple[type[Question], ...] = (
                Status,
                History,
                Explain,
                Explain,
                Rules,
                Processes,
                Simulate,
                SetClass,
                Reload,
                Record,
                Status,
            )
            for kind in questions:
                question = peer.expect(kind)
                asked = {declared.attribute for declared in kind.fields} - {"id"}
                peer.say(Ok(question.id, {name: getattr(question, name) for name in sorted(asked)}))
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path, name="a program") as client:
            assert await client.status() == {}
            assert await client.history(3, limit=5) == {"episode": 3, "after": 0, "limit": 5}
            with pytest.raises(LocalProtocolError, match="exactly one of the keys 'pid', 'kill'"):
                await client.explain()
            assert await client.explain(41) == {"pid": 41, "kill": None}
            assert await client.explain(kill=9) == {"pid": None, "kill": 9}
            assert await client.rules(1, limit=2) == {"after": 1, "limit": 2}
            unruled = {"unruled": True, "after": 0, "limit": 5}
            assert await client.processes(unruled=True, limit=5) == unruled
            rehearsal = {"level": "low", "scope": "all", "duration_ms": 50}
            assert await client.simulate("low", "all", 50) == rehearsal
            assert await client.set_class(4, "system") == {"app": 4, "app_class": "system"}
            assert await client.reload() == {}
            assert await client.record(save=False) == {"save": False}
            assert await client.request(Status(id=12345)) == {}

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


def test_a_refusal_says_its_code_and_harms_nothing(shell: Shell, path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.say(Error(peer.expect(Reload).id, "forbidden", "it takes root"))
            peer.say(Ok(peer.expect(Status).id, {"version": "1"}))
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path) as client:
            with pytest.raises(RequestRefused, match=r"^forbidden: it takes root$") as caught:
                await client.reload()
            assert caught.value.code == "forbidden"
            assert await client.status() == {"version": "1"}

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


def test_the_program_s_own_mistakes_are_told_before_anything_is_sent(
    shell: Shell, path: str
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.show(pressure("normal"))
            peer.grant()
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path) as client:
            await client.subscribe()
            with pytest.raises(BusyClient, match="subscribes to 'system' already"):
                await client.subscribe()
            with pytest.raises(LocalProtocolError, match="'class': expected one of `cached`"):
                await client.register("a", "cachd")
            with pytest.raises(LocalProtocolError, match="register: not for request"):
                await client.request(Register(0, "a", "cached"))
            app = await client.register("a", "cached")
            with pytest.raises(BusyClient, match="registered already"):
                await client.register("b", "cached")
            with pytest.raises(LocalProtocolError, match="at least one of the keys"):
                await app.update()
            with pytest.raises(LocalProtocolError, match="'answer': expected one of"):
                await app.ack(notice(1), "gladly")
        with pytest.raises(ClosedClient):
            await client.status()

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


def test_subscribers_hear_levels_and_kills_of_their_domain_in_order(
    shell: Shell, path: str
) -> None:
    killed = Killed("/a", 12, "leak", "background", "ranked first", 1 << 20)

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            request = peer.expect(Subscribe)
            assert request.domain == "/a"
            other = pressure("critical", "/b")
            peer.say(Ok(request.id), pressure("low", "/a"), other, killed)
            peer.say(Ok(peer.expect(Status).id), pressure("medium", "/a"))
            peer.say(pressure("normal", "/a"))
            peer.say(Ok(peer.expect(Status).id))
            assert peer.expect(Unsubscribe).domain == "/a"
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path) as client:
            events = await client.subscribe("/a")
            assert await anext(events) == pressure("low", "/a")
            assert await anext(events) == killed
            await client.status()
            await client.status()
            # Two levels came; the first of them is out of date.
            assert await anext(events) == pressure("normal", "/a")
            assert events.latest == pressure("normal", "/a")
            closing = events.close()
            assert closing is None
            assert [event async for event in events] == []

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


def test_a_subscriber_of_its_own_group_hears_its_path_and_what_is_below(
    shell: Shell, path: str
) -> None:
    """After a restart it says `own` again, since it may have been moved; what is not told again has ended."""
    leaf = Killed("/a/b", 12, "leak", "background", "ranked first", 1 << 20)

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            request = peer.expect(Subscribe)
            assert (request.domain, request.propagation) == ("own", "hierarchy")
            peer.say(Ok(request.id, {"domain": "/a", "propagation": "hierarchy"}))
            peer.say(pressure("low", "/a"), pressure("medium", "/a/b"), leaf)
            peer.say(Ok(peer.expect(Status).id))
        with daemon.accept() as peer:
            peer.greet()
            request = peer.expect(Subscribe)
            assert (request.domain, request.propagation) == ("own", "hierarchy")
            peer.say(Ok(request.id, {"domain": "/c", "propagation": "hierarchy"}))
            peer.say(pressure("critical", "/a"), pressure("normal", "/c"))
            assert peer.expect(Unsubscribe).domain == "own"
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path, backoff=quick()) as client:
            events = await client.subscribe("own", "hierarchy")
            assert events.domain == "/a"
            assert await anext(events) == pressure("low", "/a")
            assert await anext(events) == pressure("medium", "/a/b")
            assert await anext(events) == leaf
            assert events.latest == pressure("low", "/a")
            await client.status()
            ended = await anext(events)
            assert (ended.domain, ended.level) == ("/a/b", "normal")
            assert await anext(events) == pressure("normal", "/c")
            assert events.domain == "/c"
            closing = events.close()
            assert closing is None

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


def test_an_app_is_told_answers_updates_and_leaves(shell: Shell, path: str) -> None:
    warning = KillWarning("it was told", 500)

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            register = peer.grant(notice(1))
            assert register == Register(register.id, "cache", "cached", 4096, "tree")
            ack = peer.expect(Ack)
            assert ack == Ack(ack.id, 1, "done", 2048)
            peer.say(Ok(ack.id), warning)
            update = peer.expect(Update)
            assert update == Update(update.id, sheddable_bytes=10)
            peer.say(Ok(update.id, {**_grant("background")}))
            peer.say(Ok(peer.expect(Unregister).id))
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path) as client:
            app = await client.register("cache", "cached", sheddable_bytes=4096, unit="tree")
            # Half of what was asked for was not granted: the grant is to be read.
            assert (app.grant.unit, app.grant.grace_ms) == ("process", 1000)
            told = await anext(app.notices())
            assert told == notice(1)
            assert app.level == "medium"
            assert await app.ack(told, "done", freed_bytes=2048) is True
            assert (await app.update(sheddable_bytes=10)).app_class == "background"
            assert app.kill_warning == warning
            await app.unregister()
            assert [found async for found in app.notices()] == []
            with pytest.raises(ClosedClient, match="unregistered"):
                await app.update(sheddable_bytes=11)

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


def _grant(app_class: str) -> dict[str, object]:
    return {
        "app": 7,
        "class": app_class,
        "unit": "process",
        "domain": "system",
        "grace_ms": 3000,
        "time_to_exit_ms": 2000,
    }


def test_a_refused_registration_or_subscription_can_be_tried_again(shell: Shell, path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.say(Error(peer.expect(Register).id, "too_many", "2,000 apps are enough"))
            peer.say(Error(peer.expect(Subscribe).id, "unknown_domain", "no such cgroup"))
            peer.grant()
            peer.show(pressure("normal"))
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path) as client:
            with pytest.raises(RequestRefused, match="too_many"):
                await client.register("cache", "cached")
            with pytest.raises(RequestRefused, match="unknown_domain"):
                await client.subscribe()
            assert (await client.register("cache", "cached")).grant.app == 7
            assert await anext(await client.subscribe()) == pressure("normal")

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


def test_a_refused_ack_is_told_and_the_app_goes_on(shell: Shell, path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.grant(notice(1))
            peer.say(Error(peer.expect(Ack).id, "unknown_notice", "not the latest"), notice(2))
            peer.say(Ok(peer.expect(Ack).id))
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path) as client:
            app = await client.register("cache", "cached")
            notices = app.notices()
            with pytest.raises(RequestRefused, match="unknown_notice"):
                await app.ack(await anext(notices))
            assert await app.ack(await anext(notices))

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


@pytest.mark.parametrize("farewell", ["bye", "end", "too long", "half a frame"])
def test_after_a_loss_everything_is_said_again_and_the_iterators_go_on(
    shell: Shell, path: str, farewell: str
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.show(pressure("low"))
            peer.grant(notice(1))
            update = peer.expect(Update)
            peer.say(Ok(update.id, _grant("cached")))
            if farewell == "bye":
                peer.say(Bye("restarting"))
            elif farewell == "too long":
                peer.say_bytes(b"\x7f\xff\xff\xff")
                peer.expect_end()
            elif farewell == "half a frame":
                peer.say_bytes(b"\x00\x00\x00\x09\x81")
        with daemon.accept() as peer:
            peer.greet()
            peer.show(pressure("critical"))
            register = peer.grant(notice(1, "critical"))
            assert register == Register(register.id, "cache", "cached", 55)
            ack = peer.expect(Ack)
            assert ack == Ack(ack.id, 1, "nothing")
            peer.say(Ok(ack.id))
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path, backoff=quick()) as client:
            levels = await client.subscribe()
            app = await client.register("cache", "cached", sheddable_bytes=99)
            notices = app.notices()
            assert await anext(levels) == pressure("low")
            first = await anext(notices)
            await app.update(sheddable_bytes=55)
            second = await anext(notices)
            assert second == notice(1, "critical")
            assert await anext(levels) == pressure("critical")
            # The numbers are alike, the notices are not: nobody waits for the first answer.
            assert await app.ack(first, "done", 5) is False
            assert await app.ack(second, "nothing") is True

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


def test_a_daemon_that_restarts_in_mid_notice_costs_the_answer_and_nothing_else(
    shell: Shell, path: str
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.grant(notice(1))
            peer.expect(Ack)  # and no answer
            daemon.stop()
        daemon.start()
        with daemon.accept() as peer:
            peer.greet()
            peer.grant(notice(1, "critical"))
            peer.say(Ok(peer.expect(Ack).id))
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path, backoff=quick()) as client:
            app = await client.register("cache", "cached")
            answered = []
            async for told in app.notices():
                answered.append((told.level, await app.ack(told)))
                if told.level == "critical":
                    break
            assert answered == [("medium", False), ("critical", True)]

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


def test_a_question_whose_answer_was_lost_is_an_error_and_the_next_is_answered(
    shell: Shell, path: str
) -> None:
    back = threading.Event()

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.show(pressure("low"))
            peer.expect(Status)
            daemon.stop()
        assert back.wait(PATIENCE_S)
        daemon.start()
        with daemon.accept() as peer:
            peer.greet()
            peer.show(pressure("normal"))
            peer.say(Ok(peer.expect(Status).id, {"version": "2"}))
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path, backoff=quick()) as client:
            levels = await client.subscribe()
            assert (await anext(levels)).level == "low"
            with pytest.raises(ConnectionLost, match=f"^lost lmkd at {path}: it closed"):
                await client.status()
            with pytest.raises(DaemonUnavailable, match="the connection was lost"):
                await client.status()
            back.set()
            assert (await anext(levels)).level == "normal"
            assert await client.status() == {"version": "2"}

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


def test_what_is_wanted_while_the_daemon_is_away_is_said_when_it_is_back(
    shell: Shell, path: str
) -> None:
    back = threading.Event()

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.show(pressure("low"))
            peer.grant()
            peer.expect(Status)
            daemon.stop()
        assert back.wait(PATIENCE_S)
        daemon.start()
        with daemon.accept() as peer:
            peer.greet()
            peer.show(pressure("normal"))
            register = peer.grant()
            assert register == Register(register.id, "cache", "background", 7)
            peer.say(Ok(peer.expect(Status).id))
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path, backoff=quick()) as client:
            levels = await client.subscribe()
            app = await client.register("cache", "cached")
            assert (await anext(levels)).level == "low"
            with pytest.raises(ConnectionLost):
                await client.status()
            await app.update(app_class="background", sheddable_bytes=7)
            back.set()
            assert (await anext(levels)).level == "normal"
            await client.status()

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


def test_a_registration_that_is_refused_after_a_restart_ends_its_notices_with_the_reason(
    shell: Shell, path: str
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.grant()
        with daemon.accept() as peer:
            peer.greet()
            peer.say(Error(peer.expect(Register).id, "too_many", "enough"))
            peer.grant(notice(4))
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path, backoff=quick()) as client:
            app = await client.register("cache", "cached")
            with pytest.raises(RequestRefused, match="too_many: enough"):
                await anext(app.notices())
            again = await client.register("cache", "cached")
            assert await anext(again.notices()) == notice(4)

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


def test_without_reconnect_a_loss_ends_everything_with_the_reason(shell: Shell, path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.show(pressure("low"))
            peer.grant()
            peer.say(Bye("no more today"))

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path, reconnect=False) as client:
            levels = await client.subscribe()
            app = await client.register("cache", "cached")
            lost = pytest.raises(ConnectionLost, match=r"it left: no more today$")
            with lost:
                await anext(app.notices())
            assert (await anext(levels)).level == "low"
            with lost:
                await anext(levels)
            with lost:
                await client.status()

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


def test_a_daemon_that_goes_away_for_good_is_not_asked_for_without_pause(
    shell: Shell, path: str
) -> None:
    pauses: list[int] = []

    away_long_enough = threading.Event()

    def draw(below: int) -> int:
        pauses.append(2 * (below - 1))
        if len(pauses) == 9:
            away_long_enough.set()
        return 0

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.show(pressure("low"))
            peer.expect(Status)
            daemon.stop()
        assert away_long_enough.wait(PATIENCE_S)
        daemon.start()
        with daemon.accept() as peer:
            peer.greet()
            peer.show(pressure("normal"))
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path, backoff=Backoff(2, 16, draw)) as client:
            levels = await client.subscribe()
            assert (await anext(levels)).level == "low"
            with pytest.raises(ConnectionLost):
                await client.status()
            assert (await anext(levels)).level == "normal"

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)
    assert pauses[:9] == [2, 4, 8, 16, 16, 16, 16, 16, 16]


def test_what_a_later_daemon_may_say_is_passed_over(shell: Shell, path: str) -> None:
    def frame(payload: bytes) -> bytes:
        return encode_frame(payload)

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.show(pressure("low"))
            peer.say_bytes(
                frame(b"\x81\xa4type\xa6parked")  # an unknown push
                + frame(b"\xc1")  # not msgpack
                + frame(b"\x90")  # not a map
                + frame(b"\x82\xa4type\xa8pressure\xa5level\xcb" + bytes(8))  # a float
                + frame(b"\x82\xa4type\xa2ok\xa2id\xce\xff\xff\xff\xff")  # a reply to nothing
            )
            peer.say(notice(3))  # to an app that never was
            peer.say(Error(None, "some_new_code", "for nobody"))
            peer.say(pressure("medium"))
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path) as client:
            seen = [event async for event in _until(await client.subscribe(), "medium")]
            assert seen[-1] == pressure("medium")
            assert seen[:-1] in ([], [pressure("low")])

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


async def _until(
    events: AsyncIterator[Pressure | Killed], level: str
) -> AsyncIterator[Pressure | Killed]:
    async for event in events:
        yield event
        if isinstance(event, Pressure) and event.level == level:
            return


def test_the_largest_frames_arrive_in_pieces_and_whole(shell: Shell, path: str) -> None:
    # 65,536 bytes of payload: a notice with an unknown key, and a reply with one text.
    told = notice(9)

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.grant()
            peer.say_bytes(_padded(told))
            status = peer.expect(Status)
            # ok, its id, and a result that fills the frame to the last byte.
            head = b"\x83\xa4type\xa2ok\xa2id" + bytes([status.id]) + b"\xa6result\x81\xa4text\xda"
            size = MAX_FRAME_BYTES - len(head) - 2
            reply = encode_frame(head + size.to_bytes(2, "big") + b"x" * size)
            for start in range(0, len(reply), 10_007):
                peer.say_bytes(reply[start : start + 10_007])
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        async with shell.connect(path) as client:
            app = await client.register("cache", "cached")
            assert await anext(app.notices()) == told
            text = (await client.status())["text"]
            assert 65_000 < len(text) < MAX_FRAME_BYTES

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


def _padded(told: Notice) -> bytes:
    import msgpack

    body = {"type": "notice", **{name: getattr(told, name) for name in type(told).__slots__}}
    size = MAX_FRAME_BYTES - len(msgpack.packb({**body, "padding": b""})) - 1
    payload = msgpack.packb({**body, "padding": bytes(size)})
    assert len(payload) == MAX_FRAME_BYTES
    return encode_frame(payload)


def test_a_version_that_nobody_speaks_is_told_and_not_tried_again(shell: Shell, path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.say(Error(peer.expect(Hello).id, "bad_version", "this is version 9"))
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        with pytest.raises(RequestRefused, match="bad_version: this is version 9"):
            async with shell.connect(path, wait=True):
                raise AssertionError("it was refused")

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


def test_a_daemon_that_hangs_up_instead_of_greeting_is_a_clear_error(
    shell: Shell, path: str
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.expect(Hello)

    async def scenario(shell: Shell) -> None:
        with pytest.raises(ConnectionLost, match=f"^lost lmkd at {path}: it closed"):
            async with shell.connect(path):
                raise AssertionError("nobody greeted")

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


def test_what_a_program_raises_in_the_block_comes_out_as_it_is(shell: Shell, path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.expect_end()

    async def scenario(shell: Shell) -> None:
        with pytest.raises(KeyError, match="mine"):
            async with shell.connect(path):
                raise KeyError("mine")

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        shell.run(scenario)


def test_a_sessions_daemon_that_comes_later_is_found(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LMKD_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    if Path("/run/lmkd/socket").exists():
        pytest.skip("the system's own lmkd would answer")

    def come() -> None:
        (tmp_path / "lmkd").mkdir()
        with FakeDaemon(str(tmp_path / "lmkd" / "socket")) as daemon:
            daemon.run(once(lambda peer: None))

    async def scenario(shell: Shell) -> None:
        with pytest.raises(DaemonUnavailable, match="/run/lmkd/socket"):
            async with shell.connect(None):
                pass
        coming = threading.Timer(0.1, come)  # so that it is away at the first look
        coming.start()
        try:
            async with shell.connect(None, wait=True, backoff=quick()) as client:
                assert client.welcome is not None
        finally:
            coming.join()

    shell.run(scenario)
