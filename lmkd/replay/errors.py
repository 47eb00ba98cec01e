"""What can be wrong with a recording."""

from __future__ import annotations


class RecordingError(Exception):
    """A recording that cannot be read or run: which file, where in it, what was found and what was expected."""

    def __init__(self, file: str, problem: str) -> None:
        self.file = file
        self.problem = problem
        super().__init__(f"{file}: {problem}")
