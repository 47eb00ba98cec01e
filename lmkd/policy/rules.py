"""Rules: who matters, told like a firewall. They are tried in order, and the first that matches decides.

A rule matches when all of its conditions do. What it gives is its verdict. Nobody is read here: a process comes as a
value, with whatever was read of it.

A process may lower its own place by what it says of itself, never raise it. So where a rule *protects* (exempt, or
class system), a comm counts only when it is the one that exec gave: the file name of the executable. To call oneself
`sshd` by prctl protects nobody.

Matching is by bit masks. For each property, what the rules ask of it is worked out once for each value that comes
up, as a number with one bit for each rule; the masks of a process's properties are ANDed, and the lowest bit left is
its rule. 5,000 processes share a few hundred names, cgroups and users. Size and environment are asked only of the
rules that are left then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from lmkd.cgroup_paths import glob_base, glob_matches, paths_up
from lmkd.model import AppClass, Details, Process, Unit
from lmkd.policy.patterns import (
    COMM_BYTES,
    ExeTest,
    GlobTest,
    Test,
    TextTest,
    UnitTest,
    compile_text,
    exe_name,
    is_literal,
    present_exe,
    text_matches,
)

_REMEMBERED_MOST = 8192
"""Values of one property whose masks are kept; a machine of 5,000 processes has a few hundred."""

_PROCESSES_MOST = 16_384
"""Processes whose rules are kept, known by all that is asked early: the next ranking finds nearly all of them."""
_ALL = ("comm", "exe", "cgroup", "uid", "gid", "oom_score_adj", "parent_comm", "cmdline")

_SHORT_CHARS = 512

SUBJECTS = (
    "comm",
    "exe",
    "cmdline",
    "environ",
    "uid",
    "gid",
    "cgroup",
    "systemd_unit",
    "parent",
    "oom_score_adj",
    "resident",
    "registered",
)
"""What a rule may ask of, by the names of the configuration."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule gives."""

    app_class: AppClass
    unit: Unit = Unit.PROCESS
    grace_us: int | None = None
    """None, here and below: the class's, or the domain's."""
    time_to_exit_us: int | None = None
    exempt: bool = False
    """Never signalled, whatever its class."""
    bias: int = 0
    """-100 to 100: who has more goes earlier within the class."""
    least_kib: int | None = None
    """The least that a kill of it must free to be worth making."""
    ceiling: AppClass | None = None
    """The highest class that it may claim for itself when it registers."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that a rule asks."""

    subject: str
    test: Test


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule."""

    name: str
    place: str
    """Where it stands: "file:line"."""
    conditions: tuple[Condition, ...]
    verdict: Verdict
    shipped: bool = False
    """Whether it came with lmkd, and is not an administrator's."""

    @property
    def protects(self) -> bool:
        """Whether it puts a process out of reach."""
        return self.verdict.exempt or self.verdict.app_class is AppClass.SYSTEM

    def unit_path(self, cgroup: str) -> str:
        """Return what dies as a whole where the unit is the cgroup: the one that the rule names, or the process's own.

        A service may have sub-cgroups of its own; `/system.slice/db.service/**` and a systemd unit mean the service.
        """
        found = [
            path
            for condition in self.conditions
            if (path := _named_path(condition.test, cgroup)) is not None
        ]
        # All of them lie on the way to the process; who asks for a slice and a unit in it means the unit.
        return max(found, key=len, default=cgroup)


