"""Recordings are listed, and the latest of them is found."""

from __future__ import annotations

from lmkd.ctl.recordings import describe_recordings, find_latest

from .literal import NOW_UNIX_MS, RECORDINGS, ZONE, drawn


def test_recordings() -> None:
    assert (
        drawn(describe_recordings({**RECORDINGS, "saved": "/a/7"}, NOW_UNIX_MS, ZONE))
        == """\
Saved: /a/7

saved                when       episodes   size  file
2026-03-01 12:00:00  3 min ago  2, 3      2 KiB  /var/lib/lmkd/recordings/3
2026-03-01 12:01:00  2 min ago  -         1 KiB  /var/lib/lmkd/recordings/7
"""
    )


def test_no_recording_is_said_and_a_result_of_any_shape_survived() -> None:
    nothings: list[dict[str, object]] = [{}, {"recordings": []}, {"recordings": 1, "saved": 2}]
    for nothing in nothings:
        text = drawn(describe_recordings(nothing, NOW_UNIX_MS, ZONE))
        assert text == "No recording is kept yet.\n"
        assert find_latest(nothing) is None
    odd: dict[str, object] = {"recordings": [{}, {"episodes": ["\x1b", 1], "path": 3}]}
    assert "\x1b" not in drawn(describe_recordings(odd, NOW_UNIX_MS, ZONE))
    assert find_latest(odd) is None


def test_the_latest_of_an_episode_is_wanted_even_if_calm_was_saved_since() -> None:
    calm = "/var/lib/lmkd/recordings/7"
    assert find_latest({**RECORDINGS, "saved": calm}) == "/var/lib/lmkd/recordings/3"
    kept = RECORDINGS["recordings"]
    assert isinstance(kept, list)
    newer = {**kept[0], "path": "/a/9", "saved_unix_ms": NOW_UNIX_MS}
    assert find_latest({"recordings": [*kept, newer], "saved": "/a/9"}) == "/a/9"
    assert find_latest({"recordings": [*kept, newer], "saved": None}) == "/a/9"


def test_where_no_episode_is_kept_the_calm_has_to_do() -> None:
    kept = RECORDINGS["recordings"]
    assert isinstance(kept, list)
    assert find_latest({"recordings": kept[1:]}) == "/var/lib/lmkd/recordings/7"
    assert find_latest({"recordings": [], "saved": "/a/9"}) == "/a/9"


def test_many_episodes_are_told_by_the_first_and_the_last() -> None:
    kept: dict[str, object] = {"episodes": list(range(3, 900)), "bytes": 1, "path": "/a"}
    assert "  3 to 899  " in drawn(describe_recordings({"recordings": [kept]}, NOW_UNIX_MS, ZONE))
