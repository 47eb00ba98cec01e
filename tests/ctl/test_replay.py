"""What comes of a recording is said exactly so, and is the same for a script each time."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

import lmkd
from lmkd.ctl.failure import CommandFailed
from lmkd.ctl.page import Page
from lmkd.ctl.replay import (
    FILE_MOST,
    describe_agreement,
    describe_comparison,
    describe_recording,
    describe_run,
    run_replay,
)
from lmkd.replay.comparison import Comparison, Death, Difference, LevelChange, replay_with
from lmkd.replay.recording import encode_recording
from lmkd.replay.run import replay

from ..replay.scenes import BROWSER_FIRST, EDITOR_FIRST, leak_episode, recording_of
from .literal import ZONE, drawn

VERSION = lmkd.__version__
SEGMENT = leak_episode()
RECORDING = recording_of(SEGMENT)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "episode-12.lmkdrec"
    path.write_bytes(encode_recording(SEGMENT, kernel="6.1.0"))
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A configuration in which the editor goes before the browser."""
    path = tmp_path / "other.toml"
    path.write_text(
        """\
[[rule]]
name = "editors first"
match = { comm = "editor" }
class = "cached"
"""
    )
    return path


def run(
    file: Path, *configs: Path, as_json: bool = False, recorded: bool = False
) -> tuple[int, str]:
    out = StringIO()
    code = run_replay(Page(out, 100), file, configs, as_json=as_json, recorded=recorded)
    return code, out.getvalue()


def failure(file: Path, *configs: Path) -> str:
    with pytest.raises(CommandFailed) as raised:
        run(file, *configs)
    return str(raised.value)


def death(pid: int = 7, name: str = "browser", at_ms: int = 3_100, **given: object) -> Death:
    made = Death(
        at_ms=at_ms,
        domain="system",
        kill=1,
        pid=pid,
        start_ticks=1,
        name=name,
        app_class="cached",
        why_class="a rule",
        rule="",
        unit="process",
        size_kib=2048,
        level="critical",
        reason="2.0 MiB available",
    )
    return replace(made, **given)  # type: ignore[arg-type]


def said(
    *differences: Difference, then: tuple[Death, ...] = (), notes: tuple[str, ...] = ()
) -> str:
    comparison = Comparison(then, (), (), (), differences, notes)
    return drawn(describe_comparison(comparison, "other.toml"), 10_000)


def test_a_recording_that_comes_to_the_same(file: Path) -> None:
    assert run(file) == (
        0,
        f"""\
A recording of episode 12 over 33.2 s, made by lmkd {VERSION} on Linux 6.1.0: 111 events, of which 1
scan.

  +28.90 s  low: 116.0 MiB of 1000.0 MiB available.
  +29.60 s  medium: 74.0 MiB of 1000.0 MiB available.
  +30.10 s  critical: 44.0 MiB of 1000.0 MiB available.
  +30.10 s  SIGTERM to browser (pid 13, cached, 300.0 MiB): 44.0 MiB of 1000.0 MiB available.
            browser was gone 70 ms after SIGTERM. Then 294.0 MiB more was available.
  +33.20 s  normal: calm again.

The same as was recorded: 14 verdicts.
""",
    )


def test_a_script_is_told_the_same_bytes_of_both_runs_each_time(file: Path) -> None:
    """What --recorded prints runs nothing; what is printed without it was decided anew."""
    code, again = run(file, as_json=True)
    assert code == 0
    assert again == run(file, as_json=True, recorded=True)[1] == run(file, as_json=True)[1]
    verdicts = ", ".join(json.dumps(verdict) for verdict in SEGMENT.verdicts)
    assert again == (
        f'{{"recording": {{"version": "{VERSION}", "kernel": "6.1.0", "unix_ms": 0, "span_ms": 33200, '
        '"episodes": [12], "events": 111, "scans": 1, "verdicts": 14, "begins_open": false, "ends_open": false, '
        '"environ": "only what the rules asked for"}, "verdicts": [' + verdicts + "]}\n"
    )
    assert (
        '{"verdict": "signal", "at_us": 35100000, "domain": "system", "kill": 1, "pid": 13, "start_ticks": 130, '
        '"name": "browser", "signal": "SIGTERM"}'
    ) in again


