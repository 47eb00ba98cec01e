"""Configuration: what it means, how files are laid over each other, and what is said of every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lmkd_proto.values import Domain

from lmkd import config
from lmkd.config import ConfigError, Mistake, find_config_files, load_config
from lmkd.model import SYSTEM_DOMAIN, AppClass, Level
from lmkd.policy.settings import Amount, FloorStep, StallStep

MIB = 1024


def write(directory: Path, text: str, name: str = "lmkd.toml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def mistakes_of(directory: Path, text: str) -> list[str]:
    """Return what is said of a file, without the path of the file."""
    path = write(directory, text)
    with pytest.raises(ConfigError) as caught:
        load_config([path])
    said = [str(mistake) for mistake in caught.value.mistakes]
    assert str(caught.value) == "\n".join(said)
    assert all(line.startswith(f"{path}:") for line in said)
    return [line.removeprefix(f"{path}:") for line in said]


# --- the good cases -------------------------------------------------------------------------------------------------


def test_the_shipped_defaults_are_the_classes_of_the_design() -> None:
    classes = load_config([]).settings.classes
    assert {
        which.word: (one.oom_score_adj, one.killed_at, one.grace_us, one.time_to_exit_us)
        for which, one in classes.items()
    } == {
        "cached": (900, Level.MEDIUM, 1_000_000, 500_000),
        "background": (700, Level.CRITICAL, 3_000_000, 2_000_000),
        "service": (500, Level.CRITICAL, 5_000_000, 5_000_000),
        "perceptible": (200, Level.CRITICAL, 5_000_000, 5_000_000),
        "foreground": (0, Level.CRITICAL, 5_000_000, 5_000_000),
        "system": (-900, None, 5_000_000, 5_000_000),
    }


def test_without_a_file_the_system_is_watched_by_the_defaults() -> None:
    loaded = load_config([])
    assert loaded.files == ("lmkd/defaults.toml",)
    assert loaded.socket == "/run/lmkd/socket"
    assert loaded.state_dir == "/var/lib/lmkd"
    assert loaded.settings.domains == (SYSTEM_DOMAIN,)
    assert loaded.settings.killing_domains == {SYSTEM_DOMAIN}
    assert not loaded.settings.dry_run


def test_every_unit_is_understood(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [service]
        socket = "/tmp/s"
        history_episodes = 7
        claim_ceiling = "service"
        [timing]
        calm_hold = "2min"
        rest = "5 s"
        settle = "0ms"
        [victims]
        least = "0KiB"
        share = "12.5%"
        most = "2TiB"
        [floor.low]
        enter = "20%"
        leave = "30%"
        most = "2GiB"
        [stall.low]
        some = "0.05%"
        full = "1.2 %"
        """,
    )
    loaded = load_config([path])
    assert (loaded.socket, loaded.history_episodes) == ("/tmp/s", 7)
    policy = loaded.settings
    assert policy.claim_ceiling is AppClass.SERVICE
    assert (policy.calm_hold_us, policy.rest_us, policy.settle_us) == (120_000_000, 5_000_000, 0)
    assert policy.min_victim == Amount(1250, 2 << 30)
    assert policy.min_victim_least_kib == 0
    assert policy.floor[Level.LOW] == FloorStep(Amount(2000, 2048 * MIB), Amount(3000, 3072 * MIB))
    assert policy.stall[Level.LOW] == StallStep(5, 120)


def test_the_upper_bound_of_leaving_keeps_the_distance_of_the_shares() -> None:
    """Otherwise a big machine would leave a floor where it entered it."""
    for step in load_config([]).settings.floor.values():
        assert step.enter.of(1 << 30) < step.leave.of(1 << 30)


def test_domains_are_watched_and_killed_in_as_they_say(tmp_path: Path) -> None:
    first = write(
        tmp_path,
        '[[domain]]\ncgroup = "/a"\n[[domain]]\ncgroup = "/b/c.slice"\nkill = false\n',
        "1.toml",
    )
    second = write(
        tmp_path, '[[domain]]\ncgroup = "/a"\nkill = false\n[system]\nkill = false\n', "2.toml"
    )
    policy = load_config([first]).settings
    assert policy.domains == (SYSTEM_DOMAIN, "/a", "/b/c.slice")
    assert policy.killing_domains == {SYSTEM_DOMAIN, "/a"}
    both = load_config([first, second]).settings
    assert both.domains == (SYSTEM_DOMAIN, "/a", "/b/c.slice")
    assert both.killing_domains == frozenset()


