"""An episode is told in order, in plain words, and whatever its records lack."""

from __future__ import annotations

from typing import Any

import pytest

from lmkd.ctl.story import tell_story

from .literal import NOW_UNIX_MS, RECORDS, SUMMARY, ZONE, drawn


def told(
    records: list[dict[str, Any]],
    summary: dict[str, Any] = SUMMARY,
    *,
    width: int = 100,
) -> str:
    return drawn(tell_story(summary, records, NOW_UNIX_MS, ZONE), width)


def test_a_whole_episode() -> None:
    assert (
        told(RECORDS)
        == """\
Episode 3: memory was short, up to critical, from 2026-03-01 12:00:00 (3 min ago). It was over after
12.3 s.
  shed   1 app asked, 31.0 MiB given back (thumbnails 31.0 MiB).
  ended  leak (pid 4003, background, 80.0 MiB).

   +0.00 s  medium: 1.1 s to the floor at 113.7 MiB/s.
            2 apps told to free 30.0 MiB in all:
            told        class    to free  within
            thumbnails  cached  30.0 MiB     1 s
            ... and 1 more told, and asked for nothing
   +0.01 s  thumbnails freed 31.0 MiB (asked for 30.0 MiB, said 31.0 MiB); trust +1.
   +4.19 s  critical, after medium: 2.0 MiB of 128.0 MiB available.
   +4.81 s  SIGTERM to leak (pid 4003, background, 80.0 MiB): 2.0 MiB of 128.0 MiB available.
            2.0 MiB available, no swap free, 20.0 MiB needed. Ending something was due: programs
            stalled and what could still be taken was used up.
            It came first: background (as it registered) is the lowest class with anything worth
            ending.
            It was told 4.8 s before: nothing asked of it; it never answered.
            Why not another one: lmkctl explain --kill 9

            detector  asks for  because
            floor     critical  2.0 MiB of 128.0 MiB available

            in order     pid  class           size  what became of it
            leak        4003  background  80.0 MiB  ended
            editor      4002  foreground  20.0 MiB  kept: not its turn
            thumbnails  4001  cached       900 KiB  spared: not worth killing: 900 KiB, the least is
                                                    3932 KiB (trust +1)

   +6.81 s  SIGKILL to leak: it had not ended in its time.
   +6.83 s  leak was gone 2 s after SIGTERM; it took SIGKILL.
   +6.93 s  leak gave back 79.5 MiB: available rose from 2.0 MiB to 81.5 MiB.
  +12.34 s  normal: calm again.
            The episode ends.
"""
    )


KILL = RECORDS[5]
EMERGENCY = {
    "kind": "told",
    "level": "critical",
    "count": 1,
    "target_kib": 2_048,
    "emergency": True,
    "apps": [{"app": 2, "name": "leak", "class": "background", "target_kib": 2_048, "grace_ms": 0}],
}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"kind": "ack", "name": "c", "answer": "nothing"}, "c said that it has nothing to free."),
        ({"kind": "ack", "name": "c", "answer": "working"}, "c asked for more time."),
        (
            {"kind": "ack", "name": "c", "answer": "done", "claimed_kib": 1_024, "measured_kib": 0},
            "c said that it freed 1.0 MiB (asked for -), but it did not shrink.",
        ),
        (
            {"kind": "ack", "name": "c", "answer": "done", "measured_kib": -2_048, "trust": -1},
            "c said that it freed - (asked for -), but it grew by 2.0 MiB; trust -1.",
        ),
        (
            {"kind": "ack", "name": "c", "answer": "done", "asked_kib": 1_024, "claimed_kib": 512},
            "c said that it freed 512 KiB (asked for 1.0 MiB); that was not measured.",
        ),
        (
            {"kind": "told", "level": "normal", "count": 3, "apps": []},
            "3 apps told that it is over.",
        ),
        (
            {"kind": "failed", "kill": 1, "reason": "permission denied"},
            "The victim could not be ended: permission denied. It is left alone now.",
        ),
        (
            {
                "kind": "watchdog",
                "pid": 7,
                "name": "leak",
                "class": "service",
                "size_kib": 2_048,
                "reason": "the loop had not answered for 2000 ms",
            },
            "SIGKILL to leak (pid 7, service, 2.0 MiB) by the watchdog: the loop had not answered for 2000 ms.",
        ),
        (
            {"kind": "nothing_left", "reason": "low, and nothing worth killing is left"},
            "Nothing left to do: low, and nothing worth killing is left. The rest is left to the kernel.",
        ),
        (
            {"kind": "closed", "reason": "the domain is gone"},
            "The episode ends: the domain is gone.",
        ),
        ({"kind": "thawed", "pid": 7, "deep": {}, "why": "new"}, "thawed: pid 7, why new"),
        (
            {"kind": "measured", "kill": 1, "before_kib": 8_192, "available_kib": 4_096},
            "The victim gave back nothing that was not taken at once: available fell from 8.0 MiB to 4.0 MiB.",
        ),
        (
            {"kind": "measured", "before_kib": 8_192, "available_kib": 8_192},
            "gave back nothing that was not taken at once: available is what it was.",
        ),
        (
            {"kind": "measured", "available_kib": 8_192},
            "The victim gone, 8.0 MiB was available.",
        ),
        (
            {**EMERGENCY, "apps": []},
            "1 app told that no time is left: an emergency.",
        ),
        (EMERGENCY, "leak (background) told that no time is left: an emergency."),
        ({**KILL, "emergency": True}, "It was an emergency: no time was left to wait."),
        ({**KILL, "unit": "cgroup"}, "80.0 MiB) with its whole cgroup: 2.0 MiB of"),
        (
            {**KILL, "why_class": "oom_score_adj 700"},
            "It had not registered, so there was nobody to tell before.",
        ),
        (
            {**KILL, "kind": "would_kill"},
            "Dry run: would have ended leak (pid 4003, background, 80.0 MiB): 2.0 MiB",
        ),
    ],
)
def test_records_of_other_kinds(record: dict[str, Any], said: str) -> None:
    assert said in told([{"at_ms": 5, **record}], width=200)


