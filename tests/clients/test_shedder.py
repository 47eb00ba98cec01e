"""What can be shed, how each kind of it is, and that naming it keeps nothing alive."""

from __future__ import annotations

import functools
import gc
import threading
import weakref
from collections import ChainMap, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import cachetools
import lmkd_client
import pytest
from lmkd_client.shedder import call, watch

from .heap import Heap


@pytest.fixture(autouse=True)
def forget_what_was_named() -> Iterator[None]:
    """The functions of the package name for the whole process."""
    before = lmkd_client.shedding.SHEDDERS._named.copy()
    yield
    lmkd_client.shedding.SHEDDERS._named = before


def test_a_cached_function_is_cleared_and_is_still_what_it_was() -> None:
    @lmkd_client.sheddable
    @functools.lru_cache(maxsize=8)
    def double(number: int) -> int:
        return 2 * number

    assert double(4) == 8
    assert double.cache_info().currsize == 1
    lmkd_client.shed()
    assert double.cache_info().currsize == 0
    assert double(4) == 8


def test_a_cached_method_is_named_in_its_class_or_by_an_object_of_it() -> None:
    class Shop:
        @lmkd_client.sheddable(level="low")
        @functools.cache  # noqa: B019 - that it keeps its objects is the reason to shed it
        def price(self, number: int) -> int:
            return number

        @functools.cache  # noqa: B019
        def weight(self, number: int) -> int:
            return number

    shop = Shop()
    lmkd_client.sheddable(shop.weight)
    shop.price(1)
    shop.weight(1)
    lmkd_client.shed(level="low")
    assert (Shop.price.cache_info().currsize, Shop.weight.cache_info().currsize) == (0, 1)
    lmkd_client.shed(level="medium")
    assert Shop.weight.cache_info().currsize == 0
    assert lmkd_client.forget(shop.weight)
    assert not lmkd_client.forget(shop.weight)


def test_a_function_under_cachetools_gives_up_half_by_half_under_its_lock() -> None:
    held: list[bool] = []

    class Lock:
        def __enter__(self) -> None:
            held.append(True)

        def __exit__(self, *error: object) -> None:
            held.append(False)

    cache: cachetools.LRUCache[Any, int] = cachetools.LRUCache(100)

    @cachetools.cached(cache, lock=Lock())
    def double(number: int) -> int:
        return 2 * number

    for number in range(8):
        double(number)
    double(0)  # so that it was used last
    held.clear()
    shedder = watch(double, None, "medium", None)
    sizes = []
    while shedder.shed(1):
        sizes.append(len(cache))
        assert cache.get((0,)) == 0
    assert (sizes, len(cache)) == ([4, 2, 1], 0)
    assert held == [True, False] * 4


