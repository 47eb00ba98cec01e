"""Wake-ups of the real kernel: none is lost, none is for ever."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import trio
import trio.lowlevel
import trio.testing

from lmkd.kernel.events import EventFile, EventWatch, open_event_file
from lmkd.kernel.pressure import open_trigger
from lmkd.kernel.windows import StallKind, StallTrigger

pytestmark = pytest.mark.real_kernel

TRIGGER = StallTrigger(StallKind.SOME, 900_000, 1_000_000)


@pytest.fixture
def events(own_cgroup: str) -> EventFile:
    source = open_event_file(f"{own_cgroup}/cgroup.events")
    assert source is not None
    return source


@pytest.fixture
def watch(events: EventFile) -> Iterator[EventWatch]:
    watch = EventWatch([events])
    yield watch
    watch.close()


def populate(cgroup: str) -> None:
    """Let a process enter the cgroup and exit: populated 0, 1, 0."""
    program = f"open({cgroup + '/cgroup.procs'!r}, 'w').write('0')"
    subprocess.run([sys.executable, "-S", "-E", "-c", program], check=True)


async def is_quiet(watch: EventWatch, for_s: float = 0.05) -> bool:
    with trio.move_on_after(for_s) as scope:
        await watch.wait_changed()
    return scope.cancelled_caught


async def test_a_fresh_watch_is_quiet(watch: EventWatch) -> None:
    assert await is_quiet(watch)


async def test_a_change_while_nobody_waits_is_kept_and_told_once(
    watch: EventWatch, own_cgroup: str
) -> None:
    populate(own_cgroup)
    with trio.fail_after(2):
        await watch.wait_changed()
    await trio.sleep(0.02)  # the kernel tells at most once in 10 ms: its second word may come yet
    await is_quiet(watch)
    assert await is_quiet(watch)


async def test_a_change_wakes_who_waits(watch: EventWatch, own_cgroup: str) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.wait_changed)
        await trio.lowlevel.checkpoint()
        with trio.fail_after(2):
            await trio.to_thread.run_sync(populate, own_cgroup)


async def test_a_watch_of_nothing_waits_for_ever() -> None:
    watch = EventWatch([])
    assert watch.is_empty
    assert await is_quiet(watch, for_s=0.01)
    watch.close()


async def test_a_removed_cgroup_wakes_once_and_is_let_go(
    events: EventFile, own_cgroup: str
) -> None:
    trigger = open_trigger(f"{own_cgroup}/memory.pressure", TRIGGER)
    if trigger is None:
        pytest.skip("no PSI triggers here, and nothing else tells of a removal")
    watch = EventWatch([trigger, events])
    os.rmdir(own_cgroup)
    with trio.fail_after(2):
        await watch.wait_changed()
    assert watch.is_empty
    assert await is_quiet(watch)
    watch.close()


async def test_closing_wakes_who_waits_with_an_error(events: EventFile) -> None:
    watch = EventWatch([events])

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await watch.wait_changed()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        watch.close()
    watch.close()


def test_there_is_no_event_file_of_a_cgroup_that_is_not_there() -> None:
    assert open_event_file("/proc/self/absent/cgroup.events") is None
