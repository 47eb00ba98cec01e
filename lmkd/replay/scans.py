"""Processes as scans saw them, kept compactly.

Scans come every 100 ms under pressure and are much alike. What of a process stays as it is (its *facts*) is kept once,
and so is each *row*: facts with the few figures that do change. A scan is then a list of row numbers, 4 bytes a
process where nothing changed.
"""

from __future__ import annotations

import dataclasses
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

from lmkd.model import Process
from lmkd.policy.settings import Settings
from lmkd.replay.codec import from_tree, to_tree
from lmkd.replay.errors import RecordingError
from lmkd.replay.packing import Tree, pack, shown, unpack_all

FIGURES = ("anon_kib", "swap_kib", "resident_kib", "state")
"""What changes of a process from scan to scan. Whatever else does makes new facts, which costs only room."""
_FACTS = tuple(field.name for field in dataclasses.fields(Process) if field.name not in FIGURES)
_read_facts: Callable[[Process], tuple[Any, ...]] = attrgetter(*_FACTS)
_read_figures: Callable[[Process], tuple[int, int, int, str]] = attrgetter(*FIGURES)
_ROW = len(FIGURES) + 1
FACTS_BYTES = 1_100
"""About what the facts of one process take, its key for finding them again included; texts longer than usual not."""
ROW_BYTES = 8 * _ROW
Patterns = tuple[Callable[[str], bool], ...]


def environ_tests(settings: Settings) -> Patterns:
    """Return all that the rules in force ask of an environment."""
    tests: dict[Any, Callable[[str], bool]] = {}
    for rule in settings.rules.rules:
        for condition in rule.conditions:
            if condition.subject == "environ":
                test: Any = condition.test
                tests[test] = test.accepts
    return tuple(tests.values())


class ProcessTable:
    """The facts and rows that the scans of one stretch of time share. It only grows."""

    def __init__(self) -> None:
        self.facts: list[Process] = []
        """Processes without their figures."""
        self.rows: array[int] = array("q")
        """Of each row its facts, three figures in KiB, and its state, as a place in `states`."""
        self.states: list[str] = []
        self.size_bytes = 0
        """An estimate, on the high side."""
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._latest: list[tuple[tuple[int, int, int, str] | None, int]] = []
        """By facts: the figures seen last, and their row."""
        self._tests: Patterns = ()
        self._environs: dict[tuple[int, int], tuple[int, tuple[str, ...]]] = {}
        """By process: the hash of its whole environment, and what of it these tests accept."""

    def add(self, processes: Iterable[Process], environ: Patterns) -> array[int]:
        """Return the row numbers of these processes, in their order.

        Of an environment only what one of the tests accepts is kept; nothing else can matter, and it is nobody's
        business what else is in it.
        """
        if environ is not self._tests:
            self._tests = environ
            self._environs.clear()
        numbers, latest = self._numbers, self._latest
        found = []
        for process in processes:
            if process.environ:
                process = self._without_secrets(process, process.environ)
            facts = _read_facts(process)
            number = numbers.get(facts)
            if number is None:
                number = self._learn(process, facts)
            figures = _read_figures(process)
            seen, row = latest[number]
            if seen != figures:
                row = self._add_row(number, figures)
                latest[number] = (figures, row)
            found.append(row)
        self.size_bytes += 80 + 4 * len(found)
        return array("I", found)

    def sealed(self, *, copied: bool) -> ProcessTable:
        """Return the table as it is to be written down: copied, where this one still grows meanwhile."""
        sealed = ProcessTable()
        sealed.facts, sealed.rows, sealed.states = self.facts, self.rows, self.states
        if copied:
            sealed.facts, sealed.rows = self.facts[:], self.rows[:]
            sealed.states = self.states[:]
        return sealed

    def _without_secrets(self, process: Process, environ: tuple[str, ...]) -> Process:
        identity, digest = (process.pid, process.start_ticks), hash(environ)
        known = self._environs.get(identity)
        if known is None or known[0] != digest:
            kept = tuple(one for one in environ if any(accepts(one) for accepts in self._tests))
            known = self._environs[identity] = (digest, kept)
        return dataclasses.replace(process, environ=known[1])

    def _learn(self, process: Process, facts: tuple[Any, ...]) -> int:
        number = len(self.facts)
        self.facts.append(
            dataclasses.replace(process, anon_kib=0, swap_kib=0, resident_kib=0, state="")
        )
        self._numbers[facts] = number
        self._latest.append((None, 0))
        self.size_bytes += FACTS_BYTES + len(process.cmdline or "")
        self.size_bytes += sum(60 + len(entry) for entry in process.environ or ())
        return number

    def _add_row(self, number: int, figures: tuple[int, int, int, str]) -> int:
        anon_kib, swap_kib, resident_kib, state = figures
        if state not in self.states:
            self.states.append(state)
        row = len(self.rows) // _ROW
        self.rows.extend((number, anon_kib, swap_kib, resident_kib, self.states.index(state)))
        self.size_bytes += ROW_BYTES
        return row

    # --- as bytes ----------------------------------------------------------------------------------------------

    def to_tree(self) -> Tree:
        """Return the table as a tree."""
        facts = b"".join(pack(to_tree(Process, process)) for process in self.facts)
        return {"facts": facts, "rows": array_to_bytes(self.rows), "states": self.states[:]}

    @property
    def row_count(self) -> int:
        return len(self.rows) // _ROW


