"""Play one run in the guest: `python -m tests.arena.guest SPEC`, SPEC being JSON; what became of it goes to /out.

The stage's own memory is locked, its cgroup is the agent's and none a guard looks at, and its oom_score_adj is -1000:
it outlives what it measures. From the first byte of load to calm, it looks every 50 ms.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.arena.guards import BY_NAME as GUARDS
from tests.arena.guest import session
from tests.arena.guest.board import Board
from tests.arena.guest.gauge import Gauge, Sample
from tests.arena.guest.service import LOG, GuardFailedError, Service
from tests.arena.guest.session import Player
from tests.arena.guest.swap import set_swap
from tests.arena.workloads import BY_NAME as WORKLOADS
from tests.arena.workloads import FILL_FILE, FILL_MIB, Workload

LOOK_S = 0.05
CALM_NS = 1_000_000_000
CALM_FULL_US = 10_000  # 1% of that second
STALL_US = 5_000  # of one look: 10%, the first that is called a stall
AFTERMATH_NS = 1_500_000_000
SETTLE_S = 1.0
START_TIMEOUT_S = 40
TIMELINE_MS = 500


def survive() -> None:
    """Lock our memory, and be nobody's victim."""
    Path("/proc/self/oom_score_adj").write_text("-1000")
    os.setxattr("/sys/fs/cgroup/command", "user.oomd_omit", b"1")
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    if library.mlockall(7):  # current, future, on fault
        raise OSError(ctypes.get_errno(), "mlockall")


