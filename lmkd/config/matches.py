"""What a rule's match may hold, and the tests that it becomes.

A check takes one pattern, range or flag as TOML gave it. What could never match is refused here, with the reason:
a rule that looks right and does nothing is worse than a mistake.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lmkd.config.mistakes import BadValue, Refused
from lmkd.config.schema import check_boolean, check_cgroup, check_size
from lmkd.policy.patterns import (
    COMM_BYTES,
    ExeTest,
    FlagTest,
    GlobTest,
    RangeTest,
    Test,
    TextTest,
    UnitTest,
    compile_text,
    is_literal,
)

UINT32_MOST = 2**32 - 1
PATTERN_MOST_CHARS = 1000
UNIT_SUFFIXES = (".service", ".scope", ".socket", ".mount", ".swap")

_ESCAPED = re.compile(r"\\([^A-Za-z0-9])")


def check_text(value: object) -> str:
    """Take a regular expression."""
    if not isinstance(value, str):
        raise BadValue("a pattern or an array of them")
    if not value:
        raise Refused("an empty pattern matches nothing")
    if len(value) > PATTERN_MOST_CHARS:
        raise Refused(
            f"a pattern of {len(value)} characters; at most {PATTERN_MOST_CHARS} are taken"
        )
    if "\0" in value:
        raise Refused("a pattern with a NUL can never match: the kernel ends texts with it")
    if is_literal(value):
        return value
    try:
        with warnings.catch_warnings():
            # What Python will read otherwise one day ("[[a]") is not to change its meaning unseen.
            warnings.simplefilter("error")
            compile_text(value)
    except re.error as error:
        at = "" if error.pos is None else f" at character {error.pos + 1}"
        raise Refused(f"not a regular expression: {error.msg}{at} of {value!r}") from None
    except Warning as warning:
        raise Refused(f"not a clear regular expression: {warning} of {value!r}") from None
    except (RecursionError, OverflowError) as error:
        raise Refused(f"not a regular expression that can be used: {error}") from None
    return value


def check_comm(value: object) -> str:
    pattern = check_text(value)
    name = _least_text(pattern)
    if name is not None and len(name.encode(errors="replace")) > COMM_BYTES:
        kept = name.encode(errors="replace")[:COMM_BYTES].decode(errors="ignore")
        raise Refused(
            f"{pattern!r} can never match: the kernel keeps {COMM_BYTES} bytes of a name; write {kept!r}"
        )
    return pattern


def _least_text(pattern: str) -> str | None:
    """Return a text as long as what a pattern matches, where that has one length, as of "org.gnome.Builder"."""
    plain = _ESCAPED.sub("x", pattern)
    if not is_literal(plain.replace(".", "")):
        return None
    return _ESCAPED.sub(r"\1", pattern)


def check_exe(value: object) -> str:
    pattern = check_text(value)
    if is_literal(pattern) and "/" in pattern and not pattern.startswith("/"):
        raise Refused(
            f"{pattern!r} can never match: with a slash it is the whole path, which begins with one"
        )
    if is_literal(pattern) and pattern.endswith("/"):
        raise Refused(f"{pattern!r} can never match: it names a folder; add a name, or .* for any")
    return pattern


def check_environ(value: object) -> str:
    pattern = check_text(value)
    if is_literal(pattern) and "=" not in pattern:
        raise Refused(
            f"{pattern!r} can never match: it is the whole of NAME=value that must match;"
            f" for any value write '{pattern}=.*'"
        )
    return pattern


def check_unit_glob(value: object) -> str:
    if not isinstance(value, str):
        raise BadValue("the name of a systemd unit, a glob, or an array of them")
    if not value:
        raise Refused("an empty name matches no unit")
    if "/" in value:
        raise Refused(
            f"{value!r} can never match: the name of a unit has no slash; a path is cgroup"
        )
    if value.endswith(".slice"):
        raise Refused(
            f"{value!r} can never match: a slice is not the unit of a process;"
            f' use cgroup = "/{value}/**"'
        )
    tail = re.split(r"[*?]", value)[-1]
    if tail and not any(s.endswith(tail) or tail.endswith(s) for s in UNIT_SUFFIXES):
        raise Refused(
            f"{value!r} can never match: a unit's name ends in {', '.join(UNIT_SUFFIXES)};"
            f" did you mean '{value}.service'?"
        )
    return value


Span = tuple[int | None, int | None]


def check_range(least: int, most: int) -> Callable[[object], Span]:
    """Return the check of a range of whole numbers that lie between two bounds."""

    def check(value: object) -> Span:
        expected = 'a number or a range such as 1000, ">=1000", "<500" or "1000..60000"'
        if isinstance(value, int) and not isinstance(value, bool):
            span: Span = (value, value)
        else:
            span = _parse_span(value, r"-?\d{1,18}", int, expected)
        return _refuse_empty(span, least, most, value)

    return check


def check_size_range(value: object) -> Span:
    expected = 'a range of sizes such as ">=500MiB" or "100MiB..1GiB"'
    span = _parse_span(value, r"\d{1,9}\s*[KMGT]iB", check_size, expected)
    return _refuse_empty(span, 0, None, value)


def _parse_span(value: object, number: str, take: Callable[[str], int], expected: str) -> Span:
    if isinstance(value, str):
        if match := re.fullmatch(rf"\s*(>=|<=|>|<)\s*({number})\s*", value):
            bound = take(match[2])
            spans: dict[str, Span] = {
                ">=": (bound, None),
                ">": (bound + 1, None),
                "<=": (None, bound),
                "<": (None, bound - 1),
            }
            return spans[match[1]]
        if match := re.fullmatch(rf"\s*({number})\s*\.\.\s*({number})\s*", value):
            return take(match[1]), take(match[2])
    raise BadValue(expected)


def _refuse_empty(span: Span, least: int, most: int | None, value: object) -> Span:
    low, high = span
    if low is not None and high is not None and low > high:
        raise Refused(f"{value!r} can never match: it ends before it begins")
    if (high is not None and high < least) or (low is not None and most is not None and low > most):
        bounds = f"from {least} to {most}" if most is not None else f"at least {least}"
        raise Refused(f"{value!r} can never match: it is always {bounds}")
    return span


class Match(NamedTuple):
    """How the value of one key of a match is read."""

    check: Callable[[object], Any]
    """Of one pattern, range or flag."""
    build: Callable[[Sequence[Any]], Test]
    takes_sets: bool = False
    takes_arrays: bool = True


MATCHES: dict[str, Match] = {
    "comm": Match(check_comm, lambda found: TextTest(tuple(found)), takes_sets=True),
    "exe": Match(check_exe, lambda found: ExeTest(tuple(found)), takes_sets=True),
    "cmdline": Match(check_text, lambda found: TextTest(tuple(found)), takes_sets=True),
    "environ": Match(check_environ, lambda found: TextTest(tuple(found)), takes_sets=True),
    "uid": Match(check_range(0, UINT32_MOST), lambda found: RangeTest(tuple(found))),
    "gid": Match(check_range(0, UINT32_MOST), lambda found: RangeTest(tuple(found))),
    "cgroup": Match(check_cgroup, lambda found: GlobTest(tuple(found)), takes_sets=True),
    "systemd_unit": Match(check_unit_glob, lambda found: UnitTest(tuple(found)), takes_sets=True),
    "parent": Match(check_comm, lambda found: TextTest(tuple(found)), takes_sets=True),
    "oom_score_adj": Match(check_range(-1000, 1000), lambda found: RangeTest(tuple(found))),
    "resident": Match(check_size_range, lambda found: RangeTest(tuple(found))),
    "registered": Match(check_boolean, lambda found: FlagTest(found[0]), takes_arrays=False),
}
"""By the names of lmkd.policy.rules.SUBJECTS."""
