"""How a request is answered: with a result, or with an error that says why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lmkd.policy.actions import Plain

Answered = tuple[Mapping[str, Plain], Callable[[], None] | None]
"""The result of a request, and what is to happen once it has been sent."""


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