def test_a_later_file_is_laid_over_an_earlier_one_key_by_key(tmp_path: Path) -> None:
    first = write(
        tmp_path, '[classes.cached]\ngrace = "2s"\ntime_to_exit = "1s"\n', "10-first.toml"
    )
    second = write(tmp_path, '[classes.cached]\ngrace = "3s"\n', "20-second.toml")
    loaded = load_config([first, second])
    cached = loaded.settings.classes[AppClass.CACHED]
    assert (cached.grace_us, cached.time_to_exit_us) == (3_000_000, 1_000_000)
    assert cached.oom_score_adj == 900
    assert loaded.files == ("lmkd/defaults.toml", str(first), str(second))


def test_the_files_of_etc_are_found_in_the_order_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "SYSTEM_CONFIG", tmp_path / "lmkd.toml")
    monkeypatch.setattr(config, "SYSTEM_CONFIG_DIR", tmp_path / "lmkd.d")
    assert find_config_files(None) == []
    (tmp_path / "lmkd.d").mkdir()
    for name in ("b.toml", "a.toml", "c.conf"):
        write(tmp_path / "lmkd.d", "", name)
    write(tmp_path, "")
    names = [path.name for path in find_config_files(None)]
    assert names == ["lmkd.toml", "a.toml", "b.toml"]
    assert find_config_files(tmp_path / "other.toml") == [tmp_path / "other.toml"]


# --- every kind of mistake --------------------------------------------------------------------------------------------

