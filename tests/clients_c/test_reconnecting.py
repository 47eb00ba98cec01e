"""The client for C and a daemon that goes, comes back, lets nobody in, or is gone for good."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from lmkd_proto import (
    Ack,
    Bye,
    Error,
    Hello,
    Message,
    Ok,
    Register,
    Subscribe,
    encode,
)

from ..clients.fake_daemon import FakeDaemon, Peer, notice, once, pressure
from ..program import Program
from .programs import CLIENT, HERE, STRICT, build
from .scripts import GRANTED, QUICK, lost, playing, told


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
