"""Recordings come to disk whole or not at all, the last few stay, and no failure reaches the daemon."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import struct
import threading
from dataclasses import replace
from pathlib import Path

import lmkd_proto as wire
import pytest

from lmkd.replay.packing import pack
from lmkd.replay.recorder import Segment
from lmkd.replay.recording import MAGIC, decode_recording
from lmkd.service import recordings as module
from lmkd.service.recordings import Recordings, open_recordings

from ..replay.scenes import BROWSER_FIRST, Machine, leak_episode

SEGMENT = leak_episode()


def of_episodes(*numbers: int) -> Segment:
    return replace(SEGMENT, episodes=numbers)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def recordings(tmp_path: Path) -> Recordings:
    return Recordings(str(tmp_path), keep=3)


def test_a_recording_is_named_by_its_episodes_and_private(
    recordings: Recordings, tmp_path: Path
) -> None:
    assert recordings.write(of_episodes(12)) == str(tmp_path / "episode-12.lmkdrec")
    assert recordings.write(of_episodes(13, 15, 14)) == str(tmp_path / "episode-13-15.lmkdrec")
    assert names(tmp_path) == ["episode-12.lmkdrec", "episode-13-15.lmkdrec"]
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        recording = decode_recording(path.read_bytes(), path.name)
        assert recording.verdicts == SEGMENT.verdicts
        assert recording.header["kernel"] == os.uname().release
        assert recording.header["unix_ms"]


def test_the_last_few_are_kept_by_their_episodes(recordings: Recordings, tmp_path: Path) -> None:
    """By number, not by name or time: 9 is older than 10."""
    (tmp_path / "notes.txt").write_text("mine")
    for numbers in ((10,), (8,), (9,), (11, 12), (7,)):
        recordings.write(of_episodes(*numbers))
    assert names(tmp_path) == [
        "episode-10.lmkdrec",
        "episode-11-12.lmkdrec",
        "episode-9.lmkdrec",
        "notes.txt",
    ]


def test_what_is_asked_for_in_calm_takes_no_episodes_place(
    recordings: Recordings, tmp_path: Path
) -> None:
    machine = Machine(BROWSER_FIRST)
    machine.run(2)
    calm = machine.recorder.snapshot()
    assert calm is not None
    for number in (1, 2, 3):
        recordings.write(of_episodes(number))
        assert recordings.write(calm) == str(tmp_path / "calm.lmkdrec")
    assert len(names(tmp_path)) == 4
    assert [one["episodes"] for one in recordings.describe()].count([]) == 1


def test_an_episode_that_was_asked_for_while_it_went_on_is_replaced_by_the_whole(
    recordings: Recordings, tmp_path: Path
) -> None:
    recordings.write(replace(of_episodes(4), verdicts=()))
    recordings.write(of_episodes(4))
    (kept,) = tmp_path.iterdir()
    assert decode_recording(kept.read_bytes(), "").verdicts == SEGMENT.verdicts


def test_they_are_described_oldest_first(recordings: Recordings, tmp_path: Path) -> None:
    for number in (1, 2):
        path = recordings.write(of_episodes(number))
        assert path is not None
        os.utime(path, (1_000_000 + number, 1_000_000 + number))
    described = recordings.describe()
    assert [one["episodes"] for one in described] == [[1], [2]]
    assert [one["saved_unix_ms"] for one in described] == [1_000_001_000, 1_000_002_000]
    assert described[0]["path"] == str(tmp_path / "episode-1.lmkdrec")
    assert described[0]["bytes"] == (tmp_path / "episode-1.lmkdrec").stat().st_size
    assert (described[0]["begins_open"], described[0]["verdicts"]) == (False, 14)


def test_where_they_are_too_many_for_an_answer_the_latest_are_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame holds 64 KiB, and 10,000 recordings may be kept."""
    recordings = Recordings(str(tmp_path), keep=1000)
    for number in range(1, 7):
        path = recordings.write(of_episodes(number))
        assert path is not None
        os.utime(path, (number, number))
    monkeypatch.setattr(module, "DESCRIBED_MOST_BYTES", 3 * len(pack(recordings.describe()[0])) + 9)
    assert [one["episodes"] for one in recordings.describe()] == [[4], [5], [6]]