SHARE = 'expected a share such as "7%" or "0.5%"'
DURATION = 'expected a duration up to 60min, such as "500ms" or "3s"'
SIZE = 'expected a size such as "64MiB" or "1GiB"'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[stall.low]\nsome = 7", f"2: stall.low.some: {SHARE}, got 7"),
        ("[stall.low]\nsome = 7.5", f"2: stall.low.some: {SHARE}, got 7.5"),
        ('[stall.low]\nsome = "7"', f"2: stall.low.some: {SHARE}, got '7'"),
        ('[stall.low]\nsome = "-7%"', f"2: stall.low.some: {SHARE}, got '-7%'"),
        ('[stall.low]\nsome = "1001%"', f"2: stall.low.some: {SHARE}, got '1001%'"),
        ('[stall.low]\nsome = "0.123%"', f"2: stall.low.some: {SHARE}, got '0.123%'"),
        ('[timing]\nrest = "5"', f"2: timing.rest: {DURATION}, got '5'"),
        ('[timing]\nrest = "5h"', f"2: timing.rest: {DURATION}, got '5h'"),
        ('[timing]\nrest = "61min"', f"2: timing.rest: {DURATION}, got '61min'"),
        ("[timing]\nrest = 2026-01-01", "2: timing.rest: expected a duration"),
        ('[victims]\nleast = "64MB"', f"2: victims.least: {SIZE}, got '64MB'"),
        ("[victims]\nleast = []", f"2: victims.least: {SIZE}, got an array"),
        ("[victims]\nleast = {}", f"2: victims.least: {SIZE}, got a table"),
        ('[system]\nkill = "no"', "2: system.kill: expected true or false, got 'no'"),
        ("[system]\nkill = 0", "2: system.kill: expected true or false, got 0"),
        (
            "[service]\nhistory_episodes = 0",
            "2: service.history_episodes: expected a whole number from 1 to 10000, got 0",
        ),
        (
            "[service]\nhistory_episodes = true",
            "2: service.history_episodes: expected a whole number from 1 to 10000, got true",
        ),
        (
            '[service]\nsocket = "run/lmkd"',
            '2: service.socket: expected an absolute path, such as "/run/lmkd/socket", got ',
        ),
        ('[service]\nsocket = "/a\\u0000"', "2: service.socket: expected an absolute path"),
        (
            '[service]\nclaim_ceiling = "vip"',
            '2: service.claim_ceiling: expected one of "cached", "background", "service", '
            '"perceptible", "foreground", "system", got \'vip\'',
        ),
        (
            '[classes.cached]\nkilled_at = "always"',
            '2: classes.cached.killed_at: expected "low", "medium", "critical" or "never", '
            "got 'always'",
        ),
        ("[classes.cached]\nkilled_at = [1]", "2: classes.cached.killed_at: expected"),
        (
            "[classes.cached]\noom_score_adj = 1001",
            "2: classes.cached.oom_score_adj: expected a whole number from -1000 to 1000, got 1001",
        ),
        ("classes = 5", "1: classes: expected a table, got 5"),
        ("classes.cached = []", "1: classes.cached: expected a table, got an array"),
        ("[timing]\nread_in_emergency = '0ms'", "2: timing.read_in_emergency: expected"),
        # domains
        ("domain = 5", "1: domain: expected [[domain]] tables, got 5"),
        ("domain = [1]", "1: domain: expected [[domain]] tables, got an array"),
        ("[[domain]]\nkill = true", '1: domain.0: needs cgroup = "/path"'),
        ("domain = [{}]", '1: domain.0: needs cgroup = "/path"'),
        (
            '[[domain]]\ncgroup = "/a"\n[[domain]]\ncgroup = "b"',
            "4: domain.1.cgroup: expected a cgroup's path below the mount, such as",
        ),
        ('[[domain]]\ncgroup = "/a/../b"', "2: domain.0.cgroup: expected a cgroup's path"),
        ('[[domain]]\ncgroup = "/a/"', "2: domain.0.cgroup: expected a cgroup's path"),
        ('[[domain]]\ncgroup = "/"', "2: domain.0.cgroup: expected a cgroup's path"),
        ('[[domain]]\ncgroup = "/a//b"', "2: domain.0.cgroup: expected a cgroup's path"),
        ('[[domain]]\ncgroup = "/a/."', "2: domain.0.cgroup: expected a cgroup's path"),
        ('[[domain]]\ncgroup = "/a\\n"', "2: domain.0.cgroup: expected a cgroup's path"),
        # a key that there is not, with the nearest that there is
        ("[stal.low]", "1: stal: unknown key; did you mean 'stall'?"),
        ("[stall.lo]", "1: stall.lo: unknown key; did you mean 'low'?"),
        (
            '[timing]\ncalm_holt = "1s"',
            "2: timing.calm_holt: unknown key; did you mean 'calm_hold'?",
        ),
        ("[system]\nqqq = 1", "2: system.qqq: unknown key; known here: kill"),
        (
            '[[domain]]\ncgroup = "/a"\nkil = 1',
            "3: domain.0.kil: unknown key; did you mean 'kill'?",
        ),
        # no TOML, and no text
        ("a = ", "1: not TOML: Invalid value"),
        ("[timing]\nrest = \n", "2: not TOML: Invalid value"),
        ("[timing]\n[timing]\n", "2: not TOML: Cannot declare"),
        ("[timing", "1: not TOML: "),
        # orders that make no sense
        (
            '[stall.low]\nsome = "21%"',
            "2: stall.low.some: a higher level needs more stall: stall.low.some must be less than "
            "stall.medium.some",
        ),
        ('[stall.medium]\nfull = "15%"', "2: stall.medium.full: a higher level needs more stall"),
        (
            '[stall.emergency]\nfull = "15%"',
            "2: stall.emergency.full: an emergency is more than critical: stall.critical.full must "
            "be less than stall.emergency.full",
        ),
        (
            '[stall.harm]\nfull = "50%"',
            "2: stall.harm.full: an emergency is more than harm: stall.harm.full must be less than "
            "stall.emergency.full",
        ),
        (
            '[floor.low]\nenter = "8%"',
            "2: floor.low.enter: a higher level has less memory left: floor.medium.enter must be "
            "less than floor.low.enter",
        ),
        (
            '[floor.medium]\nenter = "10%"',
            "2: floor.medium.enter: a floor is left above where it was entered",
        ),
        (
            '[floor.critical]\nmost = "640MiB"',
            "2: floor.critical.most: a higher level has less memory left",
        ),
        ('[swap]\ncritical = "20%"', "2: swap.critical: a higher level has less swap left"),
        ('[thrash]\nlow = "60%"', "2: thrash.low: a higher level has more refaults"),
        ('[forecast]\nmedium = "6s"', "2: forecast.medium: a higher level has less time left"),
        (
            '[timing]\nread_pressed = "2s"',
            "2: timing.read_pressed: read more often under pressure: timing.read_pressed must be "
            "less than timing.read_idle",
        ),
        (
            "[classes.background]\noom_score_adj = 900",
            "2: classes.background.oom_score_adj: the kernel must see the classes in our order: "
            "classes.background.oom_score_adj must be less than classes.cached.oom_score_adj",
        ),
        (
            '[classes.background]\nkilled_at = "low"',
            "2: classes.background.killed_at: must not be below that of cached, which is the lower "
            "class",
        ),
        (
            '[classes.system]\nkilled_at = "critical"',
            '2: classes.system.killed_at: expected "never": that is what system means',
        ),
    ],
)
def test_each_mistake_says_where_it_is_and_what_was_expected(
    tmp_path: Path, text: str, said: str
) -> None:
    (line,) = mistakes_of(tmp_path, text)
    assert line.startswith(said)


