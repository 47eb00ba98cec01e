"""Say what one kill was about and what came of it, in sentences: for the story of an episode and for its explanation.

Pure: records as the history has them in, text out.
"""

from __future__ import annotations

from lmkd.ctl.result import Row, flag, number, text
from lmkd.ctl.words import list_words, size_words, time_words

UNIT_WORDS = {
    "tree": " with its descendants",
    "cgroup": " with its whole cgroup",
    "swarm": " with its like",
}


def describe_victim(record: Row) -> str:
    """Return who it was: `leak (pid 7, cached, 12.0 MiB)`."""
    name, pid = text(record, "name", "a program"), number(record, "pid")
    parts = [] if pid is None else [f"pid {pid}"]
    parts += [word for word in (text(record, "class"),) if word]
    size_kib = number(record, "size_kib")
    parts += [] if size_kib is None else [size_words(size_kib)]
    return f"{name} ({', '.join(parts)})" if parts else name


def describe_order(record: Row) -> str:
    """Return what was done to whom, and why, as one sentence."""
    victim = describe_victim(record) + UNIT_WORDS.get(text(record, "unit"), "")
    count = number(record, "count") or 1
    victim += f", {count} processes" if count > 1 else ""
    reason = text(record, "reason", "it is not said why")
    if text(record, "kind") == "would_kill":
        return f"Dry run: would have ended {victim}: {reason}."
    return f"SIGTERM to {victim}: {reason}."


def why_now(record: Row) -> str:
    """Return why something had to be ended at that moment."""
    reading = f"{size_words(number(record, 'available_kib'))} available"
    swap_kib = number(record, "swap_free_kib")
    reading += f", {size_words(swap_kib)} of swap free" if swap_kib else ", no swap free"
    reading += f", {size_words(number(record, 'need_kib'))} needed."
    causes = []
    if flag(record, "harm"):
        causes.append("programs stalled")
    if flag(record, "exhausted"):
        causes.append("what could still be taken was used up")
    why = f" Ending something was due: {list_words(causes)}." if causes else ""
    if flag(record, "emergency"):
        why += " It was an emergency: no time was left to wait."
    return f"{reading}{why}"


def why_it(record: Row) -> str:
    """Return why its class came first."""
    app_class, why, rule = (
        text(record, "class", "?"),
        text(record, "why_class"),
        text(record, "rule"),
    )
    if why == "registered":
        by = " (as it registered)"
    elif rule:
        by = f" (by the rule {rule!r})"
    else:
        by = f" ({why})" if why else ""
    grown_kib = number(record, "grown_kib")
    grown = (
        f" It had grown by {size_words(grown_kib)} since the episode began." if grown_kib else ""
    )
    return f"It came first: {app_class}{by} is the lowest class with anything worth ending.{grown}"


def describe_signal(record: Row, name: str) -> str:
    """Say that a second signal was needed."""
    return f"{text(record, 'signal', 'A signal')} to {name}: it had not ended in its time."


def describe_exit(record: Row, name: str) -> str:
    """Say when it was gone."""
    after = time_words(number(record, "after_ms"))
    force = "; it took SIGKILL" if flag(record, "sigkill") else ""
    return f"{name} was gone {after} after SIGTERM{force}."


def describe_return(record: Row, name: str) -> str:
    """Say what memory came back once its end had settled."""
    before_kib, after_kib = number(record, "before_kib"), number(record, "available_kib")
    if before_kib is None or after_kib is None:
        return f"{name} gone, {size_words(after_kib)} was available."
    change = f"from {size_words(before_kib)} to {size_words(after_kib)}"
    if after_kib > before_kib:
        back = size_words(after_kib - before_kib)
        return f"{name} gave back {back}: available rose {change}."
    went = f"available fell {change}" if after_kib < before_kib else "available is what it was"
    return f"{name} gave back nothing that was not taken at once: {went}."


def describe_failure(record: Row, name: str) -> str:
    """Say that it could not be ended."""
    reason = text(record, "reason", "it is not said why")
    return f"{name} could not be ended: {reason}. It is left alone now."


OUTCOMES = {
    "signal": describe_signal,
    "exited": describe_exit,
    "measured": describe_return,
    "failed": describe_failure,
}
"""By kind of record: what became of a victim."""
