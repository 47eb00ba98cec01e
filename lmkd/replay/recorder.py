"""Record what goes into the heart, while it goes in.

While all is calm the last half minute or so is kept: two stretches of events, each with the state at its beginning,
the older of which is dropped when the newer is LEAD_US long. When an episode opens it goes on from there until no
domain is in one, and that is a *segment*: everything between two calms, with its lead-in.

It costs a few microseconds an event and about one for each process of a scan, and no more than about `most_bytes` of
memory (an estimate, and but for the latest scan). A stretch that takes half of that ends, in an episode too, and so the
oldest goes: a cgroup may be short of memory for days, and it is its last minutes that somebody asks about. States are
values that are replaced and never changed, so to keep one is to keep a reference.
"""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lmkd.model import SYSTEM_DOMAIN, Process
from lmkd.policy import events
from lmkd.policy.actions import Action, Plain, Record
from lmkd.policy.events import Event
from lmkd.policy.settings import Settings
from lmkd.policy.state import State
from lmkd.replay.scans import FACTS_BYTES, Patterns, ProcessTable, environ_tests
from lmkd.replay.verdicts import VERDICTS, Verdict, plain_verdicts

LEAD_US = 20_000_000
"""How much calm is kept before an episode at the least, once the daemon has run for as long."""
EVENT_BYTES = 700
"""About what a reading takes, with its place in the list (measured: 650); most other events are smaller."""
RULE_BYTES = 2_000
APP_BYTES = 900
VERDICT_BYTES = 600
LISTED_BYTES = 700
"""Of one entry in a list of a record: a candidate, or an app that was told."""
_CALM_SHARE = 4
"""A stretch of calm takes at most this part of the room: a storm of registrations is no lead-in."""


class Scan(NamedTuple):
    """Processes, as rows of the stretch's table."""

    domain: str
    rows: array[int]
    fed: bool
    """Whether the heart was given them; if not, it is what the daemon knew of them."""


