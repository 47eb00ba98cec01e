"""The whole daemon on a simulated machine: what programs see of it, from pressure to relief."""

from __future__ import annotations

from pathlib import Path

import lmkd_proto as wire
import trio
from trio.testing import MockClock

from lmkd.kernel.simulated import OnTerm, SimulatedKernel
from lmkd.model import SYSTEM_DOMAIN, Level

from .house import MIB, House, Peer, running

CRITICAL_KIB = 20 * MIB
"""Of 512 MiB: below the floor of critical, above that of an emergency; without swap, exhaustion too."""
BOX = "/box"
BOX_KIB = 200 * MIB
FULL_BOX_KIB = 193 * MIB
WITH_BOX = f'[[domain]]\ncgroup = "{BOX}"\nkill = true\n'


async def hear_notice(peer: Peer, level: str) -> wire.Notice:
    """Return the next notice of a level."""
    while (notice := await peer.hear(wire.Notice)).level != level:
        pass
    return notice


def press(house: House) -> None:
    """Press the whole system to critical, so that somebody may die."""
    house.kernel.set_available(CRITICAL_KIB)


async def test_a_level_is_told_to_subscribers_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        peers = [await house.connect(pid) for pid in (11, 12)]
        for peer in peers:
            await peer.get(wire.Subscribe)
            assert (await peer.hear(wire.Pressure)).level == "normal"
        house.kernel.set_available(55 * MIB)
        pressed_at = trio.current_time()
        for peer in peers:
            word = await peer.hear(wire.Pressure)
            assert word.level != "normal"
            assert word.available_bytes == 55 << 20
        assert trio.current_time() - pressed_at <= 1.0


