"""What is answered to those who ask: rules, processes, why somebody would die or did, and how things stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lmkd_proto as wire
import pytest
import trio
from trio.testing import MockClock

from lmkd.kernel.simulated import OnTerm, SimulatedKernel
from lmkd.model import Level
from lmkd.service.questions import RANKINGS_A_SECOND

from .house import MIB, House, Peer, running

RULES = """
[process_events]
source = "netlink"
[[rule]]
name = "tabs"
match = { comm = "tab.*" }
class = "cached"
bias = 10
[[rule]]
name = "batch"
match = { cgroup = "/batch/**" }
class = "background"
grace = "7s"
"""
CRITICAL_KIB = 20 * MIB
EMERGENCY_KIB = 5 * MIB


async def all_of(peer: Peer, make: Any, key: str, **keys: object) -> list[dict[str, Any]]:
    """Return a whole list, part by part, each within the protocol's frame."""
    rows: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        part = await peer.get(make, after=after, **keys)
        rows += part[key]
        after = part["next"]
    assert len(rows) == part["total"]
    return rows


# --- rules and processes -------------------------------------------------------------------------------------


async def test_rules_are_listed_in_order_with_how_many_processes_each_was_given_to(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, text=RULES) as house:
        for name, cgroup in (("tab1", "/"), ("tab2", "/batch"), ("make", "/batch/1"), ("x", "/")):
            house.kernel.spawn(name, cgroup=cgroup)
        await trio.sleep(0.1)
        peer = await house.connect()
        rules = await all_of(peer, wire.Rules, "rules", limit=3)
        assert [row["number"] for row in rules] == list(range(1, len(rules) + 1))
        first, second = rules[:2]
        assert (first["name"], first["hits"], first["bias"], first["shipped"]) == (
            "tabs",
            2,
            10,
            False,
        )
        assert first["place"].startswith(str(tmp_path / "over.toml"))
        assert (second["hits"], second["grace_ms"], second["class"]) == (1, 7000, "background")
        assert second["match"][0]["subject"] == "cgroup"
        assert rules[-1]["shipped"] is True
        answer = await peer.get(wire.Rules, limit=1)
        assert (answer["next"], answer["strict"], answer["unruled"]) == (1, False, "service")
        assert answer["unruled_hits"] >= 1
        house.kernel.spawn("tab3")
        await trio.sleep(0.1)
        assert (await peer.get(wire.Rules, limit=1))["rules"][0]["hits"] == 3
        root = await house.connect(uid=0)
        await root.get(wire.Reload)
        assert (await peer.get(wire.Rules, limit=1))["rules"][0]["hits"] == 3, "counted anew"


async def test_five_hundred_wordy_rules_come_in_parts_that_fit(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    text = "".join(
        f'[[rule]]\nname = "{"ü" * 90} {number}"\nmatch = {{ cmdline = "{"ß" * 400}{number}" }}\n'
        'class = "cached"\n'
        for number in range(500)
    )
    async with running(tmp_path, text=text) as house:
        rules = await all_of(await house.connect(), wire.Rules, "rules", limit=1000)
        assert len(rules) > 500


async def test_processes_come_largest_first_and_the_unruled_apart(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, text=RULES) as house:
        kernel = house.kernel
        tab = kernel.spawn("tab", anon_kib=50 * MIB)
        plain = kernel.spawn("plain", anon_kib=30 * MIB, uid=77, cgroup="/x")
        init = kernel.spawn("init", anon_kib=20 * MIB, pid=1, uid=0)
        app = await house.run_app("app", "cached", 10)
        many = [kernel.spawn(f"p{number}", anon_kib=number) for number in range(600)]
        peer = await house.connect()
        rows = await all_of(peer, wire.Processes, "processes", limit=1000)
        assert [row["pid"] for row in rows[:4]] == [tab, plain, init, app.pid]
        assert {row["pid"] for row in rows} >= set(many)
        assert [rows[number]["size_kib"] for number in (4, 5)] == [599, 598]
        assert (rows[0]["rule"], rows[0]["class"], rows[0]["app"]) == ("tabs", "cached", None)
        assert (rows[1]["uid"], rows[1]["cgroup"], rows[1]["rule"]) == (77, "/x", "")
        assert (rows[3]["app"], rows[3]["projected"], rows[3]["oom_score_adj"]) == (1, 900, 0)
        unruled = await all_of(peer, wire.Processes, "processes", unruled=True, limit=1000)
        assert {row["pid"] for row in unruled} == {plain, *many}, (
            "who has a rule, registered, or is never killed anyway is left out"
        )
        assert (await peer.get(wire.Processes, after=2**63 - 1))["processes"] == []


# --- explain ---------------------------------------------------------------------------------------------------


def ranks_of(explained: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["domain"], row["level"]): row for row in explained["ranks"]}


