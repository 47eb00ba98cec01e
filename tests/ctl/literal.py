"""Results as the daemon gives them, written out."""

from __future__ import annotations

from datetime import UTC
from io import StringIO

from lmkd.ctl.page import Block, Page

ZONE = UTC
OPENED_UNIX_MS = 1_772_366_400_000  # 2026-03-01 12:00:00
NOW_UNIX_MS = OPENED_UNIX_MS + 190_000

STATUS: dict[str, object] = {
    "version": "0.1.0",
    "uptime_ms": 3_723_999,
    "pid": 77,
    "dry_run": False,
    "clients": 1,
    "config_files": ["/etc/lmkd/lmkd.toml"],
    "reload_problem": None,
    "missing": ["no swap: available memory decides"],
    "domains": [
        {
            "domain": "system",
            "level": "medium",
            "reason": "2.0 MiB of 128.0 MiB available",
            "episode": 3,
            "may_kill": True,
            "killing": None,
            "total_kib": 131_072,
            "available_kib": 2_048,
            "swap_total_kib": 0,
            "swap_free_kib": 0,
            "some_permyriad": 1_234,
            "full_permyriad": 100,
        },
        {
            "domain": "/user.slice",
            "level": "normal",
            "reason": "calm",
            "episode": None,
            "may_kill": False,
            "killing": None,
        },
    ],
    "app_count": 2,
    "truncated": False,
    "apps": [
        {
            "app": 1,
            "pid": 4001,
            "name": "thumbnails",
            "class": "cached",
            "unit": "process",
            "cgroup": "/",
            "sheddable_kib": 30_720,
            "size_kib": 40_960,
            "trust": 1,
            "told": "medium",
            "answer": "done",
        },
        {
            "app": 2,
            "pid": 4002,
            "name": "[red]editor[/red]",
            "class": "foreground",
            "unit": "process",
            "cgroup": "/",
            "sheddable_kib": 0,
            "size_kib": None,
            "trust": 0,
            "told": None,
            "answer": None,
        },
    ],
}

SUMMARY: dict[str, object] = {
    "episode": 3,
    "domain": "system",
    "opened_unix_ms": OPENED_UNIX_MS,
    "duration_ms": 12_345,
    "open": False,
    "closed": True,
    "peak": "critical",
    "kills": 1,
    "shed_kib": 31_744,
    "left_out": 0,
}

RECORDS: list[dict[str, object]] = [
    {"at_ms": 0, "kind": "opened", "total_kib": 131_072},
    {
        "at_ms": 0,
        "kind": "level",
        "from": "normal",
        "to": "medium",
        "reason": "1.1 s to the floor at 113.7 MiB/s",
        "available_kib": 51_200,
        "swap_free_kib": 0,
    },
    {
        "at_ms": 0,
        "kind": "told",
        "level": "medium",
        "count": 2,
        "target_kib": 30_720,
        "apps": [
            {
                "app": 1,
                "name": "thumbnails",
                "class": "cached",
                "target_kib": 30_720,
                "grace_ms": 1_000,
            },
            {
                "app": 2,
                "name": "leak",
                "class": "background",
                "target_kib": 0,
                "grace_ms": 3_000,
            },
        ],
    },
    {
        "at_ms": 12,
        "kind": "ack",
        "app": 1,
        "name": "thumbnails",
        "answer": "done",
        "asked_kib": 30_720,
        "claimed_kib": 31_744,
        "measured_kib": 31_744,
        "trust": 1,
    },
    {
        "at_ms": 4_190,
        "kind": "level",
        "from": "medium",
        "to": "critical",
        "reason": "2.0 MiB of 128.0 MiB available",
        "available_kib": 2_048,
        "swap_free_kib": 0,
    },
    {
        "at_ms": 4_810,
        "kind": "kill",
        "kill": 9,
        "pid": 4003,
        "app": 2,
        "name": "leak",
        "class": "background",
        "why_class": "registered",
        "size_kib": 81_920,
        "unit": "process",
        "reason": "2.0 MiB of 128.0 MiB available",
        "level": "critical",
        "harm": True,
        "exhausted": True,
        "emergency": False,
        "need_kib": 20_480,
        "available_kib": 2_048,
        "swap_free_kib": 0,
        "findings": [
            {
                "detector": "floor",
                "level": "critical",
                "reason": "2.0 MiB of 128.0 MiB available",
            }
        ],
        "ranked": [
            {
                "pid": 4003,
                "name": "leak",
                "class": "background",
                "why_class": "registered",
                "size_kib": 81_920,
                "trust": 0,
                "spared": None,
            },
            {
                "pid": 4002,
                "name": "editor",
                "class": "foreground",
                "why_class": "registered",
                "size_kib": 20_480,
                "trust": 0,
                "spared": None,
            },
            {
                "pid": 4001,
                "name": "thumbnails",
                "class": "cached",
                "why_class": "registered",
                "size_kib": 900,
                "trust": 1,
                "spared": "not worth killing: 900 KiB, the least is 3932 KiB",
            },
        ],
    },
    {"at_ms": 6_812, "kind": "signal", "kill": 9, "signal": "SIGKILL"},
    {"at_ms": 6_830, "kind": "exited", "kill": 9, "after_ms": 2_020, "sigkill": True},
    {"at_ms": 6_930, "kind": "measured", "kill": 9, "before_kib": 2_048, "available_kib": 83_456},
    {
        "at_ms": 12_345,
        "kind": "level",
        "from": "critical",
        "to": "normal",
        "reason": "calm again",
        "available_kib": 90_000,
        "swap_free_kib": 0,
    },
    {"at_ms": 12_345, "kind": "closed"},
]

