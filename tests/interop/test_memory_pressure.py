"""lmkd's own socket for $MEMORY_PRESSURE_WATCH: a real program of libsystemd's, and the protocol by hand."""

from __future__ import annotations

import base64
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import lmkd_client
import pytest

from ..conftest import RealDaemon
from ..program import Program
from .bus_of_its_own import run_filler
from .listeners import build_sd_event_program
from .newer_systemd import NEEDED

SWITCHED_ON = (
    "[interop]\nmemory_pressure = true\n[system]\nkill = false\n[timing]\ncalm_hold = '200ms'\n"
)
ONCE = SWITCHED_ON + "rest = '10min'\n"


def running(folder: Path, configuration: str) -> RealDaemon:
    daemon = RealDaemon(folder, "512MiB", configuration)
    daemon.start()
    return daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RealDaemon]:
    """lmkd on 512 MiB, whose levels are not repeated while a test lasts."""
    made = running(tmp_path, ONCE)
    try:
        yield made
    finally:
        made.end(signal.SIGKILL)


def watch_path(daemon: RealDaemon) -> str:
    return str(Path(daemon.socket).with_name("memory-pressure"))


def test_a_program_on_sd_event_is_woken_in_a_real_episode_and_else_left_alone(
    daemon: RealDaemon, tmp_path: Path
) -> None:
    built = build_sd_event_program(tmp_path)
    if built is None:
        pytest.skip(f"no libsystemd {NEEDED} here, and none in Debian's backports")
    program, environment = built

    def listen(level: str) -> Program:
        write = base64.b64encode(level.encode()).decode()
        variables = {"MEMORY_PRESSURE_WATCH": watch_path(daemon), "MEMORY_PRESSURE_WRITE": write}
        listening = Program(program, environment=environment | variables)
        listening.expect("listening")
        return listening

    with listen("low") as early, listen("critical") as late, run_filler(daemon.socket) as filler:
        filler.ask("446", "holding 446")
        early.expect("woken 1")
        filler.ask("482", "holding 482")
        # Had it been woken at low, or twice, this would be another number.
        late.expect("woken 1")
        early.expect("woken [23]")


def test_the_protocol_by_hand(daemon: RealDaemon) -> None:
    """Connect, write what is in the variable, wait, read and throw away (MEMORY_PRESSURE.md)."""
    with socket.socket(socket.AF_UNIX) as watch, run_filler(daemon.socket) as filler:
        watch.connect(watch_path(daemon))
        watch.setblocking(False)
        watch.send(b"some 200000 2000000\0")
        filler.ask("446", "holding 446")
        daemon.wait_logged("system: low")
        with pytest.raises(BlockingIOError):
            watch.recv(1)
        watch.settimeout(20)
        filler.ask("482", "holding 482")
        assert watch.recv(1)


def test_for_as_long_as_a_level_lasts_it_is_said_again(tmp_path: Path) -> None:
    daemon = running(tmp_path, SWITCHED_ON + "rest = '100ms'\n")
    try:
        with socket.socket(socket.AF_UNIX) as watch, run_filler(daemon.socket) as filler:
            watch.settimeout(20)
            watch.connect(watch_path(daemon))
            filler.ask("482", "holding 482")
            for _ in range(5):
                assert watch.recv(1)
            filler.ask("0", "holding 0")
            daemon.wait_logged("system: normal")
            watch.setblocking(False)
            with suppress(BlockingIOError):
                watch.recv(4096)  # what has come since it was read last
            watch.settimeout(0.5)
            with pytest.raises(TimeoutError):
                watch.recv(1)
    finally:
        daemon.end(signal.SIGKILL)


def test_it_is_said_in_the_status_and_gone_with_the_daemon(daemon: RealDaemon) -> None:
    path = watch_path(daemon)
    with socket.socket(socket.AF_UNIX) as watch:
        watch.connect(path)
        with lmkd_client.connect(daemon.socket) as client:
            lines = client.status()["interop"]
        daemon.end()
        assert watch.recv(1) == b""
    assert lines in (
        [f"memory_pressure: MEMORY_PRESSURE_WATCH={path}: {heard}"]
        for heard in ("1 program listens", "0 programs listen")
    )
    assert not Path(path).exists()
    daemon.start()


def test_a_place_that_is_taken_is_said_and_everything_else_goes_on(tmp_path: Path) -> None:
    (tmp_path / "memory-pressure").write_text("mine")
    daemon = running(tmp_path, SWITCHED_ON)
    try:
        told = daemon.wait_logged("ready")
        why = f"{tmp_path}/memory-pressure is there and is not a socket; it is left alone"
        assert f"lmkd: interop.memory_pressure: {why}" in told
        with lmkd_client.connect(daemon.socket) as client:
            assert client.status()["interop"] == [f"memory_pressure: {why}"]
    finally:
        daemon.end(signal.SIGKILL)
    assert (tmp_path / "memory-pressure").read_text() == "mine"
