"""The workloads: which programs there are, what each does, and how much it would be missed.

Sizes are for a guest of 512 MiB, of which 420 are available before anything runs. `options` are those of
guest/program.c. oom_score_adj is what a systemd session gives: 100 to its own parts, 200 to programs, more to tabs.
"""

from dataclasses import dataclass
from typing import Literal

Role = Literal["culprit", "missed", "other"]
MIB_KIB = 1024
DATA_FILE = "@data@"  # a file of the host, of DATA_MIB, put in its place by the stage
DATA_MIB = 1600
FILL_FILE = "/run/arena-fill/file"  # on a tmpfs of its own
FILL_MIB = 300


@dataclass(frozen=True, slots=True)
class Program:
    """One program of a workload."""

    name: str
    role: Role
    hold_mib: int = 0
    options: tuple[str, ...] = ()
    adj: int = 200
    sheddable_mib: int = 0
    app_class: str = ""  # under lmkd, of those that would register
    session: bool = False  # a part of the session itself, and not a program in it
    scope: str = ""  # the cgroup's name, where it is shared; else its own


@dataclass(frozen=True, slots=True)
class Workload:
    """Programs, and how long they are looked at."""

    name: str
    about: str
    programs: tuple[Program, ...]
    swap_mib: int
    bound_ms: int
    nobody_should_act: bool = False
    least_ms: int = 0
    """Looked at for so long under every guard: else the 99th percentile of what is measured by the sweep would be worse
    the sooner a guard is done, for the same slow sweeps are among fewer then."""


def _foreground(hold_mib: int = 80) -> Program:
    return Program("foreground", "missed", hold_mib, ("part=sweep", "track=0"))


def _workers(count: int, hold_mib: int) -> tuple[Program, ...]:
    return tuple(Program(f"worker{number + 1}", "missed", hold_mib) for number in range(count))


def _grow(mib_s: int, most_mib: int, after_ms: int = 0) -> tuple[str, ...]:
    rate = f"kib_s={mib_s * MIB_KIB}"
    return ("part=grow", rate, f"most_kib={most_mib * MIB_KIB}", f"after_ms={after_ms}")


def _leak(mib_s: int, most_mib: int, after_ms: int = 0) -> Program:
    return Program("leak", "culprit", 0, _grow(mib_s, most_mib, after_ms))


_TAB = "Web Content"
_DESKTOP = (
    Program("gnome-shell", "missed", 25, adj=100, session=True),
    Program("editor", "missed", 45, ("part=sweep", "track=0"), 200, 12, "foreground"),
    Program("player", "missed", 20, ("part=sweep", "track=1"), 200, 4, "perceptible"),
    Program("firefox", "missed", 35, (), 200, 10, "perceptible", scope="firefox"),
    *(Program(_TAB, "other", 6, (), 300, 4, "cached", scope="firefox") for _ in range(20)),
    Program("make", "other", 1, (), 200, scope="build"),
    *(Program("cc1", "other", 1, _grow(2, 12), 200, scope="build") for _ in range(3)),
    _leak(12, 500, after_ms=12_000),
)

WORKLOADS = (
    Workload(
        "baseline",
        "a foreground program sweeps 80 MB, three hold 60 MB each, one leaks 25 MB/s",
        (_foreground(), *_workers(3, 60), _leak(25, 600)),
        200,
        30_000,
        least_ms=15_000,
    ),
    Workload(
        "slow-leak",
        "the same with 70 MB each, and a leak of 8 MB/s",
        (_foreground(), *_workers(3, 70), _leak(8, 500)),
        200,
        40_000,
    ),
    Workload(
        "fast-leak",
        "as the baseline, with a leak of 400 MB/s and no swap",
        (_foreground(), *_workers(3, 60), _leak(400, 600)),
        0,
        12_000,
    ),
    Workload(
        "spread",
        "300 small processes of one program leak 25 MB/s together",
        (
            _foreground(60),
            *_workers(2, 50),
            Program(
                "spread", "culprit", 0, ("part=spread", "children=300", "kib_s=85", "most_kib=1800")
            ),
        ),
        200,
        30_000,
    ),
    Workload(
        "fork-bomb",
        "a program forks until it is 1,200, each with 256 KB",
        (
            _foreground(),
            *_workers(3, 50),
            Program("bomb", "culprit", 0, ("part=bomb", "children=1200", "kib=256")),
        ),
        200,
        30_000,
    ),
    Workload(
        "tmpfs-fill",
        "a program of 1 MB writes 300 MB into a tmpfs at 40 MB/s; no swap",
        (
            _foreground(),
            *_workers(2, 50),
            Program(
                "writer",
                "culprit",
                0,
                (
                    "part=fill",
                    f"path={FILL_FILE}",
                    f"kib_s={40 * MIB_KIB}",
                    f"most_kib={FILL_MIB * MIB_KIB}",
                ),
            ),
        ),
        0,
        20_000,
    ),
    Workload(
        "file-thrash",
        "a program walks through 280 MB of mapped file for 20 s, where 200 MB are left; no swap",
        (
            _foreground(),
            *_workers(2, 60),
            Program(
                "indexer",
                "culprit",
                0,
                ("part=map", f"path={DATA_FILE}", "span=280", "for_ms=20000"),
            ),
        ),
        0,
        25_000,
    ),
    Workload(
        "desktop-day",
        "editor, player, browser with 20 tabs, a build that grows, and after 12 s a leak of 12 MB/s",
        _DESKTOP,
        200,
        40_000,
    ),
    Workload(
        "healthy",
        "a backup reads 1.5 GB of files: little is free, much is available, and nobody should act",
        (
            _foreground(),
            *_workers(2, 50),
            Program(
                "backup",
                "missed",
                2,
                ("part=read", f"path={DATA_FILE}", "span=1500", "for_ms=15000"),
            ),
        ),
        200,
        17_000,
        nobody_should_act=True,
    ),
)
BY_NAME = {workload.name: workload for workload in WORKLOADS}
