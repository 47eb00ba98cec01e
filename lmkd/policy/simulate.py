"""Simulate: tell apps of a level that is not there, so that their authors see what they do about it.

Nothing is ever killed for a simulation; a real notice ends it; when its time is up the app hears how things are.
"""

from __future__ import annotations

from dataclasses import replace

from lmkd.model import SYSTEM_DOMAIN, Level
from lmkd.policy.actions import Notify
from lmkd.policy.events import SimulationAsked
from lmkd.policy.state import Simulation
from lmkd.policy.tell import repeat_word
from lmkd.policy.turn import Turn

SIMULATED_REASON = "simulated: nothing is wrong, and nothing will be killed for it"


def start_simulation(turn: Turn, event: SimulationAsked) -> None:
    """Tell the apps named that the level were another."""
    simulations = dict(turn.state.simulations)
    notice = turn.state.next_notice
    for number in event.apps:
        app = turn.state.apps.get(number)
        if app is None:
            continue
        pressed = event.level > Level.NORMAL
        grace_us = turn.settings.grace_us(app) if pressed else 0
        turn.act(
            Notify(
                number,
                notice,
                SYSTEM_DOMAIN,
                event.level,
                app.sheddable_kib if pressed else 0,
                turn.now_us + grace_us,
                SIMULATED_REASON,
                simulated=True,
            )
        )
        simulations[number] = Simulation(notice, event.level, turn.now_us + event.duration_us)
        notice += 1
    turn.state = replace(turn.state, simulations=simulations, next_notice=notice)


def end_simulations(turn: Turn) -> None:
    """Tell the apps whose simulation is over how things are."""
    over = [
        number
        for number, simulation in turn.state.simulations.items()
        if turn.now_us >= simulation.until_us
    ]
    for number in over:
        left = {**turn.state.simulations}
        del left[number]
        turn.state = replace(turn.state, simulations=left)
        tell_truth(turn, number, "the simulation is over")


def tell_truth(turn: Turn, number: int, over: str) -> None:
    """Repeat the real word that stands, deadline and all: who simulates for itself gains no time by it.

    `over` is the reason where nothing stands.

    Where the real word is still owed, it comes when its rest is over.
    """
    domain = turn.state.domains.get(SYSTEM_DOMAIN)
    told = domain.told.get(number) if domain is not None else None
    if domain is None or told is None:
        notice = turn.state.next_notice
        turn.act(
            Notify(
                number,
                notice,
                SYSTEM_DOMAIN,
                Level.NORMAL,
                0,
                turn.now_us,
                over,
            )
        )
        turn.state = replace(turn.state, next_notice=notice + 1)
    elif told.level is domain.level:
        repeat_word(turn, domain, number)
