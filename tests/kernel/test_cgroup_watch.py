"""Cgroups that globs name, as they come and go; inotify works on plain directories as well."""

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from lmkd.cgroup_paths import glob_matches
from lmkd.kernel import cgroup_watch
from lmkd.kernel.cgroup_watch import MountWatch, NoCgroups, split_globs, tails_below
from lmkd.kernel.files import read_file
from lmkd.kernel.inotify import Inotify

Open = Callable[..., MountWatch]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory in memory, where there is one: on a disk 10,000 directories are made in a minute, there in 0.1 s."""
    memory = "/dev/shm"
    directory = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="lmkd-test-", dir=directory) as made:
        yield Path(made)


@pytest.fixture
def watch_for(tmp_path: Path) -> Iterator[Open]:
    """Return a function that watches tmp_path for globs."""
    opened = []

    def open_watch(*globs: str) -> MountWatch:
        watch = MountWatch(str(tmp_path), globs)
        opened.append(watch)
        return watch

    yield open_watch
    for watch in opened:
        watch.close()


def make(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path.lstrip("/")).mkdir(parents=True)


def watched(root: Path) -> set[str]:
    """Ask the kernel which directories below the root any inotify of this process watches."""
    inodes = set()
    for fd in os.listdir("/proc/self/fdinfo"):
        try:
            with open(f"/proc/self/fdinfo/{fd}") as info:
                lines = info.read().splitlines()
        except FileNotFoundError:
            continue
        inodes |= {int(line.split()[2].split(":")[1], 16) for line in lines if "inotify wd" in line}
    places = [root, *(path for path in root.rglob("*") if path.is_dir())]
    return {"/" + str(p.relative_to(root)).strip(".") for p in places if p.stat().st_ino in inodes}


async def is_quiet(watch: MountWatch | NoCgroups) -> bool:
    with trio.move_on_after(0.05) as scope:
        await watch.wait_changed()
    return scope.cancelled_caught


async def changed(watch: MountWatch) -> frozenset[str]:
    with trio.fail_after(5):
        await watch.wait_changed()
    return watch.paths()


def test_what_is_there_at_first_is_found(tmp_path: Path, watch_for: Open) -> None:
    make(tmp_path, "/a/x1/deep", "/a/x2", "/a/y", "/b/c/d", "/b/c/e/d")
    (tmp_path / "a/x3").touch()  # a control file
    assert watch_for("/a/x*").paths() == {"/a/x1", "/a/x2"}
    assert watch_for("/a/y", "/gone").paths() == {"/a/y"}
    assert watch_for("/b/**/d").paths() == {"/b/c/d", "/b/c/e/d"}
    assert watch_for("/b/**").paths() == {"/b", "/b/c", "/b/c/d", "/b/c/e", "/b/c/e/d"}
    assert watch_for("/").paths() == {"/"}
    assert watch_for("/*").paths() == {"/a", "/b"}
    assert watch_for().paths() == frozenset()


def test_no_directory_is_watched_where_nothing_can_match_below(
    tmp_path: Path, watch_for: Open
) -> None:
    make(tmp_path, "/a/x1/deep", "/a/y/deep", "/b/c/d", "/other/deep")
    watch_for("/a/x*/d*", "/b/c")
    assert watched(tmp_path) == {"/", "/a", "/a/x1", "/b"}


def test_a_directory_is_listed_only_for_a_wildcard(
    tmp_path: Path, watch_for: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "/a/b/c1", "/a/other/c1")
    listed = []
    scandir = os.scandir

    def record(path: str) -> object:
        listed.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", record)
    assert watch_for("/a/b/c*").paths() == {"/a/b/c1"}
    assert listed == [str(tmp_path / "a/b")]


async def test_groups_that_come_and_go_are_told(tmp_path: Path, watch_for: Open) -> None:
    make(tmp_path, "/a")
    watch = watch_for("/a/x*/in")
    assert watch.paths() == frozenset()
    assert await is_quiet(watch)
    make(tmp_path, "/a/x1/in", "/a/x2/in")
    assert await changed(watch) == {"/a/x1/in", "/a/x2/in"}
    assert await is_quiet(watch)
    (tmp_path / "a/x1/in").rmdir()
    assert await changed(watch) == {"/a/x2/in"}
    (tmp_path / "a/x2/in").rmdir()
    (tmp_path / "a/x2").rmdir()
    assert await changed(watch) == frozenset()


async def test_a_plain_path_may_appear_with_all_that_is_above_it(
    tmp_path: Path, watch_for: Open
) -> None:
    watch = watch_for("/a/b/c")
    make(tmp_path, "/a/b")
    assert await is_quiet(watch)
    make(tmp_path, "/a/b/c")
    assert await changed(watch) == {"/a/b/c"}
    for path in ("a/b/c", "a/b", "a"):
        (tmp_path / path).rmdir()
    assert await changed(watch) == frozenset()
    assert watched(tmp_path) == {"/"}
    make(tmp_path, "/a/b/c")
    assert await changed(watch) == {"/a/b/c"}


async def test_what_no_glob_names_wakes_nobody(tmp_path: Path, watch_for: Open) -> None:
    make(tmp_path, "/a")
    watch = watch_for("/a/x*")
    watch.paths()
    make(tmp_path, "/a/y", "/b")
    (tmp_path / "a/y").rmdir()
    (tmp_path / "a/file").touch()
    assert await is_quiet(watch)


async def test_a_namesake_is_a_change(tmp_path: Path, watch_for: Open) -> None:
    make(tmp_path, "/a/x/in")
    watch = watch_for("/a/**")
    before = watch.paths()
    for path in ("a/x/in", "a/x"):
        (tmp_path / path).rmdir()
    make(tmp_path, "/a/x/in")
    assert await changed(watch) == before
    make(tmp_path, "/a/x/in/new")
    assert await changed(watch) == before | {"/a/x/in/new"}


async def test_many_changes_at_once_are_one(tmp_path: Path, watch_for: Open) -> None:
    make(tmp_path, "/a")
    watch = watch_for("/a/*")
    watch.paths()
    for number in range(100):
        make(tmp_path, f"/a/{number}")
    assert len(await changed(watch)) == 100
    assert await is_quiet(watch)


async def test_a_change_wakes_who_waits(tmp_path: Path, watch_for: Open) -> None:
    watch = watch_for("/x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.wait_changed)
        await trio.testing.wait_all_tasks_blocked()
        make(tmp_path, "/x")
    assert watch.paths() == {"/x"}


async def test_a_moved_tree_is_found_where_it_is_now(tmp_path: Path, watch_for: Open) -> None:
    make(tmp_path, "/a/x/in")
    watch = watch_for("/*/*/in")
    assert watch.paths() == {"/a/x/in"}
    (tmp_path / "a").rename(tmp_path / "b")
    assert await changed(watch) == {"/b/x/in"}
    (tmp_path / "b/x/in").rmdir()
    assert await changed(watch) == frozenset()


async def test_lost_events_are_a_reason_to_walk_again(tmp_path: Path, watch_for: Open) -> None:
    queued = int(read_file("/proc/sys/fs/inotify/max_queued_events") or b"0")
    if queued > 20_000:
        pytest.skip(f"it takes {queued} events to lose some")
    make(tmp_path, "/a/kept")
    watch = watch_for("/a/**")
    watch.paths()
    for _ in range(queued // 2 + 100):
        os.mkdir(tmp_path / "a/x")
        os.rmdir(tmp_path / "a/x")
    make(tmp_path, "/a/last")
    assert await changed(watch) == {"/a", "/a/kept", "/a/last"}
    assert watched(tmp_path) == {"/", "/a", "/a/kept", "/a/last"}
    make(tmp_path, "/a/last/more")
    assert "/a/last/more" in await changed(watch)


async def test_ten_thousand_groups_leave_nothing_behind(tmp_path: Path, watch_for: Open) -> None:
    make(tmp_path, "/a")
    watch = watch_for("/a/**", "/a/job-*")
    watch.paths()

    async def churn(groups: int) -> None:
        for start in range(0, groups, 250):
            # no Path objects, which keep the parts of their names in a table that grows
            names = [f"{tmp_path}/a/job-{number}" for number in range(start, start + 250)]
            for name in names:
                os.mkdir(name)
                os.mkdir(f"{name}/in")
            assert len(await changed(watch)) == 501
            for name in names:
                os.rmdir(f"{name}/in")
                os.rmdir(name)
            assert await changed(watch) == {"/a"}

    await churn(500)  # caches of patterns and of the interpreter fill
    gc.collect()
    descriptors, blocks = len(os.listdir("/proc/self/fd")), sys.getallocatedblocks()
    await churn(10_000)
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 1000  # of memory: what one group in ten would keep
    assert watched(tmp_path) == {"/", "/a"}
    assert len(watch._watched) == 2
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("name", [b"line\nbreak", b"\xff\xfe", b"esc\x1b", "\x9b".encode()])
def test_a_group_that_cannot_be_named_is_passed_over_with_all_below(
    tmp_path: Path, watch_for: Open, name: bytes
) -> None:
    os.mkdir(os.fsencode(tmp_path) + b"/" + name)
    os.mkdir(os.fsencode(tmp_path) + b"/" + name + b"/in")
    make(tmp_path, "/café")
    assert watch_for("/**").paths() == {"/", "/café"}


def test_a_path_longer_than_can_be_said_is_passed_over(tmp_path: Path, watch_for: Open) -> None:
    name = "d" * 200
    make(tmp_path, "/" + "/".join([name] * 6))
    assert max(map(len, watch_for("/**").paths())) == 5 * 201


def test_a_path_out_of_the_mount_is_never_looked_at(tmp_path: Path, watch_for: Open) -> None:
    make(tmp_path, "/a")
    assert watch_for("/../*", "/a/../a", "/a/.", "/a/", "//a").paths() == frozenset()


async def test_without_watches_the_globs_are_walked_at_times(
    tmp_path: Path, watch_for: Open, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    def refuse(inotify: object, directory: str) -> int:
        raise OSError(28, "No space left on device", directory)

    with monkeypatch.context() as patch:
        patch.setattr(Inotify, "add", refuse)
        watch = watch_for("/a/*")
        make(tmp_path, "/a/x")
        await watch.wait_changed()
        assert trio.current_time() == pytest.approx(5)
        assert watch.paths() == {"/a/x"}
    make(tmp_path, "/a/y")
    assert watch.paths() == {"/a/x", "/a/y"}  # and here there are watches again
    with trio.move_on_after(100) as scope:
        await watch.wait_changed()
    assert scope.cancelled_caught


async def test_without_inotify_the_globs_are_walked_at_times(
    tmp_path: Path, watch_for: Open, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    monkeypatch.setattr(cgroup_watch, "_open_inotify", lambda: None)
    watch = watch_for("/a/*")
    make(tmp_path, "/a/x")
    await watch.wait_changed()
    assert trio.current_time() == pytest.approx(5)
    assert watch.paths() == {"/a/x"}


async def test_closing_wakes_who_waits_with_an_error(watch_for: Open) -> None:
    watch = watch_for("/a")

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await watch.wait_changed()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        watch.close()


async def test_without_a_mount_no_cgroups_ever_come() -> None:
    watch = NoCgroups()
    assert watch.paths() == frozenset()
    assert await is_quiet(watch)
    watch.close()


PARTS = st.sampled_from(["a", "b", "ab", "*", "a*", "?", "**", "*b"])
NAMES = st.lists(st.sampled_from(["a", "b", "ab", "ba"]), max_size=4)


@given(st.lists(PARTS, min_size=1, max_size=4), NAMES)
def test_the_walk_names_what_the_glob_names(parts: list[str], names: list[str]) -> None:
    glob, path = "/" + "/".join(parts), "/" + "/".join(names)
    tails = split_globs([glob])
    for name in names:
        tails = tails_below(tails, name)
    assert (() in tails) is glob_matches(glob, path)


@pytest.mark.real_kernel
async def test_real_cgroups_come_and_go(own_cgroup: str) -> None:
    mount, name = os.path.split(own_cgroup)
    watch = MountWatch(mount, (f"/{name}/x*", f"/{name}/deep/er"))
    assert watch.paths() == frozenset()
    os.mkdir(f"{own_cgroup}/x1")
    os.makedirs(f"{own_cgroup}/deep/er")
    assert await changed(watch) == {f"/{name}/x1", f"/{name}/deep/er"}
    for path in ("x1", "deep/er", "deep"):
        os.rmdir(f"{own_cgroup}/{path}")
    assert await changed(watch) == frozenset()
    watch.close()
