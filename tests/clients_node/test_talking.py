"""The client for Node and a daemon that is there: what is said, what is heard, and what is passed over."""

from __future__ import annotations

import time
from typing import Any

import msgpack
import pytest
from lmkd_proto import (
    Ack,
    Error,
    Hello,
    Killed,
    KillWarning,
    Notice,
    Ok,
    Pressure,
    Register,
    Simulate,
    Status,
    Subscribe,
    Unregister,
    Unsubscribe,
    Update,
    Welcome,
    encode,
)
from lmkd_proto.messages import Request
from lmkd_proto.requests import Explain, History, Processes, Record, Reload, Rules, SetClass

from ..clients.fake_daemon import GRANT, FakeDaemon, Peer, notice, once, pressure
from ..clients_c.scripts import padded
from .probe import Probe, playing

GRANTED = {
    "app": 7,
    "appClass": "cached",
    "unit": "process",
    "domain": "system",
    "graceMs": 1000,
    "timeToExitMs": 500,
}
REGISTER = "await state.client.register({ name: 'app' })"
KEEP = "state.notice = await state.until('notice')"


def test_every_request_is_said_in_canonical_form_and_gives_its_result(
    probe: Probe, path: str
) -> None:
    most = 2**63 - 1
    said: list[tuple[str, Request, Any]] = [
        (f"return {REGISTER}", Register(2, "app", "cached"), GRANTED),
        ("return state.client.unregister()", Unregister(3), None),
        (
            f"return state.client.register({{ name: '{'ä' * 64}', appClass: 'foreground',"
            " sheddableBytes: 2n ** 63n - 1n, unit: 'cgroup' })",
            Register(4, "ä" * 64, "foreground", most, "cgroup"),
            GRANTED,
        ),
        (
            "return state.client.update({ appClass: 'background', sheddableBytes: 2 ** 53 - 1 })",
            Update(5, "background", 2**53 - 1),
            GRANTED,
        ),
        (
            "return state.client.update({ sheddableBytes: 5n, name: 'other' })",
            Update(6, None, 5, "other"),
            GRANTED,
        ),
        (
            "return state.client.subscribe()",
            Subscribe(7),
            {"domain": "system", "propagation": "local"},
        ),
        (
            f"return state.client.subscribe('/{'ä' * 1023}', {{ propagation: 'hierarchy' }})",
            Subscribe(8, "/" + "ä" * 1023, "hierarchy"),
            {"domain": "/" + "ä" * 1023, "propagation": "local"},
        ),
        ("return state.client.status()", Status(9), {"key": 1}),
        ("return state.client.history()", History(10), {"key": 1}),
        (
            "return state.client.history({ episode: 3, after: 2n ** 53n, limit: 1000 })",
            History(11, 3, 2**53, 1000),
            {"key": 1},
        ),
        ("return state.client.explain({ pid: 1 })", Explain(12, 1), {"key": 1}),
        ("return state.client.explain({ kill: 0 })", Explain(13, None, 0), {"key": 1}),
        ("return state.client.rules({ limit: 2 })", Rules(14, 0, 2), {"key": 1}),
        (
            "return state.client.processes({ unruled: true })",
            Processes(15, unruled=True),
            {"key": 1},
        ),
        ("return state.client.simulate('low')", Simulate(16, "low"), None),
        (
            "return state.client.simulate('critical', { scope: 'all', durationMs: 0 })",
            Simulate(17, "critical", "all", 0),
            None,
        ),
        ("return state.client.setClass(9, 'system')", SetClass(18, 9, "system"), GRANTED),
        ("return state.client.reload()", Reload(19), {"key": 1}),
        ("return state.client.record({ save: false })", Record(20, save=False), {"key": 1}),
        (
            f"{KEEP}; return state.client.ack(state.notice, 'done', 2 ** 53 - 1)",
            Ack(21, most, "done", 2**53 - 1),
            5,
        ),
        ("return state.client.ack(state.notice, 'working')", Ack(22, most, "working"), 5),
        ("return state.client.ack(state.notice)", Ack(23, most, "done"), 5),
    ]
    results: dict[type, dict[str, object]] = {
        Register: GRANT,
        Update: GRANT,
        SetClass: GRANT,
        Ack: {"deadline_ms": 5},
        Subscribe: {},
    }

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            assert peer.expect_bytes(encode(Hello(1, 1, "probe")))
            peer.say_bytes(encode(Welcome(1, 1, "lmkd fake", True)))
            for _, request, _ in said:
                assert peer.expect_bytes(encode(request)), request
                peer.say_bytes(encode(Ok(request.id, results.get(type(request), {"key": 1}))))
                if isinstance(request, Simulate):
                    peer.say_bytes(encode(notice(most)))
            assert peer.expect_bytes(encode(Unsubscribe(24)))

    with playing(probe, path, script) as program:
        for code, request, result in said:
            assert program.run(code) == result, request
        assert program.run("return state.client.unsubscribe()") is True
        assert program.run("return state.client.unsubscribe()") is False


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("register({ name: 'a\\x01' })", "register: key 'name' (name): expected text, 1 to 64"),
        ("register({ name: '' })", "expected text, 1 to 64 characters, no control characters"),
        (
            "register({ name: 'a', appClass: 'system' })",
            "key 'class' (appClass): expected one of `cached`",
        ),
        ("register({ name: 'a', sheddableBytes: 2 ** 53 })", "beyond 2^53-1 it takes a bigint"),
        ("register({ name: 'a', sheddableBytes: 2n ** 63n })", "expected integer, 0 to 2^63-1"),
        ("register({ name: 'a', sheddableBytes: 1.5 })", "got 1.5"),
        ("register({ name: 'a', sheddableBytes: '5' })", 'got "5"'),
        ("register({ name: 'a', unit: 'session' })", "key 'unit' (unit): expected one of"),
        ("update({})", "update: expected at least one of the keys 'class'"),
        ("subscribe('elsewhere')", "subscribe: key 'domain' (domain): expected `system`, `own`"),
        ("subscribe('/a/../b')", "an absolute cgroup path"),
        ("subscribe('system', { propagation: 3 })", "expected one of `local`"),
        ("explain({})", "explain: expected exactly one of the keys 'pid', 'kill'; got 0"),
        ("explain({ pid: 1, kill: 1 })", "got 2 of them"),
        ("simulate('highest')", "simulate: key 'level' (level): expected one of `normal`"),
        ("simulate('low', { durationMs: 2 ** 31 })", "expected integer, 0 to 2^31-1"),
        ("setClass(-1, 'cached')", "set_class: key 'app' (app): expected integer, 0 to 2^63-1"),
        ("history({ limit: 1001 })", "expected integer, 1 to 1000; got 1001"),
        ("ack(7)", "ack: expected the notice itself, as it came"),
    ],
)
def test_what_the_protocol_does_not_allow_is_refused_here_with_the_reason(
    probe: Probe, path: str, code: str, why: str
) -> None:
    with playing(probe, path, once(lambda peer: None)) as program:
        error = program.fails(f"await state.client.{code}")
        assert (error["name"], error["code"]) == ("InvalidArgumentError", "invalid_argument")
        assert why in error["message"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("name: 'x'.repeat(65)", "hello: key 'name'"),
        ("backoff: { firstMs: 0 }", "expected 2 <= firstMs <= mostMs"),
        ("path: ''", "path: expected the path of a socket"),
        ("path: 5", "path: expected the path of a socket; got 5"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(
    probe: Probe, options: str, why: str
) -> None:
    error = probe.fails(f"await lmkd.connect({{ {options} }})")
    assert error["code"] == "invalid_argument"
    assert why in error["message"]


def test_what_is_wanted_twice_is_refused_here(probe: Probe, path: str) -> None:
    def part(peer: Peer) -> None:
        peer.grant()
        peer.show(pressure("normal"))

    with playing(probe, path, once(part)) as program:
        program.run(REGISTER)
        assert "a client is one app" in program.fails(REGISTER)["message"]
        program.run("await state.client.subscribe()")
        assert program.fails("await state.client.subscribe()")["code"] == "busy_client"
        code = "state.first = state.client.events().next(); state.first.catch(() => 0);"
        program.run("for (const _ of [1, 2, 3]) await state.client.events().next()")
        assert (
            "another loop waits"
            in program.fails(f"{code} await state.client.events().next()")["message"]
        )


def test_all_that_is_pushed_is_heard_and_64_bits_are_never_rounded(probe: Probe, path: str) -> None:
    most = 2**63 - 1
    big = {"$bigint": str(most)}

    def part(peer: Peer) -> None:
        peer.show(pressure("low"))
        peer.grant(Notice(most, "/a", "critical", most, 0, "", True, True), KillWarning("x", 5))
        peer.say(
            Killed("system", 12, "Web Content", "cached", "first", most),
            Pressure("system", "critical", "", 2**53 - 1, True),
        )

    with playing(probe, path, once(part)) as program:
        program.run("await state.client.subscribe()")
        program.run(REGISTER)
        program.run("state.killed = await state.until('killed')")
        assert program.run("return state.killed") == {
            "type": "killed",
            "domain": "system",
            "pid": 12,
            "name": "Web Content",
            "appClass": "cached",
            "reason": "first",
            "freedBytes": big,
        }
        code = "return { level: state.client.level, ...(await state.until('pressure')) }"
        assert program.run(code) == {
            "level": "critical",
            "type": "pressure",
            "domain": "system",
            "reason": "",
            "availableBytes": 2**53 - 1,
            "simulated": True,
        }


def test_a_notice_of_64_bits_is_compared_and_acknowledged_exactly(probe: Probe, path: str) -> None:
    most = 2**63 - 1

    def part(peer: Peer) -> None:
        peer.grant(Notice(most - 1, "system", "low", most, 1000, "a test"))
        ack = peer.expect(Ack)
        assert (ack.notice, ack.freed_bytes) == (most - 1, most)
        peer.say(Ok(ack.id, {"deadline_ms": 7}))

    with playing(probe, path, once(part)) as program:
        program.run(f"{REGISTER}; {KEEP}")
        assert program.run("return state.notice.targetBytes > 2 ** 53") is True
        assert program.run("return String(state.notice.targetBytes)") == str(most)
        code = "return state.client.ack(state.notice, 'done', state.notice.targetBytes)"
        assert program.run(code) == 7


def test_of_what_a_slow_program_has_not_taken_only_the_latest_is_kept(
    probe: Probe, path: str
) -> None:
    def part(peer: Peer) -> None:
        peer.show(pressure("normal"))
        peer.grant()
        for number in range(500):
            peer.say(notice(number), pressure("low"), pressure("medium"))
            peer.say(Killed("system", number, "", "cached", "", 0))
        peer.say(Ok(peer.expect(Status).id))

    with playing(probe, path, once(part)) as program:
        program.run(f"await state.client.subscribe(); {REGISTER}; await state.client.status()")
        events = program.events()
        assert [event["notice"] for event in events if event["type"] == "notice"] == [499]
        assert [event["level"] for event in events if event["type"] == "pressure"] == ["medium"]
        killed = [event["pid"] for event in events if event["type"] == "killed"]
        assert killed == list(range(484, 500))


def test_levels_below_are_kept_by_domain_and_what_was_unsubscribed_is_not_heard(
    probe: Probe, path: str
) -> None:
    def part(peer: Peer) -> None:
        subscribe = peer.expect(Subscribe)
        assert (subscribe.domain, subscribe.propagation) == ("own", "hierarchy")
        peer.say(
            Ok(subscribe.id, {"domain": "/me", "propagation": "hierarchy"}), pressure("low", "/me")
        )
        peer.say(pressure("medium", "/me/a"), pressure("critical", "/me/b"), pressure("low", "/me"))
        # Of nobody's: /meadow is not below /me.
        peer.say(pressure("critical", "/meadow"), pressure("critical"))
        peer.say(Ok(peer.expect(Status).id))
        status = peer.expect(Status)
        peer.say(pressure("critical", "/me/b"), Ok(status.id))
        peer.expect(Unsubscribe)
        peer.say(pressure("critical", "/me"))
        peer.say(Ok(peer.expect(Status).id))

    with playing(probe, path, once(part)) as program:
        code = "return state.client.subscribe('own', { propagation: 'hierarchy' })"
        assert program.run(code) == {"domain": "/me", "propagation": "hierarchy"}
        program.run("await state.client.status()")
        told = [(event["domain"], event["level"]) for event in program.events()[1:]]
        assert told == [("/me/a", "medium"), ("/me/b", "critical"), ("/me", "low")]
        # Neither what has come and waits, nor what is on its way.
        program.run("await state.client.status()")
        program.run("state.client.unsubscribe('own'); await state.client.status()")
        assert program.events() == []


def test_a_frame_in_single_bytes_and_two_in_one_piece_are_the_same(probe: Probe, path: str) -> None:
    def part(peer: Peer) -> None:
        peer.grant()
        for byte in encode(notice(1)):
            peer.say_bytes(bytes([byte]))
            time.sleep(0.001)
        peer.expect(Ack)
        peer.say(notice(2), notice(3))
        assert peer.expect(Ack).notice == 3

    with playing(probe, path, once(part)) as program:
        program.run(f"{REGISTER}; {KEEP}; state.client.ack(state.notice).catch(() => 0)")
        program.run(
            "do state.notice = await state.until('notice'); while (state.notice.notice < 3)"
        )
        program.run("state.client.ack(state.notice).catch(() => 0)")


def test_a_notice_of_64_kib_is_heard_and_so_is_what_comes_behind_it(
    probe: Probe, path: str
) -> None:
    def part(peer: Peer) -> None:
        peer.grant()
        for number in range(1, 40):
            peer.say_bytes(padded(notice(number), 65_536) + encode(notice(100 + number)))
            assert peer.expect(Ack).notice == 100 + number

    with playing(probe, path, once(part)) as program:
        program.run(REGISTER)
        code = "do state.notice = await state.until('notice'); while (state.notice.notice < 100);"
        code += "state.client.ack(state.notice).catch(() => 0); return state.notice.notice"
        for number in range(1, 40):
            assert program.run(code) == 100 + number


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        ({"type": "parked", "app": 3}, None),
        ({"type": "reload", "id": 5}, None),
        ({"type": "ok", "id": 4_000_000_000}, None),
        ({"type": "notice", "notice": 1}, "notice: key 'domain': expected `system`, or"),
        (
            {"type": "welcome", "id": 1, "version": 1, "server": "again", "controller": True},
            "welcome may not come now",
        ),
        ({"type": 1}, "key 'type': expected text, 1 to 64 characters; got 1"),
        ({}, "key 'type': expected text, 1 to 64 characters; got nothing"),
        ({"type": "bye", "reason": 1.5}, "expected a type of the protocol; got a float"),
        ({"type": "bye", "__proto__": {}}, "bye: key 'reason'"),
    ],
)
def test_what_is_unknown_malformed_or_out_of_turn_is_passed_over_and_told_where_it_is_wrong(
    probe: Probe, path: str, odd: dict[str, object], says: str | None
) -> None:
    payload = bytes(msgpack.packb(odd))

    def part(peer: Peer) -> None:
        peer.grant()
        peer.say_bytes(len(payload).to_bytes(4, "big") + payload)
        peer.say(notice(1))

    with playing(probe, path, once(part)) as program:
        program.run(REGISTER)
        told = program.run(
            "const told = []; for await (const event of state.client) {"
            "told.push(event); if (event.type === 'notice') return told }"
        )
        *before, last = [
            event for event in told if event["type"] not in ("connected", "registered")
        ]
        assert last["notice"] == 1
        assert [event["type"] for event in before] == ([] if says is None else ["malformed"])
        assert says is None or says in before[0]["message"]


