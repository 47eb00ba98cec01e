"""What each request means, asked over the wire of a whole daemon on a simulated machine."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import lmkd_proto as wire
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmkd.kernel.simulated import OnTerm, SimulatedKernel
from lmkd.model import Level
from lmkd.service.listening import SO_PEERPIDFD

from .house import MIB, Peer, running

BOX = "/box"
WITH_BOX = f'[[domain]]\ncgroup = "{BOX}"\nkill = false\n'


# --- hello and levels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("uid", "controller"), [(0, True), (1000, False)])
async def test_hello_says_who_is_controller(
    tmp_path: Path, autojump_clock: MockClock, uid: int, controller: bool
) -> None:
    async with running(tmp_path) as house:
        peer = await house.connect(5, uid=uid, hello=False)
        # The highest version the client speaks may be above ours.
        welcome = await peer.ask(wire.Hello, version=9, name="some one")
        assert isinstance(welcome, wire.Welcome)
        assert (welcome.version, welcome.controller) == (1, controller)
        assert await peer.refusal(wire.Hello, version=1) == "hello_twice"


async def test_requests_may_follow_hello_before_welcome(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        peer = await house.connect(hello=False)
        await peer.send_bytes(wire.encode(wire.Hello(1, 1)) + wire.encode(wire.Subscribe(2)))
        await peer.hear(wire.Pressure)
        assert [type(message) for message in peer.heard] == [wire.Welcome, wire.Ok, wire.Pressure]


async def test_what_comes_before_hello_in_the_same_breath_does_not_spoil_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        peer = await house.connect(hello=False)
        await peer.send_bytes(wire.encode(wire.Status(1)) + wire.encode(wire.Hello(2, 1)))
        assert (await peer.hear(wire.Error)).code == "hello_first"
        assert (await peer.hear(wire.Welcome)).id == 2
        await peer.get(wire.Status)


async def test_a_forbidden_length_behind_good_requests_takes_nothing_from_them(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        peer = await house.connect(hello=False)
        good = wire.encode(wire.Hello(1, 1)) + wire.encode(wire.Subscribe(2))
        await peer.send_bytes(good + b"\xff\xff\xff\xff")
        await peer.hear_end()
        assert [type(message) for message in peer.heard] == [
            wire.Welcome,
            wire.Ok,
            wire.Pressure,
            wire.Error,
        ]


async def test_what_is_no_request_is_refused_and_the_connection_stays(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        peer = await house.connect()
        await peer.send_bytes(wire.encode(wire.Pressure("system", "low", "", 0)))
        await peer.send_bytes(wire.encode_frame(b"\x82\xa4type\xa4f\xc2\x80o\xa2id\x07"))
        await peer.send_bytes(wire.encode_frame(b"\x82\xa4type\xa7explain\xa2id\x08"))
        errors = [await peer.hear(wire.Error) for _ in range(3)]
        assert [(error.id, error.code) for error in errors] == [
            (None, "unknown_type"),
            (7, "unknown_type"),
            (8, "bad_value"),
        ]
        assert "'f?o'" in errors[1].message


async def test_subscribe_is_answered_and_then_the_present_level_is_told(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = SimulatedKernel()
    kernel.add_cgroup(BOX, max_kib=100 * MIB)
    async with running(tmp_path, kernel, text=WITH_BOX) as house:
        root = await house.connect(uid=0)
        assert await root.refusal(wire.Subscribe, domain="/elsewhere") == "unknown_domain"
        assert await root.refusal(wire.Subscribe, domain="/" + "x" * 1000) == "unknown_domain"
        peer = await house.connect()
        assert await peer.refusal(wire.Subscribe, domain="/elsewhere") == "forbidden"
        for domain in ("system", BOX, BOX):
            await peer.get(wire.Subscribe, domain=domain)
            assert (await peer.hear(wire.Pressure)).domain == domain
        await peer.get(wire.Unsubscribe, domain=BOX)
        assert await peer.refusal(wire.Unsubscribe, domain=BOX) == "not_subscribed"


# --- apps ----------------------------------------------------------------------------------------------


async def test_a_registration_says_what_was_granted(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = SimulatedKernel()
    kernel.add_cgroup(BOX, max_kib=100 * MIB)
    async with running(tmp_path, kernel, text=WITH_BOX) as house:
        pid = kernel.spawn("app", cgroup=BOX + "/inner")
        peer = await house.connect(pid)
        granted = await peer.get(wire.Register, name="app", app_class="foreground", unit="cgroup")
        assert granted == {
            "app": 1,
            "class": "perceptible",
            "unit": "process",
            "domain": BOX,
            "grace_ms": 5000,
            "time_to_exit_ms": 5000,
        }
        assert await peer.refusal(wire.Register, name="app", app_class="cached") == (
            "already_registered"
        )
        await peer.get(wire.Unregister)
        for make, keys in ((wire.Unregister, {}), (wire.Update, {"name": "x"})):
            assert await peer.refusal(make, **keys) == "not_registered"


async def test_root_gets_the_class_and_the_unit_it_asks_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        for cgroup, asked, unit in (
            ("/job", "cgroup", "cgroup"),
            ("/", "cgroup", "process"),
            ("/job", "tree", "tree"),
        ):
            peer = await house.connect(house.kernel.spawn("app", cgroup=cgroup), uid=0)
            granted = await peer.get(wire.Register, name="app", app_class="foreground", unit=asked)
            assert (granted["class"], granted["unit"]) == ("foreground", unit)


@pytest.mark.parametrize("pid", [0, 4711])
async def test_a_process_that_cannot_be_seen_cannot_register(
    tmp_path: Path, autojump_clock: MockClock, pid: int
) -> None:
    async with running(tmp_path) as house:
        peer = await house.connect(pid)
        assert await peer.refusal(wire.Register, name="x", app_class="cached") == "unknown_process"


async def test_a_pid_whose_process_has_exited_speaks_for_nobody(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Whoever holds its socket now could otherwise register the process that has the pid by then."""
    program = (
        "import socket, sys\n"
        "peer = socket.socket(socket.AF_UNIX)\n"
        "peer.bind('\\0' + sys.argv[2])\n"
        "peer.connect(sys.argv[1])\n"
        "socket.send_fds(socket.socket(fileno=int(sys.argv[3])), [b'x'], [peer.fileno()])\n"
    )
    async with running(tmp_path) as house:
        pid = house.kernel.spawn("innocent", anon_kib=50 * MIB)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            arguments = [house.path, f"lmkd-test-gone-{os.getpid()}/{pid}/1000"]
            subprocess.run(  # noqa: ASYNC221 - the daemon is to do nothing meanwhile
                [sys.executable, "-c", program, *arguments, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                check=True,
                timeout=30,
            )
            _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
        peer = Peer(trio.socket.from_stdlib_socket(socket.socket(fileno=fd)), pid)
        house.peers.append(peer)
        try:
            peer.sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
        except OSError:
            pytest.skip("this kernel has no SO_PEERPIDFD (before 6.5)")
        await peer.ask(wire.Hello, version=1)
        assert await peer.refusal(wire.Register, name="x", app_class="cached") == "unknown_process"


async def test_an_app_may_lower_its_class_and_raise_it_again_up_to_the_ceiling(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        app = await house.run_app("tab", "perceptible", 10)
        for asked, granted, adj in (
            ("cached", "cached", 900),
            ("perceptible", "perceptible", 200),
            ("foreground", "perceptible", 200),
        ):
            assert (await app.get(wire.Update, app_class=asked))["class"] == granted
            process = house.kernel.process(app.pid)
            assert process is not None
            assert process.oom_score_adj == adj
        await app.get(wire.Update, name="tab 2", sheddable_bytes=5 << 20)
        row = (await app.get(wire.Status))["apps"][0]
        assert (row["name"], row["sheddable_kib"], row["class"]) == (
            "tab 2",
            5 * MIB,
            "perceptible",
        )


async def test_what_the_controller_has_set_is_the_ceiling_from_then_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        app = await house.run_app("tab", "service", 10)
        root = await house.connect(uid=0)
        assert await app.refusal(wire.SetClass, app=1, app_class="system") == "forbidden"
        assert await root.refusal(wire.SetClass, app=99, app_class="cached") == "unknown_app"
        await root.get(wire.SetClass, app=1, app_class="background")
        assert (await app.get(wire.Update, app_class="service"))["class"] == "background"
        await root.get(wire.SetClass, app=1, app_class="foreground")
        assert (await app.get(wire.Update, app_class="cached"))["class"] == "cached"
        assert (await app.get(wire.Update, app_class="foreground"))["class"] == "foreground"


async def test_an_ack_of_a_notice_that_was_never_given_is_refused(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        app = await house.run_app("cache", "cached", 50, sheddable_mib=50)
        for number in (0, 1, 2**63 - 1):
            assert await app.refusal(wire.Ack, notice=number, answer="done") == "unknown_notice"
        house.kernel.set_available(50 * MIB)
        first = (await app.hear(wire.Notice)).notice
        huge = 2**63 - 1
        await app.get(wire.Ack, notice=first, answer="working", freed_bytes=huge)
        stranger = await house.connect()
        assert await stranger.refusal(wire.Ack, notice=first, answer="done") == "not_registered"


async def test_an_ack_of_a_later_notice_than_ones_own_is_refused_though_another_app_was_given_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        app = await house.run_app("cache", "cached", 50, sheddable_mib=50)
        house.kernel.set_available(50 * MIB)
        own = (await app.hear(wire.Notice)).notice
        other = await house.run_app("other", "cached", 50, sheddable_mib=50)
        later = (await other.hear(wire.Notice)).notice
        assert later > own
        assert await app.refusal(wire.Ack, notice=later, answer="done") == "unknown_notice"
        await other.get(wire.Ack, notice=later, answer="done")
        house.kernel.set_available(20 * MIB)
        assert (await app.hear(wire.Notice)).notice > own
        await app.get(wire.Ack, notice=own, answer="nothing")
        row = (await app.get(wire.Status))["apps"][0]
        assert row["answer"] is None, "to an earlier one of its own it changes nothing"
        await app.get(wire.Unregister)
        await app.get(wire.Register, name="new", app_class="foreground")
        assert await app.refusal(wire.Ack, notice=own, answer="done") == "unknown_notice"


async def test_an_app_that_registers_under_pressure_is_told_after_its_reply(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        watcher = await house.connect()
        await watcher.get(wire.Subscribe)
        house.kernel.set_available(50 * MIB)
        await watcher.hear(wire.Pressure)
        await trio.sleep(2)
        app = await house.run_app("cache", "cached", 5, sheddable_mib=50)
        await app.hear(wire.Notice)
        assert [type(message) for message in app.heard] == [wire.Welcome, wire.Ok, wire.Notice]


# --- apps and rules ------------------------------------------------------------------------------------


def rule(name: str, comm: str, **keys: object) -> str:
    said = "".join(f'{key} = "{value}"\n' for key, value in keys.items())
    return f'[[rule]]\nname = "{name}"\nmatch = {{ comm = "{comm}" }}\n{said}'


PLAYER = {"class": "service", "ceiling": "foreground", "grace": "9s", "time_to_exit": "3s"}


@pytest.mark.parametrize(
    ("keys", "uid", "asked", "granted"),
    [
        ({"class": "service", "ceiling": "background"}, 1000, "perceptible", "background"),
        ({"class": "service", "ceiling": "background"}, 1000, "cached", "cached"),
        ({"class": "service", "ceiling": "foreground"}, 1000, "foreground", "foreground"),
        ({"class": "cached"}, 1000, "foreground", "perceptible"),
        ({"class": "foreground"}, 1000, "foreground", "foreground"),
        ({"class": "system"}, 1000, "foreground", "foreground"),
        ({"class": "cached"}, 0, "foreground", "foreground"),
        ({"class": "cached", "ceiling": "service"}, 0, "foreground", "service"),
    ],
)
async def test_the_rule_bounds_what_a_program_may_claim(
    tmp_path: Path,
    autojump_clock: MockClock,
    keys: dict[str, str],
    uid: int,
    asked: str,
    granted: str,
) -> None:
    """Where a rule names no ceiling, its class or that of all, whichever is higher; root is bound by a named one."""
    async with running(tmp_path, text=rule("it", "app", **keys)) as house:
        app = await house.connect(house.kernel.spawn("app", uid=uid), uid=uid)
        given = await app.get(wire.Register, name="anything", app_class=asked)
        assert given["class"] == granted
        assert (await app.get(wire.Update, app_class="cached"))["class"] == "cached"
        assert (await app.get(wire.Update, app_class=asked))["class"] == granted


async def test_a_rule_may_ask_whether_a_program_registered(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    text = """
    [[rule]]
    name = "honest"
    match = { comm = "app", registered = true }
    class = "service"
    ceiling = "foreground"
    grace = "9s"
    [[rule]]
    name = "others"
    match = { comm = "app" }
    class = "cached"
    """
    async with running(tmp_path, text=text) as house:
        app = await house.connect(house.kernel.spawn("app"))
        assert (await app.get(wire.Explain, pid=app.pid))["rule"] == "others"
        given = await app.get(wire.Register, name="app", app_class="foreground")
        assert (given["class"], given["grace_ms"]) == ("foreground", 9000)
        assert (await app.get(wire.Explain, pid=app.pid))["rule"] == "honest"
        await app.get(wire.Unregister)
        assert (await app.get(wire.Explain, pid=app.pid))["class"] == "cached"


async def test_the_grace_and_the_time_to_exit_of_a_rule_are_granted_and_kept(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, text=rule("player", "app", **PLAYER)) as house:
        app = await house.run_app("app", "cached", 90, sheddable_mib=9, on_term=OnTerm.IGNORES)
        assert (await app.get(wire.Update, name="x"))["grace_ms"] == 9000
        house.kernel.set_available(20 * MIB)
        while (notice := await app.hear(wire.Notice)).level != "critical":
            pass
        told_at = trio.current_time()
        assert 8_900 <= notice.deadline_ms <= 9_000
        warning = await app.hear(wire.KillWarning)
        assert 8.8 <= trio.current_time() - told_at <= 9.5
        assert warning.time_to_exit_ms == 3000
        await trio.sleep(3.5)
        term, kill = (sent.at_us for sent in house.kernel.signals if sent.pid == app.pid)
        assert kill - term >= 3_000_000


async def test_after_a_reload_an_app_is_lowered_and_given_the_new_grace_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, text=rule("player", "app", **PLAYER)) as house:
        app = await house.run_app("app", "foreground", 20)
        other = await house.run_app("other", "perceptible", 20)
        root = await house.connect(uid=0)
        lower = {**PLAYER, "ceiling": "background", "grace": "2s"}
        (tmp_path / "over.toml").write_text(rule("player", "app", **lower))
        await root.get(wire.Reload)
        rows = {row["name"]: row["class"] for row in (await root.get(wire.Status))["apps"]}
        assert rows == {"app": "background", "other": "perceptible"}
        process = house.kernel.process(app.pid)
        assert process is not None
        assert process.oom_score_adj == 700
        assert (await app.get(wire.Update, name="x"))["grace_ms"] == 2000
        assert (await app.get(wire.Update, app_class="foreground"))["class"] == "background"
        (tmp_path / "over.toml").write_text(rule("player", "app", **PLAYER))
        await root.get(wire.Reload)
        rows = {row["app"]: row["class"] for row in (await root.get(wire.Status))["apps"]}
        assert rows[1] == "background", "what it may be again it has to ask for"
        assert (await app.get(wire.Update, app_class="foreground"))["class"] == "foreground"
        (tmp_path / "over.toml").write_text("")
        await root.get(wire.Reload)
        assert (await app.get(wire.Update, name="x"))["class"] == "perceptible"
        assert (await other.get(wire.Update, name="y"))["class"] == "perceptible"


async def test_what_the_controller_gave_outlives_a_reload_of_the_rules(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        app = await house.run_app("app", "cached", 20)
        root = await house.connect(uid=0)
        await root.get(wire.SetClass, app=1, app_class="system")
        lower = {"class": "cached", "ceiling": "cached"}
        (tmp_path / "over.toml").write_text(rule("low", "app", **lower))
        await root.get(wire.Reload)
        assert (await root.get(wire.Status))["apps"][0]["class"] == "system"
        assert (await app.get(wire.Update, name="x"))["class"] == "system"


@pytest.mark.parametrize(
    ("uid", "unit", "granted"),
    [
        (1000, "tree", "tree"),
        (1000, "cgroup", "process"),
        (0, "tree", "tree"),
        (0, "cgroup", "cgroup"),
    ],
)
async def test_anyone_may_have_its_tree_at_stake_and_the_controller_its_cgroup(
    tmp_path: Path, autojump_clock: MockClock, uid: int, unit: str, granted: str
) -> None:
    async with running(tmp_path) as house:
        app = await house.connect(house.kernel.spawn("app", cgroup="/job", uid=uid), uid=uid)
        given = await app.get(wire.Register, name="app", app_class="cached", unit=unit)
        assert given["unit"] == granted
        assert (await app.get(wire.Status))["apps"][0]["unit"] == granted


# --- simulations ---------------------------------------------------------------------------------------


async def test_a_simulation_for_oneself_is_heard_by_nobody_else_and_ends_with_the_truth(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        app = await house.run_app("cache", "cached", 5, sheddable_mib=4)
        other = await house.run_app("other", "cached", 5, sheddable_mib=4)
        for peer in (app, other):
            await peer.get(wire.Subscribe)
            await peer.hear(wire.Pressure)
        await app.get(wire.Simulate, level="critical", duration_ms=2000)
        word = await app.hear(wire.Pressure)
        assert (word.level, word.simulated) == ("critical", True)
        notice = await app.hear(wire.Notice)
        assert (notice.level, notice.simulated, notice.target_bytes) == ("critical", True, 4 << 20)
        assert await app.refusal(wire.Simulate, level="low") == "busy"
        begun_at = trio.current_time()
        word = await app.hear(wire.Pressure)
        assert (word.level, word.simulated) == ("normal", False)
        assert trio.current_time() - begun_at == pytest.approx(2, abs=0.01)
        assert (await app.hear(wire.Notice)).level == "normal"
        await other.get(wire.Status)
        assert len(other.heard) == 5
        assert house.kernel.signals == []


async def test_a_simulation_for_all_takes_the_controller_and_outlives_its_connection(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        app = await house.run_app("cache", "cached", 5, sheddable_mib=4)
        await app.get(wire.Subscribe)
        await app.hear(wire.Pressure)
        assert await app.refusal(wire.Simulate, level="low", scope="all") == "forbidden"
        root = await house.connect(uid=0)
        await root.get(wire.Simulate, level="medium", scope="all", duration_ms=1000)
        root.close()
        assert (await app.hear_level(Level.MEDIUM)).simulated
        assert (await app.hear(wire.Notice)).simulated
        assert not (await app.hear_level(Level.NORMAL)).simulated


async def test_the_length_of_a_simulation_is_bounded(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        peer = await house.connect()
        code = await peer.refusal(wire.Simulate, level="low", duration_ms=2**31 - 1)
        assert code == "bad_value"


async def test_a_simulation_of_one_who_has_left_leaves_nothing_behind(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        await wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(20):
            peer = await house.connect()
            await peer.get(wire.Subscribe)
            await peer.get(wire.Simulate, level="critical", duration_ms=600_000)
            peer.close()
        await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before


# --- asking --------------------------------------------------------------------------------------------


async def test_status_fits_into_a_frame_however_many_and_wordy_the_apps_are(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        cgroup = "/" + "/".join("ü" * 60 for _ in range(10))
        for _ in range(120):
            await house.run_app("ü" * 64, "cached", 1, cgroup=cgroup)
        status = await house.peers[0].get(wire.Status)
        apps = status["apps"]
        assert isinstance(apps, list)
        assert (status["app_count"], status["truncated"]) == (120, True)
        assert 40 < len(apps) < 120


async def test_history_is_given_in_parts_that_fit_into_a_frame(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, dry_run=True) as house:
        for number in range(50):
            await house.run_app(f"{number:02}" + "ü" * 60, "cached", 1, sheddable_mib=1)
        peer = await house.connect()
        for available_mib in (58, 38, 22, 58, 38, 22, 38):
            house.kernel.set_available(available_mib * MIB)
            await trio.sleep(5)
        records: list[object] = []
        after, parts = 0, 0
        while True:
            part = await peer.get(wire.History, episode=1, after=after, limit=1000)
            records += part["records"]
            parts += 1
            if part["next"] is None:
                break
            after = part["next"]
        assert parts > 1
        assert len(records) == part["total"]
        assert await peer.refusal(wire.History, episode=77) == "unknown_episode"
        assert (await peer.get(wire.History, after=2**63 - 1))["episodes"] == []


async def test_explain_says_how_a_process_would_be_treated(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        peer = await house.connect()
        assert await peer.refusal(wire.Explain, pid=99) == "unknown_process"
        sshd = house.kernel.spawn("sshd", exe="/usr/sbin/sshd")
        rude = house.kernel.spawn("a\nb", exe="/tmp/" + "ü" * 5000, anon_kib=30 * MIB)
        app = await house.run_app("cache", "cached", 30)
        explained = await peer.get(wire.Explain, pid=sshd)
        assert (explained["killed_at"], explained["app"]) == (None, None)
        assert explained["never_killed"] == explained["rule"] == "the way into the machine"
        explained = await peer.get(wire.Explain, pid=rude)
        assert (explained["name"], explained["class"]) == ("a?b", "service")
        explained = await peer.get(wire.Explain, pid=app.pid)
        assert (explained["why_class"], explained["killed_at"]) == ("registered", "medium")


async def test_reload_takes_the_controller(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as house:
        peer = await house.connect()
        assert await peer.refusal(wire.Reload) == "forbidden"
        root = await house.connect(uid=0)
        (tmp_path / "over.toml").write_text('[classes.cached]\ngrace = "2s"\n')
        reloaded = await root.get(wire.Reload)
        assert reloaded["config_files"][-1] == str(tmp_path / "over.toml")
        app = await house.run_app("cache", "cached", 30)
        assert (await app.get(wire.Update, name="x"))["grace_ms"] == 2000


SPEC = (Path(__file__).parents[2] / "proto" / "SPEC.md").read_text()


def keys_in_spec(heading: str) -> list[str]:
    """Return the keys in the table below a heading of SPEC.md."""
    _, _, after = SPEC.partition(f"\n### {heading}\n")
    return re.findall(r"^\| `(\w+)` \|", after.partition("\n#")[0], re.MULTILINE)


def all_keys_in_spec(heading: str) -> set[str]:
    """Return the keys in all tables below a heading, those of rows too; some lines name two."""
    _, _, after = SPEC.partition(f"\n### {heading}\n")
    first = [line.split("|")[1] for line in after.partition("\n#")[0].splitlines() if "|" in line]
    return {key for cell in first for key in re.findall(r"`(\w+)`", cell)}


async def test_results_have_the_keys_that_the_spec_names_and_the_others_are_empty(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        app = await house.run_app("cache", "cached", 50, sheddable_mib=50)
        root = await house.connect(uid=0)
        registration = keys_in_spec("A registration")
        assert registration
        assert list(await app.get(wire.Update, name="x")) == registration
        assert list(await root.get(wire.SetClass, app=1, app_class="cached")) == registration
        house.kernel.set_available(50 * MIB)
        notice = (await app.hear(wire.Notice)).notice
        acked = await app.get(wire.Ack, notice=notice, answer="working")
        assert list(acked) == keys_in_spec("Of an ack")
        assert list(await root.get(wire.Reload)) == keys_in_spec("Of a reload")
        assert await app.get(wire.Subscribe) == {"domain": "system", "propagation": "local"}
        rules = await root.get(wire.Rules)
        assert {*rules, *rules["rules"][0]} == all_keys_in_spec("Of a `rules`")
        processes = await root.get(wire.Processes)
        assert {*processes, *processes["processes"][0]} == all_keys_in_spec("Of a `processes`")
        explained = await root.get(wire.Explain, pid=app.pid)
        beside = all_keys_in_spec("Of an `explain` with `pid`, beside what it had before")
        assert beside <= {*explained, *explained["ranks"][0]}
        status = await root.get(wire.Status)
        assert all_keys_in_spec("Of a status, beside what it had before") <= set(status)
        recorded = await root.get(wire.Record, save=False)
        assert set(recorded) == all_keys_in_spec("Of a `record`")
        assert await app.get(wire.Simulate, level="low") == {}
        assert await app.get(wire.Unsubscribe) == {}
        assert await app.get(wire.Unregister) == {}
        assert list(await app.get(wire.Register, name="y", app_class="cached")) == registration
