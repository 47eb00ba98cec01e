"""One thing of this program that can be shed, and how that is done.

What is shed is known by what it can do, never by its module: nothing is imported to find out.

| what it is | how it is shed |
|---|---|
| it has `shed(target_bytes)` | that is called |
| a function under functools.lru_cache or functools.cache | `cache_clear()` |
| a function under cachetools.cached | its cache, under its lock |
| a mapping that can be changed: a cachetools cache, an OrderedDict | the half that goes first, again and again |
| anything with `clear()` | that is called |

It is held weakly: who wants to be rid of a cache need not think of this module.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, MutableMapping
from itertools import islice
from types import MethodType

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any, TypeAlias

    Way: TypeAlias = Callable[[int], bool]
    """Shed towards so many bytes (at least 1); return whether there may be more to shed."""
    Callback: TypeAlias = Callable[[int], object]

LEVELS = ("low", "medium", "critical")


class Shedder:
    """Something that can be shed from a level on. `is_it` says whether it stands for a thing."""

    __slots__ = ("_find", "_lock", "_turn", "level", "name")

    def __init__(
        self,
        find: Callable[[], object],
        name: str,
        level: str,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        if level not in LEVELS:
            raise ValueError(f"level: expected one of {' '.join(LEVELS)}; got {level!r}")
        self.name = name
        self.level = level
        self._find = find
        self._lock = lock
        self._turn = threading.Lock()

    @property
    def is_gone(self) -> bool:
        """Whether what it stood for has been collected."""
        return self._find() is None

    def is_it(self, thing: object) -> bool:
        """Whether this stands for that very thing; for a method, for the same one of the same object."""
        found = self._find()
        return found is not None and (found is thing or _is_same_method(found, thing))

    def shed(self, target_bytes: int) -> bool:
        """Shed towards a target; return whether there may be more.

        One that is being shed already, in another thread or further up in this one, is left alone.
        """
        thing = self._find()
        if thing is None or not self._turn.acquire(blocking=False):
            return False
        try:
            if self._lock is None:
                return _find_way(thing)(target_bytes)
            with self._lock:
                return _find_way(thing)(target_bytes)
        finally:
            self._turn.release()


def watch(
    thing: object, name: str | None, level: str, lock: AbstractContextManager[object] | None
) -> Shedder:
    """Return the shedder of a cache or another thing of the table above. Raises TypeError."""
    # Of a method what is under it: the method itself is made anew at each access, and gone at once.
    thing = getattr(thing, "__func__", thing)
    if isinstance(thing, type):
        raise TypeError(f"{thing.__qualname__} is a class: its instances are what can be shed")
    if _find_way_of_thing(thing) is None:
        raise TypeError(
            f"a {_kind(thing)} cannot be shed: it has no shed(), cache_clear() or clear(), and is no mapping;"
            " shed_with() takes a callback"
        )
    try:
        found = weakref.ref(thing)
    except TypeError:
        raise TypeError(
            f"a {_kind(thing)} cannot be held weakly, and would be kept for ever; shed_with() takes a callback"
        ) from None
    return Shedder(found, name or _name(thing), level, lock)


def call(callback: Callback, name: str | None, level: str) -> Shedder:
    """Return a shedder that calls back. A method does not keep its object; any other callback is kept."""
    if not callable(callback):
        raise TypeError(f"a {_kind(callback)} cannot be called")
    find: Callable[[], object]
    if isinstance(callback, MethodType):
        method = weakref.WeakMethod(callback)

        def find() -> object:
            found = method()
            return None if found is None else _Callback(found)
    else:
        kept = _Callback(callback)

        def find() -> object:
            return kept

    return Shedder(find, name or _name(callback), level)


class _Callback:
    """A callback, which is called and nothing else, whatever methods it may have."""

    __slots__ = ("call",)

    def __init__(self, call: Callback) -> None:
        self.call = call


def _find_way(thing: object) -> Way:
    way = _find_way_of_thing(thing)
    assert way is not None
    return way


def _find_way_of_thing(thing: Any) -> Way | None:
    if isinstance(thing, _Callback):
        return _once(thing.call)
    if callable(shed := getattr(thing, "shed", None)):
        return _once(shed)
    if isinstance(cache := getattr(thing, "cache", None), MutableMapping):
        lock = getattr(thing, "cache_lock", None)
        return lambda target_bytes: _drop_half_under(lock, cache)
    if isinstance(thing, MutableMapping):
        return lambda target_bytes: _drop_half(thing)
    for name in ("cache_clear", "clear"):
        if callable(clear := getattr(thing, name, None)):
            return _all_at_once(clear)
    return None


def _once(shed: Callback) -> Way:
    def way(target_bytes: int) -> bool:
        shed(target_bytes)
        return False

    return way


def _all_at_once(clear: Callable[[], object]) -> Way:
    def way(target_bytes: int) -> bool:
        clear()
        return False

    return way


def _drop_half_under(lock: Any, cache: MutableMapping[Any, Any]) -> bool:
    if lock is None:
        return _drop_half(cache)
    with lock:
        return _drop_half(cache)


def _drop_half(cache: MutableMapping[Any, Any]) -> bool:
    """Drop the half that its own order gives up first; return whether there is another one.

    A cachetools cache knows by `popitem` what it misses least; a dict would give its newest there, so that of a dict
    the oldest go.
    """
    count = (len(cache) + 1) // 2
    if isinstance(cache, dict):
        for key in tuple(islice(cache, count)):
            cache.pop(key, None)
    else:
        for _ in range(count):
            try:
                cache.popitem()
            except KeyError:  # those left have run out of their time
                return False
    return len(cache) > 0


def _is_same_method(found: object, thing: object) -> bool:
    if isinstance(found, _Callback):
        # Methods are equal where object and function are the same; other callbacks only to themselves.
        return found.call is thing or (isinstance(thing, MethodType) and found.call == thing)
    return getattr(thing, "__func__", None) is found


def _name(thing: Any) -> str:
    name = getattr(thing, "__qualname__", None)
    return name if isinstance(name, str) else f"a {_kind(thing)}"


def _kind(thing: object) -> str:
    return type(thing).__qualname__