EXPLAINED: dict[str, object] = {
    "pid": 4003,
    "name": "leak",
    "exe": "/usr/bin/leak",
    "cgroup": "/user.slice",
    "class": "background",
    "why_class": "builds",
    "rule": "builds",
    "rule_place": "/etc/lmkd/lmkd.toml:12",
    "never_killed": None,
    "killed_at": "critical",
    "size_kib": 81_920,
    "least_kib": 3_932,
    "unit": "tree",
    "oom_score_adj": 0,
    "projected": 700,
    "app": None,
    "ranks": [
        {
            "domain": "system",
            "level": "medium",
            "rank": None,
            "of": 1,
            "spared": "its class may be killed at critical only",
            "before": [],
            "before_count": 0,
            "before_kib": 0,
        },
        {
            "domain": "system",
            "level": "critical",
            "rank": 8,
            "of": 12,
            "spared": None,
            "before": [
                {"pid": 5, "name": "tab", "class": "cached", "size_kib": 40_960},
                {"pid": 6, "name": "tab", "class": "cached", "size_kib": 20_480},
            ],
            "before_count": 7,
            "before_kib": 204_800,
        },
        {
            "domain": "/user.slice",
            "level": "critical",
            "rank": 1,
            "of": 1,
            "spared": None,
            "before": [],
            "before_count": 0,
            "before_kib": 0,
        },
    ],
}

RULES: dict[str, object] = {
    "rules": [
        {
            "number": 1,
            "name": "the database as a whole, or not at all",
            "place": "/etc/lmkd/lmkd.toml:3",
            "shipped": False,
            "match": [
                {"subject": "cgroup", "expected": "'/system.slice/postgresql*.service'"},
                {"subject": "uid", "expected": "at least 1000"},
            ],
            "class": "service",
            "unit": "cgroup",
            "exempt": False,
            "bias": -10,
            "grace_ms": 5_000,
            "time_to_exit_ms": 1_500,
            "least_kib": 65_536,
            "ceiling": "perceptible",
            "hits": 12,
        },
        {
            "number": 2,
            "name": "init",
            "place": "lmkd/defaults.toml:8",
            "shipped": True,
            "match": [],
            "class": "system",
            "unit": "process",
            "exempt": True,
            "bias": 0,
            "grace_ms": None,
            "time_to_exit_ms": None,
            "least_kib": None,
            "ceiling": None,
            "hits": 0,
        },
    ],
    "total": 2,
    "next": None,
    "strict": False,
    "unruled": "service",
    "unruled_hits": 31,
    "warnings": [],
}

UNRULED: dict[str, object] = {
    "processes": [
        {
            "pid": 4003,
            "name": "leak",
            "class": "service",
            "rule": "",
            "uid": 1000,
            "cgroup": "/user.slice",
            "size_kib": 81_920,
            "oom_score_adj": 0,
            "projected": 500,
            "app": None,
        }
    ],
    "total": 1,
    "next": None,
}

RECORDINGS: dict[str, object] = {
    "recordings": [
        {
            "path": "/var/lib/lmkd/recordings/3",
            "episodes": [2, 3],
            "bytes": 2_048,
            "saved_unix_ms": OPENED_UNIX_MS,
        },
        {
            "path": "/var/lib/lmkd/recordings/7",
            "episodes": [],
            "bytes": 1,
            "saved_unix_ms": OPENED_UNIX_MS + 60_000,
        },
    ],
    "saved": None,
}


def drawn(blocks: list[Block], width: int = 100, *, colour: bool = False) -> str:
    """Return blocks as they come to stand on a page."""
    out = StringIO()
    Page(out, width, colour).draw(blocks)
    return out.getvalue()