# --- what is not as it should be -------------------------------------------------------------------------


def test_a_damaged_file_is_passed_over_and_said_once(
    recordings: Recordings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recordings.write(of_episodes(2))
    (tmp_path / "episode-1.lmkdrec").write_bytes(b"lmkd rec")
    (tmp_path / "episode-3.lmkdrec").mkdir()
    (tmp_path / "episode-4.lmkdrec").symlink_to("nowhere")
    for _ in range(3):
        assert [one["episodes"] for one in recordings.describe()] == [[2]]
    told = sorted(record.message for record in caplog.records)
    assert len(told) == 2
    assert "episode-1.lmkdrec: cannot be read: not a recording of lmkd" in told[0]
    assert "episode-3.lmkdrec: cannot be read: Is a directory" in told[1]


def test_files_that_are_not_ours_are_left_alone_and_hide_none(
    recordings: Recordings, tmp_path: Path
) -> None:
    strange = (
        "episode-.lmkdrec",
        "episode-1-2-3.lmkdrec",
        "Episode-1.lmkdrec",
        "a.new",
        "episode-1",
    )
    for name in strange:
        (tmp_path / name).write_bytes(b"mine")
    assert recordings.write(of_episodes(5)) is not None
    assert [one["episodes"] for one in recordings.describe()] == [[5]]
    assert set(names(tmp_path)) == {*strange, "episode-5.lmkdrec"}


def test_what_cannot_be_removed_is_said_and_what_is_new_is_kept_all_the_same(
    recordings: Recordings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "episode-1.lmkdrec").mkdir()
    for number in (2, 3, 4, 5):
        assert recordings.write(of_episodes(number)) is not None
    assert names(tmp_path) == [f"episode-{number}.lmkdrec" for number in (1, 3, 4, 5)]
    (complaint,) = caplog.records
    assert "episode-1.lmkdrec: cannot be removed: " in complaint.message


def test_what_a_crash_left_half_written_is_removed(recordings: Recordings, tmp_path: Path) -> None:
    (tmp_path / "episode-1.lmkdrec.new").write_bytes(b"lmkd reco")
    (tmp_path / "calm.lmkdrec.new").write_bytes(b"")
    recordings.write(of_episodes(2))
    assert names(tmp_path) == ["episode-2.lmkdrec"]


def test_a_header_of_any_shape_fits_into_an_answer(recordings: Recordings, tmp_path: Path) -> None:
    """Who may put a file there may have put anything into it; the answer is a message all the same."""
    recordings.write(of_episodes(1))
    hostile = {
        "version": "\ud800",
        "kernel": ["6"],
        "span_ms": {"a": [[[[[[1]]]]]]},
        "episodes": [1, "\x1b"],
        "events": 2**64 - 1,
        "more": "x" * 100_000,
        "path": "/etc/shadow",
    }
    header = pack(hostile)
    sizes = struct.pack(">III", len(header), 0, 0)
    path = tmp_path / "episode-9.lmkdrec"
    path.write_bytes(MAGIC + sizes + header)
    described = {one["path"]: one for one in recordings.describe()}
    assert described[str(path)].keys() == {"path", "bytes", "saved_unix_ms", "events"}
    assert len(described) == 2
    assert wire.encode(wire.Ok(1, {"recordings": list(described.values())}))


def test_a_disk_that_is_gone_is_said_once_and_nothing_is_raised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "recordings"
    recordings = Recordings(str(directory), 3)
    for number in range(3):
        assert recordings.write(of_episodes(number)) is None
        assert recordings.describe() == []
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert caplog.records[0].message == (
        f"recordings: {directory}: cannot be written to: No such file or directory"
    )
    directory.mkdir()
    assert recordings.write(of_episodes(1)) is not None
    shutil.rmtree(directory)
    assert recordings.write(of_episodes(1)) is None
    assert len(caplog.records) == 3, "it had been well in between, so it is news again"


def test_a_file_where_the_directory_should_be_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "recordings"
    file.write_text("mine")
    recordings = Recordings(str(file), 3)
    assert recordings.describe() == []
    assert recordings.write(SEGMENT) is None
    assert [record.message.removeprefix(f"recordings: {file}: ") for record in caplog.records] == [
        "cannot be read: Not a directory",
        "cannot be written to: Not a directory",
    ]
    assert file.read_text() == "mine"


@pytest.mark.skipif(os.getuid() == 0, reason="root reads and writes everywhere")
def test_a_directory_that_may_not_be_read_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "recordings"
    directory.mkdir(mode=0)
    assert Recordings(str(directory), 3).describe() == []
    assert open_recordings(str(tmp_path), 3).write(SEGMENT) is None
    assert f"{directory}: cannot be read: Permission denied" in caplog.text
    assert f"{directory}: Permission denied; none are kept" in caplog.text


def test_a_full_disk_leaves_no_half_a_file(
    recordings: Recordings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    recordings.write(of_episodes(1))
    monkeypatch.setattr(os, "fsync", full)
    assert recordings.write(of_episodes(2)) is None
    assert names(tmp_path) == ["episode-1.lmkdrec"]
    assert "No space left on device" in caplog.text


def test_a_disk_that_fails_at_cleaning_up_too_is_told_for_what_failed_first(
    recordings: Recordings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(fd: int) -> None:
        # Whoever cleaned up before us: now there is nothing left to remove.
        (tmp_path / "episode-1.lmkdrec.new").unlink()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    assert recordings.write(of_episodes(1)) is None
    assert [record.message for record in caplog.records] == [
        f"recordings: {tmp_path}: cannot be written to: Input/output error"
    ]


def test_two_threads_write_and_one_describes_and_no_file_is_ever_half(tmp_path: Path) -> None:
    """The clerk writes what is over while somebody asks for what is running: of the same episode, at that."""
    recordings = Recordings(str(tmp_path), keep=4)
    short = replace(SEGMENT, stretches=(), verdicts=())
    start, failures = threading.Barrier(3), []

    def write(segment: Segment) -> None:
        try:
            start.wait()
            for number in range(1, 26):
                assert recordings.write(replace(segment, episodes=(number,))) is not None
        except BaseException as failure:
            failures.append(failure)

    writers = [threading.Thread(target=write, args=(one,)) for one in (SEGMENT, short)]
    for writer in writers:
        writer.start()
    start.wait()
    while any(writer.is_alive() for writer in writers):
        for described in recordings.describe():
            assert described["verdicts"] in (0, 14)
    for writer in writers:
        writer.join()
    assert failures == []
    assert names(tmp_path) == [f"episode-{number}.lmkdrec" for number in (22, 23, 24, 25)]
    for path in tmp_path.iterdir():
        assert decode_recording(path.read_bytes(), path.name).header["verdicts"] in (0, 14)


def test_a_number_that_has_no_bytes_is_said_and_not_raised(
    recordings: Recordings, caplog: pytest.LogCaptureFixture
) -> None:
    assert recordings.write(replace(SEGMENT, base_us=1 << 70, episodes=(1,))) is None
    assert "episode-1.lmkdrec: cannot be put into bytes: Integer value" in caplog.text


@pytest.mark.parametrize(("state_dir", "keep"), [(None, 5), ("here", 0)])
def test_nothing_is_kept_where_none_are_wanted(
    tmp_path: Path, state_dir: str | None, keep: int
) -> None:
    where = None if state_dir is None else str(tmp_path / state_dir)
    recordings = open_recordings(where, keep)
    assert recordings.write(SEGMENT) is None
    assert recordings.describe() == []
    assert list(tmp_path.iterdir()) == []


def test_the_directory_is_made_private(tmp_path: Path) -> None:
    path = open_recordings(str(tmp_path / "state"), 2).write(of_episodes(1))
    assert path == str(tmp_path / "state/recordings/episode-1.lmkdrec")
    assert stat.S_IMODE((tmp_path / "state/recordings").stat().st_mode) == 0o700


def test_a_directory_that_cannot_be_made_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file")
    assert open_recordings(str(tmp_path / "state"), 2).write(SEGMENT) is None
    assert "none are kept" in caplog.text
