"""Groups of their own policy: as they come and go by the thousand, and what may die where."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import lmkd_proto as wire
import pytest
import trio
from trio.testing import MockClock

from lmkd.cgroup_paths import compile_glob
from lmkd.kernel.simulated import OnTerm, SimulatedKernel
from lmkd.model import SYSTEM_DOMAIN, Level
from lmkd.policy.settings import DOMAINS_REMEMBERED
from lmkd.service import monitor

from .house import MIB, House, running

LARGE_KIB = 4096 * MIB
ROOM_KIB = 200 * MIB
FULL_KIB = 193 * MIB
JOBS = '[[domain]]\ncgroup = "/jobs/*"\n'


def large() -> SimulatedKernel:
    """A machine so large that the system stays calm whatever a few groups of 200 MiB do."""
    return SimulatedKernel(total_kib=LARGE_KIB)


async def test_what_a_glob_names_is_watched_as_it_comes_and_dropped_as_it_goes(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = large()
    kernel.add_cgroup("/jobs/old", max_kib=ROOM_KIB)
    async with running(tmp_path, kernel, text=JOBS) as house:
        assert house.domains == [SYSTEM_DOMAIN, "/jobs/old"]
        for name in ("/jobs/new", "/jobs/new/below", "/job/other"):
            kernel.add_cgroup(name, max_kib=ROOM_KIB)
        await trio.sleep(0.2)
        assert set(house.domains) == {SYSTEM_DOMAIN, "/jobs/old", "/jobs/new"}
        kernel.remove_cgroup("/jobs/old")
        await trio.sleep(0.2)
        assert set(house.domains) == {SYSTEM_DOMAIN, "/jobs/new"}
        assert len(kernel._domains) == 2


async def test_a_group_that_is_removed_and_made_again_is_another_one_and_is_watched(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = large()
    kernel.add_cgroup("/jobs/a", max_kib=ROOM_KIB)
    async with running(tmp_path, kernel, text=JOBS) as house:
        await trio.sleep(1)
        for times in range(3):
            kernel.remove_cgroup("/jobs/a")
            kernel.add_cgroup("/jobs/a", max_kib=ROOM_KIB)  # before anybody could look
            await trio.sleep(2.5)
            victim = kernel.spawn("leak", anon_kib=FULL_KIB, cgroup="/jobs/a")
            await trio.sleep(3)
            assert house.signals_to(victim) == ["SIGTERM"], times
        assert len(kernel._domains) == 2


async def test_ten_thousand_groups_that_come_and_go_leave_nothing_behind(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = large()
    # With next to no recording: that it is bounded is shown elsewhere.
    text = JOBS + '[recording]\nmost = "64KiB"\n'
    async with running(tmp_path, kernel, text=text) as house:
        listener = await house.connect(5, uid=0)
        await listener.get(wire.Subscribe, propagation="hierarchy")

        async def come_and_go(begin: int, end: int) -> None:
            for at in range(begin, end, 50):
                names = [f"/jobs/{number}" for number in range(at, at + 50)]
                for name in names:
                    kernel.add_cgroup(name)
                await trio.sleep(0.12)
                assert len(house.domains) == 51
                await listener.get(wire.Subscribe, domain=names[0])
                for name in names:
                    kernel.remove_cgroup(name)
                await trio.sleep(0.12)
                assert house.domains == [SYSTEM_DOMAIN]
                await listener.get(wire.Unsubscribe, domain=names[0])
            await trio.sleep(2)
            listener.heard.clear()

        await come_and_go(0, 8_000)  # to trace all of it would take three times as long
        tracemalloc.start()
        try:
            held = []
            for begin in (8_000, 9_000):
                await come_and_go(begin, begin + 1_000)
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert held[1] - held[0] < 50_000, "a group costs more than 50 bytes when it has gone"
        watched, told = house.parts.monitor, house.parts.server.subscribers
        assert set(watched._watched) == {SYSTEM_DOMAIN}
        assert not (
            watched._absent
            | (watched._asked - {SYSTEM_DOMAIN})
            | watched._pressed
            | watched._absent_said
        )
        assert set(told._by_domain) == {SYSTEM_DOMAIN}
        assert told._told_below == {}
        settings = house.parts.engine.state.settings
        assert len(settings._of) <= DOMAINS_REMEMBERED
        most = compile_glob.cache_info().maxsize
        assert most is not None
        assert most <= 1024
        assert len(kernel._domains) == 1
        assert list(kernel.machine.cgroups) == ["/", "/jobs"]


async def test_beyond_the_most_that_are_watched_one_is_taken_in_as_soon_as_another_goes(
    tmp_path: Path,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(monitor, "DOMAINS_MOST", 5)
    kernel = large()
    names = [f"/jobs/{number}" for number in range(6)]
    async with running(tmp_path, kernel, text=JOBS) as house:
        for name in names:
            kernel.add_cgroup(name)
        await trio.sleep(0.5)
        assert set(house.domains) == {SYSTEM_DOMAIN, *names[:4]}
        kernel.remove_cgroup(names[0])
        await trio.sleep(2.5)
        assert set(house.domains) == {SYSTEM_DOMAIN, *names[1:5]}
        kernel.remove_cgroup(names[1])
        kernel.remove_cgroup(names[2])
        await trio.sleep(2.5)
        assert set(house.domains) == {SYSTEM_DOMAIN, *names[3:]}
        assert caplog.text.count("cgroups are to be watched: more than 5 are not") == 1


async def test_whoever_listens_to_many_groups_of_its_own_takes_no_room_from_those_that_are_configured(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "DOMAINS_MOST", 7)
    monkeypatch.setattr(monitor, "ASKED_MOST", 3)
    kernel = large()
    for number in range(6):
        kernel.add_cgroup(f"/home/{number}")
    async with running(tmp_path, kernel, text=JOBS) as house:
        greedy = await house.connect(kernel.spawn("greedy", cgroup="/home"))
        for number in range(3):
            await greedy.get(wire.Subscribe, domain=f"/home/{number}")
        assert await greedy.refusal(wire.Subscribe, domain="/home/3") == "unknown_domain"
        for number in range(3):
            kernel.add_cgroup(f"/jobs/{number}")
        await trio.sleep(2.5)
        assert {f"/jobs/{number}" for number in range(3)} <= set(house.domains)
        await greedy.get(wire.Unsubscribe, domain="/home/0")
        await trio.sleep(1)
        await greedy.get(wire.Subscribe, domain="/home/3")


async def test_room_that_a_listener_gives_back_is_used_though_no_group_comes_or_goes(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "DOMAINS_MOST", 3)
    kernel = large()
    kernel.add_cgroup("/home/0")
    async with running(tmp_path, kernel, text=JOBS) as house:
        root = await house.connect(5, uid=0)
        await root.get(wire.Subscribe, domain="/home/0")
        for number in range(2):
            kernel.add_cgroup(f"/jobs/{number}")
        await trio.sleep(2)
        assert "/jobs/1" not in house.domains
        await root.get(wire.Unsubscribe, domain="/home/0")
        await trio.sleep(2.5)
        assert set(house.domains) == {SYSTEM_DOMAIN, "/jobs/0", "/jobs/1"}


# --- what may die there -------------------------------------------------------------------------------------------

MIXED = """
[[domain]]
cgroup = "/ci/*"
kill = ["cached"]
floor.low = { enter = "50%", leave = "55%" }
timing.rest = "20s"
[[domain]]
cgroup = "/db"
kill = ["service", "background"]
[[rule]]
name = "tabs"
match = { comm = "tab" }
class = "cached"
[[rule]]
name = "batch"
match = { comm = "batch" }
class = "background"
"""


async def level_in(house: House, domain: str) -> str:
    rows = (await house.peers[0].get(wire.Status))["domains"]
    return str(next(row["level"] for row in rows if row["domain"] == domain))


async def test_a_class_that_is_not_in_kill_never_dies_there_whatever_happens(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = large()
    for group in ("/ci/1", "/db"):
        kernel.add_cgroup(group, max_kib=ROOM_KIB)
    spared = [
        kernel.spawn("batch", anon_kib=120 * MIB, cgroup="/ci/1"),
        kernel.spawn("tab", anon_kib=120 * MIB, cgroup="/db"),
    ]
    dies = [
        kernel.spawn("tab", anon_kib=79 * MIB, cgroup="/ci/1"),
        kernel.spawn("batch", anon_kib=79 * MIB, cgroup="/db"),
    ]
    async with running(tmp_path, kernel, text=MIXED) as house:
        await trio.sleep(5)
        assert {sent.pid for sent in kernel.signals} == set(dies)
        for pid in spared:
            kernel.set_size(pid, ROOM_KIB - MIB)  # an emergency
        await trio.sleep(10)
        assert {sent.pid for sent in kernel.signals} == set(dies)
        for group in ("/ci/1", "/db"):
            assert f"{group}: " in caplog.text
        assert caplog.text.count("and nothing worth killing is left") == 2
        assert not any(house.signals_to(pid) for pid in spared)


async def test_a_group_has_its_own_thresholds_and_its_own_rest(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = large()
    for group in ("/ci/1", "/db"):
        kernel.add_cgroup(group, max_kib=ROOM_KIB)
    async with running(tmp_path, kernel, text=MIXED) as house:
        apps = {}
        for group in ("/ci/1", "/db"):
            app = await house.run_app("app", "cached", 110, sheddable_mib=10, cgroup=group)
            apps[group] = app
        await trio.sleep(2)
        assert await level_in(house, "/ci/1") == "low", "of 200 MiB less than a half is left"
        assert await level_in(house, "/db") == "normal"
        first = await apps["/ci/1"].hear(wire.Notice)
        assert (first.domain, first.level) == ("/ci/1", "low")
        told: dict[str, list[float]] = {}
        for group, app in apps.items():
            # Up and down and up again, within a rest of 20 s and beyond one of 5 s.
            times = told.setdefault(group, [])
            for size_mib in (180, 20) * 4:
                kernel.set_size(app.pid, size_mib * MIB)
                await trio.sleep(4)
            await app.get(wire.Status)
            times.extend(
                one.notice
                for one in app.heard
                if isinstance(one, wire.Notice) and one.level == "low"
            )
        assert len(told["/ci/1"]) < len(told["/db"]), "32 s hold two rests of 20 s, but six of 5 s"


NESTED = """
[[domain]]
cgroup = "/slice"
kill = {outer}
[[domain]]
cgroup = "/slice/*"
kill = {inner}
"""


@pytest.mark.parametrize(
    ("outer", "inner", "killer"),
    [
        ("true", "true", "/slice"),
        ("false", "true", "/slice/a"),
        ("true", "false", "/slice"),
    ],
)
async def test_who_has_the_limit_that_presses_does_the_killing_and_only_once(
    tmp_path: Path, autojump_clock: MockClock, outer: str, inner: str, killer: str
) -> None:
    kernel = large()
    kernel.add_cgroup("/slice", max_kib=ROOM_KIB)
    for name in ("/slice/a", "/slice/b"):
        kernel.add_cgroup(name)
    # It takes its time, in which the other groups are as pressed as before.
    big = kernel.spawn("big", anon_kib=100 * MIB, cgroup="/slice/a", on_term=OnTerm.IGNORES)
    text = NESTED.format(outer=outer, inner=inner)
    async with running(tmp_path, kernel, text=text) as house:
        peer = await house.connect(5, uid=0)
        await peer.get(wire.Subscribe, propagation="hierarchy")
        small = kernel.spawn("small", anon_kib=93 * MIB, cgroup="/slice/b")
        killed = await peer.hear(wire.Killed)
        if outer == "true":
            assert (killed.domain, killed.pid) == (killer, big), "the largest of the whole slice"
        await trio.sleep(5)
        dead = {sent.pid for sent in kernel.signals}
        if outer == "true":
            assert dead == {big}, "one shortage, one kill"
        else:
            assert dead <= {big, small}
            words = [one for one in peer.heard if isinstance(one, wire.Killed)]
            assert {one.domain for one in words} <= {"/slice/a", "/slice/b"}


async def test_a_group_with_a_tighter_limit_than_the_one_above_is_answered_inside(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = large()
    kernel.add_cgroup("/slice", max_kib=2 * ROOM_KIB)
    kernel.add_cgroup("/slice/a", max_kib=ROOM_KIB)
    outside = kernel.spawn("outside", anon_kib=150 * MIB, cgroup="/slice")
    inside = kernel.spawn("inside", anon_kib=60 * MIB, cgroup="/slice/a")
    text = NESTED.format(outer="true", inner="true")
    async with running(tmp_path, kernel, text=text) as house:
        peer = await house.connect(5, uid=0)
        await peer.get(wire.Subscribe, domain="/slice/a")
        kernel.set_size(inside, FULL_KIB)
        assert (await peer.hear_level(Level.CRITICAL)).domain == "/slice/a"
        assert (await peer.hear(wire.Killed)).pid == inside
        assert house.signals_to(outside) == []


async def test_a_reload_that_names_other_groups_watches_those_and_lets_go_of_the_others(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = large()
    for name in ("/jobs/a", "/other/b"):
        kernel.add_cgroup(name, max_kib=ROOM_KIB)
    async with running(tmp_path, kernel, text=JOBS) as house:
        root = await house.connect(5, uid=0)
        await root.get(wire.Subscribe, domain="/jobs/a")
        (tmp_path / "over.toml").write_text('[[domain]]\ncgroup = "/other/*"\n')
        await root.get(wire.Reload)
        await trio.sleep(0.2)
        assert set(house.domains) == {SYSTEM_DOMAIN, "/other/b", "/jobs/a"}
        rows = {row["domain"]: row for row in (await root.get(wire.Status))["domains"]}
        assert rows["/other/b"]["may_kill"] is True
        assert rows["/jobs/a"]["may_kill"] is False, "somebody listens, and that is all"
        await root.get(wire.Unsubscribe, domain="/jobs/a")
        await trio.sleep(0.2)
        assert set(house.domains) == {SYSTEM_DOMAIN, "/other/b"}
        assert len(kernel.watches) == 1
    assert kernel.watches == []
