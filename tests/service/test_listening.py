"""The listening socket: stale ones, live ones, and places where none can be."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lmkd.peers import read_credentials
from lmkd.service import listening
from lmkd.service.listening import (
    SO_PEERPIDFD,
    SocketError,
    bind_socket,
    has_peer_left,
    inherited_socket,
    remove_socket,
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "run" / "socket"


def test_the_directory_is_made_and_everybody_may_connect(place: Path) -> None:
    with bind_socket(str(place)) as listener:
        assert listener.getblocking() is False
        assert place.stat().st_mode & 0o777 == 0o666
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(place))
            accepted, _ = listener.accept()
            with accepted:
                assert read_credentials(accepted) == (os.getpid(), os.geteuid())


def test_a_stale_socket_is_replaced(place: Path) -> None:
    bind_socket(str(place)).close()
    assert place.is_socket()
    bind_socket(str(place)).close()


def test_a_socket_that_somebody_answers_is_refused(place: Path) -> None:
    with bind_socket(str(place)):
        with pytest.raises(SocketError, match="another daemon answers"):
            bind_socket(str(place))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(place))


DAWDLE = """
import os, sys
from lmkd.service import listening
unlink = os.unlink
def dawdle(path):
    if path == sys.argv[1]:
        print("about to replace it", flush=True)
        sys.stdin.readline()
    unlink(path)
os.unlink = dawdle
"""
"""A daemon that is held up between finding a stale socket and replacing it."""
START = """
import os, sys
from lmkd.service import listening
try:
    listener = listening.bind_socket(sys.argv[1])
except listening.SocketError as error:
    sys.exit(f"refused: {error}")
print("listening", flush=True)
sys.stdin.readline()
"""


@contextmanager
def starting(program: str, place: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", program, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_of_two_that_find_one_stale_socket_exactly_one_listens(place: Path) -> None:
    bind_socket(str(place)).close()
    with starting(DAWDLE + START, place) as slow:
        assert slow.stdin is not None
        assert slow.stdout is not None
        assert slow.stdout.readline() == "about to replace it\n"
        with starting(START, place) as quick:
            with pytest.raises(subprocess.TimeoutExpired):
                quick.wait(0.3)  # it waits, and does not listen: the slow one would put it out
            slow.stdin.write("go on\n")
            slow.stdin.flush()
            assert slow.stdout.readline() == "listening\n"
            out, said = quick.communicate(timeout=20)
            assert (quick.returncode, out) == (1, "")
            assert said.startswith(f"refused: another daemon answers at {place};")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(place))
        assert os.listdir(place.parent) == ["socket"], "no lock stays behind"


def test_of_many_that_start_at_once_exactly_one_listens(place: Path) -> None:
    bind_socket(str(place)).close()
    with ExitStack() as all_of_them:
        processes = [all_of_them.enter_context(starting(START, place)) for _ in range(4)]
        ended: set[subprocess.Popen[str]] = set()
        last_s = time.monotonic() + 20
        while len(ended) < 3:
            ended |= {process for process in processes if process.poll() is not None}
            assert time.monotonic() < last_s
            time.sleep(0.005)
        for process in ended:
            assert "another daemon answers at" in process.communicate(timeout=20)[1]
        (winner,) = set(processes) - ended
        assert winner.stdout is not None
        assert winner.stdout.readline() == "listening\n"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(place))


def test_a_lock_that_a_crash_left_behind_is_no_hindrance(place: Path) -> None:
    place.parent.mkdir()
    lock = place.with_name("socket.lock")
    lock.touch()
    bind_socket(str(place)).close()
    assert not lock.exists()


def test_a_lock_that_is_never_let_go_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "LOCK_TRIES", 2)
    place.parent.mkdir()
    lock = place.with_name("socket.lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(SocketError, match=r"socket\.lock is held"):
            bind_socket(str(place))
    lock.unlink()
    lock.symlink_to("elsewhere")
    with pytest.raises(SocketError, match=r"socket\.lock: Too many levels of symbolic links"):
        bind_socket(str(place))


def test_what_is_no_socket_is_left_alone(place: Path) -> None:
    place.parent.mkdir()
    place.write_text("precious")
    with pytest.raises(SocketError, match="is not a socket; it is left alone"):
        bind_socket(str(place))
    assert place.read_text() == "precious"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("x" * 108, "is 108 bytes long; the kernel takes 107"),
        ("ü" * 54, "is 108 bytes long"),
        ("missing/parent/socket", "socket directory .*: No such file or directory"),
        ("file/socket", "socket directory .*: File exists"),
        ("directory", "is not a socket"),
    ],
)
def test_a_place_where_none_can_be_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    with pytest.raises(SocketError, match=said):
        bind_socket(path)


def test_a_path_of_107_bytes_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bind_socket("x" * 107).close()


def test_only_our_own_socket_is_removed(place: Path) -> None:
    with bind_socket(str(place)):
        inode = place.stat().st_ino
        remove_socket(str(place), inode + 1)
        assert place.exists()
        remove_socket(str(place), inode)
        assert not place.exists()
        remove_socket(str(place), inode)
        remove_socket(str(place / "below"), inode)


def test_a_peer_that_has_exited_is_seen_to_have_left(place: Path) -> None:
    """Its descriptor lives on in a child, and its pid may become anybody's."""
    program = (
        "import os, socket, sys\n"
        "peer = socket.socket(socket.AF_UNIX)\n"
        "peer.connect(sys.argv[1])\n"
        "if os.fork() == 0:\n"
        "    peer.recv(1)\n"
    )
    with bind_socket(str(place)) as listener:
        probe = socket.socket(socket.AF_UNIX)
        with probe:
            try:
                probe.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
            except OSError as error:
                if error.errno == errno.ENOPROTOOPT:
                    pytest.skip("this kernel has no SO_PEERPIDFD (before 6.5)")
            probe.connect(str(place))
            here, _ = listener.accept()
            with here:
                assert has_peer_left(here) is False
        subprocess.run([sys.executable, "-c", program, str(place)], check=True, timeout=30)
        gone, _ = listener.accept()
        with gone:
            assert has_peer_left(gone) is True