def test_what_was_recorded_is_shown_a_verdict_a_line(file: Path) -> None:
    out = StringIO()
    run_replay(Page(out), file, (), as_json=False, recorded=True)
    lines = out.getvalue().splitlines()[2:]
    assert [json.loads(line) for line in lines] == list(SEGMENT.verdicts)


def test_a_recording_that_comes_to_something_else_fails_and_shows_where(tmp_path: Path) -> None:
    forged = replace(SEGMENT, verdicts=(*SEGMENT.verdicts[:9], *SEGMENT.verdicts[10:]))
    file = tmp_path / "forged.lmkdrec"
    file.write_bytes(encode_recording(forged))
    code, text = run(file)
    assert code == 1
    assert "NOT the same as was recorded, from verdict 10 on. It was, and is now:\n" in text
    (why,) = text.splitlines()[-1:]
    assert (
        why
        == f"It was recorded by the same version, lmkd {VERSION}: one of the two was changed since."
    )
    assert run(file, as_json=True)[0] == 1
    assert run(file, as_json=True, recorded=True)[0] == 0


def test_verdicts_that_are_missing_at_the_end_are_none() -> None:
    header = {**RECORDING.header, "version": "0.0.9"}
    short = replace(RECORDING, verdicts=RECORDING.verdicts[:-1], header=header)
    assert drawn(describe_agreement(short, replay(RECORDING)), 200) == (
        "NOT the same as was recorded, from verdict 14 on. It was, and is now:\n"
        "    none\n"
        '    {"verdict":"record","at_us":38200000,"domain":"system","episode":12,"kind":"closed","detail":{}}\n'
        f"It was recorded by lmkd 0.0.9, and this is {VERSION}, which may decide otherwise.\n"
    )


def test_another_configuration_is_told_in_plain_words(file: Path, other: Path) -> None:
    code, text = run(file, other)
    assert code == 0
    flat = " ".join(text.split())
    assert f"With {other}: - At +30.10 s editor (pid 12, cached, 200.0 MiB) would have died" in flat
    assert "instead of browser (pid 13, cached, 300.0 MiB)" in flat
    assert "by the rule 'editors first'" in flat
    assert "Before this is believed: - This is an estimate." in flat


def test_another_configuration_for_a_script(file: Path, other: Path) -> None:
    code, text = run(file, other, as_json=True)
    document = json.loads(text)
    assert code == 0
    assert [one["name"] for one in document["then"]] == ["browser"]
    assert document["now"][0]["name"] == "editor"
    assert document["differences"][0]["kind"] == "instead"
    assert document["recording"]["events"] == 111
    assert run(file, other, as_json=True)[1] == text


def test_the_whole_of_a_comparison() -> None:
    assert (
        drawn(describe_comparison(replay_with(RECORDING, EDITOR_FIRST), "other.toml"))
        == """\
With other.toml:
  - At +30.10 s editor (pid 12, cached, 200.0 MiB) would have died instead of browser (pid 13,
    cached, 300.0 MiB): 44.0 MiB of 1000.0 MiB available, by the rule 'editor is cached'.
  - it would have been calm again at +33.30 s, not at +33.20 s.

Before this is believed:
  - This is an estimate. Readings are those of the recording, taken when it took them, and corrected
    by the sizes of those who died in one run and not in the other; for the rest, programs do what
    they did.
  - The recording ends before this run is calm: the last readings are taken to stay, for up to 10 s.
"""
    )


def test_nothing_would_be_different() -> None:
    told = drawn(describe_comparison(replay_with(RECORDING, BROWSER_FIRST), "same.toml"), 200)
    assert told.startswith(
        "With same.toml nothing would have been different: "
        "browser (pid 13, cached, 300.0 MiB) died at +30.10 s in both.\n\nBefore this is believed:"
    )
    assert said().startswith(
        "With other.toml nothing would have been different: nothing dies in either.\n"
    )


