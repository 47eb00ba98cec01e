"""The recording under another policy: the same programs and readings, other decisions, and what follows from them.

The heart is given what came from outside as it came: readings, corrected for who is alive here; registrations and
their ends; answers of apps, taken as answers to their latest notice here. What came in answer to the old run, scans,
sizes and the ends of victims, only says what the world was like; this run is answered from an estimate of it. Where
it asks for and does the same as the old run, it gets the same answers at the same time, so that the policy that was
in force changes nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from lmkd.model import Process, Reading, Signal
from lmkd.policy import actions, events
from lmkd.policy.events import Event
from lmkd.policy.settings import Settings
from lmkd.policy.state import State, Told
from lmkd.replay.estimate import Estimate, members_of
from lmkd.replay.past import Past, PastKill
from lmkd.replay.recording import KnownProcesses, Recording
from lmkd.replay.run import Outcome, take_step

EXIT_US = 100_000
"""How long a victim takes of which the recording does not say: 70-100 ms were measured (FACTS, in the VM)."""
RUN_ON_US = 10_000_000
_OWN = 1 << 62
"""Orders what follows from this run alone behind what the recording has of the same moment."""


class OtherRun:
    """One run of a recording under another policy."""

    def __init__(self, recording: Recording, settings: Settings, past: Past) -> None:
        self._recording = recording
        self._past = past
        self._state: State = recording.base
        self._estimate = Estimate()
        self._seen = False
        self._due: list[tuple[int, int, int, Callable[[], None]]] = []
        self._count = 0
        self._number = 0
        self._now_us = recording.base_us
        self._awaited: dict[tuple[int, type, str], actions.Action] = {}
        self._latest: dict[str, Reading] = {}
        """By domain, as the recording has it."""
        self._sizes_kib: dict[int, int] = {}
        """By app, as measured last in the recording."""
        self._kills: dict[tuple[str, int], PastKill | None] = {}
        """Those of this run, each with what the recording says of its victim."""
        self.outcomes: list[Outcome] = []
        self.looked_ahead = False
        """Whether processes were asked for before the recording says of any."""
        self.ran_on = False
        """Whether it went on after the recording's end."""
        self.least_kib: int | None = None
        """The smallest size that was asked for."""
        self._feed(events.SettingsChanged(settings))

    def run(self) -> list[Outcome]:
        """Play the recording to its end. Raises RecordingError."""
        for number, (at_us, event) in enumerate(self._recording.moments):
            self._number = number
            self._catch_up(at_us, number)
            self._now_us = at_us
            self._take(event)
        self._catch_up(self._now_us, _OWN)
        if self._past.ends_calm:
            self._run_on()
        return self.outcomes

    def _run_on(self) -> None:
        """Let the last readings stand for a while, where the old run ended in calm and this one is not there yet."""
        until_us = self._now_us + RUN_ON_US
        while self._now_us < until_us and self._pressed():
            self.ran_on = True
            at_us = self._now_us + self._state.settings.read_pressed_us
            self._catch_up(at_us, _OWN)
            self._now_us = at_us
            for name in self._pressed():
                last = self._latest.get(name)
                if last is not None:
                    reading = self._estimate.correct(replace(last, at_us=at_us), 0)
                    self._feed(events.ReadingTaken(reading))

    def _pressed(self) -> list[str]:
        return [name for name, held in self._state.domains.items() if held.episode is not None]

    def _catch_up(self, at_us: int, order: int) -> None:
        while self._due and self._due[0][:2] <= (at_us, order):
            self._now_us, _, _, deed = heapq.heappop(self._due)
            deed()

    # --- what the recording says -------------------------------------------------------------------------------

    def _take(self, event: Event | KnownProcesses) -> None:
        number, past = self._number, self._past
        match event:
            case KnownProcesses(processes):
                self._seen = True
                self._estimate.see(processes)
            case events.ReadingTaken(reading):
                self._latest[reading.domain] = reading
                need_kib = past.need_kib.get(number, 0)
                self._feed(events.ReadingTaken(self._estimate.correct(reading, need_kib)))
            case events.ProcessesScanned(domain, processes):
                self._seen = True
                self._estimate.see_all(domain, processes, past.least_kib.get(number, 1 << 62))
                ask = self._awaited.pop(
                    (past.asked.get(number, -1), actions.ScanProcesses, domain), None
                )
                if isinstance(ask, actions.ScanProcesses):
                    self._feed(self._scan(ask))
            case events.AppsMeasured(domain, sizes_kib):
                self._sizes_kib.update(sizes_kib)
                ask = self._awaited.pop(
                    (past.asked.get(number, -1), actions.MeasureApps, domain), None
                )
                if isinstance(ask, actions.MeasureApps):
                    self._feed(self._measure(ask))
            case events.VictimExited(domain, kill) | events.SignalFailed(domain, kill):
                self._take_end(event, domain, kill)
            case events.AckReceived():
                self._take_ack(event)
            case events.AppGone() if number in past.skipped:
                pass
            case events.AppRegistered(app) if self._estimate.is_dead_here(
                (app.pid, app.start_ticks)
            ):
                pass
            case events.SettingsChanged():
                pass
            case _:
                self._feed(event)

    def _take_end(self, event: Event, domain: str, kill: int) -> None:
        ended = self._past.kills.get((domain, kill))
        if ended is None:
            # Of a kill that was in flight when the recording began: it is so here, too.
            if (domain, kill) not in self._kills:
                self._feed(event)
        elif isinstance(event, events.VictimExited):
            self._estimate.end_there(ended.victim)

    def _take_ack(self, event: events.AckReceived) -> None:
        name = self._past.acks.get(self._number)
        if name is None:
            return
        told = self._latest_word(event.app, name)
        if told is not None:
            self._feed(
                events.AckReceived(
                    event.app, told.notice, event.answer, event.freed_kib, event.measured_kib
                )
            )

    def _latest_word(self, app: int, domain: str) -> Told | None:
        """Return the latest notice to an app here: of that domain, where it was told anything in it."""
        words = {
            name: held.told[app] for name, held in self._state.domains.items() if app in held.told
        }
        if domain in words:
            return words[domain]
        return max(words.values(), key=lambda told: told.notice, default=None)

    # --- this run ----------------------------------------------------------------------------------------------

    def _feed(self, event: Event) -> None:
        waiting = [event]
        for one in waiting:
            self._state, out = take_step(
                self._recording.file, self._number, self._state, one, self._now_us
            )
            self.outcomes.append(Outcome(self._now_us, out))
            for action in out:
                answer = self._perform(action)
                if answer is not None:
                    waiting.append(answer)

    def _perform(self, action: actions.Action) -> Event | None:
        """Do what the heart says, and return the answer, where there is one at once."""
        match action:
            case actions.ScanProcesses():
                if self._comes_later(action):
                    return None
                return self._scan(action)
            case actions.MeasureApps():
                if self._comes_later(action):
                    return None
                return self._measure(action)
            case actions.SendSignal():
                self._signal(action)
            case _:
                pass
        return None

    def _comes_later(self, ask: actions.ScanProcesses | actions.MeasureApps) -> bool:
        """Whether the old run asked the same just now: then the answer comes when it came."""
        key = (self._number, type(ask), ask.domain)
        if (
            key not in self._past.asks
            or self._now_us != self._recording.moments[self._number].at_us
        ):
            return False
        self._awaited[key] = ask
        return True

    def _scan(self, ask: actions.ScanProcesses) -> Event:
        if not self._seen:
            self._look_ahead()
        least_kib = ask.least_seen_kib
        self.least_kib = least_kib if self.least_kib is None else min(self.least_kib, least_kib)
        return events.ProcessesScanned(ask.domain, self._estimate.scan(ask.domain, least_kib))

    def _look_ahead(self) -> None:
        """Take the processes as the recording first has them: better than to know of none."""
        for _, event in self._recording.moments[self._number :]:
            if isinstance(event, KnownProcesses | events.ProcessesScanned):
                self._seen = self.looked_ahead = True
                self._estimate.see(event.processes)
                return

    def _measure(self, ask: actions.MeasureApps) -> Event:
        sizes_kib = []
        for number in ask.apps:
            app = self._state.apps.get(number)
            size_kib = self._sizes_kib.get(number)
            if size_kib is None and app is not None:
                size_kib = self._estimate.size_kib((app.pid, app.start_ticks))
            if size_kib is not None:
                sizes_kib.append((number, size_kib))
        return events.AppsMeasured(ask.domain, tuple(sizes_kib))

    def _signal(self, sent: actions.SendSignal) -> None:
        """Have the victim take the signal as the recording says, or as most do."""
        key = (sent.domain, sent.kill)
        if sent.signal is Signal.TERM:
            self._kills[key] = self._past.find_kill(sent.domain, sent.victim, self._now_us)
        known = self._kills.get(key)
        if known is None:
            if sent.signal is Signal.TERM:
                self._end_later(sent, EXIT_US, None)
            return
        awaited = Signal.TERM if known.sigkill_us is None else Signal.KILL
        if sent.signal is not awaited:
            return
        since_us = known.signal_us if known.sigkill_us is None else known.sigkill_us
        if known.ended_us is not None:
            self._end_later(sent, known.ended_us - since_us, known)
        elif known.failed_us is not None:
            failed = events.SignalFailed(sent.domain, sent.kill, known.failure)
            self._later(known.failed_us - since_us, known.moment, partial(self._feed, failed))

    def _end_later(self, sent: actions.SendSignal, after_us: int, known: PastKill | None) -> None:
        members = members_of(sent.victim, self._estimate.alive_here())
        gone = {} if known is None else known.gone
        since_us = 0
        if known is not None and known.sigkill_us is not None:
            since_us = known.sigkill_us - known.signal_us
        identities = {(process.pid, process.start_ticks) for process in members}
        identities.add((sent.victim.pid, sent.victim.start_ticks))
        for app in self._state.apps.values():
            if (app.pid, app.start_ticks) in identities:
                gone_us, moment = gone.get(app.app, (after_us + since_us, _OWN))
                left = partial(self._feed, events.AppGone(app.app))
                self._later(max(gone_us - since_us, 0), moment, left)
        moment = _OWN if known is None else known.moment
        self._later(after_us, moment, partial(self._end, sent, members))

    def _end(self, sent: actions.SendSignal, members: list[Process]) -> None:
        self._estimate.end_here(members)
        self._feed(events.VictimExited(sent.domain, sent.kill))

    def _later(self, after_us: int, order: int, deed: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (self._now_us + after_us, order, self._count, deed))
