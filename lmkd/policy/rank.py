"""Rank: who would die, in which order, and why the others would not.

The order is total and depends on nothing but its arguments: class first; in strict mode whoever no rule speaks for,
before the rest of its class; then others' marks, the rule's bias, whether the word was kept, then the larger one, where
growth since the episode began counts more, then the pid. The same function serves a kill and the explanation of one.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from itertools import repeat
from typing import NamedTuple

from lmkd.model import (
    SYSTEM_DOMAIN,
    AppClass,
    Level,
    Mark,
    Process,
    Unit,
    Victim,
    is_within,
)
from lmkd.policy.classify import classify, classify_all
from lmkd.policy.groups import Group, Placed, find_groups
from lmkd.policy.listen import present_trust
from lmkd.policy.settings import Settings
from lmkd.policy.state import DomainState
from lmkd.policy.swarms import find_kin, part_to_end
from lmkd.policy.turn import Turn

FILE_BOUND_MOST = AppClass.BACKGROUND
"""The highest class of which something is ended where file pages are read again and again, and nothing else is short.
What it holds would make the cache larger, perhaps not by enough; and nobody runs out of memory meanwhile."""
GROWTH_WEIGHT = 3
"""A leak that has taken 25 MB is the cause, and an editor of 90 that has held them all day is not: what has grown since
the episode began counts once as size, and so many times more. (Seen in the arena: at the first stall the leak was
smaller than the foreground program, which died for it.)"""
SMALL_KEPT = 40
"""Of those too small to be worth a kill, the largest; a record holds twelve candidates, and nobody reads the rest."""


class Candidate(NamedTuple):
    """One unit that could die, with all that its place depends on."""

    victim: Victim
    trust: int
    spared: str | None
    """Why it is not for killing now, whatever its place; None: it is."""
    unruled_first: bool = False
    """Whether strict mode puts it before its class: no rule speaks for it."""
    mark: Mark = Mark.NONE
    bias: int = 0
    apps: tuple[int, ...] = ()
    """The registered programs among those that would die."""
    members: tuple[int, ...] = ()
    """The pids of a unit of several processes."""
    grown_kib: int = 0
    """By how much it has grown since the episode began."""

    @property
    def order(self) -> tuple[int, bool, int, int, int, int, int]:
        victim = self.victim
        return (
            victim.app_class,
            not self.unruled_first,
            self.mark,
            -self.bias,
            self.trust,
            -victim.size_kib - GROWTH_WEIGHT * self.grown_kib,
            victim.pid,
        )


def rank_candidates(
    turn: Turn,
    domain: DomainState,
    processes: Sequence[Process],
    level: Level,
    keep: Collection[int] = (),
) -> list[Candidate]:
    """Return the units of the scan in the order in which they would die at this level, those spared included.

    Of those too small to be worth it only the largest are returned, and those with a pid in `keep`.
    """
    ranking = _Ranking(turn, domain, level)
    free = ranking.inside(processes)
    candidates: list[Candidate] = []
    known: dict[int, Placed] = {}
    if ranking.has_groups:
        everybody = ranking.place(free)
        groups, taken = find_groups(everybody, domain.domain, ranking.is_worth)
        candidates = [ranking.judge_group(group) for group in groups]
        known = {one.process.pid: one for one in everybody if one.process.pid not in taken}
        free = [one.process for one in known.values()]
    swarms = ranking.find_swarms(free, known)
    if swarms:
        candidates.extend(ranking.judge_group(swarm) for swarm in swarms)
        taken = {one.process.pid for swarm in swarms for one in swarm.members}
        free = [process for process in free if process.pid not in taken]
    # Who is too small for every rule is classed only where somebody will read it: that is most of a machine.
    read = _worth_reading(free, ranking.least_of_all_kib, keep)
    placed = [known[process.pid] for process in read] if known else ranking.place(read)
    candidates.extend(ranking.judge(one) for one in placed)
    candidates.sort(key=lambda candidate: candidate.order)
    return candidates


def _worth_reading(
    processes: Sequence[Process], least_kib: int, keep: Collection[int]
) -> list[Process]:
    """Return the processes of at least that size, those to be kept, and the largest of the others."""
    sized = [(-process.anon_kib - process.swap_kib, process.pid, process) for process in processes]
    small = [one for one in sized if -one[0] < least_kib and one[1] not in keep]
    large = [one for one in sized if -one[0] >= least_kib or one[1] in keep]
    return [process for _, _, process in (*large, *heapq.nsmallest(SMALL_KEPT, small))]


class _Ranking:
    """What is the same for all candidates of one ranking, looked up once."""

    def __init__(self, turn: Turn, domain: DomainState, level: Level) -> None:
        self._turn = turn
        self._domain = domain
        self._level = level
        self._settings: Settings = turn.settings.of(domain.domain)
        self._apps = {(app.pid, app.start_ticks): app for app in turn.state.apps_in(domain.domain)}
        total_kib = domain.window[-1].total_kib if domain.window else 0
        self._least_kib = self._settings.min_victim_kib(total_kib)

    @property
    def has_groups(self) -> bool:
        return self._turn.settings.rules.has_groups or any(
            app.unit is not Unit.PROCESS for app in self._apps.values()
        )

    @property
    def least_of_all_kib(self) -> int:
        """The size below which no rule finds a kill worth making."""
        return self._turn.settings.rules.least_kib(self._least_kib)

    def inside(self, processes: Sequence[Process]) -> Sequence[Process]:
        """Return those inside the domain."""
        name = self._domain.domain
        if name == SYSTEM_DOMAIN:
            return processes
        return [process for process in processes if is_within(process.cgroup, name)]

    def place(self, processes: Sequence[Process]) -> list[Placed]:
        """Return processes, each with its app and its class."""
        # The rules are the same in every domain.
        settings, own_pid, apps = self._turn.settings, self._turn.state.own_pid, self._apps
        if not apps:
            classes = classify_all(processes, settings, own_pid)
            return [Placed(*one) for one in zip(processes, repeat(None), classes, strict=False)]
        placed = []
        for process in processes:
            app = apps.get((process.pid, process.start_ticks))
            classed = classify(process, settings, own_pid, registered=app is not None)
            placed.append(Placed(process, app, classed))
        return placed

    def find_swarms(self, processes: Sequence[Process], known: Mapping[int, Placed]) -> list[Group]:
        """Return the units that many small processes make together; `known` are those that are classed already."""
        apart = {app.pid for app in self._apps.values()}
        least_kib, judgement = self.least_of_all_kib, self._domain.judgement
        need_kib = max(least_kib, 0 if judgement is None else judgement.need_kib)
        swarms = []
        for kin in find_kin(processes, least_kib, apart):
            placed = [known[one.pid] for one in kin] if known else self.place(kin)
            free = {one.process.pid: one for one in placed if not one.is_never}
            part = part_to_end([one.process for one in free.values()], need_kib)
            members = tuple(free[process.pid] for process in part)
            if members:
                path = members[0].process.cgroup
                swarms.append(Group(Unit.SWARM, path, members[0], members, None))
        return swarms

    def is_worth(self, size_kib: int, one: Placed) -> bool:
        """Whether so much is worth a kill, for whom the rule of this process speaks."""
        return size_kib >= self._least_of(one)

    def _least_of(self, one: Placed) -> int:
        rule = one.classed.rule
        least_kib = None if rule is None else rule.verdict.least_kib
        return self._least_kib if least_kib is None else least_kib

    def judge(self, one: Placed) -> Candidate:
        """Return a process as a candidate."""
        never = one.classed.never
        victim = self._victim(one, self._class_of(one), one.process.size_kib, Unit.PROCESS)
        spared = f"never killed: {never}" if never is not None else None
        return self._candidate(one, victim, spared, (one,))

    def judge_group(self, group: Group) -> Candidate:
        """Return a unit of several processes as a candidate. Its class is the highest in it, its mark the strongest."""
        app_class = max(self._class_of(one) for one in group.members if not one.is_never)
        size_kib = sum(one.process.size_kib for one in group.members)
        victim = self._victim(group.leader, app_class, size_kib, group.unit)
        victim = victim._replace(cgroup=group.path, processes=len(group.members))
        if group.unit is Unit.SWARM:
            identities = [(one.process.pid, one.process.start_ticks) for one in group.members]
            victim = victim._replace(members=tuple(identities))
        members = tuple(one.process.pid for one in group.members)
        candidate = self._candidate(group.leader, victim, group.spared, group.members)
        return candidate._replace(members=members)

    def _class_of(self, one: Placed) -> AppClass:
        return one.classed.app_class if one.app is None else one.app.app_class

    def _victim(self, one: Placed, app_class: AppClass, size_kib: int, unit: Unit) -> Victim:
        process, app, classed = one
        rule = classed.rule
        return Victim(
            process.pid,
            process.start_ticks,
            process.comm if app is None else app.name,
            app_class,
            classed.why if app is None else "registered",
            size_kib,
            unit,
            process.cgroup,
            None if app is None else app.app,
            "" if rule is None else rule.name,
            None if rule is None else rule.verdict.time_to_exit_us,
        )

    def _candidate(
        self, one: Placed, victim: Victim, spared: str | None, members: Sequence[Placed]
    ) -> Candidate:
        rule, app = one.classed.rule, one.app
        mark = max(each.process.mark for each in members)
        if spared is None:
            spared = self._spare_reason(victim, mark, self._least_of(one))
        apps = tuple(each.app.app for each in members if each.app is not None)
        return Candidate(
            victim,
            0 if app is None else present_trust(self._turn, self._domain, app),
            spared,
            self._turn.settings.strict and rule is None and not apps,
            mark,
            0 if rule is None else rule.verdict.bias,
            apps,
            grown_kib=sum(self._growth_of(each.process) for each in members),
        )

    def _growth_of(self, process: Process) -> int:
        """Return by how much a process has grown in memory since the episode began; all of a newcomer is growth."""
        before = self._domain.sizes_kib
        if before is None:
            return 0
        return max(process.anon_kib - before.get((process.pid, process.start_ticks), 0), 0)

    def _spare_reason(self, victim: Victim, mark: Mark, least_kib: int) -> str | None:
        settings, app_class = self._settings, victim.app_class
        killed_at = settings.classes[app_class].killed_at
        if app_class is AppClass.SYSTEM or killed_at is None:
            return "its class is never killed"
        if app_class not in settings.killable:
            return "nothing of its class may die in this domain"
        if mark is Mark.OMIT:
            return "its cgroup is marked user.oomd_omit"
        if (victim.pid, victim.start_ticks) in self._domain.spared:
            return "it could not be killed before"
        if victim.size_kib < least_kib:
            return f"not worth killing: {victim.size_kib} KiB, the least is {least_kib} KiB"
        judgement = self._domain.judgement
        if app_class > FILE_BOUND_MOST and judgement is not None and judgement.file_bound:
            return (
                "memory is short for file pages alone, and nothing of its class is ended for that"
            )
        if self._level < killed_at:
            return f"its class may be killed at {killed_at.word} only"
        return None


class Standing(NamedTuple):
    """Where one process stands at one level."""

    rank: int | None
    """1 for the first to go; None: it is not for killing at this level."""
    of: int
    """How many are for killing."""
    spared: str | None
    before: tuple[Victim, ...]
    """Who would have to die before it, first to go first."""


def stand_at(
    turn: Turn, domain: DomainState, processes: Sequence[Process], level: Level, pid: int
) -> Standing | None:
    """Return where a process, or the unit that it is part of, stands; None when it was not among those scanned."""
    ranked = rank_candidates(turn, domain, processes, level, keep=(pid,))
    own = next((one for one in ranked if pid == one.victim.pid or pid in one.members), None)
    if own is None:
        return None
    worth = [one for one in ranked if one.spared is None]
    if own.spared is not None:
        return Standing(None, len(worth), own.spared, ())
    place = worth.index(own)
    return Standing(place + 1, len(worth), None, tuple(one.victim for one in worth[:place]))