def test_who_lost_a_program_reads_what_it_was_told_and_said() -> None:
    asked = {"app": 2, "name": "leak", "target_kib": 2_048, "grace_ms": 3_000}
    answer = {"kind": "ack", "app": 2, "name": "leak", "answer": "working", "at_ms": 2_000}
    records = [
        {"at_ms": 1_810, "kind": "told", "level": "critical", "count": 1, "apps": [asked]},
        answer,
        KILL,
    ]
    expected = "It was told 3 s before: free 2.0 MiB within 3 s; it asked for more time."
    assert expected in told(records, width=200)


def test_an_emergency_does_not_hide_what_was_told_while_there_was_time() -> None:
    asked = {"app": 2, "name": "leak", "target_kib": 4_096, "grace_ms": 3_000}
    records = [
        {"at_ms": 1_810, "kind": "told", "level": "medium", "count": 1, "apps": [asked]},
        {"at_ms": 2_000, "kind": "ack", "app": 2, "name": "leak", "answer": "working"},
        {"at_ms": 4_800, **EMERGENCY},
        KILL,
    ]
    expected = "It was told 3 s before: free 4.0 MiB within 3 s; it asked for more time."
    assert expected in told(records, width=200)
    expected = "It was told 10 ms before: free 2.0 MiB at once; it never answered."
    assert expected in told(records[2:], width=200), "it had been told nothing else"


def test_two_apps_of_one_name_are_not_mixed_up() -> None:
    apps = [{"app": which, "name": "leak", "target_kib": 2_048} for which in (8, 9)]
    unnamed = {key: value for key, value in KILL.items() if key != "app"}
    records = [{"at_ms": 0, "kind": "told", "level": "critical", "count": 2, "apps": apps}, unnamed]
    assert "It was told" not in told(records, width=200)
    assert "It was told 4.8 s before" in told([*records[:1], {**KILL, "app": 9}], width=200)


def test_a_dry_run_ended_nothing() -> None:
    text = told([{**KILL, "kind": "would_kill"}])
    assert "  ended  nothing, in a dry run; else leak (pid 4003, background, 80.0 MiB).\n" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"open": True, "closed": False}, "It is still going on."),
        ({"open": False, "closed": False}, "It was cut short after 12.3 s: the daemon left."),
        ({"open": False, "closed": True}, "It was over after 12.3 s."),
    ],
)
def test_how_it_ended(change: dict[str, bool], said: str) -> None:
    assert said in told([], {**SUMMARY, **change}, width=200)


def test_whether_it_is_open_may_not_be_said() -> None:
    unsaid = {key: value for key, value in SUMMARY.items() if key != "open"}
    assert "It was not over after 12.3 s." in told([], {**unsaid, "closed": False}, width=200)
    assert "It was over after 12.3 s." in told([], unsaid, width=200)


def test_records_not_kept_are_counted() -> None:
    assert "12 records from its middle were not kept." in told([], {**SUMMARY, "left_out": 12})


def test_every_key_may_be_absent_or_of_another_kind() -> None:
    """SPEC Q-1, for each key of each record, and of what is in its lists."""
    for place, record in enumerate(RECORDS):
        for key in record:
            for change in ({}, {key: ["junk", {}]}, {key: "junk"}, {key: -1}):
                changed = {name: value for name, value in record.items() if name != key}
                records = [*RECORDS[:place], {**changed, **change}, *RECORDS[place + 1 :]]
                assert "Episode 3" in told(records)
    assert told([{}], {}).startswith("Episode -: memory was short, up to ?")
