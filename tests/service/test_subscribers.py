"""Who hears of which domain: the kernel's three ways, the ends that are owed, and nothing left behind."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import lmkd_proto as wire
import pytest
import trio
from trio.testing import MockClock

from lmkd.cgroup_paths import paths_up
from lmkd.kernel.simulated import OnTerm, SimulatedKernel
from lmkd.model import SYSTEM_DOMAIN, Level, Propagation
from lmkd.service import client
from lmkd.service.client import Client
from lmkd.service.subscribers import Subscribers

from .house import MIB, House, Peer, running

LOCAL, DEFAULT, HIERARCHY = Propagation.LOCAL, Propagation.DEFAULT, Propagation.HIERARCHY
LARGE_KIB = 4096 * MIB
"""So large that the system stays calm whatever a group of 200 MiB does."""
ROOM_KIB = 200 * MIB
FULL_KIB = 193 * MIB


class Hall:
    """Subscriptions of clients that are nothing but names."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.over: list[str] = []
        self.held = Subscribers(self.begun.append, self.over.append)
        self._clients: dict[str, Client] = {}

    def client(self, name: str) -> Client:
        return self._clients.setdefault(name, cast(Client, name))

    def add(self, name: str, domain: str, way: Propagation = LOCAL, asked: str = "") -> None:
        self.held.add(self.client(name), asked or domain, domain, way)

    def leave(self, name: str) -> None:
        self.held.forget(self.client(name))

    def hear(self, domain: str, level: Level = Level.LOW) -> set[str]:
        found = self.held.hearing_level(domain, level)
        assert len(found) == len(set(found)), "nobody hears a thing twice"
        return {str(one) for one in found}

    @property
    def is_empty(self) -> bool:
        tables = (self.held._by_domain, self.held._asked, self.held._told_below)
        return not any(tables) and sorted(self.begun) == sorted(self.over)


# --- the kernel's three ways -----------------------------------------------------------------------------------

Subscription = tuple[str, str, Propagation]


@pytest.mark.parametrize(
    ("subscriptions", "hears"),
    [
        ([("a", "/x/y", LOCAL), ("b", "/x", LOCAL), ("c", "/x", HIERARCHY)], {"a", "c"}),
        ([("a", "/x", DEFAULT), ("b", SYSTEM_DOMAIN, DEFAULT)], {"a"}),
        ([("a", "/x", LOCAL), ("b", SYSTEM_DOMAIN, DEFAULT)], {"b"}),
        ([("a", "/x/y", LOCAL), ("b", "/x", DEFAULT), ("c", SYSTEM_DOMAIN, HIERARCHY)], {"a", "c"}),
        ([("a", "/x", HIERARCHY), ("b", SYSTEM_DOMAIN, DEFAULT)], {"a"}),
        ([("a", "/x", DEFAULT), ("b", "/x", DEFAULT)], {"a", "b"}),
        ([("a", SYSTEM_DOMAIN, DEFAULT), ("b", SYSTEM_DOMAIN, LOCAL)], {"a"}),
        ([("a", "/x/y/z", HIERARCHY), ("b", "/xx", HIERARCHY), ("c", "/x/z", HIERARCHY)], set()),
        ([("a", "/x/y", LOCAL), ("a", SYSTEM_DOMAIN, HIERARCHY)], {"a"}),
    ],
)
def test_a_word_travels_up_as_the_kernel_has_it(
    subscriptions: list[Subscription], hears: set[str]
) -> None:
    hall = Hall()
    for name, domain, way in subscriptions:
        hall.add(name, domain, way)
    assert hall.hear("/x/y") == hears


def vmpressure(subscriptions: Iterable[Subscription], domain: str) -> set[str]:
    """The kernel's own loop, mm/vmpressure.c (6.1): vmpressure_event at each group up to the root."""
    told: set[str] = set()
    signalled = ancestor = False
    for path in (*(path for path in paths_up(domain) if path != "/"), SYSTEM_DOMAIN):
        signalled_here = False
        for name, subscribed, way in subscriptions:
            if subscribed != path:
                continue
            if ancestor and way is LOCAL:
                continue
            if signalled and way is DEFAULT:
                continue
            told.add(name)
            signalled_here = True
        signalled |= signalled_here
        ancestor = True
    return told


