"""Tell one episode in full, in order and in plain words: for a person who lost a program and wants to know why.

Pure: the summary and the records in, blocks out. A record of a kind that is not known here is shown as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import tzinfo

from lmkd.ctl.kills import OUTCOMES, describe_order, describe_victim, why_it, why_now
from lmkd.ctl.page import Block, Column, Line, Table
from lmkd.ctl.result import Row, flag, number, printable, rows, text
from lmkd.ctl.words import (
    NOT_SAID,
    ago_words,
    count_words,
    date_words,
    list_words,
    size_words,
    time_words,
)

_TIME_WIDTH = 10
_INDENT = _TIME_WIDTH + 2
_NAMED_MOST = 10
_UNASKED_NAMED_MOST = 3

_TOLD_COLUMNS = (
    Column("told", wraps=True),
    Column("class"),
    Column("to free", right=True),
    Column("within", right=True),
)
_FINDING_COLUMNS = (Column("detector"), Column("asks for"), Column("because", wraps=True))
_RANKED_COLUMNS = (
    Column("in order", wraps=True),
    Column("pid", right=True),
    Column("class"),
    Column("size", right=True),
    Column("what became of it", wraps=True),
)


def tell_story(
    summary: Row,
    records: Sequence[Row],
    now_unix_ms: int,
    zone: tzinfo | None,
) -> list[Block]:
    """Return one episode as blocks: what came of it first, and then how it went."""
    past = _Past()
    story: list[Block] = []
    said_at = ""
    for record in records:
        at_ms = number(record, "at_ms")
        told = _TOLD_BY.get(text(record, "kind"), _Past.tell_unknown)(past, record)
        for sentence in told:
            if isinstance(sentence, Line) and sentence.text and not sentence.lead:
                at = _since_start(at_ms)
                shown, said_at = ("" if at == said_at else at), at
                story.append(Line(sentence.text, f"{shown:>{_TIME_WIDTH}}  ", sentence.level))
            else:
                # After a table nobody remembers what time it was.
                said_at = "" if isinstance(sentence, Table) else said_at
                story.append(sentence)
    head = _head(summary, now_unix_ms, zone)
    return [*head, *past.sum_up(summary), Line(), *story]


def _head(summary: Row, now_unix_ms: int, zone: tzinfo | None) -> list[Block]:
    opened_ms = number(summary, "opened_unix_ms")
    ago = "" if opened_ms is None else f" ({ago_words(opened_ms, now_unix_ms)})"
    episode, peak = number(summary, "episode"), text(summary, "peak", "?")
    lasted = time_words(number(summary, "duration_ms"))
    if flag(summary, "open"):
        end = "It is still going on."
    elif summary.get("closed") is not False:
        end = f"It was over after {lasted}."
    elif "open" in summary:
        end = f"It was cut short after {lasted}: the daemon left."
    else:
        end = f"It was not over after {lasted}."
    number_words = NOT_SAID if episode is None else str(episode)
    domain = text(summary, "domain")
    where = "" if domain in ("system", "") else f" in {domain}"
    blocks: list[Block] = [
        Line(
            f"Episode {number_words}: memory was short{where}, up to {peak}, "
            f"from {date_words(opened_ms, zone)}{ago}. {end}",
            level=peak,
        )
    ]
    left_out = number(summary, "left_out")
    if left_out:
        blocks.append(Line(f"{count_words(left_out, 'record')} from its middle were not kept."))
    return blocks


class _Past:
    """What an episode's records have said so far."""

    def __init__(self) -> None:
        self._told: dict[int, tuple[int, Row]] = {}
        """By app: when it was told last, and what."""
        self._answered: dict[int, Row] = {}
        """By app: its answer to that."""
        self._asked: set[int] = set()
        self._measured_kib: dict[str, int] = {}
        self._victims: dict[int, Row] = {}
        self._ended: list[int] = []
        self._would_end: list[int] = []
        self._by_watchdog: list[Row] = []

    def sum_up(self, summary: Row) -> list[Block]:
        """Return what came of it all."""
        blocks: list[Block] = []
        asked, shed_kib = len(self._asked), number(summary, "shed_kib")
        if asked:
            shed = [f"{name} {size_words(kib)}" for name, kib in self._most_shed()]
            by = f" ({list_words(shed)})" if shed else ""
            given = f"{size_words(shed_kib)} given back{by}" if shed_kib else "nothing given back"
            blocks.append(Line(f"{count_words(asked, 'app')} asked, {given}.", _lead("shed")))
        would = [describe_victim(self._victims.get(kill, {})) for kill in self._would_end]
        if would:
            blocks.append(Line(f"nothing, in a dry run; else {list_words(would)}.", _lead("ended")))
        ended = [describe_victim(self._victims.get(kill, {})) for kill in self._ended]
        ended += [f"{describe_victim(record)}, by the watchdog" for record in self._by_watchdog]
        if ended or not would:
            blocks.append(Line(f"{list_words(ended) or 'nothing'}.", _lead("ended")))
        return blocks

    def _most_shed(self) -> list[tuple[str, int]]:
        found = sorted(self._measured_kib.items(), key=lambda item: (-item[1], item[0]))
        return found[:5]

    # --- one record each ---------------------------------------------------------------------------------

    def tell_level(self, record: Row) -> list[Block]:
        level, before = text(record, "to", "?"), text(record, "from", "?")
        if level == "normal":
            return [Line(f"normal: {text(record, 'reason', 'calm again')}.", level=level)]
        reason = text(record, "reason", "it is not said why")
        sentence = f"{level}{_came_from(before)}: {reason}."
        swap_kib = number(record, "swap_free_kib")
        if swap_kib:
            sentence += f" {size_words(swap_kib)} of swap free."
        return [Line(sentence, level=level)]

    def tell_told(self, record: Row) -> list[Block]:
        apps = rows(record, "apps")
        at_ms = number(record, "at_ms") or 0
        level, emergency = text(record, "level", "?"), flag(record, "emergency")
        for app in apps:
            which = number(app, "app")
            if which is None:
                continue
            if not emergency or which not in self._told:
                # Who had its time before an emergency is asked what it made of that time.
                self._told[which] = (at_ms, {**app, "level": level})
                self._answered.pop(which, None)
            if number(app, "target_kib"):
                self._asked.add(which)
        count = number(record, "count")
        many = count_words(len(apps) if count is None else count, "app")
        if level == "normal":
            return [Line(f"{many} told that it is over.")]
        if emergency:
            named = list_words([_named(app) for app in apps[:_NAMED_MOST]]) or many
            return [Line(f"{named} told that no time is left: an emergency.", level=level)]
        asked = [app for app in apps if number(app, "target_kib")]
        if not asked:
            if len(apps) <= _UNASKED_NAMED_MOST:
                many = list_words([_named(app) for app in apps]) or many
            return [Line(f"{many} told, and asked for nothing.")]
        if len(apps) == 1 and count in (None, 1):
            return [Line(f"{_named(apps[0])} told to {_order(apps[0])}.")]
        blocks: list[Block] = [
            Line(f"{many} told to free {size_words(number(record, 'target_kib'))} in all:"),
            Table(_TOLD_COLUMNS, tuple(_told_cells(app) for app in asked[:_NAMED_MOST]), _INDENT),
        ]
        others = (len(apps) if count is None else count) - min(len(asked), _NAMED_MOST)
        if others > 0:
            end = "" if others > len(apps) - len(asked) else ", and asked for nothing"
            blocks.append(Line(f"... and {others} more told{end}", " " * _INDENT))
        return blocks

    def tell_ack(self, record: Row) -> list[Block]:
        which, name = number(record, "app"), text(record, "name", "an app")
        if which is not None:
            self._answered[which] = record
        measured_kib = number(record, "measured_kib")
        if measured_kib is not None and measured_kib > 0:
            self._measured_kib[name] = self._measured_kib.get(name, 0) + measured_kib
        trust = number(record, "trust")
        end = f"; trust {trust:+d}." if trust else "."
        return [Line(f"{name} {_describe_answer(record)}{end}")]

    def tell_kill(self, record: Row) -> list[Block]:
        kill = number(record, "kill")
        if kill is not None:
            self._victims[kill] = record
            if text(record, "kind") == "would_kill":
                self._would_end.append(kill)
        margin = " " * _INDENT
        blocks: list[Block] = [Line(describe_order(record), level=text(record, "level"))]
        blocks += [Line(line, margin) for line in (why_now(record), why_it(record))]
        blocks += [Line(line, margin) for line in self._what_it_was_told(record)]
        if kill is not None:
            blocks.append(Line(f"Why not another one: lmkctl explain --kill {kill}", margin))
        findings = rows(record, "findings")
        if findings:
            blocks += [
                Line(),
                Table(_FINDING_COLUMNS, tuple(map(_finding_cells, findings)), _INDENT),
            ]
        ranked = rows(record, "ranked")
        if ranked:
            dry = text(record, "kind") == "would_kill"
            cells = tuple(_ranked_cells(candidate, record, dry=dry) for candidate in ranked)
            blocks += [Line(), Table(_RANKED_COLUMNS, cells, _INDENT)]
        return [*blocks, Line()] if findings or ranked else blocks

    def _what_it_was_told(self, record: Row) -> list[str]:
        if text(record, "why_class") != "registered":
            return ["It had not registered, so there was nobody to tell before."]
        which = self._find_app(record)
        if which is None:
            return []
        told_ms, told = self._told[which]
        since = time_words(max((number(record, "at_ms") or 0) - told_ms, 0))
        ordered = _order(told) if number(told, "target_kib") else "nothing asked of it"
        answer = self._answered.get(which)
        answered = "it never answered" if answer is None else f"it {_describe_answer(answer)}"
        return [f"It was told {since} before: {ordered}; {answered}."]

    def _find_app(self, record: Row) -> int | None:
        which = number(record, "app")
        if which is not None:
            return which if which in self._told else None
        # A record may name its app by name alone: then only a name that stands for one app will do.
        name = text(record, "name")
        named = [app for app, (_, told) in self._told.items() if text(told, "name") == name]
        return named[0] if len(named) == 1 else None

    def tell_outcome(self, record: Row) -> list[Block]:
        kill, kind = number(record, "kill"), text(record, "kind")
        if kind == "exited" and kill is not None:
            self._ended.append(kill)
        victim = self._victims.get(-1 if kill is None else kill, {})
        return [Line(OUTCOMES[kind](record, text(victim, "name", "The victim")))]

    def tell_watchdog(self, record: Row) -> list[Block]:
        self._by_watchdog.append(record)
        line = f"SIGKILL to {describe_victim(record)} by the watchdog: {text(record, 'reason')}."
        return [Line(line, level="critical")]

    def tell_nothing_left(self, record: Row) -> list[Block]:
        blocks: list[Block] = [
            Line(f"Nothing left to do: {text(record, 'reason')}. The rest is left to the kernel.")
        ]
        ranked = rows(record, "ranked")
        if ranked:
            cells = tuple(_ranked_cells(candidate, {}, dry=False) for candidate in ranked)
            blocks += [Line(), Table(_RANKED_COLUMNS, cells, _INDENT), Line()]
        return blocks

    def tell_opened(self, record: Row) -> list[Block]:
        """Say nothing: the level that follows says it all."""
        return []

    def tell_closed(self, record: Row) -> list[Block]:
        reason = text(record, "reason")
        return [Line(f"The episode ends: {reason}.")] if reason else [Line("The episode ends.")]

    def tell_unknown(self, record: Row) -> list[Block]:
        said = [
            f"{printable(key)} {printable(str(value))}"
            for key, value in record.items()
            if key not in ("kind", "at_ms") and isinstance(value, int | str)
        ]
        return [Line(f"{text(record, 'kind', 'something')}: {', '.join(said)}".rstrip(": "))]


