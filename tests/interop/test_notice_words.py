"""The words of desktop notices: tables of what is said, and that every reason of the heart has a cause in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lmkd.config import load_config
from lmkd.interop.notice_words import (
    NAME_MOST,
    Loss,
    Stage,
    amount,
    called,
    cause,
    escape_markup,
    plain_name,
    seconds,
    words_of,
)
from lmkd.model import Level, Reading
from lmkd.policy.detect import DETECTORS

MIB, GIB = 1 << 10, 1 << 20
FULL = "37.1 MiB of 8192.0 MiB available"
WAITING = "tasks stalled 12.3% (all of them 5.0%) of 1 s"
JARGON = ("PSI", "stall", "cgroup", "SIG", "oom", "permyriad", "KiB", "memory.max", "floor", "pid")


def loss(
    name: str = "firefox",
    stage: Stage = Stage.CLOSED,
    size_kib: int = 1_258_291,
    *,
    reason: str = FULL,
    exit_us: int | None = None,
    app: str = "",
    is_part: bool = False,
    processes: int = 1,
    is_limited: bool = False,
) -> Loss:
    return Loss(name, reason, size_kib, stage, exit_us, app, is_part, processes, is_limited)


# --- amounts and names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kib", "said"),
    [
        (0, "less than 1 MiB"),
        (1023, "less than 1 MiB"),
        (1024, "1 MiB"),
        (37 * MIB + 511, "37 MiB"),
        (37 * MIB + 512, "38 MiB"),
        (999 * MIB, "999 MiB"),
        (1000 * MIB, "1 GiB"),
        (GIB, "1 GiB"),
        (1_258_291, "1.2 GiB"),
        (GIB * 199 // 100, "2 GiB"),
        (8 * GIB - 100 * MIB, "7.9 GiB"),
        (GIB * 1004 // 100, "10 GiB"),
        (GIB * 156 // 10, "16 GiB"),
        (2000 * GIB, "2000 GiB"),
    ],
)
def test_amounts_are_rounded_as_a_person_reads(kib: int, said: str) -> None:
    assert amount(kib) == said


@pytest.mark.parametrize(
    ("us", "said"),
    [(1_000_000, "1 second"), (1_999_999, "1 second"), (5_000_000, "5 seconds")],
)
def test_no_more_time_is_promised_than_there_is(us: int, said: str) -> None:
    assert seconds(us) == said


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Firefox", "Firefox"),
        ("  a\tb\n\nc  ", "a b c"),
        ("", "A program"),
        ("\x00\x1b[31m\x7f", "[31m"),
        ("\u202egpj.exe", "gpj.exe"),
        ("\u2066x\u2069\u200b", "x"),
        ("\ud800", "A program"),
        ("Müller & Söhne <b>", "Müller & Söhne <b>"),
        ("x" * 100, "x" * (NAME_MOST - 1) + "…"),
        ("\n" * 100_000 + "x", "A program"),
        ("foo) Z ", "foo) Z"),
    ],
)
def test_a_name_is_one_short_line_whatever_it_was(name: str, shown: str) -> None:
    assert plain_name(name) == shown


def test_markup_is_escaped() -> None:
    assert escape_markup('<a href="x">&amp;</a>') == '&lt;a href="x"&gt;&amp;amp;&lt;/a&gt;'


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (loss("firefox-esr", app="Firefox"), "Firefox"),
        (loss("firefox-esr"), "firefox-esr"),
        (loss("Web Content", app="Firefox", is_part=True), "Web Content in Firefox"),
        (loss("worker", processes=12), "12 \N{MULTIPLICATION SIGN} worker"),
    ],
)
def test_a_program_is_called_as_a_person_knows_it(given: Loss, said: str) -> None:
    assert called(given) == said


# --- causes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "now", "before"),
    [
        (
            FULL,
            "Memory is nearly full (37 MiB of 8 GiB left).",
            "Memory was nearly full (37 MiB of 8 GiB left).",
        ),
        (
            f"{FULL}, and {WAITING}",
            "Memory is nearly full (37 MiB of 8 GiB left), and programs have to wait for it.",
            "Memory was nearly full (37 MiB of 8 GiB left), and programs had to wait for it.",
        ),
        (WAITING, "Programs have to wait for memory.", "Programs had to wait for memory."),
        (
            "swap can take 2.0% of its size more",
            "Memory and the swap space behind it are nearly full.",
            "Memory and the swap space behind it were nearly full.",
        ),
        (
            "120.0% of the page cache read again in 1 s",
            "Memory is so short that programs are read from the disk again and again.",
            "Memory was so short that programs were read from the disk again and again.",
        ),
        (
            "out of memory below memory.max, 3 times in 1 s",
            "The memory that its group of programs may use is used up.",
            "The memory that its group of programs may use was used up.",
        ),
        (
            "1.2 s to the floor at 80.0 MiB/s",
            "Memory is filling up fast.",
            "Memory was filling up fast.",
        ),
        (
            f"{WAITING}, and the loop had not answered for 2000 ms",
            "Programs have to wait for memory.",
            "Programs had to wait for memory.",
        ),
        ("", "Memory is running out.", "Memory was running out."),
        ("{Memory} <b>{0}", "Memory is running out.", "Memory was running out."),
    ],
)
def test_a_reason_becomes_a_cause_in_plain_words(reason: str, now: str, before: str) -> None:
    assert cause(reason, is_over=False) == now
    assert cause(reason, is_over=True) == before


def test_where_a_group_of_programs_is_short_the_machine_is_not_said_to_be() -> None:
    reason = "10.0 MiB of 512.0 MiB available"
    said = cause(reason, is_over=True, is_limited=True)
    assert (
        said
        == "The memory that its group of programs may use was nearly full (10 MiB of 512 MiB left)."
    )


def reading(at_s: int, available_kib: int = 100 * MIB, **others: int) -> Reading:
    return Reading("system", at_s * 1_000_000, 8 * GIB, available_kib, **others)


def reasons_of_the_heart() -> Iterator[tuple[str, str]]:
    """Yield the detector and the reason of one finding of each, and of each kind of words it has."""
    windows: dict[str, list[tuple[Reading, ...]]] = {
        "stall": [
            tuple(
                reading(at, some_total_us=at * 500_000, full_total_us=at * 400_000)
                for at in (1, 2, 3)
            )
        ],
        "floor": [
            (reading(1), reading(2)),
            tuple(
                reading(at, some_total_us=at * 500_000, full_total_us=at * 400_000)
                for at in (1, 2, 3)
            ),
        ],
        "swap": [(reading(1, swap_total_kib=GIB), reading(2, swap_total_kib=GIB))],
        "thrash": [
            tuple(
                reading(at, refault_file_pages=at * 100_000, file_lru_kib=100 * MIB)
                for at in (1, 2)
            )
        ],
        "limit": [
            (reading(1, **{event: 0}), reading(2, **{event: 5}))
            for event in ("events_oom", "events_max", "events_high")
        ],
        "forecast": [tuple(reading(at, (2500 - at * 500) * MIB) for at in (1, 2, 3, 4))],
    }
    settings = load_config([]).settings
    for name, detector in DETECTORS.items():
        for window in windows[name]:
            finding = detector(window, settings, Level.NORMAL)
            assert finding is not None, name
            yield name, finding.reason


def test_no_reason_of_the_heart_is_without_a_cause_and_each_has_its_own() -> None:
    """What a detector says was reworded: then the words here have to follow."""
    found = list(reasons_of_the_heart())
    assert {name for name, _ in found} == set(DETECTORS)
    causes = {cause(reason, is_over=False) for _, reason in found}
    assert cause("", is_over=False) not in causes
    assert len(causes) == len(found) - 1, "to meet a limit and to die of it are one"


# --- notices -------------------------------------------------------------------------------------------------------

CLOSING, ENDING, CLOSED = Stage.CLOSING, Stage.ENDING, Stage.CLOSED
NOW = "Memory is nearly full (37 MiB of 8 GiB left)."
BEFORE = "Memory was nearly full (37 MiB of 8 GiB left)."
LOST = "What it had not saved is lost."


@pytest.mark.parametrize(
    ("losses", "more", "summary", "body", "is_urgent"),
    [
        (
            [loss(stage=CLOSING, exit_us=5_000_000, app="Firefox")],
            0,
            "Firefox is being closed",
            f"{NOW} Firefox holds 1.2 GiB. It has 5 seconds to save.",
            True,
        ),
        (
            [loss(stage=CLOSING, exit_us=200_000, app="Firefox")],
            0,
            "Firefox is being closed",
            f"{NOW} Firefox holds 1.2 GiB. There is no time to save.",
            True,
        ),
        (
            [loss(stage=ENDING, exit_us=5_000_000, app="Firefox")],
            0,
            "Firefox is being closed",
            f"{NOW} Firefox holds 1.2 GiB. Its time to save is over.",
            True,
        ),
        (
            [loss(exit_us=5_000_000, app="Firefox")],
            0,
            "Firefox was closed",
            f"{BEFORE} Firefox gave back 1.2 GiB. {LOST}",
            False,
        ),
        (
            [loss(exit_us=200_000)],
            0,
            "firefox was closed",
            f"{BEFORE} firefox gave back 1.2 GiB. There was no time to save.",
            False,
        ),
        (
            [loss()],
            0,
            "firefox was closed",
            f"{BEFORE} firefox gave back 1.2 GiB. {LOST}",
            False,
        ),
        (
            [loss("worker", CLOSING, 90 * MIB, exit_us=2_000_000, processes=12)],
            0,
            "12 \N{MULTIPLICATION SIGN} worker are being closed",
            f"{NOW} 12 \N{MULTIPLICATION SIGN} worker hold 90 MiB. They have 2 seconds to save.",
            True,
        ),
        (
            [loss("a", CLOSED, 300 * MIB), loss("b", CLOSED, 2 * GIB)],
            0,
            "2 programs were closed",
            f"{BEFORE} b (2 GiB) and a (300 MiB) gave back 2.3 GiB together."
            " What they had not saved is lost.",
            False,
        ),
        (
            [loss("a", CLOSED, 300 * MIB), loss("b", CLOSING, 2 * GIB, exit_us=1_000_000)],
            0,
            "b is being closed",
            f"{NOW} b holds 2 GiB. It has 1 second to save. Closed before: a (300 MiB).",
            True,
        ),
        (
            [loss(each, CLOSED, 100 * MIB) for each in ("t", "t", "t", "a", "b", "c", "d")],
            34,
            "41 programs were closed",
            f"{BEFORE} 3 \N{MULTIPLICATION SIGN} t (300 MiB), a (100 MiB), b (100 MiB), c (100 MiB)"
            " and 35 more gave back 700 MiB together. What they had not saved is lost.",
            False,
        ),
        (
            [loss("b", CLOSING, 2 * GIB)],
            3,
            "b is being closed",
            f"{NOW} b holds 2 GiB. Closed before: 3 programs.",
            True,
        ),
        (
            [loss("a", Stage.STUCK, 300 * MIB)],
            0,
            "a cannot be closed",
            f"{BEFORE} a was stopped by force and has not ended yet: its 300 MiB may not come back.",
            False,
        ),
        (
            [loss("a", Stage.SPARED)],
            0,
            "a may stay open",
            f"{BEFORE} a had been asked to close, and is let be now.",
            False,
        ),
        (
            [loss("a", CLOSED, MIB), loss("b", Stage.SPARED)],
            0,
            "a was closed",
            f"{BEFORE} a gave back 1 MiB. {LOST} b had been asked to close, and is let be now.",
            False,
        ),
    ],
)
def test_what_is_said(
    losses: list[Loss], more: int, summary: str, body: str, is_urgent: bool
) -> None:
    assert words_of(losses, more) == (summary, body, is_urgent)


def test_of_nothing_nothing_is_said() -> None:
    assert words_of([]) is None


def test_nobody_is_told_in_jargon() -> None:
    for stage in Stage:
        for _, reason in reasons_of_the_heart():
            words = words_of([loss("Editor", stage, reason=reason, exit_us=3_000_000)])
            assert words is not None
            said = f"{words.summary} {words.body}"
            assert not [word for word in JARGON if word in said], said


def test_fifty_names_as_long_as_they_come_are_a_short_text() -> None:
    names = [chr(ord("A") + number % 26) * 500 + str(number) for number in range(50)]
    for stage in Stage:
        words = words_of([loss(name, stage, app=name, is_part=True) for name in names], 10**6)
        assert words is not None
        assert len(words.summary) < 120
        assert len(words.body) < 1000
