"""What a test can do to the simulated kernel's processes and cgroups, and who is told of it."""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from lmkd.kernel.interface import ProcessEvents, VictimHandle
from lmkd.kernel.simulated import OnTerm, SimulatedKernel
from lmkd.model import (
    SYSTEM_DOMAIN,
    Details,
    Mark,
    Process,
    ProcessEvent,
    ProcessEventKind,
    Reading,
    Signal,
)

MIB = 1024
FORK, EXEC, EXIT = ProcessEventKind.FORK, ProcessEventKind.EXEC, ProcessEventKind.EXIT


def look(kernel: SimulatedKernel, pid: int, details: Details | None = None) -> Process:
    process = kernel.process(pid) if details is None else kernel.process(pid, details)
    assert process is not None
    return process


def listen(kernel: SimulatedKernel) -> ProcessEvents:
    events = kernel.open_process_events()
    assert not isinstance(events, str)
    return events


def read(kernel: SimulatedKernel, domain: str) -> Reading:
    opened = kernel.open_domain(domain)
    assert opened is not None
    reading = opened.read(kernel.now_us())
    opened.close()
    assert reading is not None
    return reading


def take(kernel: SimulatedKernel, pid: int) -> VictimHandle:
    victim = kernel.open_victim(pid, look(kernel, pid).start_ticks)
    assert victim is not None
    return victim


