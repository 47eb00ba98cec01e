"""How things stand is said exactly so."""

from __future__ import annotations

import pytest

from lmkd.ctl.standing import describe_apps, describe_episodes, describe_status

from .literal import NOW_UNIX_MS, OPENED_UNIX_MS, STATUS, SUMMARY, ZONE, drawn


def test_status() -> None:
    assert (
        drawn(describe_status(STATUS))
        == """\
lmkd 0.1.0, pid 77, up 1 h 2 min, 2 apps, 1 client

domain       level   available         of  swap free  stalled  episode  why
system       medium    2.0 MiB  128.0 MiB       none    12.3%        3  2.0 MiB of 128.0 MiB
                                                                        available
/user.slice  normal          -          -          -        -        -  calm
/user.slice: programs are told here, but nothing is ended.

Missing here, and what is done instead:
  - no swap: available memory decides
"""
    )


def test_status_names_a_dry_run_a_kill_in_flight_and_a_bad_configuration() -> None:
    status = {
        "dry_run": True,
        "domains": [{"domain": "system", "killing": "leak"}],
        "reload_problem": "a.toml:3: no key 'flor'\nexpected 'floor'",
    }
    text = drawn(describe_status(status))
    assert "Dry run" in text
    assert "system: leak is being ended just now.\n" in text
    assert text.endswith("stays:\n  a.toml:3: no key 'flor'\n  expected 'floor'\n")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"strict": True}, "\nStrict: what no rule speaks for is the first to go.\n"),
        ({"relayed_from": "/run/l"}, "\nLevels are those of the system's daemon, at /run/l.\n"),
        (
            {"process_events": "netlink"},
            "\nNew processes are under policy at once: the kernel tells",
        ),
        ({"process_events": "scan"}, "\nNew processes are under policy at the next look at all"),
        (
            {"process_events": "off"},
            "\nNew processes are under policy only when somebody must die.\n",
        ),
        ({"warnings": ["a.toml:3: x"]}, "\nDoubtful in the configuration:\n  - a.toml:3: x\n"),
    ],
)
def test_status_says_how_the_policy_is_kept(more: dict[str, object], said: str) -> None:
    assert said in drawn(describe_status({**STATUS, **more}))
    assert said not in drawn(describe_status(STATUS))


def test_apps() -> None:
    assert (
        drawn(describe_apps(STATUS))
        == """\
app   pid  name               class           size  sheddable  told    answer  trust
  1  4001  thumbnails         cached      40.0 MiB   30.0 MiB  medium  done       +1
  2  4002  [red]editor[/red]  foreground         -      0 KiB  -       -           0
"""
    )


def test_apps_that_are_not_listed_are_counted() -> None:
    text = drawn(describe_apps({**STATUS, "app_count": 5}))
    assert text.endswith("... and 3 more, which the daemon does not list.\n")
    assert drawn(describe_apps({"apps": [], "app_count": 0})) == "No program has registered.\n"


def test_episodes() -> None:
    cut_short = {**SUMMARY, "episode": 2, "closed": False}
    unsaid = {key: value for key, value in cut_short.items() if key != "open"}
    opened = {"opened_unix_ms": OPENED_UNIX_MS}
    open_now: dict[str, object] = {"episode": 4, "closed": False, "open": True, **opened}
    episodes = [open_now, SUMMARY, cut_short, {**unsaid, "episode": 1}]
    text = drawn(describe_episodes(episodes, 7, NOW_UNIX_MS, ZONE))
    assert (
        text
        == """\
episode  opened               when       domain  peak                 lasted      shed  ended
      4  2026-03-01 12:00:00  3 min ago  -       -                  going on         -      -
      3  2026-03-01 12:00:00  3 min ago  system  critical             12.3 s  31.0 MiB      1
      2  2026-03-01 12:00:00  3 min ago  system  critical  12.3 s, cut short  31.0 MiB      1
      1  2026-03-01 12:00:00  3 min ago  system  critical   12.3 s, not over  31.0 MiB      1
... and 3 earlier: lmkctl history --limit 7
"""
    )


def test_no_episode_is_good_news() -> None:
    text = drawn(describe_episodes([], 0, NOW_UNIX_MS, ZONE))
    assert text == "No episode yet: memory has not been short.\n"


@pytest.mark.parametrize("junk", [{}, {"domains": 1, "apps": [1, {}], "missing": {}, "pid": "x"}])
def test_results_of_any_shape_are_survived(junk: dict[str, object]) -> None:
    """SPEC Q-1: any key may be absent."""
    assert drawn(describe_status(junk)).startswith("lmkd ?, pid -, up -")
    assert drawn(describe_apps(junk))
    assert drawn(describe_episodes([junk], None, 0, ZONE))


def test_names_steer_no_terminal() -> None:
    hostile = {"name": "a\x1b[2Jb\nc\u202e"}
    text = drawn(describe_apps({"apps": [hostile]}))
    assert "a\ufffd[2Jb\ufffdc\ufffd" in text
    assert "\x1b" not in text