def processes_from_tree(tree: Tree, file: str, what: str) -> list[Process]:
    """Return the processes of all rows of a table. Raises RecordingError."""
    packed, states = (
        tree.get("facts"),
        from_tree(tuple[str, ...], tree.get("states"), file, f"{what}.states"),
    )
    rows = array_from_bytes("q", tree.get("rows"), file, f"{what}.rows")
    if not isinstance(packed, bytes):
        raise RecordingError(file, f"{what}.facts: expected bytes, found {shown(packed)}")
    facts = [
        from_tree(Process, one, file, f"{what}.facts[{number}]")
        for number, one in enumerate(unpack_all(packed, file, f"{what}.facts"))
    ]
    if len(rows) % _ROW:
        raise RecordingError(file, f"{what}.rows: expected {_ROW} numbers each, found {len(rows)}")
    found = []
    for start in range(0, len(rows), _ROW):
        number, anon_kib, swap_kib, resident_kib, state = rows[start : start + _ROW]
        if not 0 <= number < len(facts) or not 0 <= state < len(states):
            raise RecordingError(
                file,
                f"{what}.rows[{start // _ROW}]: expected one of {len(facts)} processes and {len(states)} states,"
                f" found {number} and {state}",
            )
        found.append(
            dataclasses.replace(
                facts[number],
                anon_kib=anon_kib,
                swap_kib=swap_kib,
                resident_kib=resident_kib,
                state=states[state],
            )
        )
    return found


def pick_rows(
    processes: Sequence[Process], tree: Tree, file: str, what: str
) -> tuple[Process, ...]:
    """Return the processes of one scan. Raises RecordingError."""
    numbers = array_from_bytes("I", tree, file, what)
    try:
        return tuple([processes[number] for number in numbers])
    except IndexError:
        raise RecordingError(
            file, f"{what}: expected rows below {len(processes)}, found {max(numbers)}"
        ) from None


def array_to_bytes(numbers: array[int]) -> bytes:
    """Return numbers as bytes, the low ones first on every machine."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def array_from_bytes(kind: str, tree: Tree, file: str, what: str) -> array[int]:
    """Return the numbers that `array_to_bytes` wrote. Raises RecordingError."""
    found: array[int] = array(kind)
    if not isinstance(tree, bytes) or len(tree) % found.itemsize:
        raise RecordingError(file, f"{what}: expected bytes, {found.itemsize} for each number")
    found.frombytes(tree)
    if sys.byteorder == "big":
        found.byteswap()
    return found