def _named_path(test: Test, cgroup: str) -> str | None:
    if isinstance(test, UnitTest):
        return test.find_path(cgroup)
    if isinstance(test, GlobTest):
        # Only by the globs that name this cgroup: another of the rule may name one above it, for itself alone.
        bases = [glob_base(glob) for glob in test.globs if glob_matches(glob, cgroup)]
        for path in reversed(paths_up(cgroup)):
            if any(glob_matches(base, path) for base in bases):
                return path
    return None


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one rule when it was tried on a process."""

    rule: Rule
    failed: str | None
    """Why it did not match; None: it did."""


@dataclass(frozen=True, eq=True)
class RuleSet:
    """All rules, in order."""

    rules: tuple[Rule, ...] = ()
    _masks: _Masks = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_masks", _Masks(self.rules))

    def find(self, process: Process, *, registered: bool = False) -> Rule | None:
        """Return the first rule that matches, None where none does."""
        # Looked up here, one call deep: ten thousand are asked for in one ranking.
        masks = self._masks
        known = masks.known_registered if registered else masks.known
        found = known.get(masks.key(process), _UNKNOWN)
        if found.__class__ is _Open:
            found = masks.find(process, found, registered=registered)
        return None if found is None else self.rules[found]  # type: ignore[index]

    def try_all(self, process: Process, *, registered: bool) -> Iterator[Tried]:
        """Yield every rule up to the one that matches, with why the others did not."""
        for rule in self.rules:
            failed = next(
                (
                    why
                    for condition in rule.conditions
                    if (why := _why_not(rule, condition, process, registered=registered))
                ),
                None,
            )
            yield Tried(rule, failed)
            if failed is None:
                return

    @property
    def details(self) -> Details:
        """What has to be read of a process so that all rules can be asked."""
        asked = {condition.subject for rule in self.rules for condition in rule.conditions}
        return Details(
            cmdline="cmdline" in asked, environ="environ" in asked, parent="parent" in asked
        )

    def least_kib(self, domain_least_kib: int) -> int:
        """Return the least size that some rule, or the domain, finds worth killing."""
        sizes = [r.verdict.least_kib for r in self.rules if r.verdict.least_kib is not None]
        return min([domain_least_kib, *sizes])

    @property
    def has_groups(self) -> bool:
        """Whether some rule's unit is more than a process: then all processes must be seen, however small."""
        return any(rule.verdict.unit is not Unit.PROCESS for rule in self.rules)


def is_short(process: Process) -> bool:
    """Whether what is said of a process is short enough to be remembered.

    Its paths and arguments may be 4 KiB each, and whoever chooses them is not to choose how much memory we hold.
    """
    texts = (process.comm, process.exe, process.cgroup, process.parent_comm, process.cmdline or "")
    return sum(map(len, texts)) <= _SHORT_CHARS


def is_given_name(process: Process) -> bool:
    """Whether its comm is the one that exec gave it; True where the executable cannot be read."""
    if not process.exe:
        return True
    name = exe_name(process.exe).encode(errors="surrogateescape")[:COMM_BYTES]
    return process.comm.encode(errors="surrogateescape") == name


def read_subject(subject: str, process: Process, *, registered: bool) -> Any:
    """Return what a process has of a subject; None where that was not read."""
    match subject:
        case "systemd_unit":
            return process.cgroup
        case "parent":
            return process.parent_comm or None
        case "resident":
            return process.resident_kib
        case "registered":
            return registered
        case _:
            return getattr(process, subject)


def condition_holds(
    rule: Rule, condition: Condition, process: Process, *, registered: bool
) -> bool:
    """Whether one condition of a rule holds of a process. What was not read holds nothing."""
    test: Any = condition.test
    if condition.subject == "comm":
        return test.accepts(process.comm) and (not rule.protects or is_given_name(process))
    if isinstance(test, ExeTest):
        return test.accepts(process.exe, process.comm)
    value = read_subject(condition.subject, process, registered=registered)
    if value is None:
        return False
    if condition.subject == "environ":
        return any(test.accepts(entry) for entry in value)
    return bool(test.accepts(value))


