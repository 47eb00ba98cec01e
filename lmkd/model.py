"""The words of the domain: frozen, slotted values.

Nothing here reads a clock, a file or a socket, and nothing decides. The kernel adapters make readings and
processes, the policy makes verdicts of them, the service carries them about.

Units are in the names. Memory is counted in KiB, time in microseconds of CLOCK_MONOTONIC, shares in permyriad
(1/10,000). Values are integers: a float would make a replay depend on the machine that runs it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from typing import NamedTuple

SYSTEM_DOMAIN = "system"


class Level(IntEnum):
    """How pressed a domain is. A domain's level is the highest that any detector asks for."""

    NORMAL = 0
    LOW = 1
    MEDIUM = 2
    CRITICAL = 3

    @property
    def word(self) -> str:
        return self.name.lower()


class AppClass(IntEnum):
    """How much the user would miss a program; lower classes die first, SYSTEM never."""

    CACHED = 0
    BACKGROUND = 1
    SERVICE = 2
    PERCEPTIBLE = 3
    FOREGROUND = 4
    SYSTEM = 5

    @property
    def word(self) -> str:
        return self.name.lower()


class Unit(Enum):
    """What dies together."""

    PROCESS = "process"
    TREE = "tree"
    """A process and its descendants that stayed in its cgroup."""
    CGROUP = "cgroup"
    SWARM = "swarm"
    """Many small processes of one program; found when it is ranked, and nobody's to ask for."""


ASKED_UNITS = (Unit.PROCESS, Unit.TREE, Unit.CGROUP)
"""Those that a rule or a program may ask for."""


class Mark(IntEnum):
    """What somebody else wrote on a cgroup, as systemd-oomd and oomd read it; lower goes first within a class."""

    PREFER = -1
    NONE = 0
    AVOID = 1
    OMIT = 2
    """Not to be chosen at all."""


class Propagation(Enum):
    """Whose levels a subscriber of a domain hears, as the kernel's memory.pressure_level had it (cgroup v1)."""

    LOCAL = "local"
    """The domain's own alone."""
    DEFAULT = "default"
    """Also those of domains below it that no nearer subscriber listens to."""
    HIERARCHY = "hierarchy"
    """Also those of all domains below it."""


class Answer(Enum):
    """What an app said to a notice."""

    DONE = "done"
    WORKING = "working"
    NOTHING = "nothing"


class Signal(Enum):
    """The two steps of a kill."""

    TERM = "SIGTERM"
    KILL = "SIGKILL"


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything measured of a domain at one instant. None: this kernel, or this domain, does not say.

    For the system the figures come from /proc; for a cgroup from its memory.* files, counted over its subtree.
    """

    domain: str
    at_us: int
    total_kib: int
    """MemTotal, or the least of memory.high and memory.max; MemTotal again for a cgroup without a limit."""
    available_kib: int
    """MemAvailable, or what is left below the limit plus the page cache that could be dropped."""
    some_total_us: int | None = None
    """PSI memory `some total=`."""
    full_total_us: int | None = None
    """PSI memory `full total=`."""
    anon_kib: int = 0
    """Anonymous pages on the LRU: what could still go to swap."""
    swap_total_kib: int = 0
    swap_free_kib: int = 0
    """Room left in all swap areas that are on, or below the cgroup's memory.swap.max."""
    zram_free_kib: int = 0
    """The part of swap_free_kib that lies on zram."""
    zram_stored_kib: int = 0
    """Uncompressed size of what zram holds now (orig_data_size)."""
    zram_used_kib: int = 0
    """Memory that zram needs to hold it (mem_used_total)."""
    file_lru_kib: int = 0
    """Active and inactive file pages."""
    refault_file_pages: int | None = None
    """Counter: file pages that were evicted and came back (workingset_refault_file)."""
    limited_by: str = ""
    """The cgroup whose limit leaves the least, this one or an ancestor; "" where none of them has a limit."""
    scanned_pages: int | None = None
    """Counter: pages looked at by reclaim for this domain's own sake. System: pgscan_kswapd + pgscan_direct of
    vmstat, which leave out reclaim that a cgroup's own limit set off (mm/vmscan.c, 6.1). Cgroup: None."""
    events_high: int | None = None
    """Counters of memory.events; None for the system."""
    events_max: int | None = None
    events_oom: int | None = None
    events_oom_kill: int | None = None
    suspended_us: int = 0
    """Counter: how long the machine has been suspended since it started (CLOCK_BOOTTIME less CLOCK_MONOTONIC)."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process as a scan saw it. (pid, start_ticks) is its identity: a recycled pid has another start."""

    pid: int
    start_ticks: int
    ppid: int
    comm: str
    """As the kernel has it, at most 15 bytes, backslash-escaped where not UTF-8. A process sets it for itself."""
    exe: str
    """Target of /proc/PID/exe, "" where it cannot be read."""
    uid: int
    cgroup: str
    """Path in the cgroup2 hierarchy, "/" for the root or where there is none."""
    oom_score_adj: int
    """As others set it: what this daemon projects is taken out again before anybody judges by it."""
    anon_kib: int
    """RssAnon: what a kill gives back at once. Shared and file pages are not counted."""
    swap_kib: int
    state: str
    """One letter of /proc/PID/stat: R S D Z T ..."""
    kernel_thread: bool = False
    gid: int = 0
    session: int = 0
    """Session id of /proc/PID/stat: what a terminal started together."""
    resident_kib: int = 0
    """VmRSS, shared and file pages included."""
    parent_comm: str = ""
    """Comm of the parent, "" where it is gone or cannot be read."""
    cmdline: str | None = None
    """The arguments, joined by single spaces; None: not read. The process can overwrite them."""
    environ: tuple[str, ...] | None = None
    """NAME=value of the environment that exec gave it; None: not read."""
    mark: Mark = Mark.NONE
    """What others wrote on its cgroup or one above it."""

    @property
    def size_kib(self) -> int:
        """What a kill of this process alone would free, memory and swap together."""
        return self.anon_kib + self.swap_kib