async def test_a_process_is_described_as_it_was_spawned(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    kernel.spawn("shell", pid=50)
    pid = kernel.spawn(
        "editor-with-a-long-name",
        uid=7,
        gid=8,
        ppid=50,
        session=50,
        cmdline="editor x",
        environ=("A=1",),
        mark=Mark.AVOID,
    )
    full = look(kernel, pid, Details(cmdline=True, environ=True, parent=True))
    assert (full.uid, full.gid, full.session, full.mark) == (7, 8, 50, Mark.AVOID)
    assert (full.cmdline, full.environ, full.parent_comm) == ("editor x", ("A=1",), "shell")
    assert full.comm == "editor-with-a-l"
    plain = look(kernel, pid)
    assert (plain.cmdline, plain.environ, plain.parent_comm) == (None, None, "")
    assert look(kernel, 50).session == 50


async def test_all_that_becomes_of_a_process_is_told_in_order(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    before = kernel.spawn("before")
    events = listen(kernel)
    pid = kernel.spawn("shell", ppid=before)
    child = kernel.fork(pid)
    kernel.exec_(child, "tool", cmdline="tool --fast")
    kernel.rename(child, "renamed")
    kernel.set_ids(child, 5, 6)
    kernel.move(child, "/elsewhere")
    kernel.exit(child)
    assert events.take_nowait() == (
        [
            ProcessEvent(FORK, pid, before),
            ProcessEvent(EXEC, pid),
            ProcessEvent(FORK, child, pid),
            ProcessEvent(EXEC, child),
            ProcessEvent(ProcessEventKind.COMM, child),
            ProcessEvent(ProcessEventKind.IDS, child),
            ProcessEvent(EXIT, child),
        ],
        False,
    )
    assert events.take_nowait() == ([], False)
    events.close()
    kernel.exit(pid)
    assert events.take_nowait() == ([], False)


async def test_an_exit_is_told_when_its_time_has_come(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn("slow", exit_us=2_000_000)
    events = listen(kernel)
    take(kernel, pid).send(Signal.KILL)
    await events.wait()
    assert trio.current_time() == pytest.approx(2)
    assert events.take_nowait() == ([ProcessEvent(EXIT, pid)], False)


async def test_a_recycled_pid_exits_before_it_is_born_again(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn("old")
    events = listen(kernel)
    kernel.recycle(pid, "new")
    assert [event.kind for event in events.take_nowait()[0]] == [EXIT, FORK, EXEC]


async def test_lost_events_are_lost_and_it_is_said(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    events = listen(kernel)
    kernel.spawn("unheard")
    kernel.lose_process_events()
    pid = kernel.spawn("heard")
    with trio.fail_after(1):
        await events.wait()
    taken, is_lost = events.take_nowait()
    assert is_lost
    assert {event.pid for event in taken} == {pid}
    assert events.take_nowait() == ([], False)


async def test_process_events_can_be_refused() -> None:
    assert SimulatedKernel(process_events="not today").open_process_events() == "not today"


async def test_a_fork_has_all_from_its_parent_but_its_size(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn(
        "parent", anon_kib=9, growth_kib_s=100, uid=7, cgroup="/a", oom_score_adj=300, session=4
    )
    child = kernel.fork(pid, anon_kib=2)
    one, other = look(kernel, pid), look(kernel, child)
    assert other == replace(
        one, pid=child, ppid=pid, start_ticks=other.start_ticks, anon_kib=2, resident_kib=2
    )
    assert other.start_ticks != one.start_ticks
    assert kernel.child_pids(pid) == [child]


async def test_an_exec_keeps_the_identity(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn("shell", uid=7)
    before = look(kernel, pid)
    kernel.exec_(pid, "tool", exe="/opt/tool")
    after = look(kernel, pid)
    assert (after.comm, after.exe) == ("tool", "/opt/tool")
    assert (after.start_ticks, after.uid) == (before.start_ticks, 7)


async def test_orphans_are_inits(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn("parent")
    child = kernel.fork(pid)
    kernel.exit(pid)
    assert look(kernel, child).ppid == 1
    assert child in kernel.child_pids(1)
    assert kernel.child_pids(pid) == []


async def test_who_is_stopped_or_frozen_neither_forks_nor_grows(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    stopped = kernel.spawn("stopped", growth_kib_s=MIB)
    frozen = kernel.spawn("frozen", growth_kib_s=MIB, cgroup="/a/b")
    assert take(kernel, stopped).stop()
    assert kernel.freeze_cgroup("/a", True)
    await trio.sleep(3)
    assert (look(kernel, stopped).size_kib, look(kernel, frozen).size_kib) == (0, 0)
    assert (look(kernel, stopped).state, look(kernel, frozen).state) == ("T", "S")
    for pid in (stopped, frozen):
        with pytest.raises(ValueError, match="cannot fork"):
            kernel.fork(pid)
    assert kernel.freeze_cgroup("/a", False)
    await trio.sleep(1)
    assert look(kernel, frozen).size_kib == MIB
    assert kernel.stopped == [stopped]


async def test_sigterm_is_caught_after_the_thaw(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn("app", cgroup="/a", on_term=OnTerm.CATCHES, cleanup_us=500_000)
    kernel.freeze_cgroup("/a", True)
    victim = take(kernel, pid)
    victim.send(Signal.TERM)
    await trio.sleep(10)
    kernel.freeze_cgroup("/a", False)
    await victim.wait_exit()
    assert trio.current_time() == pytest.approx(10.51)
    assert [sent.signal for sent in kernel.signals] == [Signal.TERM]


async def test_what_is_protected_refuses(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn("others", protected=True)
    kernel.add_cgroup("/a", protected=True)
    with pytest.raises(PermissionError):
        take(kernel, pid).stop()
    with pytest.raises(PermissionError):
        kernel.set_oom_group("/a", True)
    assert kernel.set_oom_group("/a", False) is False  # nothing to be written
    with pytest.raises(PermissionError):
        kernel.freeze_cgroup("/a", True)
    assert kernel.note_kill("/a", 1, "k") is False


@pytest.mark.parametrize(
    ("mark", "owner", "domain", "found"),
    [
        (Mark.OMIT, 0, SYSTEM_DOMAIN, Mark.OMIT),
        (Mark.OMIT, 1000, SYSTEM_DOMAIN, Mark.NONE),
        (Mark.OMIT, 1000, "/user", Mark.OMIT),
        (Mark.AVOID, 1001, "/user", Mark.NONE),
        (Mark.PREFER, 1001, SYSTEM_DOMAIN, Mark.PREFER),
    ],
)
async def test_marks_count_by_who_owns_the_cgroup(
    autojump_clock: MockClock, mark: Mark, owner: int, domain: str, found: Mark
) -> None:
    kernel = SimulatedKernel()
    kernel.add_cgroup("/user", owner=1000)
    kernel.add_cgroup("/user/app", owner=owner, mark=mark)
    kernel.spawn("app", cgroup="/user/app/tab")
    (process,) = kernel.scan(domain, 0)
    assert process.mark is found
    assert kernel.cgroup_owner("/user/app") == owner


async def test_limits_count_along_the_ancestors(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel(swap_kib=100 * MIB)
    kernel.add_cgroup("/a", max_kib=100 * MIB, swap_max_kib=20 * MIB)
    kernel.add_cgroup("/a/b", max_kib=50 * MIB)
    kernel.spawn("inside", anon_kib=10 * MIB, cgroup="/a/b/c")
    reading = read(kernel, "/a/b/c")
    assert (reading.total_kib, reading.available_kib) == (50 * MIB, 40 * MIB)
    assert reading.limited_by == "/a/b"
    assert (reading.swap_total_kib, reading.swap_free_kib) == (20 * MIB, 20 * MIB)
    kernel.spawn("beside", anon_kib=85 * MIB, cgroup="/a/x")
    reading = read(kernel, "/a/b/c")
    assert (reading.total_kib, reading.available_kib) == (50 * MIB, 5 * MIB)
    assert reading.limited_by == "/a"
    assert read(kernel, SYSTEM_DOMAIN).limited_by == ""
    kernel.add_cgroup("/free", max_kib=10_000 * MIB)
    free = read(kernel, "/free")
    assert (free.total_kib, free.limited_by) == (512 * MIB, "")


async def test_a_group_that_is_to_die_together_does_but_for_the_exempt(
    autojump_clock: MockClock,
) -> None:
    kernel = SimulatedKernel()
    kernel.add_cgroup("/jail", max_kib=64 * MIB)
    leak = kernel.spawn("leak", growth_kib_s=50 * MIB, cgroup="/jail/app/worker")
    beside = kernel.spawn("beside", cgroup="/jail/app")
    exempt = kernel.spawn("exempt", cgroup="/jail/app", oom_score_adj=-1000)
    other = kernel.spawn("other", cgroup="/jail/other")
    assert kernel.set_oom_group("/jail/app", True) is False
    await trio.sleep(5)
    assert {pid for pid, _ in kernel.oom_kills} == {leak, beside}
    assert {exempt, other} <= set(kernel.pids())
    assert read(kernel, "/jail").events_oom_kill == 2


async def test_kills_that_are_noted_can_be_seen(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    kernel.add_cgroup("/a")
    assert kernel.note_kill("/a", 2, "k1") is True
    assert kernel.noted_kills == [("/a", 2, "k1")]


async def test_watched_cgroups_come_and_go(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    watch = kernel.watch_cgroups(("/jobs/*", "/db"))
    kernel.spawn("job", cgroup="/jobs/1/inner")
    with trio.fail_after(1):
        await watch.wait_changed()
    assert watch.paths() == {"/jobs/1"}
    kernel.add_cgroup("/elsewhere")
    with trio.move_on_after(60) as scope:
        await watch.wait_changed()
    assert scope.cancelled_caught
    kernel.add_cgroup("/db")
    kernel.add_cgroup("/jobs/bad\nname")
    kernel.remove_cgroup("/db")
    with trio.fail_after(1):
        await watch.wait_changed()
    assert watch.paths() == {"/jobs/1"}
    watch.close()
    watch.close()


async def test_without_a_mount_no_cgroup_is_ever_seen(autojump_clock: MockClock) -> None:
    features = replace(SimulatedKernel().features(), cgroup_mount=None, memory_controller=False)
    kernel = SimulatedKernel(features=features)
    kernel.add_cgroup("/a")
    assert kernel.watch_cgroups(("/a",)).paths() == frozenset()


async def test_ten_thousand_forks_and_groups_leave_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    kernel = SimulatedKernel()
    events, watch = listen(kernel), kernel.watch_cgroups(("/jobs/*",))
    parent = kernel.spawn("parent")
    for number in range(10_000):
        kernel.add_cgroup(f"/jobs/{number}")
        kernel.exit(kernel.fork(parent))
    assert len(watch.paths()) == 10_000
    for number in range(10_000):
        kernel.remove_cgroup(f"/jobs/{number}")
    assert watch.paths() == frozenset()
    assert len(events.take_nowait()[0]) == 2 + 20_000
    assert kernel.pids() == [parent]
    assert kernel.child_pids(parent) == []
