"""What a reading would have been, had others died than did, and who would be there to die."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lmkd.model import AppClass, Process, Reading, Unit, Victim
from lmkd.replay.estimate import Estimate, members_of

MIB = 1024


def process(pid: int, size_mib: int = 100, *, swap_mib: int = 0, **given: Any) -> Process:
    fields: dict[str, Any] = {"ppid": 1, "cgroup": "/", **given}
    return Process(
        pid=pid,
        start_ticks=pid * 10,
        comm=f"p{pid}",
        exe="",
        uid=0,
        oom_score_adj=0,
        anon_kib=(size_mib - swap_mib) * MIB,
        swap_kib=swap_mib * MIB,
        state="S",
        **fields,
    )


def victim(pid: int, unit: Unit = Unit.PROCESS, cgroup: str = "/") -> Victim:
    return Victim(pid, pid * 10, f"p{pid}", AppClass.CACHED, "", 0, unit, cgroup)


def reading(
    at_us: int = 0, available_mib: int = 50, domain: str = "system", **given: Any
) -> Reading:
    return Reading(domain, at_us, 1000 * MIB, available_mib * MIB, **given)


def pids(processes: object) -> list[int]:
    return [one.pid for one in processes]  # type: ignore[attr-defined]


def test_who_died_here_alone_is_not_scanned_and_his_memory_is_there() -> None:
    estimate = Estimate()
    estimate.see((process(2), process(1, 300)))
    estimate.end_here((process(1, 300),))
    assert pids(estimate.scan("system", 0)) == [2]
    assert estimate.correct(reading(), 0).available_kib == 350 * MIB
    assert estimate.is_dead_here((1, 10))


def test_who_grows_in_the_recording_after_he_died_here_is_counted_as_large_as_he_is_there() -> None:
    estimate = Estimate()
    estimate.see((process(1, 300),))
    estimate.end_here((process(1, 300),))
    estimate.see_all("system", (process(1, 400),), 0)
    assert estimate.correct(reading(), 0).available_kib == 450 * MIB


def test_who_died_in_the_recording_alone_is_scanned_still_and_his_memory_is_not_there() -> None:
    estimate = Estimate()
    estimate.see((process(1, 30), process(2)))
    estimate.end_there(victim(1))
    estimate.see_all("system", (process(2),), 0)
    assert pids(estimate.scan("system", 0)) == [1, 2]
    assert estimate.correct(reading(), 0).available_kib == 20 * MIB
    assert estimate.size_kib((1, 10)) == 30 * MIB
    estimate.end_here((process(1, 30),))
    assert estimate.correct(reading(), 0) == reading()
    assert estimate.size_kib((1, 10)) is None


def test_who_died_in_both_makes_no_difference() -> None:
    estimate = Estimate()
    estimate.see((process(1),))
    estimate.end_here((process(1),))
    estimate.end_there(victim(1))
    assert estimate.correct(reading(), 0) == reading()
    assert estimate.alive_here() == []


def test_who_left_by_himself_in_the_recording_gives_nothing_more_here() -> None:
    """He would have left here, too: his memory came back in both."""
    estimate = Estimate()
    estimate.see((process(1),))
    estimate.end_here((process(1),))
    estimate.see_all("system", (), 0)
    assert estimate.correct(reading(), 0) == reading()


def test_a_scan_says_nothing_of_the_small_ones_and_of_other_domains() -> None:
    estimate = Estimate()
    estimate.see((process(1, 5), process(2, 50, cgroup="/b"), process(3, 50, cgroup="/a")))
    estimate.see_all("/a", (), 10 * MIB)
    assert pids(estimate.alive_here()) == [1, 2]


def test_a_scan_that_was_begun_before_a_victims_end_does_not_bring_him_back() -> None:
    estimate = Estimate()
    estimate.see((process(1),))
    estimate.end_here((process(1),))
    estimate.end_there(victim(1))
    estimate.see_all("system", (process(1),), 0)
    assert estimate.correct(reading(), 0) == reading()


def test_only_domains_that_hold_its_cgroup_are_corrected() -> None:
    estimate = Estimate()
    estimate.see((process(1, 100, cgroup="/a/b"),))
    estimate.end_here((process(1, 100, cgroup="/a/b"),))
    got = {
        domain: estimate.correct(reading(domain=domain), 0).available_kib // MIB
        for domain in ("system", "/a", "/a/b", "/a/bc", "/c")
    }
    assert got == {"system": 150, "/a": 150, "/a/b": 150, "/a/bc": 50, "/c": 50}
    assert pids(estimate.scan("/a", 0)) == []


def test_there_is_never_more_memory_than_there_is_nor_less_than_none() -> None:
    estimate = Estimate()
    estimate.see((process(1, 5000), process(2, 6000)))
    estimate.end_here((process(1, 5000),))
    assert estimate.correct(reading(), 0).available_kib == 1000 * MIB
    estimate.end_there(victim(2))
    assert estimate.correct(reading(), 0).available_kib == 0


def test_swap_on_a_disk_is_swap_and_on_zram_memory_at_its_ratio() -> None:
    estimate = Estimate()
    estimate.see((process(1, 100, swap_mib=60),))
    estimate.end_here((process(1, 100, swap_mib=60),))
    disk = reading(swap_total_kib=500 * MIB, swap_free_kib=100 * MIB, anon_kib=300 * MIB)
    got = estimate.correct(disk, 0)
    assert (got.available_kib, got.swap_free_kib) == (90 * MIB, 160 * MIB)
    assert got.anon_kib == 260 * MIB
    zram = replace(
        disk, zram_free_kib=100 * MIB, zram_stored_kib=400 * MIB, zram_used_kib=100 * MIB
    )
    got = estimate.correct(zram, 0)
    assert (got.available_kib, got.swap_free_kib) == (105 * MIB, 160 * MIB)
    assert (got.zram_free_kib, got.zram_stored_kib) == (160 * MIB, 340 * MIB)
    assert got.zram_used_kib == 85 * MIB


@pytest.mark.parametrize(
    ("need_mib", "counted_us"),
    [(50, 0), (100, 0), (200, 5_000), (400, 7_500)],
    ids=lambda value: str(value),
)
def test_stall_shrinks_as_the_shortage_does(need_mib: int, counted_us: int) -> None:
    """With 100 MiB more than in the recording, half of a need of 200 is met, and half of the stall stays."""
    estimate = Estimate()
    estimate.see((process(1),))
    estimate.correct(reading(0, some_total_us=1_000, refault_file_pages=None), need_mib * MIB)
    estimate.end_here((process(1),))
    got = estimate.correct(reading(100, some_total_us=11_000), need_mib * MIB)
    assert got.some_total_us == 1_000 + counted_us
    assert got.refault_file_pages is None
    estimate.end_there(victim(1))
    # What was held back once stays so: a counter never goes back.
    got = estimate.correct(reading(200, some_total_us=21_000), need_mib * MIB)
    assert got.some_total_us == 11_000 + counted_us


def test_a_unit_is_a_process_a_cgroup_or_a_tree_within_its_cgroup() -> None:
    every = [
        process(1, cgroup="/a"),
        process(2, ppid=1, cgroup="/a/x"),
        process(3, ppid=2, cgroup="/a"),
        process(4, ppid=1, cgroup="/b"),
        process(5, ppid=7, cgroup="/a"),
    ]
    assert pids(members_of(victim(1), every)) == [1]
    assert pids(members_of(victim(1, Unit.CGROUP, "/a"), every)) == [1, 2, 3, 5]
    assert pids(members_of(victim(1, Unit.TREE, "/a"), every)) == [1, 2, 3]
    recycled = replace(every[0], start_ticks=11)
    assert members_of(victim(1), [recycled]) == []


def test_a_tree_that_says_it_is_its_own_child_ends() -> None:
    every = [process(1, ppid=2), process(2, ppid=1)]
    assert pids(members_of(victim(1, Unit.TREE), every)) == [1, 2]
