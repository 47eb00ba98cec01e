"""The three shells and the one-liner against lmkd itself, on simulated memory."""

from __future__ import annotations

import gc
import os
import queue
import signal
from typing import TYPE_CHECKING

import lmkd_client
import pytest
from lmkd_client import Backoff, Notice, RequestRefused
from lmkd_client.held_memory import Memory

from .fake_daemon import PATIENCE_S
from .shells import SHELLS, Shell

if TYPE_CHECKING:
    from ..conftest import RealDaemon

MIB = 1 << 20
LONG_MS = 600_000

each_shell = pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell.name)


@each_shell
def test_an_app_rehearses_a_level_answers_and_hears_the_end_of_it(
    shell: Shell, daemon_socket: str
) -> None:
    async def scenario(shell: Shell) -> None:
        async with shell.connect(daemon_socket, name="a test") as client:
            assert client.welcome.controller is (os.getuid() == 0)
            levels = await client.subscribe()
            app = await client.register("a test", "cached", sheddable_bytes=64 * MIB)
            assert (app.grant.app_class, app.grant.domain) == ("cached", "system")
            assert (await anext(levels)).level == "normal"
            await client.simulate("medium", duration_ms=100)
            told = await anext(app.notices())
            assert (told.level, told.target_bytes, told.simulated) == ("medium", 64 * MIB, True)
            assert (await anext(levels)).level == "medium"
            assert await app.ack(told, "done", freed_bytes=64 * MIB)
            # Out of date as soon as it is read: what stands at the end is the truth.
            assert (await anext(app.notices())).level == "normal"
            assert (await anext(levels)).level == "normal"
            assert (await app.update(sheddable_bytes=0, app_class="background")).grace_ms == 3000
            (row,) = (await client.status())["apps"]
            assert (row["class"], row["sheddable_kib"]) == ("background", 0)
            assert (await client.explain(os.getpid()))["why_class"] == "registered"
            assert (await client.history())["episodes"] == []
            await app.unregister()
            assert (await client.status())["apps"] == []

    shell.run(scenario)


@each_shell
def test_what_the_daemon_refuses_is_told_with_its_reason(shell: Shell, daemon_socket: str) -> None:
    async def scenario(shell: Shell) -> None:
        async with shell.connect(daemon_socket) as client:
            with pytest.raises(RequestRefused, match="unknown_domain"):
                await client.subscribe("/no/such/cgroup")
            with pytest.raises(RequestRefused, match="unknown_episode"):
                await client.history(episode=99)
            with pytest.raises(RequestRefused, match="unknown_process"):
                await client.explain(pid=2**31 - 1)

    shell.run(scenario)


@each_shell
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_that_ends_in_mid_notice_and_starts_again_finds_everything_as_it_was(
    shell: Shell, real_daemon: RealDaemon, how: signal.Signals
) -> None:
    async def scenario(shell: Shell) -> None:
        async with shell.connect(real_daemon.socket, backoff=Backoff(10, 50)) as client:
            levels = await client.subscribe()
            app = await client.register("a test", "service", sheddable_bytes=MIB)
            assert (await anext(levels)).level == "normal"
            await client.simulate("critical", duration_ms=LONG_MS)
            told = await anext(app.notices())
            assert (await anext(levels)).level == "critical"
            real_daemon.end(how)
            real_daemon.start()
            # The new daemon knows of no rehearsal.
            assert (await anext(levels)).level == "normal"
            assert await app.ack(told) is False
            assert app.level == "normal"
            (row,) = (await client.status())["apps"]
            assert (row["name"], row["class"]) == ("a test", "service")

    shell.run(scenario)


def test_the_one_liner_is_called_and_its_answer_counts(real_daemon: RealDaemon) -> None:
    told: queue.Queue[Notice] = queue.Queue()

    def shed(notice: Notice) -> int:
        told.put(notice)
        return MIB

    with lmkd_client.connect() as controller:
        levels = controller.subscribe()
        next(levels)
        listener = lmkd_client.on_pressure(
            shed, name="a test", sheddable_bytes=MIB, backoff=Backoff(10, 50)
        )
        try:
            _wait_for_app(controller)
            controller.simulate("low", "all", duration_ms=LONG_MS)
            assert told.get(timeout=PATIENCE_S).level == "low"
            real_daemon.end(signal.SIGKILL)
            real_daemon.start()
            assert next(levels).level == "low"  # type: ignore[union-attr]
            assert next(levels).level == "normal"  # type: ignore[union-attr]
            _wait_for_app(controller)
            controller.simulate("medium", "all", duration_ms=LONG_MS)
            assert told.get(timeout=PATIENCE_S).level == "medium"
        finally:
            listener.close()
        assert _apps(controller) == []


def test_what_is_shed_by_itself_in_a_rehearsal_is_measured_and_one_follows_another(
    daemon_socket: str,
) -> None:
    cache: list[bytes] = []
    shedders = lmkd_client.Shedders()
    shedders.add_callback(lambda target_bytes: cache.clear())
    with pytest.raises(lmkd_client.ClosedClient):
        lmkd_client.simulate("critical")
    listener = lmkd_client.shed_on_pressure(
        name="a test", sheddable_bytes=16 * MIB, shedders=shedders, backoff=Backoff(10, 50)
    )
    try:
        for level in ("medium", "critical"):
            cache.append(b"x" * (16 * MIB))
            gc.collect()  # what other tests have left would be in what is measured
            Memory().trim()
            seen = lmkd_client.simulate(level, 1)
            assert (seen.notice.level, seen.notice.target_bytes) == (level, 16 * MIB)
            assert seen.answer == "done"
            assert 15 * MIB <= seen.freed_bytes <= 18 * MIB
            assert cache == []
    finally:
        listener.close()


def _apps(controller: lmkd_client.Client) -> object:
    return controller.status()["apps"]


def _wait_for_app(controller: lmkd_client.Client) -> None:
    """Wait until an app has registered; each look is an answer of the daemon."""
    for _ in range(10_000):
        if _apps(controller):
            return
    raise AssertionError("no app has registered")