@pytest.mark.parametrize(
    "path",
    [
        "/" + "x" * 1023,
        "/" + "x" * 1024,
        "/" + "ü" * 1023,
        "/a/b.slice/c d",
        "/a/...",
        "/.a",
        "/a\u00a0b",
        *(
            "/a" + part
            for part in ("/", "//b", "/.", "/..", "/./b", "/../b", "\x85", "\x1f", "\x7f")
        ),
        *("//a", "a", "", "/../a"),
    ],
)
def test_a_cgroup_is_taken_where_a_client_could_name_it(tmp_path: Path, path: str) -> None:
    written = write(tmp_path, f"[[domain]]\ncgroup = {json.dumps(path)}\n")
    if Domain().accepts(path):
        assert load_config([written]).settings.domains == (SYSTEM_DOMAIN, path)
    else:
        with pytest.raises(ConfigError, match=r"domain\.0\.cgroup: expected a cgroup's path"):
            load_config([written])


def test_harm_above_critical_is_a_choice(tmp_path: Path) -> None:
    path = write(tmp_path, '[stall.harm]\nsome = "80%"\nfull = "40%"\n')
    assert load_config([path]).settings.stall_harm == StallStep(8000, 4000)


def test_a_thousand_mistakes_take_one_look_at_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    find = config._find_lines

    def count(text: str) -> dict[tuple[str, ...], int]:
        looks.append(text)
        return find(text)

    monkeypatch.setattr(config, "_find_lines", count)
    text = "".join(f"[[domain]]\ncgroup = {number}\n" for number in range(1000))
    said = mistakes_of(tmp_path, text)
    assert len(said) == 1000
    assert said[-1].startswith("2000: domain.999.cgroup: ")
    assert len(looks) == 1