def _why_not(rule: Rule, condition: Condition, process: Process, *, registered: bool) -> str | None:
    if condition_holds(rule, condition, process, registered=registered):
        return None
    subject, expected = condition.subject, condition.test.expected
    if subject == "comm" and condition.test.accepts(process.comm):  # type: ignore[call-arg, arg-type]
        given = exe_name(process.exe)
        return (
            f"comm is {process.comm!r}, but that is not the name of its executable, which is {given!r}:"
            " it may have called itself so"
        )
    if isinstance(condition.test, ExeTest):
        return _why_not_exe(condition.test, process)
    value = read_subject(subject, process, registered=registered)
    if value is None:
        return f"{subject} is not known; wanted {expected}"
    if subject == "environ":
        return f"no variable is {expected}"
    if subject == "registered":
        return f"registered is {'yes' if value else 'no'}; wanted {expected}"
    if subject == "systemd_unit":
        return f"its cgroup {value} is of no unit {expected}"
    unit = " KiB" if subject == "resident" else ""
    return f"{subject} is {value!r}{unit}; wanted {expected}{unit}"


def _why_not_exe(test: ExeTest, process: Process) -> str:
    path = present_exe(process.exe)
    if not path:
        return f"exe cannot be read, and comm is {process.comm!r}; wanted {test.expected}"
    if any(
        "/" not in pattern and text_matches(pattern, exe_name(path)) for pattern in test.patterns
    ):
        return f"exe is {path!r}, which is no place where an administrator alone installs"
    return f"exe is {path!r}; wanted {test.expected}"


class _Texts:
    """What many rules ask of one text: exact values are looked up, and one expression asks for all others at once.

    Nearly every text is matched by no pattern at all, and that is found by one match of all of them as alternatives.
    """

    def __init__(self) -> None:
        self._exact: dict[str, int] = {}
        self._patterns: list[tuple[int, Callable[[str], object]]] = []
        self._sources: list[str] = []
        self._any: Callable[[str], object] | None = None

    def add(self, bit: int, patterns: tuple[str, ...]) -> None:
        for pattern in patterns:
            if is_literal(pattern):
                self._exact[pattern] = self._exact.get(pattern, 0) | bit
            else:
                self._patterns.append((bit, compile_text(pattern).fullmatch))
                self._sources.append(pattern)
                self._any = None

    def find(self, value: str) -> int:
        """Return the rules of which a pattern matches."""
        found = self._exact.get(value, 0)
        if self._patterns:
            if self._any is None:
                self._any = _any_of(self._sources)
            if self._any(value):
                for bit, matches in self._patterns:
                    if not found & bit and matches(value):
                        found |= bit
        return found


_REFERS = re.compile(r"\\[1-9]|\(\?P=|\(\?\(")
"""A pattern that refers to its own groups by number or name: joined to others it would mean another's."""


def _any_of(patterns: Sequence[str]) -> Callable[[str], object]:
    if not any(_REFERS.search(pattern) for pattern in patterns):
        # Two groups of one name, or flags for the whole, cannot be joined either.
        with suppress(re.error):
            joined = "|".join(f"(?:{pattern})" for pattern in patterns)
            return re.compile(joined, re.DOTALL).fullmatch
    return lambda value: True


class _Property:
    """One property of a process, or two that belong together: for each value the rules that it leaves possible."""

    def __init__(
        self, key: Callable[[Process], Any], subjects: tuple[str, ...], every: int
    ) -> None:
        self.key = key
        self.subjects = subjects
        self._every = every
        self._open = dict.fromkeys(subjects, every)
        """The rules that do not ask of a subject at all."""
        self._texts: dict[str, _Texts] = {}
        self._asking: dict[str, list[tuple[int, Rule, Condition]]] = {name: [] for name in subjects}
        self._known: dict[Any, int] = {}
        self._remembers = subjects != ("cmdline",)
        """Nearly every command line is another's; they are remembered with all the rest of a process, or not at all."""

    def add(self, bit: int, rule: Rule, condition: Condition) -> None:
        subject = condition.subject
        self._open[subject] &= ~bit
        if isinstance(condition.test, TextTest) and not (subject == "comm" and rule.protects):
            self._texts.setdefault(subject, _Texts()).add(bit, condition.test.patterns)
        else:
            self._asking[subject].append((bit, rule, condition))

    @property
    def is_asked(self) -> bool:
        return any(mask != self._every for mask in self._open.values())

    def possible(self, process: Process, *, registered: bool) -> int:
        """Return the rules that are possible by this property."""
        if not self._remembers:
            return self._work_out(process, registered=registered)
        value = (self.key(process), registered) if "registered" in self._open else self.key(process)
        found = self._known.get(value)
        if found is None:
            found = self._work_out(process, registered=registered)
            if len(self._known) >= _REMEMBERED_MOST:
                self._known.clear()
            if is_short(process):
                self._known[value] = found
        return found

    def _work_out(self, process: Process, *, registered: bool) -> int:
        possible = self._every
        for subject in self.subjects:
            found = self._open[subject]
            texts = self._texts.get(subject)
            if texts is not None:
                text = read_subject(subject, process, registered=registered)
                found |= 0 if text is None else texts.find(text)
            for bit, rule, condition in self._asking[subject]:
                if condition_holds(rule, condition, process, registered=registered):
                    found |= bit
            possible &= found
        return possible


