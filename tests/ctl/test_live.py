"""What happens is one line each, for people and for scripts."""

from __future__ import annotations

import pytest
from lmkd_proto import Killed, Notice, Pressure

from lmkd.ctl.live import Heard, describe_event, event_of

from .literal import OPENED_UNIX_MS, ZONE


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            Pressure("system", "critical", "4.0 MiB left", 4 << 20),
            "system: critical, 4.0 MiB left; 4.0 MiB available",
        ),
        (
            Pressure("/a", "low", "simulated", 0, simulated=True),
            "/a: low (rehearsed), simulated",
        ),
        (
            Killed("system", 7, "leak", "cached", "no memory", 80 << 20),
            "system: ended leak (pid 7, cached); it gave back 80.0 MiB; no memory",
        ),
        (
            Killed("system", 0, "web", "cached", "no memory", 0),
            "system: ended web (a whole cgroup, cached); it gave back 0 KiB; no memory",
        ),
        (
            Notice(1, "system", "medium", 2 << 20, 1_500, "short"),
            "notice: medium, free 2.0 MiB within 1.5 s; short",
        ),
        (
            Notice(1, "system", "critical", 2 << 20, 0, "short", emergency=True),
            "notice: critical, free 2.0 MiB at once: an emergency; short",
        ),
        (
            Notice(1, "system", "normal", 0, 0, "calm"),
            "notice: normal, nothing is asked any more; calm",
        ),
    ],
)
def test_events_for_people(message: Heard, said: str) -> None:
    line = describe_event(event_of(message, OPENED_UNIX_MS), ZONE)
    assert (line.lead, line.text) == ("12:00:00.000  ", said)


def test_an_event_has_the_keys_of_its_message() -> None:
    killed = Killed("system", 7, "leak", "cached", "no memory", 1)
    assert event_of(killed, 5) == {
        "event": "killed",
        "at_unix_ms": 5,
        "domain": "system",
        "pid": 7,
        "name": "leak",
        "class": "cached",
        "reason": "no memory",
        "freed_bytes": 1,
    }


def test_an_event_of_any_shape_is_survived() -> None:
    for kind in ("pressure", "killed", "notice", "other"):
        assert describe_event({"event": kind}, ZONE).lead
