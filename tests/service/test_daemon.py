"""The daemon as a whole: signals, reload, leaving, coming back, and what it writes on programs."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import lmkd_proto as wire
import pytest
import trio
from trio.testing import MockClock

from lmkd.config import Config, ConfigError, Mistake
from lmkd.kernel.simulated import SimulatedKernel
from lmkd.model import SYSTEM_DOMAIN, Level
from lmkd.service import parts
from lmkd.service.server import Server

from .house import MIB, House, running

CRITICAL_KIB = 20 * MIB
CACHED_900_TO_950 = "[classes.cached]\noom_score_adj = 950\n"


def adj_of(house: House, pid: int) -> int:
    process = house.kernel.process(pid)
    assert process is not None
    return process.oom_score_adj


# --- signals -------------------------------------------------------------------------------------------


async def test_sighup_reads_the_configuration_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        app = await house.run_app("cache", "cached", 10)
        assert adj_of(house, app.pid) == 900
        (tmp_path / "over.toml").write_text(
            CACHED_900_TO_950 + '[[domain]]\ncgroup = "/box"\nkill = false\n'
        )
        house.kernel.add_cgroup("/box", max_kib=100 * MIB)
        os.kill(os.getpid(), signal.SIGHUP)
        await trio.sleep(0.5)
        assert adj_of(house, app.pid) == 950, "a class that changed is projected anew"
        status = await app.get(wire.Status)
        assert status["reload_problem"] is None
        assert [row["domain"] for row in status["domains"]] == [SYSTEM_DOMAIN, "/box"]
        app.close()
        await trio.sleep(0.5)
        assert adj_of(house, app.pid) == 0, "what was there before is still known"


async def test_a_bad_configuration_leaves_the_running_one_in_place(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as house:
        app = await house.run_app("cache", "cached", 10)
        (tmp_path / "over.toml").write_text("[classes.cached]\ngrace = 1\n")
        os.kill(os.getpid(), signal.SIGHUP)
        await trio.sleep(0.5)
        problem = (await app.get(wire.Status))["reload_problem"]
        assert isinstance(problem, str)
        assert "over.toml:2:9: classes.cached.grace" in problem
        assert problem in caplog.text
        assert (await app.get(wire.Update, name="still here"))["grace_ms"] == 1000
        (tmp_path / "over.toml").write_text("")
        os.kill(os.getpid(), signal.SIGHUP)
        await trio.sleep(0.5)
        assert (await app.get(wire.Status))["reload_problem"] is None


async def test_what_a_reload_cannot_change_is_said_and_stays(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    socket, state = str(tmp_path / "socket"), str(tmp_path / "state")
    before = f'[service]\nhistory_episodes = 7\nsocket = "{socket}"\nstate_dir = "{state}"\n'
    after = '[service]\nhistory_episodes = 8\nsocket = "/else"\nstate_dir = "/elsewhere"\n'
    expected = [
        "service.history_episodes is 8 in the configuration now: that takes a restart; until then it stays 7",
        f"service.socket is /else in the configuration now: that takes a restart; until then it stays {socket}",
        f"service.state_dir is /elsewhere in the configuration now: that takes a restart; until then it stays {state}",
    ]
    async with running(tmp_path, text=before, state_dir=state) as house:
        root = await house.connect(uid=0)
        await root.get(wire.Reload)
        assert "restart" not in caplog.text
        (tmp_path / "over.toml").write_text(after)
        await root.get(wire.Reload)
        assert [line for line in caplog.messages if "restart" in line] == expected
        assert isinstance(await (await house.connect()).ask(wire.Status), wire.Ok)
        caplog.clear()
        (tmp_path / "over.toml").write_text(before)
        await root.get(wire.Reload)
        assert "restart" not in caplog.text


async def test_what_was_given_instead_of_the_configuration_is_not_said_to_need_a_restart(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, state_dir=str(tmp_path / "state")) as house:
        (tmp_path / "over.toml").write_text('[service]\nsocket = "/else"\nstate_dir = "/there"\n')
        await (await house.connect(uid=0)).get(wire.Reload)
        assert "restart" not in caplog.text


async def test_a_configuration_of_a_thousand_mistakes_can_still_be_asked_about(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    def load() -> Config:
        raise ConfigError([Mistake("lmkd.toml", line, "key", "x" * 90) for line in range(1000)])

    async with running(tmp_path, load=load) as house:
        peer = await house.connect(uid=0)
        assert await peer.refusal(wire.Reload) == "failed"
        assert (await peer.get(wire.Status))["reload_problem"]


async def test_sighup_right_after_ready_is_a_reload_and_not_the_end(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    handler = signal.getsignal(signal.SIGHUP)

    def prepare(_kernel: object) -> None:
        assert signal.getsignal(signal.SIGHUP) is not handler

    async with running(tmp_path, prepare=prepare) as house:
        assert not house.left.is_set()


# --- after a crowd -------------------------------------------------------------------------------------


async def test_what_a_crowd_made_us_hold_is_given_back_once_and_in_calm(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back: list[float] = []
    monkeypatch.setattr(
        parts, "return_freed_memory", lambda: given_back.append(trio.current_time())
    )
    async with running(tmp_path) as house:
        crowd = [await house.connect() for _ in range(parts.CROWD)]
        await trio.sleep(10)
        assert not given_back, "they are still there"
        house.kernel.set_available(CRITICAL_KIB)
        await trio.sleep(5)
        for peer in crowd:
            peer.close()
        await trio.sleep(5)
        assert not given_back, "an episode comes first"
        house.kernel.set_available(900 * MIB)
        await trio.sleep(120)
        assert len(given_back) == 1


# --- leaving -------------------------------------------------------------------------------------------


async def test_everybody_hears_bye_and_the_socket_goes(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        greeted = await house.connect()
        silent = await house.connect(hello=False)
        await trio.sleep(0.1)
        await house.leave()
        for peer in (greeted, silent):
            await peer.hear(wire.Bye)
            await peer.hear_end()
        assert not (tmp_path / "socket").exists()


async def test_leaving_in_an_episode_does_not_say_that_all_is_well(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    state_dir = str(tmp_path / "state")
    async with running(tmp_path, state_dir=state_dir) as house:
        watcher = await house.connect()
        await watcher.get(wire.Subscribe)
        house.kernel.set_available(CRITICAL_KIB)
        await watcher.hear_level(Level.CRITICAL)
        await house.leave()
        await watcher.hear_end()
        assert isinstance(watcher.heard[-1], wire.Bye)
        assert isinstance(watcher.heard[-2], wire.Pressure)
        assert watcher.heard[-2].level == "critical"
    async with running(tmp_path, state_dir=state_dir) as house:
        (episode,) = (await (await house.connect()).get(wire.History))["episodes"]
        assert (episode["peak"], episode["closed"]) == ("critical", False)


async def test_the_socket_goes_before_it_stops_answering(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else another daemon could take it for stale and put its own in its place, and we would remove that one."""
    there_at_bye: list[bool] = []
    say_bye = Server.say_bye

    def look_and_say_bye(server: Server, reason: str) -> None:
        there_at_bye.append((tmp_path / "socket").exists())
        say_bye(server, reason)

    monkeypatch.setattr(Server, "say_bye", look_and_say_bye)
    async with running(tmp_path):
        assert (tmp_path / "socket").exists()
    assert there_at_bye == [False]


