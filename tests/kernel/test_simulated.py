"""The simulated kernel behaves as a small real one would."""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from lmkd.kernel.interface import VictimHandle
from lmkd.kernel.simulated import OnTerm, SentSignal, SimulatedKernel
from lmkd.model import SYSTEM_DOMAIN, Reading, Signal

MIB = 1024


def read(kernel: SimulatedKernel, domain: str = SYSTEM_DOMAIN) -> Reading:
    opened = kernel.open_domain(domain)
    assert opened is not None
    reading = opened.read(kernel.now_us())
    opened.close()
    assert reading is not None
    return reading


def take(kernel: SimulatedKernel, pid: int) -> VictimHandle:
    process = kernel.process(pid)
    assert process is not None
    victim = kernel.open_victim(pid, process.start_ticks)
    assert victim is not None
    return victim


async def test_a_process_grows_with_the_time(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    before = read(kernel)
    pid = kernel.spawn("leak", anon_kib=1 * MIB, growth_kib_s=25 * MIB)
    await trio.sleep(2)
    process = kernel.process(pid)
    assert process is not None
    assert process.size_kib == 51 * MIB
    assert read(kernel).available_kib == before.available_kib - 51 * MIB


async def test_a_negative_growth_gives_memory_back(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn("cache", anon_kib=50 * MIB, growth_kib_s=-20 * MIB)
    await trio.sleep(1)
    assert kernel.scan(SYSTEM_DOMAIN, 0)[0].anon_kib == 30 * MIB
    await trio.sleep(5)
    process = kernel.process(pid)
    assert process is not None
    assert process.anon_kib == 0


@pytest.mark.parametrize("swap_kib", [0, 100 * MIB])
async def test_it_does_not_matter_how_often_anyone_looks(
    autojump_clock: MockClock, swap_kib: int
) -> None:
    seldom, often = (SimulatedKernel(swap_kib=swap_kib) for _ in range(2))
    for kernel in (seldom, often):
        kernel.spawn("cache", anon_kib=150 * MIB)
        kernel.spawn("leak", growth_kib_s=33 * MIB + 7, cgroup="/leaks")
        kernel.add_cgroup("/leaks", high_kib=280 * MIB)
        read(kernel)
    for _ in range(9_000):
        await trio.sleep(0.001)
        read(often)
    await trio.sleep(0.001)
    assert read(seldom) == read(often)
    assert read(seldom, "/leaks") == read(often, "/leaks")


async def test_without_swap_a_leak_stalls_everybody_and_then_the_kernel_kills(
    autojump_clock: MockClock,
) -> None:
    kernel = SimulatedKernel()
    kernel.spawn("bystander", anon_kib=50 * MIB)
    leak = kernel.spawn("leak", anon_kib=300 * MIB, growth_kib_s=50 * MIB)
    domain = kernel.open_domain(SYSTEM_DOMAIN)
    assert domain is not None
    await domain.wait_event()
    woken = read(kernel)
    assert kernel.oom_kills == []
    assert woken.some_total_us is not None
    assert woken.some_total_us >= 70_000
    assert woken.available_kib < 26 * MIB
    await trio.sleep(10)
    assert kernel.oom_kills == [(leak, "leak")]
    assert [p.comm for p in kernel.scan(SYSTEM_DOMAIN, 0)] == ["bystander"]
    assert read(kernel).available_kib > 300 * MIB


async def test_with_zram_idle_pages_go_there_first_and_cost_their_compressed_size(
    autojump_clock: MockClock,
) -> None:
    kernel = SimulatedKernel(swap_kib=200 * MIB, zram_ratio_permyriad=40_000)
    kernel.spawn("idle", anon_kib=300 * MIB)
    leak = kernel.spawn("leak", anon_kib=50 * MIB, growth_kib_s=20 * MIB)
    await trio.sleep(5)
    kernel.set_growth(leak, 0)
    await trio.sleep(1)
    reading = read(kernel)
    assert reading.zram_stored_kib > 50 * MIB
    assert reading.swap_free_kib == reading.zram_free_kib
    assert reading.swap_free_kib == 200 * MIB - reading.zram_stored_kib
    assert reading.zram_used_kib == reading.zram_stored_kib // 4
    sizes = {p.comm: p.size_kib for p in kernel.scan(SYSTEM_DOMAIN, 0)}
    assert sizes["idle"] == 300 * MIB
    assert reading.anon_kib + reading.zram_stored_kib == sum(sizes.values())
    assert kernel.oom_kills == []


async def test_a_squeezed_page_cache_refaults(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel(page_cache_kib=100 * MIB)
    kernel.set_available(40 * MIB)
    before = read(kernel)
    await trio.sleep(1)
    after = read(kernel)
    assert before.file_lru_kib == after.file_lru_kib == 40 * MIB
    refaults = (after.refault_file_pages or 0) - (before.refault_file_pages or 0)
    assert (
        60 * MIB // 4 - 100 < refaults <= 60 * MIB // 4
    )  # a page is lost to rounding in each step
    assert after.scanned_pages is not None
    assert after.scanned_pages > 0


async def test_the_oom_killer_honours_oom_score_adj(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    kernel.spawn("exempt", anon_kib=300 * MIB, oom_score_adj=-1000)
    offered = kernel.spawn("offered", anon_kib=10 * MIB, oom_score_adj=900)
    kernel.spawn("leak", anon_kib=120 * MIB, growth_kib_s=50 * MIB)
    await trio.sleep(5)
    assert kernel.oom_kills[0] == (offered, "offered")


async def test_a_cgroup_at_memory_high_is_throttled_and_says_so(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    kernel.add_cgroup("/shop", high_kib=64 * MIB)
    domain = kernel.open_domain("/shop")
    assert domain is not None
    pid = kernel.spawn("filler", growth_kib_s=50 * MIB, cgroup="/shop/inner")
    await domain.wait_event()
    await trio.sleep(3)
    reading = read(kernel, "/shop")
    assert (reading.total_kib, reading.available_kib) == (64 * MIB, 0)
    assert reading.events_high is not None
    assert reading.events_high > 50
    assert reading.events_oom_kill == 0
    process = kernel.process(pid)
    assert process is not None
    assert 64 * MIB < process.size_kib < 80 * MIB
    # the system is in no want, though it sees the stalls, as the real one does (6.1)
    system = read(kernel)
    assert system.available_kib > 300 * MIB
    assert system.scanned_pages == 0
    assert system.some_total_us is not None
    assert reading.some_total_us == system.some_total_us > 1_000_000


async def test_a_cgroup_at_memory_max_kills_inside_only(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    kernel.add_cgroup("/jail", max_kib=64 * MIB)
    kernel.spawn("huge", anon_kib=200 * MIB)
    inside = kernel.spawn("filler", growth_kib_s=50 * MIB, cgroup="/jail")
    await trio.sleep(5)
    reading = read(kernel, "/jail")
    assert kernel.oom_kills == [(inside, "filler")]
    assert (reading.events_oom, reading.events_oom_kill) != (0, 0)
    assert reading.events_oom_kill == 1
    assert read(kernel).available_kib == (512 - 64 - 200) * MIB


async def test_a_killed_process_holds_its_memory_until_it_exits(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn("slow", anon_kib=100 * MIB, exit_us=500_000)
    victim = take(kernel, pid)
    before_kib = read(kernel).available_kib
    assert victim.send(Signal.KILL)
    await trio.sleep(0.4)
    assert read(kernel).available_kib == before_kib
    await victim.wait_exit()
    assert trio.current_time() == pytest.approx(0.5)
    assert read(kernel).available_kib == before_kib + 100 * MIB


async def test_releasing_memory_gives_it_back_ahead_of_the_exit(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn("slow", anon_kib=100 * MIB, exit_us=500_000, on_term=OnTerm.CATCHES)
    victim = take(kernel, pid)
    before_kib = read(kernel).available_kib
    assert victim.release_memory() is False
    assert victim.send(Signal.TERM)
    assert victim.release_memory() is False
    assert victim.send(Signal.KILL)
    assert victim.release_memory() is True
    assert read(kernel).available_kib == before_kib + 100 * MIB
    assert kernel.process(pid) is not None


@pytest.mark.parametrize(
    ("on_term", "exits_after_s"), [(OnTerm.EXITS, 0.01), (OnTerm.CATCHES, 2.01)]
)
async def test_sigterm_ends_a_process_in_its_own_time(
    autojump_clock: MockClock, on_term: OnTerm, exits_after_s: float
) -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn("app", on_term=on_term, cleanup_us=2_000_000)
    victim = take(kernel, pid)
    victim.send(Signal.TERM)
    await victim.wait_exit()
    assert trio.current_time() == pytest.approx(exits_after_s)


async def test_a_process_that_ignores_sigterm_lives_on(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn("app", on_term=OnTerm.IGNORES)
    victim = take(kernel, pid)
    victim.send(Signal.TERM)
    with trio.move_on_after(3600) as scope:
        await victim.wait_exit()
    assert scope.cancelled_caught
    victim.send(Signal.KILL)
    await victim.wait_exit()
    assert [sent.signal for sent in kernel.signals] == [Signal.TERM, Signal.KILL]


async def test_what_is_not_permitted_raises(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn("others", protected=True)
    victim = take(kernel, pid)
    with pytest.raises(PermissionError):
        victim.send(Signal.KILL)
    with pytest.raises(PermissionError):
        kernel.set_oom_score_adj(pid, victim.start_ticks, 900)
    assert kernel.signals == []


async def test_a_recycled_pid_is_another_process(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn("old")
    victim = take(kernel, pid)
    start_ticks = kernel.recycle(pid, "new")
    assert start_ticks != victim.start_ticks
    assert victim.send(Signal.KILL) is False
    assert kernel.size_kib(pid, victim.start_ticks) is None
    assert kernel.open_victim(pid, victim.start_ticks) is None
    assert kernel.signals == []
    process = kernel.process(pid)
    assert process is not None
    assert process.comm == "new"
    with trio.fail_after(1):
        await victim.wait_exit()


async def test_cgroup_kill_takes_the_subtree_and_nothing_else(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    inside = [kernel.spawn("a", cgroup="/u/app"), kernel.spawn("b", cgroup="/u/app/tab")]
    outside = kernel.spawn("c", cgroup="/u/app2")
    assert kernel.cgroup_pids("/u/app") == inside
    assert kernel.kill_cgroup("/u/app") is True
    with trio.fail_after(1):
        await kernel.wait_cgroup_empty("/u/app")
    assert [p.pid for p in kernel.scan(SYSTEM_DOMAIN, 0)] == [outside]
    assert [sent.pid for sent in kernel.signals] == inside
    assert all(sent.by_cgroup and sent.signal is Signal.KILL for sent in kernel.signals)


async def test_each_signal_is_logged_with_its_time(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn("app", on_term=OnTerm.IGNORES)
    victim = take(kernel, pid)
    await trio.sleep(1.5)
    victim.send(Signal.TERM)
    assert kernel.signals == [SentSignal(1_500_000, pid, victim.start_ticks, Signal.TERM)]


async def test_a_forced_stall_wakes_once_a_window_and_ends(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    domain = kernel.open_domain(SYSTEM_DOMAIN)
    assert domain is not None
    kernel.force_stall(SYSTEM_DOMAIN, 2_000, 1_500)
    wakes = 0
    with trio.move_on_after(10):
        while True:
            await domain.wait_event()
            wakes += 1
    assert 9 <= wakes <= 20  # two triggers, each at most once a second
    first = read(kernel)
    assert (first.some_total_us, first.full_total_us) == (2_000_000, 1_500_000)
    kernel.force_stall(SYSTEM_DOMAIN, 0)
    await trio.sleep(5)
    assert read(kernel).some_total_us == first.some_total_us


async def test_an_event_while_nobody_waits_is_kept(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    domain = kernel.open_domain(SYSTEM_DOMAIN)
    assert domain is not None
    kernel.force_stall(SYSTEM_DOMAIN, 5_000)
    await trio.sleep(1)
    kernel.force_stall(SYSTEM_DOMAIN, 0)
    await trio.sleep(60)
    with trio.fail_after(0.001):
        await domain.wait_event()
    with trio.move_on_after(60) as scope:
        await domain.wait_event()
    assert scope.cancelled_caught


async def test_a_change_from_outside_wakes_who_waits(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn("app")
    victim = take(kernel, pid)

    async def end_it() -> None:
        await trio.sleep(3)
        kernel.exit(pid)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_it)
        await victim.wait_exit()
    assert trio.current_time() == pytest.approx(3)


async def test_a_removed_cgroup_reads_none_and_wakes_once(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    kernel.add_cgroup("/gone", high_kib=10 * MIB)
    domain = kernel.open_domain("/gone")
    assert domain is not None
    kernel.remove_cgroup("/gone")
    with trio.fail_after(1):
        await domain.wait_event()
    assert domain.read(kernel.now_us()) is None
    with trio.move_on_after(60) as scope:
        await domain.wait_event()
    assert scope.cancelled_caught
    kernel.add_cgroup("/gone")  # a namesake is another cgroup
    assert domain.read(kernel.now_us()) is None


async def test_available_memory_can_be_set(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    kernel.spawn("app", anon_kib=77 * MIB)
    kernel.set_available(12_345)
    assert read(kernel).available_kib == 12_345


async def test_missing_features_are_missing(autojump_clock: MockClock) -> None:
    features = SimulatedKernel().features()
    kernel = SimulatedKernel(features=replace(features, psi="none", memory_controller=False))
    kernel.add_cgroup("/a", high_kib=1)
    assert kernel.open_domain("/a") is None
    domain = kernel.open_domain(SYSTEM_DOMAIN)
    assert domain is not None
    kernel.force_stall(SYSTEM_DOMAIN, 9_000, 9_000)
    with trio.move_on_after(5) as scope:
        await domain.wait_event()
    assert scope.cancelled_caught
    reading = read(kernel)
    assert (reading.some_total_us, reading.full_total_us) == (None, None)


async def test_mistakes_of_a_test_are_told(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn("app", cgroup="/a/b")
    with pytest.raises(ValueError, match="taken"):
        kernel.spawn("other", pid=pid)
    with pytest.raises(ValueError, match="not empty"):
        kernel.remove_cgroup("/a")
