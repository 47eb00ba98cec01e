"""What dies together: trees, cgroups, and scopes that mix many programs."""

from __future__ import annotations

import pytest

from lmkd.model import SYSTEM_DOMAIN, AppClass, Level, Process, Unit
from lmkd.policy.patterns import ExeTest, GlobTest, TextTest, UnitTest
from lmkd.policy.rank import Candidate, rank_candidates
from lmkd.policy.rules import Rule

from .scenes import BOX, MIB, Scene, app, policies, process, rule, ruled

DATABASE = rule(
    "the database as a whole",
    AppClass.SERVICE,
    ("systemd_unit", UnitTest(("postgresql*.service",))),
    unit=Unit.CGROUP,
)
BUILDS = rule("builds", AppClass.BACKGROUND, ("comm", TextTest(("make",))), unit=Unit.TREE)
SCOPES = rule(
    "terminals", AppClass.SERVICE, ("cgroup", GlobTest(("/user/*.scope",))), unit=Unit.CGROUP
)
KEPT = rule("kept", AppClass.SYSTEM, ("exe", ExeTest(("keeper",))), exempt=True)
DB = "/system.slice/postgresql@15.service"


def rank(
    rules: tuple[Rule, ...], *processes: Process, domain: str = SYSTEM_DOMAIN, **scene: object
) -> list[Candidate]:
    apps = scene.get("apps", ())
    made = Scene(
        *apps, settings=ruled(*rules, domains=policies(domain)), domains=(SYSTEM_DOMAIN, domain)
    )  # type: ignore[misc]
    made.read(0, 40)
    if domain != SYSTEM_DOMAIN:
        made.read(0, 40, domain)
    return rank_candidates(made.turn(0), made.domain(domain), processes, Level.CRITICAL)