async def test_a_socket_that_another_daemon_has_put_in_our_place_is_left_alone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as house:
        (tmp_path / "socket").rename(tmp_path / "ours")
        (tmp_path / "socket").touch()
        await house.leave()
    assert (tmp_path / "socket").exists()


# --- history and oom_score_adj over a restart ------------------------------------------------------------


async def test_history_survives_a_restart_and_numbers_go_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    state_dir = str(tmp_path / "state")
    for number in (1, 2):
        async with running(tmp_path, state_dir=state_dir) as house:
            watcher = await house.connect()
            await watcher.get(wire.Subscribe)
            await watcher.hear_level(Level.NORMAL)
            house.kernel.set_available(CRITICAL_KIB)
            await watcher.hear_level(Level.CRITICAL)
            house.kernel.set_available(300 * MIB)
            await watcher.hear_level(Level.NORMAL)
            rows = (await watcher.get(wire.History))["episodes"]
            assert [row["episode"] for row in rows] == list(range(number, 0, -1))
            records = (await watcher.get(wire.History, episode=1))["records"]
            assert records[0]["kind"] == "opened"


@pytest.mark.parametrize("how", ["unregister", "disconnect", "leave"])
async def test_what_was_there_before_is_put_back(
    tmp_path: Path, autojump_clock: MockClock, how: str
) -> None:
    async with running(tmp_path, state_dir=str(tmp_path / "state")) as house:
        app = await house.run_app("cache", "cached", 10, oom_score_adj=37)
        assert adj_of(house, app.pid) == 900
        if how == "unregister":
            await app.get(wire.Unregister)
        elif how == "disconnect":
            app.close()
            await trio.sleep(0.1)
        else:
            await house.leave()
        assert adj_of(house, app.pid) == 37
    assert (tmp_path / "state" / "projected").read_text() == ""