WHO = "browser (pid 7, cached, 2.0 MiB)"


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        (
            Difference("instead", "/box", death(), death(8, "editor", 3_200, rule="r")),
            f"At +3.20 s in /box editor (pid 8, cached, 2.0 MiB) would have died instead of {WHO}, which died at "
            "+3.10 s: 2.0 MiB available, by the rule 'r'.",
        ),
        (
            Difference("instead", "system", death(failed="it is gone"), death(8, failed="gone")),
            f"At +3.10 s browser (pid 8, cached, 2.0 MiB) could not have been ended instead of {WHO}: "
            "2.0 MiB available.",
        ),
        (
            Difference("spared", "system", death(unit="tree")),
            f"{WHO} with its descendants, which died at +3.10 s, would have lived.",
        ),
        (
            Difference("spared", "system", death(failed="not permitted")),
            f"{WHO}, which could not be ended at +3.10 s, would have lived.",
        ),
        (
            Difference("spared", "system", death(start_ticks=None)),
            f"{WHO}, which was chosen in a dry run at +3.10 s, would have lived.",
        ),
        (
            Difference("also", "system", now=death(unit="cgroup")),
            f"At +3.10 s {WHO} with its whole cgroup would have died as well: 2.0 MiB available.",
        ),
        (
            Difference("also", "/box", now=death(start_ticks=None)),
            f"At +3.10 s in /box {WHO} would have been chosen in a dry run as well: 2.0 MiB available.",
        ),
        (
            Difference("otherwise", "system", death(), death(at_ms=2_000)),
            f"{WHO} would have died at +2.00 s, not at +3.10 s: 2.0 MiB available.",
        ),
        (
            Difference("otherwise", "system", death(), death(reason="stalled")),
            f"{WHO} would have died at +3.10 s as it did, but for another reason: stalled, not 2.0 MiB available.",
        ),
        (
            Difference("level", "/box", level="low", then_ms=10, now_ms=20),
            "low would have been reached at +0.02 s in /box, not at +0.01 s.",
        ),
        (
            Difference("level", "system", level="medium", then_ms=10),
            "medium would not have been reached; it was at +0.01 s.",
        ),
        (
            Difference("level", "system", level="medium", now_ms=0),
            "medium would have been reached at +0.00 s; it never was.",
        ),
        (
            Difference("level", "system", level="normal", then_ms=10),
            "it would not have been calm again; it was at +0.01 s.",
        ),
        (
            Difference("level", "/box", level="normal", then_ms=10, now_ms=20),
            "it would have been calm again at +0.02 s in /box, not at +0.01 s.",
        ),
    ],
)
def test_every_kind_of_difference(difference: Difference, sentence: str) -> None:
    assert said(difference) == f"With other.toml:\n  - {sentence}\n\nBefore this is believed:\n"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (death(ended_ms=3_170), "browser was gone 70 ms after SIGTERM."),
        (
            death(ended_ms=3_170, freed_kib=1024),
            "browser was gone 70 ms after SIGTERM. Then 1.0 MiB more was available.",
        ),
        (
            death(ended_ms=5_110, sigkill=True, freed_kib=-5),
            "browser was gone 2 s after SIGTERM; it took SIGKILL."
            " Nothing came back that was not taken at once.",
        ),
        (death(), "browser had not ended when the recording did."),
        (
            death(failed="not permitted"),
            "browser could not be ended: not permitted. It is left alone now.",
        ),
    ],
)
def test_every_fate(given: Death, sentence: str) -> None:
    assert drawn(describe_run((given,), ()), 200) == (
        f"   +3.10 s  SIGTERM to {WHO}: 2.0 MiB available. {sentence}\n"
    )


def test_a_dry_run_a_cgroup_and_calm() -> None:
    dry = death(start_ticks=None, domain="/box", unit="cgroup")
    assert drawn(describe_run((dry,), (LevelChange(3_000, "/box", "critical", "why"),)), 200) == (
        "   +3.00 s  critical in /box: why.\n"
        f"   +3.10 s  Dry run: would have ended {WHO} with its whole cgroup in /box: 2.0 MiB available.\n"
    )
    assert drawn(describe_run((), ())) == "Nothing came of it: memory was not short.\n"


