"""Desktop notices on a real bus: what a server is asked to show, and what is said where there is none.

The last tests are a whole `lmkd --session` on simulated memory, in which a program is really ended.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
from lmkd_client import blocking

from lmkd.config import Interop, load_config
from lmkd.interop import bus as bus_module
from lmkd.interop import desktop_notices
from lmkd.interop.desktop_entries import Entries
from lmkd.interop.desktop_notices import CRITICAL, NAME, NORMAL, DesktopNotices
from lmkd.kernel.simulated import SimulatedKernel
from lmkd.model import SYSTEM_DOMAIN, AppClass, Signal, Unit, Victim
from lmkd.policy.actions import Record, ReportKilled, SendSignal
from lmkd.service.bridges import Grounds, open_bridges

from ..conftest import RealDaemon
from ..program import Program
from .bus_of_its_own import SYSTEM_PYTHON, MessageBus, message_bus, need_mock
from .desktop import ANYBODY, NoticeServer, until

HERE = Path(__file__).parent
FULL = "37.1 MiB of 8192.0 MiB available"
APPS = "/user.slice/user-1000.slice/user@1000.service/app.slice"
NO_SERVER = f"nothing on the session's bus shows notices ({NAME})"


@pytest.fixture
def session_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MessageBus]:
    """A bus where anybody may own anything."""
    folder = tmp_path / "bus"
    folder.mkdir()
    with message_bus(folder, ANYBODY) as made:
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", made.address)
        yield made


def victim(pid: int = 10, name: str = "notes", cgroup: str = "/") -> Victim:
    foreground = AppClass.FOREGROUND
    return Victim(pid, pid, name, foreground, "a rule", 1_258_291, Unit.PROCESS, cgroup)


def term(of: Victim) -> SendSignal:
    return SendSignal(SYSTEM_DOMAIN, of.pid, of, Signal.TERM, FULL, 5_000_000)


def ended(of: Victim) -> ReportKilled:
    return ReportKilled(SYSTEM_DOMAIN, of, FULL, of.size_kib)


@dataclass
class Desktop:
    """A bridge, and what is on its bus."""

    bridge: DesktopNotices
    server: NoticeServer
    nursery: trio.Nursery
    later_s: float = 0.0
    """By how much its clock is put forward."""

    async def shown(self, count: int) -> None:
        await until(lambda: len(self.server.shown) >= count)

    async def answered(self) -> None:
        """Return once the bridge has the server's answer to what it said last."""
        await until(lambda: self.bridge._said[1] is not None)


