"""The process connector of this machine, and our reading of its messages."""

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from lmkd.kernel.process_events import NetlinkProcessEvents, open_process_events
from lmkd.model import ProcessEvent, ProcessEventKind

pytestmark = pytest.mark.real_kernel

FORK, EXEC, EXIT = ProcessEventKind.FORK, ProcessEventKind.EXEC, ProcessEventKind.EXIT
PROGRAM = """
import ctypes, os, threading
thread = threading.Thread(target=lambda: None)
thread.start()
thread.join()
ctypes.CDLL(None).prctl(15, b"renamed", 0, 0, 0)
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
"""


def listen(receive_buffer_bytes: int = 8 << 20) -> NetlinkProcessEvents:
    events = open_process_events(receive_buffer_bytes=receive_buffer_bytes)
    if isinstance(events, str):
        pytest.skip(f"no process events here: {events}")
    granted = events._connector.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    if granted < receive_buffer_bytes:
        events.close()
        pytest.skip(f"a receive buffer of {granted} bytes is too small beside what else runs here")
    return events


@pytest.fixture
def events() -> Iterator[NetlinkProcessEvents]:
    events = listen()
    yield events
    events.close()


def run_program() -> int:
    """Run a program to its end, and return which pid it had."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def take_of(events: NetlinkProcessEvents, *pids: int) -> list[ProcessEvent]:
    """Take all that has come, and return what is about these; other processes come and go here, too."""
    taken: list[ProcessEvent] = []
    while True:
        some, is_lost = events.take_nowait()
        assert not is_lost
        if not some:
            return [event for event in taken if event.pid in pids]
        taken += some


def test_a_process_is_heard_of_from_its_birth_to_its_end_and_its_threads_are_not(
    events: NetlinkProcessEvents,
) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-E", "-c", PROGRAM])
    child.wait()
    heard = take_of(events, child.pid)
    kinds = [event.kind for event in heard]
    assert heard[0] == ProcessEvent(FORK, child.pid, os.getpid())
    assert (kinds[1], kinds[-1]) == (EXEC, EXIT)
    changes = [ProcessEventKind.COMM]
    if os.getuid() == 0:
        changes += [ProcessEventKind.IDS] * 2
    assert kinds == [FORK, EXEC, *changes, EXIT]


def test_a_storm_within_the_buffer_is_heard_whole(events: NetlinkProcessEvents) -> None:
    script = "i=0; while [ $i -lt 500 ]; do (:); i=$((i+1)); done"
    shell = subprocess.Popen(["sh", "-c", script])
    shell.wait()
    taken: list[ProcessEvent] = []
    while some := events.take_nowait()[0]:
        taken += some
    born = [event.pid for event in taken if event.kind is FORK and event.parent_pid == shell.pid]
    ended = {event.pid for event in taken if event.kind is EXIT}
    assert len(born) == 500
    assert set(born) <= ended


def test_an_overflow_is_told_and_what_follows_is_heard() -> None:
    events = listen(receive_buffer_bytes=4096)
    for _ in range(30):
        run_program()
    some, is_lost = events.take_nowait()
    assert is_lost
    assert len(some) < 90
    pid = run_program()
    assert ProcessEvent(EXIT, pid) in take_of(events, pid)
    events.close()


def test_in_a_storm_others_get_their_turn() -> None:
    events = listen()
    script = "i=0; while [ $i -lt 2500 ]; do (:); i=$((i+1)); done"
    subprocess.run(["sh", "-c", script], check=True)
    some, is_lost = events.take_nowait()
    assert len(some) <= 4096
    assert not is_lost
    assert events.take_nowait()[0] != []
    events.close()


async def test_an_event_that_is_there_before_anyone_waits_is_not_stranded(
    events: NetlinkProcessEvents,
) -> None:
    for _ in range(20):
        pid = run_program()
        with trio.fail_after(5):
            await events.wait()
        assert FORK in {event.kind for event in take_of(events, pid)}


async def test_an_event_wakes_who_waits(events: NetlinkProcessEvents) -> None:
    while events.take_nowait()[0]:
        pass
    async with trio.open_nursery() as nursery:
        nursery.start_soon(events.wait)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(5):
            await trio.run_process(["true"])


async def test_an_overflow_wakes_who_waits() -> None:
    events = listen(receive_buffer_bytes=4096)
    for _ in range(30):
        run_program()
    with trio.fail_after(5):
        await events.wait()
    assert events.take_nowait()[1]
    events.close()


async def test_closing_wakes_who_waits_with_an_error(events: NetlinkProcessEvents) -> None:
    async def take_for_ever() -> None:
        while True:
            await events.wait()
            events.take_nowait()

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await take_for_ever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        events.close()
    events.close()


def message(what: int, *body: int, ack: int = 0) -> bytes:
    head = struct.pack("=IHHII", 76, 3, 0, 0, 0) + struct.pack("=IIIIHH", 1, 1, 0, ack, 40, 0)
    event = struct.pack("=IIQ", what, 0, 0) + struct.pack(f"={len(body)}I", *body)
    return (head + event).ljust(76, b"\0")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (message(0x1, 10, 9, 20, 20), ProcessEvent(FORK, 20, 9)),
        (message(0x1, 9, 9, 21, 9), None),  # a thread's birth
        (message(0x2, 20, 20), ProcessEvent(EXEC, 20)),
        (message(0x4, 20, 20), ProcessEvent(ProcessEventKind.IDS, 20)),
        (message(0x40, 20, 20), ProcessEvent(ProcessEventKind.IDS, 20)),
        (message(0x200, 20, 20), ProcessEvent(ProcessEventKind.COMM, 20)),
        (message(0x200, 21, 20), None),  # a thread's name
        (message(0x80000000, 20, 20), ProcessEvent(EXIT, 20)),
        (message(0x80000000, 21, 20), None),  # a thread's end
        (message(0x80, 20, 20), None),  # a new session
        (message(0x0, 0), None),
        (message(0x12345678, 20, 20), None),
        (message(0x2, 20, 20)[:60], None),
        (b"", None),
    ],
)
def test_messages(
    events: NetlinkProcessEvents, content: bytes, expected: ProcessEvent | None
) -> None:
    assert events._words.unpack(content, len(content)) == expected


def test_without_the_machines_own_pids_there_is_no_use_in_listening(tmp_path: Path) -> None:
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    (tmp_path / "proc/self/ns/pid").touch()
    for root in (tmp_path, tmp_path / "without-proc"):
        refusal = open_process_events(str(root))
        assert isinstance(refusal, str)
        assert "pid namespace" in refusal


@pytest.mark.parametrize(
    ("namespace", "words"),
    [("--net", "network namespace"), ("--user", "user namespace")],
)
def test_another_namespace_is_refused_in_words(namespace: str, words: str) -> None:
    program = "from lmkd.kernel.process_events import open_process_events as o; print(o())"
    command = ["unshare", namespace, sys.executable, "-c", program]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare")
    if done.returncode != 0 and "unshare" in done.stderr:
        pytest.skip(f"no namespaces here: {done.stderr}")
    assert words in done.stdout, done.stderr


def test_pyroute2_is_loaded_only_by_who_listens() -> None:
    program = "import sys, lmkd.kernel.machine as m; m.Machine(); print('pyroute2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"False\n"
