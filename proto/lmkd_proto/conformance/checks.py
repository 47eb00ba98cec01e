"""One check: what it looks at, and which rules are broken where it cannot see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from lmkd_proto.conformance.findings import Findings
from lmkd_proto.conformance.peer import EndedError, SilenceError

Subject = TypeVar("Subject")


@dataclass(frozen=True, slots=True)
class Check(Generic[Subject]):
    """Something to look at, and the rules that are broken where nothing is to be seen."""

    numbers: str
    look: Callable[[Subject], None]

    def run(
        self, subject: Subject, findings: Findings, broken_by: tuple[type[Exception], ...] = ()
    ) -> None:
        """Look at the subject; silence, an end, and what is `broken_by` besides, break its rules."""
        errors: tuple[type[Exception], ...] = (EndedError, SilenceError, *broken_by)
        try:
            self.look(subject)
        except errors as error:
            findings.expect(self.numbers, False, f"{self.look.__name__.strip('_')}: {error}")
