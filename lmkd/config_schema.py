"""The keys that a configuration may have, and what their values may be.

A check takes a value as TOML gave it and returns what the policy wants (KiB, microseconds, permyriad), or raises
BadValue with what was expected instead. Where a key stands, and what it means beside others, is for lmkd.config.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lmkd.model import AppClass, Level

RISING = (Level.LOW, Level.MEDIUM, Level.CRITICAL)
CGROUP_MOST_CHARS = 1024
"""What the wire takes for a domain: one that no client could name would be watched for nobody."""


class BadValue(Exception):
    """What was expected instead."""


def check_share(value: object) -> int:
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+)(?:\.(\d{1,2}))?\s*%", value)):
        share = int(match[1]) * 100 + int((match[2] or "0").ljust(2, "0"))
        if share <= 100_000:
            return share
    raise BadValue('a share such as "7%" or "0.5%"')


_DURATION_US = {"ms": 1_000, "s": 1_000_000, "min": 60_000_000}


def check_duration(value: object) -> int:
    if isinstance(value, str) and (match := re.fullmatch(r"(\d{1,9})\s*(ms|s|min)", value)):
        duration_us = int(match[1]) * _DURATION_US[match[2]]
        if duration_us <= 3_600_000_000:
            return duration_us
    raise BadValue('a duration up to 60min, such as "500ms" or "3s"')


def check_interval(value: object) -> int:
    with suppress(BadValue):
        if interval_us := check_duration(value):
            return interval_us
    raise BadValue('a duration from 1ms to 60min, such as "100ms"')


_SIZE_KIB = {"KiB": 1, "MiB": 1 << 10, "GiB": 1 << 20, "TiB": 1 << 30}


def check_size(value: object) -> int:
    if isinstance(value, str) and (match := re.fullmatch(r"(\d{1,9})\s*([KMGT]iB)", value)):
        return int(match[1]) * _SIZE_KIB[match[2]]
    raise BadValue('a size such as "64MiB" or "1GiB"')


def check_boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise BadValue("true or false")


def check_integer(least: int, most: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        raise BadValue(f"a whole number from {least} to {most}")

    return check


def check_path(value: object) -> str:
    if isinstance(value, str) and value.startswith("/") and "\0" not in value:
        return value
    raise BadValue('an absolute path, such as "/run/lmkd/socket"')


def check_cgroup(value: object) -> str:
    if (
        isinstance(value, str)
        and value.startswith("/")
        and len(value) <= CGROUP_MOST_CHARS
        and not any(part in ("", ".", "..") for part in value[1:].split("/"))
        and not any(sign < " " or "\x7f" <= sign <= "\x9f" for sign in value)
    ):
        return value
    raise BadValue('a cgroup\'s path below the mount, such as "/system.slice/build.service"')


def check_level(value: object) -> Level | None:
    if value == "never":
        return None
    if value in ("low", "medium", "critical"):
        return Level[str(value).upper()]
    raise BadValue('"low", "medium", "critical" or "never"')


def check_app_class(value: object) -> AppClass:
    for app_class in AppClass:
        if value == app_class.word:
            return app_class
    raise BadValue("one of " + ", ".join(f'"{app_class.word}"' for app_class in AppClass))


Check = Callable[[object], Any]

_LEVEL_SHARES: dict[str, Check] = {level.word: check_share for level in RISING}
_STALL_STEP: dict[str, Check] = {"some": check_share, "full": check_share}
_FLOOR_STEP: dict[str, Check] = {"enter": check_share, "leave": check_share, "most": check_size}
_CLASS: dict[str, Check] = {
    "oom_score_adj": check_integer(-1000, 1000),
    "killed_at": check_level,
    "grace": check_duration,
    "time_to_exit": check_duration,
}
SCHEMA: dict[str, Any] = {
    "service": {
        "socket": check_path,
        "state_dir": check_path,
        "history_episodes": check_integer(1, 10_000),
        "claim_ceiling": check_app_class,
    },
    "classes": {app_class.word: _CLASS for app_class in AppClass},
    "stall": {
        **{level.word: _STALL_STEP for level in RISING},
        "harm": _STALL_STEP,
        "emergency": {"full": check_share},
    },
    "floor": {
        **{level.word: _FLOOR_STEP for level in RISING},
        "emergency": {"enter": check_share, "most": check_size},
    },
    "swap": _LEVEL_SHARES,
    "thrash": _LEVEL_SHARES,
    "forecast": {"low": check_duration, "medium": check_duration, "slope_per_second": check_size},
    "timing": {
        "calm_hold": check_duration,
        "rest": check_duration,
        "exit_in_emergency": check_duration,
        "settle": check_duration,
        "unkillable": check_duration,
        "read_idle": check_interval,
        "read_pressed": check_interval,
        "read_in_emergency": check_interval,
    },
    "victims": {"least": check_size, "share": check_share, "most": check_size},
    "system": {"kill": check_boolean},
    "domain": [{"cgroup": check_cgroup, "kill": check_boolean}],
}
"""Every key there is, with the check of its value; a list is an array of tables."""
