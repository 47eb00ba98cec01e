"""The client for C against a scripted daemon: what it says, hears, and makes of a daemon that misbehaves."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack
import pytest
from lmkd_proto import (
    Ack,
    Bye,
    Error,
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

from ..clients.fake_daemon import GRANT, FakeDaemon, Peer, notice, pressure
from .programs import CLIENT, HERE, STRICT, Program, build

Script = Callable[[FakeDaemon], None]
QUICK = ("10", "50")
GRANTED = r"ok register 7 cached process system 1000 500"


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the daemon is."""
    return str(tmp_path / "socket")


@contextmanager
def playing(probe: Path, path: str, script: Script, *arguments: str) -> Iterator[Program]:
    """Run the probe against a daemon that plays this script."""
    environment = {"LMKD_SOCKET": path}
    with (
        FakeDaemon(path) as daemon,
        Program(probe, *(arguments or QUICK), environment=environment) as program,
    ):
        daemon.run(script)
        yield program
        program.ask("quit", "done")
        assert program.wait() == 0


def told(number: int, level: str = "medium", reason: str = "a test") -> str:
    return f"notice {number} system {level} 1048576 1000 0 0 {reason}"


def lost(path: str, why: str, how: str = "away") -> str:
    return f"{how} lost lmkd at {re.escape(path)}: {why}"


def once(part: Callable[[Peer], None]) -> Script:
    """Script one connection, which is greeted, and lasts until the client leaves."""

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            part(peer)
            peer.expect_end()

    return script


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


def test_what_was_wanted_before_there_was_a_daemon_is_said_when_it_is_there(
    probe: Path, path: str
) -> None:
    def part(peer: Peer) -> None:
        assert peer.expect(Subscribe).domain == "own"
        assert peer.expect(Register).sheddable_bytes == 6

    with Program(probe, *QUICK, environment={"LMKD_SOCKET": path}) as program:
        program.expect(f"away no lmkd at {path}: No such file or directory")
        for line in ("register app cached 5", "subscribe own local", "update cached 6"):
            program.ask(line, "returned 0")
        program.ask("simulate low self 1", "returned -107 lmkd_simulate: the daemon is away")
        with FakeDaemon(path) as daemon:
            daemon.run(once(part))
            program.expect("open lmkd fake")
            program.ask("quit", "done")


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


def padded(message: Message, length: int) -> bytes:
    """Return a frame of exactly this length that says the same, with a key of a later version."""
    body = msgpack.unpackb(encode(message)[4:])
    body["of_a_later_version"] = b""
    spare = length - len(msgpack.packb(body)) - 1  # what says how long it is takes a byte more
    body["of_a_later_version"] = bytes(spare)
    payload = bytes(msgpack.packb(body))
    assert len(payload) == length
    return length.to_bytes(4, "big") + payload


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


