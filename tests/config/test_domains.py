"""[[domain]]: what differs there, which comes first, and how files are laid over each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmkd.config import ConfigError, load_config
from lmkd.model import AppClass, Level
from lmkd.policy.settings import Amount

from .files import load, warnings_of

ALL = frozenset(AppClass) - {AppClass.SYSTEM}


def patterns(directory: Path, *texts: str) -> list[str]:
    return [entry.pattern for entry in load(directory, *texts).settings.domains]


def test_a_domain_has_the_systems_settings_with_its_own_laid_over_them(tmp_path: Path) -> None:
    text = """
[floor.low]
enter = "20%"
leave = "25%"
[timing]
rest = "7s"
[[domain]]
cgroup = "/build/*"
kill = ["cached"]
stall.harm.full = "20%"
[domain.floor.low]
enter = "30%"
leave = "35%"
[domain.timing]
settle = "1s"
[domain.victims]
least = "1MiB"
[[rule]]
name = "r"
class = "cached"
match.comm = "x"
"""
    policy = load(tmp_path, text).settings
    inner = policy.of("/build/a")
    assert inner is policy.domains[0].settings
    assert inner.domains == ()
    assert inner.killable == {AppClass.CACHED}
    assert inner.floor[Level.LOW].enter.permyriad == 3000
    assert inner.floor[Level.MEDIUM] == policy.floor[Level.MEDIUM]
    assert inner.floor[Level.LOW].enter.most_kib == policy.floor[Level.LOW].enter.most_kib
    assert inner.stall_harm.full_permyriad == 2000
    assert (inner.settle_us, inner.rest_us) == (1_000_000, 7_000_000)
    assert inner.min_victim_least_kib == 1024
    assert inner.rules is policy.rules
    assert inner.classes is policy.classes
    assert policy.floor[Level.LOW].enter == Amount(2000, 1 << 20)


def test_without_a_word_of_it_all_classes_may_die(tmp_path: Path) -> None:
    policy = load(tmp_path, '[system]\nkill = false\n[[domain]]\ncgroup = "/a"\n').settings
    assert policy.of("/a").killable == ALL


def test_domains_stand_as_written_and_the_last_files_come_first(tmp_path: Path) -> None:
    first = '[[domain]]\ncgroup = "/b"\n[[domain]]\ncgroup = "/a*"\n'
    second = '[[domain]]\ncgroup = "/d"\n[[domain]]\ncgroup = "/c"\n'
    assert patterns(tmp_path, first) == ["/b", "/a*"]
    assert patterns(tmp_path, first, second) == ["/d", "/c", "/b", "/a*"]


def test_the_first_glob_that_names_a_cgroup_is_its_policy(tmp_path: Path) -> None:
    text = '[[domain]]\ncgroup = "/a/b"\nkill = false\n[[domain]]\ncgroup = "/a/*"\n'
    policy = load(tmp_path, text).settings
    assert policy.of("/a/b").killable == frozenset()
    assert policy.of("/a/c").killable == ALL


def test_one_glob_in_two_files_is_one_domain_laid_over_key_by_key(tmp_path: Path) -> None:
    first = """
[[domain]]
cgroup = "/a"
kill = ["cached"]
floor.low = { enter = "30%", leave = "40%" }
timing.rest = "2s"
[[domain]]
cgroup = "/b"
"""
    second = '[[domain]]\ncgroup = "/a"\n[domain.floor.low]\nleave = "35%"\n'
    policy = load(tmp_path, first, second).settings
    assert [entry.pattern for entry in policy.domains] == ["/a", "/b"]
    inner = policy.of("/a")
    assert inner.killable == {AppClass.CACHED}
    assert (inner.floor[Level.LOW].enter.permyriad, inner.floor[Level.LOW].leave.permyriad) == (
        3000,
        3500,
    )
    assert inner.rest_us == 2_000_000
    third = '[[domain]]\ncgroup = "/a"\nkill = false\n'
    assert load(tmp_path, first, second, third).settings.of("/a").killable == frozenset()


def test_an_order_that_a_domain_breaks_with_the_systems_values_is_blamed_on_the_domain(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            tmp_path,
            '[swap]\nlow = "50%"\nmedium = "40%"\n',
            '[[domain]]\ncgroup = "/a"\nswap.medium = "60%"\n[[domain]]\ncgroup = "/b"\nswap.low = "10%"\n',
        )
    assert [str(one).removeprefix(f"{tmp_path}/") for one in caught.value.mistakes] == [
        "1.toml:3:15: domain.swap.medium: a higher level has less swap left:"
        " swap.medium must be less than swap.low",
        "1.toml:6:12: domain.swap.low: a higher level has less swap left:"
        " swap.medium must be less than swap.low",
    ]


def test_an_order_that_the_system_breaks_is_told_once_however_many_domains_there_are(
    tmp_path: Path,
) -> None:
    domains = "".join(f'[[domain]]\ncgroup = "/{n}"\n' for n in range(5))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, '[swap]\nlow = "1%"\n' + domains)
    assert len(caught.value.mistakes) == 1


def test_a_wrong_kill_of_a_domain_is_a_mistake_and_no_more(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, '[[domain]]\ncgroup = "/a"\nkill = 5\n')
    assert len(caught.value.mistakes) == 1


def test_a_domain_that_an_earlier_one_names_whole_is_warned_of(tmp_path: Path) -> None:
    text = '[[domain]]\ncgroup = "/a/**"\n[[domain]]\ncgroup = "/a/b"\n[[domain]]\ncgroup = "/c"\n'
    assert warnings_of(tmp_path, text) == [
        f"0.toml:4:10: domain.cgroup: this domain never applies: '/a/**' ({tmp_path}/0.toml:2)"
        " comes first, and names all that it would"
    ]


@pytest.mark.parametrize(
    "path",
    [
        "/" + "x" * 1023,
        "/" + "x" * 1024,
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
    import json

    from lmkd_proto.values import Domain

    text = f"[[domain]]\ncgroup = {json.dumps(path)}\n"
    if Domain().accepts(path):
        assert patterns(tmp_path, text) == [path]
    else:
        with pytest.raises(ConfigError, match=r"domain\.cgroup: expected a cgroup's path"):
            load(tmp_path, text)


def test_ten_thousand_groups_of_one_glob_are_one_policy(tmp_path: Path) -> None:
    """Nothing is kept for a group that has vanished."""
    policy = load_config([]).settings
    policy = load(tmp_path, '[[domain]]\ncgroup = "/jobs/*"\n').settings
    assert all(policy.of(f"/jobs/{n}") is policy.domains[0].settings for n in range(10_000))
    assert len(policy._of) <= 1024
