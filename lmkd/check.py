"""`lmkd --check`: what would be watched and done on this machine, in figures, without doing any of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields

from lmkd.config import Config
from lmkd.config.schema import KILLABLE
from lmkd.kernel.machine import Machine
from lmkd.model import SYSTEM_DOMAIN, AppClass, Level, Reading
from lmkd.policy import heart
from lmkd.policy.detect import mib, percent
from lmkd.policy.escalate import least_scanned_kib
from lmkd.policy.events import DomainOpened, ReadingTaken
from lmkd.policy.rank import rank_candidates
from lmkd.policy.settings import Settings
from lmkd.policy.turn import Turn

_PROJECTED = {
    "all": "written for every process, from its class",
    "registered": "written for programs that register, from their class",
    "none": "left alone",
}
SHOWN_CANDIDATES = 5
SPARED_SHOWN = 3


def print_check(config: Config) -> None:
    """Print it. Reads the machine once; signals nobody, listens to nobody, writes nothing."""
    machine = Machine()
    print(f"configuration: {', '.join(config.files)}")
    print(f"socket:        {config.socket}")
    print(f"history:       {config.state_dir}, the last {config.history_episodes} episodes")
    spoken = [
        field.name
        for field in fields(config.interop)
        if getattr(config.interop, field.name) is True
    ]
    print(f"interop:       {', '.join(spoken) or 'nothing is switched on'}")
    missing = machine.features().missing()
    print("missing here:  " + ("nothing" if not missing else ""))
    for line in missing:
        print(f"  - {line}")
    _print_policy(config)
    for warning in config.warnings:
        print(f"warning: {warning}")
    _print_domain(config, machine, SYSTEM_DOMAIN)
    for pattern, names in _find_domains(config, machine):
        for name in names:
            _print_domain(config, machine, name)
        if not names:
            print(f"\ndomain {pattern}: no such cgroup now; watched as soon as there is one")
    _print_classes(config)
    _print_candidates(config, machine)


def _print_policy(config: Config) -> None:
    settings = config.settings
    shipped = sum(rule.shipped for rule in settings.rules.rules)
    unruled = "the first to go" if settings.strict else settings.unruled.word
    print(
        f"rules:         {len(settings.rules.rules) - shipped}, and {shipped} shipped ones after them"
    )
    print(f"unruled:       what no rule speaks for is {unruled}")
    print(f"oom_score_adj: {_PROJECTED[config.project]}")


def _find_domains(config: Config, machine: Machine) -> Iterator[tuple[str, list[str]]]:
    """Yield each domain's glob with the cgroups that it names now, and that no earlier one does."""
    seen: set[str] = set()
    for entry in config.settings.domains:
        watch = machine.watch_cgroups((entry.pattern,))
        try:
            names = sorted(watch.paths() - seen)
        finally:
            watch.close()
        seen.update(names)
        yield entry.pattern, names


def _print_domain(config: Config, machine: Machine, name: str) -> None:
    reading = _read(machine, name)
    settings = config.settings.of(name)
    kills = _may_die_words(settings)
    if reading is None:
        print(f"\ndomain {name} ({kills}): its memory cannot be read now")
        return
    print(
        f"\ndomain {name} ({kills}): {mib(reading.available_kib)} of {mib(reading.total_kib)} available"
    )
    print("  level      available below   some / full stall   swap left below   told")
    for level in (Level.LOW, Level.MEDIUM, Level.CRITICAL):
        stall = settings.stall[level]
        print(
            f"  {level.word:<10} {mib(settings.floor[level].enter.of(reading.total_kib)):>15}"
            f"   {percent(stall.some_permyriad):>8} / {percent(stall.full_permyriad):<8}"
            f"   {percent(settings.swap[level]):>15}   {_told_words(settings, level)}"
        )
    least_kib = settings.min_victim_kib(reading.total_kib)
    print(
        f"  a kill must free {mib(least_kib)} at least, and needs harm or exhaustion beside the level"
    )


def _read(machine: Machine, name: str) -> Reading | None:
    domain = machine.open_domain(name)
    if domain is None:
        return None
    try:
        return domain.read(machine.now_us())
    finally:
        domain.close()


def _may_die_words(settings: Settings) -> str:
    if settings.killable == KILLABLE:
        return "may kill"
    words = [app_class.word for app_class in sorted(settings.killable)]
    return f"may kill {', '.join(words)}" if words else "only tells"


def _told_words(settings: Settings, level: Level) -> str:
    words = [
        app_class.word
        for app_class in sorted(settings.killable)
        if settings.classes[app_class].killed_at is level
    ]
    return "everybody" + (f"; may die: {', '.join(words)}" if words else "")


def _print_classes(config: Config) -> None:
    print("\nclass        oom_score_adj   may be killed at   grace     time to exit")
    for app_class in AppClass:
        meant = config.settings.classes[app_class]
        at = meant.killed_at.word if meant.killed_at is not None else "never"
        print(
            f"{app_class.word:<12} {meant.oom_score_adj:>13}   {at:<16}   "
            f"{meant.grace_us // 1000:>5} ms   {meant.time_to_exit_us // 1000:>5} ms"
        )


def _print_candidates(config: Config, machine: Machine) -> None:
    """Print who would go first if the system were at critical now; programs that register change that."""
    reading = _read(machine, SYSTEM_DOMAIN)
    if reading is None:
        return
    state = heart.start(config.settings, os.getpid())
    for event in (DomainOpened(SYSTEM_DOMAIN), ReadingTaken(reading)):
        state, _ = heart.step(state, event, reading.at_us)
    turn = Turn(state, reading.at_us)
    processes = machine.scan(
        SYSTEM_DOMAIN,
        least_scanned_kib(state, state.domains[SYSTEM_DOMAIN]),
        config.settings.rules.details,
    )
    ranked = rank_candidates(turn, state.domains[SYSTEM_DOMAIN], processes, Level.CRITICAL)
    first = [candidate for candidate in ranked if candidate.spared is None][:SHOWN_CANDIDATES]
    print(
        "\nat critical, the first to go would be:"
        if first
        else "\nat critical, nobody would be worth killing"
    )
    for candidate in first:
        victim = candidate.victim
        print(
            f"  {victim.pid:>7}  {victim.name:<16} {mib(victim.size_kib):>12}  "
            f"{victim.app_class.word} ({victim.why_class})"
        )
    spared = [candidate for candidate in ranked if candidate.spared is not None]
    for candidate in sorted(spared, key=lambda one: -one.victim.size_kib)[:SPARED_SHOWN]:
        print(
            f"  {candidate.victim.pid:>7}  {candidate.victim.name:<16} spared: {candidate.spared}"
        )
