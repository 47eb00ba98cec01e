"""History: what is kept of an episode, and a file that survives crashes, full disks and hands that meddle."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lmkd.policy.actions import Plain, Record
from lmkd.service.executor import Hand
from lmkd.service.journal import RECORDS_MOST, Episode, Journal, open_journal

MS = 1000


def keep(journal: Journal, number: int, *kinds: str, write: bool = True, **detail: Plain) -> None:
    """Have an episode of these records happen, a record each 10 ms, and write it."""
    for place, kind in enumerate(("opened", *kinds, "closed")):
        over = journal.add(Record(number, "system", place * 10 * MS, kind, detail))
        if over is not None and write:
            journal.write(over)


def numbers(journal: Journal) -> list[Plain]:
    return [row["episode"] for row in journal.summaries()]


def history(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


# --- one episode ---------------------------------------------------------------------------------------


def test_an_episode_is_summed_up() -> None:
    journal = Journal(None, 10)
    for at_ms, kind, detail in (
        (0, "opened", {}),
        (0, "level", {"to": "low"}),
        (100, "level", {"to": "critical"}),
        (150, "ack", {"measured_kib": 500}),
        (160, "ack", {"measured_kib": -9}),
        (170, "ack", {"measured_kib": None}),
        (200, "exited", {}),
        (300, "level", {"to": "normal"}),
        (300, "closed", {}),
    ):
        journal.add(Record(7, "system", at_ms * MS, kind, detail))
    (summary,) = journal.summaries()
    assert summary.pop("opened_unix_ms")
    assert summary == {
        "episode": 7,
        "domain": "system",
        "duration_ms": 300,
        "closed": True,
        "open": False,
        "peak": "critical",
        "kills": 1,
        "shed_kib": 500,
        "left_out": 0,
    }


def test_a_long_episode_keeps_how_it_began_and_how_it_ended_and_counts_the_rest() -> None:
    episode = Episode(1, "system", 0, 0)
    for number in range(RECORDS_MOST + 300):
        episode.add(Record(1, "system", number * MS, "ack", {"measured_kib": 0}))
    times = [record["at_ms"] for record in episode.records]
    half = RECORDS_MOST // 2
    assert times == [*range(half), *range(half + 300, RECORDS_MOST + 300)]
    assert episode.left_out == 300


def test_in_memory_only_the_latest_episodes_are_kept() -> None:
    journal = Journal(None, 3)
    for number in range(1, 6):
        keep(journal, number)
    assert numbers(journal) == [5, 4, 3]
    assert journal.records(5) is not None
    assert journal.records(1) is None


def test_an_episode_can_be_asked_for_while_it_lasts_and_before_it_is_written(
    tmp_path: Path,
) -> None:
    journal = Journal(str(tmp_path), 3)
    journal.add(Record(1, "system", 0, "opened"))
    assert [(row["open"], row["closed"]) for row in journal.summaries()] == [(True, False)]
    assert journal.records(1) == [{"at_ms": 0, "kind": "opened"}]
    keep(journal, 2, write=False)
    assert len(journal.records(2) or ()) == 2
    assert [row["open"] for row in journal.summaries()] == [False, True]
    assert not history(tmp_path).exists()


# --- the file ------------------------------------------------------------------------------------------


def test_history_survives_a_restart(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), 10)
    keep(journal, 1, "kill", kill=4)
    keep(journal, 2)
    again = Journal(str(tmp_path), 10)
    assert again.summaries() == journal.summaries()
    assert again.records(1) == journal.records(1)
    assert (again.last_episode, again.last_kill) == (2, 4)


def test_what_is_open_when_we_leave_is_written_as_cut_short(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), 10)
    journal.add(Record(1, "system", 0, "opened"))
    journal.close()
    for one in (journal, Journal(str(tmp_path), 10)):
        (cut_short,) = one.summaries()
        assert (cut_short["open"], cut_short["closed"]) == (False, False)


def test_a_torn_last_line_hides_neither_what_is_before_nor_what_comes_after(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep(Journal(str(tmp_path), 10), 1)
    keep(Journal(str(tmp_path), 10), 2)
    whole = history(tmp_path).read_bytes()
    history(tmp_path).write_bytes(whole[:-20])
    journal = Journal(str(tmp_path), 10)
    assert numbers(journal) == [1]
    assert "not a whole episode" in caplog.text
    keep(journal, 3)
    for one in (journal, Journal(str(tmp_path), 10)):
        assert numbers(one) == [3, 1]
        assert all(one.records(number) for number in (1, 3))


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xfe\n",
        b"\n",
        b"[1, 2]\n",
        b"7\n",
        b'{"episode": 9}\n',
        b'{"episode": 9, "records": 5}\n',
        b'{"episode": 1e999, "records": []}\n',
        b'{"episode": 9, "records": [{"kind": "kill"}]}\n',
        b"[" * 200_000 + b"\n",
    ],
    ids=lambda garbage: repr(garbage[:20]),
)
def test_a_line_of_garbage_is_passed_over(tmp_path: Path, garbage: bytes) -> None:
    keep(Journal(str(tmp_path), 10), 1)
    with history(tmp_path).open("ab") as file:
        file.write(garbage)
    keep(Journal(str(tmp_path), 10), 2)
    journal = Journal(str(tmp_path), 10)
    assert numbers(journal) == [2, 1]
    assert all(journal.records(number) for number in (1, 2))


def test_the_file_is_shortened_when_it_holds_twice_what_is_kept(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), 3)
    lines = []
    for number in range(1, 9):
        keep(journal, number)
        lines.append(len(history(tmp_path).read_bytes().splitlines()))
    assert lines == [1, 2, 3, 4, 5, 6, 3, 4]
    for one in (journal, Journal(str(tmp_path), 3)):
        assert numbers(one) == [8, 7, 6]
        assert all(one.records(number) for number in (6, 7, 8))
    assert os.listdir(tmp_path) == ["history.jsonl"]


def test_the_file_is_never_for_all_to_read(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), 1)
    for number in range(1, 5):
        keep(journal, number)
        assert history(tmp_path).stat().st_mode & 0o007 == 0


def test_a_full_disk_loses_no_episode_and_tears_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(str(tmp_path), 10)
    keep(journal, 1)
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, content: write(fd, content[:30]))
        keep(journal, 2)
    assert "No space left on device" in caplog.text
    assert len(journal.records(2) or ()) == 2, "it stays in memory"
    keep(journal, 3)
    assert numbers(journal) == [3, 2, 1]
    assert all(journal.records(number) for number in (1, 2, 3))
    assert numbers(Journal(str(tmp_path), 10)) == [3, 1]


@pytest.mark.parametrize(
    "meddle",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"x" * 5000),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["removed", "emptied", "overwritten", "a directory"],
)
def test_who_meddles_with_the_file_loses_history_and_nothing_else(
    tmp_path: Path, meddle: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(str(tmp_path), 1)
    keep(journal, 1)
    meddle(history(tmp_path))
    assert journal.records(1) is None
    assert "episode 1 cannot be read" in caplog.text
    for number in (2, 3, 4):
        keep(journal, number)
        assert journal.records(number), "what came later is there, in memory or in the file"
    journal.close()


def test_a_file_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    history(tmp_path).mkdir()
    journal = Journal(str(tmp_path), 3)
    keep(journal, 1)
    assert numbers(journal) == [1]


def test_a_directory_that_cannot_be_made_means_memory_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    journal = open_journal(str(tmp_path / "file" / "state"), 3)
    keep(journal, 1)
    assert numbers(journal) == [1]
    assert "it is kept in memory only" in caplog.text


def test_the_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    keep(open_journal(str(tmp_path / "var" / "lib"), 3), 1)
    assert json.loads((tmp_path / "var" / "lib" / "history.jsonl").read_text())["episode"] == 1


def test_one_thread_may_ask_while_another_one_writes(tmp_path: Path) -> None:
    """An episode that is listed, and still is after it was asked for, has its records."""
    journal, clerk = Journal(str(tmp_path), 5), Hand("test-clerk")
    try:
        for number in range(1, 100):
            for kind in ("opened", *["told"] * 20, "closed"):
                over = journal.add(Record(number, "system", 0, kind, {"text": "x" * 200}))
            assert over is not None
            clerk.do(partial(journal.write, over))
            for asked in numbers(journal):
                assert isinstance(asked, int)
                assert journal.records(asked) or asked not in numbers(journal)
    finally:
        clerk.finish()


def test_who_asks_in_the_moment_of_shortening_gets_the_right_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(str(tmp_path), 2)
    for number in range(1, 5):
        keep(journal, number)
    found: list[object] = []
    asking = threading.Thread(target=lambda: found.append(journal.records(4)))
    replace = os.replace

    def replace_and_dawdle(source: str, target: str) -> None:
        replace(source, target)
        asking.start()
        asking.join(0.05)  # the new file is there, and where its lines are is not yet known

    monkeypatch.setattr(os, "replace", replace_and_dawdle)
    keep(journal, 5)
    asking.join(10)
    assert found == [journal.records(4)]
    assert journal.records(4)
