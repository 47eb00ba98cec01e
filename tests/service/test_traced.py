"""Between the reading that turns critical and SIGKILL the daemon makes and imports nothing, as strace sees it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bench.kills import QUICK, kill_some
from tests.bench.staging import NO_STALLS, Apps, Staged
from tests.strace import ARGUMENTS, broken_rules, window

READ = '4711  pread64(7, "MemTotal: 468032 kB"..., 16384, 0) = 1400'
TOLD = r'4711  sendto(19, "\0\0\0B\x87\xa4type\xa6notice\xa5level\xa8critical", 66, MSG_DONTWAIT, NULL, 0) = 66'
KILLED = "4711  pidfd_send_signal(21, SIGKILL, NULL, 0) = 0"


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (
            "4711  clone3({flags=CLONE_VM|CLONE_THREAD}, 88 <unfinished ...>",
            "no new process or thread",
        ),
        (
            "4712  clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID) = 4713",
            "no new process or thread",
        ),
        ('4711  execve("/sbin/ldconfig", ["ldconfig"], 0x7f) = 0', "no new process or thread"),
        (
            '4711  openat(AT_FDCWD, "/s/new", O_WRONLY|O_CREAT|O_CLOEXEC, 0666) = 5',
            "no file is made",
        ),
        ('4711  rename("/s/new", "/s/history.jsonl") = 0', "no file is made"),
        (
            '4711  openat(AT_FDCWD, "/l/trio/_sync.py", O_RDONLY|O_CLOEXEC) = 5',
            "nothing is imported",
        ),
        (
            '4711  openat(AT_FDCWD, "/l/__pycache__/x.cpython-311.pyc", O_RDONLY) = 5',
            "nothing is imported",
        ),
        (
            '4711  openat(AT_FDCWD, "/lib/libgcc_s.so.1", O_RDONLY|O_CLOEXEC) = 5',
            "nothing is imported",
        ),
    ],
)
def test_a_call_that_was_not_to_be_is_named_with_its_rule(line: str, rule: str) -> None:
    [broken] = broken_rules(window([line, READ, line, TOLD, KILLED, line]))
    assert broken == f"{rule}: {line}"


@pytest.mark.parametrize(
    "line",
    [
        '4711  openat(AT_FDCWD, "/proc/4711/stat", O_RDONLY|O_CLOEXEC) = 5',
        '4711  openat(AT_FDCWD, "/proc/4711/oom_score_adj", O_WRONLY|O_CLOEXEC) = 5',
        '4711  openat(AT_FDCWD, "/sys/fs/cgroup/x.py.scope/cgroup.procs", O_RDONLY|O_CLOEXEC) = 5',
        "4711  --- SIGCHLD {si_signo=SIGCHLD} ---",
        "4711  <... clone3 resumed>) = 4713",
    ],
)
def test_what_may_be_done_is_not_named(line: str) -> None:
    assert broken_rules(window([READ, line, TOLD, line, KILLED])) == []


def can_trace(directory: Path) -> bool:
    if shutil.which("strace") is None:
        return False
    argv = ["strace", "-o", str(directory / "try"), "true"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


@pytest.mark.real_kernel
def test_a_kill_makes_and_imports_nothing(tmp_path: Path) -> None:
    """The real daemon, told of a shortage, kills a child of ours that ignores SIGTERM."""
    if not can_trace(tmp_path):
        pytest.skip("no strace here, or it may not trace")
    trace = tmp_path / "trace"
    daemon = Staged(tmp_path, QUICK + NO_STALLS, prefix=(*ARGUMENTS, str(trace)))
    try:
        apps = Apps(daemon.path, 1)  # somebody to be told
        kill_some(daemon, 2)
        apps.close()
    finally:
        daemon.close()
    seen = window(trace.read_text(errors="replace").splitlines())
    assert broken_rules(seen) == [], "\n".join(seen)
