"""Rules that are written as they should be, and yet odd."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from lmkd.config import load_config
from lmkd.model import AppClass, Process, Unit
from lmkd.policy.lint import Finding, guarded_names, lint_rules, rule_covers
from lmkd.policy.patterns import ExeTest, FlagTest, GlobTest, RangeTest, TextTest, UnitTest
from lmkd.policy.rules import Rule, RuleSet, Verdict

from .test_rules import CACHED, DB, PROCESSES, RULES, SAFE, rule

SHIPPED = load_config([]).settings.rules.rules
GUARDED = guarded_names(SHIPPED)


def findings(*rules: Rule) -> list[tuple[str, str]]:
    """Return who is odd and how it begins, with the shipped rules behind these."""
    return [(one.rule, one.text) for one in lint_rules(RuleSet((*rules, *SHIPPED)), GUARDED)]


def test_the_shipped_rules_are_not_odd() -> None:
    assert lint_rules(RuleSet(SHIPPED), GUARDED) == []


def test_the_names_to_guard_are_those_by_which_rules_protect_executables() -> None:
    assert {"systemd", "sshd", "dbus-daemon", "sddm", "gnome-shell", "pipewire"} <= set(GUARDED)
    assert guarded_names(
        [rule(verdict=SAFE, exe=ExeTest(("a", "b.*", "/c"))), rule(exe=ExeTest(("d",)))]
    ) == ("a",)


# --- never reached ----------------------------------------------------------------------------------------------------


def test_a_rule_behind_one_that_takes_all_it_would_is_told() -> None:
    first = rule("first", comm=TextTest(("make", "ninja")))
    second = rule("second", comm=TextTest(("ninja",)), uid=RangeTest(((1000, None),)))
    assert findings(first, second) == [
        (
            "second",
            "this rule can never match: 'first' (test:first) comes first, and takes all that it would",
        )
    ]
    assert findings(second, first) == []


def test_a_shipped_rule_is_not_told_of_one_that_takes_its_place() -> None:
    """An administrator who orders oom_score_adj anew means to."""
    assert findings(rule("mine", oom_score_adj=RangeTest(((100, 1000),)))) == []


def test_a_protecting_comm_takes_only_executables_of_that_name() -> None:
    named = rule("a", SAFE, comm=TextTest(("db",)), uid=RangeTest(((5, 5),)))
    other = rule("b", comm=TextTest(("db",)), uid=RangeTest(((5, 5),)))
    assert not rule_covers(named, other)
    assert rule_covers(named, rule("c", SAFE, comm=TextTest(("db",)), uid=RangeTest(((5, 5),))))
    assert rule_covers(other, named)


@settings(derandomize=True, deadline=None, max_examples=250)
@given(RULES, PROCESSES)
def test_a_rule_that_is_said_to_be_covered_never_decides(rules: list[Rule], one: Process) -> None:
    rules = [replace(each, name=str(number)) for number, each in enumerate(rules)]
    decided = RuleSet(tuple(rules)).find(one, registered=False)
    if decided is not None:
        assert not any(rule_covers(earlier, decided) for earlier in rules[: int(decided.name)])


# --- the never-kill set -----------------------------------------------------------------------------------------------


def test_a_rule_that_lets_die_what_cannot_be_lost_is_told_with_the_names() -> None:
    assert findings(rule("mine", comm=TextTest(("gnome-shell", "Xorg", "make")))) == [
        (
            "mine",
            "lets die what a machine or a session cannot lose, before the shipped rules protect it:"
            " Xorg, gnome-shell",
        )
    ]


def test_a_rule_that_lets_everything_die_is_told_in_short() -> None:
    ((name, text),) = findings(rule("all"))
    assert name == "all"
    assert text.endswith(f"and {len(GUARDED) - 8} more")


@pytest.mark.parametrize(
    "harmless",
    [
        rule("mine", verdict=SAFE, exe=ExeTest(("gnome-shell",))),
        rule("mine", comm=TextTest(("make",))),
        rule("mine", exe=ExeTest(("/home/.*",))),
        rule("mine", uid=RangeTest(((70_000, None),))),
        rule("mine", systemd_unit=UnitTest(("db.service",))),
    ],
)
def test_a_rule_that_leaves_them_alone_is_not_told(harmless: Rule) -> None:
    assert findings(harmless) == []


@pytest.mark.parametrize(
    "reaches",
    [
        rule("mine", uid=RangeTest(((0, 0),))),
        rule("mine", cgroup=GlobTest(("/user.slice/**",))),
        rule("mine", cgroup=GlobTest(("/system.slice/**",))),
        rule("mine", cmdline=TextTest((".*/sshd.*",))),
        rule("mine", parent=TextTest(("systemd",))),
        rule("mine", resident=RangeTest(((1024, None),))),
    ],
)
def test_they_are_looked_for_as_services_and_in_sessions(reaches: Rule) -> None:
    ((name, text),) = findings(reaches)
    assert name == "mine"
    assert text.startswith("lets die what a machine or a session cannot lose")


def test_a_never_kill_set_that_no_rule_covers_any_more_is_told() -> None:
    left = tuple(one for one in SHIPPED if "message bus" not in one.name)
    assert lint_rules(RuleSet(left), GUARDED) == [
        Finding(
            "",
            "",
            "no rule protects any more what a machine or a session cannot lose:"
            " dbus-daemon, dbus-broker, dbus-broker-launch",
            ("dbus-daemon", "dbus-broker", "dbus-broker-launch"),
        )
    ]


# --- protected by one's own word --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gullible", "said"),
    [
        (rule("mine", SAFE, comm=TextTest(("db",))), "comm"),
        (rule("mine", Verdict(AppClass.SYSTEM), cmdline=TextTest(("db",))), "cmdline"),
        (
            rule("mine", SAFE, environ=TextTest(("A=1",)), parent=TextTest(("sh",))),
            "environ and parent",
        ),
        (rule("mine", SAFE, registered=FlagTest(True)), "registered"),
        (rule("mine", SAFE, resident=RangeTest(((9, None),))), "resident"),
        (rule("mine", SAFE, exe=ExeTest((".*/db",))), "exe"),
        (rule("mine", SAFE, oom_score_adj=RangeTest(((500, None),))), "oom_score_adj"),
    ],
)
def test_a_rule_that_protects_whoever_says_the_right_thing_is_told(
    gullible: Rule, said: str
) -> None:
    ((name, text),) = findings(gullible)
    assert name == "mine"
    assert text.startswith(f"protects whoever has the right {said}, and anybody can see to that")


@pytest.mark.parametrize(
    "vouched",
    [
        rule("mine", SAFE, comm=TextTest(("db",)), exe=ExeTest(("db",))),
        rule("mine", SAFE, comm=TextTest(("db",)), uid=RangeTest(((5, 5),))),
        rule("mine", SAFE, gid=RangeTest(((5, 5),))),
        rule("mine", SAFE, cgroup=GlobTest((DB,))),
        rule("mine", SAFE, systemd_unit=UnitTest(("db.service",))),
        rule("mine", SAFE, oom_score_adj=RangeTest(((None, -500),))),
        rule("mine", SAFE, exe=ExeTest(("/home/me/db",))),
        rule("mine", Verdict(AppClass.FOREGROUND), comm=TextTest(("vim",))),
    ],
)
def test_a_rule_that_rests_on_what_others_say_is_not_told(vouched: Rule) -> None:
    assert findings(vouched) == []


def test_a_rule_that_protects_everything_is_told() -> None:
    assert findings(rule("mine", SAFE)) == [
        ("mine", "protects everything that no earlier rule names")
    ]


# --- whole cgroups ----------------------------------------------------------------------------------------------------

WHOLE = Verdict(AppClass.CACHED, unit=Unit.CGROUP)


def test_a_rule_by_which_a_cgroup_dies_that_nobody_named_is_told() -> None:
    ((name, text),) = findings(rule("mine", WHOLE, comm=TextTest(("make",))))
    assert (name, text[:45]) == ("mine", "whatever cgroup such a process is in dies as ")


@pytest.mark.parametrize(
    "named",
    [
        rule("mine", WHOLE, cgroup=GlobTest((DB,))),
        rule("mine", WHOLE, systemd_unit=UnitTest(("db.service",))),
        rule("mine", CACHED, comm=TextTest(("make",))),
        rule("mine", Verdict(AppClass.SYSTEM, unit=Unit.CGROUP), uid=RangeTest(((5, 5),))),
    ],
)
def test_a_rule_that_names_its_cgroup_is_not_told(named: Rule) -> None:
    assert findings(named) == []
