"""From the heart's verdict to the signal, and from SIGKILL to the victim's memory, with busy processors.

The verdicts are the heart's own and the signals go the whole way through the executor of a staged daemon, by real
pidfds, to children of ours that ignore SIGTERM. A signal is delivered when the system call that sends it has returned:
the victim cannot run another instruction of its own then. When it is dead is given beside it.

The memory is 1 GiB of a victim at nice 19; it is back when process_mrelease has returned, or the victim is dead,
whichever is first. (How much the machine has free says nothing while others take some.)
"""

import ctypes
import mmap
import os
import select
import signal
import tempfile
import time
from pathlib import Path

from tests.bench.rows import Row, middle, percentile
from tests.bench.staged_daemon import Board
from tests.bench.staging import (
    CRITICAL_KIB,
    NO_STALLS,
    PLENTY_KIB,
    Staged,
    busy_processors,
    end,
    instrument,
    staged,
)

PR_SET_PDEATHSIG = 1
VICTIMS = 200
BATCH = 20
LIMIT_MS = 2
HELD_BYTES = 1 << 30
HELD_TIMES = 3
BACK_LIMIT_S = 1
SPARE_BYTES = 4 << 30
"""Without so much more available than the victim takes, its memory is not measured here."""
QUICK = """
[timing]
calm_hold = "100ms"
rest = "100ms"
settle = "10ms"
exit_in_emergency = "20ms"
read_idle = "60ms"
read_pressed = "50ms"
[classes.cached]
grace = "50ms"
time_to_exit = "30ms"
[victims]
least = "64KiB"
share = "0.1%"
most = "256KiB"
[[rule]]
name = "victims"
match = { comm = "victim" }
class = "cached"
[[rule]]
name = "and nobody else"
match = { uid = ">=0" }
exempt = true
"""


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as name, staged(Path(name), QUICK + NO_STALLS) as daemon:
        with busy_processors():
            rows = _verdicts(daemon)
            back_s = [_back_s(daemon) for _ in range(HELD_TIMES)] if _has_room() else []
        if not back_s:
            print("kills: a victim of 1 GiB is not measured: too little memory is available here")
            return rows
        note = f"median {middle(back_s):.3f} s of {HELD_TIMES}, nice 19"
        return [
            *rows,
            Row("SIGKILL to 1 GiB back, the longest", max(back_s), BACK_LIMIT_S, "s", note),
        ]


def _verdicts(daemon: Staged) -> list[Row]:
    termed_ms: list[float] = []
    killed_ms: list[float] = []
    died_ms: list[float] = []
    first = 1
    with instrument():
        for _ in range(VICTIMS // BATCH):
            deaths_ns = kill_some(daemon, BATCH)
            at = daemon.board.at
            kills = [kill for kill in range(first, 900) if at[Board.SIGNALS + kill]]
            first = kills[-1] + 1
            for kill in kills:
                verdict_ns = at[Board.VERDICTS + kill]
                killed_ms.append((at[Board.SIGNALS + kill] - verdict_ns) / 1e6)
                died_ms.append(
                    min(death for death in deaths_ns if death > verdict_ns) / 1e6 - verdict_ns / 1e6
                )
                place = Board.TERM + kill
                termed_ms.append((at[Board.SIGNALS + place] - at[Board.VERDICTS + place]) / 1e6)
    count = len(killed_ms)
    dead = f"dead after {middle(died_ms):.2f}, 99 of 100 {percentile(died_ms, 0.99):.2f}"
    return [
        Row(
            "verdict to SIGKILL delivered, p99, processors busy",
            percentile(killed_ms, 0.99),
            LIMIT_MS,
            "ms",
            f"median {middle(killed_ms):.2f}, max {max(killed_ms):.2f}, {count} victims; {dead}",
        ),
        Row(
            "verdict to SIGTERM delivered, p99, processors busy",
            percentile(termed_ms, 0.99),
            LIMIT_MS,
            "ms",
            f"median {middle(termed_ms):.2f}, max {max(termed_ms):.2f}: the victim is looked at again first",
        ),
    ]


def kill_some(daemon: Staged, count: int) -> list[int]:
    """Have so many victims killed, one after another, and return when each was seen dead."""
    pids = [_fork_victim(4 << 20, 0) for _ in range(count)]
    time.sleep(0.2)
    watched = select.poll()
    pidfds = {os.pidfd_open(pid): pid for pid in pids}
    for pidfd in pidfds:
        watched.register(pidfd, select.POLLIN)
    deaths_ns: list[int] = []
    daemon.available(CRITICAL_KIB)
    deadline = time.monotonic() + 60
    while pidfds and time.monotonic() < deadline:
        for fd, _ in watched.poll(500):
            deaths_ns.append(time.monotonic_ns())
            watched.unregister(fd)
            os.close(fd)
            end(pidfds.pop(fd))
    daemon.available(PLENTY_KIB)
    for pidfd, pid in pidfds.items():
        os.close(pidfd)
        end(pid)
    if pidfds:
        raise RuntimeError(f"{len(pidfds)} victims were spared:\n{daemon.log.read_text()[-2000:]}")
    time.sleep(0.5)
    return deaths_ns


def _fork_victim(held_bytes: int, nice: int) -> int:
    """Start a victim, and return its pid once it holds what it should."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # nor does it outlive us
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            Path("/proc/self/comm").write_text("victim")
            held = mmap.mmap(-1, held_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for at in range(0, held_bytes, mmap.PAGESIZE):
                held[at] = 1
            os.nice(nice)
            os.write(writer, b"!")
            while True:
                # It wants a processor, as the victims of a bad day do: who sleeps is woken ahead of others.
                sum(range(1000))
        finally:
            os._exit(1)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    return pid


def _has_room() -> bool:
    return _meminfo("MemAvailable") > HELD_BYTES + SPARE_BYTES


def _meminfo(key: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def _back_s(daemon: Staged) -> float:
    """Return the seconds from SIGKILL to the memory of a victim of 1 GiB at nice 19."""
    pid = _fork_victim(HELD_BYTES, 19)
    time.sleep(0.3)
    at = daemon.board.at
    before = [kill for kill in range(900) if at[Board.SIGNALS + kill]]
    kill = before[-1] + 1 if before else 1
    pidfd, dead = os.pidfd_open(pid), select.poll()
    dead.register(pidfd, select.POLLIN)
    with instrument():
        daemon.available(CRITICAL_KIB)
        daemon.wait(lambda: at[Board.SIGNALS + kill], "SIGKILL")
        deadline = time.monotonic() + 30
        while not dead.poll(2) and not at[Board.RELEASED + kill] and time.monotonic() < deadline:
            pass
        back_ns = at[Board.RELEASED + kill] or time.monotonic_ns()
        back_s = (back_ns - at[Board.SIGNALS + kill]) / 1e9
    os.close(pidfd)
    daemon.available(PLENTY_KIB)
    end(pid)
    time.sleep(0.5)
    return back_s
