"""Run a recording again: print its verdicts, or what another configuration would have made of it.

No daemon is asked. A recording comes from anywhere: whatever text is in it is made fit for a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import tzinfo
from pathlib import Path

import lmkd
from lmkd.config import ConfigError, load_config
from lmkd.ctl.arguments import DONE, FAILED
from lmkd.ctl.failure import CommandFailed
from lmkd.ctl.kills import UNIT_WORDS, describe_exit, describe_failure, describe_victim
from lmkd.ctl.page import Block, Line, Page
from lmkd.ctl.recordings import NAMED_MOST
from lmkd.ctl.result import flag, number, printable, text
from lmkd.ctl.words import count_words, date_words, list_words, size_words, time_words
from lmkd.model import SYSTEM_DOMAIN
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
                [
                    *describe_recording(recording, None),
                    Line(),
                    *describe_comparison(comparison, name),
                ]
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
        page.draw(describe_recording(recording, None))
        page.draw([Line(), *describe_run(deaths, levels), Line()])
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
        page.draw([*describe_recording(recording, None), Line(), *lines])


# --- a recording, and what comes of it ------------------------------------------------------------------------


def describe_recording(recording: Recording, zone: tzinfo | None) -> list[Block]:
    """Return what a recording is, in a sentence or two. Zone None: this machine's."""
    header = recording.header
    episodes = header.get("episodes")
    numbers = [printable(str(one)) for one in episodes] if isinstance(episodes, list) else []
    what = "no episode"
    if numbers:
        what = f"episode {numbers[0]}" if len(numbers) == 1 else f"episodes {list_words(numbers)}"
    if len(numbers) > NAMED_MOST:
        what = f"{len(numbers)} episodes, {numbers[0]} to {numbers[-1]},"
    made_ms, kernel = number(header, "unix_ms"), text(header, "kernel")
    made = f"made on {date_words(made_ms, zone)} by" if made_ms else "made by"
    made += f" lmkd {text(header, 'version', '?')}" + (f" on Linux {kernel}" if kernel else "")
    events, scans = number(header, "events"), number(header, "scans")
    blocks: list[Block] = [
        Line(
            f"A recording of {what} over {time_words(number(header, 'span_ms'))}, {made}: "
            f"{count_words(events or 0, 'event')}, of which {count_words(scans or 0, 'scan')}."
        )
    ]
    if flag(header, "begins_open"):
        blocks.append(Line("It begins in mid-episode: there was no room for what came before."))
    if flag(header, "ends_open"):
        blocks.append(Line("It ends in mid-episode: it was saved before that was over."))
    return blocks


def describe_run(deaths: Sequence[Death], levels: Sequence[LevelChange]) -> list[Block]:
    """Return levels and kills, in the order of their moments."""
    told: list[tuple[int, Line]] = []
    for change in levels:
        what = f"{change.level}{_where(change.domain)}: {printable(change.reason)}."
        told.append((change.at_ms, Line(what, _lead(change.at_ms), change.level)))
    told.extend(
        (death.at_ms, Line(f"{_order(death)} {_outcome(death)}", _lead(death.at_ms)))
        for death in deaths
    )
    told.sort(key=lambda one: one[0])
    return [line for _, line in told] or [Line("Nothing came of it: memory was not short.")]


def _lead(at_ms: int) -> str:
    return f"{_at(at_ms):>{_TIME_WIDTH}}  "


def _order(death: Death) -> str:
    what = f"{_who(death)}{_where(death.domain)}: {printable(death.reason)}."
    return f"Dry run: would have ended {what}" if _is_dry(death) else f"SIGTERM to {what}"