def test_every_arrangement_is_heard_as_by_the_kernels_own_loop() -> None:
    places = ("/x/y/z", "/x/y", "/x", "/other", SYSTEM_DOMAIN)
    for seed in range(2_000):
        dice = random.Random(seed)
        subscriptions = [
            (f"c{number}", dice.choice(places), dice.choice(list(Propagation)))
            for number in range(dice.randint(0, 6))
        ]
        hall = Hall()
        for name, domain, way in subscriptions:
            hall.add(name, domain, way)
        for domain in ("/x/y/z", "/x/y", "/x", "/other/deep"):
            told = vmpressure(subscriptions, domain)
            assert {str(one) for one in hall.held.hearing_news(domain)} == told, (seed, domain)
            hall.hear(domain, Level.NORMAL)
        for name, *_ in subscriptions:
            hall.leave(name)
        assert hall.is_empty, seed


# --- ends that are owed -------------------------------------------------------------------------------------------


def test_who_was_told_hears_the_end_although_somebody_nearer_came() -> None:
    hall = Hall()
    hall.add("far", SYSTEM_DOMAIN, DEFAULT)
    assert hall.hear("/x", Level.CRITICAL) == {"far"}
    hall.add("near", "/x", LOCAL)
    assert hall.hear("/x", Level.LOW) == {"far", "near"}
    assert hall.hear("/x", Level.NORMAL) == {"far", "near"}
    assert hall.hear("/x", Level.LOW) == {"near"}, "what is over is over"


def test_who_heard_it_as_its_own_domain_hears_the_end_through_the_one_above() -> None:
    """One connection, two subscriptions: the one above was given the word too (SPEC L-21, L-23)."""
    hall = Hall()
    hall.add("near", "/x", LOCAL)
    hall.add("both", "/x", LOCAL)
    hall.add("both", SYSTEM_DOMAIN, DEFAULT)
    assert hall.hear("/x", Level.LOW) == {"near", "both"}
    hall.held.remove(hall.client("both"), "/x")
    assert hall.hear("/x", Level.NORMAL) == {"near", "both"}
    assert hall.hear("/x", Level.LOW) == {"near"}


def test_an_end_that_was_heard_nearer_is_not_owed_any_more() -> None:
    hall = Hall()
    hall.add("one", SYSTEM_DOMAIN, DEFAULT)
    assert hall.hear("/x", Level.LOW) == {"one"}
    hall.add("one", "/x", LOCAL)
    assert hall.hear("/x", Level.NORMAL) == {"one"}
    hall.held.remove(hall.client("one"), "/x")
    hall.add("near", "/x", LOCAL)
    assert hall.hear("/x", Level.LOW) == {"near"}


def test_who_asks_to_hear_no_more_of_what_is_below_is_owed_nothing() -> None:
    hall = Hall()
    for name in ("gone", "local"):
        hall.add(name, "/x", HIERARCHY)
    assert hall.hear("/x/y", Level.LOW) == {"gone", "local"}
    hall.held.remove(hall.client("gone"), "/x")
    hall.add("local", "/x", LOCAL)
    assert hall.hear("/x/y", Level.NORMAL) == set()
    assert not hall.held._told_below


def test_a_look_for_one_client_makes_nobody_else_owed() -> None:
    hall = Hall()
    hall.add("quiet", SYSTEM_DOMAIN, DEFAULT)
    hall.add("asks", SYSTEM_DOMAIN, HIERARCHY)
    assert hall.held.tells_present(hall.client("asks"), "/x", Level.LOW)
    hall.add("near", "/x", LOCAL)
    assert hall.hear("/x", Level.NORMAL) == {"near", "asks"}
    assert not hall.held.tells_present(hall.client("quiet"), "/x", Level.LOW)


# --- words and what they stand for -----------------------------------------------------------------------------


