"""The rules: a whole machine classed, one newborn, and a ranking at critical.

The rules are an administrator's 200 of all kinds before the shipped ones; the processes are spread as on a large
machine: some hundreds of programs and cgroups, a few dozen users, and every tenth process with a name of its own.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from lmkd.config import load_config
from lmkd.kernel.interface import NO_DETAILS
from lmkd.kernel.simulated import SimulatedKernel
from lmkd.model import SYSTEM_DOMAIN, AppClass, Level, Process, Reading, Unit
from lmkd.policy import heart
from lmkd.policy.classify import classify
from lmkd.policy.events import DomainOpened, ReadingTaken
from lmkd.policy.patterns import ExeTest, GlobTest, RangeTest, TextTest, UnitTest
from lmkd.policy.rank import rank_candidates
from lmkd.policy.rules import Condition, Rule, RuleSet, Verdict
from lmkd.policy.settings import Settings
from lmkd.policy.turn import Turn
from lmkd.service.projection import Projection
from lmkd.service.roll import Roll
from tests.bench.rows import Row, middle, percentile

ROUNDS = 9
NEWBORNS = 2_000
MIB = 1024


def rules_of_all_kinds(count: int, *, groups: bool = False) -> tuple[Rule, ...]:
    """Return rules that ask of everything there is, each of something else."""
    kinds = (
        lambda n: [Condition("comm", TextTest((f"prog{n}",)))],
        lambda n: [Condition("comm", TextTest((f"work(er)?-{n}-.*",)))],
        lambda n: [Condition("exe", ExeTest((f"tool{n}",)))],
        lambda n: [Condition("exe", ExeTest((f"/opt/app{n}/.*",)))],
        lambda n: [Condition("cgroup", GlobTest((f"/user.slice/**/app-{n}*.scope",)))],
        lambda n: [Condition("systemd_unit", UnitTest((f"service{n}*.service",)))],
        lambda n: [Condition("uid", RangeTest(((1000 + n, 1000 + n),)))],
        lambda n: [Condition("cmdline", TextTest((f".*--job={n}( .*)?",)))],
        lambda n: [
            Condition("comm", TextTest((f"prog{n % 50}",))),
            Condition("resident", RangeTest(((n * MIB * 100, None),))),
        ],
        lambda n: [Condition("parent", TextTest((f"parent{n}",)))],
    )
    unit = Unit.TREE if groups else Unit.PROCESS
    return tuple(
        Rule(
            f"rule {number}",
            f"bench.toml:{number}",
            tuple(kinds[number % len(kinds)](number)),
            Verdict(AppClass(number % 4), unit=unit if number % 40 == 0 else Unit.PROCESS),
        )
        for number in range(count)
    )


def processes_of_a_large_machine(count: int) -> tuple[Process, ...]:
    """Return processes, of which one in twenty is large."""
    return tuple(
        Process(
            pid=100 + number,
            start_ticks=number,
            ppid=100 + number // 3 if number > 3 else 1,
            comm=f"only{number}" if number % 10 == 0 else f"prog{number % 300}",
            exe=f"/usr/bin/prog{number % 300}",
            uid=1000 + number % 30,
            cgroup=f"/user.slice/user-{number % 30}.slice/app-x{number % 400}.scope",
            oom_score_adj=(0, 0, 200, 700, 900)[number % 5],
            anon_kib=(80 if number % 20 == 0 else 2) * MIB + number,
            swap_kib=0,
            state="S",
            parent_comm=f"parent{number % 100 + 500}",
            cmdline=f"/usr/bin/prog{number % 300} --number={number}",
        )
        for number in range(count)
    )


def settings_with(rules: tuple[Rule, ...]) -> Settings:
    """Return the shipped settings with these rules before the shipped ones."""
    settings = load_config([]).settings
    return replace(settings, rules=RuleSet((*rules, *settings.rules.rules)))


def measure() -> list[Row]:
    gc.collect()
    gc.freeze()  # as the daemon does at start
    rules = rules_of_all_kinds(200)
    processes = processes_of_a_large_machine(5_000)
    cold_ms = [
        _time(partial(_classify_all, settings_with(rules), processes)) for _ in range(ROUNDS)
    ]
    newborn_us = _newborns(settings_with(rules))
    rows = [
        Row("200 rules over 5,000 processes, nothing known yet", middle(cold_ms), 150, "ms"),
        Row(
            "one newborn: read, matched, placed; our own code",
            middle(newborn_us),
            100,
            "us",
            f"99 of 100 within {percentile(newborn_us, 0.99):.0f}",
        ),
    ]
    # With a rule whose unit is a tree every process has to be classed, however small: it may be part of one.
    for what, groups, limit_ms in (("", False, 20), (", with trees", True, 30)):
        ranking = _ranking(settings_with(rules_of_all_kinds(200, groups=groups)))
        times_ms = [_time(ranking) for _ in range(ROUNDS)]
        rows.append(
            Row(f"ranking of 10,000 known processes{what}", middle(times_ms), limit_ms, "ms")
        )
    return rows


def _classify_all(settings: Settings, processes: tuple[Process, ...]) -> None:
    for process in processes:
        classify(process, settings, 1)


def _newborns(settings: Settings) -> list[float]:
    """Time what the roll does for each newborn on a simulated kernel, whose own part is a lookup."""
    kernel = SimulatedKernel()
    projection = Projection(kernel, None, lambda work: work())
    roll = Roll(kernel, projection, settings, 1, lambda: 0)
    times_us = []
    for number in range(NEWBORNS):
        pid = kernel.spawn(
            f"prog{number % 300}", anon_kib=1024, cgroup=f"/a/app-{number % 50}.scope"
        )
        process = kernel.process(pid, NO_DETAILS)
        assert process is not None
        began_ns = time.perf_counter_ns()
        roll.see(process)
        times_us.append((time.perf_counter_ns() - began_ns) / 1e3)
    return times_us


def _ranking(settings: Settings) -> Callable[[], object]:
    state = heart.start(settings, 1)
    reading = Reading(SYSTEM_DOMAIN, 0, 32 << 20, 100 << 10)
    for event in (DomainOpened(SYSTEM_DOMAIN), ReadingTaken(reading)):
        state, _ = heart.step(state, event, 0)
    processes = processes_of_a_large_machine(10_000)
    domain = state.domains[SYSTEM_DOMAIN]

    def rank() -> None:
        rank_candidates(Turn(state, 0), domain, processes, Level.CRITICAL)

    rank()  # they are known
    return rank


def _time(do: Callable[[], object]) -> float:
    began_ns = time.perf_counter_ns()
    do()
    return (time.perf_counter_ns() - began_ns) / 1e6