def test_a_good_configuration_is_not_searched_for_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To compile what finds them costs the daemon 1.5 MiB for good."""
    monkeypatch.delattr(config, "_find_lines")
    load_config([write(tmp_path, '[timing]\nrest = "4s"\n')])


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
        ["3", "stall.low.some"],
        ["5", "timing.rest"],
        ["6", "timing.nonsense"],
        ["9", "domain.0.kill"],
        ["8", "domain.0"],
        ["11", "floor.low.enter"],
    ]


def test_the_mistakes_of_all_files_are_reported_each_with_its_file(tmp_path: Path) -> None:
    bad = write(tmp_path, "[timing]\nrest = 5\n", "bad.toml")
    broken = write(tmp_path, "[", "broken.toml")
    good = write(tmp_path, '[timing]\nrest = "4s"\n', "good.toml")
    missing = tmp_path / "missing.toml"
    with pytest.raises(ConfigError) as caught:
        load_config([bad, broken, good, missing, tmp_path])
    places = [(mistake.file, mistake.line) for mistake in caught.value.mistakes]
    assert sorted(places, key=str) == sorted(
        [
            (str(bad), 2),
            (str(broken), 1),
            (str(missing), None),
            (str(tmp_path), None),
        ],
        key=str,
    )
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


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("stall.low.some = 7\n", 1),
        ('[stall]\n"low".some = 7\n', 2),
        ("[ stall . low ] # here\n\nsome=7\n", 3),
        ("[stall]\nlow = { full = '1%', some = 7 }\n", 2),
        ("stall = { low = { some = 7 } }\n", 1),
        # Only \n ends a line of TOML.
        ("# \u2028 \x85 one line\n[stall.low]\nsome = 7\n", 3),
        ("[stall.low]\r\nsome = 7\r\n", 2),
    ],
)
def test_the_line_of_a_mistake_is_found_however_the_key_is_written(
    tmp_path: Path, text: str, line: int
) -> None:
    path = tmp_path / "lmkd.toml"
    path.write_bytes(text.encode())
    with pytest.raises(ConfigError) as caught:
        load_config([path])
    assert [(one.line, one.key) for one in caught.value.mistakes] == [(line, "stall.low.some")]


def test_a_mistake_without_a_place_says_what_it_can() -> None:
    assert str(Mistake("f", None, "", "x")) == "f: x"
    assert str(Mistake("f", 3, "a.b", "x")) == "f:3: a.b: x"


# --- hostile files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff", "1: not UTF-8 text"),
        (b"[timing]\n# \xe4\n", "2: not UTF-8 text"),
        (b"a = " + b"[" * 20_000, " not TOML: nested too deep"),
        (b"x = " + b"{a=" * 5_000, " not TOML: nested too deep"),
        (b"\n[service]\nhistory_episodes = " + b"9" * 5_000, " not TOML: Exceeds the limit"),
        (b"[service]\nhistory_episodes = 0x" + b"f" * 5_000, "2: service.history_episodes: "),
        (b'[service]\nsocket = "' + b"x" * 5_000 + b'"', "2: service.socket: "),
        (b"\x00", "1: not TOML: "),
    ],
)
def test_a_hostile_file_is_a_mistake_with_a_place_and_of_bounded_length(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "hostile.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config([path])
    (mistake,) = caught.value.mistakes
    assert str(mistake).startswith(f"{path}:{said}")
    assert len(str(mistake)) < len(str(path)) + 300


WORDS = st.sampled_from(
    [
        *config.SCHEMA,
        "low",
        "critical",
        "cached",
        "some",
        "full",
        "enter",
        "grace",
        "kill",
        "cgroup",
        "x",
    ]
)
VALUES = st.sampled_from(
    [
        '"7%"',
        '"3s"',
        '"64MiB"',
        "7",
        "true",
        "1.5",
        "[]",
        "{}",
        "[{}]",
        '"/a"',
        '"never"',
        "1979-05-27",
    ]
)
LINES = st.one_of(
    st.builds("[{}]".format, WORDS),
    st.builds("[{}.{}]".format, WORDS, WORDS),
    st.builds("[[{}]]".format, WORDS),
    st.builds("{} = {}".format, WORDS, VALUES),
    st.builds("{}.{} = {}".format, WORDS, WORDS, VALUES),
    st.text(max_size=20),
)
LIKE_TOML = st.lists(LINES, max_size=12).map(
    lambda lines: "\n".join(lines).encode("utf-8", "replace")
)
hostile = settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def load_or_refuse(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    mistakes: tuple[Mistake, ...] | None = None
    try:
        load_config([path])
    except ConfigError as error:
        mistakes = error.mistakes
    assert mistakes != ()
    lines = content.count(b"\n") + 1
    for mistake in mistakes or ():
        assert mistake.file == str(path)
        assert mistake.line is not None
        assert 1 <= mistake.line <= lines


@hostile
@given(st.binary(max_size=200))
def test_whatever_bytes_a_file_holds_nothing_is_raised_but_its_mistakes(
    tmp_path: Path, content: bytes
) -> None:
    load_or_refuse(tmp_path / "any.toml", content)


@hostile
@given(LIKE_TOML)
def test_whatever_toml_a_file_holds_nothing_is_raised_but_its_mistakes(
    tmp_path: Path, content: bytes
) -> None:
    load_or_refuse(tmp_path / "any.toml", content)


SHIPPED = config._shipped()


@hostile
@given(st.integers(0, len(SHIPPED)), st.integers(0, 30), st.binary(max_size=10))
def test_the_defaults_with_a_piece_torn_out_raise_nothing_but_their_mistakes(
    tmp_path: Path, start: int, length: int, put: bytes
) -> None:
    load_or_refuse(tmp_path / "any.toml", SHIPPED[:start] + put + SHIPPED[start + length :])