def test_a_malformed_frame_is_an_event_and_a_malformed_reply_leaves_nobody_waiting(
    probe: Probe, path: str
) -> None:
    def part(peer: Peer) -> None:
        status = peer.expect(Status)
        payload = bytes(msgpack.packb({"type": "ok", "id": status.id, "result": []}))
        peer.say_bytes(len(payload).to_bytes(4, "big") + payload)
        peer.say(Ok(peer.expect(Register).id, {"app": 1}))

    with playing(probe, path, once(part)) as program:
        error = program.fails("await state.client.status()")
        assert error["message"] == "ok: key 'result': expected map; got a value of type array"
        assert program.event("malformed")["message"] == error["message"]
        error = program.fails(REGISTER)
        assert error["message"].startswith("the result of register: key 'class': expected one of")
        assert error["code"] == "broken_reply"
        assert program.run("return state.client.isApp") is False


def test_an_error_is_told_by_its_code_and_one_of_a_later_version_is_failed(
    probe: Probe, path: str
) -> None:
    def part(peer: Peer) -> None:
        peer.say(Error(peer.expect(Status).id, "busy", "not now"))
        peer.say(Error(peer.expect(Status).id, "from_the_future", "as a test"))

    with playing(probe, path, once(part)) as program:
        error = program.fails("await state.client.status()")
        assert error == {
            "name": "RequestRefusedError",
            "code": "busy",
            "message": "busy: not now",
            "isOurs": True,
        }
        error = program.fails("await state.client.status()")
        assert (error["code"], error["message"]) == ("failed", "from_the_future: as a test")


def test_what_is_given_up_is_undone_and_its_reply_means_nothing(probe: Probe, path: str) -> None:
    def part(peer: Peer) -> None:
        first = peer.expect(Register)
        peer.expect(Unregister)
        subscribe = peer.expect(Subscribe)
        peer.expect(Unsubscribe)
        status = peer.expect(Status)
        peer.say(Ok(first.id, GRANT), Ok(first.id + 1), Ok(subscribe.id), pressure("low"))
        peer.say(Ok(status.id))
        second = peer.expect(Register)
        assert second.name == "second"
        peer.say(Ok(second.id, GRANT))

    with playing(probe, path, once(part)) as program:
        for code in ("register({ name: 'first' }, {", "subscribe('system', {"):
            error = program.fails(f"await state.client.{code} signal: AbortSignal.timeout(20) }})")
            assert error["name"] == "TimeoutError"
        assert (
            program.fails("await state.client.status({ signal: AbortSignal.abort() })")["name"]
            == "AbortError"
        )
        program.run("await state.client.status()")
        program.run("await state.client.register({ name: 'second' })")
        kinds = [event["type"] for event in program.events()]
        assert kinds == ["connected", "registered"]