@dataclass(frozen=True, slots=True)
class _Open:
    """The rules that are left, the first of which has late questions."""

    left: int


_UNKNOWN = _Open(-1)


class _Masks:
    """All properties, and what is asked last."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._every = (1 << len(rules)) - 1
        properties = (
            _Property(attrgetter("comm", "exe"), ("comm", "exe"), self._every),
            _Property(attrgetter("cgroup"), ("cgroup", "systemd_unit"), self._every),
            _Property(attrgetter("uid", "gid"), ("uid", "gid"), self._every),
            _Property(attrgetter("oom_score_adj"), ("oom_score_adj", "registered"), self._every),
            _Property(attrgetter("parent_comm"), ("parent",), self._every),
            _Property(attrgetter("cmdline"), ("cmdline",), self._every),
        )
        by_subject = {name: one for one in properties for name in one.subjects}
        self.late: list[tuple[Callable[[Process], bool], ...]] = []
        """By rule: what is asked last, of the rules that are left: size and environment."""
        for number, rule in enumerate(rules):
            late: list[Callable[[Process], bool]] = []
            for condition in rule.conditions:
                held = by_subject.get(condition.subject)
                if held is not None:
                    held.add(1 << number, rule, condition)
                else:
                    late.append(_late_question(rule, condition))
            self.late.append(tuple(late))
        self._asked = [one for one in properties if one.is_asked]
        self.key: Callable[[Process], Any] = attrgetter(*_ALL)
        self.known: dict[Any, int | _Open | None] = {}
        """By all that is asked early: the rule, None for none, or those that are left where late questions decide."""
        self.known_registered: dict[Any, int | _Open | None] = {}
        """The same for processes that registered."""

    def find(self, process: Process, found: int | _Open | None, *, registered: bool) -> int | None:
        """Return the place of the first rule that matches, None where none does; `found` is what is known of it."""
        if found is _UNKNOWN:
            found = self._decide(self._work_out(process, registered=registered))
            known = self.known_registered if registered else self.known
            if len(known) >= _PROCESSES_MOST:
                known.clear()
            if is_short(process):
                known[self.key(process)] = found
        if not isinstance(found, _Open):
            return found
        left = found.left
        while left:
            lowest = left & -left
            number = lowest.bit_length() - 1
            if all(ask(process) for ask in self.late[number]):
                return number
            left ^= lowest
        return None

    def _decide(self, left: int) -> int | _Open | None:
        number = (left & -left).bit_length() - 1
        if number < 0:
            return None
        return _Open(left) if self.late[number] else number

    def _work_out(self, process: Process, *, registered: bool) -> int:
        left = self._every
        for held in self._asked:
            left &= held.possible(process, registered=registered)
            if not left:
                break
        return left


def _late_question(rule: Rule, condition: Condition) -> Callable[[Process], bool]:
    # Whether it registered is asked early; a late question never looks at it.
    return lambda process: condition_holds(rule, condition, process, registered=False)
