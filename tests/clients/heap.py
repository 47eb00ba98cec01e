"""A heap and a clock that a test sets: what is shed gives back what the test says it does, in no time or in some."""

from __future__ import annotations

from lmkd_client import Notice, Shedders
from lmkd_client.held_memory import Memory
from lmkd_client.registration import Grant
from lmkd_proto import Register

GRANT = Grant(7, "cached", "process", "system", 1000, 500)


class Heap(Memory):
    """Memory of so many bytes. `kept` of them go at the first trim, `garbage` of them at the first collection."""

    def __init__(self, held: int = 10_000, kept: int = 0, garbage: int = 0) -> None:
        self.held = held
        self.kept = kept
        self.garbage = garbage
        self.collections = 0
        self.now_ms = 0

    def held_bytes(self) -> int:
        return self.held

    def trim(self) -> None:
        self.held -= self.kept
        self.kept = 0

    def collect(self) -> None:
        self.collections += 1
        self.held -= self.garbage
        self.garbage = 0

    def shedders(self) -> Shedders:
        """Return shedders of this heap."""
        return Shedders(self, lambda: self.now_ms)


class Block:
    """Something that gives back so many bytes, once, and takes its time for it."""

    def __init__(self, heap: Heap, size: int, takes_ms: int = 0) -> None:
        self._heap = heap
        self._takes_ms = takes_ms
        self.size = size
        self.asked: list[int] = []

    def shed(self, target_bytes: int) -> None:
        self.asked.append(target_bytes)
        self._heap.now_ms += self._takes_ms
        self._heap.held -= self.size
        self.size = 0


def notice(
    level: str = "critical",
    target_bytes: int = 1000,
    deadline_ms: int = 1000,
    *,
    emergency: bool = False,
) -> Notice:
    """Return a notice."""
    return Notice(
        1, "system", level, target_bytes, 0 if emergency else deadline_ms, "a test", emergency
    )


def declared(sheddable_bytes: int = 5000) -> Register:
    """Return a registration of something that can free so much."""
    return Register(0, "a test", "cached", sheddable_bytes)
