"""What the user loses, as it happens: the programs that one desktop notice is about.

Actions of the heart go in, and what is to be said now comes out. Nothing here waits or reads, and how it is said is not
known. What is of interest is what the user sees: programs that are perceptible or foreground; and those that are
background or service (an ordinary program that nothing speaks for is service) where they belong to an application that
menus show. What is cached nobody misses.

Kills that follow each other within TOGETHER_S are one notice. It names no more than LOSSES_MOST of them and counts the
others, so what is kept is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from lmkd.interop.desktop_entries import AppUnit, Entries, Entry, app_unit
from lmkd.interop.notice_words import Loss, Stage, Words, words_of
from lmkd.model import SYSTEM_DOMAIN, AppClass, Process, Signal, Unit, Victim
from lmkd.policy.actions import Action, Record, ReleaseVictim, ReportKilled, SendSignal

LOSSES_MOST: Final = 16
TOGETHER_S: Final = 10.0
STALE_S: Final = 60.0
"""After this long without news it is over, whoever may still be ending: a domain that is gone says no more of it."""
COMM_MOST: Final = 15
"""So much of a process's name the kernel keeps."""


@dataclass(slots=True)
class Held:
    """One program that is lost, while it is told of."""

    victim: Victim
    domain: str
    reason: str
    stage: Stage
    kill: int | None
    time_to_exit_us: int | None
    freed_kib: int
    unit: AppUnit | None
    is_part: bool
    entry: Entry | None
    is_looked_up: bool
    """Whether its entry was looked for; `entry` None then means that there is none."""

    @property
    def is_open(self) -> bool:
        return self.stage in (Stage.CLOSING, Stage.ENDING)

    @property
    def is_seen(self) -> bool:
        """Whether the user sees it, as far as is known."""
        if self.victim.app_class >= AppClass.PERCEPTIBLE:
            return True
        return self.entry is not None and self.entry.is_shown

    @property
    def ids(self) -> tuple[str, ...]:
        return _ids(self.victim, self.unit)

    def as_loss(self) -> Loss:
        victim = self.victim
        return Loss(
            victim.name,
            self.reason,
            self.freed_kib if self.stage is Stage.CLOSED else victim.size_kib,
            self.stage,
            self.time_to_exit_us,
            "" if self.entry is None else self.entry.name,
            self.is_part,
            victim.processes if victim.unit is Unit.SWARM else 1,
            self.domain != SYSTEM_DOMAIN,
        )


def _ids(victim: Victim, unit: AppUnit | None) -> tuple[str, ...]:
    """Return what the desktop entry of a victim may be called."""
    # Outside of a systemd session programs have no units; then what is called as an application is one.
    return (victim.name,) if unit is None else unit.ids


