"""Readings of the system and of cgroups, from trees of files."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lmkd.kernel.files import MalformedKernelFile
from lmkd.kernel.limits import Limits
from lmkd.kernel.readings import CgroupReader, SystemReader, open_cgroup
from lmkd.model import Reading

from .conftest import WriteTree

Captured = Callable[[str], bytes]
MIB = 1 << 20

MEMINFO = """\
MemTotal:         524288 kB
MemFree:           10000 kB
MemAvailable:     200000 kB
Active(anon):      30000 kB
Inactive(anon):    20000 kB
Active(file):       7000 kB
Inactive(file):     5000 kB
SwapTotal:        204796 kB
SwapFree:         104796 kB
"""
HEADING = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


def system_reading(root: str) -> Reading:
    reader = SystemReader(root)
    reading = reader.read(17)
    reader.close()
    assert reading is not None
    return reading


def test_a_system_without_anything_but_meminfo_is_read(write_tree: WriteTree) -> None:
    reading = system_reading(write_tree({"proc/meminfo": MEMINFO}))
    assert reading == Reading(
        domain="system",
        at_us=17,
        total_kib=524288,
        available_kib=200000,
        anon_kib=50000,
        swap_total_kib=204796,
        swap_free_kib=104796,
        file_lru_kib=12000,
    )


def test_a_system_without_meminfo_is_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is /proc mounted"):
        SystemReader(str(tmp_path))


def test_everything_a_real_kernel_says_is_read(write_tree: WriteTree, captured: Captured) -> None:
    root = write_tree(
        {
            "proc/meminfo": captured("meminfo-6.18"),
            "proc/vmstat": captured("vmstat-6.18"),
            "proc/pressure/memory": captured("pressure-memory-6.1"),
            "proc/swaps": captured("swaps-zram-6.1"),
            "sys/block/zram0/mm_stat": captured("zram-mm_stat-6.1"),
        }
    )
    reading = system_reading(root)
    assert (reading.some_total_us, reading.full_total_us) == (815920, 805907)
    assert reading.zram_free_kib == 204796 - 22528
    assert reading.zram_stored_kib == 23048192 // 1024
    assert reading.zram_used_kib == 21622784 // 1024
    vmstat = dict(line.split() for line in captured("vmstat-6.18").splitlines())
    assert reading.refault_file_pages == int(vmstat[b"workingset_refault_file"])
    scanned_pages = int(vmstat[b"pgscan_kswapd"]) + int(vmstat[b"pgscan_direct"])
    assert reading.scanned_pages == scanned_pages


def test_swap_areas_are_looked_up_anew_at_every_reading(write_tree: WriteTree) -> None:
    zram = "/dev/zram0  partition\t100000\t\t40000\t\t100\n"
    disk = "/dev/sda2   partition\t100000\t\t0\t\t-2\n"
    tree = {
        "proc/meminfo": MEMINFO,
        "proc/swaps": HEADING + disk,
        "sys/block/zram0/mm_stat": "40960000 1 10240000 0 0\n",
    }
    reader = SystemReader(write_tree(tree))
    seen = []
    for swaps in (HEADING + disk, HEADING + disk + zram, HEADING + disk):
        write_tree({"proc/swaps": swaps})
        reading = reader.read(0)
        assert reading is not None
        seen.append((reading.zram_free_kib, reading.zram_stored_kib, reading.zram_used_kib))
    reader.close()
    assert seen == [(0, 0, 0), (60000, 40000, 10000), (0, 0, 0)]


def test_zram_swap_whose_device_says_nothing_has_room_but_no_figures(write_tree: WriteTree) -> None:
    swaps = HEADING + "/dev/zram7  partition\t1000\t\t400\t\t100\n"
    reading = system_reading(write_tree({"proc/meminfo": MEMINFO, "proc/swaps": swaps}))
    assert (reading.zram_free_kib, reading.zram_stored_kib, reading.zram_used_kib) == (600, 0, 0)


def test_the_zfs_cache_above_its_minimum_counts_as_available(write_tree: WriteTree) -> None:
    arcstats = f"name type data\nsize 4 {30 * MIB}\nc_min 4 {10 * MIB}\n"
    tree = {"proc/meminfo": MEMINFO, "proc/spl/kstat/zfs/arcstats": arcstats}
    assert system_reading(write_tree(tree)).available_kib == 200000 + 20 * 1024


def test_a_malformed_pressure_file_is_named(write_tree: WriteTree) -> None:
    root = write_tree({"proc/meminfo": MEMINFO, "proc/pressure/memory": "nonsense\n"})
    reader = SystemReader(root)
    with pytest.raises(MalformedKernelFile) as caught:
        reader.read(0)
    reader.close()
    assert caught.value.path == os.path.join(root, "proc/pressure/memory")
    assert caught.value.content == b"nonsense\n"


STAT = f"""\
anon 1
inactive_anon {4 * MIB}
active_anon {2 * MIB}
inactive_file {8 * MIB}
active_file {1 * MIB}
workingset_refault_anon 5
workingset_refault_file 77
"""


def cgroup_reading(write_tree: WriteTree, files: dict[str, str]) -> Reading:
    tree = {f"cg/shop/{name}": content for name, content in files.items()}
    root = write_tree({"proc/meminfo": MEMINFO, **tree})
    system = SystemReader(root)
    reader = open_cgroup(system, Limits(os.path.join(root, "cg")), "/shop")
    assert isinstance(reader, CgroupReader)
    reading = reader.read(5)
    reader.close()
    system.close()
    assert reading is not None
    return reading


@pytest.mark.parametrize(
    ("high", "limit", "total_mib"),
    [
        (f"{64 * MIB}", "max", 64),
        ("max", f"{64 * MIB}", 64),
        (f"{96 * MIB}", f"{64 * MIB}", 64),
        (f"{64 * MIB}", f"{96 * MIB}", 64),
    ],
)
def test_the_lesser_limit_bounds_a_cgroup(
    write_tree: WriteTree, high: str, limit: str, total_mib: int
) -> None:
    reading = cgroup_reading(
        write_tree,
        {
            "memory.current": f"{50 * MIB}\n",
            "memory.high": high + "\n",
            "memory.max": limit + "\n",
            "memory.stat": STAT,
            "memory.events": "low 0\nhigh 3\nmax 2\noom 1\noom_kill 1\noom_group_kill 0\n",
        },
    )
    assert reading == Reading(
        domain="/shop",
        at_us=5,
        total_kib=total_mib * 1024,
        available_kib=(total_mib - 50 + 9) * 1024,
        anon_kib=6 * 1024,
        swap_total_kib=204796,
        swap_free_kib=104796,
        file_lru_kib=9 * 1024,
        refault_file_pages=77,
        limited_by="/shop",
        events_high=3,
        events_max=2,
        events_oom=1,
        events_oom_kill=1,
    )


@pytest.mark.parametrize("limit", ["max", str(1 << 50)])
def test_a_cgroup_without_a_limit_that_binds_has_the_systems_room(
    write_tree: WriteTree, limit: str
) -> None:
    files = {"memory.current": f"{MIB}\n", "memory.max": limit + "\n"}
    reading = cgroup_reading(write_tree, files)
    assert (reading.total_kib, reading.available_kib) == (524288, 200000)
    assert reading.limited_by == ""


def test_a_cgroup_past_its_limit_has_nothing_available(write_tree: WriteTree) -> None:
    files = {"memory.current": f"{70 * MIB}\n", "memory.high": f"{64 * MIB}\n"}
    assert cgroup_reading(write_tree, files).available_kib == 0


@pytest.mark.parametrize(
    ("used_mib", "free_kib"), [(0, 20 * 1024), (15, 5 * 1024), (20, 0), (25, 0)]
)
def test_swap_room_ends_at_the_cgroups_swap_limit(
    write_tree: WriteTree, used_mib: int, free_kib: int
) -> None:
    reading = cgroup_reading(
        write_tree,
        {
            "memory.current": "0\n",
            "memory.swap.current": f"{used_mib * MIB}\n",
            "memory.swap.max": f"{20 * MIB}\n",
        },
    )
    assert (reading.swap_total_kib, reading.swap_free_kib) == (20 * 1024, free_kib)


def test_swap_room_is_never_more_than_the_systems(write_tree: WriteTree) -> None:
    files = {"memory.current": "0\n", "memory.swap.max": f"{1 << 40}\n"}
    reading = cgroup_reading(write_tree, files)
    assert (reading.swap_total_kib, reading.swap_free_kib) == (204796, 104796)


def test_a_throttled_cgroup_of_a_real_kernel(write_tree: WriteTree, captured: Captured) -> None:
    names = ("current", "high", "max", "swap.current", "swap.max", "stat", "events", "pressure")
    files = {f"memory.{n}": captured(f"cgroup-memory.{n}-6.1").decode() for n in names}
    reading = cgroup_reading(write_tree, files)
    assert reading.total_kib == 64 * 1024
    assert reading.available_kib == (67108864 - 66899968) // 1024
    assert reading.anon_kib == (66387968 + 114688) // 1024
    assert (reading.some_total_us, reading.full_total_us) == (1076936, 1076936)
    assert (reading.events_high, reading.events_oom_kill) == (37, 0)


def test_there_is_no_cgroup_without_memory_current(write_tree: WriteTree) -> None:
    root = write_tree({"proc/meminfo": MEMINFO, "cg/shop/cgroup.procs": ""})
    system = SystemReader(root)
    limits = Limits(os.path.join(root, "cg"))
    assert open_cgroup(system, limits, "/shop") is None
    assert open_cgroup(system, limits, "/absent") is None
    assert open_cgroup(system, limits, "/") is None
    assert len(limits) == 0
    system.close()


def test_a_path_out_of_the_cgroup_namespace_is_no_cgroup(write_tree: WriteTree) -> None:
    root = write_tree({"proc/meminfo": MEMINFO, "memory.current": "0\n", "cg/x": ""})
    system = SystemReader(root)
    assert open_cgroup(system, Limits(os.path.join(root, "cg")), "/..") is None
    system.close()
