"""The roll: who is known, by which rule, and at which place, by the kernel's word, by a look, and after lost words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkd.config import load_config
from lmkd.kernel.interface import ProcessEvents
from lmkd.kernel.simulated import SimulatedKernel
from lmkd.model import App, AppClass, Glance, Mark, Process, Unit
from lmkd.policy.patterns import GlobTest, TextTest
from lmkd.policy.rules import Condition, Rule, RuleSet, Verdict
from lmkd.policy.settings import Settings
from lmkd.service.projection import Projection
from lmkd.service.roll import GLANCES, Roll

from .house import PINNED

OWN_PID = 99
BASE = load_config([PINNED]).settings


def rule(name: str, app_class: AppClass, *conditions: Condition, **verdict: object) -> Rule:
    return Rule(name, "test.toml:1", conditions, Verdict(app_class, **verdict))  # type: ignore[arg-type]


TABS = rule("tabs", AppClass.CACHED, Condition("comm", TextTest(("tab",))))
LATER = rule("later", AppClass.CACHED, Condition("comm", TextTest(("later",))), bias=-60)
KEPT = rule("kept", AppClass.SYSTEM, Condition("cgroup", GlobTest(("/kept",))), exempt=True)
DB = rule("db", AppClass.SERVICE, Condition("cgroup", GlobTest(("/db/**",))), unit=Unit.CGROUP)
CHILDREN = rule("children", AppClass.BACKGROUND, Condition("parent", TextTest(("shell",))))


class Registry:
    """A roll on a simulated kernel, with the kernel's word of processes."""

    def __init__(self, *rules: Rule, scope: str = "all", **changes: object) -> None:
        self.kernel = SimulatedKernel()
        events = self.kernel.open_process_events()
        assert not isinstance(events, str)
        self.events: ProcessEvents = events
        self.now_us = 0
        self.projection = Projection(self.kernel, None, lambda work: work())
        self.settings: Settings = replace(
            BASE,
            rules=RuleSet((*rules, *BASE.rules.rules)),
            **changes,  # type: ignore[arg-type]
        )
        self.roll = Roll(
            self.kernel, self.projection, self.settings, OWN_PID, lambda: self.now_us, scope
        )

    def take(self) -> bool:
        """Take the kernel's word; return whether some was lost."""
        batch, lost = self.events.take_nowait()
        self.roll.take(batch)
        return lost

    def adj(self, pid: int) -> int:
        process = self.kernel.process(pid)
        assert process is not None
        return process.oom_score_adj

    def app(self, pid: int, app_class: AppClass, number: int = 1) -> App:
        process = self.kernel.process(pid)
        assert process is not None
        return App(number, pid, process.start_ticks, 1000, "app", app_class, process.cgroup)


def test_a_newcomer_is_matched_and_placed_at_its_exec() -> None:
    house = Registry(TABS)
    tab, other = house.kernel.spawn("tab"), house.kernel.spawn("other")
    house.take()
    assert (house.adj(tab), house.adj(other)) == (900, 500)
    assert house.roll.known[tab].classed.why == "tabs"
    assert house.roll.hits[0] == 1
    assert house.roll.unruled_hits == 1


def test_what_becomes_another_by_exec_has_another_place() -> None:
    house = Registry(TABS)
    pid = house.kernel.spawn("shell", oom_score_adj=37)
    house.take()
    house.kernel.exec_(pid, "tab")
    house.take()
    assert house.adj(pid) == 900
    assert house.roll.known[pid].process.oom_score_adj == 37, "judged by what others gave it"


def test_a_child_inherits_our_place_and_is_known_for_what_its_parent_really_was() -> None:
    house = Registry(TABS)
    parent = house.kernel.spawn("tab", oom_score_adj=-5)
    house.take()
    child = house.kernel.fork(parent)
    house.take()
    assert house.adj(child) == 900
    assert house.roll.known[child].process.oom_score_adj == -5
    house.kernel.exec_(child, "other")
    house.take()
    assert house.roll.known[child].classed.app_class is AppClass.FOREGROUND
    assert house.adj(child) == -5, "what is lowered by others is not raised"
    house.projection.restore_all()
    assert (house.adj(parent), house.adj(child)) == (-5, -5)


