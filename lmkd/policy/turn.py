"""One step in the making: the state so far and the actions so far.

It lives for the length of one call of `heart.step` and never leaves it, so the step as a whole stays pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lmkd.policy.actions import Action, Plain, Record
from lmkd.policy.settings import Settings
from lmkd.policy.state import DomainState, State


class Turn:
    """The state and the ordered actions, while a step is worked out."""

    __slots__ = ("actions", "now_us", "state")

    def __init__(self, state: State, now_us: int) -> None:
        self.state = state
        self.now_us = now_us
        self.actions: list[Action] = []

    @property
    def settings(self) -> Settings:
        return self.state.settings

    def act(self, *actions: Action) -> None:
        """Add actions, after all that came before."""
        self.actions.extend(actions)

    def keep(self, domain: DomainState) -> None:
        """Put a domain's new state in place of the old one."""
        self.state = replace(self.state, domains={**self.state.domains, domain.domain: domain})

    def record(self, domain: DomainState, kind: str, detail: Mapping[str, Plain]) -> None:
        """Keep something for the history, when the domain is in an episode."""
        if domain.episode is not None:
            self.act(Record(domain.episode, domain.domain, self.now_us, kind, detail))
