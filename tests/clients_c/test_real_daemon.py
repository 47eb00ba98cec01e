"""The client for C against lmkd itself, on simulated memory."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import lmkd_client
import pytest

from ..conftest import RealDaemon
from ..program import Program

MIB = 1 << 20
LONG_MS = 600_000
GRANTED = r"ok register \d+ (\w+) process system (\d+) \d+"


@pytest.fixture
def program(probe: Path, real_daemon: RealDaemon) -> Iterator[Program]:
    with Program(probe, "10", "50") as running:
        running.expect(r"open lmkd \S+")
        yield running
        running.ask("quit", "done")


def test_an_app_rehearses_a_level_answers_and_hears_the_end_of_it(
    program: Program, real_daemon: RealDaemon
) -> None:
    program.ask("subscribe system local", r"returned \d+")
    program.expect("ok subscribe system", r"pressure system normal \d+ 0 .*")
    program.ask(f"register app cached {64 * MIB}", r"returned \d+")
    assert program.expect(GRANTED).groups() == ("cached", "1000")
    program.ask("simulate medium self 300", r"returned \d+")
    program.expect("ok simulate")
    heard = sorted(program.expect(".*")[0] for _ in range(2))
    assert heard[0].startswith(f"notice 1 system medium {64 * MIB} ")
    assert heard[1].startswith("pressure system medium ")
    program.ask(f"ack done {64 * MIB}", r"returned \d+")
    program.expect(r"ok ack \d+")
    heard = sorted(program.expect(".*")[0] for _ in range(2))
    assert heard[0].startswith("notice 2 system normal 0 ")
    assert heard[1].startswith("pressure system normal ")
    program.ask("update background 0", r"returned \d+")
    program.expect(r"ok update \d+ background process system 3000 2000")
    with lmkd_client.connect() as other:
        (row,) = other.status()["apps"]  # type: ignore[misc]
        assert (row["name"], row["class"], row["sheddable_kib"]) == ("app", "background", 0)
        assert other.explain(program.pid)["why_class"] == "registered"
        program.ask("unregister", r"returned \d+")
        program.expect("ok unregister")
        assert other.status()["apps"] == []


def test_what_the_daemon_refuses_is_told_with_its_reason(program: Program) -> None:
    program.ask("subscribe /no/such/cgroup local", r"returned \d+")
    program.expect("refused subscribe unknown_domain .*")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_that_ends_in_mid_notice_and_starts_again_finds_everything_as_it_was(
    program: Program, real_daemon: RealDaemon, how: signal.Signals
) -> None:
    program.ask("subscribe system local", r"returned \d+")
    program.expect("ok subscribe system", "pressure system normal .*")
    program.ask(f"register app service {MIB}", r"returned \d+")
    program.expect(GRANTED)
    program.ask(f"simulate critical self {LONG_MS}", r"returned \d+")
    program.expect("ok simulate")
    for _ in range(2):
        program.expect("(notice|pressure system) .*critical .*")
    real_daemon.end(how)
    program.expect("away lost lmkd at .*")
    real_daemon.start()
    # The new daemon knows of no rehearsal.
    program.expect(r"open lmkd \S+", "ok subscribe system", "pressure system normal .*", GRANTED)
    program.ask("ack done 0", "returned 0")
    with lmkd_client.connect() as other:
        (row,) = other.status()["apps"]  # type: ignore[misc]
        assert (row["name"], row["class"], row["sheddable_kib"]) == ("app", "service", 1024)


@pytest.mark.skipif(os.getuid() != 0, reason="to simulate for others takes root")
def test_a_rehearsal_for_all_is_heard_by_another_client(
    program: Program, real_daemon: RealDaemon
) -> None:
    program.ask("register app background 4096", r"returned \d+")
    program.expect(GRANTED)
    with lmkd_client.connect() as other:
        other.simulate("low", "all", LONG_MS)
        program.expect(r"notice \d+ system low 4096 \d+ 0 1 .*")
