"""The fake lmkd: conforming to a program, and helpful to the test that holds it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from importlib import import_module
from pathlib import Path

import lmkd_client
import pytest
from lmkd_client import Backoff, Notice, RequestRefused
from lmkd_client.testing import Answered, FakeLmkd, NoAnswer, Peer
from lmkd_client.testing.peer import PATIENCE_S
from lmkd_proto import (
    Ack,
    Bye,
    Error,
    FrameReader,
    Hello,
    Killed,
    KillWarning,
    Ok,
    Pressure,
    Register,
    Simulate,
    Status,
    Subscribe,
    Welcome,
    decode,
    encode,
    encode_frame,
)

from .shells import SHELLS, Shell

MIB = 1 << 20

each_shell = pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell.name)


class Line:
    """A connection to the fake, message by message and byte by byte."""

    def __init__(self, path: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(PATIENCE_S)
        self._sock.connect(path)
        self._reader = FrameReader()

    def ask(self, *messages: object) -> None:
        self.send(b"".join(encode(message) for message in messages))  # type: ignore[arg-type]

    def send(self, frames: bytes) -> None:
        self._sock.sendall(frames)

    def hear(self) -> object:
        """Return the next message; None at the end."""
        while (payload := self._reader.next_frame()) is None:
            chunk = self._sock.recv(65536)
            if not chunk:
                return None
            self._reader.feed(chunk)
        return decode(payload)

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def line(lmkd: FakeLmkd):  # type: ignore[no-untyped-def]
    line = Line(lmkd.path)
    yield line
    line.close()


def test_replies_come_once_and_in_order_and_a_mistake_costs_one_error(line: Line) -> None:
    line.ask(Status(5))
    line.send(encode_frame(b"\xc1"))
    line.ask(Hello(6, 1, "by hand"), Status(7), Hello(8, 1))
    line.send(encode_frame(b"\x82\xa4type\xa5dance\xa2id\x09"))
    line.ask(Ack(10, 1, "done"), Simulate(11, "low", "all"))
    said = [line.hear() for _ in range(8)]
    assert [type(message) for message in said] == [Error, Error, Welcome, Ok, *[Error] * 4]
    codes = [message.code for message in said if isinstance(message, Error)]
    assert codes == [
        *("hello_first", "malformed", "hello_twice", "unknown_type"),
        *("not_registered", "forbidden"),
    ]
    assert [message.id for message in said[2:]] == [6, 7, 8, 9, 10, 11]  # type: ignore[attr-defined]


def test_a_frame_that_is_too_long_ends_the_connection_after_one_error(line: Line) -> None:
    line.ask(Hello(1, 1))
    line.send(b"\xff\xff\xff\xff")
    assert isinstance(line.hear(), Welcome)
    error = line.hear()
    assert isinstance(error, Error)
    assert (error.id, error.code) == (None, "frame_too_long")
    assert line.hear() is None


def test_acks_are_for_notices_that_were_given(lmkd: FakeLmkd, line: Line) -> None:
    line.ask(Hello(1, 1), Register(2, "by hand", "background", MIB))
    assert isinstance(line.hear(), Welcome)
    line.hear()
    first, second = lmkd.tell("low", 7), lmkd.tell("medium")
    assert [line.hear(), line.hear()] == [first, second]
    assert (first.target_bytes, second.target_bytes) == (7, MIB)
    line.ask(Ack(3, second.notice + 1, "done"), Ack(4, first.notice, "nothing"))
    refused, earlier = line.hear(), line.hear()
    assert isinstance(refused, Error)
    assert refused.code == "unknown_notice"
    assert isinstance(earlier, Ok)
    # `working` gives the grace of the class more, once.
    line.ask(*[Ack(number, second.notice, "working") for number in (5, 6)])
    for _ in range(2):
        reply = line.hear()
        assert isinstance(reply, Ok)
        left_ms = reply.result["deadline_ms"]
        assert isinstance(left_ms, int)
        assert 0 <= left_ms <= 5000 + 3000
    (conversation,) = lmkd._conversations
    assert conversation.told[second.notice].due_ms == 5000 + 3000
    line.ask(Ack(7, second.notice, "done", 99))
    answered = lmkd.wait_answer(second)
    assert (answered.answer, answered.freed_bytes, answered.said_working) == ("done", 99, True)


@each_shell
def test_a_program_sees_what_it_would_see_of_lmkd(shell: Shell, lmkd: FakeLmkd) -> None:
    async def scenario(shell: Shell) -> None:
        async with shell.connect(lmkd.path, backoff=Backoff(2, 8)) as client:
            assert client.welcome.controller is False
            levels = await client.subscribe()
            own = await client.subscribe("own")
            assert (await anext(levels)).level == "normal"
            assert (own.domain, (await anext(own)).domain) == ("/own", "/own")
            app = await client.register("a test", "service", MIB, "cgroup")
            assert (app.grant.app_class, app.grant.unit, app.grant.grace_ms) == (
                *("service", "process"),
                5000,
            )
            lmkd.pressure("low")
            assert (await anext(levels)).level == "low"
            told = lmkd.tell("critical", reason="because")
            heard = await anext(app.notices())
            assert heard == told
            assert await app.ack(heard, "done", 7)
            assert lmkd.wait_answer(told).freed_bytes == 7
            assert (await anext(levels)).reason == "because"
            assert (await app.update(sheddable_bytes=5, app_class="cached")).grace_ms == 1000
            (row,) = (await client.status())["apps"]
            assert (row["name"], row["class"]) == ("a test", "cached")
            assert lmkd.apps[0].sheddable_bytes == 5
            await client.simulate("medium", duration_ms=600_000)
            with pytest.raises(RequestRefused, match="busy"):
                await client.simulate("low")
            with pytest.raises(RequestRefused, match="unknown_process"):
                await client.explain(1)
            with pytest.raises(RequestRefused, match="unknown_episode"):
                await client.history(3)
            with pytest.raises(RequestRefused, match="forbidden"):
                await client.reload()
            assert (await client.rules())["rules"] == []
            assert (await client.processes())["processes"] == []
            assert (await client.history())["episodes"] == []
            await app.unregister()
            assert lmkd.apps == ()
            again = await client.register("again", "cached")
            # L-4: who registers while the level is above normal is told.
            assert (await anext(again.notices())).level == "critical"
            lmkd.restart()
            while (await anext(levels)).level != "normal":
                pass
            (row,) = (await client.status())["apps"]
            assert row["name"] == "again"

    shell.run(scenario)


def test_a_warning_of_the_end_any_push_and_garbage_are_said_as_the_test_wants(
    lmkd: FakeLmkd, line: Line
) -> None:
    killed = Killed("system", 4, "leak", "cached", "a test", MIB)
    line.ask(Hello(1, 1), Register(2, "by hand", "cached"), Subscribe(3))
    for kind in (Welcome, Ok, Ok, Pressure):
        assert isinstance(line.hear(), kind)
    lmkd.kill_warning(250)
    lmkd.say(killed)
    lmkd.say_bytes(encode(killed)[:9])
    lmkd.say_bytes(encode(killed)[9:])
    assert [line.hear() for _ in range(3)] == [KillWarning("a test", 250), killed, killed]
    lmkd.stop(says_bye=True)
    assert isinstance(line.hear(), Bye)
    assert line.hear() is None
    assert not Path(lmkd.path).exists()


def test_of_several_programs_the_one_that_is_named_is_told(lmkd: FakeLmkd) -> None:
    told: list[str] = []

    def listen(name: str) -> lmkd_client.Listener:
        def shed(notice: Notice) -> int:
            told.append(name)
            return 1

        return lmkd_client.on_pressure(shed, name=name, app_class="service", sheddable_bytes=9)

    listeners = [listen(name) for name in ("first", "second")]
    try:
        for name in ("first", "second"):
            lmkd.wait_app(name)
        for name in ("second", "first"):
            assert lmkd.notice(app=name).freed_bytes == 1
        assert told == ["second", "first"]
        with pytest.raises(ValueError, match=r"app: there are 2, .*; which one is meant\?"):
            lmkd.notice()
    finally:
        for listener in listeners:
            listener.close()


# --- what it says when a program does not do what was waited for -----------------------------------------


def test_nobody_there_is_told_apart_from_somebody_who_does_not_register(lmkd: FakeLmkd) -> None:
    with pytest.raises(NoAnswer, match=r"within 0 s .*: nobody is connected; .*LMKD_SOCKET"):
        lmkd.wait_app(timeout_s=0)
    with lmkd_client.connect() as client:
        with pytest.raises(NoAnswer, match="1 connected, and did not register"):
            lmkd.wait_app(timeout_s=0)
        client.register("mine", "cached")
        with pytest.raises(NoAnswer, match=r"no program 'yours' registered .*: registered: mine"):
            lmkd.wait_app("yours", timeout_s=0)


def test_a_program_that_is_late_fails_with_what_it_said(lmkd: FakeLmkd) -> None:
    with lmkd_client.connect() as client:
        app = client.register("mine", "cached")
        with pytest.raises(
            NoAnswer,
            match=r"did not answer notice 1 \(critical, 64 bytes\) within 20 ms; it said nothing",
        ):
            lmkd.notice("critical", 64, 20)
        told = lmkd.tell("critical", 65, 600_000)
        assert app.ack(next(app.notices()), "working", 5)
        client.close()
        with pytest.raises(
            NoAnswer,
            match=r"left before it answered notice 2 \(critical, 65 bytes\); it said working with 5",
        ):
            lmkd.wait_answer(told)


def test_what_is_asked_of_the_fake_and_cannot_be_is_refused(lmkd: FakeLmkd) -> None:
    with pytest.raises(ValueError, match="level: normal asks for nothing"):
        lmkd.notice("normal")
    with pytest.raises(ValueError, match="notice 3 was not said"):
        lmkd.wait_answer(Notice(3, "system", "low", 0, 0, "of another fake"))


def test_an_answer_that_has_come_is_given_at_once_however_late_it_is_asked_for(
    lmkd: FakeLmkd,
) -> None:
    listener = lmkd_client.on_pressure(lambda notice: 4, name="mine", sheddable_bytes=9)
    try:
        answered = lmkd.notice("low", deadline_ms=60_000)
        assert isinstance(answered, Answered)
        assert answered == lmkd.wait_answer(answered.notice)
        assert 0 <= answered.after_ms < 60_000
    finally:
        listener.close()


def test_who_does_not_read_is_hung_up_on_and_holds_up_nobody() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.01)
        peer = Peer(ours)
        peer.say_anyway(bytes(1 << 22))  # more than the two hold between them
        peer.say_anyway(b"more")  # at once: nobody is there
        assert peer.hear() is None
        while theirs.recv(1 << 16):
            pass


# --- the fixture -----------------------------------------------------------------------------------------


def test_another_process_finds_it(lmkd: FakeLmkd) -> None:
    code = (
        "import lmkd_client, signal\n"
        "lmkd_client.on_pressure(lambda notice: 5, name='child', sheddable_bytes=9)\n"
        "signal.sigwait([signal.SIGTERM])\n"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as child:
        try:
            assert lmkd.notice(app="child").freed_bytes == 5
        finally:
            child.send_signal(signal.SIGKILL)


def test_a_path_that_is_too_long_for_a_socket_is_replaced(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    test = tmp_path / "test_it.py"
    test.write_text("def test_it(lmkd):\n    assert len(lmkd.path) < 107\n    lmkd.restart()\n")
    base = tmp_path / ("x" * 120)
    ran = run_pytest(test, "--basetemp", str(base))
    assert ran.returncode == 0, ran.stdout


def test_pytest_loads_it_without_loading_the_client(tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(
        "import sys\n"
        "def test_before():\n    assert 'lmkd_proto' not in sys.modules\n"
        "def test_it(lmkd):\n    assert lmkd.level == 'normal'\n"
    )
    ran = run_pytest(test)
    assert ran.returncode == 0, ran.stdout
    assert "2 passed" in ran.stdout


def test_it_is_declared_where_pytest_looks_for_it() -> None:
    text = (Path(__file__).parents[2] / "clients/python/pyproject.toml").read_text()
    (name,) = tomllib.loads(text)["project"]["entry-points"]["pytest11"].values()
    assert hasattr(import_module(name), "lmkd")


def run_pytest(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run pytest with this plugin alone, as one who has lmkd-client installed would."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "lmkd_client.pytest_plugin"]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", *map(str, arguments)],
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=Path(str(arguments[0])).parent,
        capture_output=True,
        text=True,
    )


def test_threads_of_the_fake_end_with_it(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with FakeLmkd(str(tmp_path / "socket")) as lmkd, lmkd_client.connect(lmkd.path) as client:
        client.register("mine", "cached")
        client.simulate("low", duration_ms=600_000)
        lmkd.restart()
    lmkd.stop()  # again: nothing left to do
    assert set(threading.enumerate()) == before
