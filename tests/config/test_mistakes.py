"""What is said of every mistake: where it is, and what was expected; all of them in one pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmkd.config import ConfigError, Mistake, load_config
from lmkd.config.places import Places

from .files import mistakes_of, write


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[stall.low]\nsome = 7",
            '2:8: stall.low.some: expected a share such as "7%" or "0.5%", got 7',
        ),
        (
            "[stall.low]\nsome = 7.5",
            '2:8: stall.low.some: expected a share such as "7%" or "0.5%", got 7.5',
        ),
        (
            '[stall.low]\nsome = "7"',
            '2:8: stall.low.some: expected a share such as "7%" or "0.5%", got \'7\'',
        ),
        (
            '[stall.low]\nsome = "-7%"',
            '2:8: stall.low.some: expected a share such as "7%" or "0.5%", got \'-7%\'',
        ),
        (
            '[stall.low]\nsome = "1001%"',
            '2:8: stall.low.some: expected a share such as "7%" or "0.5%", got \'1001%\'',
        ),
        (
            '[stall.low]\nsome = "0.123%"',
            '2:8: stall.low.some: expected a share such as "7%" or "0.5%", got \'0.123%\'',
        ),
        (
            '[timing]\nrest = "5"',
            '2:8: timing.rest: expected a duration up to 60min, such as "500ms" or "3s", got \'5\'',
        ),
        (
            '[timing]\nrest = "5h"',
            '2:8: timing.rest: expected a duration up to 60min, such as "500ms" or "3s", got \'5h\'',
        ),
        (
            '[timing]\nrest = "61min"',
            '2:8: timing.rest: expected a duration up to 60min, such as "500ms" or "3s", got \'61min\'',
        ),
        ("[timing]\nrest = 2026-01-01", "2:8: timing.rest: expected a duration"),
        (
            '[victims]\nleast = "64MB"',
            '2:9: victims.least: expected a size such as "64MiB" or "1GiB", got \'64MB\'',
        ),
        (
            "[victims]\nleast = []",
            '2:9: victims.least: expected a size such as "64MiB" or "1GiB", got an array',
        ),
        (
            "[victims]\nleast = {}",
            '2:9: victims.least: expected a size such as "64MiB" or "1GiB", got a table',
        ),
        (
            '[system]\nkill = "no"',
            '2:8: system.kill: expected true, false or an array of classes, such as ["cached", "background"]',
        ),
        (
            "[system]\nkill = 0",
            '2:8: system.kill: expected true, false or an array of classes, such as ["cached", "background"], got 0',
        ),
        (
            "[service]\nhistory_episodes = 0",
            "2:20: service.history_episodes: expected a whole number from 1 to 10000, got 0",
        ),
        (
            "[service]\nhistory_episodes = true",
            "2:20: service.history_episodes: expected a whole number from 1 to 10000, got true",
        ),
        (
            '[service]\nsocket = "run/lmkd"',
            '2:10: service.socket: expected an absolute path, such as "/run/lmkd/socket", got ',
        ),
        ('[service]\nsocket = "/a\\u0000"', "2:10: service.socket: expected an absolute path"),
        (
            '[service]\nclaim_ceiling = "vip"',
            '2:17: service.claim_ceiling: expected one of "cached", "background", "service", "perceptible"',
        ),
        (
            '[classes.cached]\nkilled_at = "always"',
            '2:13: classes.cached.killed_at: expected "low", "medium", "critical" or "never", got \'always\'',
        ),
        ("[classes.cached]\nkilled_at = [1]", "2:13: classes.cached.killed_at: expected"),
        (
            "[classes.cached]\noom_score_adj = 1001",
            "2:17: classes.cached.oom_score_adj: expected a whole number from -1000 to 1000, got 1001",
        ),
        ("classes = 5", "1:11: classes: expected a table, got 5"),
        ("classes.cached = []", "1:18: classes.cached: expected a table, got an array"),
        ("[timing]\nread_in_emergency = '0ms'", "2:21: timing.read_in_emergency: expected"),
        ("domain = 5", "1:10: domain: expected [[domain]] tables, got 5"),
        ("domain = [1]", "1:10: domain: expected [[domain]] tables, got an array"),
        ("[[domain]]\nkill = true", '1:1: domain: needs cgroup = "/path"'),
        ("domain = [{}]", '1:11: domain: needs cgroup = "/path"'),
        (
            '[[domain]]\ncgroup = "/a"\n[[domain]]\ncgroup = "b"',
            "4:10: domain.cgroup: expected a cgroup's path below the mount, such as",
        ),
        ('[[domain]]\ncgroup = "/a/../b"', "2:10: domain.cgroup: expected a cgroup's path"),
        ('[[domain]]\ncgroup = "/a/"', "2:10: domain.cgroup: expected a cgroup's path"),
        ('[[domain]]\ncgroup = "/"', "2:10: domain.cgroup: expected a cgroup's path"),
        ('[[domain]]\ncgroup = "/a//b"', "2:10: domain.cgroup: expected a cgroup's path"),
        ('[[domain]]\ncgroup = "/a/."', "2:10: domain.cgroup: expected a cgroup's path"),
        ('[[domain]]\ncgroup = "/a\\n"', "2:10: domain.cgroup: expected a cgroup's path"),
        ("[stal.low]", "1:2: stal: unknown key; did you mean 'stall'?"),
        ("[stall.lo]", "1:8: stall.lo: unknown key; did you mean 'low'?"),
        (
            '[timing]\ncalm_holt = "1s"',
            "2:1: timing.calm_holt: unknown key; did you mean 'calm_hold'?",
        ),
        ("[system]\nqqq = 1", "2:1: system.qqq: unknown key; known here: kill"),
        (
            '[[domain]]\ncgroup = "/a"\nkil = 1',
            "3:1: domain.kil: unknown key; did you mean 'kill'?",
        ),
        ("a = ", "1:5: not TOML: Invalid value"),
        ("[timing]\nrest = \n", "2:8: not TOML: Invalid value"),
        ("[timing]\n[timing]\n", "2:8: not TOML: Cannot declare"),
        ("[timing", "1:8: not TOML: "),
        (
            '[stall.low]\nsome = "21%"',
            "2:8: stall.low.some: a higher level needs more stall: stall.low.some must be less than stall.medium.some",
        ),
        ('[stall.medium]\nfull = "15%"', "2:8: stall.medium.full: a higher level needs more stall"),
        (
            '[stall.emergency]\nfull = "15%"',
            "2:8: stall.emergency.full: an emergency is more than critical",
        ),
        (
            '[stall.harm]\nfull = "50%"',
            "2:8: stall.harm.full: an emergency is more than harm",
        ),
        (
            '[floor.low]\nenter = "8%"',
            "2:9: floor.low.enter: a higher level has less memory left: floor.medium.enter must be",
        ),
        (
            '[floor.medium]\nenter = "10%"',
            "2:9: floor.medium.enter: a floor is left above where it was entered",
        ),
        (
            '[floor.critical]\nmost = "640MiB"',
            "2:8: floor.critical.most: a higher level has less memory left",
        ),
        ('[swap]\ncritical = "20%"', "2:12: swap.critical: a higher level has less swap left"),
        ('[thrash]\nlow = "60%"', "2:7: thrash.low: a higher level has more refaults"),
        ('[forecast]\nmedium = "6s"', "2:10: forecast.medium: a higher level has less time left"),
        (
            '[timing]\nread_pressed = "3s"',
            "2:16: timing.read_pressed: read more often under pressure: timing.read_pressed must be",
        ),
        (
            "[classes.background]\noom_score_adj = 900",
            "2:17: classes.background.oom_score_adj: the kernel must see the classes in our order",
        ),
        (
            '[classes.background]\nkilled_at = "low"',
            "2:13: classes.background.killed_at: must not be below that of cached, which is the lower class",
        ),
        (
            '[classes.system]\nkilled_at = "critical"',
            '2:13: classes.system.killed_at: expected "never": that is what system means',
        ),
        # domains with sections of their own
        (
            '[[domain]]\ncgroup = "/a"\nstall.lo = 1',
            "3:7: domain.stall.lo: unknown key; did you mean 'low'?",
        ),
        (
            '[[domain]]\ncgroup = "/a"\n[domain.floor.low]\nenter = 12',
            "4:9: domain.floor.low.enter: expected a share",
        ),
        ('[[domain]]\ncgroup = "/a"\nservice = {}', "3:1: domain.service: unknown key"),
        (
            '[[domain]]\ncgroup = "/a"\n[[domain]]\ncgroup = "/a"',
            "4:10: domain.cgroup: '/a' has a [[domain]] in this file",
        ),
        ('[[domain]]\ncgroup = "/a/**b"', "2:10: domain.cgroup: '**b': ** stands for whole parts"),
        ('[[domain]]\ncgroup = "/**"', "2:10: domain.cgroup: '/**' names every cgroup"),
        (
            '[[domain]]\ncgroup = "/a"\nkill = ["system"]',
            '3:8: domain.kill: "system" cannot be let die',
        ),
        (
            '[[domain]]\ncgroup = "/a"\nkill = ["x"]',
            '3:8: domain.kill: expected an array with one of "cached"',
        ),
        (
            '[[domain]]\ncgroup = "/a"\n[domain.floor.low]\nenter = "8%"',
            "4:9: domain.floor.low.enter: a higher level has less memory left: floor.medium.enter must be",
        ),
        ("[domain]", "1:2: domain: expected [[domain]] tables; write two brackets instead of one"),
        # the new sections
        (
            '[policy]\nproject = "some"',
            '2:11: policy.project: expected "all", "registered" or "none", got \'some\'',
        ),
        ('[policy]\nunruled = "x"', '2:11: policy.unruled: expected one of "cached"'),
        ("[policy]\nstrict = 1", "2:10: policy.strict: expected true or false, got 1"),
        (
            '[process_events]\nsource = "x"',
            '2:10: process_events.source: expected "netlink", "scan" or "auto"',
        ),
        (
            '[process_events]\nscan_every = "100ms"',
            "2:14: process_events.scan_every: expected a duration from 500ms",
        ),
        (
            "[recording]\nepisodes = -1",
            "2:12: recording.episodes: expected a whole number from 0 to 10000",
        ),
        ('[recording]\nmost = "1KiB"', "2:8: recording.most: expected a size of at least 64KiB"),
    ],
)
def test_each_mistake_says_where_it_is_and_what_was_expected(
    tmp_path: Path, text: str, said: str
) -> None:
    (line,) = mistakes_of(tmp_path, text)
    assert line.startswith(said)


RULE = 'name = "r"\nclass = "cached"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # the rule itself
        ('[[rule]]\nclass = "cached"', '1:1: rule: needs name = "..."'),
        ('[[rule]]\nname = "r"', '1:1: rule: needs class = "...", or exempt = true'),
        (
            '[[rule]]\nname = "r"\nexempt = false',
            '1:1: rule: needs class = "...", or exempt = true',
        ),
        ('rule = [{ name = "r" }]', '1:9: rule: needs class = "...", or exempt = true'),
        ("[rule]", "1:2: rule: expected [[rule]] tables; write two brackets instead of one"),
        ("rule = 1", "1:8: rule: expected [[rule]] tables, got 1"),
        ('[[rule]]\nname = " "\nclass = "cached"', "2:8: rule.name: expected a name on one line"),
        (
            '[[rule]]\nname = "a\\nb"\nclass = "cached"',
            "2:8: rule.name: expected a name on one line",
        ),
        (
            "[[rule]]\n" + RULE + "[[rule]]\n" + RULE,
            "5:8: rule.name: the name 'r' is taken by the rule at ",
        ),
        (
            '[[rule]]\nname = "the message bus"\nclass = "cached"',
            "2:8: rule.name: the name 'the message bus' is taken by the rule at lmkd/defaults.toml:",
        ),
        ("[[rule]]\n" + RULE + 'grace = "x"', "4:9: rule.grace: expected a duration"),
        (
            "[[rule]]\n" + RULE + "bias = 101",
            "4:8: rule.bias: expected a whole number from -100 to 100",
        ),
        (
            "[[rule]]\n" + RULE + 'unit = "all"',
            '4:8: rule.unit: expected "process", "tree" or "cgroup"',
        ),
        ("[[rule]]\n" + RULE + "least = 5", "4:9: rule.least: expected a size"),
        ("[[rule]]\n" + RULE + 'ceiling = "x"', '4:11: rule.ceiling: expected one of "cached"'),
        ("[[rule]]\n" + RULE + "exempt = 1", "4:10: rule.exempt: expected true or false, got 1"),
        ("[[rule]]\n" + RULE + "clas = 1", "4:1: rule.clas: unknown key; did you mean 'class'?"),
        (
            "[[rule]]\n" + RULE + 'comm = "x"',
            "4:1: rule.comm: belongs into the match of the rule: match = { comm",
        ),
        # its match
        (
            "[[rule]]\n" + RULE + 'match = "x"',
            "4:9: rule.match: expected a table, such as { comm = \"make\" }, got 'x'",
        ),
        (
            "[[rule]]\n" + RULE + 'match = { com = "x" }',
            "4:11: rule.match.com: unknown key; did you mean 'comm'?",
        ),
        (
            "[[rule]]\n" + RULE + "match = { bias = 1 }",
            "4:11: rule.match.bias: belongs to the rule itself",
        ),
        (
            "[[rule]]\n" + RULE + "[rule.match]\ncomm = 5",
            "5:8: rule.match.comm: expected a pattern or an array of them, got 5",
        ),
        (
            "[[rule]]\n" + RULE + "match.comm = []",
            "4:14: rule.match.comm: an empty array matches nothing",
        ),
        (
            "[[rule]]\n" + RULE + "match.comm = ''",
            "4:14: rule.match.comm: an empty pattern matches nothing",
        ),
        (
            "[[rule]]\n" + RULE + "match.comm = [\n  'a', # one\n  'b(c',\n]",
            "6:3: rule.match.comm: not a regular expression: missing ), unterminated subpattern"
            " at character 2 of 'b(c'",
        ),
        (
            "[[rule]]\n" + RULE + 'match = { uid = 5, comm = ["a", "*b"] }',
            "4:33: rule.match.comm: not a regular expression: nothing to repeat at character 1 of '*b'",
        ),
        (
            "[[rule]]\n" + RULE + "match.comm = '[[a]'",
            "4:14: rule.match.comm: not a clear regular expression: Possible nested set at position 1",
        ),
        (
            "[[rule]]\n" + RULE + "match.comm = 'a{9999999999}'",
            "4:14: rule.match.comm: not a regular expression that can be used",
        ),
        (
            "[[rule]]\n" + RULE + "match.comm = '" + "(" * 900 + "'",
            "4:14: rule.match.comm: not a regular expression",
        ),
        (
            "[[rule]]\n" + RULE + "match.comm = '" + "a" * 1001 + "'",
            "4:14: rule.match.comm: a pattern of 1001 characters",
        ),
        (
            "[[rule]]\n" + RULE + 'match.cmdline = "a\\u0000b"',
            "4:17: rule.match.cmdline: a pattern with a NUL can never match",
        ),
        (
            "[[rule]]\n" + RULE + "match.comm = 'gnome-session-binary'",
            "4:14: rule.match.comm: 'gnome-session-binary' can never match: the kernel keeps 15 bytes of a name;"
            " write 'gnome-session-b'",
        ),
        (
            "[[rule]]\n" + RULE + "match.comm = 'org.gnome.Nautilus'",
            "4:14: rule.match.comm: 'org.gnome.Nautilus' can never match",
        ),
        (
            "[[rule]]\n" + RULE + "match.comm = 'org\\.gnome\\.Nautilus'",
            "4:14: rule.match.comm: 'org",
        ),
        (
            "[[rule]]\n" + RULE + "match.parent = 'éééééééé'",
            "4:16: rule.match.parent: 'éééééééé' can never match",
        ),
        (
            "[[rule]]\n" + RULE + "match.exe = 'bin/x'",
            "4:13: rule.match.exe: 'bin/x' can never match: with a slash",
        ),
        (
            "[[rule]]\n" + RULE + "match.exe = '/opt/x/'",
            "4:13: rule.match.exe: '/opt/x/' can never match: it names a folder",
        ),
        (
            "[[rule]]\n" + RULE + "match.environ = 'HOME'",
            "4:17: rule.match.environ: 'HOME' can never match: it is the whole of NAME=value",
        ),
        (
            "[[rule]]\n" + RULE + "match.cgroup = 'a'",
            "4:16: rule.match.cgroup: expected a cgroup's path below the mount",
        ),
        (
            "[[rule]]\n" + RULE + "match.cgroup = '/a/b**'",
            "4:16: rule.match.cgroup: 'b**': ** stands for whole parts",
        ),
        (
            "[[rule]]\n" + RULE + "match.systemd_unit = 5",
            "4:22: rule.match.systemd_unit: expected the name of a systemd unit",
        ),
        (
            "[[rule]]\n" + RULE + "match.systemd_unit = ''",
            "4:22: rule.match.systemd_unit: an empty name",
        ),
        (
            "[[rule]]\n" + RULE + "match.systemd_unit = '/a.service'",
            "4:22: rule.match.systemd_unit: '/a.service' can never match: the name of a unit has no slash",
        ),
        (
            "[[rule]]\n" + RULE + "match.systemd_unit = 'user.slice'",
            "4:22: rule.match.systemd_unit: 'user.slice' can never match: a slice is",
        ),
        (
            "[[rule]]\n" + RULE + "match.systemd_unit = 'postgresql'",
            "4:22: rule.match.systemd_unit: 'postgresql' can never match: a unit's name ends in .service",
        ),
        (
            "[[rule]]\n" + RULE + "match.uid = 'x'",
            '4:13: rule.match.uid: expected a number or a range such as 1000, ">=1000"',
        ),
        (
            "[[rule]]\n" + RULE + "match.uid = true",
            "4:13: rule.match.uid: expected a number or a range",
        ),
        (
            "[[rule]]\n" + RULE + "match.uid = '9..5'",
            "4:13: rule.match.uid: '9..5' can never match: it ends before it begins",
        ),
        (
            "[[rule]]\n" + RULE + "match.gid = [1, '<0']",
            "4:17: rule.match.gid: '<0' can never match: it is always from 0 to 4294967295",
        ),
        (
            "[[rule]]\n" + RULE + "match.oom_score_adj = '>1000'",
            "4:23: rule.match.oom_score_adj: '>1000' can never match: it is always from -1000 to 1000",
        ),
        (
            "[[rule]]\n" + RULE + "match.resident = '500MiB'",
            '4:18: rule.match.resident: expected a range of sizes such as ">=500MiB"',
        ),
        (
            "[[rule]]\n" + RULE + "match.resident = '<0KiB'",
            "4:18: rule.match.resident: '<0KiB' can never match: it is always at least 0",
        ),
        (
            "[[rule]]\n" + RULE + "match.registered = 'yes'",
            "4:20: rule.match.registered: expected true or false, got 'yes'",
        ),
        (
            "[[rule]]\n" + RULE + "match.registered = [true]",
            "4:20: rule.match.registered: expected true or false, got an array",
        ),
        (
            "[[rule]]\n" + RULE + "unit = 'cgroup'\nmatch.cgroup = '/**'",
            "5:7: rule.match.cgroup: a unit of all cgroups together",
        ),
        # sets
        ("sets = 5", "1:8: sets: expected a table, got 5"),
        (
            "[sets]\na = 'x'",
            '2:5: sets.a: expected an array of patterns, such as ["a", "b"], got \'x\'',
        ),
        ("[sets]\na = []", "2:5: sets.a: a set with nothing in it"),
        ("[sets]\na = ['x', 5]", "2:11: sets.a: expected a pattern, got 5"),
        ("[sets]\na = ['@b']", "2:6: sets.a: no set '@b'"),
        ("[sets]\na = ['@a']", "2:6: sets.a: the set holds itself: @a -> @a"),
        (
            "[sets]\ncompositor = ['x']\n[[rule]]\n" + RULE + "match.comm = '@compositor-s'",
            "6:14: rule.match.comm: no set '@compositor-s'; did you mean 'compositors'?",
        ),
        (
            "[sets]\na = ['b(']\n[[rule]]\n" + RULE + "match.comm = '@a'",
            "2:6: sets.a: not a regular expression: missing ), unterminated subpattern"
            " at character 2 of 'b(' (comm of a rule uses the set)",
        ),
        (
            "[sets]\na = ['b']\n[[rule]]\n" + RULE + "match.cgroup = '@a'",
            "2:6: sets.a: expected a cgroup's path",
        ),
        (
            "[[rule]]\n" + RULE + "match.uid = '@init'",
            "4:13: rule.match.uid: expected a number or a range",
        ),
    ],
)
def test_each_mistake_in_a_rule_says_where_it_is_and_what_was_expected(
    tmp_path: Path, text: str, said: str
) -> None:
    (line,) = mistakes_of(tmp_path, text)
    assert line.startswith(said)


def test_sets_that_hold_each_other_are_told_with_the_way(tmp_path: Path) -> None:
    said = mistakes_of(tmp_path, "[sets]\na = ['@b']\nb = ['@c']\nc = ['x', '@a']\n")
    assert said == ["4:11: sets.c: the set holds itself: @a -> @b -> @c -> @a"]


def test_a_wrong_pattern_of_a_set_is_told_once_however_many_rules_use_it(tmp_path: Path) -> None:
    rules = "".join(
        f"[[rule]]\nname = 'r{n}'\nclass = 'cached'\nmatch.comm = '@a'\n" for n in range(5)
    )
    (said,) = mistakes_of(tmp_path, "[sets]\na = ['b(']\n" + rules)
    assert said.startswith("2:6: sets.a: not a regular expression")


# --- all in one pass --------------------------------------------------------------------------------------------------

THIRTY = r"""
[stal.low]
some = "7%"
[stall.low]
some = 7
[stall.medium]
full = "20%"
[timing]
rest = "5 hours"
read_pressed = "0ms"
[victims]
least = "64MB"
[service]
history_episodes = 0
socket = "run/lmkd"
claim_ceiling = "vip"
[policy]
project = "some"
[process_events]
source = "bus"
[classes.system]
killed_at = "critical"
[classes.cached]
oom_score_adj = 100
[swap]
low = true

