"""An app holds what would go with it: alone, or with its tree."""

from __future__ import annotations

from pathlib import Path

import lmkd_proto as wire
import pytest
from trio.testing import MockClock

from lmkd.kernel.simulated import SimulatedKernel
from lmkd.model import App, AppClass, Unit
from lmkd.service.measuring import TREE_MOST, TREES_MOST, measure_app, measure_apps

from .house import MIB, House, Peer, running


def app_of(kernel: SimulatedKernel, pid: int, unit: Unit = Unit.TREE) -> App:
    process = kernel.process(pid)
    assert process is not None
    return App(
        1, pid, process.start_ticks, process.uid, "a", AppClass.CACHED, process.cgroup, unit=unit
    )


def test_a_tree_is_measured_with_all_its_members() -> None:
    kernel = SimulatedKernel()
    root = kernel.spawn("root", anon_kib=10)
    child = kernel.spawn("child", anon_kib=200, ppid=root)
    kernel.spawn("grandchild", anon_kib=3000, ppid=child)
    kernel.spawn("stranger", anon_kib=7)
    assert measure_app(kernel, app_of(kernel, root)) == 3210
    assert measure_app(kernel, app_of(kernel, root, Unit.PROCESS)) == 10
    assert measure_app(kernel, app_of(kernel, child)) == 3200


def test_what_would_not_end_with_it_is_not_counted() -> None:
    """Another user's child, which a program may not put at stake (as the executor has it)."""
    kernel = SimulatedKernel()
    root = kernel.spawn("root", anon_kib=10, uid=1000)
    kernel.spawn("sudo", anon_kib=500, uid=0, ppid=root)
    assert measure_app(kernel, app_of(kernel, root)) == 10


def test_a_child_that_was_forked_just_now_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it holds is its parent's until it executes something: a shell script forks all the time."""
    kernel = SimulatedKernel()
    root = kernel.spawn("sh", anon_kib=1000)
    copy = kernel.spawn("sh", anon_kib=1000, ppid=root)
    kernel.spawn("worker", anon_kib=500, ppid=root)
    glance = kernel.glance
    monkeypatch.setattr(
        kernel,
        "glance",
        lambda pid: found._replace(is_copy=pid == copy) if (found := glance(pid)) else None,
    )
    assert measure_app(kernel, app_of(kernel, root)) == 1500


def test_who_is_gone_has_no_size() -> None:
    kernel = SimulatedKernel()
    app = app_of(kernel, kernel.spawn("root", anon_kib=10))
    kernel.exit(app.pid)
    assert measure_app(kernel, app) is None


@pytest.mark.parametrize(("children", "known"), [(TREE_MOST - 1, True), (TREE_MOST, False)])
def test_a_tree_too_large_to_look_at_is_not_known(children: int, known: bool) -> None:
    kernel = SimulatedKernel()
    root = kernel.spawn("root", anon_kib=1)
    for _ in range(children):
        kernel.spawn("child", anon_kib=1, ppid=root)
    assert (measure_app(kernel, app_of(kernel, root)) is not None) is known


def test_what_is_looked_at_for_all_trees_together_is_bounded() -> None:
    kernel = SimulatedKernel()
    apps = []
    for _ in range(12):
        root = kernel.spawn("root", anon_kib=1)
        for _ in range(TREE_MOST - 1):
            kernel.spawn("child", anon_kib=1, ppid=root)
        apps.append(app_of(kernel, root))
    alone = app_of(kernel, kernel.spawn("alone", anon_kib=7))
    whole = TREES_MOST // (TREE_MOST - 1)
    sizes = [size_kib for _, size_kib in measure_apps(kernel, [*apps, alone])]
    assert sizes == [TREE_MOST] * whole + [None] * (12 - whole) + [7]


async def test_what_a_child_frees_is_credited_to_the_tree(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A supervisor registered, and its program gives memory back: `lmkctl run`."""
    async with running(tmp_path) as house:
        supervisor, child = await supervised(house)
        house.kernel.set_available(50 * MIB)
        notice = await supervisor.hear(wire.Notice)
        house.kernel.set_size(child, 40 * MIB)
        await supervisor.get(wire.Ack, notice=notice.notice, answer="done", freed_bytes=60 << 20)
        row = (await supervisor.get(wire.Status))["apps"][0]
        assert (row["answer"], row["trust"], row["size_kib"]) == ("done", 1, 50 * MIB)


async def supervised(house: House) -> tuple[Peer, int]:
    supervisor = house.kernel.spawn("lmkctl", anon_kib=10 * MIB)
    child = house.kernel.spawn("cache", anon_kib=100 * MIB, ppid=supervisor)
    peer = await house.connect(supervisor)
    await peer.get(
        wire.Register,
        name="cache",
        app_class="cached",
        sheddable_bytes=60 << 20,
        unit="tree",
    )
    return peer, child