async def test_an_app_is_told_its_share_and_is_credited_for_what_it_frees(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        app = await house.run_app("cache", "cached", 100, sheddable_mib=60)
        house.kernel.set_available(50 * MIB)
        notice = await app.hear(wire.Notice)
        assert 0 < notice.target_bytes <= 60 << 20
        assert 900 <= notice.deadline_ms <= 1000
        house.kernel.set_size(app.pid, 40 * MIB)
        await app.get(wire.Ack, notice=notice.notice, answer="done", freed_bytes=60 << 20)
        row = (await app.get(wire.Status))["apps"][0]
        assert (row["answer"], row["trust"]) == ("done", 1)
        assert (await hear_notice(app, "normal")).target_bytes == 0
        assert house.signals_to(app.pid) == []


async def test_an_app_that_ignores_its_notice_is_ended_after_its_deadline_and_not_before(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        app = await house.run_app("cache", "cached", 100, sheddable_mib=50, on_term=OnTerm.IGNORES)
        watcher = await house.connect()
        await watcher.get(wire.Subscribe)
        press(house)
        notice = await hear_notice(app, "critical")
        told_at = trio.current_time()
        warning = await app.hear(wire.KillWarning)
        assert trio.current_time() - told_at >= notice.deadline_ms / 1000 - 0.001
        assert house.signals_to(app.pid) == ["SIGTERM"]
        killed = await watcher.hear(wire.Killed)
        assert (killed.pid, killed.name, killed.app_class) == (app.pid, "cache", "cached")
        assert killed.freed_bytes == 100 << 20
        term, kill = (sent for sent in house.kernel.signals if sent.pid == app.pid)
        assert kill.signal.value == "SIGKILL"
        assert kill.at_us - term.at_us >= warning.time_to_exit_ms * 1000


async def test_two_kills_are_never_in_flight_at_once_and_lower_classes_go_first(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        apps = [
            await house.run_app(name, app_class, 60, on_term=OnTerm.CATCHES, cleanup_us=400_000)
            for name, app_class in (("b1", "background"), ("c1", "cached"), ("b2", "background"))
        ]
        watcher = await house.connect()
        await watcher.get(wire.Subscribe)
        press(house)
        for done in range(3):
            killed = await watcher.hear(wire.Killed)
            assert killed.app_class == ("cached", "background", "background")[done]
            ended = {sent.pid for sent in house.kernel.signals}
            assert len(ended) == done + 1, "the next one was signalled before this one had ended"
            press(house)
        assert {sent.pid for sent in house.kernel.signals} == {app.pid for app in apps}


async def test_a_process_that_may_not_be_signalled_is_passed_over(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        guarded = house.kernel.spawn("guarded", anon_kib=90 * MIB, protected=True)
        other = house.kernel.spawn("other", anon_kib=50 * MIB)
        watcher = await house.connect()
        await watcher.get(wire.Subscribe)
        press(house)
        assert (await watcher.hear(wire.Killed)).pid == other
        assert house.signals_to(guarded) == []
        episode = (await watcher.get(wire.History))["episodes"][0]["episode"]
        records = (await watcher.get(wire.History, episode=episode, limit=1000))["records"]
        failed = [row for row in records if row["kind"] == "failed"]
        assert failed[0]["reason"] == "not permitted to signal it"


async def test_a_dry_run_records_what_it_would_do_and_signals_nobody(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, dry_run=True) as house:
        house.kernel.spawn("leak", anon_kib=90 * MIB)
        watcher = await house.connect()
        await watcher.get(wire.Subscribe)
        press(house)
        await watcher.hear_level(Level.CRITICAL)
        await trio.sleep(10)
        status = await watcher.get(wire.Status)
        assert status["dry_run"] is True
        episode = (await watcher.get(wire.History))["episodes"][0]["episode"]
        records = (await watcher.get(wire.History, episode=episode, limit=1000))["records"]
        would = [row for row in records if row["kind"] == "would_kill"]
        assert would[0]["name"] == "leak"
        assert house.kernel.signals == []


async def test_a_domain_that_vanishes_while_its_kill_is_in_flight_harms_nobody(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = SimulatedKernel()
    kernel.add_cgroup(BOX, max_kib=BOX_KIB)
    stubborn = kernel.spawn("stubborn", anon_kib=FULL_BOX_KIB, cgroup=BOX, on_term=OnTerm.IGNORES)
    async with running(tmp_path, kernel, text=WITH_BOX) as house:
        watcher = await house.connect()
        await watcher.get(wire.Subscribe, domain=BOX)
        await watcher.hear_level(Level.CRITICAL)
        await trio.sleep(2)
        assert house.signals_to(stubborn) == ["SIGTERM"]
        kernel.exit(stubborn)
        kernel.remove_cgroup(BOX)
        word = await watcher.hear_level(Level.NORMAL)
        assert word.domain == BOX
        names = [row["domain"] for row in (await watcher.get(wire.Status))["domains"]]
        assert names == [SYSTEM_DOMAIN]
        kernel.add_cgroup(BOX, max_kib=BOX_KIB)
        await trio.sleep(3)
        names = [row["domain"] for row in (await watcher.get(wire.Status))["domains"]]
        assert names == [SYSTEM_DOMAIN, BOX]


async def test_only_the_subtree_is_told_and_only_there_somebody_dies(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = SimulatedKernel(total_kib=4096 * MIB)  # so large that the system stays calm
    kernel.add_cgroup(BOX, max_kib=BOX_KIB)
    async with running(tmp_path, kernel, text=WITH_BOX) as house:
        inside = await house.run_app("inside", "cached", 60, sheddable_mib=30, cgroup=BOX)
        outside = await house.run_app("outside", "cached", 90, sheddable_mib=30)
        watcher = await house.connect()
        await watcher.get(wire.Subscribe, domain=BOX)
        house.kernel.set_size(inside.pid, FULL_BOX_KIB)
        assert (await hear_notice(inside, "critical")).domain == BOX
        assert (await watcher.hear(wire.Killed)).pid == inside.pid
        await outside.get(wire.Status)
        assert not [word for word in outside.heard if isinstance(word, wire.Notice)]
        assert house.signals_to(outside.pid) == []


async def test_an_app_registered_for_its_cgroup_dies_with_all_of_it_and_is_reported_as_one(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        pids = [
            house.kernel.spawn(name, anon_kib=40 * MIB, cgroup="/job", on_term=OnTerm.IGNORES)
            for name in ("leader", "worker")
        ]
        app = await house.connect(pids[0], uid=0)
        granted = await app.get(wire.Register, name="job", app_class="cached", unit="cgroup")
        assert granted["unit"] == "cgroup"
        watcher = await house.connect()
        await watcher.get(wire.Subscribe)
        press(house)
        killed = await watcher.hear(wire.Killed)
        assert (killed.pid, killed.name) == (0, "job")
        assert {sent.pid for sent in house.kernel.signals if sent.by_cgroup} == set(pids)


async def test_who_moves_into_a_dying_cgroup_and_is_never_killed_is_not_killed_with_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        leader = house.kernel.spawn(
            "leader", anon_kib=80 * MIB, cgroup="/job", on_term=OnTerm.IGNORES
        )
        app = await house.connect(leader, uid=0)
        await app.get(wire.Register, name="job", app_class="cached", unit="cgroup")
        press(house)
        await app.hear(wire.KillWarning)
        guest = house.kernel.spawn("sshd", anon_kib=MIB, cgroup="/job", exe="/usr/sbin/sshd")
        await trio.sleep(5)
        assert house.signals_to(leader) == ["SIGTERM", "SIGKILL"]
        assert house.signals_to(guest) == []


async def test_a_client_that_leaves_while_everybody_is_told_costs_the_others_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        leaving = [
            await house.run_app(f"leaving{number}", "cached", 10, sheddable_mib=5)
            for number in range(5)
        ]
        watcher = await house.connect()
        for peer in (*leaving, watcher):
            await peer.get(wire.Subscribe)
        press(house)
        for peer in leaving:
            peer.close()
        await watcher.hear_level(Level.CRITICAL)
        status = await watcher.get(wire.Status)
        assert (status["app_count"], status["clients"]) == (0, 1)
