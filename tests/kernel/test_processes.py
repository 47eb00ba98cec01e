"""The process table: from trees of files, and from real processes of our own."""

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmkd.kernel.cgroups import cgroup_members
from lmkd.kernel.files import MalformedKernelFile
from lmkd.kernel.processes import (
    ProcessReader,
    list_child_pids,
    list_pids,
    read_identity,
    read_process,
    read_size_kib,
    scan_processes,
    write_oom_score_adj,
)
from lmkd.model import Details, Process

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
    tail = (
        f"{state} 1 {pid} {pid + 3} 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 {threads} 0 {start_ticks} 0 0"
    )
    shared = 100
    has_memory = state != "Z" and vm_pages
    statm = f"{vm_pages} {anon_kib // 4 + shared} {shared} 1 0 1 0\n"
    resident_kib = anon_kib + shared * 4
    sizes = (
        f"VmSize:\t{vm_pages * 4} kB\nVmRSS:\t{resident_kib:8} kB\n"
        f"RssAnon:\t{anon_kib:8} kB\nVmSwap:\t{swap_kib:8} kB\n"
    )
    head = f"Name:\tx\nUid:\t{uid}\t0\t0\t0\nGid:\t{uid + 7}\t0\t0\t0\n"
    return {
        f"{base}/stat": f"{pid} ({comm}) {tail}\n",
        f"{base}/statm": statm if has_memory else "0 0 0 0 0 0 0\n",
        f"{base}/status": head + (sizes if has_memory else ""),
        f"{base}/cgroup": cgroup,
        f"{base}/oom_score_adj": "0\n",
    }


