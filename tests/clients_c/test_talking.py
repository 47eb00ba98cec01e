"""The client for C and a daemon that is there: what is said, what is heard, and what is passed over."""

from __future__ import annotations

import time
from pathlib import Path

import msgpack
import pytest
from lmkd_proto import (
    Ack,
    Hello,
    Killed,
    KillWarning,
    Message,
    Notice,
    Ok,
    Register,
    Simulate,
    Subscribe,
    Unregister,
    Unsubscribe,
    Update,
    Welcome,
    encode,
)

from ..clients.fake_daemon import GRANT, FakeDaemon, Peer, notice, once, pressure
from .scripts import GRANTED, padded, playing, told


def test_every_request_is_said_in_canonical_form(probe: Path, path: str) -> None:
    said: list[tuple[str, Message]] = [
        ("register app cached 0 process", Register(2, "app", "cached")),
        ("unregister", Unregister(3)),
        (
            f"register {'ä' * 64} foreground {2**63 - 1} cgroup",
            Register(4, "ä" * 64, "foreground", 2**63 - 1, "cgroup"),
        ),
        ("update background 70000", Update(5, "background", 70_000)),
        ("update cached 0", Update(6, "cached", 0)),
        ("subscribe system local", Subscribe(7)),
        ("subscribe own default", Subscribe(8, "own", "default")),
        (f"subscribe /{'ä' * 1023} hierarchy", Subscribe(9, "/" + "ä" * 1023, "hierarchy")),
        ("unsubscribe system", Unsubscribe(10)),
        ("unsubscribe own", Unsubscribe(11, "own")),
        ("simulate low self 5000", Simulate(12, "low")),
        ("simulate critical all 0", Simulate(13, "critical", "all", 0)),
        ("ack done 0", Ack(14, 2**63 - 1, "done")),
        ("ack working 1", Ack(15, 2**63 - 1, "working", 1)),
    ]

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            assert peer.expect_bytes(encode(Hello(1, 1, "probe")))
            peer.say_bytes(encode(Welcome(1, 1, "lmkd fake", True)))
            for _, request in said:
                assert peer.expect_bytes(encode(request))
                grants = isinstance(request, Register | Update)
                peer.say_bytes(encode(Ok(request.id, GRANT if grants else {"deadline_ms": 5})))
                if isinstance(request, Simulate) and request.scope == "all":
                    peer.say_bytes(encode(notice(2**63 - 1)))
            peer.expect_end()

    with playing(probe, path, script) as program:
        program.expect("open lmkd fake")
        for line, request in said:
            program.ask(line, f"returned {request.id}")
            program.expect(f"ok {request.type}.*")
            if line == "simulate critical all 0":
                program.expect(told(2**63 - 1))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("register a\x01 cached 0", "lmkd_register: expected a name of 1 to 64 characters .*"),
        (f"register {'x' * 65} cached 0", "lmkd_register: expected a name .*"),
        ("register app system 0", "lmkd_register: expected .* a class below `system`.*"),
        ("register app 99 0", "lmkd_register: .*"),
        (f"register app cached {2**63}", "lmkd_register: .* at most 2\\^63-1 bytes"),
        ("register app cached 0 7", "lmkd_register: .*"),
        ("update cached 0", "lmkd_update: expected to be registered.*"),
        ("unregister", "lmkd_unregister: not registered"),
        ("subscribe elsewhere local", "lmkd_subscribe: expected .*"),
        ("subscribe /a/../b local", "lmkd_subscribe: expected .*"),
        (f"subscribe /{'a' * 1024} local", "lmkd_subscribe: expected .*"),
        ("subscribe system 3", "lmkd_subscribe: expected .*"),
        ("unsubscribe system", "lmkd_unsubscribe: that domain is not subscribed"),
        ("ack done 0", "lmkd_ack: expected to be registered.*"),
        ("simulate 4 self 0", "lmkd_simulate: expected a level.*"),
        (f"simulate low self {2**31}", "lmkd_simulate: .*"),
    ],
)
def test_what_the_protocol_does_not_allow_is_refused_here_with_the_reason(
    probe: Path, path: str, line: str, why: str
) -> None:
    with playing(probe, path, once(lambda peer: None)) as program:
        program.expect("open lmkd fake")
        program.ask(line, f"returned -22 {why}")


def test_what_is_wanted_twice_or_too_often_is_refused_here(probe: Path, path: str) -> None:
    def part(peer: Peer) -> None:
        peer.grant()
        for _ in range(8):
            peer.expect(Subscribe)

    with playing(probe, path, once(part)) as program:
        program.expect("open lmkd fake")
        program.ask("register app cached 0", "returned 2")
        program.expect(GRANTED)
        program.ask("register app cached 0", "returned -114 .*a client is one app")
        for number in range(8):
            program.ask(f"subscribe /{number} local", f"returned {number + 3}")
        program.ask("subscribe /7 hierarchy", "returned -114 .*subscribed already")
        program.ask("subscribe /8 local", "returned -28 .*too many domains.*")


