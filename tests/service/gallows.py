"""The executor by itself: a kernel, an engine that only listens, and victims."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from lmkd.config import load_config
from lmkd.kernel.simulated import SimulatedKernel
from lmkd.model import SYSTEM_DOMAIN, AppClass, Signal, Unit, Victim
from lmkd.policy import heart
from lmkd.policy.actions import SendSignal
from lmkd.policy.events import Event
from lmkd.service.engine import Engine
from lmkd.service.executor import Executor

from .house import PINNED, PromptHand

OWN_PID = 99
JOB = "/job"


class DeafEngine(Engine):
    """Keeps what it is fed, and does nothing about it."""

    def __init__(self) -> None:
        super().__init__(
            heart.start(load_config([PINNED]).settings, OWN_PID), lambda: 0, lambda action: None
        )
        self.fed: list[Event] = []

    def feed(self, event: Event) -> None:
        self.fed.append(event)


class Gallows:
    def __init__(self, kernel: SimulatedKernel, executor: Executor, engine: DeafEngine) -> None:
        self.kernel = kernel
        self.executor = executor
        self.fed = engine.fed

    def victim(self, pid: int, unit: Unit = Unit.PROCESS) -> Victim:
        process = self.kernel.process(pid)
        assert process is not None
        return Victim(
            pid,
            process.start_ticks,
            process.comm,
            AppClass.SERVICE,
            "",
            process.size_kib,
            unit,
            process.cgroup,
        )

    def send(self, victim: Victim, signal: Signal, kill: int = 1) -> None:
        self.executor.signal(SendSignal(SYSTEM_DOMAIN, kill, victim, signal))

    def sent(self) -> list[tuple[int, str]]:
        return [(sent.pid, sent.signal.value) for sent in self.kernel.signals]


@asynccontextmanager
async def gallows(kernel: SimulatedKernel | None = None) -> AsyncIterator[Gallows]:
    kernel, engine = kernel or SimulatedKernel(), DeafEngine()
    async with trio.open_nursery() as nursery:
        executor = Executor(kernel, engine, nursery, OWN_PID, PromptHand(), kernel.process)
        yield Gallows(kernel, executor, engine)
        nursery.cancel_scope.cancel()