def test_a_child_that_was_forked_before_its_parents_latest_place_comes_to_it_at_the_next_look() -> (
    None
):
    house = Registry(TABS)
    parent = house.kernel.spawn("shell", oom_score_adj=3)
    house.take()
    house.kernel.exec_(parent, "tab")
    child = house.kernel.fork(parent)  # it has the shell's 500: nobody has looked at the tab yet
    house.take()
    assert (house.adj(parent), house.adj(child)) == (900, 500)
    house.now_us = 1_000_000
    house.roll.look_at_young(100)
    assert house.adj(child) == 900
    house.projection.restore_all()
    assert (house.adj(parent), house.adj(child)) == (3, 3)


def test_the_child_of_a_registered_program_is_no_registered_program() -> None:
    house = Registry()
    parent = house.kernel.spawn("app")
    house.take()
    house.roll.register(house.app(parent, AppClass.PERCEPTIBLE))
    assert house.adj(parent) == 200
    child = house.kernel.fork(parent)
    house.take()
    assert (house.adj(parent), house.adj(child)) == (200, 500)
    assert house.roll.known[child].app is None


def test_a_rule_that_asks_for_the_parent_is_asked_at_the_fork() -> None:
    house = Registry(CHILDREN)
    shell = house.kernel.spawn("shell")
    house.take()
    child = house.kernel.fork(shell)
    house.take()
    assert house.roll.known[child].classed.why == "children"
    assert house.adj(child) == 700


def test_who_came_and_went_in_one_batch_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    house = Registry()
    for _ in range(100):
        house.kernel.exit(house.kernel.spawn("brief"))
    read: list[int] = []
    monkeypatch.setattr(house.kernel, "process", lambda pid, details=None: read.append(pid))
    house.take()
    assert read == []
    assert house.roll.known == {}


def test_lost_words_end_in_a_look_at_everybody() -> None:
    house = Registry(TABS)
    gone = house.kernel.spawn("tab")
    house.take()
    house.kernel.exit(gone)
    tab = house.kernel.spawn("tab")
    house.kernel.lose_process_events()
    assert house.take() is True
    house.roll.look_at_all()
    assert set(house.roll.known) == {tab}
    assert house.adj(tab) == 900


def test_looking_finds_who_came_and_went() -> None:
    house = Registry(TABS)
    gone = house.kernel.spawn("tab")
    house.roll.look_at_all()
    house.kernel.exit(gone)
    tab = house.kernel.spawn("tab")
    house.roll.look_for_new(100)
    assert set(house.roll.known) == {tab}
    assert house.adj(tab) == 900


def test_children_that_are_as_their_parent_cost_a_glance_and_others_a_look() -> None:
    """With one look to spend, five children of a bomb are taken; one that called exec is read whole."""
    house = Registry(TABS)
    bomb = house.kernel.spawn("bomb")
    house.roll.look_at_all()
    born = [house.kernel.fork(bomb) for _ in range(GLANCES + 1)]
    assert house.roll.look_for_new(1) is False
    assert set(house.roll.known) == {bomb, *born[:-1]}
    other = house.kernel.fork(bomb)
    house.kernel.exec_(other, "tab", exe="/usr/bin/tab")
    assert house.roll.look_for_new(1) is True
    assert house.roll.known[other].process.exe == "/usr/bin/tab"
    child = house.kernel.process(born[0])
    assert child is not None
    assert house.roll.known[born[0]].process == replace(child, oom_score_adj=0)
    assert house.adj(born[0]) == house.adj(bomb)


