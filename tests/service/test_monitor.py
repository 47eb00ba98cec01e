"""Watching: how often a domain is read, what wakes it, and domains that come and go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from lmkd.config import load_config
from lmkd.kernel.files import MalformedKernelFile
from lmkd.kernel.simulated import SimulatedKernel
from lmkd.model import SYSTEM_DOMAIN, Reading
from lmkd.policy import heart
from lmkd.policy.events import DomainClosed, DomainOpened, Event, ReadingTaken
from lmkd.service.engine import Engine
from lmkd.service.monitor import PRESSED_AT_PACE, Monitor

from .house import MIB, PINNED

BOX = "/box"


class HeardEngine(Engine):
    """An engine that keeps what it was fed."""

    def __init__(self, kernel: SimulatedKernel) -> None:
        super().__init__(
            heart.start(load_config([PINNED]).settings, 99), kernel.now_us, lambda action: None
        )
        self.fed: list[Event] = []

    def feed(self, event: Event) -> None:
        self.fed.append(event)
        super().feed(event)

    def readings(self, domain: str = SYSTEM_DOMAIN) -> list[Reading]:
        taken = (event.reading for event in self.fed if isinstance(event, ReadingTaken))
        return [reading for reading in taken if reading.domain == domain]


class Watch:
    def __init__(self, kernel: SimulatedKernel, monitor: Monitor, engine: HeardEngine) -> None:
        self.kernel = kernel
        self.monitor = monitor
        self.engine = engine


@asynccontextmanager
async def watching(*domains: str, kernel: SimulatedKernel | None = None) -> AsyncIterator[Watch]:
    kernel = kernel or SimulatedKernel()
    engine = HeardEngine(kernel)
    async with trio.open_nursery() as nursery:
        watch = Watch(kernel, Monitor(kernel, engine, nursery), engine)
        watch.monitor.follow((SYSTEM_DOMAIN, *domains))
        yield watch
        nursery.cancel_scope.cancel()


async def test_a_calm_system_is_read_once_a_second(autojump_clock: MockClock) -> None:
    async with watching() as watch:
        await trio.sleep(20)
        assert 19 <= len(watch.engine.readings()) <= 23


async def test_a_pressed_system_is_read_ten_times_a_second_and_rests_between(
    autojump_clock: MockClock,
) -> None:
    async with watching() as watch:
        watch.kernel.set_available(50 * MIB)
        await trio.sleep(2)
        watch.engine.fed.clear()
        watch.kernel.force_stall(SYSTEM_DOMAIN, 2_000)  # triggers fire all the time
        await trio.sleep(5)
        times = [reading.at_us for reading in watch.engine.readings()]
        assert 45 <= len(times) <= 52
        assert min(b - a for a, b in pairwise(times)) >= 99_000


async def test_a_trigger_wakes_a_calm_system_before_its_time(autojump_clock: MockClock) -> None:
    async with watching() as watch:
        await trio.sleep(5.05)
        watch.engine.fed.clear()
        watch.kernel.force_stall(SYSTEM_DOMAIN, 9_000, 9_000)
        await trio.sleep(0.4)
        assert len(watch.engine.readings()) >= 2


async def test_a_cgroup_that_comes_goes_and_comes_again_is_watched_each_time(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(BOX) as watch:
        await trio.sleep(5)
        assert caplog.text.count("domain /box is not there") == 1
        assert DomainOpened(BOX) not in watch.engine.fed
        for times in (1, 2):
            watch.kernel.add_cgroup(BOX, max_kib=100 * MIB)
            await trio.sleep(3)
            assert watch.engine.fed.count(DomainOpened(BOX)) == times
            watch.kernel.remove_cgroup(BOX)
            await trio.sleep(3)
            assert watch.engine.fed.count(DomainClosed(BOX)) == times


async def test_a_domain_that_is_no_longer_wanted_is_closed(autojump_clock: MockClock) -> None:
    kernel = SimulatedKernel()
    kernel.add_cgroup(BOX, max_kib=100 * MIB)
    async with watching(BOX, kernel=kernel) as watch:
        await trio.sleep(3)
        watch.monitor.follow((SYSTEM_DOMAIN,))
        await trio.sleep(0.1)
        assert DomainClosed(BOX) in watch.engine.fed
        assert len(kernel._domains) == 1, "its triggers are closed too"
        watch.monitor.follow((SYSTEM_DOMAIN, BOX))
        watch.monitor.follow((SYSTEM_DOMAIN,))
        watch.monitor.follow((SYSTEM_DOMAIN, BOX))  # before the one that is given up has ended
        await trio.sleep(3)
        assert BOX in watch.engine.state.domains


async def test_to_leave_closes_no_domain_in_the_books(autojump_clock: MockClock) -> None:
    async with watching() as watch:
        await trio.sleep(3)
    assert DomainClosed(SYSTEM_DOMAIN) not in watch.engine.fed
    assert watch.kernel._domains == []


class CrackedKernel(SimulatedKernel):
    """Its files cannot be understood while it is cracked."""

    cracked = False

    def _read(self, *arguments: object) -> Reading | None:
        if self.cracked:
            raise MalformedKernelFile("proc/meminfo", b"?", "a number")
        return super()._read(*arguments)  # type: ignore[arg-type]


async def test_a_file_that_cannot_be_understood_is_said_once_and_tried_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = CrackedKernel()
    async with watching(kernel=kernel) as watch:
        await trio.sleep(2)
        kernel.cracked = True
        await trio.sleep(5)
        assert caplog.text.count("proc/meminfo") == 1
        kernel.cracked = False
        watch.engine.fed.clear()
        await trio.sleep(2)
        assert watch.engine.readings()


async def test_a_few_pressed_groups_are_read_at_their_pace_and_many_share_it(
    autojump_clock: MockClock,
) -> None:
    """Anybody may make groups, press them and listen to them: that must not take all of a processor."""
    boxes = [f"/box/{number}" for number in range(4 * PRESSED_AT_PACE)]
    kernel = SimulatedKernel(total_kib=16 << 20)
    async with watching("/box/*", kernel=kernel) as watch:
        counts = []
        for begin, end in ((0, 2), (2, len(boxes))):
            for name in boxes[begin:end]:
                kernel.add_cgroup(name, max_kib=100 * MIB)
                kernel.spawn("hog", cgroup=name, anon_kib=99 * MIB)
            await trio.sleep(3)
            watch.engine.fed.clear()
            await trio.sleep(0.5)
            counts.append([len(watch.engine.readings(name)) for name in boxes[:end]])
        few, many = counts
        assert min(few) >= 45, "every 10 ms"
        assert max(many) <= 14, "32 groups: every 40 ms each"
        assert min(many) >= 10


async def test_a_group_that_calms_down_no_longer_counts_among_the_pressed(
    autojump_clock: MockClock,
) -> None:
    kernel = SimulatedKernel(total_kib=16 << 20)
    async with watching("/box/*", kernel=kernel) as watch:
        pids = []
        for number in range(4):
            kernel.add_cgroup(f"/box/{number}", max_kib=100 * MIB)
            pids.append(kernel.spawn("hog", cgroup=f"/box/{number}", anon_kib=99 * MIB))
        await trio.sleep(1)
        assert len(watch.monitor._pressed) == 4
        for pid in pids:
            kernel.exit(pid)
        kernel.remove_cgroup("/box/0")
        await trio.sleep(10)
        assert watch.monitor._pressed == set()