@asynccontextmanager
async def desktop(
    bus: MessageBus,
    folder: Path,
    *,
    has_server: bool = True,
    do: Callable[[Callable[[], object]], None] = lambda work: work(),
) -> AsyncIterator[Desktop]:
    """Run a bridge and, unless that is not wanted, a server of notices beside it."""
    async with trio.open_nursery() as nursery:
        server = NoticeServer(bus.address)
        if has_server:
            await nursery.start(server.run)
        place: Desktop

        def now_s() -> float:
            return trio.current_time() + place.later_s

        bridge = DesktopNotices(bus.address, Entries([folder]), do, lambda pid: None, now_s)
        place = Desktop(bridge, server, nursery)
        nursery.start_soon(bridge.run)
        yield place
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for seconds waits for as many hundredths."""
    monkeypatch.setattr(desktop_notices, "REST_S", 0.01)
    monkeypatch.setattr(desktop_notices, "AGAIN_S", 0.1)
    monkeypatch.setattr(bus_module, "LOOK_AGAIN_S", 0.1)


# --- what is shown -------------------------------------------------------------------------------------------------


async def test_a_kill_is_shown_before_and_the_same_notice_is_replaced_after_it(
    session_bus: MessageBus, tmp_path: Path
) -> None:
    async with desktop(session_bus, tmp_path) as place:
        place.bridge.take(term(victim()))
        await place.shown(1)
        place.bridge.take(ended(victim()))
        await place.shown(2)
    before, after = place.server.shown
    assert (before.app_name, before.icon) == ("Memory", "dialog-warning")
    assert before.summary == "notes is being closed"
    assert before.body == (
        "Memory is nearly full (37 MiB of 8 GiB left). notes holds 1.2 GiB. It has 5 seconds to save."
    )
    assert before.hints == {
        "urgency": ("y", CRITICAL),
        "category": ("s", "x-lmkd.memory"),
        "transient": ("b", True),
    }
    assert before.replaces == 0
    assert before.expire_ms == 15_000
    assert after.summary == "notes was closed"
    assert after.body == (
        "Memory was nearly full (37 MiB of 8 GiB left). notes gave back 1.2 GiB."
        " What it had not saved is lost."
    )
    assert (after.urgency, after.hints["transient"]) == (NORMAL, ("b", False))
    assert after.replaces == before.notice
    assert after.expire_ms == -1


@pytest.mark.parametrize(
    ("capabilities", "name"),
    [(("body", "body-markup"), "&lt;b&gt;R&amp;D&lt;/b&gt;"), (("body",), "<b>R&D</b>")],
)
async def test_a_name_is_no_markup_whether_the_server_reads_markup_or_not(
    session_bus: MessageBus, tmp_path: Path, capabilities: tuple[str, ...], name: str
) -> None:
    (tmp_path / "evil.desktop").write_text("[Desktop Entry]\nName=<b>R&D</b>\nIcon=evil\n")
    async with desktop(session_bus, tmp_path) as place:
        place.server.capabilities = capabilities
        place.bridge.take(term(victim(cgroup=f"{APPS}/app-evil-1.scope")))
        await place.shown(1)
    (shown,) = place.server.shown
    assert f" {name} holds 1.2 GiB." in shown.body
    assert shown.summary == "<b>R&D</b> is being closed", "a summary is never markup"
    assert shown.icon == "evil"


async def test_a_kill_that_fails_before_the_signal_is_taken_back(
    session_bus: MessageBus, tmp_path: Path
) -> None:
    async with desktop(session_bus, tmp_path) as place:
        place.bridge.take(term(victim()))
        await place.shown(1)
        place.bridge.take(Record(1, SYSTEM_DOMAIN, 0, "failed", {"kill": 10, "reason": ""}))
        await until(lambda: place.server.closed)
        assert place.server.closed == [place.server.shown[0].notice]
        place.bridge.take(term(victim(11, "other")))
        await place.shown(2)
    assert place.server.shown[1].replaces == 0


async def test_what_happens_while_the_server_thinks_is_one_notice_the_latest(
    session_bus: MessageBus, tmp_path: Path
) -> None:
    """Fifty kills are no fifty notices, and nothing is said of a stage that is over."""
    async with desktop(session_bus, tmp_path) as place:
        place.bridge.take(term(victim(1, "first")))
        await place.shown(1)
        for pid in range(2, 51):
            place.bridge.take(term(victim(pid, f"app{pid}")))
            place.bridge.take(ended(victim(pid, f"app{pid}")))
        place.bridge.take(ended(victim(1, "first")))
        await place.shown(2)
        await trio.sleep(0.05)
        assert place.server.shown[1].summary == "50 programs were closed"
        assert len(place.server.shown) == 2
        place.later_s = 60
        place.bridge.take(term(victim(51, "much later")))
        await place.shown(3)
    assert place.server.shown[1].replaces == place.server.shown[0].notice
    assert place.server.shown[2].replaces == 0


async def test_an_application_that_was_installed_since_has_its_name(
    session_bus: MessageBus, tmp_path: Path
) -> None:
    async with desktop(session_bus, tmp_path) as place:
        await until(lambda: "shown by" in place.bridge.standing)
        (tmp_path / "new.desktop").write_text("[Desktop Entry]\nName=Novelty\n")
        place.bridge.take(term(victim(cgroup=f"{APPS}/app-new-1.scope")))
        await place.shown(1)
    assert place.server.shown[0].summary == "Novelty is being closed"


async def test_a_disk_that_does_not_answer_holds_up_no_notice(
    session_bus: MessageBus, tmp_path: Path
) -> None:
    stuck: list[Callable[[], object]] = []
    async with desktop(session_bus, tmp_path, do=stuck.append) as place:
        place.bridge.take(term(victim(cgroup=f"{APPS}/app-new-1.scope")))
        await place.shown(1)
        for work in stuck:
            work()
    assert place.server.shown[0].summary == "notes is being closed"
    for work in stuck:
        work()  # what comes after all has ended finds nobody, and fails nowhere


# --- without a server ----------------------------------------------------------------------------------------------


async def test_without_a_server_that_is_said_once_and_what_is_still_news_is_said_when_one_comes(
    session_bus: MessageBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with desktop(session_bus, tmp_path, has_server=False) as place:
        await until(lambda: place.bridge.standing == NO_SERVER)
        place.bridge.take(term(victim()))
        place.bridge.take(ended(victim()))
        await trio.sleep(0.3)  # it has tried again by now
        assert place.bridge.standing == NO_SERVER
        assert caplog.text.count("shows notices") == 1
        await place.nursery.start(place.server.run)
        await place.shown(1)
        assert "shown by" in place.bridge.standing
        await trio.sleep(0.05)
    assert [each.summary for each in place.server.shown] == ["notes was closed"]


async def test_old_news_are_not_told_to_a_server_that_comes(
    session_bus: MessageBus, tmp_path: Path
) -> None:
    async with desktop(session_bus, tmp_path, has_server=False) as place:
        place.bridge.take(ended(victim()))
        await until(lambda: place.bridge.standing == NO_SERVER)
        place.later_s = desktop_notices.STALE_S + 1
        await place.nursery.start(place.server.run)
        await until(lambda: "shown by" in place.bridge.standing)
        await trio.sleep(0.05)
        assert place.server.shown == []
        place.bridge.take(ended(victim(11, "other")))
        await place.shown(1)
    assert [each.summary for each in place.server.shown] == ["other was closed"]


async def test_a_server_that_comes_in_the_place_of_another_has_no_notice_to_replace(
    session_bus: MessageBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lmkd")
    async with desktop(session_bus, tmp_path) as place:
        place.bridge.take(term(victim()))
        await place.shown(1)
        await place.answered()
        place.server.leave()
        await until(lambda: "has left" in place.bridge.standing)
        other = NoticeServer(session_bus.address)
        await place.nursery.start(other.run)
        await until(lambda: "shown by" in place.bridge.standing)
        assert other.shown == [], "that has been said"
        place.bridge.take(ended(victim()))
        await until(lambda: other.shown)
    assert (other.shown[0].summary, other.shown[0].replaces) == ("notes was closed", 0)


async def test_a_server_that_refuses_or_is_silent_is_said_once_and_asked_again(
    session_bus: MessageBus,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bus_module, "PATIENCE_S", 0.2)
    async with desktop(session_bus, tmp_path) as place:
        place.server.refuses = True
        place.bridge.take(term(victim()))
        await until(lambda: place.server.asked >= 3)
        assert caplog.text.count("ExcessNotificationGeneration") == 1
        place.server.refuses, place.server.answers, place.server.asked = False, False, 0
        await until(lambda: place.server.asked >= 3)
        assert caplog.text.count("no answer for 0.2 s") == 1
        place.bridge.take(ended(victim()))
        place.server.answers = True
        await place.shown(1)
    assert place.server.shown[0].summary == "notes was closed"


async def test_a_server_that_answers_nonsense_is_asked_again_and_ends_nothing(
    session_bus: MessageBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with desktop(session_bus, tmp_path) as place:
        place.server.is_sane = False
        place.bridge.take(term(victim()))
        await until(lambda: place.server.asked >= 3)
        assert caplog.text.count("does not answer as it should") == 1
        place.server.is_sane = True
        await place.shown(1)
    assert place.server.shown[0].summary == "notes is being closed"


async def test_a_bus_that_is_started_anew_is_found_again(
    session_bus: MessageBus, tmp_path: Path
) -> None:
    async with desktop(session_bus, tmp_path) as place:
        place.bridge.take(term(victim()))
        await place.shown(1)
        await place.answered()
        session_bus.end()
        await until(lambda: "the bus" in place.bridge.standing)
        session_bus.start()
        other = NoticeServer(session_bus.address)
        await place.nursery.start(other.run)
        place.bridge.take(ended(victim()))
        await until(lambda: other.shown)
    assert (other.shown[0].summary, other.shown[0].replaces) == ("notes was closed", 0)


# --- what is missing -----------------------------------------------------------------------------------------------


def lacking(*, is_session: bool = True) -> list[str]:
    config = replace(load_config([]), interop=Interop(desktop_notices=True))
    grounds = Grounds(
        config,
        SimulatedKernel(),
        "/run/lmkd/socket",
        is_session=is_session,
        feed=lambda event: None,
        hook_folder="/nowhere",
        do=lambda work: None,
        parent_of=lambda pid: None,
    )
    return open_bridges(grounds).describe()


def test_what_it_takes_is_named_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    no_bus = (
        "desktop_notices: there is no session bus: $DBUS_SESSION_BUS_ADDRESS is not set,"
        " nor is there a $XDG_RUNTIME_DIR/bus"
    )
    assert lacking() == [no_bus]
    assert lacking(is_session=False) == [
        "desktop_notices: a desktop is one user's: it takes `lmkd --session`"
    ]
    assert no_bus.replace("desktop_notices", "interop.desktop_notices") in caplog.text
    (tmp_path / "bus").touch()
    assert lacking() == ["desktop_notices: not on the session's bus yet"]
    monkeypatch.setitem(sys.modules, "lmkd.interop.desktop_notices", None)
    assert lacking() == [
        "desktop_notices: it takes jeepney, which is not installed: pip install 'lmkd[dbus]'"
    ]


# --- a whole session -----------------------------------------------------------------------------------------------

UNHURRIED = "[classes.foreground]\ngrace = '500ms'\n[floor.emergency]\nenter = '0.1%'\n"
"""So that what was filled a moment ago is no emergency any more, in which there is no time."""
SWITCHED_ON = f"[interop]\ndesktop_notices = true\n{UNHURRIED}"
FILLER = "[Desktop Entry]\nType=Application\nName=Filler\nName[de]=Füllstand\nIcon=filler\n"


@pytest.fixture
def mock_server(session_bus: MessageBus) -> Iterator[Program]:
    """python-dbusmock's server of notices, which is not ours; it prints each call."""
    need_mock()
    template = ("-m", "dbusmock", "--session", "--template", "notification_daemon")
    with Program(SYSTEM_PYTHON, *template) as server:
        yield server


