"""Shed what this program holds until enough is free, and know how much that was.

    @lmkd_client.sheddable
    @functools.cache
    def thumbnail(path): ...

What can be shed is named once, where it is made; `shed_on_pressure`, and `App.shed` of each shell, do the rest.

- Least missed first: what malloc keeps for nobody; then what was named, `low` before `medium` before `critical`, and
  in the order in which it was named; garbage last, for to collect it touches all that a program has, and some of that
  may be in swap. At a level nothing is shed that was named for a higher one, and nothing once the target is met.
- Amounts are measured before and after each piece, and never added up from what anybody claims. What other threads
  take or give meanwhile is in them.
- What raises is logged by its name, and the next one goes on.
- Any thread may name, forget and shed, at any time: each is one operation of a dict. What one thread sheds just now
  another passes over.
"""

from __future__ import annotations

import time
from itertools import count

from lmkd_client.held_memory import Memory
from lmkd_client.shedder import LEVELS, Shedder, call, watch

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Any, TypeAlias, TypeVar, overload

    from lmkd_proto import Notice, Register

    from lmkd_client.registration import Grant

    T = TypeVar("T")
    F = TypeVar("F", bound=Callable[[int], object])
    Lock: TypeAlias = AbstractContextManager[object]
    Word: TypeAlias = tuple[str, int]
    """What to acknowledge: `done`, `working` or `nothing`, and how many bytes are free by now."""


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Shedders:
    """What can be shed. A program has one of them, SHEDDERS, and may have more."""

    def __init__(self, memory: Memory | None = None, now_ms: Callable[[], int] = _now_ms) -> None:
        self.memory = memory or Memory()
        self._now_ms = now_ms
        self._named: dict[int, Shedder] = {}
        self._numbers = count()

    def add(
        self,
        thing: object,
        *,
        name: str | None = None,
        level: str = "medium",
        lock: Lock | None = None,
    ) -> None:
        """Name a thing that can be shed (lmkd_client.shedder says which can). Raises TypeError."""
        self._put(thing, watch(thing, name, level, lock))

    def add_callback(
        self, callback: Callable[[int], object], *, name: str | None = None, level: str = "medium"
    ) -> None:
        """Name a callback that sheds; it is told how many bytes. Raises TypeError."""
        self._put(callback, call(callback, name, level))

    def forget(self, thing: object) -> bool:
        """Shed a thing, or call a callback, no more. Return whether it was known."""
        known = False
        for number, named in self._named.copy().items():
            if named.is_it(thing):
                known = self._named.pop(number, None) is not None or known
        return known

    def due(self, level: str) -> list[Shedder]:
        """List what may be shed at a level, what is missed least first."""
        there = []
        for number, named in self._named.copy().items():
            if named.is_gone:
                self._named.pop(number, None)
            else:
                there.append(named)
        reached = LEVELS[: LEVELS.index(level) + 1]
        return [named for word in reached for named in there if named.level == word]

    def shed(self, target_bytes: int | None = None, level: str = "critical") -> int:
        """Shed until so much is free, or without a target all that the level reaches; return what that gave."""
        if level not in LEVELS:
            raise ValueError(f"level: expected one of {' '.join(LEVELS)}; got {level!r}")
        shedding = Shedding(self.memory, self.due(level), target_bytes, self._now_ms)
        for _ in shedding:
            pass
        return shedding.freed_bytes

    def begin(self, notice: Notice, wanted: Register, grant: Grant) -> Shedding:
        """Begin to do what a notice asks for.

        An app that declared no amount is never asked for one: then the level alone asks for all that it reaches.
        """
        return Shedding(
            self.memory,
            self.due(notice.level),
            notice.target_bytes if wanted.sheddable_bytes else None,
            self._now_ms,
            deadline_ms=notice.deadline_ms,
            extension_ms=grant.grace_ms,
            emergency=notice.emergency,
        )

    def _put(self, thing: object, shedder: Shedder) -> None:
        self.forget(thing)
        self._named[next(self._numbers)] = shedder


