"""The keys that a configuration may have, and what their values may be.

A check takes a value as TOML gave it and returns what the policy wants (KiB, microseconds, permyriad), or raises
BadValue with what was expected instead. Where a key stands, and what it means beside others, is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from lmkd.config.mistakes import BadValue, Refused
from lmkd.model import ASKED_UNITS, AppClass, Level, Unit

RISING = (Level.LOW, Level.MEDIUM, Level.CRITICAL)
CGROUP_MOST_CHARS = 1024
"""What the wire takes for a domain: one that no client could name would be watched for nobody."""
NAME_MOST_CHARS = 100
KILLABLE = frozenset(AppClass) - {AppClass.SYSTEM}

Check = Callable[[object], Any]


def check_share(value: object) -> int:
    if isinstance(value, str) and (match := re.fullmatch(r"(\d{1,9})(?:\.(\d{1,2}))?\s*%", value)):
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


def check_scan_interval(value: object) -> int:
    # A scan of 2,000 processes takes 20-36 ms (FACTS): ten a second would be a third of a CPU.
    with suppress(BadValue):
        if (interval_us := check_duration(value)) >= 500_000:
            return interval_us
    raise BadValue('a duration from 500ms to 60min, such as "5s"')


_SIZE_KIB = {"KiB": 1, "MiB": 1 << 10, "GiB": 1 << 20, "TiB": 1 << 30}


def check_size(value: object) -> int:
    if isinstance(value, str) and (match := re.fullmatch(r"(\d{1,9})\s*([KMGT]iB)", value)):
        return int(match[1]) * _SIZE_KIB[match[2]]
    raise BadValue('a size such as "64MiB" or "1GiB"')


def check_recording_size(value: object) -> int:
    with suppress(BadValue):
        if (size_kib := check_size(value)) >= 64:
            return size_kib
    raise BadValue('a size of at least 64KiB, such as "4MiB"')


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


def check_word(*words: str) -> Callable[[object], str]:
    *others, last = (f'"{word}"' for word in words)
    expected = f"{', '.join(others)} or {last}"

    def check(value: object) -> str:
        if isinstance(value, str) and value in words:
            return value
        raise BadValue(expected)

    return check


def check_path(value: object) -> str:
    if isinstance(value, str) and value.startswith("/") and "\0" not in value:
        return value
    raise BadValue('an absolute path, such as "/run/lmkd/socket"')


def check_cgroup(value: object) -> str:
    """Take the glob of a cgroup; without a wildcard it is one that a client could name."""
    if not (
        isinstance(value, str)
        and value.startswith("/")
        and len(value) <= CGROUP_MOST_CHARS
        and not any(part in ("", ".", "..") for part in value[1:].split("/"))
        and not any(sign < " " or "\x7f" <= sign <= "\x9f" for sign in value)
    ):
        raise BadValue('a cgroup\'s path below the mount, such as "/system.slice/build.service"')
    for part in value.split("/"):
        if "**" in part and part != "**":
            raise Refused(f"{part!r}: ** stands for whole parts of a path; inside one write *")
    return value


def check_domain(value: object) -> str:
    cgroup = check_cgroup(value)
    if all(part == "**" for part in cgroup[1:].split("/")):
        raise Refused(f"{cgroup!r} names every cgroup; the whole system is watched without it")
    return cgroup


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


def check_kill(value: object) -> frozenset[AppClass]:
    if isinstance(value, bool):
        return KILLABLE if value else frozenset()
    if not isinstance(value, list):
        raise BadValue('true, false or an array of classes, such as ["cached", "background"]')
    classes = set()
    for item in value:
        try:
            app_class = check_app_class(item)
        except BadValue as bad:
            raise BadValue(f"an array with {bad} in it") from None
        if app_class is AppClass.SYSTEM:
            raise Refused('"system" cannot be let die: never is what it means')
        classes.add(app_class)
    return frozenset(classes)


def check_unit(value: object) -> Unit:
    for unit in ASKED_UNITS:
        if value == unit.value:
            return unit
    raise BadValue('"process", "tree" or "cgroup"')


def check_name(value: object) -> str:
    if (
        isinstance(value, str)
        and value.strip()
        and len(value) <= NAME_MOST_CHARS
        and value.isprintable()
    ):
        return value
    raise BadValue(f"a name on one line, of 1 to {NAME_MOST_CHARS} characters")


_LEVEL_SHARES: dict[str, Check] = {level.word: check_share for level in RISING}
_STALL_STEP: dict[str, Check] = {"some": check_share, "full": check_share}
_FLOOR_STEP: dict[str, Check] = {"enter": check_share, "leave": check_share, "most": check_size}
_CLASS: dict[str, Check] = {
    "oom_score_adj": check_integer(-1000, 1000),
    "killed_at": check_level,
    "grace": check_duration,
    "time_to_exit": check_duration,
}
_OF_A_DOMAIN: dict[str, Any] = {
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
        "unkillable_in_emergency": check_duration,
        "read_idle": check_interval,
        "read_pressed": check_interval,
        "read_in_emergency": check_interval,
    },
    "victims": {"least": check_size, "share": check_share, "most": check_size},
}
"""What a domain may have of its own; at the top, what the system has."""
DOMAIN_SCHEMA: dict[str, Any] = {"cgroup": check_domain, "kill": check_kill, **_OF_A_DOMAIN}
RULE_SCHEMA: dict[str, Any] = {
    "name": check_name,
    "match": None,
    "class": check_app_class,
    "unit": check_unit,
    "grace": check_duration,
    "time_to_exit": check_duration,
    "exempt": check_boolean,
    "bias": check_integer(-100, 100),
    "least": check_size,
    "ceiling": check_app_class,
}
"""A rule's keys; its match is for lmkd.config.matches."""
SCHEMA: dict[str, Any] = {
    "service": {
        "socket": check_path,
        "state_dir": check_path,
        "history_episodes": check_integer(1, 10_000),
        "claim_ceiling": check_app_class,
    },
    "policy": {
        "strict": check_boolean,
        "unruled": check_app_class,
        "project": check_word("all", "registered", "none"),
    },
    "process_events": {
        "source": check_word("netlink", "scan", "auto"),
        "scan_every": check_scan_interval,
    },
    "recording": {"episodes": check_integer(0, 10_000), "most": check_recording_size},
    "interop": {
        "low_memory_monitor": check_boolean,
        "memory_pressure": check_boolean,
        "prekill_hook": check_boolean,
        "prekill_timeout": check_interval,
        "desktop_notices": check_boolean,
    },
    "classes": {app_class.word: _CLASS for app_class in AppClass},
    **_OF_A_DOMAIN,
    "system": {"kill": check_kill},
    "domain": None,
    "sets": None,
    "rule": None,
}
"""Every key there is at the top, with the check of its value. None: an idea of its own, in a module of its own."""


def find_check(key: tuple[str, ...], schema: Mapping[str, Any] = SCHEMA) -> Check:
    """Return the check of a key."""
    found: Any = schema
    for part in key:
        found = found[part]
    check: Check = found
    return check
