"""[[rule]] and [sets]: what they become, in which order they are tried, and what is warned of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lmkd.config import load_config
from lmkd.model import AppClass, Process, Unit
from lmkd.policy.patterns import (
    ExeTest,
    FlagTest,
    GlobTest,
    RangeTest,
    Test,
    TextTest,
    UnitTest,
)
from lmkd.policy.rules import Condition, Rule, Verdict

from .files import load, warnings_of, write

MIB = 1024
PROCESS = Process(7, 1, 1, "make", "/usr/bin/make", 1000, "/", 0, 0, 0, "S")


def own_rules(directory: Path, *texts: str) -> tuple[Rule, ...]:
    """Return the rules of these files."""
    rules = load(directory, *texts).settings.rules.rules
    own = tuple(rule for rule in rules if not rule.shipped)
    assert rules[: len(own)] == own  # the shipped ones come last
    return own


def one_rule(directory: Path, text: str) -> Rule:
    (rule,) = own_rules(directory, "[[rule]]\nname = 'r'\n" + text)
    return rule


def one_test(directory: Path, match: str) -> Test:
    """Return what the value of a match becomes."""
    (condition,) = one_rule(directory, f"class = 'cached'\nmatch = {{ {match} }}").conditions
    return condition.test


def test_a_verdict_has_what_it_says_and_leaves_the_rest_to_the_class(tmp_path: Path) -> None:
    full = one_rule(
        tmp_path,
        "class = 'service'\nunit = 'cgroup'\ngrace = '9s'\ntime_to_exit = '0s'\nbias = -5\n"
        "least = '1GiB'\nceiling = 'foreground'\nmatch.cgroup = '/a'\n",
    )
    assert full.verdict == Verdict(
        AppClass.SERVICE, Unit.CGROUP, 9_000_000, 0, False, -5, 1 << 20, AppClass.FOREGROUND
    )
    assert one_rule(tmp_path, "class = 'cached'").verdict == Verdict(AppClass.CACHED)
    assert one_rule(tmp_path, "exempt = true").verdict == Verdict(AppClass.SYSTEM, exempt=True)
    both = one_rule(tmp_path, "exempt = true\nclass = 'foreground'\nunit = 'tree'")
    assert both.verdict == Verdict(AppClass.FOREGROUND, Unit.TREE, exempt=True)


@pytest.mark.parametrize("match", ["", "match = {}"])
def test_a_rule_that_asks_nothing_matches_everything(tmp_path: Path, match: str) -> None:
    rule = one_rule(tmp_path, "class = 'cached'\n" + match)
    assert rule.conditions == ()
    settings = load(tmp_path, "[[rule]]\nname = 'r'\nclass = 'cached'\n" + match).settings
    assert settings.rules.find(PROCESS, registered=False) == rule


@pytest.mark.parametrize(
    ("match", "test"),
    [
        ("comm = 'make'", TextTest(("make",))),
        ("comm = ['make', 'cc1.*']", TextTest(("make", "cc1.*"))),
        ("comm = 'abcdefghijklmno.*'", TextTest(("abcdefghijklmno.*",))),
        ("comm = 'abcdefghijklmno'", TextTest(("abcdefghijklmno",))),
        ("comm = 'abcdefghijklmno|b'", TextTest(("abcdefghijklmno|b",))),
        ("comm = '[@]x'", TextTest(("[@]x",))),
        ("exe = ['make', '/home/.*']", ExeTest(("make", "/home/.*"))),
        ("cmdline = '.* --daemon'", TextTest((".* --daemon",))),
        ("environ = 'FLATPAK_ID=.*'", TextTest(("FLATPAK_ID=.*",))),
        ("environ = 'LC_.*'", TextTest(("LC_.*",))),
        ("parent = 'sh'", TextTest(("sh",))),
        ("uid = 1000", RangeTest(((1000, 1000),))),
        ("uid = ['>=1000', 5, '7..8']", RangeTest(((1000, None), (5, 5), (7, 8)))),
        ("gid = '< 500'", RangeTest(((None, 499),))),
        ("gid = '> 500'", RangeTest(((501, None),))),
        ("gid = ' <=500 '", RangeTest(((None, 500),))),
        ("oom_score_adj = '-1000..-900'", RangeTest(((-1000, -900),))),
        ("oom_score_adj = -5", RangeTest(((-5, -5),))),
        ("resident = '>=500MiB'", RangeTest(((500 * MIB, None),))),
        ("resident = '<1GiB'", RangeTest(((None, MIB * MIB - 1),))),
        ("resident = ['100MiB .. 1GiB', '>2GiB']",
         RangeTest(((100 * MIB, MIB * MIB), (2 * MIB * MIB + 1, None)))),
        ("cgroup = '/a/**'", GlobTest(("/a/**",))),
        ("cgroup = ['/a', '/b/*.scope']", GlobTest(("/a", "/b/*.scope"))),
        (r"cgroup = '/a\\x2d'", GlobTest((r"/a\\x2d",))),
        ("systemd_unit = 'db*.service'", UnitTest(("db*.service",))),
        ("systemd_unit = ['db*', 'app-?.scope']", UnitTest(("db*", "app-?.scope"))),
        ("registered = true", FlagTest(True)),
        ("registered = false", FlagTest(False)),
    ],
)  # fmt: skip
def test_what_a_match_becomes(tmp_path: Path, match: str, test: Test) -> None:
    assert one_test(tmp_path, match) == test


def test_conditions_are_asked_in_one_order_however_they_are_written(tmp_path: Path) -> None:
    rule = one_rule(
        tmp_path, "class = 'cached'\nmatch = { registered = true, uid = 1, comm = 'a' }"
    )
    assert rule.conditions == (
        Condition("comm", TextTest(("a",))),
        Condition("uid", RangeTest(((1, 1),))),
        Condition("registered", FlagTest(True)),
    )


def test_rules_come_file_by_file_as_written_and_the_shipped_ones_last(tmp_path: Path) -> None:
    first = (
        "[[rule]]\nname = 'b'\nclass = 'cached'\nmatch.uid = 1\n\n"
        "[[rule]]\nname = 'a'\nclass = 'cached'\nmatch.uid = 2\n"
    )
    second = "rule = [{ name = 'c', class = 'cached', match.uid = 3 }]\n"
    rules = own_rules(tmp_path, first, second)
    assert [(rule.name, rule.place) for rule in rules] == [
        ("b", f"{tmp_path}/0.toml:1"),
        ("a", f"{tmp_path}/0.toml:6"),
        ("c", f"{tmp_path}/1.toml:1"),
    ]


def test_the_shipped_rules_say_where_they_stand() -> None:
    shipped = (Path(__file__).parents[2] / "lmkd/defaults.toml").read_text().split("\n")
    for rule in load_config([]).settings.rules.rules:
        file, _, line = rule.place.partition(":")
        assert file == "lmkd/defaults.toml"
        assert shipped[int(line) - 1] == "[[rule]]"
        assert shipped[int(line)] == f'name = "{rule.name}"'


# --- sets -------------------------------------------------------------------------------------------------------------


def test_a_set_stands_for_its_patterns_wherever_it_is_named(tmp_path: Path) -> None:
    text = """
