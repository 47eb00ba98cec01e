"""Tell: who gets a notice now, of what, and by when.

Invariant 9: at most one notice per app, level and rest period, and the last word an app hears is always the
present level. The two agree because a word that rests is not dropped but owed: `tell_due_us` says until when.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lmkd.model import SYSTEM_DOMAIN, Answer, App, AppClass, Level
from lmkd.policy.actions import MeasureApps, Notify, Plain
from lmkd.policy.listen import bounded_trust, is_broken_word, is_renewable
from lmkd.policy.share import share_need
from lmkd.policy.state import UNTOLD, DomainState, Told
from lmkd.policy.turn import Turn

RECORDED_NOTICES = 50


def tell_apps(turn: Turn, domain: DomainState) -> DomainState:
    """Give every app of the domain the notice that is due to it, and return the domain with what was said."""
    rest_us = turn.settings.of(domain.domain).rest_us
    level, now_us = domain.level, turn.now_us
    due: list[App] = []
    later_us: list[int] = []
    apps = turn.state.apps_in(domain.domain)
    # Not while a level is only held until it may fall: then nothing is needed any more.
    needed = domain.judgement is not None and domain.judgement.level >= level
    for app in apps:
        told = domain.told.get(app.app, UNTOLD)
        if told.level == level and not is_renewable(told):
            continue
        free_us = told.last_us[level] + rest_us
        if told.level == level and not needed:
            free_us = now_us + rest_us
        if now_us >= free_us:
            due.append(app)
        else:
            later_us.append(free_us)
    domain = replace(domain, tell_due_us=min(later_us, default=None))
    return _send(turn, domain, apps, due) if due else domain


def tell_present_level(turn: Turn, app: App) -> None:
    """Tell an app that registers of each of its domains that is pressed."""
    for name, domain in turn.state.domains.items():
        if domain.level is not Level.NORMAL:
            apps = turn.state.apps_in(name)
            if app in apps:
                turn.keep(_send(turn, domain, apps, [app]))


def tell_unwatched(turn: Turn, domain: DomainState) -> None:
    """Tell the apps of a domain that is given up that nothing is asked of them any more."""
    apps = turn.state.apps_in(domain.domain)
    due = [app for app in apps if domain.told.get(app.app, UNTOLD).level > Level.NORMAL]
    if due:
        _send(turn, domain, apps, due)


def _send(turn: Turn, domain: DomainState, apps: Sequence[App], due: Sequence[App]) -> DomainState:
    level, now_us = domain.level, turn.now_us
    shares: dict[int, int] = {}
    if level > Level.NORMAL and domain.judgement is not None:
        willing = apps
        if domain.told:
            willing = [app for app in apps if not _has_nothing(domain.told.get(app.app, UNTOLD))]
        shares = share_need(domain.judgement.need_kib, willing)
    classes = turn.settings.classes
    deadlines_us = [now_us + (classes[one].grace_us if level else 0) for one in AppClass]
    told = dict(domain.told)
    trust = dict(turn.state.trust)
    simulations = dict(turn.state.simulations)
    notice = turn.state.next_notice
    notifications: list[Notify] = []
    asked: list[int] = []
    ending = turn.state.victims_in_flight()
    # A thousand apps are told in one step: what is the same for all of them is looked up once, above.
    name, reason = domain.domain, domain.reason
    renewed: dict[tuple[int, ...], tuple[int, ...]] = {}
    for app in due:
        number = app.app
        before = told.get(number, UNTOLD)
        if before.target_kib and is_broken_word(before, now_us):
            trust[number] = bounded_trust(trust.get(number, 0) - 1)
        target_kib = shares.get(number, 0)
        deadline_us = deadlines_us[app.app_class]
        if app.grace_us is not None and level:
            deadline_us = now_us + app.grace_us
        if ending and (app.pid, app.start_ticks) in ending:
            # Its end has begun: it hears how things are, and is not promised a time that it does not have.
            target_kib, deadline_us = 0, now_us
        if target_kib:
            asked.append(number)
        last_us = renewed.get(before.last_us)
        if last_us is None:
            last_us = (*before.last_us[:level], now_us, *before.last_us[level + 1 :])
            renewed[before.last_us] = last_us
        told[number] = Told(notice, level, deadline_us, target_kib, last_us)
        notifications.append(Notify(number, notice, name, level, target_kib, deadline_us, reason))
        notice += 1
    if simulations and name == SYSTEM_DOMAIN:
        for app in due:
            simulations.pop(app.app, None)
    # Measured first: an app may shed within a millisecond of its notice, and would seem to have shed nothing.
    if asked:
        turn.act(MeasureApps(name, tuple(asked)))
    turn.act(*notifications)
    turn.state = replace(turn.state, next_notice=notice, trust=trust, simulations=simulations)
    record_notices(turn, domain, notifications)
    return replace(domain, told=told)


def _has_nothing(told: Told) -> bool:
    """Whether an app was asked for something at its last notice and said that it has nothing to give."""
    return told.target_kib > 0 and told.answer is Answer.NOTHING


def repeat_word(turn: Turn, domain: DomainState, app: int) -> None:
    """Say the standing word to an app once more, with its number and its deadline."""
    told = domain.told[app]
    turn.act(
        Notify(
            app,
            told.notice,
            domain.domain,
            told.level,
            told.target_kib,
            told.deadline_us,
            domain.reason,
            emergency=told.emergency,
        )
    )


def record_notices(turn: Turn, domain: DomainState, sent: Sequence[Notify]) -> None:
    """Keep who was told what, the first of them by name; either all of it is an emergency or nothing."""
    apps: list[Plain] = [
        {
            "app": notify.app,
            "name": turn.state.apps[notify.app].name,
            "class": turn.state.apps[notify.app].app_class.word,
            "target_kib": notify.target_kib,
            "grace_ms": (notify.deadline_us - turn.now_us) // 1000,
        }
        for notify in sent[:RECORDED_NOTICES]
    ]
    turn.record(
        domain,
        "told",
        {
            "level": domain.level.word,
            "count": len(sent),
            "target_kib": sum([notify.target_kib for notify in sent]),
            "emergency": sent[0].emergency,
            "apps": apps,
        },
    )
