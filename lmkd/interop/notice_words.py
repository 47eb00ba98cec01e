"""The words of desktop notices: what is being closed or was, what that cost, and why, as a person would say it.

Pure text. The heart's reasons come as they stand in records and on the wire; what is told is the cause behind one, with
its amounts, and a reason that is not known here becomes "memory is running out". Nobody is told of signals, cgroups or
stalls. Names are anybody's, so they are made plain and short; what shows markup has it escaped by `escape_markup`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

NAME_MOST: Final = 40
LISTED: Final = 4
"""Of several programs so many are named; the others are counted."""
TIMES: Final = "\N{MULTIPLICATION SIGN}"
SECOND_US: Final = 1_000_000
_MIB: Final = 1024
_GIB: Final = 1024 * 1024


class Stage(Enum):
    """How far it is with one program."""

    CLOSING = "closing"
    """Asked to end, and it has time."""
    ENDING = "ending"
    """Its time is up."""
    CLOSED = "closed"
    STUCK = "stuck"
    """Ended by force, and it is still there."""
    SPARED = "spared"
    """It was asked to end, and that is taken back."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One program that somebody loses."""

    name: str
    """What it calls itself."""
    reason: str
    """The heart's."""
    size_kib: int
    """What it holds, or gave back."""
    stage: Stage
    time_to_exit_us: int | None = None
    """From when it was asked until it is ended; None: not known."""
    app: str = ""
    """What a person calls the program that it belongs to; "" where that is not known."""
    is_part: bool = False
    """Whether it is not that program itself, but something in it."""
    processes: int = 1
    """More than one of the same name, which go together."""
    is_limited: bool = False
    """Whether it is the memory of a group of programs that was short, not the machine's."""


class Words(NamedTuple):
    """What a notice says. The body is plain text."""

    summary: str
    body: str
    is_urgent: bool


# --- names and amounts ---------------------------------------------------------------------------------------------


def plain_name(text: str) -> str:
    """Return a name as it can be shown: one line of printable characters, not too long, never empty."""
    # What is printable has no control characters, nothing that turns the direction of writing, and no space but " ".
    shown = "".join(sign if sign.isprintable() else " " for sign in text[: 4 * NAME_MOST])
    words = " ".join(shown.split())
    if len(words) > NAME_MOST:
        words = words[: NAME_MOST - 1].rstrip() + "…"
    return words or "A program"