class Shedding:
    """One time of it, a piece after the other, so that a loop may run in between.

    Iterate over it: before each piece it gives None or a word that is to be acknowledged, and at last the answer. It
    says `working` when half of the time has passed and more is to be done. When seven eighths of all the time have
    passed, the extension included, it begins nothing new, for an answer has to be there in time. Without a deadline
    time does not count; an emergency has none, and does not stop to collect garbage.
    """

    def __init__(
        self,
        memory: Memory,
        due: list[Shedder],
        target_bytes: int | None,
        now_ms: Callable[[], int],
        *,
        deadline_ms: int = 0,
        extension_ms: int = 0,
        emergency: bool = False,
    ) -> None:
        self.freed_bytes = 0
        self._memory = memory
        self._due = due
        self._target_bytes = target_bytes
        self._now_ms = now_ms
        self._deadline_ms = deadline_ms
        self._most_ms = deadline_ms + extension_ms
        self._emergency = emergency
        self._said_working = False
        self._began_ms = now_ms()
        self._before_bytes = memory.held_bytes()

    def __iter__(self) -> Iterator[Word | None]:
        self._measure()
        for shedder in self._due:
            more = True
            while more and self._goes_on():
                yield self._word()
                more = self._shed(shedder)
                self._measure()
        if not self._emergency and self._goes_on():
            yield self._word()
            self._memory.collect()
            self._measure()
        yield self.answer

    @property
    def answer(self) -> Word:
        """What to acknowledge in the end. Who was asked for nothing has not said that there is nothing."""
        has_nothing = self.freed_bytes == 0 and self._target_bytes != 0
        return "nothing" if has_nothing else "done", self.freed_bytes

    def _measure(self) -> None:
        self._memory.trim()
        self.freed_bytes = max(self._before_bytes - self._memory.held_bytes(), 0)

    def _shed(self, shedder: Shedder) -> bool:
        # Without a target: all that there is.
        asked_bytes = self._before_bytes if self._target_bytes is None else self._target_bytes
        try:
            return shedder.shed(max(asked_bytes - self.freed_bytes, 1))
        except Exception:  # whatever a program's own code raises
            import logging  # 30 ms (measured) that only a program with a mistake pays

            logging.getLogger("lmkd_client").exception("%s could not be shed", shedder.name)
            return False

    def _goes_on(self) -> bool:
        if self._target_bytes is not None and self.freed_bytes >= self._target_bytes:
            return False
        return not self._deadline_ms or 8 * self._elapsed_ms() < 7 * self._most_ms

    def _word(self) -> Word | None:
        if self._said_working or not self._deadline_ms:
            return None
        self._said_working = 2 * self._elapsed_ms() >= self._deadline_ms
        return ("working", self.freed_bytes) if self._said_working else None

    def _elapsed_ms(self) -> int:
        return self._now_ms() - self._began_ms


SHEDDERS = Shedders()
"""What can be shed of this program."""
_NOTHING = object()

if TYPE_CHECKING:

    @overload
    def sheddable(
        thing: T, *, name: str | None = None, level: str = "medium", lock: Lock | None = None
    ) -> T: ...

    @overload
    def sheddable(
        *, name: str | None = None, level: str = "medium", lock: Lock | None = None
    ) -> Callable[[T], T]: ...

    def sheddable(thing: Any = None, **named: Any) -> Any: ...

else:

    def sheddable(thing=_NOTHING, *, name=None, level="medium", lock=None):
        """Have a cache, or anything else that can be shed, shed from this level on; as a decorator, or called.

        It is returned as it is, and held weakly. While it is shed `lock` is held, if there is one: what other threads
        use needs one, unless it has its own, as functools' caches do. lmkd_client.shedder says what can be shed, and
        how. Raises TypeError.
        """

        def add(thing):
            SHEDDERS.add(thing, name=name, level=level, lock=lock)
            return thing

        return add if thing is _NOTHING else add(thing)


def shed_with(callback: F, *, name: str | None = None, level: str = "medium") -> F:
    """Have this called with the bytes to free, from this level on; a decorator too. What it returns does not count.

    A method does not keep its object: when that is collected, it is called no more. Anything else is kept until
    `forget`. Raises TypeError.
    """
    SHEDDERS.add_callback(callback, name=name, level=level)
    return callback


def forget(thing: object) -> bool:
    """Shed a thing, or call a callback, no more. Return whether it was known."""
    return SHEDDERS.forget(thing)


def shed(target_bytes: int | None = None, level: str = "critical") -> int:
    """Shed now, as if this level had come; without a target, all that it reaches. Return how many bytes that freed."""
    return SHEDDERS.shed(target_bytes, level)