def test_threads_of_the_kernel_are_no_newcomers_and_cost_the_children_of_a_bomb_nothing() -> None:
    """They are in no scan, and were read anew after every look at all, before anybody born later."""
    house = Registry(TABS)
    kernel = house.kernel
    threads = [kernel.spawn(f"kworker/{number}") for number in range(20)]
    scan, glance, read = kernel.scan, kernel.glance, kernel.process

    def scan_others(*arguments: Any) -> list[Process]:
        return [process for process in scan(*arguments) if process.pid not in threads]

    def glance_at(pid: int) -> Glance | None:
        return Glance(5, 2, 0, "kworker", kernel_thread=True) if pid in threads else glance(pid)

    def read_others(pid: int, *details: Any) -> Process | None:
        assert pid not in threads
        return read(pid, *details)

    kernel.scan = scan_others  # type: ignore[method-assign]
    kernel.glance = glance_at  # type: ignore[method-assign]
    kernel.process = read_others  # type: ignore[method-assign]
    bomb = kernel.spawn("bomb")
    house.roll.look_at_all()
    threads.append(kernel.spawn("kworker/later"))  # one glance, once
    born = [kernel.fork(bomb) for _ in range(GLANCES - 1)]
    assert house.roll.look_for_new(1) is True
    assert set(house.roll.known) == {bomb, *born}
    assert all(house.roll.is_known(pid) for pid in threads)
    taken = threads.pop()
    kernel.recycle(taken, "tab")
    house.roll.look(taken)
    assert taken in house.roll.known
    assert taken not in house.roll._kernel_threads


def test_the_young_are_looked_at_again() -> None:
    """Nobody tells when a process is put into another cgroup."""
    house = Registry(KEPT)
    pid = house.kernel.spawn("app")
    house.take()
    house.kernel.move(pid, "/kept")
    house.now_us = 999_999
    house.roll.look_at_young(100)
    assert house.adj(pid) == 500
    house.now_us = 1_000_000
    house.roll.look_at_young(100)
    assert house.adj(pid) == -1000
    house.kernel.move(pid, "/")
    house.now_us = 10_000_000
    house.roll.look_at_young(100)
    assert house.adj(pid) == 500


def test_a_recycled_pid_is_another_process() -> None:
    house = Registry(TABS)
    pid = house.kernel.spawn("tab", oom_score_adj=5)
    house.roll.look_at_all()
    house.kernel.recycle(pid, "innocent")
    house.roll.look(pid)
    known = house.roll.known[pid]
    assert (known.process.comm, known.process.oom_score_adj) == ("innocent", 0)
    assert house.adj(pid) == 500


def test_somebody_elses_later_word_about_a_process_is_its_own_from_then_on() -> None:
    house = Registry(TABS)
    pid = house.kernel.spawn("tab")
    house.take()
    start_ticks = house.kernel.start_ticks(pid)
    assert start_ticks is not None
    house.kernel.set_oom_score_adj(pid, start_ticks, 300)
    house.roll.look(pid)
    assert house.roll.known[pid].process.oom_score_adj == 300
    assert house.adj(pid) == 900
    house.projection.restore_all()
    assert house.adj(pid) == 300


@pytest.mark.parametrize(
    ("spawned", "adj"),
    [
        ({"name": "app"}, 500),
        ({"name": "app", "oom_score_adj": 850}, 900),
        ({"name": "app", "oom_score_adj": -500}, -500),  # its owner has asked for more than 0
        ({"name": "app", "oom_score_adj": -1000}, -1000),
        ({"name": "sshd", "exe": "/usr/sbin/sshd"}, -1000),
        ({"name": "later"}, 870),
        ({"name": "app", "cgroup": "/kept"}, -1000),
        ({"name": "tab", "mark": Mark.AVOID}, 875),
        ({"name": "tab", "mark": Mark.PREFER}, 925),
        ({"name": "init", "pid": 1}, 0),
        ({"name": "lmkd", "pid": OWN_PID}, 0),
    ],
)
def test_places(spawned: dict[str, object], adj: int) -> None:
    house = Registry(KEPT, TABS, LATER)
    pid = house.kernel.spawn(**spawned)  # type: ignore[arg-type]
    house.take()
    assert house.adj(pid) == adj