def units(candidates: list[Candidate]) -> list[tuple[int, Unit, int]]:
    """Return pid, unit and MiB of those for killing, in order."""
    return [
        (one.victim.pid, one.victim.unit, one.victim.size_kib // MIB)
        for one in candidates
        if one.spared is None
    ]


def test_a_rule_makes_a_service_with_all_its_groups_one_unit() -> None:
    candidates = rank(
        (DATABASE,),
        process(10, 30, cgroup=DB),
        process(11, 50, cgroup=f"{DB}/workers"),
        process(12, 5, cgroup=f"{DB}/workers"),
        process(13, 60, cgroup="/system.slice/other.service"),
    )
    assert units(candidates) == [(11, Unit.CGROUP, 85), (13, Unit.PROCESS, 60)]
    assert candidates[0].victim.cgroup == DB
    assert candidates[0].victim.processes == 3
    assert candidates[0].members == (10, 11, 12)


def test_as_a_whole_or_not_at_all_where_it_holds_one_that_is_never_killed() -> None:
    candidates = rank(
        (KEPT, DATABASE),
        process(10, 300, cgroup=DB),
        process(11, 50, cgroup=DB, exe="/usr/bin/keeper"),
    )
    assert units(candidates) == []
    (whole,) = candidates
    assert whole.spared is not None
    assert "is the whole or nothing" in whole.spared


def test_a_unit_that_reaches_out_of_the_domain_is_not_killed_for_it() -> None:
    deep = rule("deep", AppClass.CACHED, ("cgroup", GlobTest(("/a/**",))), unit=Unit.CGROUP)
    candidates = rank((deep,), process(10, 300, cgroup="/a/b"), domain="/a/b")
    (whole,) = candidates
    assert whole.spared == "its unit /a reaches out of this domain"


def test_the_outer_of_two_units_is_the_unit() -> None:
    inner = rule("inner", AppClass.CACHED, ("cgroup", GlobTest(("/a/b",))), unit=Unit.CGROUP)
    outer = rule("outer", AppClass.CACHED, ("cgroup", GlobTest(("/a",))), unit=Unit.CGROUP)
    candidates = rank((inner, outer), process(10, 30, cgroup="/a"), process(11, 40, cgroup="/a/b"))
    assert units(candidates) == [(10, Unit.CGROUP, 70)]


def test_a_unit_has_the_highest_class_of_those_in_it() -> None:
    editor = app(1, AppClass.PERCEPTIBLE, cgroup=DB)
    candidates = rank(
        (DATABASE,),
        process(10, 30, cgroup=DB),
        process(1001, 40, cgroup=DB),
        process(12, 30, cgroup="/x"),
        apps=(editor,),
    )
    assert [one.victim.app_class for one in candidates] == [
        AppClass.SERVICE,
        AppClass.PERCEPTIBLE,
    ]
    assert candidates[1].apps == (1,)


# --- trees --------------------------------------------------------------------------------------------------


def test_a_tree_is_a_process_and_its_descendants_in_its_cgroup() -> None:
    candidates = rank(
        (BUILDS,),
        process(10, 10, comm="make"),
        process(11, 30, ppid=10),
        process(12, 40, ppid=11),
        process(13, 50, ppid=12, cgroup="/moved"),
        process(14, 60),
    )
    assert units(candidates) == [
        (10, Unit.TREE, 80),
        (14, Unit.PROCESS, 60),
        (13, Unit.PROCESS, 50),
    ]
    assert candidates[0].members == (10, 11, 12)


def test_a_tree_in_a_tree_is_part_of_the_upper_one() -> None:
    candidates = rank(
        (BUILDS,), process(10, 10, comm="make", ppid=12), process(12, 30, comm="make", ppid=1)
    )
    assert units(candidates) == [(12, Unit.TREE, 40)]


def test_what_is_never_killed_is_no_part_of_a_tree_but_its_children_are() -> None:
    candidates = rank(
        (KEPT, BUILDS),
        process(10, 30, comm="make"),
        process(11, 500, ppid=10, exe="/usr/bin/keeper"),
        process(12, 40, ppid=11),
    )
    assert units(candidates) == [(10, Unit.TREE, 70)]
    assert 11 not in candidates[0].members


def test_an_app_puts_its_own_users_descendants_at_stake_and_no_others() -> None:
    shell = app(1, AppClass.BACKGROUND, unit=Unit.TREE)
    candidates = rank(
        (),
        process(1001, 30),
        process(11, 40, ppid=1001),
        process(12, 50, ppid=11, uid=0),
        apps=(shell,),
    )
    assert units(candidates) == [(1001, Unit.TREE, 70), (12, Unit.PROCESS, 50)]


def test_processes_that_are_each_others_parents_end_no_ranking() -> None:
    """A scan is not one instant: a pid that was recycled meanwhile may close a circle."""
    candidates = rank(
        (BUILDS,),
        process(10, 30, comm="make", ppid=11),
        process(11, 40, comm="make", ppid=10),
    )
    assert sum(size for _, _, size in units(candidates)) == 70


# --- scopes that mix many programs ----------------------------------------------------------------------------

SCOPE = "/user/tmux.scope"


def programs(*sizes_mib: int, first: int, ppid: int) -> list[Process]:
    return [
        process(first + number, size, ppid=ppid, cgroup=SCOPE, exe=f"/usr/bin/p{first + number}")
        for number, size in enumerate(sizes_mib)
    ]


def terminal(build_mib: int) -> list[Process]:
    """tmux, two shells, an editor in one, in the other a make of many compilers."""
    named = {20: (10, 1, "tmux"), 21: (3, 20, "bash"), 22: (3, 20, "bash"), 23: (25, 21, "vim")}
    fixed = [
        process(pid, size, ppid=ppid, cgroup=SCOPE, exe=f"/usr/bin/{name}", comm=name)
        for pid, (size, ppid, name) in named.items()
    ]
    make = process(24, 2, ppid=22, cgroup=SCOPE, exe="/usr/bin/make", comm="make")
    compilers = [
        process(30 + number, build_mib, ppid=24, cgroup=SCOPE, exe="/usr/lib/gcc/cc1", comm="cc1")
        for number in range(20)
    ]
    return [*fixed, make, *compilers]


def test_in_a_terminal_the_build_goes_first_and_the_shells_stay() -> None:
    candidates = rank((SCOPES,), *terminal(build_mib=10))
    assert units(candidates)[0] == (24, Unit.TREE, 202)
    assert set(candidates[0].members) == {24, *range(30, 50)}


def test_when_no_subtree_is_worth_it_the_whole_goes() -> None:
    small = [one for one in terminal(build_mib=0) if one.pid != 23]
    assert units(rank((SCOPES,), *small, *programs(1, 1, 1, first=60, ppid=20))) == [
        (20, Unit.CGROUP, 21)
    ]


def test_a_multiplexer_of_equal_shells_loses_the_largest_not_all() -> None:
    shells = programs(30, 31, 30, 30, 30, 30, first=60, ppid=20)
    candidates = rank((SCOPES,), *terminal(build_mib=0)[:1], *shells)
    assert units(candidates) == [(61, Unit.TREE, 31)]


def test_a_scope_of_few_programs_is_a_unit() -> None:
    """A browser with its helpers is one program, however many processes it has."""
    candidates = rank(
        (SCOPES,),
        *(process(pid, 30, cgroup=SCOPE, exe="/usr/bin/firefox") for pid in range(20, 60)),
    )
    assert units(candidates) == [(20, Unit.CGROUP, 1200)]


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_the_scan_makes_no_difference(order: int) -> None:
    processes = [*terminal(10), process(80, 30, cgroup=DB), process(81, 20, cgroup=DB)]
    rules = (DATABASE, SCOPES, BUILDS)
    assert rank(rules, *processes[::order]) == rank(rules, *processes)


def test_the_box_is_ranked_by_itself() -> None:
    inside = process(10, 30, cgroup=f"{BOX}/x")
    assert units(rank((), inside, process(11, 90), domain=BOX)) == [(10, Unit.PROCESS, 30)]