async def test_explain_says_at_each_level_and_in_each_domain_who_would_go_before(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = SimulatedKernel()
    kernel.add_cgroup("/batch", max_kib=400 * MIB)
    sizes = (("tab1", 60, "/"), ("tab2", 50, "/batch"), ("make", 80, "/batch/1"), ("x", 70, "/"))
    pids = {
        name: kernel.spawn(name, anon_kib=size * MIB, cgroup=group) for name, size, group in sizes
    }
    text = RULES + '[[domain]]\ncgroup = "/batch"\nkill = ["background"]\n'
    async with running(tmp_path, kernel, text=text) as house:
        peer = await house.connect()
        explained = await peer.get(wire.Explain, pid=pids["make"])
        assert (explained["rule"], explained["class"]) == ("batch", "background")
        assert explained["rule_place"].startswith(str(tmp_path / "over.toml"))
        assert explained["truncated"] is False
        ranks = ranks_of(explained)
        assert list(ranks) == [
            (domain, level)
            for domain in ("system", "/batch")
            for level in ("low", "medium", "critical")
        ]
        medium, critical = ranks["system", "medium"], ranks["system", "critical"]
        assert (medium["rank"], medium["of"]) == (None, 2)
        assert medium["spared"] == "its class may be killed at critical only"
        assert (critical["rank"], critical["of"], critical["spared"]) == (3, 4, None)
        assert [row["name"] for row in critical["before"]] == ["tab1", "tab2"]
        assert (critical["before_count"], critical["before_kib"]) == (2, 110 * MIB)
        inside = ranks["/batch", "critical"]
        assert (inside["rank"], inside["of"], inside["before"]) == (1, 1, [])
        tab = ranks_of(await peer.get(wire.Explain, pid=pids["tab2"]))
        assert tab["/batch", "critical"]["spared"] == "nothing of its class may die in this domain"
        assert tab["system", "medium"]["rank"] == 2
        other = ranks_of(await peer.get(wire.Explain, pid=pids["x"]))
        assert {domain for domain, _ in other} == {"system"}
        assert other["system", "critical"]["rank"] == 4


async def test_explain_names_the_domains_of_a_process_however_many_others_are_watched(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = SimulatedKernel()
    deep = "/z" + "".join(f"/{'語' * 53}{number}" for number in range(18))
    for path in (*(f"/a/{number}" for number in range(40)), deep):
        kernel.add_cgroup(path)
    pid = kernel.spawn("x", anon_kib=70 * MIB, cgroup="/z")
    below = kernel.spawn("y", anon_kib=40 * MIB, cgroup=deep)
    for number in range(5):
        kernel.spawn("語" * 14 + str(number), anon_kib=60 * MIB, cgroup=deep)
    text = '[[domain]]\ncgroup = "/a/*"\n[[domain]]\ncgroup = "/z/**"\n'
    async with running(tmp_path, kernel, text=text) as house:
        peer = await house.connect()
        assert ("/z", "low") in ranks_of(await peer.get(wire.Explain, pid=pid))
        explained = await peer.get(wire.Explain, pid=below)
        assert explained["truncated"] is True
        assert len(explained["ranks"]) > 10


async def test_explain_tells_what_would_die_together(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    text = """
    [[rule]]
    name = "database"
    match = { cgroup = "/db/**" }
    class = "service"
    unit = "cgroup"
    """
    async with running(tmp_path, text=text) as house:
        pids = [house.kernel.spawn("db", anon_kib=size * MIB, cgroup="/db") for size in (10, 30)]
        peer = await house.connect()
        explained = await peer.get(wire.Explain, pid=pids[0])
        assert explained["unit"] == "cgroup"
        critical = ranks_of(explained)["system", "critical"]
        assert (critical["rank"], critical["of"]) == (1, 1)


async def kill_one(house: House) -> tuple[Peer, wire.Killed]:
    """Have somebody killed, and calm after it."""
    root = await house.connect(uid=0)
    await root.get(wire.Subscribe)
    await root.hear_level(Level.NORMAL)
    house.kernel.set_available(CRITICAL_KIB)
    killed = await root.hear(wire.Killed)
    house.kernel.set_available(300 * MIB)
    await root.hear_level(Level.NORMAL)
    return root, killed


async def test_a_kill_is_explained_with_who_else_there_was_and_what_came_of_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = SimulatedKernel()
    victim = kernel.spawn("tab", anon_kib=90 * MIB, on_term=OnTerm.IGNORES)
    kernel.spawn("tab2", anon_kib=70 * MIB)
    kernel.spawn("plain", anon_kib=99 * MIB)
    async with running(tmp_path, kernel, text=RULES, state_dir=str(tmp_path / "state")) as house:
        root, killed = await kill_one(house)
        assert killed.pid == victim
        explained = await root.get(wire.Explain, kill=1)
        kill = explained["kill"]
        assert (kill["kill"], kill["kind"], kill["pid"], kill["rule"]) == (
            1,
            "kill",
            victim,
            "tabs",
        )
        assert [row["name"] for row in kill["ranked"][:3]] == ["tab", "tab2", "plain"]
        assert (explained["domain"], explained["episode"]) == ("system", 1)
        kinds = [row["kind"] for row in explained["outcome"]]
        assert kinds == ["signal", "exited", "measured"]
        assert await root.refusal(wire.Explain, kill=2) == "unknown_kill"
        assert await root.refusal(wire.Explain, kill=2**63 - 1) == "unknown_kill"
    async with running(tmp_path, kernel, text=RULES, state_dir=str(tmp_path / "state")) as house:
        root = await house.connect(uid=0)
        again = await root.get(wire.Explain, kill=1)
        assert again["kill"] == kill, "it is kept over a restart"


# --- not now ----------------------------------------------------------------------------------------------------


async def test_in_an_emergency_nobody_looks_at_all_processes_but_a_kill_is_explained(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = SimulatedKernel()
    kernel.spawn("tab", anon_kib=90 * MIB)
    kept = kernel.spawn("sshd", anon_kib=9 * MIB, exe="/usr/sbin/sshd")
    async with running(tmp_path, kernel, text=RULES) as house:
        root, _ = await kill_one(house)
        kernel.set_available(EMERGENCY_KIB)
        await trio.sleep(1)
        assert await root.refusal(wire.Explain, pid=kept) == "busy"
        assert await root.refusal(wire.Processes) == "busy"
        assert await root.refusal(wire.Explain, pid=99) == "unknown_process"
        await root.get(wire.Explain, kill=1)
        await root.get(wire.Rules)
        await root.get(wire.Status)
        kernel.set_available(300 * MIB)
        await trio.sleep(1)
        await root.get(wire.Processes)
        await root.get(wire.Explain, pid=kept)


async def test_beyond_eight_explanations_a_second_the_asker_is_told_to_wait(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, text=RULES) as house:
        pid = house.kernel.spawn("tab", anon_kib=20 * MIB)
        peers = [await house.connect(number) for number in (5, 6)]
        for number in range(RANKINGS_A_SECOND):
            await peers[number % 2].get(wire.Explain, pid=pid)
        for peer in peers:
            assert await peer.refusal(wire.Explain, pid=pid) == "busy"
        await peers[0].get(wire.Processes)
        await trio.sleep(1.01)
        await peers[0].get(wire.Explain, pid=pid)


async def test_however_many_ask_all_processes_are_read_once_a_second(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, text=RULES) as house:
        house.kernel.spawn("tab", anon_kib=20 * MIB)
        peer = await house.connect()
        scans = 0
        plain = house.kernel.scan

        def scan(*arguments: Any) -> Any:
            nonlocal scans
            scans += 1
            return plain(*arguments)

        monkeypatch.setattr(house.kernel, "scan", scan)
        begun_at = trio.current_time()
        while trio.current_time() - begun_at < 3:
            for _ in range(20):
                await peer.get(wire.Processes)
            await trio.sleep(0.1)
        assert 2 <= scans <= 4


# --- recordings --------------------------------------------------------------------------------------------------


async def test_recordings_are_the_controllers_to_list_and_to_save(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = SimulatedKernel()
    kernel.spawn("tab", anon_kib=90 * MIB)
    async with running(tmp_path, kernel, text=RULES, state_dir=str(tmp_path / "state")) as house:
        peer = await house.connect()
        assert await peer.refusal(wire.Record, save=False) == "forbidden"
        assert await peer.refusal(wire.Record, save=True) == "forbidden"
        root = await house.connect(uid=0)
        listed = await root.get(wire.Record, save=False)
        assert listed == {"recordings": [], "saved": None}
        await kill_one(house)
        await trio.sleep(5)
        (first,) = (await root.get(wire.Record, save=False))["recordings"]
        assert first["episodes"] == [1]
        saved = await root.get(wire.Record, save=True)
        assert saved["saved"] in [row["path"] for row in saved["recordings"]]
        for row in saved["recordings"]:
            assert (await trio.Path(row["path"]).stat()).st_size == row["bytes"]


async def test_without_a_place_for_them_none_is_saved(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        await trio.sleep(3)
        root = await house.connect(uid=0)
        assert await root.get(wire.Record, save=True) == {"recordings": [], "saved": None}


# --- how things stand ----------------------------------------------------------------------------------------------


async def test_status_says_what_is_doubtful_in_the_rules_and_how_processes_are_heard_of(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    text = (
        RULES.replace('"netlink"', '"scan"')
        + '[policy]\nstrict = true\n[[rule]]\nname = "late"\nmatch = { comm = "tab.*", uid = 5 }\nclass = "cached"\n'
    )
    async with running(tmp_path, text=text) as house:
        peer = await house.connect()
        status = await peer.get(wire.Status)
        (warning,) = (one for one in status["warnings"] if "late" in one)
        assert "tabs" in warning
        assert (status["strict"], status["process_events"]) == (True, "scan")
        assert (status["relayed_from"], status["reload_problem"]) == (None, None)
        rules = await peer.get(wire.Rules, limit=1)
        assert rules["warnings"] == status["warnings"]
        assert rules["strict"] is True


async def test_status_fits_into_a_frame_whatever_is_wrong_with_the_configuration(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    wordy = "語" * 97
    rules = "".join(
        f'[[rule]]\nname = "{wordy}{number}"\nmatch = {{ comm = "x" }}\nclass = "cached"\n'
        for number in range(40)
    )
    async with running(tmp_path, text=rules) as house:
        for _ in range(150):
            await house.run_app("語" * 64, "cached", 1, cgroup="/" + "語" * 190)
        root = await house.connect(uid=0)
        (tmp_path / "over.toml").write_text(
            rules + "".join(f'["{wordy}{n}"]\nx = 1\n' for n in range(40))
        )
        assert await root.refusal(wire.Reload) == "failed"
        status = await root.get(wire.Status)
        assert len(status["warnings"]) == 16
        assert len(status["reload_problem"]) == 2000
        assert (status["truncated"], status["app_count"]) == (True, 150)
        assert status["domains"][0]["domain"] == "system"
        assert status["apps"]


async def test_a_bad_file_that_is_read_under_load_leaves_the_policy_as_it_was(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Twenty clients ask and subscribe, an episode goes on, and the file has mistakes; then a good one is taken."""
    kernel = SimulatedKernel()
    kernel.add_cgroup("/batch", max_kib=100 * MIB)
    good = RULES + '[[domain]]\ncgroup = "/batch"\nkill = false\n'
    async with running(tmp_path, kernel, text=good) as house:
        app = await house.run_app("tab", "cached", 60, sheddable_mib=30, on_term=OnTerm.IGNORES)
        root = await house.connect(uid=0)
        peers = [await house.connect(number, uid=0) for number in range(20, 40)]
        before = (await root.get(wire.Rules, limit=1000))["rules"]
        settings = house.parts.engine.state.settings
        done = trio.Event()
        answered = [0] * len(peers)

        async def ask(number: int) -> None:
            peer = peers[number]
            while not done.is_set():
                domain = ("system", "/batch")[number % 2]
                await peer.get(wire.Subscribe, domain=domain, propagation="hierarchy")
                for make in (wire.Status, wire.Rules, wire.History):
                    await peer.get(make)
                await peer.get(wire.Unsubscribe, domain=domain)
                answered[number] += 1
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            for number in range(len(peers)):
                nursery.start_soon(ask, number)
            house.kernel.set_available(CRITICAL_KIB)
            notice = await app.hear(wire.Notice)
            bad = good + 'colour = "red"\n[[rule]]\nname = "tabs"\nclass = "nobody"\n'
            (tmp_path / "over.toml").write_text(bad)
            reply = await root.ask(wire.Reload)
            assert isinstance(reply, wire.Error)
            assert reply.code == "failed"
            status = await root.get(wire.Status)
            for said in ("over.toml:", "colour", "nobody"):
                assert said in status["reload_problem"]
            assert house.parts.engine.state.settings is settings
            after = (await root.get(wire.Rules, limit=1000))["rules"]
            assert [row["name"] for row in after] == [row["name"] for row in before]
            told_at = trio.current_time()
            await app.hear(wire.KillWarning)
            assert trio.current_time() - told_at >= notice.deadline_ms / 1000 - 0.5
            (tmp_path / "over.toml").write_text(good.replace('"tab.*"', '"tabs?"'))
            await root.get(wire.Reload)
            assert (await root.get(wire.Status))["reload_problem"] is None
            done.set()
        assert min(answered) >= 3
        assert (await root.get(wire.Status))["clients"] == 22
