"""How newcomers are heard of: by the kernel's word, by looking, and in a storm of them."""

from __future__ import annotations

from pathlib import Path

import lmkd_proto as wire
import pytest
import trio
from trio.testing import MockClock

from lmkd.kernel.files import MalformedKernelFile
from lmkd.kernel.interface import NO_DETAILS
from lmkd.kernel.simulated import SimulatedKernel
from lmkd.model import SYSTEM_DOMAIN, Details, Process
from lmkd.service.births import FULL_LOOK_US, WORDS_A_TURN

from .house import MIB, House, running

TEXT = """
[policy]
project = "all"
[process_events]
source = "{source}"
scan_every = "5s"
[[rule]]
name = "tabs"
match = {{ comm = "tab" }}
class = "cached"
[[rule]]
name = "boxed"
match = {{ cgroup = "/box/**" }}
class = "background"
"""
TAB_ADJ, BOXED_ADJ = 900, 700
GIB_KIB = 1024 * MIB
STORM = 10_000


def adj(house: House, pid: int) -> int:
    process = house.kernel.process(pid)
    assert process is not None
    return process.oom_score_adj


async def source_of(house: House) -> str:
    return str((await (await house.connect()).get(wire.Status))["process_events"])


async def test_who_was_there_and_who_comes_are_placed_by_the_kernels_word(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = SimulatedKernel()
    there = kernel.spawn("tab")
    async with running(tmp_path, kernel, text=TEXT.format(source="netlink")) as house:
        assert await source_of(house) == "netlink"
        assert adj(house, there) == TAB_ADJ
        await trio.sleep(2.5)
        new = kernel.spawn("tab")
        await trio.sleep(0.05)
        assert adj(house, new) == TAB_ADJ
        child = kernel.fork(new)
        kernel.exec_(child, "other")
        await trio.sleep(0.05)
        assert adj(house, child) == 500
        kernel.exit(new)
        await trio.sleep(0.05)
        assert new not in house.parts.roll.known
    assert kernel.listeners == []


async def test_without_that_they_are_looked_for_and_more_often_while_memory_is_short(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, text=TEXT.format(source="scan")) as house:
        assert await source_of(house) == "scan"
        assert house.kernel.listeners == []
        await trio.sleep(7)  # the looks are at 0, 5, 10 seconds
        pid = house.kernel.spawn("tab")
        await trio.sleep(1.5)
        assert adj(house, pid) == 0
        await trio.sleep(4)
        assert adj(house, pid) == TAB_ADJ
        house.kernel.set_available(50 * MIB)
        await trio.sleep(3.2)  # just after a look, had the interval stayed as it was
        pid = house.kernel.spawn("tab")
        await trio.sleep(1.2)
        assert adj(house, pid) == TAB_ADJ


@pytest.mark.parametrize(("total_kib", "source"), [(GIB_KIB - 4, "scan"), (GIB_KIB, "netlink")])
async def test_auto_listens_where_there_is_a_gib_of_memory(
    tmp_path: Path, autojump_clock: MockClock, total_kib: int, source: str
) -> None:
    kernel = SimulatedKernel(total_kib=total_kib)
    async with running(tmp_path, kernel, text=TEXT.format(source="auto")) as house:
        assert await source_of(house) == source
        assert len(kernel.listeners) == (source == "netlink")


@pytest.mark.parametrize("source", ["auto", "netlink"])
async def test_why_the_kernel_tells_nothing_is_said_once_and_worked_around(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, source: str
) -> None:
    kernel = SimulatedKernel(total_kib=GIB_KIB, process_events="it takes CAP_NET_ADMIN")
    async with running(tmp_path, kernel, text=TEXT.format(source=source)) as house:
        assert await source_of(house) == "scan"
        pid = kernel.spawn("tab")
        await trio.sleep(6)
        assert adj(house, pid) == TAB_ADJ
    said = "no process events (it takes CAP_NET_ADMIN): new processes are looked for"
    assert caplog.text.count(said) == 1


async def test_words_that_were_lost_are_made_good_by_a_look_at_everybody(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, text=TEXT.format(source="netlink")) as house:
        caplog.set_level("INFO", "lmkd")
        going = house.kernel.spawn("tab")
        await trio.sleep(3)
        pids = [house.kernel.spawn("tab") for _ in range(20)]
        house.kernel.exit(going)
        house.kernel.lose_process_events()
        await trio.sleep(0.1)
        assert [adj(house, pid) for pid in pids] == [TAB_ADJ] * 20
        assert going not in house.parts.roll.known
        assert caplog.text.count("words of processes were lost") == 1


class SlowKernel(SimulatedKernel):
    """A machine on which a look at all processes takes 50 ms."""

    spent_us = 0
    scans = 0

    def now_us(self) -> int:
        return super().now_us() + self.spent_us

    def scan(self, domain: str, min_size_kib: int, details: Details = NO_DETAILS) -> list[Process]:
        if domain == SYSTEM_DOMAIN and not min_size_kib:
            self.spent_us += 50_000
            self.scans += 1
        return super().scan(domain, min_size_kib, details)


async def test_while_words_are_lost_all_the_time_a_fifth_of_it_goes_into_looking(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = SlowKernel()
    async with running(tmp_path, kernel, text=TEXT.format(source="netlink")):
        await trio.sleep(1)
        begun = kernel.scans
        for _ in range(200):
            kernel.spawn("tab")
            kernel.lose_process_events()
            await trio.sleep(0.01)
        assert 8 <= kernel.scans - begun <= 11


class CrackedKernel(SimulatedKernel):
    """One process of it has files that cannot be understood."""

    cracked = 0

    def process(self, pid: int, details: Details = NO_DETAILS) -> Process | None:
        if pid == self.cracked:
            raise MalformedKernelFile(f"/proc/{pid}/stat", b"?", "a session id")
        return super().process(pid, details)

    def scan(self, domain: str, min_size_kib: int, details: Details = NO_DETAILS) -> list[Process]:
        found = super().scan(domain, min_size_kib, details)
        for process in found:
            self.process(process.pid)
        return found


@pytest.mark.parametrize("source", ["netlink", "scan"])
async def test_a_process_that_cannot_be_understood_costs_that_look_and_no_more(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, source: str
) -> None:
    kernel = CrackedKernel()
    text = TEXT.format(source=source)
    async with running(tmp_path, kernel, text=text) as house:
        await trio.sleep(12)
        first = kernel.spawn("tab")
        kernel.cracked = kernel.spawn("tab", anon_kib=90 * MIB)
        last = kernel.spawn("tab")
        await trio.sleep(6)
        assert adj(house, first) == TAB_ADJ
        house.kernel.set_available(20 * MIB)  # whoever is to die is looked for: that fails, too
        await trio.sleep(3)
        assert kernel.signals == []
        victim, kernel.cracked = kernel.cracked, 0
        kernel.lose_process_events()
        await trio.sleep(12)
        assert adj(house, last) == TAB_ADJ
        assert house.signals_to(victim) == ["SIGTERM"]
        await (await house.connect()).get(wire.Status)
    assert caplog.text.count("a process cannot be read") == 1
    assert caplog.text.count("domain system cannot be read") == 1


async def test_who_is_moved_without_a_word_is_found_within_minutes_but_not_while_memory_is_short(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, text=TEXT.format(source="netlink")) as house:
        pid = house.kernel.spawn("other")
        await trio.sleep(15)  # from here on it is not young any more
        house.kernel.move(pid, "/box/1")
        await trio.sleep(FULL_LOOK_US / 1_000_000 - 30)
        assert adj(house, pid) == 500
        house.kernel.set_available(55 * MIB)
        await trio.sleep(60)
        assert adj(house, pid) == 500
        house.kernel.set_available(300 * MIB)
        await trio.sleep(10)
        assert adj(house, pid) == BOXED_ADJ


async def test_a_storm_of_forks_is_taken_in_turns_and_a_client_is_answered_meanwhile(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, text=TEXT.format(source="netlink")) as house:
        kernel, known = house.kernel, house.parts.roll.known
        parent = kernel.spawn("tab")
        peer = await house.connect()
        await trio.sleep(1)
        before = len(known)
        pids = [kernel.fork(parent) for _ in range(STORM)]
        await peer.get(wire.Status)
        met = len(known) - before
        assert met <= 8 * WORDS_A_TURN, "the storm was taken first, and the client waited for it"
        await trio.sleep(2)
        assert len(known) - before == STORM
        assert adj(house, pids[-1]) == TAB_ADJ
        for pid in pids:
            kernel.exit(pid)
        await peer.get(wire.Status)
        assert len(known) > before
        await trio.sleep(2)
        assert len(known) == before


async def test_who_comes_and_goes_in_one_batch_is_never_read(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kernel = SimulatedKernel()
    read: list[int] = []
    plain = kernel.process

    def process(pid: int, details: Details = NO_DETAILS) -> Process | None:
        read.append(pid)
        return plain(pid, details)

    async with running(tmp_path, kernel, text=TEXT.format(source="netlink")) as house:
        await trio.sleep(1)
        kernel.process = process  # type: ignore[method-assign]
        short = [kernel.spawn("tab") for _ in range(3 * WORDS_A_TURN)]
        for pid in short:
            kernel.exit(pid)
        stays = kernel.spawn("tab")
        await trio.sleep(0.1)
        assert stays in read
        assert not set(read) & set(short)
        assert not set(house.parts.roll.known) & set(short)


async def test_the_interval_of_looking_follows_a_reload(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, text=TEXT.format(source="scan")) as house:
        root = await house.connect(uid=0)
        text = TEXT.format(source="netlink").replace('"5s"', '"1s"')
        (tmp_path / "over.toml").write_text(text)
        await root.get(wire.Reload)
        assert "process_events.source is netlink in the configuration now" in caplog.text
        await trio.sleep(3)
        pid = house.kernel.spawn("tab")
        await trio.sleep(1.5)
        assert adj(house, pid) == TAB_ADJ
        assert await source_of(house) == "scan"