class Losses:
    """The programs of the present notice. `parent_of` returns a process's parent, where that is known."""

    def __init__(
        self,
        entries: Entries,
        parent_of: Callable[[int], Process | None],
        now_s: Callable[[], float],
    ) -> None:
        self._entries = entries
        self._parent_of = parent_of
        self._now_s = now_s
        self._held: list[Held] = []
        """In the order in which they came."""
        self._more = 0
        self._more_kib = 0
        self.number = 0
        """Counts the notices."""
        self.news_s = 0.0
        """When something happened last."""

    def take(self, action: Action) -> bool:
        """Keep what is to be said of an action; return whether there is any."""
        match action:
            case SendSignal(signal=Signal.TERM):
                exit_us = action.time_to_exit_us
                begun = self._begin(
                    action.domain, action.victim, action.reason, action.kill, exit_us
                )
                return begun is not None
            case SendSignal():
                return self._change(self._find_kill(action.kill), Stage.ENDING)
            case ReportKilled():
                return self._end(action)
            case ReleaseVictim():
                held = self._find_kill(action.kill)
                is_stuck = held is not None and held.stage is Stage.ENDING
                return self._change(held, Stage.STUCK if is_stuck else Stage.SPARED)
            case Record(kind="failed"):
                # It was never asked: it had gone by itself, or is not to be killed as it is now.
                held = self._find_kill(action.detail.get("kill"))
                if held is None:
                    return False
                self._held.remove(held)
                self.news_s = self._now_s()
                return True
            case _:
                return False

    def _begin(
        self, domain: str, victim: Victim, reason: str, kill: int | None, exit_us: int | None
    ) -> Held | None:
        """Take in somebody who is to end; None where nobody can see it."""
        if victim.app_class is AppClass.CACHED:
            return None
        unit = app_unit(victim.cgroup)
        entry = self._entries.find(_ids(victim, unit))
        held = Held(
            victim,
            domain,
            reason,
            Stage.CLOSING,
            kill,
            exit_us,
            victim.size_kib,
            unit,
            self._is_part(victim, unit),
            entry,
            # Who is in no application's unit is called as one, or is none: there is nothing to look for.
            is_looked_up=entry is not None or unit is None,
        )
        if held.is_looked_up and not held.is_seen:
            return None
        together_s = STALE_S if any(each.is_open for each in self._held) else TOGETHER_S
        if self._now_s() - self.news_s > together_s:
            self.start_anew()
        self._held.append(held)
        self._fold()
        self.news_s = self._now_s()
        return held

    def _end(self, action: ReportKilled) -> bool:
        victim = action.victim
        held = next((each for each in self._held if each.is_open and _is(each, victim)), None)
        if held is None:
            # Somebody else's kill: of the watchdog, or of the system's daemon.
            held = self._begin(action.domain, victim, action.reason, None, None)
        if held is not None:
            held.freed_kib = action.freed_kib
        return self._change(held, Stage.CLOSED)

    def _change(self, held: Held | None, stage: Stage) -> bool:
        if held is None:
            return False
        held.stage = stage
        self.news_s = self._now_s()
        return True

    def _find_kill(self, kill: object) -> Held | None:
        return next((each for each in self._held if each.is_open and each.kill == kill), None)

    def _fold(self) -> None:
        """Keep of the oldest only how many they were."""
        while len(self._held) > LOSSES_MOST:
            oldest = next((each for each in self._held if not each.is_open), self._held[0])
            self._held.remove(oldest)
            if oldest.stage is Stage.CLOSED and oldest.is_seen:
                self._more += 1
                self._more_kib += oldest.freed_kib

    def _is_part(self, victim: Victim, unit: AppUnit | None) -> bool:
        """Whether it is not the application itself but something in it, such as a tab.

        An application is the first process of its unit, or the first of its own name: what a sandbox starts is not.
        """
        if unit is not None and victim.unit is Unit.CGROUP:
            return victim.cgroup != unit.path
        parent = self._parent_of(victim.pid)
        if parent is None:
            return False
        if unit is None:
            return parent.comm == victim.name
        if parent.cgroup != unit.path and not parent.cgroup.startswith(unit.path + "/"):
            return False
        is_named = any(_is_called(victim.name, each) for each in unit.ids)
        return not is_named or _is_called(parent.comm, victim.name)

    # --- what is to be said ------------------------------------------------------------------------------

    def start_anew(self) -> None:
        """Forget all of it: what comes next is another notice."""
        self._held, self._more, self._more_kib = [], 0, 0
        self.number += 1

    def missing(self) -> dict[str, None]:
        """Return the ids of entries that are yet to be looked for."""
        return {each: None for held in self._held if not held.is_looked_up for each in held.ids}

    def note_looked_up(self, ids: dict[str, None]) -> None:
        """Those were looked for: who has no entry now has none, and who is then not seen is not told of."""
        for held in self._held:
            if not held.is_looked_up and all(each in ids for each in held.ids):
                held.is_looked_up = True
                held.entry = self._entries.find(held.ids)
        self._held = [held for held in self._held if not held.is_looked_up or held.is_seen]

    def words(self) -> Words | None:
        """Return what is to be said now; None for nothing."""
        return words_of([held.as_loss() for held in self._seen()], self._more, self._more_kib)

    def icon(self) -> str:
        """Return the icon of the application that it is about; "" for several, or none."""
        icons = {held.entry.icon for held in self._seen() if held.entry is not None}
        return icons.pop() if len(icons) == 1 else ""

    def longest_exit_us(self) -> int | None:
        """Return how long those who are being closed have at the most; None when nobody is."""
        exits_us = [held.time_to_exit_us or 0 for held in self._seen() if held.is_open]
        return max(exits_us, default=None)

    def _seen(self) -> Iterator[Held]:
        return (held for held in self._held if held.is_seen)


def _is(held: Held, victim: Victim) -> bool:
    return (held.victim.pid, held.victim.start_ticks) == (victim.pid, victim.start_ticks)


def _is_called(name: str, wanted: str) -> bool:
    """Whether a process's name is that of an application, whole or without the reversed domain before it."""
    name, wanted = name.casefold(), wanted.casefold()
    short = wanted.rpartition(".")[2]
    return name in (wanted, short, wanted[:COMM_MOST], short[:COMM_MOST])
