"""Run a recording again: print its verdicts, or what another configuration would have made of it.

No daemon is asked. A recording comes from anywhere: whatever text is in it is made fit for a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lmkd.config import ConfigError, load_config
from lmkd.ctl.arguments import DONE, FAILED
from lmkd.ctl.commands import CommandFailed
from lmkd.ctl.page import Block, Line, Page
from lmkd.ctl.result import number, printable, text
from lmkd.ctl.words import count_words, list_words, size_words, time_words
from lmkd.policy.actions import Plain
from lmkd.replay.comparison import (
    Comparison,
    Death,
    Difference,
    LevelChange,
    find_deaths,
    find_levels,
    replay_with,
)
from lmkd.replay.errors import RecordingError
from lmkd.replay.recording import Recording, decode_recording
from lmkd.replay.run import run
from lmkd.replay.verdicts import Verdict, first_difference, plain_verdicts, verdict_text

FILE_MOST = 64 << 20
_TIME_WIDTH = 10
_MARGIN = "    "


def run_replay(
    page: Page, file: Path, configs: Sequence[Path], *, as_json: bool, recorded: bool = False
) -> int:
    """Run a recording, under other configurations where some are given; return the exit code.

    Without one it is 1 when other verdicts come of it than were recorded. `recorded`: print those that were recorded,
    in the same form, and run nothing. Raises CommandFailed.
    """
    try:
        return _run_replay(page, file, configs, as_json=as_json, recorded=recorded)
    except (RecordingError, ConfigError) as error:
        raise CommandFailed(str(error)) from error


def _run_replay(
    page: Page, file: Path, configs: Sequence[Path], *, as_json: bool, recorded: bool
) -> int:
    recording = read_recording(file)
    if recorded:
        _print_verdicts(page, recording, recording.verdicts, as_json=as_json)
        return DONE
    if configs:
        comparison = replay_with(recording, load_config(configs).settings)
        if as_json:
            _print_json(page, {"recording": dict(recording.header), **comparison.as_plain()})
        else:
            name = ", ".join(str(config) for config in configs)
            page.draw(
                [*describe_recording(recording), Line(), *describe_comparison(comparison, name)]
            )
        return DONE
    steps = list(run(recording))
    verdicts = [one for step in steps for one in plain_verdicts(step.actions, step.at_us)]
    if as_json:
        _print_verdicts(page, recording, verdicts, as_json=True)
    else:
        outcomes = [step.outcome for step in steps]
        deaths = find_deaths(outcomes, recording.base_us)
        levels = find_levels(outcomes, recording.base_us)
        page.draw([*describe_recording(recording), Line(), *describe_run(deaths, levels), Line()])
        page.draw(describe_agreement(recording, verdicts))
    same = first_difference(verdicts, recording.verdicts) is None
    return DONE if same else FAILED


def read_recording(file: Path) -> Recording:
    """Read a recording. Raises RecordingError."""
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_MOST + 1)
    except OSError as error:
        raise RecordingError(str(file), f"cannot be read: {error.strerror}") from None
    if len(content) > FILE_MOST:
        raise RecordingError(str(file), f"expected at most {FILE_MOST} bytes, found more")
    return decode_recording(content, str(file))


def _print_json(page: Page, document: Mapping[str, Plain]) -> None:
    page.out.write(json.dumps(document) + "\n")
    page.out.flush()


def _print_verdicts(
    page: Page, recording: Recording, verdicts: Sequence[Verdict], *, as_json: bool
) -> None:
    if as_json:
        plain: list[Plain] = [dict(verdict) for verdict in verdicts]
        _print_json(page, {"recording": dict(recording.header), "verdicts": plain})
    else:
        lines: list[Block] = [Line(printable(verdict_text(verdict))) for verdict in verdicts]
        page.draw([*describe_recording(recording), Line(), *lines])


# --- a recording, and what comes of it ------------------------------------------------------------------------


def describe_recording(recording: Recording) -> list[Block]:
    """Return what a recording is, in a sentence or two."""
    header = recording.header
    episodes = header.get("episodes")
    numbers = [printable(str(one)) for one in episodes] if isinstance(episodes, list) else []
    what = "no episode"
    if numbers:
        what = f"episode {numbers[0]}" if len(numbers) == 1 else f"episodes {list_words(numbers)}"
    kernel = text(header, "kernel")
    made = f"lmkd {text(header, 'version', '?')}" + (f" on Linux {kernel}" if kernel else "")
    events, scans = number(header, "events"), number(header, "scans")
    blocks: list[Block] = [
        Line(
            f"A recording of {what} over {time_words(number(header, 'span_ms'))}, made by {made}: "
            f"{count_words(events or 0, 'event')}, of which {count_words(scans or 0, 'scan')}."
        )
    ]
    cut_ms = number(header, "cut_ms")
    if cut_ms is not None:
        blocks.append(Line(f"It was cut off at {_at(cut_ms)}, for want of room."))
    return blocks


def describe_run(deaths: Sequence[Death], levels: Sequence[LevelChange]) -> list[Block]:
    """Return levels and kills, in the order of their moments."""
    told: list[tuple[int, Line]] = []
    for change in levels:
        where = "" if change.domain == "system" else f" in {printable(change.domain)}"
        lead = f"{_at(change.at_ms):>{_TIME_WIDTH}}  "
        told.append((change.at_ms, Line(f"{change.level}{where}", lead, change.level)))
    for death in deaths:
        lead = f"{_at(death.at_ms):>{_TIME_WIDTH}}  "
        told.append((death.at_ms, Line(f"{_fate(death)}: {printable(death.reason)}.", lead)))
    told.sort(key=lambda one: one[0])
    return [line for _, line in told] or [Line("Nothing came of it: memory was not short.")]


def _fate(death: Death) -> str:
    who = f"{_who(death)}, {size_words(death.size_kib)}"
    if death.start_ticks is None:
        return f"dry run: {who} would have been ended"
    if death.failed is not None:
        return f"{who} was to be ended, and was not ({printable(death.failed)})"
    if death.ended_ms is None:
        return f"{who} was told to end"
    how = "with SIGKILL" if death.sigkill else "with SIGTERM"
    return f"{who} ended {how}, after {time_words(death.ended_ms - death.at_ms)}"


def describe_agreement(recording: Recording, verdicts: Sequence[Verdict]) -> list[Block]:
    """Return whether the same came of the recording as when it was made, and where it first did not."""
    place = first_difference(verdicts, recording.verdicts)
    if place is None:
        return [Line(f"The same as was recorded: {count_words(len(verdicts), 'verdict')}.")]
    blocks: list[Block] = [
        Line(f"NOT the same as was recorded, from verdict {place + 1} on. It was, and is now:")
    ]
    for held in (recording.verdicts, verdicts):
        shown = verdict_text(held[place]) if place < len(held) else "none"
        blocks.append(Line(printable(shown), _MARGIN))
    version = text(recording.header, "version", "?")
    blocks.append(Line(f"It was recorded by lmkd {version}; another version may decide otherwise."))
    return blocks


# --- another policy -------------------------------------------------------------------------------------------


def describe_comparison(comparison: Comparison, name: str) -> list[Block]:
    """Return what would have been different with the configuration of that name, in plain words."""
    name = printable(name)
    blocks: list[Block] = []
    if comparison.differences:
        blocks.append(Line(f"With {name}:"))
        blocks += [
            Line(_difference(difference), "  - ", difference.level)
            for difference in comparison.differences
        ]
    else:
        blocks.append(Line(f"With {name} nothing would have been different: {_toll(comparison)}."))
    blocks.append(Line())
    blocks += [Line(note) for note in comparison.notes]
    return blocks


def _toll(comparison: Comparison) -> str:
    died = [f"{_who(death)} died at {_at(death.at_ms)}" for death in comparison.then]
    return f"{list_words(died)} in both" if died else "nothing dies in either"


def _difference(difference: Difference) -> str:
    then, now = difference.then, difference.now
    where = "" if difference.domain == "system" else f" in {printable(difference.domain)}"
    if then is not None and now is not None:
        if difference.kind == "instead":
            return (
                f"{_who(now)} would have died at {_at(now.at_ms)} instead of {_who(then)} at {_at(then.at_ms)}{where}"
                f"{_why(now)}."
            )
        if then.at_ms == now.at_ms:
            return (
                f"{_who(then)} would have died at {_at(now.at_ms)} as it did, but for another reason{where}:"
                f" {printable(now.reason)}, not {printable(then.reason)}."
            )
        return f"{_who(now)} would have died at {_at(now.at_ms)}, not at {_at(then.at_ms)}{where}{_why(now)}."
    if then is not None:
        return f"{_who(then)}, which died at {_at(then.at_ms)}{where}, would have lived."
    if now is not None:
        return f"{_who(now)} would have died at {_at(now.at_ms)}{where} as well{_why(now)}."
    return _level_difference(difference, where)


def _why(death: Death) -> str:
    rule = f", by rule {printable(death.rule)!r}" if death.rule else ""
    return f" ({printable(death.reason)}{rule})"


def _level_difference(difference: Difference, where: str) -> str:
    then_ms, now_ms, level = difference.then_ms, difference.now_ms, difference.level
    calm = level == "normal"
    word = "calm again" if calm else f"{level} first"
    if then_ms is None and now_ms is not None:
        return f"it would have been {word} at {_at(now_ms)}{where}, and it never was."
    if now_ms is None and then_ms is not None:
        return f"it would not have been {word.removesuffix(' first')}{where}; it was at {_at(then_ms)}."
    return f"it would have been {word} at {_at(now_ms or 0)}{where}, not at {_at(then_ms or 0)}."


def _who(death: Death) -> str:
    return f"{printable(death.name)} (pid {death.pid}, {death.app_class})"


def _at(at_ms: int) -> str:
    hundredths = at_ms // 10
    return f"+{hundredths // 100}.{hundredths % 100:02d} s"