@pytest.mark.parametrize("length", [0, 65_537, 0xFFFF_FFFF])
def test_a_forbidden_length_ends_the_connection_and_what_came_before_it_is_heard(
    probe: Path, path: str, length: int
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.grant()
            peer.say_bytes(encode(notice(1)) + length.to_bytes(4, "big"))
            peer.expect_end()
        with daemon.accept() as peer:
            peer.greet()
            peer.grant()
            peer.expect_end()

    with playing(probe, path, script) as program:
        program.expect("open lmkd fake")
        program.ask("register app cached 0", "returned 2")
        program.expect(
            GRANTED,
            told(1),
            lost(path, f"it broke the protocol: a frame of {length} bytes"),
            "open lmkd fake",
            GRANTED,
        )


def test_a_daemon_that_ends_in_the_middle_of_a_notice_is_found_again_and_told_all_again(
    probe: Path, path: str
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.show(pressure("low"))
            peer.grant(notice(1))
            peer.say_bytes(encode(notice(2))[:-3])
        with daemon.accept() as peer:
            assert peer.greet() == Hello(4, 1, "probe")
            subscribe = peer.show(pressure("normal"))
            assert (subscribe.domain, subscribe.propagation) == ("own", "hierarchy")
            register = peer.grant(notice(1, "critical"))
            assert (register.name, register.app_class) == ("app", "background")
            assert (register.sheddable_bytes, register.unit) == (9, "tree")
            assert peer.expect(Ack).notice == 1
            peer.expect_end()

    with playing(probe, path, script) as program:
        program.expect("open lmkd fake")
        program.ask("subscribe own hierarchy", "returned 2")
        program.expect("ok subscribe as asked", "pressure system low .*")
        program.ask("register app background 9 tree", "returned 3")
        program.expect(
            *(GRANTED, told(1), lost(path, "it closed the connection"), "open lmkd fake"),
            *("ok subscribe as asked", "pressure system normal .*", GRANTED, told(1, "critical")),
        )
        program.ask("ack done 0", r"returned 7")


def test_a_notice_of_an_earlier_connection_is_not_acknowledged_on_a_later_one(
    probe: Path, path: str
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.grant(notice(1))
        with daemon.accept() as peer:
            peer.greet()
            peer.grant()
            peer.expect_end()

    with playing(probe, path, script) as program:
        program.expect("open lmkd fake")
        program.ask("register app cached 0", "returned 2")
        program.expect(GRANTED, told(1), lost(path, ".*"), "open lmkd fake", GRANTED)
        program.ask("ack done 0", "returned 0")


@pytest.mark.parametrize(
    ("last_words", "why"),
    [
        (Bye("the service stops"), "it left: the service stops"),
        (Error(None, "too_many", "100 clients are enough"), "too_many: 100 clients are enough"),
        (None, "it closed the connection"),
    ],
)
def test_why_a_daemon_left_is_said(
    probe: Path, path: str, last_words: Message | None, why: str
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            if last_words is not None:
                peer.say(last_words)
        with daemon.accept() as peer:
            peer.greet()
            peer.expect_end()

    with playing(probe, path, script) as program:
        program.expect("open lmkd fake", lost(path, why), "open lmkd fake")


def test_why_a_daemon_lets_nobody_in_is_said_though_it_reads_nothing(
    probe: Path, path: str
) -> None:
    """A connection beyond the limit is sent an error and closed, with the hello still in it (SPEC X-1)."""

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.say_bytes(encode(Error(None, "too_many", "100 clients are enough")))
        with daemon.accept() as peer:
            peer.greet()
            peer.expect_end()

    with playing(probe, path, script) as program:
        program.expect(lost(path, "too_many: 100 clients are enough"), "open lmkd fake")


def test_a_daemon_that_is_gone_for_good_is_said_once_and_costs_nearly_nothing(
    probe: Path, path: str
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            daemon.stop()

    with playing(probe, path, script, "50", "400") as program:
        program.expect("open lmkd fake", lost(path, "it closed the connection"))
        program.ask("simulate low self 1", "returned -107 lmkd_simulate: the daemon is away")
        before = program.ask("work", r"work (\d+) (\d+)")
        time.sleep(2)
        after = program.ask("work", r"work (\d+) (\d+)")
        # Pauses of 25 to 50, 50 to 100, 100 to 200 and then 200 to 400 ms: 6 to 12 in 2 s.
        assert 3 <= int(after[1]) - int(before[1]) <= 20
        assert int(after[2]) - int(before[2]) <= 100
        program.ask("fd", "fd 0")


def test_a_client_that_connects_once_is_over_when_its_daemon_is_gone_and_never_spins(
    probe: Path, path: str
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()

    with playing(probe, path, script, "once") as program:
        why = "it closed the connection"
        program.expect(
            "open lmkd fake", lost(path, why, "over"), lost(path, why, "dispatched -104")
        )
        program.ask("fd", "fd 0")
        program.ask("register app cached 0", lost(path, why, "returned -104"))
        before = program.ask("work", r"work (\d+) .*")
        time.sleep(0.2)
        assert program.ask("work", r"work (\d+) .*")[1] == before[1]


def test_a_client_that_connects_once_where_nobody_is_says_where_and_what(
    probe: Path, path: str
) -> None:
    with Program(probe, "once", environment={"LMKD_SOCKET": path}) as program:
        program.expect(f"over no lmkd at {path}: No such file or directory", "dispatched -2 no .*")
        program.ask("quit", "done")


def test_a_daemon_that_accepts_and_never_greets_is_left(tmp_path: Path, path: str) -> None:
    impatient = build(
        tmp_path / "probe", *STRICT, "-DGREETING_MOST_MS=100", HERE / "probe.c", CLIENT / "lmkd.c"
    )

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.expect(Hello)
            peer.expect_end()
        with daemon.accept() as peer:
            peer.greet()
            peer.expect_end()

    with playing(impatient, path, script) as program:
        program.expect(lost(path, "no greeting came in time"), "open lmkd fake")


def test_a_forked_child_that_keeps_the_old_socket_does_not_make_the_client_spin(
    probe: Path, path: str
) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.expect(Simulate)
        daemon.stop()

    with playing(probe, path, script, "500", "500") as program:
        program.expect("open lmkd fake")
        program.ask("fork", "forked")
        program.ask("simulate low self 1", "returned 2")
        program.expect(lost(path, "it closed the connection"))
        program.ask("fd", "fd 0")


@pytest.mark.parametrize(
    ("named", "runtime", "expected"),
    [
        ("/by/name", True, "/by/name"),
        ("", True, "{runtime}/lmkd/socket"),
        (None, True, "{runtime}/lmkd/socket"),
        (None, False, "/run/lmkd/socket"),
        (None, None, "/run/lmkd/socket"),
    ],
)
def test_the_socket_is_looked_for_by_name_then_in_the_session_then_in_the_system(
    probe: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    named: str | None,
    runtime: bool | None,
    expected: str,
) -> None:
    monkeypatch.delenv("LMKD_SOCKET", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if named is not None:
        monkeypatch.setenv("LMKD_SOCKET", named)
    if runtime is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        if runtime:
            (tmp_path / "lmkd").mkdir()
            (tmp_path / "lmkd" / "socket").touch()
    if expected == "/run/lmkd/socket" and Path(expected).exists():
        pytest.skip("the system's own lmkd would answer")
    with Program(probe, "once") as program:
        program.expect(f"over no lmkd at {expected.format(runtime=tmp_path)}: .*")


def test_no_descriptor_is_left_to_a_program_that_is_executed(probe: Path, path: str) -> None:
    with playing(probe, path, once(lambda peer: None)) as program:
        program.expect("open lmkd fake")
        opened = [
            entry for entry in Path(f"/proc/{program.pid}/fdinfo").iterdir() if int(entry.name) > 2
        ]
        assert len(opened) == 3
        for entry in opened:
            flags = re.search(r"flags:\s+(\d+)", entry.read_text())
            assert flags is not None
            assert int(flags[1], 8) & os.O_CLOEXEC


def test_a_socket_path_that_is_too_long_makes_no_client(probe: Path) -> None:
    with Program(probe, environment={"LMKD_SOCKET": "/" + "x" * 200}) as program:
        program.expect("no client: File name too long")
        assert program.wait() == 1


def test_a_daemon_of_another_version_ends_the_client(probe: Path, path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            hello = peer.expect(Hello)
            peer.say(Error(hello.id, "bad_version", "this is version 2"))
            peer.expect_end()

    with playing(probe, path, script) as program:
        program.expect(
            f"over refused by lmkd at {path}: bad_version: this is version 2",
            "dispatched -93 refused by .*",
        )


def test_a_refused_registration_is_not_said_again(probe: Path, path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.say(Error(peer.expect(Register).id, "too_many", "enough"))
            peer.say(Ok(peer.expect(Register).id, {"app": 1}), notice(1))
        with daemon.accept() as peer:
            peer.greet()
            peer.expect_end()

    with playing(probe, path, script) as program:
        program.expect("open lmkd fake")
        program.ask("register app cached 0", "returned 2")
        program.expect("refused register too_many enough")
        program.ask("register app cached 0", "returned 3")
        program.expect("refused register failed the daemon answered, but not with what .*")
        # Who is no app hears no notice.
        program.expect(lost(path, ".*"), "open lmkd fake")


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


def test_nothing_is_allocated_after_the_client_was_made(plain_probe: Path, path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        for number in range(3):
            with daemon.accept() as peer:
                peer.greet()
                if number > 0:
                    peer.expect(Subscribe)
                    peer.grant(notice(1))
                else:
                    peer.show(pressure("low"))
                    peer.grant(notice(1))
                peer.say_bytes(padded(notice(2), 65_536))
                if number == 2:
                    peer.expect_end()

    with playing(plain_probe, path, script) as program:
        program.expect("open lmkd fake")
        before = program.ask("heap", r"heap (\d+)")
        program.ask("subscribe system local", "returned 2")
        program.expect("ok subscribe .*", "pressure system low .*")
        program.ask("register app cached 0", "returned 3")
        program.expect(GRANTED, told(1), told(2))
        for _ in range(2):
            program.expect(lost(path, ".*"), "open lmkd fake", GRANTED, told(1), told(2))
        assert program.ask("heap", r"heap (\d+)")[1] == before[1]


def test_a_request_to_a_daemon_that_has_just_gone_raises_no_signal(probe: Path, path: str) -> None:
    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.expect(Simulate)
        with daemon.accept() as peer:
            peer.greet()
            peer.expect_end()

    with playing(probe, path, script) as program:
        program.expect("open lmkd fake")
        program.tell("simulate low self 1\nblind")
        program.expect("returned 2", "returned 3")
        program.expect(lost(path, "it closed the connection"), "open lmkd fake")