class Run:
    """One workload under one guard."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.workload: Workload = WORKLOADS[spec["workload"]]
        self.service = Service(GUARDS[spec["guard"]])
        self.players: list[Player] = []
        self.timeline: list[list[int]] = []
        self.first_stall_ns = 0
        self.culprits_over_ns = 0
        self.calm_ns = 0
        self.calm_full_us = 0
        self.guard_ended_ns = 0

    def play(self) -> dict[str, Any]:
        """Set the machine up, load it, look, and clear everything away."""
        set_swap(self.workload.swap_mib)
        Path("/proc/sys/vm/drop_caches").write_text("3")
        self.service.start_session()
        session.prepare()
        self.board = Board(Path("/run/arena/board"))
        self._fill(True)
        # Before the guard: their honest start, in half a second, would pass for a leak.
        self._start_programs()
        began_ns = time.monotonic_ns()
        self.service.start_guard()
        guard_ms = (time.monotonic_ns() - began_ns) // 1_000_000
        self.board.greet(began_ns)
        listening = [p for p in self.players if p.program.app_class and self.service.guard.warns]
        self._wait_started(listening, 2)
        time.sleep(SETTLE_S)
        self.gauge = Gauge()
        gc.collect()
        gc.freeze()
        gc.disable()
        self.service.begin()
        oom_kills, before = self.gauge.oom_kills(), self.gauge.sample()
        self.began_ns = time.monotonic_ns()
        self.board.begin(self.began_ns)
        last = self._look_on(before)
        over_ns = time.monotonic_ns()
        self.board.end(over_ns)
        lost = [player for player in self.players if player.ended_ns]
        guard_stands = self.service.look()
        session.end_all()  # before anything that may want memory
        gc.enable()
        guard_log = LOG.read_text(errors="replace")
        oom_kills = self.gauge.oom_kills() - oom_kills
        kernels = self.gauge.killed_by_kernel()
        outcome = self._outcome(before, last, kernels, lost)
        standing = self.service.stop()
        self._fill(False)
        return {
            **self.spec,
            **outcome,
            "oom_kills": oom_kills,
            "guard_start_ms": guard_ms,
            **{f"guard_{name}": value for name, value in standing.items()},
            "guard_alive": standing["alive"] and guard_stands and not self.guard_ended_ns,
            "guard_ended_ms": self._ms(self.guard_ended_ns),
            "looked_ms": self._ms(over_ns),
            "timeline": self.timeline,
            "guard_log": guard_log[-6000:],
        }

    def _fill(self, make: bool) -> None:
        """Make, or take away, the tmpfs that a program fills."""
        directory = str(Path(FILL_FILE).parent)
        if make:
            os.makedirs(directory, exist_ok=True)
            options = f"size={FILL_MIB + 8}M,mode=1777"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "fill", directory], check=True)
        else:
            subprocess.run(["umount", "-l", directory], check=True)

    def _start_programs(self) -> None:
        for number, declared in enumerate(self.workload.programs):
            program = session.file_options(declared, self.spec["data"])
            player = session.start(
                program,
                number,
                self.spec["binary"],
                self.board.path,
                self.service.guard,
                [f"seed={self.spec['seed']}"],
            )
            self.players.append(player)
        self._wait_started(self.players, 1)

    def _wait_started(self, players: list[Player], stage: int) -> None:
        """Wait until these hold what they should (1), or are connected to the guard too (2)."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(self.board.slot(player.slot).started >= stage for player in players):
            self._reap()
            ended = [player for player in self.players if player.ended_ns]
            if ended or time.monotonic() > deadline:
                names = [f"{player.program.name} ({player.ending})" for player in ended]
                raise GuardFailedError(f"programs did not start: {names or 'time is up'}")
            time.sleep(0.05)

    def _look_on(self, before: Sample) -> Sample:
        """Look until it is calm again, or until the workload's time is up."""
        bound_ns = self.began_ns + self.workload.bound_ms * 1_000_000
        least_ns = self.began_ns + self.workload.least_ms * 1_000_000
        calm_since_ns, calm_from = self.began_ns, before
        previous = sample = before
        while (now_ns := time.monotonic_ns()) < bound_ns:
            time.sleep(LOOK_S)
            now_ns = time.monotonic_ns()
            sample = self.gauge.sample()
            self._reap()
            if not self.service.look() and not self.guard_ended_ns:
                self.guard_ended_ns = now_ns
            if sample.full_us - previous.full_us >= STALL_US and not self.first_stall_ns:
                self.first_stall_ns = now_ns
            stalled = sample.full_us - calm_from.full_us > CALM_FULL_US
            if stalled or (now_ns - calm_since_ns > CALM_NS and not self.culprits_over_ns):
                calm_since_ns, calm_from = now_ns, sample
            if not self.culprits_over_ns and self._culprits_over():
                self.culprits_over_ns = now_ns
            self._draw(now_ns, sample)
            previous = sample
            if (
                self.culprits_over_ns
                and now_ns - max(calm_since_ns, self.culprits_over_ns) > CALM_NS
            ):
                if not self.calm_ns:
                    self.calm_ns = max(calm_since_ns, self.culprits_over_ns)
                over_ns = max(self.calm_ns + CALM_NS + AFTERMATH_NS, least_ns)
                if now_ns > over_ns:
                    break
        return sample

    def _culprits_over(self) -> bool:
        """Whether every culprit has ended, or has all it wanted: nothing grows any more."""
        culprits = [player for player in self.players if player.program.role == "culprit"]
        return bool(culprits) and all(
            (player.ended_ns and not self._alive(player))
            or self.board.slot(player.slot).finished >= max(self._alive(player), 1)
            for player in culprits
        )

    def _alive(self, player: Player) -> int:
        try:
            return len((player.group / "cgroup.procs").read_bytes().split())
        except OSError:
            return 0

    def _draw(self, now_ns: int, sample: Sample) -> None:
        at_ms = (now_ns - self.began_ns) // 1_000_000
        if not self.timeline or at_ms - self.timeline[-1][0] >= TIMELINE_MS:
            alive = sum(not player.ended_ns for player in self.players)
            self.timeline.append(
                [
                    at_ms,
                    sample.available_kib // 1024,
                    sample.swap_free_kib // 1024,
                    sample.full_us,
                    alive,
                ]
            )

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for player in self.players:
                if player.pid == pid:
                    player.ended_ns, player.status = time.monotonic_ns(), status

    def _ms(self, at_ns: int) -> int | None:
        """Since the load began; None for never."""
        return (at_ns - self.began_ns) // 1_000_000 if at_ns else None

    def _outcome(
        self, before: Sample, last: Sample, kernels: list[int], ended: list[Player]
    ) -> dict[str, Any]:
        slots = {player.slot: self.board.slot(player.slot) for player in self.players}
        lost = []
        for player in ended:
            slot = slots[player.slot]
            lost.append(
                {
                    "name": player.program.name,
                    "role": player.program.role,
                    "held_kib": slot.held_kib
                    + (slot.grown_kib if "part=grow" in player.program.options else 0),
                    "at_ms": self._ms(player.ended_ns),
                    "by": "kernel" if player.pid in kernels else player.ending,
                }
            )
        sweeps = {
            str(player.program.name): self.board.sweeps_us(track, slots[player.slot].sweeps)
            for player in self.players
            for track in range(4)
            if f"track={track}" in player.program.options
        }
        first_notices = [slot.first_notice_ns for slot in slots.values() if slot.first_notice_ns]
        grown = [slots[p.slot] for p in self.players if p.program.role == "culprit"]
        return {
            "before": {
                "available_kib": before.available_kib,
                "swap_free_kib": before.swap_free_kib,
            },
            "lost": lost,
            "kernel_killed_others": len(
                [pid for pid in kernels if pid not in {p.pid for p in self.players}]
            ),
            "useful_lost_kib": sum(one["held_kib"] for one in lost if one["role"] != "culprit"),
            "shed_kib": sum(slot.shed_kib for slot in slots.values()),
            "asked_kib": sum(slot.asked_kib for slot in slots.values()),
            "notices": sum(slot.notices for slot in slots.values()),
            "first_notice_ms": self._ms(min(first_notices, default=0)),
            "first_stall_ms": self._ms(self.first_stall_ns),
            "culprits_over_ms": self._ms(self.culprits_over_ns),
            "calm_ms": self._ms(self.calm_ns),
            "full_us": last.full_us - before.full_us,
            "some_us": last.some_us - before.some_us,
            "sweeps_us": {name: _spread(taken) for name, taken in sweeps.items()},
            "culprit_kib": sum(slot.grown_kib for slot in grown),
            "culprit_kib_s": max((_rate(slot) for slot in grown), default=0),
            "forked": sum(slot.forked for slot in grown),
        }


def _rate(slot: Any) -> int:
    span_ns = slot.grow_last_ns - slot.grow_began_ns
    return int(slot.grown_kib * 1_000_000_000 // span_ns) if span_ns > 0 else 0


def _spread(taken_us: list[int]) -> dict[str, int]:
    ordered = sorted(taken_us)
    if not ordered:
        return {"count": 0}
    return {
        "count": len(ordered),
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)],
        "max": ordered[-1],
    }


def main() -> None:
    """Play the run of the specification, and write what became of it."""
    spec = json.loads(sys.argv[1])
    out = Path("/out") / f"{spec['id']}.json"
    Path("/run/arena").mkdir(exist_ok=True)
    Path("/run/arena").chmod(0o755)
    survive()
    try:
        outcome = Run(spec).play()
    except GuardFailedError as failure:
        outcome = {**spec, "failed": str(failure)}
    out.write_text(json.dumps(outcome))


if __name__ == "__main__":
    main()
