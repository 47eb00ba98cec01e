"""What is shed for a notice, in which order, how far, and what is said of it."""

from __future__ import annotations

import gc
import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lmkd_client import Shedders
from lmkd_client.held_memory import Memory, parse_held_bytes
from lmkd_client.shedder import LEVELS

from .heap import GRANT, Block, Heap, declared, notice


def test_what_is_missed_least_goes_first_and_at_a_level_nothing_that_was_named_for_a_higher_one() -> (
    None
):
    heap = Heap()
    shedders = heap.shedders()
    named = [("critical", "a"), ("low", "b"), ("medium", "c"), ("low", "d")]
    blocks = {name: Block(heap, 1) for _, name in named}
    for level, name in named:
        shedders.add(blocks[name], name=name, level=level)
    assert [shedder.name for shedder in shedders.due("low")] == ["b", "d"]
    assert [shedder.name for shedder in shedders.due("medium")] == ["b", "d", "c"]
    assert [shedder.name for shedder in shedders.due("critical")] == ["b", "d", "c", "a"]
    assert shedders.shed(level="medium") == 3
    assert [name for name, block in blocks.items() if block.size] == ["a"]


@given(
    sizes=st.lists(st.tuples(st.integers(-50, 500), st.sampled_from(LEVELS)), max_size=6),
    kept=st.integers(0, 300),
    garbage=st.integers(0, 300),
    target=st.none() | st.integers(0, 1500),
    level=st.sampled_from(LEVELS),
)
def test_no_more_is_shed_than_the_target_takes_and_what_is_said_is_what_was_measured(
    sizes: list[tuple[int, str]], kept: int, garbage: int, target: int | None, level: str
) -> None:
    heap = Heap(10_000, kept, garbage)
    shedders = heap.shedders()
    blocks = [(Block(heap, size), word) for size, word in sizes]
    for block, word in blocks:
        shedders.add(block, level=word)
    freed = shedders.shed(target, level)
    assert freed == max(10_000 - heap.held, 0)
    reach = LEVELS.index(level)
    in_order = [one for word in LEVELS[: reach + 1] for one, named in blocks if named == word]
    asked = [block for block in in_order if block.asked]
    # A row from the first on, and nobody of a higher level.
    assert asked == in_order[: len(asked)]
    assert sum(bool(block.asked) for block, _ in blocks) == len(asked)
    if target is None:
        assert asked == in_order
        assert heap.collections == 1
    else:
        # Whoever was asked was asked for what was still missing, and something was.
        assert all(block.asked[0] > 0 for block in asked)
        assert heap.collections == 0 or asked == in_order
        if freed < target:
            assert asked == in_order
            assert heap.collections == 1


def test_what_malloc_keeps_for_nobody_is_enough_where_it_is_enough() -> None:
    heap = Heap(kept=600)
    shedders = heap.shedders()
    cache = Block(heap, 600)
    shedders.add(cache)
    assert shedders.shed(500) == 600
    assert cache.asked == []
    assert shedders.shed(500) == 600
    assert cache.asked == [500]


def test_what_raises_is_logged_by_its_name_and_the_next_one_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heap = Heap()
    shedders = heap.shedders()

    def broken(target_bytes: int) -> None:
        raise KeyError("a mistake of the program")

    after = Block(heap, 5)
    shedders.add_callback(broken, name="thumbnails")
    shedders.add(after)
    with caplog.at_level(logging.ERROR, "lmkd_client"):
        assert shedders.shed() == 5
    (record,) = caplog.records
    assert record.getMessage() == "thumbnails could not be shed"
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


def test_an_end_of_the_program_is_not_held_up() -> None:
    shedders = Heap().shedders()

    def interrupted(target_bytes: int) -> None:
        raise KeyboardInterrupt

    shedders.add_callback(interrupted)
    with pytest.raises(KeyboardInterrupt):
        shedders.shed()


def test_a_program_that_grows_meanwhile_has_freed_nothing_and_not_less() -> None:
    heap = Heap()
    shedders = heap.shedders()
    grows = Block(heap, -300)
    shedders.add(grows)
    shedding = shedders.begin(notice(target_bytes=100), declared(), GRANT)
    assert list(shedding)[-1] == ("nothing", 0)


@pytest.mark.parametrize(
    ("sheddable", "target", "size", "answer", "asked"),
    [
        (5000, 300, 400, ("done", 400), [300]),
        (5000, 300, 200, ("done", 200), [300]),
        (5000, 300, 0, ("nothing", 0), [300]),
        # Asked for nothing: others have enough. Nothing goes, and that is not to have nothing.
        (5000, 0, 400, ("done", 0), []),
        # It never said how much, so it is never asked for an amount: the level alone asks.
        (0, 0, 400, ("done", 400), [10_000]),
        (0, 0, 0, ("nothing", 0), [10_000]),
    ],
)
def test_the_answer_is_what_came_of_what_was_asked(
    sheddable: int, target: int, size: int, answer: tuple[str, int], asked: list[int]
) -> None:
    heap = Heap()
    shedders = heap.shedders()
    cache = Block(heap, size)
    shedders.add(cache)
    words = list(shedders.begin(notice(target_bytes=target), declared(sheddable), GRANT))
    assert words[-1] == answer
    assert set(words[:-1]) <= {None}
    assert cache.asked == asked


