"""One cgroup: its members, its owner, and its switches; from trees of files and on the real kernel."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from lmkd.kernel.cgroups import (
    cgroup_directory,
    cgroup_members,
    cgroup_owner,
    freeze_cgroup,
    set_oom_group,
)
from lmkd.kernel.files import MalformedKernelFile

from .conftest import WriteTree


def test_members_of_a_cgroup_are_those_of_its_subtree(write_tree: WriteTree) -> None:
    root = write_tree(
        {
            "cg/a/cgroup.procs": "1\n2\n",
            "cg/a/b/cgroup.procs": "3\n",
            "cg/a/b/c/cgroup.procs": "0\n4\n",
            "cg/ab/cgroup.procs": "9\n",
            "cg/cgroup.procs": "8\n",
        }
    )
    mount = os.path.join(root, "cg")
    assert sorted(cgroup_members(mount, "/a")) == [1, 2, 3, 4]
    assert sorted(cgroup_members(mount, "/")) == [1, 2, 3, 4, 8, 9]
    assert cgroup_members(mount, "/gone") == []


@pytest.mark.parametrize("path", ["/..", "/../x", "/a/../../x"])
def test_a_path_out_of_the_cgroup_namespace_is_no_directory(path: str) -> None:
    assert cgroup_directory("/sys/fs/cgroup", path) is None


def test_the_owner_is_that_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert cgroup_owner(str(tmp_path), "/a") == os.getuid()
    assert cgroup_owner(str(tmp_path), "/gone") is None
    assert cgroup_owner(str(tmp_path), "/../a") is None


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_oom_group_is_set_and_says_how_it_was(
    write_tree: WriteTree, tmp_path: Path, before: bool, after: bool
) -> None:
    mount = write_tree({"a/memory.oom.group": f"{int(before)}\n"})
    assert set_oom_group(mount, "/a", after) is before
    assert (tmp_path / "a/memory.oom.group").read_text().strip() == str(int(after))


def test_oom_group_is_not_written_where_nothing_changes(
    write_tree: WriteTree, tmp_path: Path
) -> None:
    mount = write_tree({"a/memory.oom.group": "1\n"})
    (tmp_path / "a/memory.oom.group").chmod(0o444)
    assert set_oom_group(mount, "/a", True) is True
    assert (tmp_path / "a/memory.oom.group").read_text() == "1\n"


def test_a_cgroup_without_switches_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for path in ("/a", "/gone", "/..", "/"):
        assert set_oom_group(str(tmp_path), path, True) is None
        assert freeze_cgroup(str(tmp_path), path, True) is False


def test_a_malformed_oom_group_is_named(write_tree: WriteTree) -> None:
    mount = write_tree({"a/memory.oom.group": "maybe"})
    with pytest.raises(MalformedKernelFile, match=r"a/memory\.oom\.group"):
        set_oom_group(mount, "/a", True)


@pytest.mark.real_kernel
def test_a_frozen_cgroup_stands_still_until_it_is_thawed(own_cgroup: str) -> None:
    mount, path = os.path.dirname(own_cgroup), "/" + os.path.basename(own_cgroup)

    def is_frozen() -> bool:
        with open(f"{own_cgroup}/cgroup.events") as events:
            return "frozen 1" in events.read()

    def wait_frozen(wanted: bool) -> None:
        deadline = time.monotonic() + 5
        while is_frozen() is not wanted:
            assert time.monotonic() < deadline

    child = subprocess.Popen(["sleep", "60"])
    try:
        with open(f"{own_cgroup}/cgroup.procs", "w") as procs:
            procs.write(str(child.pid))
        assert freeze_cgroup(mount, path, True) is True
        wait_frozen(True)
        assert freeze_cgroup(mount, path, False) is True
        wait_frozen(False)
    finally:
        child.kill()
        child.wait()
