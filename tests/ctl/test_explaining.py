"""What would become of a process, and why a kill was made, is said exactly so."""

from __future__ import annotations

from typing import Any

import pytest

from lmkd.ctl.explaining import describe_kill, describe_process

from .literal import EXPLAINED, NOW_UNIX_MS, OPENED_UNIX_MS, RECORDS, ZONE, drawn

KILL = next(record for record in RECORDS if record["kind"] == "kill")


def candidate(pid: int, name: str, app_class: str = "background", **more: object) -> dict[str, Any]:
    row: dict[str, Any] = {"pid": pid, "name": name, "class": app_class, "size_kib": 81_920}
    return {**row, "trust": 0, "bias": 0, "mark": "none", "spared": None, **more}


def explained_kill(*ranked: dict[str, Any], **more: object) -> dict[str, object]:
    """Return the explanation of a kill of `leak`, which has pid 4003, with these candidates."""
    return {
        "episode": 3,
        "domain": "system",
        "opened_unix_ms": OPENED_UNIX_MS,
        "kill": {**KILL, "ranked": list(ranked) or KILL["ranked"], **more},
        "outcome": [r for r in RECORDS if r.get("kill") == 9 and r["kind"] != "kill"],
    }


def told(explained: dict[str, object], width: int = 100) -> str:
    return drawn(describe_kill(explained, NOW_UNIX_MS, ZONE), width)


# --- a process ------------------------------------------------------------------------------------------


def test_a_process_explained() -> None:
    assert (
        drawn(describe_process(EXPLAINED))
        == """\
leak (pid 4003) /usr/bin/leak
  class   background: by the rule 'builds' (/etc/lmkd/lmkd.toml:12)
  killed  only at critical
  size    80.0 MiB: worth killing, the least is 3.8 MiB
  unit    it dies with its descendants in its cgroup
  cgroup  /user.slice
  kernel  oom_score_adj 700 (lmkd wrote it, its own is 0): what the kernel goes by if it must act
          itself
  notices none: it has not registered, so it is not told before

Where it stands now, should memory be as short as that:

  domain       level     its turn     before it  which are
  system       medium    spared               -  its class may be killed at critical only
  system       critical  8 of 12   7, 200.0 MiB  tab (pid 5, cached, 40.0 MiB), tab (pid 6, cached,
                                                 20.0 MiB) and 5 more
  /user.slice  critical  1 of 1         nothing
"""
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"never_killed": "init"}, "killed  never: init"),
        ({"killed_at": "medium"}, "killed  from medium on"),
        ({"killed_at": None, "class": "system"}, "killed  never: its class is system"),
        ({"size_kib": 900}, "size    900 KiB: not worth killing, the least is 3.8 MiB"),
        ({"size_kib": 900, "never_killed": "init"}, "size    900 KiB"),
        (
            {"app": {"app": 7, "name": "L", "told": "low", "answer": "done", "trust": -1}},
            "notices the last said low, it answered 'done'; trust -1",
        ),
        ({"app": {"app": 7, "name": "L"}}, "notices none yet; trust -"),
        ({"app": {"app": 7, "name": "L"}}, "class   background: it registered so, as app 7 'L'"),
        ({"app": {"app": 7, "name": "L"}}, "rule    'builds' (/etc/lmkd/lmkd.toml:12)"),
        (
            {"rule": "", "why_class": "no rule speaks for it"},
            "class   background: no rule speaks for it",
        ),
        ({"rule_place": ""}, "class   background: by the rule 'builds'"),
        ({"unit": "process"}, "unit    it alone dies"),
        ({"unit": "cgroup"}, "unit    its whole cgroup dies with it"),
        (
            {"projected": None},
            "kernel  oom_score_adj 0: what the kernel goes by if it must act itself",
        ),
    ],
)
def test_a_process_explained_otherwise(change: dict[str, object], said: str) -> None:
    assert f"  {said}\n" in drawn(describe_process({**EXPLAINED, **change}), 200)


def test_a_daemon_that_does_not_rank_is_not_made_up_for() -> None:
    text = drawn(describe_process({**EXPLAINED, "ranks": [], "unit": None, "projected": None}))
    assert "stands" not in text
    assert "unit" not in text


# --- a kill ---------------------------------------------------------------------------------------------


def test_a_kill_explained() -> None:
    assert (
        told(explained_kill())
        == """\
Kill 9 of episode 3, 2026-03-01 12:00:04 (3 min ago).
SIGTERM to leak (pid 4003, background, 80.0 MiB): 2.0 MiB of 128.0 MiB available.

  why now 2.0 MiB available, no swap free, 20.0 MiB needed. Ending something was due: programs
          stalled and what could still be taken was used up.
          floor asked for critical: 2.0 MiB of 128.0 MiB available.
  why it  It came first: background (as it registered) is the lowest class with anything worth
          ending. Nothing else of that class was worth it.
  why not editor (pid 4002, foreground, 20.0 MiB): foreground goes after background.
          thumbnails (pid 4001, cached, 900 KiB): spared at critical: not worth killing: 900 KiB,
          the least is 3932 KiB.
  after   SIGKILL to leak: it had not ended in its time.
          leak was gone 2 s after SIGTERM; it took SIGKILL.
          leak gave back 79.5 MiB: available rose from 2.0 MiB to 81.5 MiB.
"""
    )