def headless_files(pid: int) -> dict[str, str | bytes]:
    """Of a process whose first thread has ended while another runs on, with 30,000 KiB."""
    return {
        **process_files(pid, state="Z", threads=2),
        f"proc/{pid}/task/{pid}/status": "Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t5\t0\t0\t0\n",
        f"proc/{pid}/task/8/status": process_files(pid, anon_kib=30_000)[f"proc/{pid}/status"],
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
        gid=1007,
        session=10,
        resident_kib=5400,
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


def test_kernel_threads_are_known_by_their_starter_and_what_the_kernel_called_itself_is_seen(
    write_tree: WriteTree,
) -> None:
    """A core dump's reader is the starter's child too, and no thread. And in a container 2 is anybody."""
    root = write_tree(
        {
            **process_files(2, vm_pages=0, flags=0x00200000),
            **process_files(3, vm_pages=0, flags=0x00200000),
            **process_files(4, anon_kib=9000),
            **headless_files(5),
            "proc/3/stat": "it would be an error to ask",
            "proc/2/task/2/children": "3 4 ",
        }
    )
    assert pids(scan_processes(root, min_size_kib=5000, swap_in_use=False)) == [4, 5]


def test_where_2_is_no_thread_of_the_kernel_its_children_are_asked(write_tree: WriteTree) -> None:
    root = write_tree(
        {
            **process_files(2),
            **headless_files(5),
            "proc/2/task/2/children": "5 ",
        }
    )
    assert pids(scan_processes(root, min_size_kib=5000, swap_in_use=False)) == [5]


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


def test_shared_memory_that_a_process_holds_is_part_of_its_size() -> None:
    before_kib = read_size_kib("/", os.getpid())
    assert before_kib is not None
    with mmap.mmap(-1, 8 << 20) as shared:
        shared.write(b"x" * (8 << 20))
        held_kib = read_size_kib("/", os.getpid())
    assert held_kib is not None
    assert held_kib - before_kib >= 7 << 10


def test_a_process_without_its_first_thread_cannot_hide(write_tree: WriteTree) -> None:
    root = write_tree(headless_files(3))
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


EVERYTHING = Details(cmdline=True, environ=True, parent=True)


def test_details_are_read_where_they_are_asked_for(write_tree: WriteTree) -> None:
    root = write_tree(
        {
            **process_files(3),
            "proc/3/cmdline": b"prog\0--name\0caf\xc3\xa9 \xff\0\0\0",
            "proc/3/environ": b"HOME=/root\0EMPTY=\0no pair\0A=B=C\0",
            "proc/1/comm": "parent\nof it\n",
        }
    )
    plain, full = read_process(root, 3), read_process(root, 3, EVERYTHING)
    assert plain is not None
    assert full is not None
    assert (plain.cmdline, plain.environ, plain.parent_comm) == (None, None, "")
    assert full.cmdline == "prog --name café \\xff"
    assert full.environ == ("HOME=/root", "EMPTY=", "A=B=C")
    assert full.parent_comm == "parent\nof it"


def test_details_that_cannot_be_read_leave_the_process_known(write_tree: WriteTree) -> None:
    process = read_process(write_tree(process_files(3)), 3, EVERYTHING)
    assert process is not None
    assert (process.cmdline, process.environ, process.parent_comm) == (None, None, "")


def test_details_are_bounded_and_no_variable_is_taken_for_a_part_of_it(
    write_tree: WriteTree,
) -> None:
    root = write_tree(
        {
            **process_files(3),
            "proc/3/cmdline": b"x" * 10_000,
            "proc/3/environ": b"A=1\0LONG=" + b"y" * 100_000,
        }
    )
    process = read_process(root, 3, EVERYTHING)
    assert process is not None
    assert process.cmdline == "x" * 4096
    assert process.environ == ("A=1",)


def test_a_parent_of_many_is_looked_at_once_in_a_scan(
    write_tree: WriteTree, tmp_path: Path
) -> None:
    root = write_tree({**process_files(3), **process_files(4), "proc/1/comm": "boss\n"})
    reader = ProcessReader(root, EVERYTHING)
    first = reader.read(3)
    (tmp_path / "proc/1/comm").unlink()
    second = reader.read(4)
    assert first is not None
    assert second is not None
    assert (first.parent_comm, second.parent_comm) == ("boss", "boss")


def test_pids_are_those_of_all_processes(write_tree: WriteTree) -> None:
    root = write_tree({**process_files(3), **process_files(4, state="Z"), "proc/meminfo": ""})
    assert sorted(list_pids(root)) == [3, 4]


def test_children_are_those_of_all_threads(write_tree: WriteTree) -> None:
    root = write_tree(
        {"proc/3/task/3/children": "7 8 ", "proc/3/task/5/children": "9 ", "proc/4/stat": ""}
    )
    assert sorted(list_child_pids(root, 3)) == [7, 8, 9]
    assert list_child_pids(root, 99) == []


def test_a_kernel_without_lists_of_children_is_asked_for_every_parent(
    write_tree: WriteTree,
) -> None:
    root = write_tree(
        {**process_files(1), **process_files(3), **process_files(4), "proc/1/task/1/comm": ""}
    )
    assert sorted(list_child_pids(root, 1)) == [1, 3, 4]


@pytest.mark.real_kernel
def test_a_parent_of_a_thousand_has_them_all_listed() -> None:
    """The kernel hands the list out by the page, 4,096 bytes."""
    program = (
        "import os, time\n"
        "for _ in range(1000):\n"
        "    os.fork() or (time.sleep(60), os._exit(0))\n"
        "print(flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", program],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    try:
        assert len(set(list_child_pids("/", parent.pid))) == 1000
    finally:
        os.killpg(parent.pid, 9)
        parent.communicate()


@pytest.mark.real_kernel
def test_nobody_hides_in_a_cgroup_that_lies_too_deep_to_be_said(own_cgroup: str) -> None:
    fds = [os.open(own_cgroup, os.O_RDONLY)]
    name = "d" * 200
    for _ in range(22):
        os.mkdir(name, dir_fd=fds[-1])
        fds.append(os.open(name, os.O_RDONLY, dir_fd=fds[-1]))
    child = subprocess.Popen(["sleep", "60"])
    try:
        procs = os.open("cgroup.procs", os.O_WRONLY, dir_fd=fds[-1])
        os.write(procs, str(child.pid).encode())
        os.close(procs)
        process = read_process("/", child.pid)
        assert process is not None
        mount = os.path.dirname(own_cgroup)
        # Older kernels give an error, later ones cut the path (6.18).
        assert process.cgroup == "/" or process.cgroup.startswith(own_cgroup.removeprefix(mount))
        assert cgroup_members(mount, "/" + os.path.basename(own_cgroup)) == []
    finally:
        child.kill()
        child.wait()
        for above in reversed(fds[:-1]):
            os.rmdir(name, dir_fd=above)
        for fd in fds:
            os.close(fd)


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
