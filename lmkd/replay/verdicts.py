"""What the heart decided, in a plain form that is compared, written and printed.

A verdict is a record for the history, a signal, or a level that is told to all. What an app is told follows from
these and is in the records.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from lmkd.policy.actions import Action, Broadcast, Plain, Record, SendSignal

Verdict = Mapping[str, Plain]
VERDICTS = (Record, SendSignal, Broadcast)
"""The actions that are verdicts."""


def plain_verdict(action: Action, at_us: int) -> Verdict | None:
    """Return an action as a verdict; None where it is none."""
    match action:
        case Record():
            return {
                "verdict": "record",
                "at_us": action.at_us,
                "domain": action.domain,
                "episode": action.episode,
                "kind": action.kind,
                "detail": dict(action.detail),
            }
        case SendSignal():
            victim = action.victim
            return {
                "verdict": "signal",
                "at_us": at_us,
                "domain": action.domain,
                "kill": action.kill,
                "pid": victim.pid,
                "start_ticks": victim.start_ticks,
                "name": victim.name,
                "signal": action.signal.value,
            }
        case Broadcast():
            return {
                "verdict": "level",
                "at_us": at_us,
                "domain": action.domain,
                "level": action.level.word,
                "reason": action.reason,
                "available_kib": action.available_kib,
            }
        case _:
            return None


def plain_verdicts(actions: Iterable[Action], at_us: int) -> list[Verdict]:
    """Return the verdicts among actions, in their order."""
    return [verdict for action in actions if (verdict := plain_verdict(action, at_us)) is not None]


def verdict_text(verdict: Verdict) -> str:
    """Return a verdict as one line of JSON. Escaped to ASCII: a process may call itself what it likes."""
    return json.dumps(verdict, separators=(",", ":"))


def first_difference(one: Sequence[Verdict], other: Sequence[Verdict]) -> int | None:
    """Return the place of the first verdict that is not the same in both; None where all are."""
    for number, (left, right) in enumerate(zip(one, other, strict=False)):
        if verdict_text(left) != verdict_text(right):
            return number
    return None if len(one) == len(other) else min(len(one), len(other))