def _outcome(death: Death) -> str:
    name = printable(death.name)
    if _is_dry(death):
        return ""
    if death.failed is not None:
        return describe_failure({"reason": death.failed}, name)
    if death.ended_ms is None:
        return f"{name} had not ended when the recording did."
    after_ms = death.ended_ms - death.at_ms
    gone = describe_exit({"after_ms": after_ms, "sigkill": death.sigkill}, name)
    if death.freed_kib is None:
        return gone
    if death.freed_kib <= 0:
        return f"{gone} Nothing came back that was not taken at once."
    return f"{gone} Then {size_words(death.freed_kib)} more was available."


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
    why = f"It was recorded by lmkd {version}, and this is {lmkd.__version__}, which may decide otherwise."
    if version == lmkd.__version__:
        why = f"It was recorded by the same version, lmkd {version}: one of the two was changed since."
    return [*blocks, Line(why)]


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
    blocks += [Line(), Line("Before this is believed:")]
    blocks += [Line(printable(note), "  - ") for note in comparison.notes]
    return blocks


def _toll(comparison: Comparison) -> str:
    died = [f"{_who(death)} {_fate(death)} at {_at(death.at_ms)}" for death in comparison.then]
    return f"{list_words(died)} in both" if died else "nothing dies in either"


def _difference(difference: Difference) -> str:
    then, now = difference.then, difference.now
    where = _where(difference.domain)
    if then is not None and now is not None:
        return _other_death(difference.kind, then, now, where)
    if then is not None:
        return f"{_who(then)}, which {_fate(then)} at {_at(then.at_ms)}{where}, would have lived."
    if now is not None:
        return f"At {_at(now.at_ms)}{where} {_who(now)} {_other_fate(now)} as well: {_why(now)}."
    return _other_level(difference, where)


def _other_death(kind: str, then: Death, now: Death, where: str) -> str:
    same_time = then.at_ms == now.at_ms
    if kind == "instead":
        when = "" if same_time else f", which {_fate(then)} at {_at(then.at_ms)}"
        fate = f"{_other_fate(now)} instead of {_who(then)}{when}"
        return f"At {_at(now.at_ms)}{where} {_who(now)} {fate}: {_why(now)}."
    if same_time:
        return (
            f"{_who(now)} {_other_fate(now)} at {_at(now.at_ms)}{where} as it did, but for another reason:"
            f" {printable(now.reason)}, not {printable(then.reason)}."
        )
    fate = f"{_other_fate(now)} at {_at(now.at_ms)}{where}, not at {_at(then.at_ms)}"
    return f"{_who(now)} {fate}: {_why(now)}."


def _why(death: Death) -> str:
    rule = f", by the rule {printable(death.rule)!r}" if death.rule else ""
    return f"{printable(death.reason)}{rule}"


def _other_level(difference: Difference, where: str) -> str:
    then_ms, now_ms = difference.then_ms, difference.now_ms
    reached = f"{difference.level} would have been reached"
    if difference.level == "normal":
        reached = "it would have been calm again"
    if now_ms is None:
        return f"{reached.replace('have', 'not have')}{where}; it was at {_at(then_ms or 0)}."
    if then_ms is None:
        return f"{reached} at {_at(now_ms)}{where}; it never was."
    return f"{reached} at {_at(now_ms)}{where}, not at {_at(then_ms)}."


# --- words ----------------------------------------------------------------------------------------------------


def _is_dry(death: Death) -> bool:
    return death.start_ticks is None


def _fate(death: Death) -> str:
    if _is_dry(death):
        return "was chosen in a dry run"
    return "died" if death.failed is None else "could not be ended"


def _other_fate(death: Death) -> str:
    if _is_dry(death):
        return "would have been chosen in a dry run"
    return "would have died" if death.failed is None else "could not have been ended"


def _who(death: Death) -> str:
    victim = {
        "name": death.name,
        "pid": death.pid,
        "class": death.app_class,
        "size_kib": death.size_kib,
    }
    return describe_victim(victim) + UNIT_WORDS.get(death.unit, "")


def _where(domain: str) -> str:
    return "" if domain == SYSTEM_DOMAIN else f" in {printable(domain)}"


def _at(at_ms: int) -> str:
    hundredths = at_ms // 10
    return f"+{hundredths // 100}.{hundredths % 100:02d} s"