[sets]
loop = ["@loop"]
empty = []

[[domain]]
kill = true
[[domain]]
cgroup = "/build/**x"
[[domain]]
cgroup = "/jobs"
kill = ["system"]
[[domain]]
cgroup = "/jobs"
floor.low = { enter = "8%", leave = "7%" }

[[rule]]
class = "cached"
[[rule]]
name = "no verdict"
[[rule]]
name = "misplaced"
class = "cached"
comm = "make"
[[rule]]
name = "misplaced"
class = "cached"
match = { grace = "5s" }
[[rule]]
name = "patterns"
class = "cached"
match = { comm = ["make(", "gnome-session-binary"], environ = "HOME", exe = "bin/make", cgroup = "x" }
[[rule]]
name = "ranges"
class = "cached"
match = { uid = "5..3", gid = "many", oom_score_adj = ">1000", resident = "64MiB", registered = "yes" }
[[rule]]
name = "units"
unit = "all"
class = "cached"
bias = 200
match = { systemd_unit = ["user.slice", "postgresql"], parent = "@shels" }
[[rule]]
name = "everything"
class = "cached"
unit = "cgroup"
match = { cgroup = "/**" }
"""


def test_a_file_with_thirty_different_mistakes_gives_thirty_clear_messages(tmp_path: Path) -> None:
    said = mistakes_of(tmp_path, THIRTY)
    assert said == sorted(said, key=lambda line: [int(part) for part in line.split(":")[:2]])
    lines = THIRTY.split("\n")
    kinds = set()
    for one in said:
        line, column, key, text = (part.strip() for part in one.split(":", 3))
        found = lines[int(line) - 1][int(column) - 1 :]
        assert found
        assert not found[0].isspace(), one
        assert key
        assert len(text) > 10
        kinds.add(text)
    assert len(said) == len(kinds) >= 30
    assert len({one.split(":")[2] for one in said}) >= 30  # of as many keys


def test_several_mistakes_are_reported_in_one_pass(tmp_path: Path) -> None:
    text = """# a comment