_TOLD_BY: dict[str, Callable[[_Past, Row], list[Block]]] = {
    "opened": _Past.tell_opened,
    "level": _Past.tell_level,
    "told": _Past.tell_told,
    "ack": _Past.tell_ack,
    "kill": _Past.tell_kill,
    "would_kill": _Past.tell_kill,
    **dict.fromkeys(OUTCOMES, _Past.tell_outcome),
    "watchdog": _Past.tell_watchdog,
    "nothing_left": _Past.tell_nothing_left,
    "closed": _Past.tell_closed,
}


def _lead(title: str) -> str:
    return f"  {title:<7}"


def _since_start(at_ms: int | None) -> str:
    if at_ms is None:
        return ""
    hundredths = max(at_ms, 0) // 10
    return f"+{hundredths // 100}.{hundredths % 100:02d} s"


def _came_from(before: str) -> str:
    return "" if before in ("normal", "?") else f", after {before}"


def _named(app: Row) -> str:
    return f"{text(app, 'name', 'an app')} ({text(app, 'class', '?')})"


def _order(app: Row) -> str:
    free, within = size_words(number(app, "target_kib")), number(app, "grace_ms")
    return f"free {free}" + (f" within {time_words(within)}" if within else " at once")


def _told_cells(app: Row) -> tuple[str, ...]:
    within = number(app, "grace_ms")
    return (
        text(app, "name", NOT_SAID),
        text(app, "class", NOT_SAID),
        size_words(number(app, "target_kib")),
        "at once" if within == 0 else time_words(within),
    )


