"""Reading control files: what is gone is None, what fails otherwise is an error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmkd.kernel.files import HeldFile, MalformedKernelFile, open_held, read_file


def test_a_missing_file_is_none(tmp_path: Path) -> None:
    assert read_file(str(tmp_path / "absent")) is None
    assert open_held(str(tmp_path / "absent")) is None


def test_a_path_through_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert read_file(str(tmp_path / "file" / "below")) is None


def test_a_directory_is_an_error_and_not_gone(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read_file(str(tmp_path))


@pytest.mark.parametrize("length", [0, 1, 2047, 2048, 16384, 16385, 50_000])
def test_files_of_any_length_are_read_whole(tmp_path: Path, length: int) -> None:
    path = tmp_path / "file"
    content = bytes(i % 251 for i in range(length))
    path.write_bytes(content)
    assert read_file(str(path)) == content
    held = open_held(str(path))
    assert held is not None
    assert held.read() == content
    held.close()


def test_a_held_file_is_read_from_its_start_each_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    held = open_held(str(path))
    assert held is not None
    assert held.read() == b"before"
    path.write_bytes(b"after")
    assert held.read() == b"after"
    held.close()


def test_closing_twice_does_not_close_anothers_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    held = open_held(str(path))
    assert held is not None
    number = held.fileno()
    held.close()
    fd = os.open(path, os.O_RDONLY)
    assert fd == number  # the lowest free number: the case the test is about
    held.close()
    assert os.read(fd, 1) == b"x"
    os.close(fd)


@pytest.mark.real_kernel
def test_a_held_file_of_a_reaped_process_reads_none() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    held = open_held(f"/proc/{child.pid}/stat")
    assert isinstance(held, HeldFile)
    assert held.read() is not None
    child.communicate()
    assert held.read() is None
    held.close()


def test_a_malformed_file_names_its_path_and_shows_its_bytes() -> None:
    error = MalformedKernelFile("/proc/x", b"\x00bad", "a number")
    assert str(error) == "/proc/x: expected a number, found b'\\x00bad'"
    assert (error.path, error.content) == ("/proc/x", b"\x00bad")


def test_a_long_malformed_file_is_shown_in_part_and_kept_whole() -> None:
    error = MalformedKernelFile("/proc/x", b"a" * 5000, "a number")
    assert len(str(error)) < 300
    assert len(error.content) == 5000