def test_a_level_is_seen_at_once() -> None:
    told = drawn(describe_run((), (LevelChange(0, "system", "critical", "x"),)), colour=True)
    assert told == "   +0.00 s  \x1b[1;31mcritical\x1b[0m: x.\n"


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (
            {"episodes": [], "kernel": "", "unix_ms": None},
            f"A recording of no episode over 33.2 s, made by lmkd {VERSION}:",
        ),
        (
            {},
            "A recording of episode 12 over 33.2 s, made on 2026-03-01 12:00:00 by "
            f"lmkd {VERSION} on Linux 6.1.0: 111 events, of which 1 scan.\n",
        ),
        ({"episodes": list(range(3, 10))}, "A recording of 7 episodes, 3 to 9, over 33.2 s,"),
        ({"episodes": [3, 4]}, "A recording of episodes 3 and 4 over"),
        (
            {"begins_open": True},
            "\nIt begins in mid-episode: there was no room for what came before.\n",
        ),
        ({"ends_open": True}, "\nIt ends in mid-episode: it was saved before that was over.\n"),
        ({"version": "9\x1b[31m"}, "by lmkd 9\ufffd[31m on"),
        ({"episodes": "all", "span_ms": "x", "events": None}, "A recording of no episode over -,"),
    ],
)
def test_a_header_says_what_it_will(header: dict[str, object], sentence: str) -> None:
    recording = replace(RECORDING, header={**RECORDING.header, **header})  # type: ignore[dict-item]
    assert sentence in drawn(describe_recording(recording, ZONE), 300)


def test_what_a_process_calls_itself_steers_no_terminal() -> None:
    hostile = death(name="\x1b[2Jx\n", reason="\x07", rule="\x1b")
    every = said(
        Difference("instead", "/\x1b", hostile, hostile),
        Difference("also", "system", now=hostile),
        Difference("otherwise", "system", hostile, replace(hostile, reason="\x08")),
        notes=("\x1b",),
    )
    every += said(then=(hostile,))
    every += drawn(describe_run((hostile, replace(hostile, failed="\x1b", ended_ms=1)), ()))
    every += drawn(describe_run((), (LevelChange(0, "\x1b", "low", "\x1b"),)))
    assert all(char.isprintable() or char == "\n" for char in every)


def test_whatever_is_wrong_is_one_line_about_the_file(tmp_path: Path, file: Path) -> None:
    missing = tmp_path / "none.lmkdrec"
    assert failure(missing) == f"{missing}: cannot be read: No such file or directory"
    assert failure(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    file.write_bytes(b"PK")
    assert failure(file).startswith(f"{file}: not a recording of lmkd")


def test_a_file_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    endless = tmp_path / "endless"
    with endless.open("wb") as out:
        out.truncate(FILE_MOST + 2)
    assert failure(endless) == f"{endless}: expected at most {FILE_MOST} bytes, found more"


def test_a_configuration_with_mistakes_is_told_with_its_places(file: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('[[rule]]\nname = "x"\nmatch = { com = "y" }\nclass = "kingly"\n')
    first, second = failure(file, wrong).splitlines()
    assert first.startswith(f"{wrong}:3:")
    assert "comm" in first
    assert second.startswith(f"{wrong}:4:")
    assert (
        failure(file, tmp_path / "none.toml")
        == f"{tmp_path / 'none.toml'}: cannot be read: No such file or directory"
    )


def test_several_configurations_are_laid_over_each_other(
    file: Path, other: Path, tmp_path: Path
) -> None:
    spare = tmp_path / "spare.toml"
    spare.write_text(
        '[[rule]]\nname = "mine"\nmatch = { comm = "editor" }\nclass = "cached"\nexempt = true\n'
    )
    victims = [
        [one["name"] for one in json.loads(run(file, *files, as_json=True)[1])["now"]]
        for files in ((other,), (other, spare), (spare,))
    ]
    assert victims[0][0] == "editor"
    assert "editor" not in victims[2]
    code, text = run(file, other, spare)
    assert code == 0
    assert f"With {other}, {spare}" in " ".join(text.split())
