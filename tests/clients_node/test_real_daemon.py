"""The client for Node against lmkd itself, on simulated memory."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import lmkd_client
import pytest

from ..clients.fake_daemon import PATIENCE_S
from ..conftest import RealDaemon
from .probe import QUICK, Probe
from .programs import place

MIB = 1 << 20
LONG_MS = 600_000

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="to simulate for others takes root")


@pytest.fixture
def path(real_daemon: RealDaemon) -> str:
    """Where lmkd is."""
    return real_daemon.socket


def wait_for_app(controller: lmkd_client.Client) -> dict[str, Any]:
    """Wait until an app has registered, and return its row; each look is an answer of the daemon."""
    for _ in range(10_000):
        apps = controller.status()["apps"]
        assert isinstance(apps, list)
        if apps:
            row: dict[str, Any] = apps[0]
            return row
    raise AssertionError("no app has registered")


def test_an_app_rehearses_a_level_answers_and_hears_the_end_of_it(probe: Probe) -> None:
    probe.connect()
    assert probe.run("return state.client.server.name").startswith("lmkd ")
    probe.run("await state.client.subscribe()")
    assert probe.event("pressure")["level"] == "normal"
    grant = probe.run(
        f"return state.client.register({{ name: 'app', sheddableBytes: {64 * MIB} }})"
    )
    assert (grant["appClass"], grant["domain"], grant["graceMs"]) == ("cached", "system", 1000)
    probe.run("await state.client.simulate('medium', { durationMs: 300 })")
    told = probe.run("state.notice = await state.until('notice'); return state.notice")
    assert (told["level"], told["targetBytes"], told["simulated"]) == ("medium", 64 * MIB, True)
    left_ms = probe.run(f"return state.client.ack(state.notice, 'done', {64 * MIB})")
    assert left_ms == 0  # a rehearsal of one's own kills nobody, so nothing is due
    assert probe.event("notice")["level"] == "normal"
    grant = probe.run("return state.client.update({ appClass: 'background', sheddableBytes: 0 })")
    assert (grant["appClass"], grant["graceMs"]) == ("background", 3000)
    with lmkd_client.connect() as other:
        row = wait_for_app(other)
        assert (row["name"], row["class"], row["sheddable_kib"]) == ("app", "background", 0)
        assert other.explain(probe.pid)["why_class"] == "registered"
        probe.run("await state.client.unregister()")
        assert other.status()["apps"] == []


def test_what_people_and_tools_ask_is_answered(probe: Probe) -> None:
    probe.connect()
    status = probe.run("return state.client.status()")
    assert status["domains"][0]["domain"] == "system"
    assert probe.run("return state.client.history()")["episodes"] == []
    assert probe.run(f"return state.client.explain({{ pid: {os.getpid()} }})")["pid"] == os.getpid()
    rules = probe.run("return state.client.rules({ limit: 2 })")
    assert (len(rules["rules"]), rules["next"]) == (2, 2)
    assert "processes" in probe.run("return state.client.processes()")
    assert "config_files" in probe.run("return state.client.reload()")


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        ("subscribe('/no/such/cgroup')", "unknown_domain"),
        ("history({ episode: 99 })", "unknown_episode"),
        ("explain({ pid: 2 ** 31 - 1 })", "unknown_process"),
        ("explain({ kill: 2n ** 63n - 1n })", "unknown_kill"),
        ("setClass(2n ** 63n - 1n, 'cached')", "unknown_app"),
    ],
)
def test_what_the_daemon_refuses_is_told_with_its_code(
    probe: Probe, code: str, refused: str
) -> None:
    probe.connect()
    error = probe.fails(f"await state.client.{code}")
    assert (error["name"], error["code"]) == ("RequestRefusedError", refused)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_that_ends_in_mid_notice_and_starts_again_finds_everything_as_it_was(
    probe: Probe, real_daemon: RealDaemon, how: signal.Signals
) -> None:
    probe.connect()
    probe.run("await state.client.subscribe()")
    probe.run(
        f"await state.client.register({{ name: 'app', appClass: 'service', sheddableBytes: {MIB} }})"
    )
    probe.run(f"await state.client.simulate('critical', {{ durationMs: {LONG_MS} }})")
    told = probe.run("state.notice = await state.until('notice'); return state.notice")
    assert told["level"] == "critical"
    real_daemon.end(how)
    assert probe.event("lost")["error"]["code"] == "connection_lost"
    real_daemon.start()
    assert probe.event("registered")["grant"]["appClass"] == "service"
    # The new daemon knows of no rehearsal.
    assert probe.run("return state.client.level") == "normal"
    assert probe.run("return state.client.ack(state.notice)") is None
    with lmkd_client.connect() as other:
        row = wait_for_app(other)
        assert (row["name"], row["class"], row["sheddable_kib"]) == ("app", "service", 1024)


@needs_root
def test_the_callback_is_called_after_a_restart_too_and_the_memory_is_really_gone(
    probe: Probe, real_daemon: RealDaemon
) -> None:
    probe.run(
        f"{hold(32)}; state.listener = lmkd.onPressure("
        f"{{ name: 'shop', sheddableBytes: {32 * MIB}, {QUICK} }},"
        " (notice) => { state.cache = []; state.told(notice) })"
    )
    for level in ("medium", "critical"):
        probe.run(
            f"{hold(32)}; state.called = new Promise((resolve) => {{ state.told = resolve }})"
        )
        with lmkd_client.connect() as controller:
            before_kib = size_kib(wait_for_app(controller))
            controller.simulate(level, "all", LONG_MS)
            assert probe.run("return state.called")["level"] == level
            for _ in range(10_000):
                after_kib = size_kib(wait_for_app(controller))
                if after_kib < before_kib - (31 << 10):
                    break
            assert after_kib < before_kib - (31 << 10)
        real_daemon.end(signal.SIGKILL)
        real_daemon.start()


def test_under_real_pressure_what_the_callback_gave_is_measured_by_the_daemon_and_credited(
    app: Path, tmp_path: Path
) -> None:
    """The invented memory is filled by this very program, and empties by what it sheds."""
    folder = tmp_path / "small"
    folder.mkdir()
    daemon = RealDaemon(folder, "192MiB", "[system]\nkill = false\n")
    daemon.start()
    try:
        program = place(tmp_path, app, Path(__file__).parent / "probe.mjs", "probe.mjs")
        with Probe(program, daemon.socket) as probe, lmkd_client.connect(daemon.socket) as other:
            probe.run(
                f"{hold(150)}; state.told = []; state.listener = lmkd.onPressure("
                f"{{ name: 'shop', sheddableBytes: {150 * MIB}, {QUICK} }},"
                " (notice) => { state.told.push(notice.level); state.cache = [] })"
            )
            wait_for_app(other)
            probe.run(
                "while (state.told.length === 0 && state.cache.length < 180) {"
                "state.cache.push(new Uint8Array(2 ** 20).fill(1));"
                "await new Promise((resolve) => setTimeout(resolve, 100)) }"
            )
            record = wait_for_record(other, "ack")
    finally:
        daemon.end()
    assert (record["name"], record["answer"], record["trust"]) == ("shop", "done", 1)
    assert record["claimed_kib"] >= 140 << 10
    assert record["measured_kib"] >= 140 << 10


def hold(mib: int) -> str:
    return f"state.cache = Array.from({{ length: {mib} }}, () => new Uint8Array(2 ** 20).fill(1))"


def size_kib(row: dict[str, Any]) -> int:
    return int(row["size_kib"] or 0)


def wait_for_record(client: lmkd_client.Client, kind: str) -> dict[str, Any]:
    """Wait until the latest episode has a record of this kind, and return it."""
    seen: list[Any] = []
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        episodes: Any = client.history()["episodes"]
        for episode in episodes:
            records: Any = client.history(episode["episode"], limit=1000)["records"]
            for record in records:
                if record["kind"] == kind:
                    found: dict[str, Any] = record
                    return found
    raise AssertionError(f"no {kind} in the history: {seen[-5:]}")
