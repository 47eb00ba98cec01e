"""What is odd about rules that are written as they should be: found before any bad day, told as warnings.

Pure: rules in, findings out. Nothing found here keeps a configuration from being used; where a rule stands in its file
is known to whoever read it, by its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from lmkd.model import Process, Unit
from lmkd.policy.patterns import (
    COMM_BYTES,
    ExeTest,
    GlobTest,
    RangeTest,
    UnitTest,
    covers,
    is_literal,
)
from lmkd.policy.rules import Rule, RuleSet

_SAID_BY_ITSELF = ("comm", "cmdline", "environ", "parent", "resident", "registered")
"""What a process, or whoever starts it, settles without anybody's leave."""
_PROBED_UIDS = (0, 1000)
_PROBED_CGROUPS = (
    "/system.slice/{name}.service",
    "/user.slice/user-1000.slice/session-2.scope",
    "/user.slice/user-1000.slice/user@1000.service/session.slice/{name}.service",
)
_NAMES_TOLD = 8


class Finding(NamedTuple):
    """One thing that is odd."""

    rule: str
    """The name of the rule that it is about; "" where none is to blame but the sets."""
    key: str
    """Of the rule, where it is about one: "match"."""
    text: str
    names: tuple[str, ...] = ()
    """The programs that it is about, if any."""


def lint_rules(rules: RuleSet, guarded: Iterable[str] = ()) -> list[Finding]:
    """Return what is odd, in the order of the rules.

    `guarded`: names of the programs that a machine or a session cannot lose, as the shipped rules have them.
    """
    own = [rule for rule in rules.rules if not rule.shipped]
    return [
        *find_covered(own),
        *find_unguarded(rules, guarded),
        *find_gullible(own),
        *find_unnamed_cgroups(own),
    ]


def find_covered(rules: Sequence[Rule]) -> Iterator[Finding]:
    """Yield the rules that can never decide, because an earlier one takes all that they would match."""
    for number, rule in enumerate(rules):
        for earlier in rules[:number]:
            if rule_covers(earlier, rule):
                yield Finding(
                    rule.name,
                    "match",
                    f"this rule can never match: {earlier.name!r} ({earlier.place}) comes first,"
                    " and takes all that it would",
                )
                break


def rule_covers(outer: Rule, inner: Rule) -> bool:
    """Whether whatever one rule matches is matched by the other, as far as can be told."""
    for condition in outer.conditions:
        if condition.subject == "comm" and outer.protects and not inner.protects:
            # Where a rule protects, a comm counts only when it is the executable's: it takes fewer.
            return False
        if not any(
            condition.subject == other.subject and covers(condition.test, other.test)
            for other in inner.conditions
        ):
            return False
    return True


def find_unguarded(rules: RuleSet, guarded: Iterable[str]) -> Iterator[Finding]:
    """Yield the rules that let somebody die whom the shipped ones keep out of reach.

    Nothing is proved: each name is tried as an installed program, of root and of a user, as a service and in a session.
    """
    lost: dict[Rule | None, dict[str, None]] = {}
    for name in guarded:
        for probe in _probes(name):
            rule = rules.find(probe, registered=False)
            if rule is None or not rule.protects:
                to_blame = None if rule is None or rule.shipped else rule
                lost.setdefault(to_blame, {})[name] = None
    for rule in sorted((rule for rule in lost if rule is not None), key=rules.rules.index):
        yield Finding(
            rule.name,
            "match",
            "lets die what a machine or a session cannot lose, before the shipped rules protect it:"
            f" {_listed(lost[rule])}",
            tuple(lost[rule]),
        )
    if None in lost:
        yield Finding("", "", lost_words(lost[None]), tuple(lost[None]))


def lost_words(names: Iterable[str]) -> str:
    """Return what is said of programs that nothing protects any more."""
    return f"no rule protects any more what a machine or a session cannot lose: {_listed(names)}"


def _probes(name: str) -> Iterator[Process]:
    for uid in _PROBED_UIDS:
        for cgroup in _PROBED_CGROUPS:
            yield Process(
                pid=2,
                start_ticks=1,
                ppid=1,
                comm=name[:COMM_BYTES],
                exe=f"/usr/bin/{name}",
                uid=uid,
                gid=uid,
                cgroup=cgroup.format(name=name),
                oom_score_adj=0,
                anon_kib=1 << 20,
                resident_kib=1 << 20,
                swap_kib=0,
                state="S",
                parent_comm="systemd",
                cmdline=f"/usr/bin/{name}",
                environ=(),
            )


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    left = len(listed) - _NAMES_TOLD
    return ", ".join(listed[:_NAMES_TOLD]) + (f" and {left} more" if left > 0 else "")


def find_gullible(rules: Sequence[Rule]) -> Iterator[Finding]:
    """Yield the rules that put out of reach whoever says the right thing of himself."""
    for rule in rules:
        if not rule.protects or any(
            _is_vouched_for(condition.test, condition.subject) for condition in rule.conditions
        ):
            continue
        if not rule.conditions:
            yield Finding(rule.name, "match", "protects everything that no earlier rule names")
            continue
        said = " and ".join(condition.subject for condition in rule.conditions)
        yield Finding(
            rule.name,
            "match",
            f"protects whoever has the right {said}, and anybody can see to that:"
            " add exe, uid, cgroup or systemd_unit",
        )


def _is_vouched_for(test: object, subject: str) -> bool:
    if subject in _SAID_BY_ITSELF:
        return False
    if isinstance(test, ExeTest):
        # A pattern that begins with anything takes a file that anybody put anywhere.
        return not any("/" in pattern and pattern.startswith(".*") for pattern in test.patterns)
    if subject == "oom_score_adj" and isinstance(test, RangeTest):
        # Raising it is free, lowering it takes CAP_SYS_RESOURCE (fs/proc/base.c, 6.1).
        return all(most is not None and most < 0 for _, most in test.spans)
    return True


def find_unnamed_cgroups(rules: Sequence[Rule]) -> Iterator[Finding]:
    """Yield the rules by which a whole cgroup dies that nobody named."""
    for rule in rules:
        if rule.protects or rule.verdict.unit is not Unit.CGROUP:
            continue
        if not any(
            isinstance(condition.test, GlobTest | UnitTest) for condition in rule.conditions
        ):
            yield Finding(
                rule.name,
                "unit",
                "whatever cgroup such a process is in dies as a whole, be it a whole session:"
                " add cgroup or systemd_unit",
            )


def guarded_names(rules: Iterable[Rule]) -> tuple[str, ...]:
    """Return the names that protecting rules know executables by."""
    return tuple(
        dict.fromkeys(
            pattern
            for rule in rules
            if rule.protects
            for condition in rule.conditions
            if isinstance(condition.test, ExeTest)
            for pattern in condition.test.patterns
            if "/" not in pattern and is_literal(pattern)
        )
    )