def test_all_that_is_pushed_is_heard_and_what_came_before_is_not_said_of_the_next(
    probe: Path, path: str
) -> None:
    last = Notice(8, "/a", "critical", 2**63 - 1, 0, "", True, True)

    def part(peer: Peer) -> None:
        peer.show(pressure("low"))
        peer.grant(notice(7), last, KillWarning("x", 5))
        peer.say(Killed("/a/b", 12, "Web Content", "cached", "first", 2**63 - 1))

    with playing(probe, path, once(part)) as program:
        program.expect("open lmkd fake")
        program.ask("subscribe system local", "returned 2")
        program.expect("ok subscribe as asked", "pressure system low 1048576 0 a test")
        program.ask("register app cached 0", "returned 3")
        program.expect(
            GRANTED,
            told(7),
            f"notice 8 /a critical {2**63 - 1} 0 1 1 ",
            "kill_warning 5 x",
            f"killed /a/b 12 Web Content cached {2**63 - 1} first",
        )


def test_a_frame_in_single_bytes_and_two_in_one_piece_are_the_same(probe: Path, path: str) -> None:
    def part(peer: Peer) -> None:
        peer.grant()
        for byte in encode(notice(1)):
            peer.say_bytes(bytes([byte]))
            time.sleep(0.001)
        peer.say(notice(2), notice(3))

    with playing(probe, path, once(part)) as program:
        program.expect("open lmkd fake")
        program.ask("register app cached 0", "returned 2")
        program.expect(GRANTED, told(1), told(2), told(3))


def test_a_notice_of_64_kib_is_heard_and_so_is_what_comes_behind_it(probe: Path, path: str) -> None:
    def part(peer: Peer) -> None:
        peer.grant()
        for number in range(1, 40):
            peer.say_bytes(padded(notice(number), 65_536) + encode(notice(100 + number)))

    with playing(probe, path, once(part)) as program:
        program.expect("open lmkd fake")
        program.ask("register app cached 0", "returned 2")
        program.expect(GRANTED)
        for number in range(1, 40):
            program.expect(told(number), told(100 + number))


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "parked", "app": 3},
        {"type": "notice", "notice": 1},
        {"type": "reload", "id": 5},
        {"type": "ok", "id": 2},
        {"type": "ok", "id": 4_000_000_000},
        {"type": "welcome", "id": 1, "version": 1, "server": "again", "controller": True},
        {"type": 1},
        {},
        {"type": "bye", "reason": 1.5},
    ],
)
def test_what_is_unknown_malformed_or_out_of_turn_is_passed_over(
    probe: Path, path: str, odd: dict[str, object]
) -> None:
    payload = bytes(msgpack.packb(odd))

    def part(peer: Peer) -> None:
        peer.grant()
        peer.say_bytes(len(payload).to_bytes(4, "big") + payload)
        peer.say(notice(1))

    with playing(probe, path, once(part)) as program:
        program.expect("open lmkd fake")
        program.ask("register app cached 0", "returned 2")
        program.expect(GRANTED, told(1))


def test_a_request_out_of_a_callback_is_sent_and_a_dispatch_out_of_one_is_refused(
    probe: Path, path: str
) -> None:
    def part(peer: Peer) -> None:
        peer.grant(Notice(1, "system", "low", 4096, 9, "answer in the callback"))
        ack = peer.expect(Ack)
        assert (ack.answer, ack.freed_bytes) == ("done", 4096)
        peer.say(Ok(ack.id, {"deadline_ms": 5}))
        peer.say(Notice(2, "system", "low", 4096, 9, "dispatch in the callback"))

    with playing(probe, path, once(part)) as program:
        program.expect("open lmkd fake")
        program.ask("register app cached 0", "returned 2")
        program.expect(GRANTED, "notice 1 .*", "returned 3", "ok ack 5", "notice 2 .*")
        program.expect("returned -16 lmkd_dispatch: not from a callback")


def test_of_requests_that_are_not_answered_there_is_a_bounded_number(
    probe: Path, path: str
) -> None:
    with playing(probe, path, once(lambda peer: answer_late(peer, 64))) as program:
        program.expect("open lmkd fake")
        for number in range(2, 66):
            program.ask("simulate low self 1", f"returned {number}")
        program.ask("simulate low self 1", "returned -11 too many requests are not answered yet")
        before = program.ask("work", r"work (\d+) .*")
        assert program.ask("work", r"work (\d+) .*")[1] == before[1]
        for _ in range(64):
            program.expect("ok simulate")


def answer_late(peer: Peer, count: int) -> None:
    asked = [peer.expect(Simulate).id for _ in range(count)]
    time.sleep(0.3)
    peer.say(*(Ok(number) for number in asked))
