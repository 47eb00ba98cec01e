"""No wrong signal: processes that rename themselves, recycle pids, forge their comm, move or exec while judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lmkd_proto as wire
import pytest
import trio
from trio.testing import MockClock

from lmkd.kernel.interface import NO_DETAILS
from lmkd.kernel.simulated import OnTerm, SimulatedKernel
from lmkd.model import Details, Process

from .house import MIB, House, running

RULES = """
[policy]
project = "all"

[[rule]]
name = "kept whatever comes"
match = { comm = "keeper" }
exempt = true

[[rule]]
name = "tabs go first"
match = { comm = "tab" }
class = "cached"

[[rule]]
name = "mine last"
match = { comm = "editor" }
class = "perceptible"

[[rule]]
name = "a build with all it started"
match = { comm = "make" }
class = "cached"
unit = "tree"

[[domain]]
cgroup = "/box"
"""
BOX = "/box"


class QuickKernel(SimulatedKernel):
    """Something happens right after the processes were read: between the ranking and the signal."""

    def __init__(self) -> None:
        super().__init__()
        self.then: Callable[[], object] | None = None

    def scan(self, domain: str, min_size_kib: int, details: Details = NO_DETAILS) -> list[Process]:
        found = super().scan(domain, min_size_kib, details)
        if self.then is not None and min_size_kib > 0:
            then, self.then = self.then, None
            then()
        return found


async def until_quiet(house: House) -> None:
    """Press the machine until nothing more happens."""
    house.kernel.set_available(12 * MIB)
    await trio.sleep(3)
    house.kernel.set_available(300 * MIB)
    await trio.sleep(5)


async def failures(house: House) -> list[str]:
    """Return why kills failed, of the last episode."""
    peer = await house.connect()
    records = (await peer.get(wire.History, episode=1, limit=1000))["records"]
    return [record["reason"] for record in records if record["kind"] == "failed"]


async def test_a_process_that_renames_itself_to_an_exempt_comm_is_not_exempt(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Its executable is /usr/bin/leak, so `keeper` is a name that it gave itself."""
    async with running(tmp_path, text=RULES) as house:
        leak = house.kernel.spawn("leak", anon_kib=100 * MIB)
        keeper = house.kernel.spawn("keeper", anon_kib=200 * MIB)
        house.kernel.rename(leak, "keeper")
        await until_quiet(house)
        assert house.signals_to(leak)[:1] == ["SIGTERM"]
        assert house.signals_to(keeper) == []


