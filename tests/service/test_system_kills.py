"""Kills of the system's daemon in a session: the bridges hear of those of this user's programs, and of no others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import lmkd_proto as wire
import trio
from trio.testing import MockClock

from lmkd.model import AppClass
from lmkd.policy.actions import Action, ReportKilled
from lmkd.service.bridges import Bridges
from lmkd.service.daemon import Session
from lmkd.service.roll import GONE_KEPT

from .house import House, running

OWN, OTHER = 1000, 1001


class Ear:
    """A bridge that keeps whom it hears of."""

    key = "ear"
    standing = "listening"

    def __init__(self) -> None:
        self.heard: list[ReportKilled] = []

    def take(self, action: Action) -> None:
        if isinstance(action, ReportKilled):
            self.heard.append(action)

    async def run(self) -> None:
        await trio.sleep_forever()

    def close(self) -> None:
        pass


@asynccontextmanager
async def session(tmp_path: Path) -> AsyncIterator[tuple[House, Ear]]:
    """Run a session's daemon, beside which no system's daemon is."""
    ear = Ear()
    own = Session(OWN, None, str(tmp_path / "nobody"))
    async with running(tmp_path, session=own) as house:
        house.parts.bridges = Bridges([ear])
        yield house, ear


def ended(pid: int, app_class: str = "service") -> wire.Killed:
    return wire.Killed("system", pid, "its name", app_class, "the reason", 300 << 20)


async def test_a_program_of_the_user_is_told_of_though_it_is_gone_by_then(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with session(tmp_path) as (house, ear):
        pid = house.kernel.spawn("editor", anon_kib=300 << 10, uid=OWN, cgroup="/app")
        roll = house.parts.roll
        roll.look(pid)
        house.kernel.exit(pid)
        assert roll.look(pid) is None
        house.parts.hear_of_system_kill(ended(pid))
        (heard,) = ear.heard
        assert (heard.domain, heard.reason, heard.freed_kib) == ("system", "the reason", 300 << 10)
        victim = heard.victim
        assert (victim.pid, victim.name, victim.cgroup) == (pid, "its name", "/app")


async def test_other_users_programs_and_unknown_ones_are_never_told_of(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with session(tmp_path) as (house, ear):
        other = house.kernel.spawn("secret", anon_kib=300 << 10, uid=OTHER)
        house.parts.roll.look(other)
        house.parts.hear_of_system_kill(ended(other))
        house.kernel.exit(other)
        house.parts.roll.look(other)
        for pid in (other, 4_000_000, 0):
            house.parts.hear_of_system_kill(ended(pid))
        assert ear.heard == []


async def test_its_class_is_the_higher_of_what_either_daemon_knows(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with session(tmp_path) as (house, ear):
        peer = await house.run_app("editor", "perceptible", 300, uid=OWN)
        for said in ("cached", "foreground"):
            house.parts.hear_of_system_kill(ended(peer.pid, said))
        classes = [heard.victim.app_class for heard in ear.heard]
        assert classes == [AppClass.PERCEPTIBLE, AppClass.FOREGROUND]
        assert ear.heard[0].victim.name == "editor"


async def test_so_many_that_are_gone_are_kept_and_no_more(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with session(tmp_path) as (house, _):
        roll = house.parts.roll
        pids = [house.kernel.spawn("short", uid=OWN) for _ in range(GONE_KEPT + 1)]
        for pid in pids:
            roll.look(pid)
            house.kernel.exit(pid)
            roll.look(pid)
        assert roll.recall(pids[0]) is None
        assert all(roll.recall(pid) is not None for pid in pids[1:])


async def test_the_systems_own_daemon_keeps_nobody_who_is_gone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        pid = house.kernel.spawn("short", uid=OWN)
        house.parts.roll.look(pid)
        assert house.parts.roll.recall(pid) is not None
        house.kernel.exit(pid)
        house.parts.roll.look(pid)
        assert house.parts.roll.recall(pid) is None
