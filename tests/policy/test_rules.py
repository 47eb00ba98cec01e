"""Rules: the first that matches decides, whoever names itself after another gains nothing, and masks change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkd.config.matches import MATCHES
from lmkd.model import AppClass, Details, Process, Unit
from lmkd.policy.patterns import (
    ExeTest,
    FlagTest,
    GlobTest,
    RangeTest,
    Test,
    TextTest,
    UnitTest,
)
from lmkd.policy.rules import SUBJECTS, Condition, Rule, RuleSet, Verdict, is_given_name

from .scenes import process

CACHED = Verdict(AppClass.CACHED)
SAFE = Verdict(AppClass.SYSTEM, exempt=True)
DB = "/system.slice/db.service"


def rule(name: str = "rule", verdict: Verdict = CACHED, **asked: Test) -> Rule:
    """Return a rule that asks for this."""
    return asking(asked, name, verdict)


def asking(asked: Mapping[str, Test], name: str = "rule", verdict: Verdict = CACHED) -> Rule:
    """Return a rule that asks for this, by names that are worked out."""
    conditions = tuple(Condition(subject, test) for subject, test in asked.items())
    return Rule(name, f"test:{name}", conditions, verdict)


def found(one: Process, *rules: Rule, registered: bool = False) -> str | None:
    """Return the name of the rule that decides."""
    decided = RuleSet(rules).find(one, registered=registered)
    return None if decided is None else decided.name


def failure(one: Process, tried: Rule, *, registered: bool = False) -> str | None:
    """Return why a rule does not match."""
    (result,) = RuleSet((tried,)).try_all(one, registered=registered)
    assert result.rule is tried
    return result.failed


def test_the_first_rule_that_matches_decides() -> None:
    rules = (
        rule("a", comm=TextTest(("x",))),
        rule("b", comm=TextTest(("prog",))),
        rule("c"),
    )
    assert found(process(7), *rules) == "b"
    assert found(process(7, comm="other"), *rules) == "c"
    assert found(process(7, comm="other"), *rules[:2]) is None
    assert found(process(7)) is None


def test_all_that_a_rule_asks_must_hold() -> None:
    both = rule(comm=TextTest(("prog",)), uid=RangeTest(((1000, None),)))
    assert found(process(7), both) == "rule"
    assert found(replace(process(7), uid=999), both) is None
    assert found(process(7, comm="x"), both) is None


@pytest.mark.parametrize(
    ("subject", "test", "holds", "fails"),
    [
        ("comm", TextTest(("pr.*",)), {}, {"comm": "x"}),
        ("exe", ExeTest(("prog",)), {}, {"exe": "/home/me/prog"}),
        ("exe", ExeTest(("/usr/bin/prog",)), {"exe": "/usr/bin/prog (deleted)"}, {"exe": "/usr/bin/p"}),
        ("cmdline", TextTest(("prog -x.*",)), {"cmdline": "prog -xy"}, {"cmdline": "prog"}),
        ("environ", TextTest(("A=1",)), {"environ": ("B=2", "A=1")}, {"environ": ("A=12",)}),
        ("uid", RangeTest(((5, 6),)), {"uid": 5}, {"uid": 7}),
        ("gid", RangeTest(((5, 6),)), {"gid": 6}, {"gid": 4}),
        ("cgroup", GlobTest((DB + "/**",)), {"cgroup": DB + "/x"}, {"cgroup": "/"}),
        ("cgroup", GlobTest((DB,)), {"cgroup": DB}, {"cgroup": DB + "/x"}),
        ("systemd_unit", UnitTest(("db.service",)), {"cgroup": DB + "/x"}, {"cgroup": "/"}),
        ("parent", TextTest(("make",)), {"parent_comm": "make"}, {"parent_comm": "sh"}),
        ("parent", TextTest((".*",)), {"parent_comm": "make"}, {"parent_comm": ""}),
        ("oom_score_adj", RangeTest(((None, -1),)), {"oom_score_adj": -1}, {"oom_score_adj": 0}),
        ("resident", RangeTest(((10, None),)), {"resident_kib": 10}, {"resident_kib": 9}),
    ],
)  # fmt: skip
def test_each_thing_that_can_be_asked(
    subject: str, test: Test, holds: dict[str, Any], fails: dict[str, Any]
) -> None:
    asks = asking({subject: test})
    assert found(replace(process(7), **holds), asks) == "rule"
    assert failure(replace(process(7), **holds), asks) is None
    assert found(replace(process(7), **fails), asks) is None
    assert failure(replace(process(7), **fails), asks) is not None


def test_whether_it_registered_can_be_asked() -> None:
    yes, no = rule("yes", registered=FlagTest(True)), rule("no", registered=FlagTest(False))
    assert found(process(7), yes, no, registered=True) == "yes"
    assert found(process(7), yes, no) == "no"


@pytest.mark.parametrize("subject", ["cmdline", "environ"])
def test_what_was_not_read_matches_nothing(subject: str) -> None:
    asks = asking({subject: TextTest((".*",))})
    assert found(process(7), asks) is None
    assert failure(process(7), asks) == f"{subject} is not known; wanted '.*'"


# --- a process may lower its own place by what it says of itself, never raise it --------------------------------------


@pytest.mark.parametrize(
    "verdict", [SAFE, Verdict(AppClass.SYSTEM), Verdict(AppClass.CACHED, exempt=True)]
)
@pytest.mark.parametrize("pattern", ["sshd", "ss.*"])
def test_a_comm_that_a_process_gave_itself_protects_nobody(verdict: Verdict, pattern: str) -> None:
    protects = rule(verdict=verdict, comm=TextTest((pattern,)))
    assert protects.protects
    for exe in ("/usr/bin/leak", "/home/eve/leak", "/usr/sbin/sshd-x"):
        renamed = process(7, comm="sshd", exe=exe)
        assert found(renamed, protects) is None
        assert "it may have called itself so" in (failure(renamed, protects) or "")
    assert found(process(7, comm="sshd", exe="/usr/sbin/sshd"), protects) == "rule"
    assert found(process(7, comm="sshd", exe="/usr/sbin/sshd (deleted)"), protects) == "rule"
    # Unreadable: its own word has to do.
    assert found(process(7, comm="sshd", exe=""), protects) == "rule"


def test_a_comm_that_a_process_gave_itself_counts_where_nothing_is_protected() -> None:
    for verdict in (CACHED, Verdict(AppClass.FOREGROUND)):
        assert found(
            process(7, comm="Web Content"), rule(verdict=verdict, comm=TextTest(("Web Content",)))
        )


@pytest.mark.parametrize(
    ("comm", "exe", "given_by_exec"),
    [
        ("a", "/usr/bin/a", True),
        ("gnome-session-b", "/usr/bin/gnome-session-binary", True),
        ("gnome-session", "/usr/bin/gnome-session-binary", False),
        ("ééééééé", "/usr/bin/éééééééé", False),  # 14 bytes of 16, and the kernel keeps 15
        ("x", "", True),
        ("foo) Z 1 (", "/tmp/foo) Z 1 (", True),
    ],
)
def test_the_name_that_exec_gives_is_that_of_the_file_as_far_as_the_kernel_keeps_it(
    comm: str, exe: str, given_by_exec: bool
) -> None:
    assert is_given_name(process(7, comm=comm, exe=exe)) is given_by_exec


def test_a_process_called_like_a_line_of_stat_is_matched_by_that_name_alone() -> None:
    hostile = process(7, comm="foo) Z 1 (", exe="/tmp/x")
    assert found(hostile, rule(comm=TextTest(("foo",)))) is None
    assert found(hostile, rule(comm=TextTest((r"foo\) Z 1 \(",)))) == "rule"


# --- why a rule did not match -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "changed", "why"),
    [
        ({"comm": TextTest(("x",))}, {}, "comm is 'prog'; wanted 'x'"),
        ({"exe": ExeTest(("x",))}, {}, "exe is '/usr/bin/prog'; wanted 'x'"),
        (
            {"exe": ExeTest(("x",))},
            {"exe": ""},
            "exe cannot be read, and comm is 'prog'; wanted 'x'",
        ),
        (
            {"exe": ExeTest(("prog",))},
            {"exe": "/home/eve/prog"},
            "exe is '/home/eve/prog', which is no place where an administrator alone installs",
        ),
        ({"uid": RangeTest(((0, 999),))}, {}, "uid is 1000; wanted 0 to 999"),
        ({"cgroup": GlobTest(("/a",))}, {}, "cgroup is '/'; wanted '/a'"),
        ({"systemd_unit": UnitTest(("a",))}, {}, "its cgroup / is of no unit 'a'"),
        ({"environ": TextTest(("A=1",))}, {"environ": ()}, "no variable is 'A=1'"),
        ({"parent": TextTest(("sh",))}, {}, "parent is not known; wanted 'sh'"),
        ({"registered": FlagTest(True)}, {}, "registered is no; wanted yes"),
        ({"registered": FlagTest(False)}, {"registered": True}, "registered is yes; wanted no"),
        ({"resident": RangeTest(((9, None),))}, {}, "resident is 0 KiB; wanted at least 9 KiB"),
        # the first thing that fails is told
        ({"comm": TextTest(("prog",)), "gid": RangeTest(((1, 1),))}, {}, "gid is 0; wanted 1"),
    ],
)
def test_why_a_rule_does_not_match(
    asked: dict[str, Test], changed: dict[str, Any], why: str
) -> None:
    read = {name: value for name, value in changed.items() if name != "registered"}
    registered = "registered" in changed
    assert failure(replace(process(7), **read), asking(asked), registered=registered) == why


def test_rules_are_tried_up_to_the_one_that_matches() -> None:
    rules = RuleSet((rule("a", comm=TextTest(("x",))), rule("b"), rule("c")))
    tried = list(rules.try_all(process(7), registered=False))
    assert [(one.rule.name, one.failed is None) for one in tried] == [("a", False), ("b", True)]


# --- units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "cgroup", "path"),
    [
        ({}, "/a/b", "/a/b"),
        ({"comm": TextTest(("prog",))}, "/a/b", "/a/b"),
        ({"cgroup": GlobTest((DB,))}, DB, DB),
        ({"cgroup": GlobTest((DB + "/**",))}, DB + "/x/y", DB),
        ({"cgroup": GlobTest(("/a/*",))}, "/a/b", "/a/b"),
        ({"cgroup": GlobTest(("/a/*/**",))}, "/a/b/c", "/a/b"),
        ({"systemd_unit": UnitTest(("db.service",))}, DB + "/x", DB),
        # another glob of the rule names a cgroup above it, but for itself alone
        ({"cgroup": GlobTest(("/a", "/a/b/c"))}, "/a/b/c", "/a/b/c"),
        # a slice and a unit in it: the unit
        ({"cgroup": GlobTest(("/system.slice/**",)), "systemd_unit": UnitTest(("db.service",))}, DB + "/x", DB),
        ({"systemd_unit": UnitTest(("db.service",)), "cgroup": GlobTest(("/system.slice/**",))}, DB + "/x", DB),
    ],
)  # fmt: skip
def test_what_dies_as_a_whole_is_the_cgroup_that_the_rule_names(
    asked: dict[str, Test], cgroup: str, path: str
) -> None:
    assert asking(asked).unit_path(cgroup) == path


def test_a_cgroup_that_a_rule_does_not_name_is_its_own_unit() -> None:
    assert rule(systemd_unit=UnitTest(("a.service",))).unit_path("/b") == "/b"
    assert rule(cgroup=GlobTest(("/a/**",))).unit_path("/b") == "/b"


def test_a_rule_set_knows_what_must_be_read_and_seen() -> None:
    plain = RuleSet((rule(comm=TextTest(("a",))),))
    assert plain.details == Details()
    assert not plain.has_groups
    assert plain.least_kib(100) == 100
    whole = RuleSet(
        (
            rule("a", Verdict(AppClass.CACHED, least_kib=50), cmdline=TextTest(("a",))),
            rule("b", Verdict(AppClass.CACHED, unit=Unit.TREE, least_kib=70)),
            rule("c", parent=TextTest(("a",)), environ=TextTest(("a=",))),
        )
    )
    assert whole.details == Details(cmdline=True, environ=True, parent=True)
    assert whole.has_groups
    assert (whole.least_kib(100), whole.least_kib(20)) == (50, 20)


def test_equal_rules_are_equal_whatever_was_asked_of_them() -> None:
    first, second = RuleSet((rule(),)), RuleSet((rule(),))
    first.find(process(7), registered=False)
    assert first == second
    assert hash(first) == hash(second)


# --- the masks against asking one after another -----------------------------------------------------------------------

TEXTS = st.lists(
    st.sampled_from(
        ["a", "b", "ab", "a.*", ".*", "[ab]", "a|b", "c=1", "c=.*", r"(.)\1", "(?i)A", "(?P<x>a)b"]
    ),
    min_size=1,
    max_size=3,
)
EXES = st.lists(
    st.sampled_from(["a", "b", ".*", "/usr/bin/a", "/home/a", "/usr/.*", "/home/.*"]),
    min_size=1,
    max_size=3,
)
GLOBS = st.lists(
    st.sampled_from(["/", "/a", "/a/**", "/a/*", "/**", "/s/a.service"]), min_size=1, max_size=3
)
UNITS = st.lists(st.sampled_from(["a.service", "*.service", "b.*"]), min_size=1, max_size=2)
BOUND = st.none() | st.integers(-1, 2)
SPANS = st.lists(st.tuples(BOUND, BOUND), min_size=1, max_size=2)
ASKED: dict[str, st.SearchStrategy[Test]] = {
    **dict.fromkeys(
        ("comm", "cmdline", "environ", "parent"), TEXTS.map(lambda all_: TextTest(tuple(all_)))
    ),
    "exe": EXES.map(lambda all_: ExeTest(tuple(all_))),
    "cgroup": GLOBS.map(lambda all_: GlobTest(tuple(all_))),
    "systemd_unit": UNITS.map(lambda all_: UnitTest(tuple(all_))),
    **dict.fromkeys(
        ("uid", "gid", "oom_score_adj", "resident"), SPANS.map(lambda all_: RangeTest(tuple(all_)))
    ),
    "registered": st.booleans().map(FlagTest),
}
VERDICTS = st.sampled_from([CACHED, SAFE, Verdict(AppClass.SYSTEM), Verdict(AppClass.SERVICE)])
RULES = st.lists(
    st.builds(
        Rule,
        name=st.just("r"),
        place=st.just("p"),
        conditions=st.fixed_dictionaries({}, optional=ASKED).map(
            lambda asked: tuple(Condition(subject, test) for subject, test in asked.items())
        ),
        verdict=VERDICTS,
    ),
    max_size=8,
)
PROCESSES = st.builds(
    Process,
    pid=st.just(7),
    start_ticks=st.just(1),
    ppid=st.just(1),
    comm=st.sampled_from(["a", "b", "ab", "x", "aa", "A"]),
    exe=st.sampled_from(["", "/usr/bin/a", "/usr/bin/b", "/home/a", "/usr/bin/a (deleted)"]),
    uid=st.integers(0, 2),
    gid=st.integers(0, 2),
    cgroup=st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/s/a.service", "/s/b.scope/x"]),
    oom_score_adj=st.integers(-2, 3),
    anon_kib=st.just(0),
    swap_kib=st.just(0),
    resident_kib=st.integers(0, 3),
    state=st.just("S"),
    parent_comm=st.sampled_from(["", "a", "b"]),
    cmdline=st.sampled_from([None, "", "a", "ab", "bb"]),
    environ=st.sampled_from([None, (), ("a=1",), ("b", "c=1")]),
)


def test_every_subject_is_generated_here_and_can_be_configured() -> None:
    assert set(ASKED) == set(SUBJECTS) == set(MATCHES)


@settings(derandomize=True, deadline=None, max_examples=500)
@given(RULES, st.lists(st.tuples(PROCESSES, st.booleans()), min_size=1, max_size=6))
def test_the_masks_find_what_asking_one_after_another_finds(
    rules: list[Rule], processes: list[tuple[Process, bool]]
) -> None:
    """Also when they have learnt from other processes before."""
    rule_set = RuleSet(tuple(rules))
    for one, registered in processes:
        tried = list(rule_set.try_all(one, registered=registered))
        by_asking = tried[-1].rule if tried and tried[-1].failed is None else None
        assert rule_set.find(one, registered=registered) is by_asking


def test_what_masks_remember_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmkd.policy.rules._REMEMBERED_MOST", 10)
    monkeypatch.setattr("lmkd.policy.rules._PROCESSES_MOST", 10)
    rule_set = RuleSet((rule("last", comm=TextTest(("n7",))),))
    for number in range(100):
        one = process(7, comm=f"n{number % 50}", cgroup=f"/{number}")
        decided = rule_set.find(one, registered=False)
        assert (decided is not None) == (number % 50 == 7)
    masks = rule_set._masks
    kept = [len(masks.known), *(len(one._known) for one in masks._asked)]
    assert all(0 < count <= 10 for count in kept)


def test_what_a_process_says_at_length_is_matched_and_not_remembered() -> None:
    """It chooses its arguments and its paths, and so would choose how much memory the daemon holds."""
    wordy = Rule(
        "wordy",
        "test.toml:1",
        (Condition("cmdline", TextTest((".*--job=7 .*",))), Condition("comm", TextTest(("job",)))),
        Verdict(AppClass.CACHED),
    )
    rule_set = RuleSet((wordy,))
    long = replace(process(7, comm="job"), cmdline="x --job=7 " + "y" * 4_000)
    for _ in range(2):
        assert rule_set.find(long) is wordy
    assert rule_set.find(replace(long, comm="other", exe="/usr/bin/" + "x" * 4_000)) is None
    assert rule_set._masks.known == {}
    assert all(one._known == {} for one in rule_set._masks._asked)