async def test_a_pid_that_is_recycled_between_ranking_and_signal_is_not_signalled(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = QuickKernel()
    async with running(tmp_path, kernel, text=RULES.replace('unit = "tree"', "")) as house:
        tab = kernel.spawn("tab", anon_kib=100 * MIB)
        innocent: list[int] = []
        kernel.then = lambda: innocent.append(kernel.recycle(tab, "innocent"))
        await until_quiet(house)
        assert innocent, "nobody was ranked"
        to_the_new = [s for s in kernel.signals if s.pid == tab and s.start_ticks == innocent[0]]
        assert to_the_new == []
        assert await failures(house) == ["it is gone"]


async def test_a_comm_like_a_line_of_proc_stat_is_a_name_and_nothing_else(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """`foo) Z 1 (`: neither a zombie nor a child of init. That the real /proc is read so: tests/kernel."""
    async with running(tmp_path, text=RULES) as house:
        forger = house.kernel.spawn("foo) Z 1 (", anon_kib=100 * MIB)
        keeper = house.kernel.spawn("keeper", anon_kib=50 * MIB)
        peer = await house.connect()
        explained = await peer.get(wire.Explain, pid=forger)
        assert (explained["name"], explained["class"]) == ("foo) Z 1 (", "service")
        await until_quiet(house)
        assert house.signals_to(forger)[:1] == ["SIGTERM"]
        assert house.signals_to(keeper) == []


async def test_one_that_moved_out_of_the_domain_during_the_ranking_is_not_signalled(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The kills of a domain stay inside its subtree (invariant 7)."""
    kernel = QuickKernel()
    kernel.add_cgroup(BOX, max_kib=150 * MIB)
    kernel.add_cgroup("/elsewhere")
    text = RULES.replace('unit = "tree"', "") + "[system]\nkill = false\n"
    async with running(tmp_path, kernel, text=text) as house:
        mover = kernel.spawn("tab", anon_kib=80 * MIB, cgroup=BOX)
        stayer = kernel.spawn("tab", anon_kib=40 * MIB, cgroup=BOX)
        kernel.then = lambda: kernel.move(mover, "/elsewhere")
        kernel.spawn("filler", anon_kib=10 * MIB, growth_kib_s=20 * MIB, cgroup=BOX)
        await trio.sleep(8)
        assert house.signals_to(mover) == []
        assert kernel.process(stayer) is None or house.signals_to(stayer)
        assert "it has moved to /elsewhere since" in (await failures(house))[0]


async def test_one_that_became_another_program_since_is_judged_anew(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = QuickKernel()
    async with running(tmp_path, kernel, text=RULES.replace('unit = "tree"', "")) as house:
        tab = kernel.spawn("tab", anon_kib=100 * MIB)
        other = kernel.spawn("tab", anon_kib=60 * MIB)
        kernel.then = lambda: kernel.exec_(tab, "editor")
        house.kernel.set_available(12 * MIB)
        await trio.sleep(1)
        assert house.signals_to(other)[:1] == ["SIGTERM"]
        assert (await failures(house))[0] == "it is perceptible now (mine last)"


@pytest.mark.parametrize("name", ["keeper", "sshd"])
async def test_one_that_became_exempt_since_is_not_signalled(
    tmp_path: Path, autojump_clock: MockClock, name: str
) -> None:
    kernel = QuickKernel()
    async with running(tmp_path, kernel, text=RULES.replace('unit = "tree"', "")) as house:
        tab = kernel.spawn("tab", anon_kib=100 * MIB)
        kernel.then = lambda: kernel.exec_(tab, name)
        await until_quiet(house)
        assert house.signals_to(tab) == []
        assert (await failures(house))[0].startswith("it is never killed as it is now: ")


async def test_a_tree_that_forks_as_it_dies_leaves_nobody_behind(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Its children ignore SIGTERM and fork; by SIGKILL the tree is stopped first, from the top."""
    async with running(tmp_path, text=RULES) as house:
        kernel = house.kernel
        make = kernel.spawn(
            "make", anon_kib=20 * MIB, on_term=OnTerm.IGNORES, cgroup="/user/b.scope"
        )
        cc = kernel.fork(make, anon_kib=60 * MIB)
        bystander = kernel.spawn("x", anon_kib=10 * MIB, cgroup="/user/b.scope")
        born: list[int] = []

        async def breed() -> None:
            while kernel.process(cc) is not None and len(born) < 40 and cc not in kernel.stopped:
                born.append(kernel.fork(cc, anon_kib=MIB))
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(breed)
            kernel.set_available(12 * MIB)
            await trio.sleep(4)
            nursery.cancel_scope.cancel()
        assert born
        alive = {pid for pid in (make, cc, *born) if kernel.process(pid) is not None}
        assert alive == set()
        assert house.signals_to(bystander) == []


async def test_an_app_in_a_tree_that_was_given_class_system_after_sigterm_is_not_killed_with_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, text=RULES) as house:
        kernel = house.kernel
        make = kernel.spawn("make", anon_kib=80 * MIB, on_term=OnTerm.IGNORES, cgroup="/b")
        child = kernel.fork(make, anon_kib=10 * MIB)
        app = await house.connect(child)
        number = (await app.get(wire.Register, name="child", app_class="cached"))["app"]
        house.kernel._sim(child).on_term = OnTerm.IGNORES
        root = await house.connect(uid=0)
        kernel.set_available(12 * MIB)
        await app.hear(wire.KillWarning)
        await root.get(wire.SetClass, app=number, app_class="system")
        await trio.sleep(2)
        assert "SIGKILL" in house.signals_to(make)
        assert "SIGKILL" not in house.signals_to(child)
        records = (await root.get(wire.History, episode=1, limit=1000))["records"]
        assert [record["kill"] for record in records if record["kind"] == "exited"] == [1]