LEAK = candidate(4003, "leak")


@pytest.mark.parametrize(
    ("victim", "other", "why"),
    [
        ({}, {"class": "service"}, "service goes after background"),
        ({}, {"class": "regal"}, "its class is regal"),
        (
            {"unruled_first": True},
            {"size_kib": 90_000},
            "in strict mode whoever has neither goes first",
        ),
        ({}, {"mark": "avoid"}, "others marked its cgroup 'avoid', against 'none'"),
        ({"mark": "prefer"}, {"bias": 5}, "others marked its cgroup 'none', against 'prefer'"),
        ({"bias": 10}, {"trust": -1}, "its rule has it go later in its class (0, against +10)"),
        ({"trust": -1}, {"trust": 2}, "it kept its word more often (+2, against -1)"),
        ({}, {"size_kib": 71_680}, "of the same class, and smaller by 10.0 MiB"),
        ({}, {}, "of the same class and size; of two alike the lower pid goes first"),
        ({}, {"size_kib": 90_000}, "later in line"),
    ],
)
def test_why_not_the_next_is_the_first_thing_in_which_they_differ(
    victim: dict[str, object], other: dict[str, object], why: str
) -> None:
    """In the order of ranking: class, strict mode, marks, bias, trust, size, pid."""
    next_one = {**candidate(4004, "next"), **other}
    text = told(explained_kill({**LEAK, **victim}, next_one), 200)
    assert text.split("  why not next (", 1)[1].split(": ", 1)[1].split(".\n")[0].endswith(why)


def test_three_others_are_told_about_and_no_more() -> None:
    others = [candidate(5000 + n, f"other{n}", "service") for n in range(5)]
    text = told(explained_kill(LEAK, *others))
    assert [name in text for name in ("other0", "other1", "other2", "other3")] == [True] * 3 + [
        False
    ]
    assert "Nothing else of that class was worth it." in text


def test_whoever_was_before_it_in_line_is_told_about_too() -> None:
    text = told(explained_kill(candidate(4002, "first"), LEAK), 200)
    assert (
        "why not first (pid 4002, background, 80.0 MiB): before it in line, but not to be" in text
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"ranked": []}, "of episode 3"),
        ({"ranked": [LEAK]}, "why not Nothing else was there to be ended.\n"),
        (
            {"why_class": "builds", "rule": "builds"},
            "first: background (by the rule 'builds') is the",
        ),
        ({"unit": "cgroup", "count": 12}, "80.0 MiB) with its whole cgroup, 12 processes: 2.0 MiB"),
        ({"unit": "tree", "count": 1}, "80.0 MiB) with its descendants: 2.0 MiB"),
        ({"kind": "would_kill"}, "Dry run: would have ended leak"),
        ({"kind": "would_kill"}, "after   Nothing: in a dry run nobody is signalled.\n"),
        ({"emergency": True}, "It was an emergency: no time was left to wait."),
    ],
)
def test_a_kill_explained_otherwise(more: dict[str, object], said: str) -> None:
    explained = explained_kill()
    explained["kill"] = {**KILL, **more}
    assert said in told(explained, 200)


def test_a_kill_under_way_has_no_outcome_yet() -> None:
    text = told({**explained_kill(), "outcome": [], "domain": "/user.slice"})
    assert text.startswith("Kill 9 of episode 3 in /user.slice, 2026")
    assert text.endswith("  after   It is not known yet what came of it.\n")


# --- whatever comes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "junk",
    [
        {},
        {"kill": 1, "ranks": [1, {}], "outcome": {}, "pid": "x", "app": {}},
        {"kill": {"ranked": [{}, {"pid": 1}], "pid": 1, "findings": [{}]}, "ranks": [{"rank": 2}]},
    ],
)
def test_results_of_any_shape_are_survived(junk: dict[str, object]) -> None:
    """SPEC Q-1: any key may be absent."""
    assert drawn(describe_process(junk)).startswith("it (pid -)")
    assert told(junk).startswith("Kill - of episode -")


def test_names_steer_no_terminal() -> None:
    hostile = {"name": "a\x1b[2Jb\nc\u202e"}
    explained = explained_kill(LEAK, {**candidate(1, "x"), **hostile}, **hostile)
    text = drawn(describe_process({**EXPLAINED, **hostile})) + told(explained)
    assert "a\ufffd[2Jb\ufffdc\ufffd" in text
    assert "\x1b" not in text
