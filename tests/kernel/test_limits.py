"""Limits along the ancestors: what is left is the least that any leaves, and files are opened once."""

import os
from collections.abc import Iterator

import pytest

from lmkd.kernel import files
from lmkd.kernel.limits import Limits
from lmkd.kernel.readings import SystemReader, open_cgroup
from lmkd.model import Reading

from .conftest import WriteTree

MIB = 1 << 20
MEMINFO = "".join(
    f"{key}: {kib} kB\n"
    for key, kib in [
        ("MemTotal", 524288),
        ("MemAvailable", 200000),
        ("Active(anon)", 0),
        ("Inactive(anon)", 0),
        ("Active(file)", 0),
        ("Inactive(file)", 0),
        ("SwapTotal", 100 * 1024),
        ("SwapFree", 90 * 1024),
    ]
)


def group_files(
    *,
    current_mib: int = 0,
    high_mib: int | None = None,
    max_mib: int | None = None,
    file_mib: int = 0,
    swap_mib: int = 0,
    swap_max_mib: int | None = None,
) -> dict[str, str]:
    def limit(mib: int | None) -> str:
        return "max\n" if mib is None else f"{mib * MIB}\n"

    return {
        "memory.current": f"{current_mib * MIB}\n",
        "memory.high": limit(high_mib),
        "memory.max": limit(max_mib),
        "memory.stat": f"anon 0\ninactive_file {file_mib * MIB}\nactive_file 0\n",
        "memory.swap.current": f"{swap_mib * MIB}\n",
        "memory.swap.max": limit(swap_max_mib),
    }


class House:
    """A tree of cgroups in files."""

    def __init__(self, write_tree: WriteTree) -> None:
        self._write_tree = write_tree
        root = write_tree({"proc/meminfo": MEMINFO})
        self.system = SystemReader(root)
        self.limits = Limits(os.path.join(root, "cg"))

    def write(self, path: str, **figures: int) -> None:
        self._write_tree(
            {f"cg{path}/{name}": content for name, content in group_files(**figures).items()}
        )

    def read(self, path: str) -> Reading:
        reader = open_cgroup(self.system, self.limits, path)
        assert reader is not None
        reading = reader.read(0)
        reader.close()
        assert reading is not None
        return reading


@pytest.fixture
def house(write_tree: WriteTree) -> Iterator[House]:
    house = House(write_tree)
    yield house
    house.system.close()


def room(reading: Reading) -> tuple[int, int, str]:
    return reading.total_kib // 1024, reading.available_kib // 1024, reading.limited_by


def test_a_limit_above_binds_as_ones_own(house: House) -> None:
    house.write("/a", current_mib=60, max_mib=100)
    house.write("/a/b", current_mib=1)
    house.write("/a/b/c", current_mib=1)
    assert room(house.read("/a/b/c")) == (100, 40, "/a")
    assert room(house.read("/a")) == (100, 40, "/a")


def test_the_least_that_is_left_and_the_least_limit_may_be_of_two_groups(house: House) -> None:
    house.write("/a", current_mib=295, max_mib=300)
    house.write("/a/b", current_mib=10, max_mib=50)
    assert room(house.read("/a/b")) == (50, 5, "/a")
    house.write("/a", current_mib=200, max_mib=300)
    assert room(house.read("/a/b")) == (50, 40, "/a/b")


def test_between_equals_the_nearest_counts(house: House) -> None:
    house.write("/a", current_mib=40, max_mib=50)
    house.write("/a/b", current_mib=40, max_mib=50)
    assert room(house.read("/a/b")) == (50, 10, "/a/b")


def test_high_and_max_count_alike(house: House) -> None:
    house.write("/a", current_mib=40, max_mib=90, high_mib=60)
    house.write("/a/b", current_mib=40)
    assert room(house.read("/a/b")) == (60, 20, "/a")


def test_the_page_cache_of_the_ancestor_counts_below_its_limit(house: House) -> None:
    house.write("/a", current_mib=50, max_mib=50, file_mib=20)
    house.write("/a/b", current_mib=5, file_mib=1)
    assert room(house.read("/a/b")) == (50, 20, "/a")


def test_an_ancestor_past_its_limit_leaves_nothing(house: House) -> None:
    house.write("/a", current_mib=70, high_mib=50)
    house.write("/a/b")
    assert room(house.read("/a/b")) == (50, 0, "/a")


def test_without_a_limit_that_binds_it_is_the_systems_room(house: House) -> None:
    house.write("/a", current_mib=1, max_mib=1 << 20)
    house.write("/a/b", current_mib=1)
    reading = house.read("/a/b")
    assert (reading.total_kib, reading.available_kib, reading.limited_by) == (524288, 200000, "")


def test_swap_is_the_least_along_the_way(house: House) -> None:
    house.write("/a", swap_max_mib=50, swap_mib=45)
    house.write("/a/b", swap_max_mib=20, swap_mib=1)
    reading = house.read("/a/b")
    assert (reading.swap_total_kib, reading.swap_free_kib) == (20 * 1024, 5 * 1024)


def test_closing_a_reader_twice_does_not_close_anothers_files(house: House) -> None:
    house.write("/a", current_mib=10, max_mib=30)
    one, other = (open_cgroup(house.system, house.limits, "/a") for _ in range(2))
    assert one is not None
    assert other is not None
    one.close()
    one.close()
    assert len(house.limits) == 1
    reading = other.read(0)
    assert reading is not None
    assert room(reading) == (30, 20, "/a")
    other.close()
    assert len(house.limits) == 0


def test_a_limit_that_is_set_later_is_seen(house: House) -> None:
    house.write("/a", current_mib=10)
    house.write("/a/b", current_mib=1)
    reader = open_cgroup(house.system, house.limits, "/a/b")
    assert reader is not None
    house.write("/a", current_mib=10, max_mib=30)
    reading = reader.read(0)
    assert reading is not None
    assert room(reading) == (30, 20, "/a")
    reader.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_500_groups_of_a_slice_open_its_files_once(house: House) -> None:
    house.write("/s", max_mib=100, swap_max_mib=100)
    for number in range(500):
        house.write(f"/s/{number}", current_mib=1)
    before = open_descriptors()
    readers = [open_cgroup(house.system, house.limits, f"/s/{number}") for number in range(500)]
    for reader in readers:
        assert reader is not None
        assert reader.read(0) is not None
    assert len(house.limits) == 501
    # each memory.current, .stat, .high, .max and .swap.max; the slice memory.swap.current too
    assert open_descriptors() - before == 500 * 5 + 6
    for reader in readers:
        assert reader is not None
        reader.close()
        reader.close()
    assert len(house.limits) == 0
    assert open_descriptors() == before


@pytest.mark.real_kernel
def test_a_namesake_of_a_removed_cgroup_is_opened_anew(
    own_cgroup: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # any file of the real mount shows that it has gone, and this one is there without the memory controller
    monkeypatch.setattr(files, "MEMORY_MAX", "cgroup.procs")
    mount, name = os.path.split(own_cgroup)
    os.mkdir(f"{own_cgroup}/x")
    limits = Limits(mount)
    (first, *above) = limits.hold(f"/{name}/x")
    assert first.is_there()
    os.rmdir(f"{own_cgroup}/x")
    assert not first.is_there()
    os.mkdir(f"{own_cgroup}/x")
    (second, *above_too) = limits.hold(f"/{name}/x")
    assert second is not first
    assert second.is_there()
    assert above_too == above
    for group in (first, second, *above, *above_too):
        limits.release(group)
    assert len(limits) == 0
    os.rmdir(f"{own_cgroup}/x")