[stall.low]
some = 7          # no share
[timing]
rest = "5"
nonsense = true

[[domain]]
kill = "yes"
[floor.low]
enter = "1%"
"""
    assert [line.split(": ")[:2] for line in mistakes_of(tmp_path, text)] == [
        ["3:8", "stall.low.some"],
        ["5:8", "timing.rest"],
        ["6:1", "timing.nonsense"],
        ["8:1", "domain"],
        ["9:8", "domain.kill"],
        ["11:9", "floor.low.enter"],
    ]


def test_the_mistakes_of_all_files_are_reported_each_with_its_file(tmp_path: Path) -> None:
    """A file that is no TOML hides nothing of the others."""
    bad = write(tmp_path, "[timing]\nrest = 5\n", "bad.toml")
    broken = write(tmp_path, "[", "broken.toml")
    good = write(tmp_path, '[timing]\nrest = "4s"\n', "good.toml")
    missing = tmp_path / "missing.toml"
    rules = write(tmp_path, "[[rule]]\nname = 'r'\n", "rules.toml")
    with pytest.raises(ConfigError) as caught:
        load_config([bad, broken, good, missing, tmp_path, rules])
    places = [(mistake.file, mistake.line, mistake.column) for mistake in caught.value.mistakes]
    assert places == [
        (str(bad), 2, 8),
        (str(broken), 1, 2),
        (str(missing), None, None),
        (str(tmp_path), None, None),
        (str(rules), 1, 1),
    ]
    assert f"{missing}: cannot be read: No such file or directory" in str(caught.value)


def test_a_wrong_value_is_a_mistake_also_where_a_later_file_covers_it(tmp_path: Path) -> None:
    bad = write(tmp_path, "[timing]\nrest = 5\n", "1.toml")
    good = write(tmp_path, '[timing]\nrest = "4s"\n', "2.toml")
    with pytest.raises(ConfigError):
        load_config([bad, good])


def test_an_order_that_two_files_break_is_blamed_on_the_later_one(tmp_path: Path) -> None:
    first = write(tmp_path, '[swap]\nlow = "50%"\n', "1.toml")
    second = write(tmp_path, '\n\n[swap]\nmedium = "60%"\n', "2.toml")
    load_config([first])
    with pytest.raises(ConfigError) as caught:
        load_config([first, second])
    (mistake,) = caught.value.mistakes
    assert (mistake.file, mistake.line, mistake.key) == (str(second), 4, "swap.medium")


def test_a_mistake_without_a_place_says_what_it_can() -> None:
    assert str(Mistake("f", None, "", "x")) == "f: x"
    assert str(Mistake("f", 3, "a.b", "x")) == "f:3: a.b: x"
    assert str(Mistake("f", 3, "a.b", "x", 7)) == "f:3:7: a.b: x"


# --- what finding places costs ----------------------------------------------------------------------------------------


def test_a_thousand_mistakes_take_one_look_at_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    class Counted(Places):
        def __init__(self, text: str) -> None:
            looks.append(text)
            super().__init__(text)

    monkeypatch.setattr("lmkd.config.layers.Places", Counted)
    text = "".join(f"[[domain]]\ncgroup = {number}\n" for number in range(1000))
    said = mistakes_of(tmp_path, text)
    assert len(said) == 1000
    assert said[-1].startswith("2000:10: domain.cgroup: ")
    assert looks.count(text) == 1


def test_a_file_without_rules_and_mistakes_is_not_searched_for_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shipped(Places):
        def __init__(self, text: str) -> None:
            assert text.startswith("# What lmkd does when nobody says otherwise.")
            super().__init__(text)

    monkeypatch.setattr("lmkd.config.layers.Places", Shipped)
    load_config([write(tmp_path, '[timing]\nrest = "4s"\n')])
