"""The one interface to a kernel: the real one, the simulated one, and a mixture for
demonstrations.

It says what can be asked and done, not by which files or system calls, and it decides nothing.

Held by all implementations (tests/kernel/test_contract.py):

- What has vanished is None, False or an empty list, never an exception.
- What is not permitted raises PermissionError: that is news, and the caller must not take it for
  "gone".
- (pid, start_ticks) names a process. Nothing is ever signalled or written by pid alone.
- Nothing blocks except `release_memory`, and nothing is awaited except the `wait_` functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from lmkd.kernel.probe import Features
from lmkd.model import Details, Glance, Process, ProcessEvent, Reading, Signal

NO_DETAILS = Details()


class VictimHandle(Protocol):
    """A hold on one process that no recycling of its pid can redirect."""

    @property
    def pid(self) -> int: ...

    @property
    def start_ticks(self) -> int: ...

    def send(self, signal: Signal, /) -> bool:
        """Send the signal; False when the process is gone. Raises PermissionError."""
        ...

    def stop(self) -> bool:
        """Stop the process (SIGSTOP), so that it forks no more; False when it is gone. Raises PermissionError."""
        ...

    async def wait_exit(self) -> None:
        """Return when the process has exited, reaped or not."""
        ...

    def release_memory(self) -> bool:
        """Take the memory of a dying process back ahead of its exit; whether that was done.

        Blocks for 90-270 ms a GiB: call it in a thread. False for one that is not dying (SIGTERM that it
        has a handler for), too late, or where the kernel has no process_mrelease: all normal.
        """
        ...

    def close(self) -> None: ...


class Domain(Protocol):
    """A scope of memory that is being watched."""

    def read(self, now_us: int) -> Reading | None:
        """Measure now; None when the cgroup is gone."""
        ...

    async def wait_event(self) -> None:
        """Return when a PSI trigger or a memory event fired; for ever if the domain has neither.

        May be spurious, and may come every 10-20 ms while a limit is breached: the caller reads,
        judges and rests. An event between two calls is kept for the second.
        """
        ...

    def close(self) -> None: ...


class ProcessEvents(Protocol):
    """The kernel's word of every process that is forked, execs, changes its ids or name, and exits."""

    async def wait(self) -> None:
        """Return when there may be something to take."""
        ...

    def take_nowait(self) -> tuple[list[ProcessEvent], bool]:
        """Take what has come, in order; and whether some were lost, so that only a scan tells what is there."""
        ...

    def close(self) -> None: ...


class Alarm(Protocol):
    """What a thread beside the loop waits for, and what it reads then. It shares nothing with a Domain."""

    def wait(self, timeout_s: float | None, /) -> None:
        """Block until tasks stall, somebody calls or is overdue, or so much time has passed; None: only then."""
        ...

    def expect(self, within_us: int, /) -> None:
        """Say that all is well; who does not say so again within so long is overdue. From any thread."""
        ...

    def call(self) -> None:
        """Have whoever waits return. From any thread."""
        ...

    def read(self) -> Reading | None:
        """Measure the system now."""
        ...

    def close(self) -> None: ...


class CgroupWatch(Protocol):
    """The cgroups that some globs name, as they come and go."""

    def paths(self) -> frozenset[str]:
        """Return those that are there now. Walks only where a glob could match below."""
        ...

    async def wait_changed(self) -> None:
        """Return when one may have come or gone; many at once are one change. May be spurious."""
        ...

    def close(self) -> None: ...


class Kernel(Protocol):
    """A machine: its memory, its processes, and what can be done to them."""

    def features(self) -> Features:
        """What this kernel has, as found at start."""
        ...

    def now_us(self) -> int:
        """CLOCK_MONOTONIC in microseconds; trio's clock on a simulated kernel."""
        ...

    def open_domain(self, domain: str) -> Domain | None:
        """Watch "system" or a cgroup path; None when there is no such cgroup or no memory
        controller."""
        ...

    def open_alarm(self) -> Alarm | None:
        """Open an alarm; None where no thread can wait for this kernel."""
        ...

    def scan(self, domain: str, min_size_kib: int, details: Details = NO_DETAILS) -> list[Process]:
        """List the live user processes of the domain's subtree of at least that size, memory and
        swap."""
        ...

    def pids(self) -> list[int]:
        """List the pids of all processes, kernel threads too."""
        ...

    def own_kib(self, pids: Iterable[int]) -> dict[int, int]:
        """Measure what each of many holds for itself in memory, its swap not counted; without those that are gone."""
        ...

    def size_kib(self, pid: int, start_ticks: int) -> int | None:
        """Measure what one process holds, shared memory and swap included; None when it is gone."""
        ...

    def process(self, pid: int, details: Details = NO_DETAILS) -> Process | None:
        """Read whatever process has that pid now; None for no process, or a zombie."""
        ...

    def start_ticks(self, pid: int) -> int | None:
        """Read the start of whatever process has that pid now: its identity, at the price of one file."""
        ...

    def glance(self, pid: int) -> Glance | None:
        """Read what one file says of whatever process has that pid now; None for no process, or a zombie."""
        ...

    def child_pids(self, pid: int) -> list[int]:
        """List the children of a process, as they are now."""
        ...

    def open_process_events(self) -> ProcessEvents | str:
        """Listen to the process connector, or say in words why that cannot be. Loads pyroute2."""
        ...

    def set_oom_score_adj(self, pid: int, start_ticks: int, value: int) -> bool:
        """Tell the kernel's OOM killer where this process ranks; False when it is gone.

        Raises PermissionError: lowering it below the inherited value takes CAP_SYS_RESOURCE.
        """
        ...

    def open_victim(self, pid: int, start_ticks: int) -> VictimHandle | None:
        """Take hold of the process; None when it is gone or its pid has been recycled."""
        ...

    def cgroup_pids(self, path: str) -> list[int]:
        """List the pids of the cgroup's subtree."""
        ...

    def watch_cgroups(self, globs: tuple[str, ...]) -> CgroupWatch:
        """Watch for cgroups that one of the globs names; none ever come where there is no cgroup2."""
        ...

    def cgroup_owner(self, path: str) -> int | None:
        """Read which uid owns the cgroup's directory; None when it is gone."""
        ...

    def set_oom_group(self, path: str, together: bool) -> bool | None:
        """Have the kernel's OOM killer take a cgroup as a whole or not; return how it was before.

        None when it is gone, is the root, or there is no memory.oom.group. Raises PermissionError.
        """
        ...

    def freeze_cgroup(self, path: str, frozen: bool) -> bool:
        """Stop a cgroup's whole subtree, or let it go on; False when it is gone or cannot be frozen."""
        ...

    def note_kill(self, path: str, processes: int, kill_id: str) -> bool:
        """Count a kill in the cgroup's user.oomd_ooms and user.oomd_kill, and name it in user.oomd_kill_uuid.

        As systemd-oomd and oomd do, so that whoever shows their kills shows ours. False when it is gone, or may
        not be written.
        """
        ...

    def kill_cgroup(self, path: str) -> bool:
        """Kill the whole subtree at once; False when the cgroup is gone or is the root, or
        without cgroup.kill."""
        ...

    async def wait_cgroup_empty(self, path: str) -> None:
        """Return when the subtree holds no live process, or is gone."""
        ...
