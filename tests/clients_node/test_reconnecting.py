"""The client for Node and a daemon that goes, comes back, lets nobody in, or is gone for good."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from lmkd_proto import Ack, Bye, Error, Hello, Message, Ok, Register, Status, Subscribe, encode

from ..clients.fake_daemon import SOCKET_PLACES, FakeDaemon, Peer, notice, once, pressure
from .probe import QUICK, Failed, Probe, playing

REGISTER = "await state.client.register({ name: 'app' })"
KEEP = "state.notice = await state.until('notice')"
CONNECT = f"state.client = await lmkd.connect({{ {QUICK}, %s }})"


@pytest.mark.parametrize("length", [0, 65_537, 0xFFFF_FFFF])
def test_a_forbidden_length_ends_the_connection_and_what_came_before_it_is_heard(
    probe: Probe, path: str, length: int
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.grant()
            peer.say_bytes(encode(pressure("low")) + length.to_bytes(4, "big"))
            peer.expect_end()
        with daemon.accept() as peer:
            peer.greet()
            peer.grant(notice(2))
            peer.expect_end()

    with playing(probe, path, script) as program:
        program.run(REGISTER)
        said = program.event("lost")["error"]
        assert said["code"] == "connection_lost"
        assert said["message"].startswith(
            f"lost lmkd at {path}: it broke the protocol: a frame of "
        )
        assert str(length) in said["message"]
        assert program.event("notice")["notice"] == 2


def test_a_daemon_that_ends_in_the_middle_of_a_notice_is_found_again_and_told_all_again(
    probe: Probe, path: str
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            subscribe = peer.expect(Subscribe)
            peer.say(Ok(subscribe.id, {"domain": "/me", "propagation": "hierarchy"}))
            peer.say(pressure("low", "/me"))
            peer.grant(notice(1))
            peer.expect(Ack)
            peer.say_bytes(encode(notice(2))[:-3])
            daemon.stop()
        daemon.start()
        with daemon.accept() as peer:
            assert peer.greet().name == "probe"
            subscribe = peer.expect(Subscribe)
            assert (subscribe.domain, subscribe.propagation) == ("own", "hierarchy")
            peer.say(Ok(subscribe.id, {"domain": "/me2", "propagation": "hierarchy"}))
            peer.say(pressure("normal", "/me2"))
            register = peer.grant(notice(1, "critical"))
            assert (register.name, register.app_class) == ("app", "background")
            assert (register.sheddable_bytes, register.unit) == (9, "tree")
            assert peer.expect(Ack).notice == 1
            peer.expect_end()

    with playing(probe, path, script) as program:
        program.run("await state.client.subscribe('own', { propagation: 'hierarchy' })")
        program.run(
            "await state.client.register({ name: 'app', appClass: 'background', sheddableBytes: 9, unit: 'tree' })"
        )
        program.run(KEEP)
        # Nobody waits for an answer that the daemon took with it.
        assert program.run("return state.client.ack(state.notice, 'working')") is None
        program.event("lost")
        assert program.event("connected")["server"] == "lmkd fake"
        assert program.event("registered")["grant"]["app"] == 7
        told = program.run("state.latest = await state.until('notice'); return state.latest")
        assert (told["level"], told["notice"]) == ("critical", 1)
        # The earlier notice has the same number, and is nobody's any more.
        assert program.run("return state.client.ack(state.notice)") is None
        program.run("state.client.ack(state.latest).catch(() => 0)")


def test_levels_below_that_a_restarted_daemon_does_not_tell_again_have_ended(
    probe: Probe, path: str
) -> None:
    def shown(peer: Peer, *levels: Message) -> None:
        subscribe = peer.expect(Subscribe)
        peer.say(Ok(subscribe.id, {"domain": "system", "propagation": "hierarchy"}), *levels)

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            shown(peer, pressure("normal"), pressure("low", "/a"), pressure("critical", "/b"))
            peer.say(Ok(peer.expect(Status).id))
        with daemon.accept() as peer:
            peer.greet()
            shown(peer, pressure("normal"), pressure("medium", "/b"))
            peer.say(Ok(peer.expect(Status).id))
            peer.expect_end()

    with playing(probe, path, script) as program:
        program.run("await state.client.subscribe('system', { propagation: 'hierarchy' })")
        program.run("await state.client.status()")
        program.event("lost")
        program.event("connected")
        program.run("await state.client.status()")
        told = {event["domain"]: event["level"] for event in program.events()}
        assert told == {"system": "normal", "/a": "normal", "/b": "medium"}


@pytest.mark.parametrize(
    ("last_words", "why"),
    [
        (Bye("the service stops"), "it left: the service stops"),
        (Error(None, "too_many", "100 clients are enough"), "too_many: 100 clients are enough"),
        (None, "it closed the connection"),
    ],
)
def test_why_a_daemon_left_is_said(
    probe: Probe, path: str, last_words: Message | None, why: str
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            if last_words is not None:
                peer.say(last_words)
        with daemon.accept() as peer:
            peer.greet()
            peer.expect_end()

    # The greeting and the last words may come in one piece: then nobody was connected, but who waits.
    with playing(probe, path, script, "wait: true") as program:
        assert program.event("lost")["error"]["message"] == f"lost lmkd at {path}: {why}"
        program.event("connected")


def test_a_request_whose_reply_is_lost_fails_and_what_is_wanted_is_said_later(
    probe: Probe, path: str
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.grant()
            peer.expect(Status)
            daemon.stop()
        time.sleep(0.1)
        daemon.start()
        with daemon.accept() as peer:
            peer.greet()
            assert peer.grant().sheddable_bytes == 77
            peer.expect_end()

    with playing(probe, path, script) as program:
        program.run(REGISTER)
        error = program.fails("await state.client.status()")
        assert error["code"] == "connection_lost"
        error = program.fails("await state.client.status()")
        assert (error["name"], error["code"]) == ("DaemonUnavailableError", "unavailable")
        assert program.run("return state.client.update({ sheddableBytes: 77 })") is None
        program.event("lost")
        assert program.event("registered")["grant"]["app"] == 7


def test_a_registration_that_a_restarted_daemon_refuses_is_told_and_is_no_more(
    probe: Probe, path: str
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.show(pressure("low"))
            peer.grant()
            peer.say_bytes(bytes(4))
        with daemon.accept() as peer:
            peer.greet()
            peer.say(Error(peer.expect(Subscribe).id, "forbidden", "not you"))
            peer.say(Error(peer.expect(Register).id, "too_many", "enough"))
            peer.say(notice(1))
        with daemon.accept() as peer:
            peer.greet()
            peer.expect_end()

    with playing(probe, path, script) as program:
        program.run("await state.client.subscribe()")
        program.run(REGISTER)
        told = program.event("refused")
        assert (told["request"], told["domain"]) == ("subscribe", "system")
        told = program.event("refused")
        assert (told["request"], told["error"]["code"]) == ("register", "too_many")
        # Who is no app hears no notice.
        program.event("lost")
        assert [event["type"] for event in program.events()] in (["connected"], [])
        assert program.run("return state.client.isApp") is False


# --- nobody there --------------------------------------------------------------------------------------------


def test_where_nobody_is_that_is_said_at_once_by_place_and_reason(probe: Probe, path: str) -> None:
    error = probe.fails("await lmkd.connect()")
    assert error == {
        "name": "DaemonUnavailableError",
        "code": "unavailable",
        "isOurs": True,
        "message": f"no lmkd at {path}: no such file or directory (ENOENT)",
    }
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.close()
    error = probe.fails("await lmkd.connect()")
    assert error["message"] == f"no lmkd at {path}: connection refused (ECONNREFUSED)"


def test_a_path_that_no_socket_can_have_is_no_daemon(probe: Probe) -> None:
    """Node 18 would cut it off, and connect to whatever has that name."""
    error = probe.fails("await lmkd.connect({ path: '/' + 'x'.repeat(107) })")
    assert error["message"].endswith("a socket's path has at most 107 bytes, not 108")


def test_who_waits_is_connected_when_the_daemon_comes_and_may_give_up_before(
    probe: Probe, path: str
) -> None:
    error = probe.fails("await lmkd.connect({ wait: true, signal: AbortSignal.timeout(50) })")
    assert error["name"] == "TimeoutError"
    probe.begin(CONNECT % "wait: true")
    time.sleep(0.1)
    with FakeDaemon(path) as daemon:
        daemon.run(once(lambda peer: None))
        probe.expect('{"value":null}')
        assert probe.run("return state.client.server") == {"name": "lmkd fake", "controller": True}
        probe.run("state.client.close()")


def test_who_does_not_reconnect_is_told_once_why_and_never_spins(probe: Probe, path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.grant()

    with playing(probe, path, script, "reconnect: false") as program:
        program.run(REGISTER)
        assert program.event("lost")["error"]["code"] == "connection_lost"
        message = f"lost lmkd at {path}: it closed the connection"
        for code in ("await state.until('notice')", "await state.client.status()", REGISTER):
            error = program.fails(code)
            assert (error["name"], error["message"]) == ("ConnectionLostError", message)
        assert program.run("return state.client.isClosed") is True


def test_a_daemon_that_is_gone_for_good_is_said_once_and_costs_nearly_nothing(
    probe: Probe, path: str
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.grant()
            daemon.stop()

    options = "wait: true, backoff: { firstMs: 50, mostMs: 400 }"
    with playing(probe, path, script, options) as program:
        program.run(REGISTER)
        program.event("lost")
        program.run("state.before = process.cpuUsage()")
        program.run("await new Promise((resolve) => setTimeout(resolve, 2000))")
        used = program.run("return process.cpuUsage(state.before)")
        used_ms = (used["user"] + used["system"]) / 1000
        # Pauses of 25 to 50, 50 to 100, 100 to 200 and then 200 to 400 ms: 6 to 12 tries in 2 s.
        assert used_ms <= 200, used
        assert program.events() == []


def test_a_connection_that_ends_again_and_again_is_tried_after_growing_pauses(
    probe: Probe, path: str
) -> None:
    tried: list[float] = []

    def script(daemon: FakeDaemon) -> None:
        for _ in range(6):
            with daemon.accept() as peer:
                tried.append(time.monotonic())
                peer.greet()
        with daemon.accept() as peer:
            peer.greet()
            peer.expect_end()

    with playing(
        probe, path, script, "wait: true, backoff: { firstMs: 20, mostMs: 1000 }"
    ) as program:
        program.run(
            "do await new Promise((resolve) => setTimeout(resolve, 20));"
            "while (state.client.server === undefined)"
        )
    # The fifth pause is 160 to 320 ms, whatever the machine is at.
    assert tried[5] - tried[4] >= 0.15
    assert tried[1] - tried[0] >= 0.009


def test_a_daemon_that_accepts_and_never_greets_can_be_given_up(probe: Probe, path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.expect(Hello)
            peer.expect_end()

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        error = probe.fails("await lmkd.connect({ signal: AbortSignal.timeout(100) })")
        assert error["name"] == "TimeoutError"


def test_a_daemon_that_never_greets_is_left_in_the_end(probe: Probe, path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.expect(Hello)
            peer.expect_end()
        with daemon.accept() as peer:
            peer.greet()
            peer.expect_end()

    # Of the client's patience of ten seconds a hundredth is left.
    probe.run(
        "const whole = setTimeout; globalThis.setTimeout = (call, ms, ...rest) =>"
        " whole(call, ms === 10_000 ? 100 : ms, ...rest)"
    )
    with playing(probe, path, script, "wait: true") as program:
        message = f"lost lmkd at {path}: no greeting came in time"
        assert program.event("lost")["error"]["message"] == message


@pytest.mark.parametrize("options", ["wait: true", "", "reconnect: false"])
def test_a_daemon_of_another_version_ends_the_client(probe: Probe, path: str, options: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            hello = peer.expect(Hello)
            peer.say(Error(hello.id, "bad_version", "this is version 2"))
            peer.expect_end()

    with FakeDaemon(path) as daemon:
        daemon.run(script)
        error = probe.fails(CONNECT % options)
        assert (error["name"], error["code"]) == ("RequestRefusedError", "bad_version")
        assert error["message"] == "bad_version: this is version 2"


def test_a_closed_client_ends_its_loop_and_fails_what_waits(probe: Probe, path: str) -> None:
    def part(peer: Peer) -> None:
        peer.expect(Status)

    with playing(probe, path, once(part)) as program:
        program.run(
            "state.loop = (async () => { let count = 0;"
            "for await (const event of state.client) count += 1; return count })()"
        )
        program.run("state.waits = state.client.status().catch((error) => error)")
        program.run("await new Promise((resolve) => setTimeout(resolve, 50)); state.client.close()")
        assert program.run("return state.loop") == 1
        assert program.run("return state.waits")["code"] == "closed"
        with pytest.raises(Failed, match="this client is closed"):
            program.run("await state.client.status()")


@pytest.mark.parametrize(
    ("named", "runtime", "expected"),
    SOCKET_PLACES,
)
def test_the_socket_is_looked_for_by_name_then_in_the_session_then_in_the_system(
    probe: Probe, tmp_path: Path, named: str | None, runtime: bool | None, expected: str
) -> None:
    environment = {}
    if named is not None:
        environment["LMKD_SOCKET"] = named
    if runtime is not None:
        environment["XDG_RUNTIME_DIR"] = str(tmp_path)
        if runtime:
            (tmp_path / "lmkd").mkdir()
            (tmp_path / "lmkd" / "socket").touch()
    assert probe.run(f"return lmkd.findSocket({environment})") == expected.format(runtime=tmp_path)
