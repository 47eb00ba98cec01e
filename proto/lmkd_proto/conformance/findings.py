"""What was seen of each rule.

A rule holds when it was looked at and never broken; it is broken when it was so once, whatever else was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmkd_proto.conformance.rules import Rule

HOLDS, BROKEN, NOT_SEEN = "holds", "broken", "not seen"
_SHOWN_MOST = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one rule; `details` says how it was broken, or why it was not seen."""

    rule: Rule
    result: str
    details: tuple[str, ...]


class Findings:
    """Collects what the checks saw. `numbers` is always one rule, or several with spaces between."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._seen: set[str] = set()
        self._broken: dict[str, list[str]] = {}
        self._missed = {rule.number: rule.unseen for rule in rules if rule.unseen}

    def expect(self, numbers: str, holds: bool, detail: str) -> None:
        """Note that rules were looked at, and whether they held; `detail` says what was expected and what came."""
        for number in numbers.split():
            self._seen.add(number)
            if not holds:
                broken = self._broken.setdefault(number, [])
                if detail not in broken:
                    broken.append(detail)

    def miss(self, numbers: str, why: str) -> None:
        """Note why rules could not be looked at."""
        for number in numbers.split():
            self._missed.setdefault(number, why)

    def outcomes(self) -> list[Outcome]:
        """Return what became of each rule, in their order."""
        return [self._outcome(rule) for rule in self._rules]

    def _outcome(self, rule: Rule) -> Outcome:
        broken = self._broken.get(rule.number)
        if broken is not None:
            return Outcome(rule, BROKEN, tuple(broken[:_SHOWN_MOST]))
        if rule.number in self._seen:
            return Outcome(rule, HOLDS, ())
        return Outcome(rule, NOT_SEEN, (self._missed.get(rule.number, "nothing showed it"),))
