"""Rank: who would die, in which order, and why the others would not.

The order is total and depends on nothing but its arguments: class first, then whether the word was kept, then the
larger one, then the pid. The same function serves a kill and the explanation of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmkd.model import App, AppClass, Level, Process, Unit, Victim, is_within
from lmkd.policy.classify import classify, never_kill_reason
from lmkd.policy.listen import present_trust
from lmkd.policy.state import DomainState
from lmkd.policy.turn import Turn


@dataclass(frozen=True, slots=True)
class Candidate:
    """One unit that could die, with all that its place depends on."""

    victim: Victim
    trust: int
    spared: str | None
    """Why it is not for killing now, whatever its place; None: it is."""

    @property
    def order(self) -> tuple[int, int, int, int]:
        victim = self.victim
        return (victim.app_class, self.trust, -victim.size_kib, victim.pid)


def rank_candidates(
    turn: Turn, domain: DomainState, processes: Sequence[Process], level: Level
) -> list[Candidate]:
    """Return every unit of the scan in the order in which it would die at this level, those spared included."""
    apps = {(app.pid, app.start_ticks): app for app in turn.state.apps_in(domain.domain)}
    inside = [process for process in processes if is_within(process.cgroup, domain.domain)]
    units, taken = _cgroup_units(turn, domain, inside, apps)
    for process in inside:
        if process.pid not in taken:
            units.append(_process_unit(turn, domain, process, apps))
    total_kib = domain.window[-1].total_kib if domain.window else 0
    candidates = [
        Candidate(victim, trust, spared or _spare_reason(turn, domain, victim, total_kib, level))
        for victim, trust, spared in units
    ]
    candidates.sort(key=lambda candidate: candidate.order)
    return candidates


Ranked = tuple[Victim, int, str | None]


def _process_unit(
    turn: Turn, domain: DomainState, process: Process, apps: dict[tuple[int, int], App]
) -> Ranked:
    app = apps.get((process.pid, process.start_ticks))
    never = never_kill_reason(process, turn.state.own_pid)
    if app is None:
        classed = classify(process, turn.state.own_pid)
        app_class, why, name, trust = classed.app_class, classed.why, process.comm, 0
    else:
        app_class, why, name = app.app_class, "registered", app.name
        trust = present_trust(turn, domain, app)
    # What the daemon itself projected (system: -900) is not somebody else's mark; the rest of the set holds
    # for registered programs as well.
    victim = Victim(
        process.pid,
        process.start_ticks,
        name,
        app_class,
        why,
        process.size_kib,
        Unit.PROCESS,
        process.cgroup,
        app.app if app is not None else None,
    )
    return victim, trust, f"never killed: {never}" if never is not None else None


def _cgroup_units(
    turn: Turn,
    domain: DomainState,
    processes: Sequence[Process],
    apps: dict[tuple[int, int], App],
) -> tuple[list[Ranked], set[int]]:
    """Return the units that die as a whole cgroup, and the pids that are thereby spoken for.

    A group that holds a process that is never killed, another app, or the domain's own root, is not such a unit:
    its app then stands for its own process alone.
    """
    units: list[Ranked] = []
    taken: set[int] = set()
    by_pid = {process.pid: process for process in processes}
    for (pid, start_ticks), app in apps.items():
        leader = by_pid.get(pid)
        if app.unit is not Unit.CGROUP or leader is None or leader.start_ticks != start_ticks:
            continue
        path = leader.cgroup
        members = [process for process in processes if is_within(process.cgroup, path)]
        mixed = any(
            never_kill_reason(member, turn.state.own_pid) is not None
            or ((member.pid, member.start_ticks) in apps and member is not leader)
            for member in members
        )
        if path == "/" or mixed:
            continue
        victim = Victim(
            pid,
            start_ticks,
            app.name,
            app.app_class,
            "registered",
            sum(member.size_kib for member in members),
            Unit.CGROUP,
            path,
            app.app,
        )
        units.append((victim, present_trust(turn, domain, app), None))
        taken.update(member.pid for member in members)
    return units, taken


def _spare_reason(
    turn: Turn, domain: DomainState, victim: Victim, total_kib: int, level: Level
) -> str | None:
    settings = turn.settings
    killed_at = settings.classes[victim.app_class].killed_at
    if victim.app_class is AppClass.SYSTEM or killed_at is None:
        return "its class is never killed"
    identity = (victim.pid, victim.start_ticks)
    if identity in domain.spared:
        return "it could not be killed before"
    least_kib = settings.min_victim_kib(total_kib)
    if victim.size_kib < least_kib:
        return f"not worth killing: {victim.size_kib} KiB, the least is {least_kib} KiB"
    if level < killed_at:
        return f"its class may be killed at {killed_at.word} only"
    return None