def test_in_strict_mode_the_unruled_are_first_for_the_kernel_too() -> None:
    house = Registry(TABS, strict=True)
    tab, unruled = house.kernel.spawn("tab"), house.kernel.spawn("unruled")
    house.take()
    assert (house.adj(tab), house.adj(unruled)) == (900, 1000)


@pytest.mark.parametrize(("scope", "adj"), [("all", 900), ("registered", 5), ("none", 5)])
def test_whose_places_are_written(scope: str, adj: int) -> None:
    house = Registry(TABS, scope=scope)
    pid = house.kernel.spawn("tab", oom_score_adj=5)
    house.take()
    assert house.adj(pid) == adj
    house.roll.register(house.app(pid, AppClass.BACKGROUND))
    assert house.adj(pid) == (5 if scope == "none" else 700)
    house.roll.unregister(house.app(pid, AppClass.BACKGROUND))
    assert house.adj(pid) == adj


def test_a_dry_run_writes_nothing() -> None:
    house = Registry(TABS, DB, dry_run=True)
    pid, other = house.kernel.spawn("tab"), house.kernel.spawn("x", cgroup="/db")
    house.take()
    assert (house.adj(pid), house.adj(other)) == (0, 0)
    assert house.projection.held_together == frozenset()


def test_a_cgroup_that_dies_as_a_whole_is_held_together_while_somebody_is_in_it() -> None:
    house = Registry(DB)
    one, two = (house.kernel.spawn("pg", cgroup=f"/db{sub}") for sub in ("", "/workers"))
    house.take()
    assert house.projection.held_together == {"/db"}
    house.kernel.exit(one)
    house.take()
    assert house.projection.held_together == {"/db"}
    house.kernel.move(two, "/elsewhere")
    house.roll.look(two)
    assert house.projection.held_together == frozenset()


def test_new_rules_match_everybody_anew() -> None:
    house = Registry(TABS)
    tab = house.kernel.spawn("tab", oom_score_adj=5)
    house.take()
    house.roll.follow(BASE, "all")
    assert house.adj(tab) == 500
    assert sum(house.roll.hits.values()) == 0
    assert house.roll.unruled_hits == 1
    house.roll.follow(BASE, "none")
    assert house.adj(tab) == 5


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_after_any_storm_and_a_look_the_roll_is_what_the_kernel_has(data: st.DataObject) -> None:
    """10,000 forks or ten, words lost or not: what is known is what is there, and all places are put back."""
    house = Registry(TABS, LATER, DB)
    kernel, alive = house.kernel, [house.kernel.spawn("first", oom_score_adj=3)]
    for _ in range(data.draw(st.integers(1, 30))):
        pid = data.draw(st.sampled_from(alive)) if alive else kernel.spawn("again", oom_score_adj=3)
        match data.draw(
            st.sampled_from(["fork", "exec", "exit", "move", "take", "lose", "rename"])
        ):
            case "fork":
                alive.append(kernel.fork(pid))
            case "exec":
                kernel.exec_(pid, data.draw(st.sampled_from(["tab", "later", "other"])))
            case "exit":
                kernel.exit(pid)
                alive = [each for each in alive if each != pid]
            case "move":
                kernel.move(pid, data.draw(st.sampled_from(["/db", "/db/x", "/"])))
            case "rename":
                kernel.rename(pid, "tab")
            case "take":
                if house.take():
                    house.roll.look_at_all()
            case "lose":
                kernel.lose_process_events()
    house.take()
    house.roll.look_at_all()
    assert set(house.roll.known) == set(kernel.pids())
    for pid, known in house.roll.known.items():
        now = kernel.process(pid)
        assert now is not None
        assert (known.process.comm, known.process.cgroup) == (now.comm, now.cgroup)
        assert known.process.oom_score_adj == 3
    house.projection.restore_all()
    assert {house.adj(pid) for pid in kernel.pids()} <= {3}