def test_each_is_asked_for_what_is_still_missing() -> None:
    heap = Heap(kept=10)
    shedders = heap.shedders()
    blocks = [Block(heap, 100) for _ in range(3)]
    for block in blocks:
        shedders.add(block)
    assert shedders.shed(250) == 310
    assert [block.asked for block in blocks] == [[240], [140], [40]]


def test_who_needs_longer_says_so_at_half_of_the_time_once_and_before_the_next_piece() -> None:
    heap = Heap()
    shedders = heap.shedders()
    blocks = [Block(heap, 10, takes_ms=400) for _ in range(4)]
    for block in blocks:
        shedders.add(block)
    words = list(shedders.begin(notice(deadline_ms=1000), declared(), GRANT))
    # At 800 ms of 1000; the extension of another second leaves time for the third, fourth and the garbage.
    assert words == [None, None, ("working", 20), None, None, ("done", 40)]
    assert heap.collections == 1


def test_when_the_time_is_nearly_over_nothing_new_is_begun() -> None:
    heap = Heap(garbage=5)
    shedders = heap.shedders()
    slow, late = Block(heap, 10, takes_ms=1750), Block(heap, 10)
    shedders.add(slow)
    shedders.add(late)
    words = list(shedders.begin(notice(deadline_ms=1000), declared(), GRANT))
    assert words == [None, ("done", 10)]
    assert late.asked == []
    assert heap.collections == 0


def test_in_an_emergency_no_time_is_counted_and_no_garbage_collected() -> None:
    heap = Heap(garbage=5)
    shedders = heap.shedders()
    slow = [Block(heap, 10, takes_ms=9000) for _ in range(2)]
    for block in slow:
        shedders.add(block)
    words = list(shedders.begin(notice(emergency=True), declared(), GRANT))
    assert words == [None, None, ("done", 20)]
    assert heap.collections == 0


def test_what_is_shed_by_one_is_passed_over_by_another_and_by_itself() -> None:
    heap = Heap()
    shedders = heap.shedders()
    inner: list[int] = []
    after = Block(heap, 10)

    def shed(target_bytes: int) -> None:
        inner.append(shedders.shed())

    shedders.add_callback(shed)
    shedders.add(after)
    assert shedders.shed() == 10
    # The inner one shed what came behind, and not itself once more.
    assert inner == [10]


def test_two_times_of_it_may_be_woven_into_each_other() -> None:
    heap = Heap()
    shedders = heap.shedders()
    blocks = [Block(heap, 100) for _ in range(3)]
    for block in blocks:
        shedders.add(block)
    first = iter(shedders.begin(notice(target_bytes=150), declared(), GRANT))
    next(first)
    next(first)
    second = list(shedders.begin(notice(target_bytes=150), declared(), GRANT))
    assert second[-1] == ("done", 200)
    assert list(first)[-1] == ("done", 300)


def test_threads_may_name_forget_and_shed_at_once() -> None:
    heap = Heap()
    shedders = heap.shedders()
    errors: list[BaseException] = []
    start = threading.Barrier(6)
    stays = Block(heap, 0)
    shedders.add(stays)

    def work(number: int) -> None:
        try:
            start.wait(10)
            for _ in range(200):
                block = Block(heap, 0)
                shedders.add(block, level=LEVELS[number % 3])
                if number % 2:
                    shedders.shed(1)
                assert shedders.forget(block)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(shedders.due("critical")) == 1


def test_a_level_that_is_none_is_refused() -> None:
    shedders = Heap().shedders()
    with pytest.raises(
        ValueError, match="level: expected one of low medium critical; got 'normal'"
    ):
        shedders.shed(level="normal")
    with pytest.raises(ValueError, match="got 'high'"):
        shedders.add_callback(print, level="high")


# --- what is really held ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "held_kib"),
    [
        (
            b"VmRSS:\t 900 kB\nRssAnon:\t 700 kB\nRssFile:\t 150 kB\nRssShmem:\t 50 kB\nVmSwap:\t 30 kB\n",
            780,
        ),
        (b"Name:\tVmSwap: 5\nRssAnon:\t 8 kB\nRssShmem:\t 0 kB\n", 8),  # no swap; a hostile name
        (b"Name:\tkthreadd\n", 0),
    ],
)
def test_held_is_what_only_the_program_can_give_back(status: bytes, held_kib: int) -> None:
    assert parse_held_bytes(status) == held_kib << 10


def test_memory_that_is_really_let_go_is_really_measured() -> None:
    size = 32 << 20
    shedders = Shedders()
    cache = [bytearray(size)]
    cache[0][:] = b"x" * size  # calloc alone would not touch it
    shedders.add_callback(lambda target_bytes: cache.clear())
    Memory().trim()  # what other tests have left would be in what is measured
    freed = shedders.shed(size // 2)
    assert size // 2 <= freed <= size + (4 << 20)


def test_small_blocks_that_malloc_would_keep_are_given_back() -> None:
    memory = Memory()
    memory.prepare()
    blocks = [bytes(60_000) for _ in range(1000)]
    blocks.append(b"on top of them" * 5000)  # keeps the top of the heap where it is
    held = memory.held_bytes()
    del blocks[:-1]
    memory.trim()
    assert held - memory.held_bytes() > 40_000_000


def test_garbage_is_collected() -> None:
    gc.disable()
    try:
        ring: list[object] = [bytearray(8 << 20)]
        ring.append(ring)
        memory = Memory()
        held = memory.held_bytes()
        del ring
        assert held - memory.held_bytes() < 4 << 20
        memory.collect()
        memory.trim()
        assert held - memory.held_bytes() > 4 << 20
    finally:
        gc.enable()
