"""Explain, in sentences: how one process would be treated now, and why one kill was made and not another.

Pure: results and the time in, blocks out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo

from lmkd_proto import CLASSES

from lmkd.ctl.kills import OUTCOMES, describe_order, describe_victim, why_it, why_now
from lmkd.ctl.page import Block, Column, Line, Table
from lmkd.ctl.result import Row, flag, number, row, rows, text
from lmkd.ctl.words import (
    NOT_SAID,
    ago_words,
    date_words,
    list_words,
    signed_words,
    size_words,
)

OTHERS_MOST = 3
"""Of those that were not ended, how many are told about on either side of the one that was."""
_UNIT_WORDS = {
    "process": "it alone dies",
    "tree": "it dies with its descendants in its cgroup",
    "cgroup": "its whole cgroup dies with it",
}
_MARKS = ("prefer", "none", "avoid", "omit")
"""What others wrote on a cgroup, the first to go first."""
_RANK_COLUMNS = (
    Column("domain", wraps=True),
    Column("level"),
    Column("its turn"),
    Column("before it", right=True),
    Column("which are", wraps=True),
)


def describe_process(explained: Row) -> list[Block]:
    """Return how a process would be treated, and where it stands."""
    name, pid = text(explained, "name", "it"), number(explained, "pid")
    app = row(explained, "app")
    shown_pid = NOT_SAID if pid is None else str(pid)
    blocks: list[Block] = [Line(f"{name} (pid {shown_pid}) {text(explained, 'exe')}".rstrip())]

    def add(title: str, sentence: str) -> None:
        blocks.append(Line(sentence, _lead(title)))

    rule = _rule_words(explained)
    app_class, why = text(explained, "class", "?"), text(explained, "why_class")
    if app:
        which = number(app, "app")
        why = (
            f"it registered so, as app {NOT_SAID if which is None else which} {text(app, 'name')!r}"
        )
    elif rule:
        why = f"by the rule {rule}"
    add("class", f"{app_class}: {why}" if why else app_class)
    if app and rule:
        add("rule", rule)
    add("killed", _fate(explained))
    add("size", _worth(explained))
    unit = text(explained, "unit")
    if unit and not text(explained, "never_killed"):
        add("unit", _UNIT_WORDS.get(unit, unit))
    cgroup = text(explained, "cgroup")
    if cgroup:
        add("cgroup", cgroup)
    kernel = _kernel_words(explained)
    if kernel:
        add("kernel", kernel)
    if app:
        add("notices", _notices(app))
    else:
        add("notices", "none: it has not registered, so it is not told before")
    ranks = rows(explained, "ranks")
    if ranks:
        blocks += [Line(), Line("Where it stands now, should memory be as short as that:"), Line()]
        blocks.append(Table(_RANK_COLUMNS, tuple(_rank_cells(rank) for rank in ranks), 2))
    return blocks


def _lead(title: str) -> str:
    return f"  {title:<8}"


def _rule_words(explained: Row) -> str:
    rule, place = text(explained, "rule"), text(explained, "rule_place")
    return f"{rule!r} ({place})" if rule and place else repr(rule) if rule else ""


def _fate(explained: Row) -> str:
    never, killed_at = text(explained, "never_killed"), text(explained, "killed_at")
    if never:
        return f"never: {never}"
    if killed_at:
        return f"only at {killed_at}" if killed_at == "critical" else f"from {killed_at} on"
    if "killed_at" in explained:
        return f"never: its class is {text(explained, 'class', '?')}"
    return NOT_SAID


def _worth(explained: Row) -> str:
    size_kib, least_kib = number(explained, "size_kib"), number(explained, "least_kib")
    size = size_words(size_kib)
    if size_kib is None or least_kib is None or text(explained, "never_killed"):
        return size
    if size_kib < least_kib:
        return f"{size}: not worth killing, the least is {size_words(least_kib)}"
    return f"{size}: worth killing, the least is {size_words(least_kib)}"


def _kernel_words(explained: Row) -> str:
    own, projected = number(explained, "oom_score_adj"), number(explained, "projected")
    if own is None and projected is None:
        return ""
    goes_by = "what the kernel goes by if it must act itself"
    if projected is None:
        return f"oom_score_adj {own}: {goes_by}"
    was = "" if own is None else f", its own is {own}"
    return f"oom_score_adj {projected} (lmkd wrote it{was}): {goes_by}"


def _notices(app: Row) -> str:
    told = text(app, "told")
    trust = signed_words(number(app, "trust"))
    if not told:
        return f"none yet; trust {trust}"
    answer = text(app, "answer")
    answered = f"it answered {answer!r}" if answer else "no answer"
    return f"the last said {told}, {answered}; trust {trust}"


def _rank_cells(rank: Row) -> tuple[str, ...]:
    place, of = number(rank, "rank"), number(rank, "of")
    domain, level = text(rank, "domain", NOT_SAID), text(rank, "level", NOT_SAID)
    if place is None:
        return (domain, level, "spared", NOT_SAID, text(rank, "spared", "it is not said why"))
    turn = f"{place} of {of}" if of is not None else str(place)
    count = number(rank, "before_count") or 0
    if not count:
        return (domain, level, turn, "nothing", "")
    named = [describe_victim(victim) for victim in rows(rank, "before")]
    left_out = count - len(named)
    named += [f"{left_out} more"] if left_out > 0 and named else []
    size = size_words(number(rank, "before_kib"))
    return (domain, level, turn, f"{count}, {size}", list_words(named))


def describe_kill(explained: Row, now_unix_ms: int, zone: tzinfo | None) -> list[Block]:
    """Return why a kill was made: the need, the victim, why not another one, and what came of it."""
    kill = row(explained, "kill")
    at_ms, opened_ms = number(kill, "at_ms"), number(explained, "opened_unix_ms")
    when = ""
    if at_ms is not None and opened_ms is not None:
        then_ms = opened_ms + at_ms
        when = f", {date_words(then_ms, zone)} ({ago_words(then_ms, now_unix_ms)})"
    numbers = [number(kill, "kill"), number(explained, "episode")]
    which, episode = (NOT_SAID if value is None else value for value in numbers)
    domain = text(explained, "domain")
    where = "" if domain in ("system", "") else f" in {domain}"
    blocks: list[Block] = [
        Line(f"Kill {which} of episode {episode}{where}{when}."),
        Line(describe_order(kill), level=text(kill, "level")),
        Line(),
        Line(why_now(kill), _lead("why now")),
    ]
    level = text(kill, "level")
    for finding in rows(kill, "findings"):
        detector, asked = text(finding, "detector", "?"), text(finding, "level", "?")
        blocks.append(Line(f"{detector} asked for {asked}: {text(finding, 'reason')}.", _lead("")))
    ranked = rows(kill, "ranked")
    place = next((n for n, one in enumerate(ranked) if _is_same(one, kill)), None)
    blocks.append(Line(_why_first(kill, ranked, place), _lead("why it")))
    others = _why_not_others(ranked, place, level)
    for number_, sentence in enumerate(others):
        blocks.append(Line(sentence, _lead("" if number_ else "why not")))
    for number_, sentence in enumerate(_outcome(kill, rows(explained, "outcome"))):
        blocks.append(Line(sentence, _lead("" if number_ else "after")))
    return blocks


def _is_same(candidate: Row, kill: Row) -> bool:
    pid = number(candidate, "pid")
    return pid is not None and pid == number(kill, "pid")


def _why_first(kill: Row, ranked: Sequence[Row], place: int | None) -> str:
    """Say why it was this one: its class, and what put it before the others of that class."""
    sentence = why_it(kill)
    rest = ranked[place + 1 :] if place is not None else []
    alone = not any(
        text(one, "class") == text(kill, "class") and not text(one, "spared") for one in rest
    )
    return f"{sentence} Nothing else of that class was worth it." if rest and alone else sentence


def _why_not_others(ranked: Sequence[Row], place: int | None, level: str) -> list[str]:
    if place is None:
        return []
    victim = ranked[place]
    found = [
        f"{describe_victim(one)}: before it in line, but not to be ended yet: it still had time to answer a notice, "
        "or was being ended already."
        for one in ranked[:place][-OTHERS_MOST:]
    ]
    for one in ranked[place + 1 :][:OTHERS_MOST]:
        spared = text(one, "spared")
        why = f"spared at {level}: {spared}" if spared else _why_later(one, victim)
        found.append(f"{describe_victim(one)}: {why}.")
    return found or ["Nothing else was there to be ended."]


def _why_later(candidate: Row, victim: Row) -> str:
    """Say what puts a candidate after the victim: the first in which they differ, in the order of ranking."""
    theirs, its = text(candidate, "class"), text(victim, "class")
    if theirs != its:
        if theirs in CLASSES and its in CLASSES and CLASSES.index(theirs) > CLASSES.index(its):
            return f"{theirs} goes after {its}"
        return f"its class is {theirs or '?'}"
    if flag(victim, "unruled_first") and not flag(candidate, "unruled_first"):
        return (
            "a rule speaks for it, or it registered; in strict mode whoever has neither goes first"
        )
    marks = [text(one, "mark", "none") for one in (candidate, victim)]
    if marks[0] != marks[1] and set(marks) <= set(_MARKS):
        return f"others marked its cgroup {marks[0]!r}, against {marks[1]!r}"
    for key in ("bias", "trust"):
        values = [number(one, key) or 0 for one in (candidate, victim)]
        if values[0] != values[1]:
            return f"{_LATER_WORDS[key]} ({signed_words(values[0])}, against {signed_words(values[1])})"
    sizes = [number(one, "size_kib") for one in (candidate, victim)]
    if sizes[0] is not None and sizes[1] is not None and sizes[0] < sizes[1]:
        less = size_words(sizes[1] - sizes[0])
        return f"of the same class, and smaller by {less}"
    if sizes[0] == sizes[1]:
        return "of the same class and size; of two alike the lower pid goes first"
    return "later in line"


_LATER_WORDS = {
    "bias": "its rule has it go later in its class",
    "trust": "it kept its word more often",
}


def _outcome(kill: Row, records: Sequence[Row]) -> list[str]:
    if text(kill, "kind") == "would_kill":
        return ["Nothing: in a dry run nobody is signalled."]
    name = text(kill, "name", "The victim")
    found = [
        OUTCOMES[text(record, "kind")](record, name)
        for record in records
        if text(record, "kind") in OUTCOMES
    ]
    return found or ["It is not known yet what came of it."]