class Moment(NamedTuple):
    """One thing that came, and when."""

    at_us: int
    event: Event | Scan


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a segment, whose scans share one table."""

    moments: tuple[Moment, ...]
    table: ProcessTable


@dataclass(frozen=True, slots=True)
class Segment:
    """What happened between two calms, or so far."""

    base: State
    """Before the first event."""
    base_us: int
    stretches: tuple[Stretch, ...]
    verdicts: tuple[Verdict, ...]
    """What came of the events when they happened."""
    episodes: tuple[int, ...]
    """The episodes in it, in order."""
    ends_open: bool = False
    """Whether an episode was going on after the last event."""

    @property
    def begins_open(self) -> bool:
        """Whether an episode was going on before the first event: there was no room for its beginning."""
        return any(domain.episode is not None for domain in self.base.domains.values())

    @property
    def last_us(self) -> int:
        moments = [moment for stretch in self.stretches for moment in stretch.moments[-1:]]
        return moments[-1].at_us if moments else self.base_us


class _Stretch:
    """A stretch in the making."""

    def __init__(self, base: State, base_us: int, episodes: Iterable[int]) -> None:
        self.base = base
        self.base_us = base_us
        self.episodes = sorted(episodes)
        """Those that were open at its beginning, and those that opened since."""
        self.moments: list[Moment] = []
        self.verdicts: list[tuple[int, Action]] = []
        self.table = ProcessTable()
        self.held_bytes = _state_bytes(base)

    @property
    def size_bytes(self) -> int:
        return self.held_bytes + self.table.size_bytes


class Recorder:
    """Keeps what goes into one heart and what comes out of it. Belongs to one thread; what it hands out does not."""

    def __init__(self, state: State, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._earlier: _Stretch | None = None
        self._current: _Stretch | None = None
        """None: a new one begins with the next event."""
        self._last_us = 0
        self._open = {
            domain.episode for domain in state.domains.values() if domain.episode is not None
        }
        self._finished: deque[tuple[Segment, int]] = deque()
        self._settings: Settings | None = None
        self._environ: Patterns = ()

    def note(self, at_us: int, event: Event, state: State) -> None:
        """Keep an event that the heart is about to be given, and the state before it."""
        current = self._current
        if current is None or self._is_full(current, at_us):
            self._earlier = current
            current = self._current = _Stretch(state, at_us, self._open)
        self._last_us = at_us
        if state.settings is not self._settings:
            self._settings = state.settings
            self._environ = environ_tests(state.settings)
        if type(event) is events.ProcessesScanned:
            rows = current.table.add(event.processes, self._environ)
            current.moments.append(Moment(at_us, Scan(event.domain, rows, fed=True)))
            return
        current.moments.append(Moment(at_us, event))
        current.held_bytes += _event_bytes(event)

    def keep(self, actions: Iterable[Action]) -> None:
        """Keep the verdicts among the actions that came of the event noted last."""
        current, closed = self._current, False
        if current is None:
            return
        for action in actions:
            if not isinstance(action, VERDICTS):
                continue
            current.verdicts.append((self._last_us, action))
            current.held_bytes += _verdict_bytes(action)
            if not isinstance(action, Record):
                continue
            if action.kind == "opened":
                self._open.add(action.episode)
                current.episodes.append(action.episode)
            elif action.kind == "closed":
                self._open.discard(action.episode)
                closed = True
        if closed and not self._open:
            self._finish()

    def note_processes(self, at_us: int, processes: Sequence[Process]) -> None:
        """Keep what is known of the processes, which the heart is not given: who could have died instead.

        Where they are too many for the room, the largest of them.
        """
        current = self._current
        if current is None:
            return
        most = self._most_bytes // (_CALM_SHARE * FACTS_BYTES)
        if len(processes) > most:
            processes = heapq.nlargest(most, processes, key=lambda process: process.size_kib)
        rows = current.table.add(processes, self._environ)
        current.moments.append(Moment(at_us, Scan(SYSTEM_DOMAIN, rows, fed=False)))

    def take(self) -> Segment | None:
        """Return a segment that is over and was not taken yet, the oldest first."""
        return self._finished.popleft()[0] if self._finished else None

    def snapshot(self) -> Segment | None:
        """Return what is recorded so far; it goes on. None: nothing has happened since the last episode."""
        return None if self._current is None else self._segment(going_on=True)

    @property
    def size_bytes(self) -> int:
        """An estimate of the memory held, what was not taken yet included."""
        return self._size_bytes() + sum(size for _, size in self._finished)

    def _size_bytes(self) -> int:
        stretches = (self._earlier, self._current)
        return sum(stretch.size_bytes for stretch in stretches if stretch is not None)

    def _is_full(self, stretch: _Stretch, at_us: int) -> bool:
        if self._open:
            return stretch.size_bytes > self._most_bytes // 2
        return (
            at_us - stretch.base_us >= LEAD_US
            or stretch.size_bytes > self._most_bytes // _CALM_SHARE
        )

    def _finish(self) -> None:
        size = self._size_bytes()
        self._finished.append((self._segment(going_on=False), size))
        # Who does not take them loses the oldest, but for the last.
        while (
            len(self._finished) > 1 and sum(size for _, size in self._finished) > self._most_bytes
        ):
            self._finished.popleft()
        self._earlier = self._current = None

    def _segment(self, *, going_on: bool) -> Segment:
        parts = [part for part in (self._earlier, self._current) if part is not None]
        first = parts[0]
        return Segment(
            base=first.base,
            base_us=first.base_us,
            stretches=tuple(
                Stretch(tuple(part.moments), part.table.sealed(copied=going_on)) for part in parts
            ),
            verdicts=tuple(
                verdict
                for part in parts
                for at_us, action in part.verdicts
                for verdict in plain_verdicts((action,), at_us)
            ),
            episodes=tuple(sorted({number for part in parts for number in part.episodes})),
            ends_open=bool(self._open),
        )


def _event_bytes(event: Event) -> int:
    match event:
        case events.SettingsChanged():
            settings = event.settings
            rules = len(settings.rules.rules)
            rules += sum(len(entry.settings.rules.rules) for entry in settings.domains)
            return 10_000 * (1 + len(settings.domains)) + RULE_BYTES * rules
        case events.AppsMeasured():
            return EVENT_BYTES + 150 * len(event.sizes_kib)
        case events.SizesNoted():
            return EVENT_BYTES + 200 * len(event.sizes_kib)
        case events.SimulationAsked():
            return EVENT_BYTES + 40 * len(event.apps)
        case _:
            return EVENT_BYTES


def _verdict_bytes(action: Action) -> int:
    if not isinstance(action, Record):
        return VERDICT_BYTES
    lists: list[Plain] = [value for value in action.detail.values() if isinstance(value, list)]
    return VERDICT_BYTES + LISTED_BYTES * sum(len(one) for one in lists if isinstance(one, list))


def _state_bytes(state: State) -> int:
    """Return what a state holds, were it held by nobody else."""
    readings = sum(len(domain.window) for domain in state.domains.values())
    told = sum(len(domain.told) for domain in state.domains.values())
    return (
        2_000 + EVENT_BYTES * (readings + len(state.domains)) + APP_BYTES * (len(state.apps) + told)
    )
