"""Returning: a program that leaves in mid-episode and comes back is the same program.

It may have lost its connection, or have closed it to be given a new grace. Either way it finds its last word, deadline
and trust as it left them. (pid, start_ticks) tells that it is the same; when the domain is calm again all is forgotten.
"""

from __future__ import annotations

from dataclasses import replace

from lmkd.model import App, Level
from lmkd.policy.state import Departed, DomainState, Told
from lmkd.policy.tell import repeat_word, tell_apps
from lmkd.policy.turn import Turn

DEPARTED_MOST = 1_000
"""Programs remembered at a time; the earliest to leave are forgotten first."""


def remember_departed(turn: Turn, number: int) -> None:
    """Keep what an app that leaves was told in the domains that are pressed."""
    state = turn.state
    app = state.apps.get(number)
    if app is None:
        return
    told = {
        name: domain.told[number]
        for name, domain in state.domains.items()
        if number in domain.told and domain.level > Level.NORMAL
    }
    if not told:
        return
    departed = {**state.departed}
    departed.pop((app.pid, app.start_ticks), None)
    departed[app.pid, app.start_ticks] = Departed(told, state.trust.get(number, 0))
    if len(departed) > DEPARTED_MOST:
        del departed[next(iter(departed))]
    turn.state = replace(state, departed=departed)


def welcome_back(turn: Turn, app: App, before: Departed) -> None:
    """Give an app that is back its last word as it stands, or the level as it is now; it gains no time by it."""
    trust = {**turn.state.trust, app.app: before.trust} if before.trust else turn.state.trust
    turn.state = replace(turn.state, trust=trust)
    for name, domain in turn.state.domains.items():
        if app not in turn.state.apps_in(name):
            continue
        told = before.told.get(name)
        if told is not None:
            told = _standing(turn, domain, told)
            domain = replace(domain, told={**domain.told, app.app: told})
            if told.level is domain.level:
                turn.keep(domain)
                repeat_word(turn, domain, app.app)
                continue
        if domain.level > Level.NORMAL or told is not None:
            turn.keep(tell_apps(turn, domain))


def _standing(turn: Turn, domain: DomainState, told: Told) -> Told:
    """Return the word that stands for an app that is back.

    Whoever registers is told at once (SPEC L-4). Where the level has changed and its word would still have to rest,
    it is given all the same, but asks for nothing and comes with the old deadline.
    """
    rested = turn.now_us >= told.last_us[domain.level] + turn.settings.of(domain.domain).rest_us
    if told.level is domain.level or rested:
        return told
    number = turn.state.next_notice
    turn.state = replace(turn.state, next_notice=number + 1)
    return told._replace(notice=number, level=domain.level, target_kib=0, answer=None)


def forget_departed(turn: Turn, name: str) -> None:
    """Forget who left, as far as a domain is concerned that is calm again."""
    departed = {}
    for identity, left in turn.state.departed.items():
        told = {other: word for other, word in left.told.items() if other != name}
        if told:
            departed[identity] = replace(left, told=told)
    turn.state = replace(turn.state, departed=departed)