[sets]
browsers = ["firefox", "chrom(e|ium)"]
programs = ["@browsers", "vlc", "@browsers"]
slices = ["/a/**"]
units = ["a.service"]
[[rule]]
name = "a"
class = "cached"
match = { comm = ["x", "@programs"], exe = "@browsers", cgroup = "@slices", systemd_unit = "@units" }
"""
    (rule,) = own_rules(tmp_path, text)
    browsers = ("firefox", "chrom(e|ium)")
    assert [condition.test for condition in rule.conditions] == [
        TextTest(("x", *browsers, "vlc")),  # each once
        ExeTest(browsers),
        GlobTest(("/a/**",)),
        UnitTest(("a.service",)),
    ]


def test_sets_that_double_sets_end(tmp_path: Path) -> None:
    sets = "".join(f"s{n} = ['@s{n - 1}', '@s{n - 1}', 'p{n}']\n" for n in range(1, 60))
    rule = "[[rule]]\nname = 'r'\nclass = 'cached'\nmatch.comm = '@s59'\n"
    (found,) = own_rules(tmp_path, "[sets]\ns0 = ['p0']\n" + sets + rule)
    assert found.conditions[0].test == TextTest(tuple(f"p{n}" for n in range(60)))


def test_a_set_of_a_later_file_takes_the_place_of_one_of_the_same_name(tmp_path: Path) -> None:
    first = "[sets]\nmine = ['a']\n[[rule]]\nname = 'r'\nclass = 'cached'\nmatch.comm = '@mine'\n"
    (rule,) = own_rules(tmp_path, first, "[sets]\nmine = ['b']\n")
    assert rule.conditions[0].test == TextTest(("b",))


def test_a_shipped_set_can_be_used_and_replaced(tmp_path: Path) -> None:
    text = (
        "[sets]\nsound = ['pipewire', 'jackd']\n"
        "[[rule]]\nname = 'r'\nclass = 'foreground'\nmatch.parent = '@sound'\n"
    )
    loaded = load(tmp_path, text)
    jack = replace(PROCESS, comm="jackd", exe="/usr/bin/jackd")
    rule = loaded.settings.rules.find(jack, registered=False)
    assert rule is not None
    assert (rule.name, rule.protects) == ("sound, without which a session looks frozen", True)


# --- warnings ---------------------------------------------------------------------------------------------------------


def test_what_is_odd_is_told_with_its_place(tmp_path: Path) -> None:
    text = """
