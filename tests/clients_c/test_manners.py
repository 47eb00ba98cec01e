"""What the client for C leaves alone: memory, signals, descriptors, children, and others' sockets."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from lmkd_proto import (
    Simulate,
    Subscribe,
)

from ..clients.fake_daemon import SOCKET_PLACES, FakeDaemon, notice, once, pressure
from ..program import Program
from .scripts import GRANTED, QUICK, lost, padded, playing, told


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
    SOCKET_PLACES,
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


def test_a_sessions_daemon_that_comes_later_is_found(
    probe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LMKD_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    if Path("/run/lmkd/socket").exists():
        pytest.skip("the system's own lmkd would answer")
    with Program(probe, *QUICK) as program:
        program.expect("away no lmkd at /run/lmkd/socket: .*")
        (tmp_path / "lmkd").mkdir()
        with FakeDaemon(str(tmp_path / "lmkd" / "socket")) as daemon:
            daemon.run(once(lambda peer: None))
            program.expect("open lmkd fake")
            program.ask("quit", "done")


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