class LendingKernel(SimulatedKernel):
    """Writes only what is lent to it, as the kernel of a demonstration does."""

    def __init__(self) -> None:
        super().__init__()
        self.lent: set[tuple[int, int]] = set()

    def set_oom_score_adj(self, pid: int, start_ticks: int, value: int) -> bool:
        return (pid, start_ticks) in self.lent and super().set_oom_score_adj(
            pid, start_ticks, value
        )


async def test_what_was_there_before_is_put_back_while_the_program_is_still_lent(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = LendingKernel()
    async with running(tmp_path, kernel, registered=kernel.lent) as house:
        app = await house.run_app("cache", "cached", 10, oom_score_adj=37)
        assert adj_of(house, app.pid) == 900
        await app.get(wire.Unregister)
        assert adj_of(house, app.pid) == 37
        assert kernel.lent == set()


async def test_what_was_there_before_is_known_after_a_second_registration(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A program that comes back over a new connection does not make our own projection its original."""
    async with running(tmp_path) as house:
        app = await house.run_app("cache", "cached", 10, oom_score_adj=37)
        again = await house.connect(app.pid)
        await again.get(wire.Register, name="cache", app_class="cached")
        assert adj_of(house, app.pid) == 900
        assert await app.refusal(wire.Update, name="late") == "not_registered"
        again.close()
        await trio.sleep(0.1)
        assert adj_of(house, app.pid) == 37


async def test_a_restart_after_sigkill_makes_oom_score_adj_true_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    state = tmp_path / "state"
    kernel = SimulatedKernel()
    async with running(tmp_path, kernel, state_dir=str(state)) as house:
        back = await house.run_app("back", "cached", 10, oom_score_adj=37)
        lost = await house.run_app("lost", "background", 10)
        left_behind = (state / "projected").read_bytes()
    # As SIGKILL would have left it:
    (state / "projected").write_bytes(left_behind)
    for pid, projected in ((back.pid, 900), (lost.pid, 700)):
        process = kernel.process(pid)
        assert process is not None
        kernel.set_oom_score_adj(pid, process.start_ticks, projected)
    async with running(tmp_path, kernel, state_dir=str(state)) as house:
        assert adj_of(house, lost.pid) == 0, "who does not come back is what it was"
        again = await house.connect(back.pid)
        await again.get(wire.Register, name="back", app_class="cached")
        assert adj_of(house, back.pid) == 900
    assert adj_of(house, back.pid) == 37


async def test_a_state_directory_that_cannot_be_is_said_and_lived_without(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    caplog.set_level(logging.WARNING, "lmkd")
    async with running(tmp_path, state_dir=str(tmp_path / "file" / "state")) as house:
        await house.run_app("cache", "cached", 10)
        assert "it is kept in memory only" in caplog.text
        assert (await house.peers[0].get(wire.History))["episodes"] == []
