"""Listen: what an app's answer is worth.

What was promised is checked against what was measured. Trust is a small number per app: an app that keeps its word
ranks later in its class, one that does not ranks earlier. To say honestly "nothing" costs nothing.
"""

from __future__ import annotations

from dataclasses import replace

from lmkd.model import Answer, App
from lmkd.policy.events import AckReceived, AppsMeasured
from lmkd.policy.state import DomainState, Told
from lmkd.policy.turn import Turn

TRUST_MOST = 3


def is_broken_word(told: Told, now_us: int) -> bool:
    """Whether an app was asked for something, let the deadline pass, and never said what came of it."""
    return (
        not told.settled
        and not told.emergency  # it had no time to keep one
        and told.target_kib > 0
        and told.answer in (None, Answer.WORKING)
        and now_us >= told.deadline_us
    )


def present_trust(turn: Turn, domain: DomainState, app: App) -> int:
    """Return an app's trust, with a word that it is breaking just now."""
    trust = turn.state.trust.get(app.app, 0)
    told = domain.told.get(app.app)
    if told is not None and is_broken_word(told, turn.now_us):
        trust -= 1
    return bounded_trust(trust)


def is_renewable(told: Told) -> bool:
    """Whether the same level may be told again after a rest: to an app that gave what it was asked for.

    One that let its deadline pass in silence has had its word; telling it again would only move its deadline.
    """
    return told.target_kib > 0 and told.answer is Answer.DONE


def bounded_trust(trust: int) -> int:
    """Return trust within its bounds: what was done long ago is made good by a few words kept."""
    return max(min(trust, TRUST_MOST), -TRUST_MOST)


def open_promises(domain: DomainState, now_us: int) -> list[Told]:
    """Return the notices that asked for something which may still come in time."""
    return [
        told
        for told in domain.told.values()
        if told.target_kib > 0
        and told.answer in (None, Answer.WORKING)
        and now_us < told.deadline_us
    ]


def take_measures(turn: Turn, event: AppsMeasured) -> None:
    """Keep the sizes of apps as they were when they were told."""
    domain = turn.state.domains.get(event.domain)
    if domain is None:
        return
    told = dict(domain.told)
    for app, size_kib in event.sizes_kib:
        if app in told:
            told[app] = told[app]._replace(baseline_kib=size_kib)
    turn.keep(replace(domain, told=told))


def take_ack(turn: Turn, event: AckReceived) -> None:
    """Take an app's answer. One to a notice that is no longer its latest is of no consequence."""
    for domain in turn.state.domains.values():
        told = domain.told.get(event.app)
        if told is not None and told.notice == event.notice:
            _settle(turn, domain, told, event)
            return


def _settle(turn: Turn, domain: DomainState, told: Told, event: AckReceived) -> None:
    app = turn.state.apps[event.app]
    told = told._replace(answer=event.answer)
    verdict = 0
    if event.answer is Answer.WORKING:
        if not told.extended and turn.now_us < told.deadline_us and not told.emergency:
            deadline_us = told.deadline_us + turn.settings.grace_us(app)
            told = told._replace(extended=True, deadline_us=deadline_us)
    elif event.answer is Answer.DONE and not told.settled:
        verdict = _kept_word(told, event)
        told = told._replace(settled=True, kept=verdict > 0)
    trust = bounded_trust(turn.state.trust.get(app.app, 0) + verdict)
    if verdict:
        turn.state = replace(turn.state, trust={**turn.state.trust, app.app: trust})
    due_us = domain.tell_due_us
    if is_renewable(told):
        # If the need still stands then, it is asked again.
        again_us = told.last_us[told.level] + turn.settings.of(domain.domain).rest_us
        due_us = again_us if due_us is None else min(due_us, again_us)
    # A wait for this promise may be over: look again at the next reading.
    turn.keep(
        replace(
            domain,
            told={**domain.told, app.app: told},
            tell_due_us=due_us,
            scan_after_us=turn.now_us,
        )
    )
    turn.record(
        domain,
        "ack",
        {
            "app": app.app,
            "name": app.name,
            "answer": event.answer.value,
            "asked_kib": told.target_kib,
            "claimed_kib": event.freed_kib,
            "measured_kib": _drop_kib(told, event),
            "trust": trust,
        },
    )


def _drop_kib(told: Told, event: AckReceived) -> int | None:
    """Return by how much the app has shrunk since it was told; None where that was not measured."""
    if told.baseline_kib is None or event.measured_kib is None:
        return None
    return told.baseline_kib - event.measured_kib


def _kept_word(told: Told, event: AckReceived) -> int:
    """Return 1 for a word kept, -1 for one broken, 0 where there is nothing to judge.

    Half is enough on both counts, since an allocator keeps what it finds hard to give back: the app must have
    claimed half of what it was asked for, and half of its claim must show in its size.
    """
    drop_kib = _drop_kib(told, event)
    if told.target_kib == 0 or drop_kib is None or event.freed_kib == 0:
        return 0
    if drop_kib * 2 < event.freed_kib:
        return -1
    return 1 if event.freed_kib * 2 >= told.target_kib else 0