def test_own_and_the_path_end_each_for_itself_and_share_one_propagation() -> None:
    hall = Hall()
    hall.add("a", "/x", HIERARCHY, asked="own")
    hall.add("a", "/x", LOCAL)
    assert hall.hear("/x/y") == set(), "the one that was asked for last"
    hall.add("a", "/x", HIERARCHY, asked="own")
    assert hall.held.remove(hall.client("a"), "own") is None
    assert hall.hear("/x/y") == {"a"}
    assert hall.held.remove(hall.client("a"), "/x") == "/x"
    assert hall.is_empty


def test_own_after_a_move_leaves_where_it_was() -> None:
    hall = Hall()
    hall.add("a", "/x", asked="own")
    assert hall.held.add(hall.client("a"), "own", "/y", LOCAL) == "/x"
    assert (hall.begun, hall.over) == (["/x", "/y"], ["/x"])
    assert (hall.hear("/x"), hall.hear("/y")) == (set(), {"a"})
    hall.add("a", "/y")
    assert hall.held.add(hall.client("a"), "own", "/z", LOCAL) is None, "/y has another word"
    hall.leave("a")
    assert hall.is_empty


def test_no_entry_is_left_when_clients_go_however_they_came() -> None:
    dice = random.Random(5)
    places = ("/a", "/a/b", "/a/b/c", SYSTEM_DOMAIN)
    hall = Hall()
    for _ in range(20_000):
        name = f"c{dice.randrange(12)}"
        match dice.randrange(5):
            case 0:
                hall.leave(name)
            case 1 | 2:
                place = dice.choice(places)
                asked = dice.choice((place, "own"))
                hall.add(name, place, dice.choice(list(Propagation)), asked)
            case 3:
                words = list(hall.held._asked.get(hall.client(name), ()))
                if words:
                    hall.held.remove(hall.client(name), dice.choice(words))
            case _:
                hall.hear(dice.choice(places), dice.choice(list(Level)))
    for number in range(12):
        hall.leave(f"c{number}")
    assert hall.is_empty


# --- over the wire ---------------------------------------------------------------------------------------------


def in_boxes(*paths: str) -> SimulatedKernel:
    kernel = SimulatedKernel(total_kib=LARGE_KIB)
    for path in paths:
        kernel.add_cgroup(path, max_kib=ROOM_KIB)
    return kernel


async def listen(house: House, pid: int, domain: str, way: str = "local", uid: int = 1000) -> Peer:
    peer = await house.connect(pid, uid=uid)
    await peer.get(wire.Subscribe, domain=domain, propagation=way)
    assert (await peer.hear(wire.Pressure)).level == "normal"
    return peer


async def hear_of(peer: Peer, domain: str, level: Level) -> wire.Pressure:
    """Return the next word that this is the level of a domain."""
    while (word := await peer.hear_level(level)).domain != domain:
        pass
    return word


