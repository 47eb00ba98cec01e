"""Whatever happened, a recording of it gives the same verdicts, and its own policy changes nothing.

The runs are those in which the invariants of the heart are tested (tests/policy/test_invariants.py).
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings

from lmkd.policy import heart
from lmkd.replay.comparison import replay_with
from lmkd.replay.past import Past
from lmkd.replay.recorder import Recorder, Segment
from lmkd.replay.recording import Recording
from lmkd.replay.run import replay, run
from lmkd.replay.verdicts import verdict_text
from tests.policy.scenes import OWN_PID, SECOND
from tests.policy.test_invariants import SETTINGS, Daemon

from .scenes import recording_of

# Three seconds on an idle machine; this is not about how long it takes on a busy one.
pytestmark = pytest.mark.timeout(300)


def scans_come_at_once(recording: Recording) -> bool:
    """Whether every scan came when it was asked for, as in a real daemon: a late one shows who is dead already."""
    moments = recording.moments
    past = Past(list(run(recording)))
    return all(moments[came].at_us == moments[asked].at_us for came, asked in past.asked.items())


class Recorded(Daemon):
    """The same programs and weather, with a recorder beside the heart."""

    def __init__(self) -> None:
        super().__init__()
        # The invariants are held elsewhere.
        self.world.observers.clear()

    def teardown(self) -> None:
        self.world.run(2 * SECOND)
        state = heart.start(SETTINGS, OWN_PID)
        recorder = Recorder(state, 64 << 20)
        for event, at_us, _ in self.world.log:
            recorder.note(at_us, event, state)
            state, out = heart.step(state, event, at_us)
            recorder.keep(out)
            segment = recorder.take()
            if segment is not None:
                self.check(segment)
        running = recorder.snapshot()
        if running is not None:
            self.check(running)

    def check(self, segment: Segment) -> None:
        """Hold what comes of a segment against what came of it."""
        recording = recording_of(segment)
        assert [verdict_text(verdict) for verdict in replay(recording)] == [
            verdict_text(verdict) for verdict in recording.verdicts
        ]
        if scans_come_at_once(recording):
            assert replay_with(recording, SETTINGS).differences == ()


TestRecorded = Recorded.TestCase
TestRecorded.settings = settings(
    derandomize=True,
    deadline=None,
    max_examples=100,
    stateful_step_count=40,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
