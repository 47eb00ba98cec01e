"""The roll: every process that is known, what the rules say of it, and the place it was given for it.

A newcomer is read and matched at once, whether the kernel told of it or a look at /proc found it. What our own
projection wrote is taken out of what is read: a process is judged by the oom_score_adj that others gave it, also by
one that it inherited from a parent to which we gave a place.

Nothing is decided here but places; who dies is for the heart, which is given processes as they are read then. After
lost events there is a new look at everything, so the worst that a storm can do is that a place is given late.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from lmkd.kernel.interface import Kernel
from lmkd.model import (
    SYSTEM_DOMAIN,
    App,
    Details,
    Process,
    ProcessEvent,
    ProcessEventKind,
    Unit,
    is_within,
)
from lmkd.policy.classify import Classed, classify
from lmkd.policy.place import place_of
from lmkd.policy.settings import Settings
from lmkd.service.projection import Projection, Written

log = logging.getLogger("lmkd")

YOUNG_US = (1_000_000, 10_000_000)
"""At these ages a process is looked at once more: it may have been seen between fork and exec, and nobody tells when
somebody puts it into another cgroup, which is done to the young."""
YOUNG_MOST = 10_000
"""Who is young beyond that, in a storm, is looked at with everybody else."""

NOTED_LEAST_KIB = 1024
GLANCES = 5
"""So many cost as much as one look at everything (0.014 ms and 0.058)."""
NEW_LOOKED_AT = 30
"""Of those that are not known when small ones are wanted, for a kill; of children GLANCES times as many, enough to
see a bomb. Each look costs the kernel a page now and then: to get those for 500 took 2 to 5 s (the arena)."""

GONE_KEPT = 64
"""Of the session's own that have ended: a kill by the system's daemon is heard of after the end."""

Identity = tuple[int, int]


@dataclass(slots=True)
class Known:
    """One process on the roll."""

    process: Process
    """As it was read last, with the oom_score_adj that others gave it."""
    classed: Classed
    app: App | None

    @property
    def identity(self) -> Identity:
        return self.process.pid, self.process.start_ticks


class Roll:
    """All processes that are known."""

    def __init__(
        self,
        kernel: Kernel,
        projection: Projection,
        settings: Settings,
        own_pid: int,
        now_us: Callable[[], int],
        scope: str = "all",
    ) -> None:
        """`scope` says whose place is written: "all", "registered" programs', or "none"."""
        self._kernel = kernel
        self._projection = projection
        self._settings = settings
        self._own_pid = own_pid
        self._now_us = now_us
        self.scope = scope
        self.known: dict[int, Known] = {}
        self._gone: dict[int, Known] = {}
        """In a session the user's own that have ended, the latest last."""
        self._kernel_threads: set[int] = set()
        """Pids that are nobody's to judge. Else they are newcomers after every look at all, for no scan has them: in
        the arena's bomb, soon after the start, lmkd read 45 of them before the first of its 400 children."""
        self._apps: dict[Identity, App] = {}
        self._together: Counter[str] = Counter()
        """How many processes are in each cgroup that dies as a whole."""
        self.hits: Counter[int] = Counter()
        """How many processes each rule was given to, by its place in the list."""
        self.unruled_hits = 0
        self._numbers: dict[int, int] = {}
        self._details = Details()
        self._asks_comm = False
        self._sessions: dict[tuple[int, int], Written] = {}
        """During a look: by session and place what we wrote for somebody there."""
        self._young: tuple[deque[tuple[int, Identity]], ...] = tuple(deque() for _ in YOUNG_US)
        """For each age who comes to it when, in order."""
        self.follow(settings, self.scope)

    # --- the rules ---------------------------------------------------------------------------------------

    def follow(self, settings: Settings, scope: str) -> None:
        """Go by these settings from now on; everybody known is matched anew, and the counters begin again."""
        self._settings, self.scope = settings, scope
        self._details = settings.rules.details
        self._asks_comm = any(
            condition.subject == "comm"
            for rule in settings.rules.rules
            for condition in rule.conditions
        )
        self._numbers = {id(rule): number for number, rule in enumerate(settings.rules.rules)}
        self.hits.clear()
        self.unruled_hits = 0
        for known in list(self.known.values()):
            # Read anew: the new rules may ask what the old ones did not.
            process = self._kernel.process(known.process.pid, self._details)
            if process is None or process.start_ticks != known.process.start_ticks:
                self._drop(known.process.pid)
            else:
                self._enter(self._with_own_adj(process), known.app, known)

    # --- who comes and goes ------------------------------------------------------------------------------

    def take(self, batch: Iterable[ProcessEvent]) -> None:
        """Take what the kernel tells of processes, in its order. Who came and went within it is passed over."""
        ended: dict[int, int] = {}
        batch = list(batch)
        for number, event in enumerate(batch):
            if event.kind is ProcessEventKind.EXIT:
                ended[event.pid] = number
        for number, event in enumerate(batch):
            if event.kind is ProcessEventKind.EXIT:
                self._take_exit(event.pid)
            elif ended.get(event.pid, -1) < number:
                if event.kind is ProcessEventKind.FORK:
                    self._take_fork(event.pid)
                elif event.kind is not ProcessEventKind.COMM or self._asks_comm:
                    self.look(event.pid)

    def _take_exit(self, pid: int) -> None:
        """The word is about the first thread: others may live on without it, and are the same process."""
        known = self.known.get(pid)
        if known is not None and self._kernel.start_ticks(pid) != known.process.start_ticks:
            self._drop(pid)

    def _take_fork(self, pid: int) -> bool:
        """Read a newcomer, by one file where it is as its parent; return whether it was.

        A child is as its parent until it execs. Who is put into another cgroup, or changes its user without exec, is
        seen when it is looked at once more, as one of the young.
        """
        glance = self._kernel.glance(pid)
        if glance is None:
            return True
        if glance.kernel_thread:
            self._kernel_threads.add(pid)
            return True
        self._kernel_threads.discard(pid)
        parent = self.known.get(glance.ppid)
        process = None
        if parent is not None and parent.app is None and pid not in self.known:
            process = None if self._details.parent else glance.as_child_of(parent.process, pid)
        if parent is None or process is None:
            self.look(pid)
            return False
        written = self._projection.find(parent.identity)
        if written is not None:
            self._projection.inherit((pid, glance.start_ticks), written)
        self.known[pid] = Known(process, parent.classed, None)
        self._note_young(self.known[pid])
        self._count_together(parent.classed, process.cgroup, 1)
        return True

    def look(self, pid: int) -> Known | None:
        """Read a process now and match it; None when it is gone."""
        process = self._kernel.process(pid, self._details)
        if process is None:
            self._drop(pid)
            return None
        return self.see(process)

    def see(self, process: Process) -> Known:
        """Take a process as it was just read, match it where it changed, and give it its place."""
        before = self.known.get(process.pid)
        if before is not None and before.process.start_ticks != process.start_ticks:
            self._drop(process.pid)
            before = None
        self._kernel_threads.discard(process.pid)
        process = self._with_own_adj(process)
        app = self._apps.get((process.pid, process.start_ticks))
        if before is not None and before.app is app and _same(before.process, process):
            before.process = process
            self._give_place(
                before
            )  # it may have another one than we thought, from before its parent's latest
            return before
        return self._enter(process, app, before)

    def _enter(self, process: Process, app: App | None, before: Known | None) -> Known:
        classed = classify(process, self._settings, self._own_pid, registered=app is not None)
        known = self.known[process.pid] = Known(process, classed, app)
        if before is None:
            self._note_young(known)
        else:
            self._count_together(before.classed, before.process.cgroup, -1)
        self._count(classed)
        self._count_together(classed, process.cgroup, 1)
        self._give_place(known)
        return known

    def _count(self, classed: Classed) -> None:
        if classed.rule is not None:
            self.hits[self._numbers[id(classed.rule)]] += 1
        elif classed.never is None:
            self.unruled_hits += 1

    def _drop(self, pid: int) -> None:
        known = self.known.pop(pid, None)
        if known is not None:
            self._projection.forget(known.identity)
            self._count_together(known.classed, known.process.cgroup, -1)
            if known.process.uid == self._settings.own_uid:
                self._gone.pop(pid, None)
                self._gone[pid] = known
                if len(self._gone) > GONE_KEPT:
                    del self._gone[next(iter(self._gone))]

    def recall(self, pid: int) -> Known | None:
        """Return a process that is known, or in a session was until lately; nothing is read."""
        return self.known.get(pid) or self._gone.get(pid)

    # --- looking -----------------------------------------------------------------------------------------

    def look_at_all(self) -> None:
        """Read every process: at the start, and when events were lost."""
        found = self._kernel.scan(SYSTEM_DOMAIN, 0, self._details)
        pids = {process.pid for process in found}
        gone = self.known.keys() - pids
        self._kernel_threads = {
            pid for pid in self._kernel.pids() if pid not in pids and self._is_kernels(pid)
        }
        self._note_sessions()
        # Parents first, so that what a child inherited of ours is known for ours.
        for process in sorted(found, key=lambda one: (one.start_ticks, one.pid)):
            self.see(process)
        self._sessions = {}
        for pid in gone:
            self._drop(pid)
        self._projection.inherited.clear()

    def _is_kernels(self, pid: int) -> bool:
        glance = self._kernel.glance(pid)
        return glance is not None and glance.kernel_thread

    def look_for_new(self, most: int) -> bool:
        """Find who came and went by their pids alone, and read so many newcomers; whether that was all of them.

        Or GLANCES times as many where they are as their parents: the children of a bomb cost a file each, not seven.
        """
        pids = set(self._kernel.pids())
        self._kernel_threads &= pids
        gone, new = self.known.keys() - pids, pids - self.known.keys() - self._kernel_threads
        if new:
            self._note_sessions()
        left = most * GLANCES
        for pid in sorted(new):
            if left <= 0:
                break
            left -= 1 if self._take_fork(pid) else GLANCES
            new.discard(pid)
        self._sessions = {}
        for pid in gone:
            self._drop(pid)
        return not new

    def _note_sessions(self) -> None:
        """Remember by session what we wrote for whom, the dead too: a child that lost its parent is still in it."""
        for known in self.known.values():
            written = self._projection.find(known.identity)
            if written is not None and known.process.session:
                for place in (*written.earlier, written.written):
                    self._sessions[known.process.session, place] = written

    def look_at_young(self, most: int) -> None:
        """Read those once more who have come to an age at which that is due; so many, the others next time."""
        now_us = self._now_us()
        for waiting in self._young:
            while waiting and waiting[0][0] <= now_us and most > 0:
                most -= 1
                _, (pid, start_ticks) = waiting.popleft()
                known = self.known.get(pid)
                if known is not None and known.process.start_ticks == start_ticks:
                    self.look(pid)

    def _note_young(self, known: Known) -> None:
        if known.process.kernel_thread:
            return
        now_us = self._now_us()
        for age_us, waiting in zip(YOUNG_US, self._young, strict=True):
            if len(waiting) < YOUNG_MOST:
                waiting.append((now_us + age_us, known.identity))

    def corrected(self, processes: Iterable[Process]) -> tuple[Process, ...]:
        """Return processes as they were read, but judged by what others gave them; the roll learns from it."""
        return tuple(self.see(process).process for process in processes)

    def small_ones(self, domain: str, below_kib: int, apart: Collection[int]) -> list[Process]:
        """Return the known processes of a domain that are smaller, with their sizes as of now. From any thread."""
        small = [
            known.process
            for known in list(self.known.values())
            if known.process.pid not in apart
            and not known.process.kernel_thread
            and is_within(known.process.cgroup, domain)
        ]
        sizes_kib = self._kernel.own_kib([process.pid for process in small])
        return [
            replace(process, anon_kib=size_kib, swap_kib=0)
            for process in small
            if (size_kib := sizes_kib.get(process.pid, below_kib)) < below_kib
        ]

    def is_known(self, pid: int) -> bool:
        """Whether a process of this pid is on the roll. From any thread."""
        return pid in self.known or pid in self._kernel_threads

    def note_sizes(self, domain: str) -> tuple[tuple[int, int, int], ...]:
        """Return what known processes of a domain hold in memory now, but for the smallest: (pid, start_ticks, KiB)."""
        inside = [
            known.identity
            for known in self.known.values()
            if not known.process.kernel_thread and is_within(known.process.cgroup, domain)
        ]
        sizes_kib = self._kernel.own_kib([pid for pid, _ in inside])
        return tuple(
            (pid, start_ticks, size_kib)
            for pid, start_ticks in inside
            if (size_kib := sizes_kib.get(pid, 0)) >= NOTED_LEAST_KIB
        )

    def as_others_have(self, processes: Iterable[Process]) -> list[Process]:
        """Return processes judged by what others gave them, and learn nothing: any thread may ask."""
        judged = []
        for process in processes:
            written = self._projection.find((process.pid, process.start_ticks))
            if written is not None and written.is_ours(process.oom_score_adj):
                process = replace(process, oom_score_adj=written.before)
            judged.append(process)
        return judged

    # --- registered programs -----------------------------------------------------------------------------

    def register(self, app: App) -> None:
        """A program has registered, or its class has changed."""
        identity = (app.pid, app.start_ticks)
        self._apps[identity] = app
        known = self.known.get(app.pid)
        if known is not None and known.identity == identity:
            self._enter(known.process, app, known)
        else:
            self.look(app.pid)

    def unregister(self, app: App) -> None:
        """It speaks for itself no more; the rules do."""
        identity = (app.pid, app.start_ticks)
        self._apps.pop(identity, None)
        known = self.known.get(app.pid)
        if known is not None and known.identity == identity:
            self._enter(known.process, None, known)

    # --- places ------------------------------------------------------------------------------------------

    def _with_own_adj(self, process: Process) -> Process:
        """Return a process with the oom_score_adj that others gave it."""
        identity, found = (process.pid, process.start_ticks), process.oom_score_adj
        written = self._projection.find(identity)
        known = self.known.get(process.pid) is not None
        if written is None:
            written = self._projection.inherited.get(identity)
            if written is None and not known:
                written = self._inherited_from(process)
        if written is None:
            return process
        if not written.is_ours(found):
            self._projection.forget(identity)  # somebody has set another one since
            return process
        if not known or found != written.written:
            # As it stands: it may have been forked before its parent had its latest place.
            self._projection.inherit(identity, written.then(written.before, found))
        return replace(process, oom_score_adj=written.before)

    def _inherited_from(self, process: Process) -> Written | None:
        """Return what of ours a newcomer has from its parent, or from one of its session where that is gone."""
        parent = self.known.get(process.ppid)
        if parent is not None:
            written = self._projection.find(parent.identity)
            if written is not None and written.is_ours(process.oom_score_adj):
                return written
        return self._sessions.get((process.session, process.oom_score_adj))

    def _give_place(self, known: Known) -> None:
        own = known.process.oom_score_adj
        wanted = None
        if self._is_in_scope(known):
            wanted = place_of(known.process, known.classed, known.app, self._settings)
        self._projection.project(known.identity, own, own if wanted is None else wanted)

    def _is_in_scope(self, known: Known) -> bool:
        if self._settings.dry_run or self.scope == "none":
            return False
        return known.app is not None or self.scope == "all"

    def _count_together(self, classed: Classed, cgroup: str, by: int) -> None:
        """Have the kernel's killer take a cgroup as a whole for as long as somebody in it is such a unit."""
        rule = classed.rule
        if rule is None or rule.verdict.unit is not Unit.CGROUP or classed.never is not None:
            return
        path = rule.unit_path(cgroup)
        if path == "/":
            return
        self._together[path] += by
        if self._together[path] <= 0:
            del self._together[path]
            self._projection.let_apart(path)
        elif self.scope == "all" and not self._settings.dry_run:
            self._projection.hold_together(path)


_ASKED = (
    "comm",
    "exe",
    "uid",
    "gid",
    "cgroup",
    "oom_score_adj",
    "mark",
    "parent_comm",
    "cmdline",
    "environ",
)


def _facts(process: Process) -> tuple[Any, ...]:
    return tuple(getattr(process, name) for name in _ASKED)


def _same(one: Process, other: Process) -> bool:
    """Whether rules and places have nothing new to go by. Its size alone changes no place."""
    return _facts(one) == _facts(other)