async def test_levels_and_kills_of_a_group_reach_those_above_who_ask_for_them(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = in_boxes("/a/b")
    text = '[[domain]]\ncgroup = "/a/b"\n'
    async with running(tmp_path, kernel, text=text) as house:
        every = await listen(house, 5, "system", "hierarchy")
        default = await listen(house, 6, "system", "default")
        near = await listen(house, 7, "/a/b")
        local = await listen(house, 8, "system")
        victim = kernel.spawn("leak", anon_kib=FULL_KIB, cgroup="/a/b", on_term=OnTerm.IGNORES)
        for peer in (every, near):
            word = await peer.hear_level(Level.CRITICAL)
            assert (word.domain, word.available_bytes) == ("/a/b", 7 << 20)
            killed = await peer.hear(wire.Killed)
            assert (killed.domain, killed.pid) == ("/a/b", victim)
            assert (await peer.hear_level(Level.NORMAL)).domain == "/a/b"
        for peer in (default, local):
            await peer.get(wire.Status)
            words = [one for one in peer.heard if isinstance(one, wire.Pressure | wire.Killed)]
            assert len(words) == 1, "nothing but the first: somebody nearer hears of it"


async def test_who_subscribes_late_is_told_what_is_pressed_below_and_of_its_end_when_it_is_removed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = in_boxes("/a/b")
    text = '[[domain]]\ncgroup = "/a/*"\nkill = false\n'
    async with running(tmp_path, kernel, text=text) as house:
        hog = kernel.spawn("hog", anon_kib=FULL_KIB, cgroup="/a/b")
        await trio.sleep(1)
        late = await house.connect(5)
        await late.get(wire.Subscribe, propagation="default")
        assert (await late.hear(wire.Pressure)).domain == "system"
        assert (await late.hear(wire.Pressure)).domain == "/a/b"
        near = await house.connect(6)
        await near.get(wire.Subscribe, domain="/a/b")
        assert (await near.hear(wire.Pressure)).level == "critical"
        kernel.exit(hog)
        kernel.remove_cgroup("/a/b")
        for peer in (late, near):
            assert (await hear_of(peer, "/a/b", Level.NORMAL)).domain == "/a/b"


async def test_own_is_the_group_that_the_peer_is_in_when_it_asks(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = in_boxes("/a/b", "/c")
    async with running(tmp_path, kernel) as house:
        pid = kernel.spawn("app", cgroup="/a/b")
        app = await house.connect(pid)
        granted = await app.get(wire.Subscribe, domain="own", propagation="default")
        assert granted == {"domain": "/a/b", "propagation": "default"}
        assert (await app.hear(wire.Pressure)).domain == "/a/b"
        await app.get(wire.Subscribe, domain="/a/b")
        await app.get(wire.Unsubscribe, domain="own")
        assert await app.refusal(wire.Unsubscribe, domain="own") == "not_subscribed"
        kernel.set_size(pid, FULL_KIB)
        assert (await app.hear_level(Level.CRITICAL)).domain == "/a/b"
        kernel.set_size(pid, MIB)
        kernel.move(pid, "/c")
        assert (await app.get(wire.Subscribe, domain="own"))["domain"] == "/c"
        kernel.move(pid, "/")
        assert (await app.get(wire.Subscribe, domain="own"))["domain"] == "system"
        await trio.sleep(0.1)
        assert set(house.domains) == {SYSTEM_DOMAIN, "/a/b"}, "/c has nobody any more"


async def test_anyone_may_hear_of_what_is_watched_and_of_its_own_group_up_and_down(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = in_boxes("/a/b/c", "/watched", "/a/other")
    text = '[[domain]]\ncgroup = "/watched"\n'
    async with running(tmp_path, kernel, text=text) as house:
        app = await house.connect(kernel.spawn("app", cgroup="/a/b"))
        for domain in ("system", "/", "own", "/a/b", "/a", "/a/b/c", "/watched"):
            await app.get(wire.Subscribe, domain=domain)
        at_root = await house.connect(kernel.spawn("rooted"))
        for peer, domain in ((app, "/a/other"), (app, "/ab"), (at_root, "/a/other")):
            assert await peer.refusal(wire.Subscribe, domain=domain) == "forbidden"
        assert await app.refusal(wire.Subscribe, domain="/a/b/none") == "unknown_domain"
        root = await house.connect(5, uid=0)
        await root.get(wire.Subscribe, domain="/a/other")
        assert await root.refusal(wire.Subscribe, domain="/none") == "unknown_domain"
        assert (
            await (await house.connect(4711)).refusal(wire.Subscribe, domain="/ab") == "forbidden"
        )
        await app.get(wire.Subscribe, domain="/a/other")  # now it is watched


async def test_a_group_that_nobody_named_is_watched_while_somebody_listens_and_only_told(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = in_boxes("/a/b")
    async with running(tmp_path, kernel) as house:
        pid = kernel.spawn("hog", cgroup="/a/b")
        peers = [await house.connect(pid), await house.connect(5, uid=0)]
        open_domains = len(kernel._domains)
        for peer in peers:
            await peer.get(wire.Subscribe, domain="/a/b")
        assert len(kernel._domains) == open_domains + 1
        kernel.set_size(pid, FULL_KIB)
        for peer in peers:
            await peer.hear_level(Level.CRITICAL)
        await trio.sleep(10)
        assert kernel.signals == []
        rows = (await peers[1].get(wire.Status))["domains"]
        assert [(row["domain"], row["may_kill"]) for row in rows] == [
            (SYSTEM_DOMAIN, True),
            ("/a/b", False),
        ]
        peers[0].close()
        await trio.sleep(1)
        assert "/a/b" in house.domains
        await peers[1].get(wire.Unsubscribe, domain="/a/b")
        await trio.sleep(1)
        assert SYSTEM_DOMAIN in house.domains
        assert "/a/b" not in house.domains
        assert len(kernel._domains) == open_domains


async def test_a_group_that_is_given_up_and_wanted_again_at_once_is_watched_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = in_boxes("/a/b")
    async with running(tmp_path, kernel) as house:
        peer = await house.connect(5, uid=0)
        for _ in range(5):
            content = b"".join(
                wire.encode(make(number, domain="/a/b"))
                for number, make in ((100, wire.Subscribe), (101, wire.Unsubscribe))
            )
            await peer.send_bytes(content + wire.encode(wire.Subscribe(102, "/a/b")))
            await peer.get(wire.Status)
            await trio.sleep(0.05)
            assert "/a/b" in house.domains
        kernel.spawn("hog", cgroup="/a/b", anon_kib=FULL_KIB)
        assert (await peer.hear_level(Level.CRITICAL)).domain == "/a/b"


async def test_a_subscription_that_fails_changes_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = in_boxes("/a/b")
    async with running(tmp_path, kernel) as house:
        peer = await house.connect(5, uid=0)
        await peer.get(wire.Subscribe, domain="/a/b")
        kernel.remove_cgroup("/a/b")
        await trio.sleep(1)
        assert await peer.refusal(wire.Subscribe, domain="/a/b") == "unknown_domain"
        kernel.add_cgroup("/a/b", max_kib=ROOM_KIB)
        await trio.sleep(2)
        kernel.spawn("hog", cgroup="/a/b", anon_kib=FULL_KIB)
        assert (await peer.hear_level(Level.CRITICAL)).domain == "/a/b"


async def test_five_hundred_clients_that_come_listen_everywhere_and_go_leave_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = in_boxes("/a/b", "/a/c")
    text = '[recording]\nmost = "64KiB"\n[[domain]]\ncgroup = "/a/b"\nkill = false\n'
    async with running(tmp_path, kernel, text=text) as house:
        hog = kernel.spawn("hog", cgroup="/a/b", anon_kib=FULL_KIB)

        async def come_and_go(times: int) -> None:
            for number in range(times):
                peer = await house.connect(5, uid=0)
                for domain in ("system", "/a", "/a/b", "/a/c"):
                    way = ("local", "default", "hierarchy")[number % 3]
                    await peer.get(wire.Subscribe, domain=domain, propagation=way)
                peer.close()
                house.peers.remove(peer)
            await trio.sleep(1)

        tracemalloc.start()
        try:
            held = []
            for times in (200, 500):
                await come_and_go(times)
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert held[1] - held[0] < 150_000, "a client costs more than 300 bytes when it has gone"
        told = house.parts.server.subscribers
        assert not any((told._by_domain, told._asked, told._told_below))
        assert set(house.domains) == {SYSTEM_DOMAIN, "/a/b"}
        kernel.exit(hog)


async def test_who_does_not_read_while_groups_without_number_come_and_go_is_let_go(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latest word of each domain waits for a slow reader; domains that came and went are without number."""
    monkeypatch.setattr(client, "WAITING_MOST", 60)
    kernel = in_boxes()
    text = '[[domain]]\ncgroup = "/job/*"\nkill = false\n'
    async with running(tmp_path, kernel, text=text) as house:
        deaf = await listen(house, 5, "system", "hierarchy")
        alert = await listen(house, 6, "system", "local")
        for begin in range(0, 120, 10):
            names = [f"/job/{number}" for number in range(begin, begin + 10)]
            for name in names:
                kernel.add_cgroup(name, max_kib=MIB)
                kernel.spawn("hog", cgroup=name, anon_kib=MIB)
            await trio.sleep(0.5)
            for process in list(kernel.machine.processes.values()):
                kernel.exit(process.pid)
            for name in names:
                kernel.remove_cgroup(name)
            await trio.sleep(0.5)
            if begin == 0:
                assert (await alert.get(wire.Status))["clients"] == 2, "a few may wait"
        assert (await alert.get(wire.Status))["clients"] == 1
        await deaf.hear_end()
