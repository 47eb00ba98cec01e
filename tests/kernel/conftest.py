"""Fixtures for the kernel tests: trees of control files, captured files, and a cgroup of our own."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from lmkd.kernel.probe import find_cgroup_mount

CAPTURED = Path(__file__).parent / "captured"
WriteTree = Callable[[Mapping[str, str | bytes]], str]


@pytest.fixture
def write_tree(tmp_path: Path) -> WriteTree:
    """Return a function that writes files below a root directory, and returns the root."""

    def write(contents: Mapping[str, str | bytes]) -> str:
        for name, content in contents.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path)

    return write


@pytest.fixture
def captured() -> Callable[[str], bytes]:
    """Return a function that reads a file as a real kernel wrote it (captured/PROVENANCE.md)."""
    return lambda name: (CAPTURED / name).read_bytes()


@pytest.fixture
def own_cgroup() -> Iterator[str]:
    """Make an empty cgroup on the real cgroup2 mount, and remove it; its path in the file system."""
    mount = find_cgroup_mount("/")
    if mount is None:
        pytest.skip("no cgroup2 mount")
    directory = os.path.join(mount, f"lmkd-kernel-test-{os.getpid()}")
    try:
        os.mkdir(directory)
    except OSError as error:
        pytest.skip(f"no cgroup of our own can be made: {error}")
    yield directory
    with contextlib.suppress(FileNotFoundError):  # a test may have removed it
        os.rmdir(directory)
