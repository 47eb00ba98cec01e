"""The heart: one pure step.

    step(state, event, now_us) -> (next state, ordered actions)

Whatever the service does, it does because an action came out of here; whatever the heart knows, it knows because an
event went in. The same events at the same times give the same actions, on any machine, at any later day.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lmkd.model import Level, Reading
from lmkd.policy import events
from lmkd.policy.actions import Action, Broadcast, NoteSizes, ReleaseVictim
from lmkd.policy.detect import Relayed, judge, relay
from lmkd.policy.escalate import (
    advance_kill,
    consider_kill,
    may_kill_now,
    measure_relief,
    take_exit,
    take_failure,
    take_scan,
    take_watchdog_kill,
)
from lmkd.policy.listen import take_ack, take_measures
from lmkd.policy.outside_kills import take_announcement, take_answer, take_end, take_leave
from lmkd.policy.pace import read_interval_us
from lmkd.policy.returning import forget_departed, remember_departed, welcome_back
from lmkd.policy.settings import Settings
from lmkd.policy.simulate import end_simulations, start_simulation
from lmkd.policy.state import NEVER_US, DomainState, State
from lmkd.policy.tell import tell_apps, tell_present_level, tell_unwatched
from lmkd.policy.turn import Turn
from lmkd.policy.window import push


def start(settings: Settings, own_pid: int, first_episode: int = 1, first_kill: int = 1) -> State:
    """Return the state of a service that knows no domain and no app yet.

    Episodes and kills are numbered on from what the history holds, so that a number names one thing for ever.
    """
    return State(settings, own_pid, next_episode=first_episode, next_kill=first_kill)


def step(state: State, event: events.Event, now_us: int) -> tuple[State, tuple[Action, ...]]:
    """Take one event at one moment; return the next state and the actions in the order to do them.

    Events about domains, apps or kills that are gone meanwhile change nothing: the shell reports as it finds.
    """
    turn = Turn(state, now_us)
    _STEPS[type(event)](turn, event)
    return turn.state, tuple(turn.actions)


def next_wake_us(state: State, domain: str) -> int:
    """Return when a domain is to be read again at the latest, if no event comes first."""
    held = state.domains[domain]
    settings = state.settings.of(domain)
    now_us = held.reading_us
    wakes = [now_us + read_interval_us(held, settings)]
    if held.tell_due_us is not None:
        wakes.append(held.tell_due_us)
    if held.in_flight is not None and held.in_flight.sigkill_sent_us is None:
        wakes.append(held.in_flight.sigkill_us)
    judgement = held.judgement
    if judgement is not None and may_kill_now(state, held, judgement):
        wakes.append(max(held.scan_after_us, held.relieved_us + settings.settle_us))
    wakes.extend(simulation.until_us for simulation in state.simulations.values())
    return max(min(wakes), now_us + settings.read_emergency_us)


def _take_reading(turn: Turn, event: events.ReadingTaken) -> None:
    reading = event.reading
    domain = turn.state.domains.get(reading.domain)
    if domain is None:
        return
    if turn.state.simulations:
        end_simulations(turn)
        domain = turn.state.domains[reading.domain]
    window = push(domain.window, reading)
    held = domain.held if len(window) > 1 else {}
    settings = turn.settings.of(reading.domain)
    judgement = judge(window, settings, held, domain.relieved_us)
    if domain.relayed is not None:
        judgement = relay(window, settings, domain.relayed)
    domain = replace(
        domain,
        window=window,
        judgement=judgement,
        held={finding.detector: finding.level for finding in judgement.findings},
    )
    domain = measure_relief(turn, domain)
    domain = _move_level(turn, domain, reading)
    domain = advance_kill(turn, domain)
    turn.keep(domain)
    consider_kill(turn, domain)


def _move_level(turn: Turn, domain: DomainState, reading: Reading) -> DomainState:
    """Raise the level at once, lower it after a calm hold, and tell everybody who is to know."""
    judgement, before = domain.judgement, domain.level
    assert judgement is not None
    asked = judgement.level
    level, reason = before, judgement.reason
    since_us = domain.calm_since_us
    if asked >= before:
        level = asked
        domain = replace(domain, calm_since_us=None)
    elif since_us is None:
        domain = replace(
            domain, calm_since_us=turn.now_us, calm_most=asked, calm_reason=judgement.reason
        )
    else:
        if asked >= domain.calm_most:
            domain = replace(domain, calm_most=asked, calm_reason=judgement.reason)
        if turn.now_us - since_us >= turn.settings.of(domain.domain).calm_hold_us:
            level, reason = domain.calm_most, domain.calm_reason
            domain = replace(domain, calm_since_us=None)
    if level == before:
        if asked == before and asked > Level.NORMAL:
            domain = replace(domain, reason=judgement.reason)
        owed = domain.tell_due_us is not None and turn.now_us >= domain.tell_due_us
        return tell_apps(turn, domain) if owed else domain
    if level is Level.NORMAL:
        reason = "calm again"
    if level > before:
        # What was waited for at the lower level may be decided otherwise now.
        domain = replace(domain, scan_after_us=NEVER_US)
    domain = replace(domain, level=level, reason=reason)
    opens = domain.episode is None
    if opens:
        domain = replace(domain, episode=turn.state.next_episode, alarmed=False)
        turn.state = replace(turn.state, next_episode=turn.state.next_episode + 1)
        turn.record(domain, "opened", {"total_kib": reading.total_kib})
    turn.act(Broadcast(domain.domain, level, reason, reading.available_kib))
    turn.record(
        domain,
        "level",
        {
            "from": before.word,
            "to": level.word,
            "reason": reason,
            "available_kib": reading.available_kib,
            "swap_free_kib": reading.swap_free_kib,
        },
    )
    domain = tell_apps(turn, domain)
    if opens and turn.settings.of(domain.domain).killable:
        # Who holds what now: what grows from here on is what makes memory short.
        turn.act(NoteSizes(domain.domain))
    if level is Level.NORMAL:
        turn.record(domain, "closed", {})
        domain = replace(
            domain, episode=None, spared=frozenset(), ended=None, scans_small=False, sizes_kib=None
        )
        forget_departed(turn, domain.domain)
    return domain


def _note_sizes(turn: Turn, event: events.SizesNoted) -> None:
    domain = turn.state.domains.get(event.domain)
    if domain is not None and domain.episode is not None and domain.sizes_kib is None:
        held = {(pid, start_ticks): kib for pid, start_ticks, kib in event.sizes_kib}
        turn.keep(replace(domain, sizes_kib=held))


def _open_domain(turn: Turn, event: events.DomainOpened) -> None:
    if event.domain not in turn.state.domains:
        turn.keep(DomainState(event.domain))


def _close_domain(turn: Turn, event: events.DomainClosed) -> None:
    domain = turn.state.domains.get(event.domain)
    if domain is None:
        return
    if domain.in_flight is not None:
        turn.act(ReleaseVictim(domain.domain, domain.in_flight.kill))
    if domain.level > Level.NORMAL:
        domain = replace(domain, level=Level.NORMAL, reason="no longer watched")
        available_kib = domain.window[-1].available_kib
        turn.act(Broadcast(domain.domain, domain.level, domain.reason, available_kib))
    tell_unwatched(turn, domain)
    turn.record(domain, "closed", {"reason": "the domain is gone"})
    left = {name: kept for name, kept in turn.state.domains.items() if name != event.domain}
    turn.state = replace(turn.state, domains=left)


def _register(turn: Turn, event: events.AppRegistered) -> None:
    app = event.app
    turn.state = replace(turn.state, apps={**turn.state.apps, app.app: app})
    before = turn.state.departed.get((app.pid, app.start_ticks))
    if before is None:
        tell_present_level(turn, app)
    else:
        welcome_back(turn, app, before)


def _update(turn: Turn, event: events.AppUpdated) -> None:
    app = turn.state.apps.get(event.app)
    if app is None:
        return
    if event.app_class is not None:
        app = replace(app, app_class=event.app_class)
    if event.sheddable_kib is not None:
        app = replace(app, sheddable_kib=event.sheddable_kib)
    if event.name is not None:
        app = replace(app, name=event.name)
    turn.state = replace(turn.state, apps={**turn.state.apps, app.app: app})


def _forget(turn: Turn, event: events.AppGone) -> None:
    def without(held: Any) -> dict[int, Any]:
        return {number: kept for number, kept in held.items() if number != event.app}

    remember_departed(turn, event.app)
    take_leave(turn, event.app)
    state = turn.state
    # A wait for what it promised is over with it.
    domains = {
        name: replace(domain, told=without(domain.told), scan_after_us=NEVER_US)
        if event.app in domain.told
        else domain
        for name, domain in state.domains.items()
    }
    turn.state = replace(
        state,
        domains=domains,
        apps=without(state.apps),
        trust=without(state.trust),
        simulations=without(state.simulations),
    )


def _rule_app(turn: Turn, event: events.AppRuled) -> None:
    app = turn.state.apps.get(event.app)
    if app is not None:
        app = replace(app, grace_us=event.grace_us)
        turn.state = replace(turn.state, apps={**turn.state.apps, app.app: app})


def _relay_level(turn: Turn, event: events.LevelRelayed) -> None:
    domain = turn.state.domains.get(event.domain)
    if domain is not None:
        relayed = None if event.level is None else Relayed(event.level, event.reason)
        turn.keep(replace(domain, relayed=relayed))


def _take_ack(turn: Turn, event: events.AckReceived) -> None:
    take_ack(turn, event)
    take_answer(turn, event)


def _end_simulations(turn: Turn, event: events.SimulationEnded) -> None:
    end_simulations(turn)


def _change_settings(turn: Turn, event: events.SettingsChanged) -> None:
    turn.state = replace(turn.state, settings=event.settings)


_STEPS: dict[type, Callable[[Turn, Any], None]] = {
    events.ReadingTaken: _take_reading,
    events.DomainOpened: _open_domain,
    events.DomainClosed: _close_domain,
    events.AppRegistered: _register,
    events.AppUpdated: _update,
    events.AppRuled: _rule_app,
    events.AppGone: _forget,
    events.LevelRelayed: _relay_level,
    events.AppsMeasured: take_measures,
    events.AckReceived: _take_ack,
    events.ProcessesScanned: take_scan,
    events.SizesNoted: _note_sizes,
    events.VictimExited: take_exit,
    events.WatchdogKilled: take_watchdog_kill,
    events.SignalFailed: take_failure,
    events.SimulationAsked: start_simulation,
    events.SimulationEnded: _end_simulations,
    events.OutsideKillAnnounced: take_announcement,
    events.OutsideKillOver: take_end,
    events.SettingsChanged: _change_settings,
}
