"""The episode that is played at the start: all of it happens, and nothing comes of it."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from lmkd.config import load_config
from lmkd.kernel.interface import Kernel
from lmkd.kernel.machine import Machine
from lmkd.kernel.rehearsed import UNDERSTUDY_PID
from lmkd.kernel.simulated import SimulatedKernel
from lmkd.model import Signal
from lmkd.service.daemon import Daemon
from lmkd.service.executor import Hand

from .house import PromptHand, running

PID_MAX = "/proc/sys/kernel/pid_max"


def daemon_of(kernel: Kernel, listener: socket.socket) -> Daemon:
    config = load_config([])
    return Daemon(kernel, config, lambda: config, listener, None, prepare=lambda kernel: None)


def own_place() -> str:
    return Path("/proc/self/oom_score_adj").read_text()


async def play(kernel: Kernel) -> Any:
    with socket.socket(socket.AF_UNIX) as listener:
        return await daemon_of(kernel, listener).play_episode(PromptHand(), PromptHand())


@pytest.mark.real_kernel
async def test_on_the_real_kernel_a_program_is_told_and_somebody_is_ended_who_is_not_there() -> (
    None
):
    before = own_place()
    stage = await play(Machine())
    assert own_place() == before
    levels = [notice.level for notice in stage.notices]
    assert {"medium", "critical", "normal"} <= {*levels}
    assert stage.kernel.victims
    assert stage.kernel.victims[0].signals == [Signal.TERM, Signal.KILL]


def test_nobody_can_have_the_pid_of_the_understudy() -> None:
    assert int(Path(PID_MAX).read_text()) <= UNDERSTUDY_PID


async def test_where_nothing_may_die_the_rest_is_played() -> None:
    config = load_config([])
    with socket.socket(socket.AF_UNIX) as listener:
        daemon = daemon_of(Machine(), listener)
        gentle = replace(config, settings=replace(config.settings, killable=frozenset()))
        stage = await replace(daemon, config=gentle).play_episode(PromptHand(), PromptHand())
    assert stage.notices
    assert stage.kernel.victims == []


async def test_real_threads_take_part_and_all_descriptors_are_given_back() -> None:
    hand, clerk, machine = Hand("test-hand"), Hand("test-clerk"), Machine()
    before = len(os.listdir("/proc/self/fd"))
    with socket.socket(socket.AF_UNIX) as listener:
        stage = await daemon_of(machine, listener).play_episode(hand, clerk)
    hand.finish()
    clerk.finish()
    assert stage.kernel.victims[0].signals
    assert len(os.listdir("/proc/self/fd")) == before


async def test_what_is_said_in_a_rehearsal_is_not_logged_and_later_words_are(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lmkd")
    async with running(tmp_path, rehearses=True) as home:
        assert "SIGTERM" not in caplog.text
        assert home.kernel.signals == []
        assert "ready, listening" in caplog.text


async def test_a_rehearsal_that_fails_is_named_and_keeps_nobody_from_starting(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lmkd")

    class Broken(SimulatedKernel):
        def process(self, pid: int, *details: Any) -> Any:
            if pid == os.getpid():
                raise ZeroDivisionError("a fault")
            return super().process(pid, *details)

    async with running(tmp_path, Broken(), rehearses=True):
        pass
    assert "the rehearsal of an episode failed: " in caplog.text
    assert "ready, listening" in caplog.text
