"""org.freedesktop.LowMemoryMonitor, on a real bus: what GLib's programs hear, and how it is told apart from the mock.

The warnings come from real episodes on simulated memory: one registered program fills it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmkd_client
import pytest
from jeepney import DBusAddress, HeaderFields, new_method_call

from lmkd.interop.low_memory_monitor import answer_call

from ..conftest import RealDaemon
from ..program import Program
from .bus_of_its_own import (
    ALL_MAY,
    SYSTEM_PYTHON,
    MessageBus,
    message_bus,
    need_command,
    need_mock,
    run_filler,
)
from .listeners import build_glib_monitor

NAME, PATH = "org.freedesktop.LowMemoryMonitor", "/org/freedesktop/LowMemoryMonitor"
SWITCHED_ON = (
    "[interop]\nlow_memory_monitor = true\n[system]\nkill = false\n[timing]\ncalm_hold = '200ms'\n"
)
ON_THE_BUS = f"levels are told on the system bus, as {NAME}"

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="the policy lets root alone own the name")


@pytest.fixture(scope="module")
def glib_monitor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of GLib's, built once."""
    return build_glib_monitor(tmp_path_factory.mktemp("built"))


@pytest.fixture
def daemon(tmp_path: Path, bus: MessageBus) -> Iterator[RealDaemon]:
    """lmkd on 512 MiB, on the bus."""
    made = RealDaemon(tmp_path, "512MiB", SWITCHED_ON)
    made.start()
    try:
        made.wait_logged(ON_THE_BUS)
        yield made
    finally:
        made.end(signal.SIGKILL)


def listening(glib_monitor: Path) -> Program:
    """Start the program of GLib's, and wait until it has found who owns the name."""
    program = Program(glib_monitor)
    program.expect("listening by GMemoryMonitorDBus", rf"{NAME} is owned by :.*")
    return program


@needs_root
def test_a_program_of_glibs_hears_low_medium_critical_and_the_end_of_a_real_episode(
    daemon: RealDaemon, glib_monitor: Path
) -> None:
    """Levels that only fall a step are not said: each warning has programs shed."""
    with listening(glib_monitor) as program, run_filler(daemon.socket) as filler:
        for hold_mib, warning in ((446, 50), (468, 100), (482, 255), (100, 0)):
            filler.ask(str(hold_mib), f"holding {hold_mib}")
            program.expect(f"warning {warning}")
        filler.ask("482", "holding 482")
        # Nothing has come between the end and this: what is next is this episode's first word.
        program.expect("warning (50|100|255)")


@needs_root
def test_whoever_comes_to_a_bus_that_is_started_anew_hears_the_present_level(
    daemon: RealDaemon, bus: MessageBus, glib_monitor: Path
) -> None:
    with run_filler(daemon.socket) as filler:
        filler.ask("468", "holding 468")
        bus.end()
        daemon.wait_logged("the bus has closed the connection")
        bus.start()
        with Program(glib_monitor) as program:
            program.expect("listening by GMemoryMonitorDBus", f"{NAME} is owned by :.*")
            program.expect("warning 100")


@needs_root
def test_a_program_that_begins_to_listen_while_memory_is_short_is_told_so(
    daemon: RealDaemon, glib_monitor: Path
) -> None:
    """What was said before it came it cannot have heard."""
    with run_filler(daemon.socket) as filler:
        filler.ask("468", "holding 468")
        daemon.wait_logged("system: medium")
        with listening(glib_monitor) as program:
            program.expect("warning 100")


