"""The probe finds what is there, names what is not, and never fails for want of it."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from lmkd.kernel import files
from lmkd.kernel.probe import Features, find_cgroup_mount, probe

from .conftest import WriteTree

NO_CAPABILITIES = "Name:\tlmkd\nCapEff:\t0000000000000000\n"
ALL_CAPABILITIES = "Name:\tlmkd\nCapEff:\t000001ffffffffff\n"
MOUNTS = (
    "proc /proc proc rw,nosuid 0 0\n"
    "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate,memory_recursiveprot 0 0\n"
)
FULL = {
    "proc/meminfo": "MemTotal: 8 kB\nMemAvailable: 4 kB\nActive(anon): 1 kB\nInactive(anon): 1 kB\n"
    "Active(file): 1 kB\nInactive(file): 1 kB\nSwapTotal: 2 kB\nSwapFree: 2 kB\n",
    "proc/pressure/memory": "some avg10=0 total=0\n",
    "proc/self/mounts": MOUNTS,
    "proc/self/status": ALL_CAPABILITIES,
    "proc/self/cgroup": "0::/system.slice/lmkd.service\n",
    "proc/swaps": "Filename Type Size Used Priority\n/dev/zram0 partition 1000 0 100\n",
    "sys/fs/cgroup/cgroup.controllers": "cpu io memory pids\n",
}


def test_a_machine_with_everything_misses_nothing(write_tree: WriteTree) -> None:
    found = probe(write_tree(FULL))
    # system calls are those of the kernel that runs the tests, whatever the tree says
    assert replace(found, pidfd=True, mrelease=True).missing() == ()
    assert found.psi == "yes"
    assert found.cgroup_mount == "/sys/fs/cgroup"
    assert found.own_cgroup == "/system.slice/lmkd.service"
    assert (found.swap_kib, found.zram, found.total_kib) == (1000, True, 8)


def test_an_empty_root_is_no_reason_to_fail(tmp_path: Path) -> None:
    found = probe(str(tmp_path))
    assert found.psi == "none"
    assert found.cgroup_mount is None
    assert (found.own_cgroup, found.total_kib, found.swap_kib) == ("/", 0, 0)


@pytest.mark.parametrize("name", FULL)
def test_a_file_of_garbage_is_no_reason_to_fail(write_tree: WriteTree, name: str) -> None:
    assert isinstance(probe(write_tree({**FULL, name: b"\xff\x00 \n\n garbage"})), Features)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"proc/self/status": NO_CAPABILITIES}, "no CAP_SYS_RESOURCE: PSI triggers have 2 s"),
        ({"proc/self/status": NO_CAPABILITIES}, "no CAP_KILL"),
        ({"proc/self/mounts": "proc /proc proc rw 0 0\n"}, "no cgroup2 mount"),
        ({"sys/fs/cgroup/cgroup.controllers": "cpu pids\n"}, "no memory controller on cgroup2"),
        ({"proc/swaps": "Filename Type Size Used Priority\n"}, "no swap"),
        (
            {
                "proc/self/mounts": MOUNTS.replace("rw,nosuid 0", "rw,hidepid=invisible 0"),
                "proc/self/status": NO_CAPABILITIES,
            },
            "hidepid",
        ),
    ],
)
def test_what_is_missing_is_named(write_tree: WriteTree, change: dict[str, str], line: str) -> None:
    found = probe(write_tree({**FULL, **change})).missing()
    assert [each for each in found if line in each] != []


def test_every_missing_thing_has_one_line() -> None:
    nothing = Features(
        psi="none",
        cgroup_mount=None,
        memory_controller=False,
        own_cgroup="/",
        hidepid=True,
        swap_kib=0,
        zram=False,
        total_kib=0,
        pidfd=False,
        mrelease=False,
        can_signal_others=False,
        sys_resource=False,
        page_kib=4,
    )
    lines = nothing.missing()
    assert len(lines) == len(set(lines)) == 8
    assert all("\n" not in line and len(line) < 100 for line in lines)


def test_psi_that_is_switched_off_is_told_from_none(
    write_tree: WriteTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_tree(FULL)
    read_file = files.read_file

    def refuse(path: str, *, dir_fd: int | None = None) -> bytes | None:
        if path.endswith(files.PRESSURE_MEMORY):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
        return read_file(path, dir_fd=dir_fd)

    monkeypatch.setattr(files, "read_file", refuse)
    found = probe(root)
    assert found.psi == "off"
    assert any("psi=1" in line for line in found.missing())


def test_the_mount_with_the_memory_controller_is_chosen(write_tree: WriteTree) -> None:
    root = write_tree(
        {
            "proc/self/mounts": "a /one cgroup2 rw 0 0\nb /two\\040words cgroup2 rw 0 0\n",
            "one/cgroup.controllers": "\n",
            "two words/cgroup.controllers": "memory\n",
        }
    )
    assert find_cgroup_mount(root) == "/two words"


@pytest.mark.real_kernel
def test_this_machine_can_be_probed() -> None:
    found = probe()
    assert found.total_kib > 0
    assert found.page_kib > 0
    assert found.pidfd