def amount(kib: int) -> str:
    """Return a size as a person reads it: whole MiB, or GiB with one decimal as long as that says something."""
    if kib < _MIB:
        return "less than 1 MiB"
    mib = (kib + _MIB // 2) // _MIB
    if mib < 1000:
        return f"{mib} MiB"
    tenths = (kib * 10 + _GIB // 2) // _GIB
    if tenths >= 100 or tenths % 10 == 0:
        return f"{(tenths + 5) // 10} GiB"
    return f"{tenths // 10}.{tenths % 10} GiB"


def seconds(us: int) -> str:
    """Return a time to wait, in whole seconds, rounded down: more is not to be promised."""
    count = us // SECOND_US
    return f"{count} second" if count == 1 else f"{count} seconds"


def escape_markup(text: str) -> str:
    """Return plain text as a server that reads markup shows it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# --- causes --------------------------------------------------------------------------------------------------------

_AVAILABLE = re.compile(r"(\d{1,12})\.\d MiB of (\d{1,12})\.\d MiB available")
_CAUSES: Final = (
    # What stands in the reason, what is so now, what was so.
    (
        "tasks stalled",
        "Programs have to wait for {memory}.",
        "Programs had to wait for {memory}.",
    ),
    (
        "swap can take",
        "{Memory} and the swap space behind it are nearly full.",
        "{Memory} and the swap space behind it were nearly full.",
    ),
    (
        "of the page cache read again",
        "{Memory} is so short that programs are read from the disk again and again.",
        "{Memory} was so short that programs were read from the disk again and again.",
    ),
    ("memory.max", "{Memory} is used up.", "{Memory} was used up."),
    ("memory.high", "{Memory} is nearly used up.", "{Memory} was nearly used up."),
    ("to the floor at", "{Memory} is filling up fast.", "{Memory} was filling up fast."),
)
_UNKNOWN: Final = ("{Memory} is running out.", "{Memory} was running out.")


def cause(reason: str, *, is_over: bool, is_limited: bool = False) -> str:
    """Return the sentence that says why: as it is, or as it was when it is over."""
    is_limit = is_limited or "memory.max" in reason or "memory.high" in reason
    memory = "the memory that its group of programs may use" if is_limit else "memory"
    names = {"memory": memory, "Memory": memory[0].upper() + memory[1:]}
    left = _AVAILABLE.search(reason)
    if left is not None:
        verb = "was" if is_over else "is"
        free, total = (amount(int(mib) * _MIB) for mib in left.groups())
        waiting = ""
        if "tasks stalled" in reason:
            waiting = f", and programs {'had' if is_over else 'have'} to wait for it"
        return f"{names['Memory']} {verb} nearly full ({free} of {total} left){waiting}."
    for mark, now, before in _CAUSES:
        if mark in reason:
            return (before if is_over else now).format(**names)
    return _UNKNOWN[is_over].format(**names)


# --- notices -------------------------------------------------------------------------------------------------------


def called(loss: Loss) -> str:
    """Return what a person would call it."""
    name = plain_name(loss.name)
    if loss.app and not loss.is_part:
        name = plain_name(loss.app)
    elif loss.app:
        name = f"{name} in {plain_name(loss.app)}"
    return name if loss.processes == 1 else f"{loss.processes} {TIMES} {name}"


def words_of(losses: Sequence[Loss], more: int = 0, more_kib: int = 0) -> Words | None:
    """Return what to say of programs that are lost together; None when there is nothing to say.

    `more` have been closed beside those, which gave back `more_kib`.
    """
    closing = [loss for loss in losses if loss.stage in (Stage.CLOSING, Stage.ENDING)]
    closed = [loss for loss in losses if loss.stage is Stage.CLOSED]
    others = [loss for loss in losses if loss.stage in (Stage.STUCK, Stage.SPARED)]
    if closing:
        sentences = [cause(closing[-1].reason, is_over=False, is_limited=closing[-1].is_limited)]
        sentences += [_closing_words(loss) for loss in closing[:LISTED]]
        if closed or more:
            sentences.append(f"Closed before: {_list_closed(closed, more)}.")
        return Words(_summary(closing, 0, "being closed"), " ".join(sentences), is_urgent=True)
    if closed:
        last = closed[-1]
        sentences = [cause(last.reason, is_over=True, is_limited=last.is_limited)]
        sentences += [_closed_words(closed, more, more_kib)]
        sentences += [_other_words(loss) for loss in others[:LISTED]]
        return Words(_summary(closed, more, "closed"), " ".join(sentences), is_urgent=False)
    if others:
        last = others[-1]
        sentences = [cause(last.reason, is_over=True, is_limited=last.is_limited)]
        sentences += [_other_words(loss) for loss in others[:LISTED]]
        if len(others) > 1:
            summary = f"{len(others)} programs were not closed"
        elif last.stage is Stage.STUCK:
            summary = f"{called(last)} cannot be closed"
        else:
            summary = f"{called(last)} may stay open"
        return Words(summary, " ".join(sentences), is_urgent=False)
    return None


def _summary(losses: Sequence[Loss], more: int, what: str) -> str:
    count = sum(loss.processes for loss in losses) + more
    one, many = ("is", "are") if what == "being closed" else ("was", "were")
    if len(losses) == 1 and not more:
        return f"{called(losses[0])} {one if count == 1 else many} {what}"
    return f"{count} programs {many} {what}"


def _closing_words(loss: Loss) -> str:
    who, has, holds, its = (
        ("It", "has", "holds", "Its") if loss.processes == 1 else ("They", "have", "hold", "Their")
    )
    text = f"{called(loss)} {holds} {amount(loss.size_kib)}."
    if loss.stage is Stage.ENDING:
        return f"{text} {its} time to save is over."
    if loss.time_to_exit_us is None:
        return text
    if loss.time_to_exit_us < SECOND_US:
        return f"{text} There is no time to save."
    return f"{text} {who} {has} {seconds(loss.time_to_exit_us)} to save."


def _closed_words(closed: Sequence[Loss], more: int, more_kib: int) -> str:
    freed = amount(sum(loss.size_kib for loss in closed) + more_kib)
    if len(closed) > 1 or more:
        names = _list_closed(closed, more)
        return f"{names} gave back {freed} together. What they had not saved is lost."
    loss = closed[0]
    if loss.time_to_exit_us is not None and loss.time_to_exit_us < SECOND_US:
        return f"{called(loss)} gave back {freed}. There was no time to save."
    who = "it" if loss.processes == 1 else "they"
    return f"{called(loss)} gave back {freed}. What {who} had not saved is lost."


def _list_closed(closed: Sequence[Loss], more: int) -> str:
    """Name the largest, each name once with how often, and count the others."""
    by_name: dict[str, list[int]] = {}
    for loss in closed:
        by_name.setdefault(called(loss), []).append(loss.size_kib)
    ordered = sorted(by_name.items(), key=lambda item: -sum(item[1]))
    names = [
        f"{name if len(sizes) == 1 else f'{len(sizes)} {TIMES} {name}'} ({amount(sum(sizes))})"
        for name, sizes in ordered[:LISTED]
    ]
    left = sum(len(sizes) for _, sizes in ordered[LISTED:]) + more
    if left:
        names.append(f"{left} more" if names else f"{left} programs")
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _other_words(loss: Loss) -> str:
    if loss.stage is Stage.STUCK:
        return (
            f"{called(loss)} was stopped by force and has not ended yet:"
            f" its {amount(loss.size_kib)} may not come back."
        )
    return f"{called(loss)} had been asked to close, and is let be now."