@pytest.mark.parametrize(
    ("cache", "first_to_stay"),
    [
        (cachetools.FIFOCache(8), "d"),
        (cachetools.LRUCache(8), "d"),
        (cachetools.TTLCache(8, 1000), "d"),
        (OrderedDict(), "d"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_of_a_cache_the_half_goes_that_its_own_order_gives_up_first(
    cache: Any, first_to_stay: str
) -> None:
    for key in "abcdef":
        cache[key] = 1
    assert watch(cache, None, "low", None).shed(1) is True
    assert sorted(cache) == [first_to_stay, "e", "f"]


def test_of_a_cache_only_as_much_goes_as_is_asked() -> None:
    heap = Heap()
    shedders = heap.shedders()

    class Pages(OrderedDict[int, int]):
        def pop(self, key: int, default: object = None) -> Any:
            heap.held -= 100
            return super().pop(key, default)

    pages = Pages({number: number for number in range(16)})
    shedders.add(pages)
    assert shedders.shed(1000) == 1200
    assert list(pages) == [12, 13, 14, 15]


def test_what_ran_out_of_its_time_meanwhile_is_no_mistake() -> None:
    now = [0]
    cache = cachetools.TTLCache(8, 10, timer=lambda: now[0])
    for key in "abcd":
        cache[key] = 1
    popitem = cache.popitem

    def popitem_late() -> Any:
        now[0] = 20
        return popitem()

    cache.popitem = popitem_late
    assert watch(cache, None, "low", None).shed(1) is False
    assert len(cache) == 0


class _Clearable:
    def __init__(self) -> None:
        self.cleared = 0

    def clear(self) -> None:
        self.cleared += 1


def test_anything_that_can_be_cleared_is_cleared_under_the_lock_it_was_named_with() -> None:
    lock = threading.Lock()

    class Watched(_Clearable):
        def clear(self) -> None:
            assert lock.locked()
            super().clear()

    thing = Watched()
    assert lmkd_client.sheddable(thing, lock=lock) is thing
    lmkd_client.shed()
    assert thing.cleared == 1
    assert not lock.locked()


@pytest.mark.parametrize(
    ("thing", "why"),
    [
        (_Clearable, "_Clearable is a class: its instances are what can be shed"),
        (print, r"a builtin_function_or_method cannot be shed: it has no shed\(\)"),
        (None, "a NoneType cannot be shed"),
        ({}, r"a dict cannot be held weakly, .*shed_with\(\) takes a callback"),
        ([], "a list cannot be held weakly"),
    ],
)
def test_what_cannot_be_shed_is_told_at_once(thing: object, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        lmkd_client.sheddable(thing)


def test_a_callback_has_to_be_one() -> None:
    with pytest.raises(TypeError, match="a int cannot be called"):
        lmkd_client.shed_with(5)  # type: ignore[type-var]


def test_a_callback_is_told_how_much_and_kept_until_it_is_forgotten() -> None:
    asked: list[int] = []
    lmkd_client.shed_with(lambda target_bytes: asked.append(target_bytes), name="more")
    gc.collect()
    lmkd_client.shed(1 << 50)
    assert len(asked) == 1
    assert (1 << 50) - (64 << 20) < asked[0] <= 1 << 50

    @lmkd_client.shed_with
    def shed(target_bytes: int) -> None:
        asked.append(-1)

    assert lmkd_client.forget(shed)
    lmkd_client.shed(1 << 50)
    assert len(asked) == 2
    assert -1 not in asked


def _cached() -> Any:
    return functools.cache(lambda: 1)


@pytest.mark.parametrize("make", [_cached, lambda: cachetools.LRUCache(4), OrderedDict, ChainMap])
def test_what_is_collected_is_forgotten(make: Callable[[], Any]) -> None:
    shedders = Heap().shedders()
    thing = make()
    shedders.add(thing)
    gone = weakref.ref(thing)
    assert len(shedders.due("critical")) == 1
    del thing
    gc.collect()
    assert gone() is None
    assert shedders.due("critical") == []
    assert shedders._named == {}


def test_a_method_does_not_keep_its_object() -> None:
    class Pool:
        def __init__(self) -> None:
            self.asked = 0

        def drop(self, target_bytes: int) -> None:
            self.asked += 1

    shedders = Heap().shedders()
    first, second = Pool(), Pool()
    shedders.add_callback(first.drop)
    shedders.add_callback(second.drop)
    shedders.shed()
    assert (first.asked, second.asked) == (1, 1)
    assert shedders.forget(first.drop)
    shedders.shed()
    assert (first.asked, second.asked) == (1, 2)
    gone = weakref.ref(second)
    del second
    gc.collect()
    assert gone() is None
    assert shedders.due("critical") == []


def test_what_is_collected_in_the_middle_of_it_is_passed_over() -> None:
    heap = Heap()
    shedders = heap.shedders()
    things = [_Clearable()]
    shedders.add_callback(lambda target_bytes: things.clear())
    shedders.add(things[0])
    assert shedders.shed() == 0
    assert len(shedders.due("critical")) == 1


def test_who_is_named_again_has_its_new_place_and_no_second_one() -> None:
    shedders = Heap().shedders()
    first, second = _Clearable(), _Clearable()
    shedders.add(first, name="first", level="low")
    shedders.add(second, name="second", level="low")
    shedders.add(first, name="first again", level="critical")
    assert [shedder.name for shedder in shedders.due("critical")] == ["second", "first again"]


def test_names_are_those_of_the_program() -> None:
    def drop(target_bytes: int) -> None: ...

    here = "test_names_are_those_of_the_program.<locals>"
    assert call(drop, None, "low").name == f"{here}.drop"
    assert watch(_cached(), None, "low", None).name == "_cached.<locals>.<lambda>"
    assert watch(cachetools.LRUCache(2), None, "low", None).name == "a LRUCache"
    assert watch(_Clearable(), "pages", "low", None).name == "pages"
