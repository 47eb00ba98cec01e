"""The process table: from trees of files, and from real processes of our own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmkd.kernel.files import MalformedKernelFile
from lmkd.kernel.processes import (
    cgroup_directory,
    cgroup_members,
    read_identity,
    read_process,
    read_size_kib,
    scan_processes,
    write_oom_score_adj,
)
from lmkd.model import Process

from .conftest import WriteTree


def process_files(
    pid: int,
    *,
    comm: str = "prog",
    state: str = "S",
    start_ticks: int = 500,
    uid: int = 1000,
    anon_kib: int = 4000,
    swap_kib: int = 0,
    vm_pages: int = 20_000,
    flags: int = 4194304,
    threads: int = 1,
    cgroup: str = "0::/user.slice\n",
) -> dict[str, str | bytes]:
    base = f"proc/{pid}"
    tail = f"{state} 1 {pid} {pid} 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 {threads} 0 {start_ticks} 0 0"
    shared = 100
    has_memory = state != "Z" and vm_pages
    statm = f"{vm_pages} {anon_kib // 4 + shared} {shared} 1 0 1 0\n"
    sizes = f"VmSize:\t{vm_pages * 4} kB\nRssAnon:\t{anon_kib:8} kB\nVmSwap:\t{swap_kib:8} kB\n"
    head = f"Name:\tx\nUid:\t{uid}\t0\t0\t0\n"
    return {
        f"{base}/stat": f"{pid} ({comm}) {tail}\n",
        f"{base}/statm": statm if has_memory else "0 0 0 0 0 0 0\n",
        f"{base}/status": head + (sizes if has_memory else ""),
        f"{base}/cgroup": cgroup,
        f"{base}/oom_score_adj": "0\n",
    }


def pids(found: list[Process]) -> list[int]:
    return sorted(process.pid for process in found)


def test_all_of_a_process_is_read(write_tree: WriteTree, tmp_path: Path) -> None:
    root = write_tree(process_files(7, comm="x) Z 1 (", anon_kib=5000, swap_kib=60))
    os.symlink("/usr/bin/prog", tmp_path / "proc/7/exe")
    assert read_process(root, 7) == Process(
        pid=7,
        start_ticks=500,
        ppid=1,
        comm="x) Z 1 (",
        exe="/usr/bin/prog",
        uid=1000,
        cgroup="/user.slice",
        oom_score_adj=0,
        anon_kib=5000,
        swap_kib=60,
        state="S",
    )


def test_a_scan_leaves_out_the_small_the_dead_and_the_kernels_own(write_tree: WriteTree) -> None:
    root = write_tree(
        {
            **process_files(1, anon_kib=1000),
            **process_files(2, vm_pages=0, flags=0x00200000),
            **process_files(3, anon_kib=9000),
            **process_files(4, state="Z"),
            **process_files(5, anon_kib=10_000),
            "proc/meminfo": "not a process",
        }
    )
    assert pids(scan_processes(root, min_size_kib=5000, swap_in_use=False)) == [3, 5]
    assert pids(scan_processes(root, min_size_kib=10_000, swap_in_use=False)) == [5]
    assert pids(scan_processes(root, min_size_kib=10_001, swap_in_use=False)) == []
    assert pids(scan_processes(root, min_size_kib=0, swap_in_use=False)) == [1, 3, 5]


def test_a_process_that_lies_in_swap_is_found_by_its_whole_size(write_tree: WriteTree) -> None:
    root = write_tree(process_files(3, anon_kib=100, swap_kib=70_000))
    (found,) = scan_processes(root, min_size_kib=70_000, swap_in_use=True)
    assert found.size_kib == 70_100


def test_only_the_given_pids_are_looked_at(write_tree: WriteTree) -> None:
    root = write_tree({**process_files(3), **process_files(4), **process_files(5)})
    found = scan_processes(root, min_size_kib=0, swap_in_use=False, only=(4, 5, 99))
    assert pids(found) == [4, 5]


@pytest.mark.parametrize("missing", ["stat", "status", "cgroup", "oom_score_adj", "statm"])
def test_a_process_that_vanishes_while_it_is_read_is_skipped(
    write_tree: WriteTree, tmp_path: Path, missing: str
) -> None:
    root = write_tree({**process_files(3), **process_files(4)})
    (tmp_path / "proc/3" / missing).unlink()
    assert pids(scan_processes(root, min_size_kib=0, swap_in_use=False)) == [4]


@pytest.mark.parametrize("emptied", ["stat", "status", "oom_score_adj", "statm"])
def test_a_process_whose_file_reads_empty_is_skipped(write_tree: WriteTree, emptied: str) -> None:
    root = write_tree({**process_files(3), f"proc/3/{emptied}": ""})
    assert scan_processes(root, min_size_kib=0, swap_in_use=False) == []


def test_a_malformed_file_is_named_with_its_pid(write_tree: WriteTree) -> None:
    root = write_tree({**process_files(3), "proc/3/stat": "3 (x S"})
    with pytest.raises(MalformedKernelFile) as caught:
        read_process(root, 3)
    assert caught.value.path == os.path.join(root, "proc/3/stat")


def test_a_process_without_its_first_thread_cannot_hide(write_tree: WriteTree) -> None:
    living = process_files(3, anon_kib=30_000)["proc/3/status"]
    root = write_tree(
        {
            **process_files(3, state="Z", threads=2),
            "proc/3/task/3/status": "Name:\tx\nUid:\t1000\t0\t0\t0\n",
            "proc/3/task/8/status": living,
        }
    )
    (found,) = scan_processes(root, min_size_kib=20_000, swap_in_use=False)
    assert (found.pid, found.anon_kib, found.uid) == (3, 30_000, 1000)
    assert read_size_kib(root, 3) == 30_000
    assert read_identity(root, 3) == 500


def test_there_is_no_such_process(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert read_process(root, 3) is None
    assert read_identity(root, 3) is None
    assert read_size_kib(root, 3) is None
    assert write_oom_score_adj(root, 3, 500, 900) is False


def test_a_zombie_has_no_identity_and_no_size(write_tree: WriteTree) -> None:
    root = write_tree(process_files(3, state="Z"))
    assert read_process(root, 3) is None
    assert read_identity(root, 3) is None
    assert read_size_kib(root, 3) is None


def test_oom_score_adj_is_never_written_to_a_recycled_pid(
    write_tree: WriteTree, tmp_path: Path
) -> None:
    root = write_tree(process_files(3, start_ticks=500))
    assert write_oom_score_adj(root, 3, 499, 900) is False
    assert (tmp_path / "proc/3/oom_score_adj").read_text() == "0\n"
    assert write_oom_score_adj(root, 3, 500, 900) is True
    assert (tmp_path / "proc/3/oom_score_adj").read_text().startswith("900")


@pytest.mark.parametrize("value", [-1001, 1001])
def test_oom_score_adj_out_of_range_is_the_callers_mistake(tmp_path: Path, value: int) -> None:
    with pytest.raises(ValueError, match="-1000 to 1000"):
        write_oom_score_adj(str(tmp_path), 3, 500, value)


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


@pytest.fixture
def headless_child() -> Iterator[int]:
    """A real process of 30 MB whose first thread has ended."""
    program = (
        "import ctypes, threading, time\n"
        "blob = bytearray(b'x') * 30_000_000\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "print(flush=True)\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    child = subprocess.Popen([sys.executable, "-S", "-c", program], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    for _ in range(100_000):
        with open(f"/proc/{child.pid}/stat") as stat:
            if ") Z " in stat.read():
                break
    yield child.pid
    child.kill()
    child.communicate()


@pytest.mark.real_kernel
def test_a_real_process_without_its_first_thread_cannot_hide(headless_child: int) -> None:
    (found,) = scan_processes("/", min_size_kib=29_000, swap_in_use=False, only=(headless_child,))
    assert (found.pid, found.state) == (headless_child, "Z")
    assert found.anon_kib >= 29_000