[sets]
unused = ["@inner"]
inner = ["x"]
used = ["y"]
[[rule]]
name = "make"
class = "cached"
match = { comm = ["make", "@used"] }
[[rule]]
name = "make of users"
class = "cached"
match = { comm = "make", uid = ">=1000" }
[[rule]]
name = "mine"
exempt = true
match.comm = "mine"
[[rule]]
name = "big ones"
class = "background"
match = { resident = ">=1GiB" }
"""
    said = warnings_of(tmp_path, text)
    assert [one.split(": ", 2)[:2] for one in said] == [
        ["0.toml:3:1", "sets.unused"],
        ["0.toml:4:1", "sets.inner"],
        ["0.toml:13:1", "rule.match"],
        ["0.toml:17:1", "rule.match"],
        ["0.toml:21:1", "rule.match"],
    ]
    assert said[0].endswith("no rule uses the set @unused")
    assert "rule 'make of users': this rule can never match: 'make' (" in said[2]
    assert f"{tmp_path}/0.toml:6" in said[2]
    assert "rule 'mine': protects whoever has the right comm" in said[3]
    assert "rule 'big ones': lets die what a machine or a session cannot lose" in said[4]


def test_a_replaced_set_that_leaves_somebody_out_is_told_with_the_names(tmp_path: Path) -> None:
    text = """
[sets]
sound = ["pipewire", "jackd"]
message-bus = ["@bus"]
bus = ["dbus-daemon", "dbus-broker", "dbus-broker-launch"]
"""
    (said,) = warnings_of(tmp_path, text)
    assert said.startswith("0.toml:3:1: sets.sound: no rule protects any more")
    assert said.endswith(": wireplumber, pulseaudio")


def test_a_good_file_is_not_warned_of(tmp_path: Path) -> None:
    text = "[[rule]]\nname = 'r'\nclass = 'cached'\nmatch.comm = 'make'\n"
    assert warnings_of(tmp_path, text) == []
    assert warnings_of(tmp_path, "[timing]\nrest = '4s'\n") == []


def test_warnings_stand_in_the_order_of_the_files(tmp_path: Path) -> None:
    sets = "[sets]\n{} = ['x']\n"
    said = warnings_of(tmp_path, sets.format("b"), "\n" + sets.format("a"), sets.format("c"))
    assert [one.split(":")[0] for one in said] == ["0.toml", "1.toml", "2.toml"]


def test_a_file_given_twice_repeats_its_rules_and_is_told_so(tmp_path: Path) -> None:
    path = write(tmp_path, "[[rule]]\nname = 'r'\nclass = 'cached'\n")
    with pytest.raises(Exception, match="the name 'r' is taken by the rule at"):
        load_config([path, path])