def _describe_answer(record: Row) -> str:
    answer = text(record, "answer", "?")
    claimed_kib, measured_kib = number(record, "claimed_kib"), number(record, "measured_kib")
    if answer == "working":
        return "asked for more time"
    if answer == "nothing":
        return "said that it has nothing to free"
    if answer != "done":
        return f"answered {answer!r}"
    claimed, asked = size_words(claimed_kib), size_words(number(record, "asked_kib"))
    if measured_kib is None:
        return f"said that it freed {claimed} (asked for {asked}); that was not measured"
    if measured_kib <= 0:
        grown = size_words(-measured_kib)
        change = f"it grew by {grown}" if measured_kib else "it did not shrink"
        return f"said that it freed {claimed} (asked for {asked}), but {change}"
    return f"freed {size_words(measured_kib)} (asked for {asked}, said {claimed})"


def _finding_cells(finding: Row) -> tuple[str, ...]:
    return (
        text(finding, "detector", NOT_SAID),
        text(finding, "level", NOT_SAID),
        text(finding, "reason"),
    )


def _ranked_cells(candidate: Row, record: Row, *, dry: bool) -> tuple[str, ...]:
    pid = number(candidate, "pid")
    spared = text(candidate, "spared")
    trust = number(candidate, "trust")
    if pid is not None and pid == number(record, "pid"):
        fate = "would have been ended" if dry else "ended"
    else:
        fate = f"spared: {spared}" if spared else "kept: not its turn"
    return (
        text(candidate, "name", NOT_SAID),
        NOT_SAID if pid is None else str(pid),
        text(candidate, "class", NOT_SAID),
        size_words(number(candidate, "size_kib")),
        f"{fate} (trust {trust:+d})" if trust else fate,
    )