def describe(bus: MessageBus) -> str:
    """Return what GDBus finds of the interface at the path."""
    need_command("gdbus")
    asked = ["gdbus", "introspect", "--address", bus.address]
    said = subprocess.run(
        [*asked, "--dest", NAME, "--object-path", PATH], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(rf"  interface {re.escape(NAME)} {{.*?^  }};", said, re.M | re.S)
    return "" if found is None else found[0]


def watch_warnings(bus: MessageBus, emit: list[str]) -> list[str]:
    """Return the lines of dbus-monitor for a signal of the interface, without what differs each time."""
    need_command("dbus-monitor")
    rule = f"type='signal',interface='{NAME}'"
    with Program("dbus-monitor", "--address", bus.address, rule) as monitor:
        for _ in range(8):  # what a monitor says of itself first
            line = monitor.expect(".*").string
            if "NameLost" in line:
                monitor.expect(".*")
                break
        subprocess.run(emit, check=True, capture_output=True)
        lines = [monitor.expect(".*").string, monitor.expect(".*").string]
    return [re.sub(r"(time|sender|serial)=\S+ ?", "", line) for line in lines]


@needs_root
def test_ours_and_the_mock_of_it_cannot_be_told_apart_on_the_bus(
    daemon: RealDaemon, bus: MessageBus, tmp_path: Path
) -> None:
    """python-dbusmock's template is what other projects test their programs with."""
    need_mock()
    folder = tmp_path / "mock"
    folder.mkdir()
    with message_bus(folder, ALL_MAY) as mock_bus:
        template = ["-m", "dbusmock", "--system", "--template", "low_memory_monitor"]
        with Program(
            SYSTEM_PYTHON, *template, environment={"DBUS_SYSTEM_BUS_ADDRESS": mock_bus.address}
        ):
            gdbus = ["gdbus", "call", "--address", mock_bus.address, "--dest", NAME]
            subprocess.run(
                ["gdbus", "wait", "--address", mock_bus.address, "--timeout", "20", NAME],
                check=True,
            )
            emit = [
                *gdbus,
                "--object-path",
                PATH,
                "--method",
                "org.freedesktop.DBus.Mock.EmitWarning",
                "100",
            ]
            mock_signal = watch_warnings(mock_bus, emit)
    with run_filler(daemon.socket) as filler:
        filler.tell("468")
        our_signal = watch_warnings(bus, ["true"])
    assert our_signal == mock_signal
    assert mock_signal == [
        f"signal -> destination=(null destination) path={PATH}; interface={NAME}; member=LowMemoryWarning",
        "   byte 100",
    ]
    assert "LowMemoryWarning(y level);" in describe(bus)


# --- what may be missing ----------------------------------------------------------------------------------


@contextmanager
def lmkd_on(folder: Path, *arguments: str) -> Iterator[RealDaemon]:
    made = RealDaemon(folder, "512MiB", SWITCHED_ON, arguments)
    made.start()
    try:
        yield made
    finally:
        made.end(signal.SIGKILL)


def standing(daemon: RealDaemon) -> str:
    with lmkd_client.connect(daemon.socket) as client:
        (line,) = client.status()["interop"]
    return str(line)


@needs_root
def test_a_bus_without_our_policy_is_said_with_what_would_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with message_bus(tmp_path, more="") as closed:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", closed.address)
        with lmkd_on(tmp_path) as daemon:
            daemon.wait_logged(
                f"interop.low_memory_monitor: the bus does not let us own {NAME}: it wants the policy that"
                " `lmkd --print-dbus-policy` prints, in /etc/dbus-1/system.d"
            )
            assert standing(daemon).startswith("low_memory_monitor: the bus does not let us own")


def test_no_bus_is_said_and_everything_else_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    with lmkd_on(tmp_path) as daemon:
        why = f"no bus at {str(tmp_path / 'none')!r}: No such file or directory"
        daemon.wait_logged(f"interop.low_memory_monitor: {why}")
        assert standing(daemon) == f"low_memory_monitor: {why}"


def test_without_jeepney_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jeepney.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with lmkd_on(tmp_path) as daemon:
        why = "it takes jeepney, which is not installed: pip install 'lmkd[dbus]'"
        assert f"interop.low_memory_monitor: {why}" in daemon.wait_logged("ready")
        assert standing(daemon) == f"low_memory_monitor: {why}"


def test_a_session_leaves_the_systems_bus_to_the_systems_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with lmkd_on(tmp_path, "--session") as daemon:
        daemon.wait_logged(
            "interop.low_memory_monitor: the system's bus is for the system's daemon: without --session"
        )


@needs_root
def test_a_name_that_another_has_is_taken_over_when_that_leaves(
    bus: MessageBus, tmp_path: Path, glib_monitor: Path
) -> None:
    """Two daemons that both want it stand for low-memory-monitor and lmkd."""
    first_folder = tmp_path / "first"
    first_folder.mkdir()
    with lmkd_on(tmp_path) as second:
        second.wait_logged(ON_THE_BUS)
        second.end()
        with lmkd_on(first_folder) as first:
            first.wait_logged(ON_THE_BUS)
            second.start()
            told = second.wait_logged(f"{NAME} belongs to pid")
            assert told.endswith("; ours when that leaves\n")
            with run_filler(second.socket) as filler:
                filler.ask("468", "holding 468")
                first.end()
                second.wait_logged(ON_THE_BUS)
                with listening(glib_monitor) as program:
                    program.expect("warning 100")


@pytest.mark.parametrize(
    ("path", "interface", "member", "answer"),
    [
        (PATH, "org.freedesktop.DBus.Peer", "Ping", "()"),
        ("/", "org.freedesktop.DBus.Introspectable", "Introspect", '<node name="org"/>'),
        ("/org", "org.freedesktop.DBus.Introspectable", "Introspect", '<node name="freedesktop"/>'),
        ("/other", "org.freedesktop.DBus.Introspectable", "Introspect", "UnknownObject"),
        (PATH, NAME, "LowMemoryWarning", "UnknownMethod"),
        (PATH, "org.freedesktop.DBus.Properties", "Get", "UnknownMethod"),
    ],
)
def test_what_is_asked_is_answered_as_by_any_object(
    path: str, interface: str, member: str, answer: str
) -> None:
    call = new_method_call(DBusAddress(path, NAME, interface), member)
    call.header.serial = 7
    reply = answer_call(call)
    said = f"{reply.header.fields.get(HeaderFields.error_name, '')}{reply.body}"
    assert reply.header.fields[HeaderFields.reply_serial] == 7
    assert answer in said
