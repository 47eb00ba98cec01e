"""The rules as the daemon has them, and the processes that none of them speaks for, in blocks of text.

Pure: results in, blocks out. To check and try rules without a daemon is for lmkd.ctl.rules.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmkd.ctl.page import Block, Column, Line, Table
from lmkd.ctl.result import Row, flag, number, rows, text, texts
from lmkd.ctl.words import NOT_SAID, count_words, signed_words, size_words, time_words

_RULE_COLUMNS = (
    Column("no.", right=True),
    Column("hits", right=True),
    Column("rule", wraps=True),
    Column("matches", wraps=True),
    Column("gives", wraps=True),
    Column("written in", wraps=True),
)
_UNRULED_COLUMNS = (
    Column("pid", right=True),
    Column("name", wraps=True),
    Column("class"),
    Column("uid", right=True),
    Column("size", right=True),
    Column("cgroup", wraps=True),
)
_UNIT_WORDS = {"tree": "with its descendants", "cgroup": "as a whole cgroup"}


def describe_rules(rules: Sequence[Row], said: Row) -> list[Block]:
    """Return the rules as a table, and what comes of whom none of them matches. `said`: the result beside the rules."""
    blocks: list[Block] = []
    if rules:
        blocks += [Table(_RULE_COLUMNS, tuple(_rule_cells(rule) for rule in rules)), Line()]
    unruled, hits = text(said, "unruled", NOT_SAID), number(said, "unruled_hits")
    counted = "" if hits is None else f" ({count_words(hits, 'hit')})"
    if flag(said, "strict"):
        blocks.append(Line(f"What no rule matches is the first to go: strict mode{counted}."))
    else:
        blocks.append(Line(f"What no rule matches is of class {unruled}{counted}."))
    return blocks + list_warnings(said)


def list_warnings(said: Row) -> list[Block]:
    """Return what is doubtful in the configuration, if anything is."""
    warnings = texts(said, "warnings")
    if not warnings:
        return []
    return [
        Line(),
        Line("Doubtful in the configuration:"),
        *(Line(line, "  - ") for line in warnings),
    ]


def _rule_cells(rule: Row) -> tuple[str, ...]:
    asked = [
        f"{text(condition, 'subject', '?')} {text(condition, 'expected')}"
        for condition in rows(rule, "match")
    ]
    return (
        _number_cell(rule, "number"),
        _number_cell(rule, "hits"),
        text(rule, "name", NOT_SAID),
        "; ".join(asked) or "anything",
        _verdict_words(rule),
        "lmkd itself" if flag(rule, "shipped") else text(rule, "place", NOT_SAID),
    )


def _verdict_words(rule: Row) -> str:
    words = ["never killed"] if flag(rule, "exempt") else []
    words.append(text(rule, "class", NOT_SAID))
    unit = text(rule, "unit")
    words += [_UNIT_WORDS[unit]] if unit in _UNIT_WORDS else []
    bias = number(rule, "bias")
    words += [f"bias {signed_words(bias)}"] if bias else []
    for key, said in (("grace_ms", "of grace"), ("time_to_exit_ms", "to exit")):
        time_ms = number(rule, key)
        words += [] if time_ms is None else [f"{time_words(time_ms)} {said}"]
    least_kib = number(rule, "least_kib")
    words += [] if least_kib is None else [f"if {size_words(least_kib)} or more"]
    ceiling = text(rule, "ceiling")
    words += [f"may claim up to {ceiling}"] if ceiling else []
    return ", ".join(words)


def describe_unruled(processes: Sequence[Row]) -> list[Block]:
    """Return the processes that no rule speaks for as a table."""
    if not processes:
        return [Line("None: every process has registered, or a rule speaks for it.")]
    return [
        Table(_UNRULED_COLUMNS, tuple(_process_cells(process) for process in processes)),
        Line(),
        Line(
            "No rule speaks for these, nor did they register. Why none matches: lmkctl rules test PID"
        ),
    ]


def _process_cells(process: Row) -> tuple[str, ...]:
    return (
        _number_cell(process, "pid"),
        text(process, "name", NOT_SAID),
        text(process, "class", NOT_SAID),
        _number_cell(process, "uid"),
        size_words(number(process, "size_kib")),
        text(process, "cgroup", NOT_SAID),
    )


def _number_cell(holder: Row, key: str) -> str:
    value = number(holder, key)
    return NOT_SAID if value is None else str(value)
