"""What a recording says of the old run: who was ended and how he took it, and what was asked for when.

It is told from the steps of the recording, run again. The other run goes by it wherever it comes to the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from lmkd.model import App, Signal, Unit, Victim, is_within
from lmkd.policy import actions, events
from lmkd.policy.state import Identity
from lmkd.replay.run import Step

GONE_LATE_US = 1_000_000
"""So long after a victim's end the end of its connection is still taken to come of that."""

_Waiting = dict[tuple[type, str], deque[tuple[int, int]]]
"""By kind and domain: the moments of what was asked for and not answered yet, each with a size."""


@dataclass(slots=True)
class PastKill:
    """A kill of the old run."""

    victim: Victim
    signal_us: int
    sigkill_us: int | None = None
    ended_us: int | None = None
    failed_us: int | None = None
    failure: str = ""
    moment: int = 0
    """Number of the moment at which it ended or failed."""
    gone: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By app that went with it: how long after the signal, and the moment."""


class Past:
    """The old run, looked up."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.kills: dict[tuple[str, int], PastKill] = {}
        """By domain and number."""
        self._by_victim: dict[Identity, list[tuple[str, PastKill]]] = {}
        self.asked: dict[int, int] = {}
        """By the moment at which an answer came (a scan, or sizes of apps): that at which it was asked for."""
        self.asks: set[tuple[int, type, str]] = set()
        """What was asked for: moment, kind of action, domain."""
        self.least_kib: dict[int, int] = {}
        """By the moment of a scan: from which size on it saw processes."""
        self.need_kib: dict[int, int] = {}
        """By the moment of a reading: what its domain lacked then."""
        self.skipped: set[int] = set()
        """Moments of which the other run knows better: connections that ended because of a kill."""
        self.acks: dict[int, str | None] = {}
        """By the moment of an answer: the domain of the notice that it answers; None: of none that still counts."""
        self.ends_calm = bool(steps) and all(
            domain.episode is None for domain in steps[-1].after.domains.values()
        )
        waiting: _Waiting = {}
        for step in steps:
            self._take_event(step, waiting)
            for action in step.actions:
                self._take_action(step, action, waiting)

    def find_kill(self, domain: str, victim: Victim, at_us: int) -> PastKill | None:
        """Return the kill that says how a victim takes its end: the very one, or one that it did not survive."""
        kills = self._by_victim.get((victim.pid, victim.start_ticks), [])
        for name, past in kills:
            if name == domain and past.signal_us == at_us:
                return past
        ended = [past for _, past in kills if past.ended_us is not None]
        return ended[0] if ended else next((past for _, past in kills), None)

    def _take_event(self, step: Step, waiting: _Waiting) -> None:
        match step.event:
            case events.ReadingTaken(reading):
                domain = step.after.domains.get(reading.domain)
                if domain is not None and domain.judgement is not None:
                    self.need_kib[step.number] = domain.judgement.need_kib
            case events.ProcessesScanned(domain=name):
                self._take_answer(step.number, actions.ScanProcesses, name, waiting)
            case events.AppsMeasured(domain=name):
                self._take_answer(step.number, actions.MeasureApps, name, waiting)
            case events.VictimExited(name, kill):
                past = self.kills.get((name, kill))
                if past is not None:
                    past.ended_us, past.moment = step.at_us, step.number
            case events.SignalFailed(name, kill, reason):
                past = self.kills.get((name, kill))
                if past is not None:
                    past.failed_us, past.failure, past.moment = step.at_us, reason, step.number
            case events.AppGone(number):
                app = step.before.apps.get(number)
                past = None if app is None else self._taken_with(app, step.at_us)
                if past is not None:
                    past.gone[number] = (step.at_us - past.signal_us, step.number)
                    self.skipped.add(step.number)
            case events.AckReceived(app=number, notice=notice):
                self.acks[step.number] = next(
                    (
                        name
                        for name, domain in step.before.domains.items()
                        if number in domain.told and domain.told[number].notice == notice
                    ),
                    None,
                )
            case _:
                pass

    def _take_ask(
        self, number: int, kind: type, domain: str, least_kib: int, waiting: _Waiting
    ) -> None:
        waiting.setdefault((kind, domain), deque()).append((number, least_kib))
        self.asks.add((number, kind, domain))

    def _take_answer(self, number: int, kind: type, domain: str, waiting: _Waiting) -> None:
        asks = waiting.get((kind, domain))
        if asks:
            asked, least_kib = asks.popleft()
            self.asked[number] = asked
            self.least_kib[number] = least_kib

    def _taken_with(self, app: App, at_us: int) -> PastKill | None:
        """Return the kill with which an app went whose connection ends now."""
        for past in self.kills.values():
            victim = past.victim
            late_us = at_us if past.ended_us is None else past.ended_us + GONE_LATE_US
            if not past.signal_us <= at_us <= late_us:
                continue
            if (app.pid, app.start_ticks) == (victim.pid, victim.start_ticks):
                return past
            # No program that registered is in a swarm.
            whole = victim.unit in (Unit.TREE, Unit.CGROUP)
            if whole and is_within(app.cgroup, victim.cgroup):
                return past
        return None

    def _take_action(
        self,
        step: Step,
        action: actions.Action,
        waiting: _Waiting,
    ) -> None:
        match action:
            case actions.ScanProcesses(domain):
                least_kib = action.least_seen_kib
                self._take_ask(step.number, actions.ScanProcesses, domain, least_kib, waiting)
            case actions.MeasureApps(domain):
                self._take_ask(step.number, actions.MeasureApps, domain, 0, waiting)
            case actions.SendSignal() if action.signal is Signal.TERM:
                past = PastKill(action.victim, step.at_us)
                self.kills[action.domain, action.kill] = past
                identity = (action.victim.pid, action.victim.start_ticks)
                self._by_victim.setdefault(identity, []).append((action.domain, past))
            case actions.SendSignal():
                known = self.kills.get((action.domain, action.kill))
                if known is not None:
                    known.sigkill_us = step.at_us
            case _:
                pass
