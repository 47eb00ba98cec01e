"""The physics of the simulated kernel, run from outside trio."""

from collections.abc import Callable

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkd.kernel.simulated import SimulatedKernel
from lmkd.kernel.simulation import SimulatedMachine
from lmkd.model import SYSTEM_DOMAIN, Reading

MIB = 1024


def read(kernel: SimulatedKernel) -> Reading:
    domain = kernel.open_domain(SYSTEM_DOMAIN)
    assert domain is not None
    reading = domain.read(kernel.now_us())
    domain.close()
    assert reading is not None
    return reading


def test_a_machine_set_up_outside_trio_starts_with_it() -> None:
    kernel = SimulatedKernel()
    pid = kernel.spawn("leak", growth_kib_s=1 * MIB)

    async def sizes() -> list[int]:
        seen = []
        for _ in range(2):
            process = kernel.process(pid)
            assert process is not None
            seen.append(process.anon_kib)
            await trio.sleep(1)
        return seen

    clock = trio.testing.MockClock(autojump_threshold=0)
    clock.jump(1_000_000)
    assert trio.run(sizes, clock=clock) == [0, 1 * MIB]


LEVERS: list[Callable[[SimulatedKernel, int], object]] = [
    lambda kernel, n: kernel.spawn(f"p{n}", anon_kib=n * MIB, exit_us=n * 1000),
    lambda kernel, n: kernel.spawn(f"g{n}", growth_kib_s=n * MIB, cgroup=f"/c{n % 3}"),
    lambda kernel, n: kernel.add_cgroup(f"/c{n % 3}", high_kib=n * MIB, max_kib=2 * n * MIB),
    lambda kernel, n: kernel.add_cgroup(f"/c{n % 3}", max_kib=n * MIB, swap_max_kib=n * MIB),
    lambda kernel, n: kernel.set_available(n * MIB),
    lambda kernel, n: kernel.kill_cgroup(f"/c{n % 3}"),
]


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    swap_mib=st.sampled_from([0, 50, 400]),
    pulls=st.lists(st.tuples(st.sampled_from(LEVERS), st.integers(1, 200)), max_size=15),
)
def test_whatever_is_done_to_it_the_figures_stay_possible(
    swap_mib: int, pulls: list[tuple[Callable[[SimulatedKernel, int], object], int]]
) -> None:
    async def run() -> None:
        kernel = SimulatedKernel(swap_kib=swap_mib * MIB)
        before = read(kernel)
        for lever, n in pulls:
            lever(kernel, n)
            await trio.sleep(n / 100)
            after = read(kernel)
            assert 0 <= after.available_kib <= after.total_kib
            assert 0 <= after.swap_free_kib <= after.swap_total_kib
            assert after.file_lru_kib >= 0
            assert (before.some_total_us or 0) <= (after.some_total_us or 0)
            assert (after.full_total_us or 0) <= (after.some_total_us or 0)
            assert (after.some_total_us or 0) <= kernel.now_us()
            before = after

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_machine_skips_time_in_which_nothing_happens() -> None:
    machine = SimulatedMachine(
        total_kib=512 * MIB,
        reserved_kib=0,
        page_cache_kib=0,
        swap_kib=0,
        zram_ratio_permyriad=None,
    )
    steps = 0
    while machine.advance_towards(3_600_000_000):
        steps += 1
    assert steps == 1
    assert machine.at_us == 3_600_000_000
