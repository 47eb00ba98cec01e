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


def test_the_latest_is_the_one_saved_now_or_else_the_one_saved_last() -> None:
    assert find_latest({**RECORDINGS, "saved": "/a/9"}) == "/a/9"
    assert find_latest(RECORDINGS) == "/var/lib/lmkd/recordings/7"
