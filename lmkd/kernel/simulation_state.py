"""The processes and cgroups of the simulated machine: what they are and have, not what becomes of them
(lmkd.kernel.simulation)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lmkd.model import Details, Mark, Process


class OnTerm(Enum):
    """What a simulated process does about SIGTERM."""

    EXITS = "exits"
    """The default action."""
    CATCHES = "catches"
    """Cleans up for its `cleanup_us`, then exits."""
    IGNORES = "ignores"


@dataclass(slots=True)
class SimProcess:
    """One process of the simulated machine."""

    pid: int
    start_ticks: int
    name: str
    exe: str
    ppid: int
    uid: int
    gid: int
    session: int
    cgroup: str
    cmdline: str
    environ: tuple[str, ...]
    mark: Mark
    """Beside those of its cgroups."""
    oom_score_adj: int
    anon_kib: int
    growth_kib_s: int
    on_term: OnTerm
    cleanup_us: int
    exit_us: int
    """From the deadly signal to the exit, in which the memory is still held."""
    protected: bool
    """Whether signals and writes are refused, as a process of another user does."""
    swap_kib: int = 0
    exits_at_us: int | None = None
    dying: bool = False
    stopped: bool = False
    term_waits: bool = False
    """A SIGTERM that came while it was stopped or frozen."""
    unpaid_us_kib: int = 0
    """Growth smaller than a KiB, carried over: KiB times microseconds per second."""

    @property
    def comm(self) -> str:
        return self.name[:15]

    def as_process(self, details: Details, parent_comm: str, mark: Mark) -> Process:
        return Process(
            pid=self.pid,
            start_ticks=self.start_ticks,
            ppid=self.ppid,
            comm=self.comm,
            exe=self.exe,
            uid=self.uid,
            cgroup=self.cgroup,
            oom_score_adj=self.oom_score_adj,
            anon_kib=self.anon_kib,
            swap_kib=self.swap_kib,
            state="T" if self.stopped else "S" if self.exits_at_us is None else "R",
            gid=self.gid,
            session=self.session,
            resident_kib=self.anon_kib,
            parent_comm=parent_comm if details.parent else "",
            cmdline=self.cmdline if details.cmdline else None,
            environ=self.environ if details.environ else None,
            mark=mark,
        )


@dataclass(slots=True)
class SimCgroup:
    """One cgroup, or the whole system under the path "/"."""

    path: str
    high_kib: int | None = None
    max_kib: int | None = None
    swap_max_kib: int | None = None
    file_kib: int = 0
    """Page cache that is charged to it, all of it droppable."""
    owner: int = 0
    """Uid that its directory belongs to."""
    mark: Mark = Mark.NONE
    oom_group: bool = False
    protected: bool = False
    """Whether its files may not be written."""
    children: int = 0
    some_total_us: int = 0
    full_total_us: int = 0
    refault_file_pages: int = 0
    events_high: int = 0
    events_max: int = 0
    events_oom: int = 0
    events_oom_kill: int = 0
    forced_permyriad: tuple[int, int] | None = None
    """Shares of some and full that stand whatever the memory does."""

    @property
    def limit_kib(self) -> int | None:
        limits = [limit for limit in (self.high_kib, self.max_kib) if limit is not None]
        return min(limits) if limits else None

    def events(self) -> tuple[int, int, int, int]:
        return self.events_high, self.events_max, self.events_oom, self.events_oom_kill