# --- passed by a service manager ---------------------------------------------------------------------------


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment in which one descriptor was passed to this process, as 3; what 3 is here is put back."""
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    kept = os.dup(3) if _is_open(3) else None
    yield monkeypatch
    if kept is not None:
        os.dup2(kept, 3)
        os.close(kept)
    elif _is_open(3):
        os.close(3)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_a_passed_socket_is_taken(place: Path, passed: pytest.MonkeyPatch) -> None:
    with bind_socket(str(place)) as listener:
        os.dup2(listener.fileno(), 3)
        taken = inherited_socket()
        assert taken is not None
        assert (taken.getsockname(), taken.getblocking()) == (str(place), False)
        taken.detach()


@pytest.mark.parametrize(
    ("name", "value"),
    [("LISTEN_PID", "1"), ("LISTEN_PID", ""), ("LISTEN_FDS", "0")],
)
def test_what_was_passed_to_somebody_else_is_not_ours(
    passed: pytest.MonkeyPatch, name: str, value: str
) -> None:
    passed.setenv(name, value)
    assert inherited_socket() is None


def test_more_than_one_is_refused(passed: pytest.MonkeyPatch) -> None:
    passed.setenv("LISTEN_FDS", "2")
    with pytest.raises(SocketError, match="LISTEN_FDS=2"):
        inherited_socket()


def test_what_does_not_listen_or_is_no_unix_stream_is_refused(
    tmp_path: Path, passed: pytest.MonkeyPatch
) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as internet,
        (tmp_path / "file").open("w") as file,
    ):
        for wrong in (deaf, datagram, internet, file):
            os.dup2(wrong.fileno(), 3)
            with pytest.raises(SocketError, match="LISTEN_FDS"):
                inherited_socket()
            assert _is_open(3)
