"""Bridges as the daemon holds them: shown every action, and put off where they fail."""

from __future__ import annotations

import logging
from pathlib import Path

import lmkd_proto as wire
import pytest
import trio

from lmkd.model import SYSTEM_DOMAIN, Level
from lmkd.policy.actions import Action, AllowOutsideKill, Broadcast
from lmkd.service.bridges import Bridges

from .house import running

LOW = Broadcast(SYSTEM_DOMAIN, Level.LOW, "little is left", 100)


class Plain:
    """A bridge that keeps what it is shown, and fails when it is told to."""

    def __init__(self, key: str, *, takes: bool = True, runs: bool = True) -> None:
        self.key = key
        self.standing = "well"
        self.shown: list[Action] = []
        self.closed = 0
        self._takes = takes
        self._runs = runs

    def take(self, action: Action) -> None:
        self.shown.append(action)
        if not self._takes:
            raise ValueError("takes nothing")

    async def run(self) -> None:
        if not self._runs:
            raise ValueError("does not run")
        await trio.sleep_forever()

    def close(self) -> None:
        self.closed += 1


async def test_one_that_fails_is_put_off_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, bad, last = Plain("first"), Plain("bad", takes=False), Plain("last")
    bridges = Bridges((first, bad, last), [("absent", "it lacks something")])
    with caplog.at_level(logging.ERROR, "lmkd"):
        bridges.take(LOW)
        bridges.take(AllowOutsideKill(1))
    for good in (first, last):
        assert good.shown == [LOW, AllowOutsideKill(1)]
    assert (bad.shown, bad.closed) == ([LOW], 1)
    assert caplog.messages == ["interop.bad has failed, and is off until a restart"]
    assert bridges.describe() == [
        "first: well",
        "last: well",
        "absent: it lacks something",
        "bad: it has failed; the log says how",
    ]


async def test_one_whose_task_fails_ends_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    good, bad = Plain("good"), Plain("bad", runs=False)
    bridges = Bridges((good, bad))
    async with trio.open_nursery() as nursery:
        bridges.start(nursery)
        await trio.testing.wait_all_tasks_blocked()
        bridges.take(LOW)
        nursery.cancel_scope.cancel()
    bridges.close()
    assert (good.shown, bad.shown) == ([LOW], [])
    assert (good.closed, bad.closed) == (1, 1)
    assert "interop.bad has failed" in caplog.text


async def test_nothing_is_spoken_where_nothing_is_switched_on(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        peer = await house.connect()
        assert (await peer.get(wire.Status))["interop"] == []
    assert not (tmp_path / "memory-pressure").exists()


async def test_what_is_switched_on_later_takes_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as house:
        (tmp_path / "over.toml").write_text(
            "[interop]\nmemory_pressure = true\nprekill_timeout = '1s'\n"
        )
        house.parts.reload()
    takes = "in the configuration now: that takes a restart; until then it stays"
    assert f"interop.memory_pressure is true {takes} false" in caplog.messages
    assert f"interop.prekill_timeout is 1000ms {takes} 3000ms" in caplog.messages
