"""Give a recording to the heart once more.

The heart is pure, so the same version of it says the same; where it does not, it is another version, or not what was
recorded. Values that fit their types can still make no sense together: a step that fails is the recording's fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from lmkd.policy import heart
from lmkd.policy.actions import Action
from lmkd.policy.events import Event
from lmkd.policy.state import State
from lmkd.replay.errors import RecordingError
from lmkd.replay.recording import KnownProcesses, Recording
from lmkd.replay.verdicts import Verdict, plain_verdicts


class Outcome(NamedTuple):
    """What came of one event."""

    at_us: int
    actions: tuple[Action, ...]


class Step(NamedTuple):
    """One event given to the heart, and what came of it."""

    number: int
    """Of its moment in the recording, counted from 0."""
    at_us: int
    event: Event
    before: State
    after: State
    actions: tuple[Action, ...]

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.at_us, self.actions)


def take_step(
    file: str, number: int, state: State, event: Event, at_us: int
) -> tuple[State, tuple[Action, ...]]:
    """Give the heart one event. Raises RecordingError where it cannot take it."""
    try:
        return heart.step(state, event, at_us)
    except Exception as error:
        kind = type(event).__name__
        raise RecordingError(
            file,
            f"event {number} ({kind}): expected one that the heart can take after those before it;"
            f" it failed with {type(error).__name__}: {ascii(str(error))[:200]}",
        ) from error


def run(recording: Recording) -> Iterator[Step]:
    """Yield every step of the recording. Raises RecordingError."""
    state = recording.base
    for number, (at_us, event) in enumerate(recording.moments):
        if isinstance(event, KnownProcesses):
            continue
        after, actions = take_step(recording.file, number, state, event, at_us)
        yield Step(number, at_us, event, state, after, actions)
        state = after


def replay(recording: Recording) -> list[Verdict]:
    """Return the verdicts of the recording, found anew. Raises RecordingError."""
    return [
        verdict for step in run(recording) for verdict in plain_verdicts(step.actions, step.at_us)
    ]
