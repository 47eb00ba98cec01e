"""The log is written by a thread: a reader that does not read holds up nobody."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmkd.service.executor import Hand
from lmkd.service.scribe import WAITING_MOST, logged_by

log = logging.getLogger("lmkd")


class Written(logging.Handler):
    """Keeps what it is given, and takes its time when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.blocked = False

    def emit(self, record: logging.LogRecord) -> None:
        while self.blocked:
            time.sleep(0.001)
        self.lines.append(record.getMessage())


@pytest.fixture
def written(caplog: pytest.LogCaptureFixture) -> Iterator[Written]:
    caplog.set_level(logging.INFO, "lmkd")
    handlers, handler = log.handlers, Written()
    log.handlers = [handler]
    yield handler
    log.handlers = handlers


def test_lines_are_written_in_order_and_all_of_them_before_it_ends(written: Written) -> None:
    with logged_by(Hand("test-log")):
        for number in range(100):
            log.info("line %d", number)
    assert written.lines == [f"line {number}" for number in range(100)]
    log.info("afterwards")
    assert written.lines[-1] == "afterwards"


def test_where_nobody_reads_so_many_lines_wait_and_the_rest_is_counted(written: Written) -> None:
    with logged_by(Hand("test-log")):
        written.blocked = True
        for number in range(WAITING_MOST + 500):
            log.info("line %d", number)
        written.blocked = False
        while len(written.lines) < WAITING_MOST:
            time.sleep(0.001)
        log.info("at last")
    assert written.lines[-2:] == [
        "500 lines of the log were dropped: nobody read it",
        "at last",
    ]
    assert len(written.lines) == WAITING_MOST + 2


def test_without_a_handler_nothing_is_put_in_its_place(caplog: pytest.LogCaptureFixture) -> None:
    handlers = log.handlers
    log.handlers = []
    try:
        with logged_by(Hand("test-log")):
            assert log.handlers == []
    finally:
        log.handlers = handlers


@pytest.mark.real_kernel
def test_a_daemon_whose_log_nobody_reads_starts_answers_and_leaves(tmp_path: Path) -> None:
    config = tmp_path / "lmkd.toml"
    config.write_text('[policy]\nproject = "none"\n[process_events]\nsource = "scan"\n')
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    os.write(write_end, bytes(4096 - 1500))  # what it says before it serves fits into the rest
    argv = [
        *(sys.executable, "-m", "lmkd", "--config", str(config)),
        *("--socket", str(tmp_path / "socket"), "--state-dir", str(tmp_path / "state")),
    ]
    daemon = subprocess.Popen(argv, stderr=write_end)
    os.close(write_end)
    try:
        environ = {**os.environ, "LMKD_SOCKET": str(tmp_path / "socket")}
        status = [sys.executable, "-m", "lmkd.ctl", "status"]
        for _ in range(40):
            done = subprocess.run(status, env=environ, capture_output=True, timeout=20, check=False)
            if done.returncode == 0:
                break
        for _ in range(60):  # a line of the log each
            daemon.send_signal(signal.SIGHUP)
            time.sleep(0.01)
        done = subprocess.run(status, env=environ, capture_output=True, timeout=20, check=False)
        assert done.returncode == 0, done.stderr
        daemon.terminate()
        assert daemon.wait(20) == 0
    finally:
        daemon.kill()
        daemon.wait()
        os.close(read_end)