class Glance(NamedTuple):
    """What one small file says of a process (/proc/PID/stat): enough to tell a child that is as its parent."""

    start_ticks: int
    ppid: int
    session: int
    comm: str
    kernel_thread: bool = False
    is_copy: bool = False
    """Whether it was forked just now and has executed nothing since: what it holds is still its parent's."""

    def as_like(self, other: Process, pid: int) -> Process | None:
        """Return the process as one like another, of which both came by fork; None where it has set itself apart."""
        if (self.session, self.comm) != (other.session, other.comm):
            return None
        return replace(other, pid=pid, start_ticks=self.start_ticks, ppid=self.ppid)

    def as_child_of(self, parent: Process, pid: int) -> Process | None:
        """Return the process as it came from fork; None where it is no such child, or has set itself apart since."""
        return self.as_like(parent, pid) if self.ppid == parent.pid else None


@dataclass(frozen=True, slots=True)
class App:
    """A program that registered."""

    app: int
    """Number given at registration; never used again while the daemon runs."""
    pid: int
    start_ticks: int
    uid: int
    name: str
    app_class: AppClass
    cgroup: str
    sheddable_kib: int = 0
    """What it says it could give back if asked for everything."""
    unit: Unit = Unit.PROCESS
    grace_us: int | None = None
    """Of the rule that speaks for it; None: its class's."""


@dataclass(frozen=True, slots=True)
class Details:
    """What of a process is read only where a rule asks for it: each costs a file more."""

    cmdline: bool = False
    environ: bool = False
    parent: bool = False


class ProcessEventKind(Enum):
    """What became of a process, as the kernel's process connector tells it."""

    FORK = "fork"
    EXEC = "exec"
    IDS = "ids"
    """Its uid or gid changed."""
    COMM = "comm"
    EXIT = "exit"


class ProcessEvent(NamedTuple):
    """One word of the process connector about a whole process, never about one of its threads."""

    kind: ProcessEventKind
    pid: int
    parent_pid: int = 0
    """Of FORK: who forked it."""


class Victim(NamedTuple):
    """What one kill is about, fixed when it is ranked. Who signals it re-checks (pid, start_ticks).

    A tuple and not a dataclass: ten thousand of them are made in one ranking, at a third of the time.
    """

    pid: int
    start_ticks: int
    name: str
    app_class: AppClass
    why_class: str
    """Where the class came from: "registered", or the rule that gave it."""
    size_kib: int
    unit: Unit
    cgroup: str
    """Where it is; for the unit `cgroup`, what dies as a whole."""
    app: int | None = None
    rule: str = ""
    """The rule that spoke for it, "" where none did."""
    time_to_exit_us: int | None = None
    """Of the rule; None: the class's."""
    processes: int = 1
    """How many it was when it was ranked."""
    members: tuple[tuple[int, int], ...] = ()
    """Of a swarm: the (pid, start_ticks) of those that die."""


def is_within(path: str, ancestor: str) -> bool:
    """Whether a cgroup path is the ancestor itself or below it; the system domain holds every path."""
    if ancestor in (SYSTEM_DOMAIN, "/"):
        return True
    return path == ancestor or path.startswith(ancestor + "/")