def expect_notice(server: Program) -> list[object]:
    """Return the arguments of the next Notify, as dbusmock prints them."""
    found = server.expect(r"[\d.]+ (\w+)(.*)")
    while found[1] != "Notify":
        found = server.expect(r"[\d.]+ (\w+)(.*)")
    text, decoder = (
        re.sub(r"\b(True|False)\b", lambda word: word[0].lower(), found[2]),
        json.JSONDecoder(),
    )
    values: list[object] = []
    while text := text.strip():
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:]
    return values


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a German user, who has the filler among the applications."""
    home = tmp_path / "home"
    (home / "share/applications").mkdir(parents=True)
    (home / "share/applications/filler.desktop").write_text(FILLER)
    (home / "run").mkdir()
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "share"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.setenv("LC_MESSAGES", "de_DE.UTF-8")
    return home


def run_saver(socket: str) -> Program:
    """Run a program that saves when it is asked to end, and takes its time."""
    saver = Program(sys.executable, HERE / "saver.py", environment={"LMKD_SOCKET": socket})
    saver.expect("ready")
    return saver


@contextmanager
def started(daemon: RealDaemon) -> Iterator[RealDaemon]:
    """Have a daemon run for as long as the block lasts, and end as it should."""
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.end()
    assert "Traceback" not in daemon.wait_logged("left")


def test_a_session_says_before_and_after_what_it_ends(home: Path, mock_server: Program) -> None:
    """The program is registered as foreground, and really ends."""
    with started(RealDaemon(home, "512MiB", SWITCHED_ON, ["--session"])) as daemon:
        daemon.wait_logged("notices are shown by")
        with blocking.connect(daemon.socket) as client:
            shown_by = f"notices are shown by {NAME} on the session's bus"
            assert client.status()["interop"] == [f"desktop_notices: {shown_by}"]
        with run_saver(daemon.socket) as saver:
            saver.ask("485", "holding 485")
            saver.expect("saving")
            before = expect_notice(mock_server)
            saver.tell("saved")
            saver.wait()
            after = expect_notice(mock_server)
    assert before[:4] == ["Memory", 0, "filler", "Füllstand is being closed"]
    assert re.fullmatch(
        r"(Memory is nearly full \(\d+ MiB of 512 MiB left\).*|Programs have to wait for memory)\."
        r" Füllstand holds (49|50)\d MiB\. It has 5 seconds to save\.",
        str(before[4]),
    )
    assert before[6] == {"urgency": CRITICAL, "category": "x-lmkd.memory", "transient": True}
    assert after[:4] == ["Memory", 1, "filler", "Füllstand was closed"]
    assert re.fullmatch(
        r"(Memory was nearly full \(\d+ MiB of 512 MiB left\).*|Programs had to wait for memory)\."
        r" Füllstand gave back (49|50)\d MiB\. What it had not saved is lost\.",
        str(after[4]),
    )
    assert after[6] == {"urgency": NORMAL, "category": "x-lmkd.memory", "transient": False}


def test_a_session_says_what_the_systems_daemon_has_ended_of_its_users(
    home: Path, mock_server: Program
) -> None:
    """The session sees the real machine, and touches nothing in it; the system's daemon has simulated memory."""
    (home / "system").mkdir()
    with started(RealDaemon(home / "system", "512MiB", UNHURRIED)) as system:
        told_only = (
            f"[service]\nsocket = '{system.socket}'\n"
            "[system]\nkill = false\n[policy]\nproject = 'none'\n"
        )
        session = RealDaemon(home, None, SWITCHED_ON + told_only, ["--session"])
        with started(session), run_saver(system.socket) as saver:
            session.wait_logged("the level of the system is that of the lmkd at")
            session.wait_logged("notices are shown by")
            saver.ask("485", "holding 485")
            saver.expect("saving")
            with blocking.connect(session.socket) as client:
                client.explain(saver.pid)  # by now it is on the roll, however births are heard of
            saver.tell("saved")
            saver.wait()
            after = expect_notice(mock_server)
    assert after[:4] == ["Memory", 0, "filler", "Füllstand was closed"]
    assert re.search(r" Füllstand gave back (49|50)\d MiB\. What it had not", str(after[4]))
