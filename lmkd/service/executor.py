"""Carry out kills: the signals, the wait for the end, and taking the memory back.

Every signal goes through a handle (a pidfd) whose identity was checked after it was opened, so a recycled pid is
never signalled. Nothing here chooses; what a whole cgroup holds is looked at once more, since processes can move
into it after it was ranked.

process_mrelease blocks for 90-270 ms a GiB (FACTS), so it runs in a thread, and that thread has run from the start:
a thread made under pressure may not come to be.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue

import trio

from lmkd.kernel.interface import Kernel, VictimHandle
from lmkd.model import Process, Signal, Unit, Victim
from lmkd.policy.actions import SendSignal
from lmkd.policy.classify import never_kill_reason
from lmkd.policy.events import SignalFailed, VictimExited
from lmkd.service.engine import Engine

log = logging.getLogger("lmkd")


class Hand:
    """One thread that does blocking work, in order, and outlives any pressure."""

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], object]) -> None:
        """Have this done after all that was asked before. What it raises is logged, and ends nothing."""
        self._work.put(work)

    def finish(self) -> None:
        """Wait until all is done, and end the thread."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except Exception:
                log.exception("background work failed")


@dataclass(slots=True)
class _Hold:
    """What is held of a victim until it has ended."""

    victim: Victim
    handles: list[VictimHandle]
    watch: trio.CancelScope = field(default_factory=trio.CancelScope)


class Executor:
    """The hands of the heart."""

    def __init__(
        self, kernel: Kernel, engine: Engine, nursery: trio.Nursery, own_pid: int, hand: Hand
    ) -> None:
        self._kernel = kernel
        self._engine = engine
        self._nursery = nursery
        self._own_pid = own_pid
        self._hand = hand
        self._holds: dict[int, _Hold] = {}

    def signal(self, action: SendSignal) -> None:
        """Send the signal of a kill; SIGTERM opens the hold on the victim, SIGKILL uses it."""
        try:
            act = self._take_hold if action.signal is Signal.TERM else self._finish_off
            problem = act(action)
        except PermissionError:
            problem = "not permitted to signal it"
        if problem is not None:
            log.warning(
                "kill %d: %s (pid %d): %s",
                action.kill,
                action.victim.name,
                action.victim.pid,
                problem,
            )
            self.release(action.kill)
            self._engine.feed(SignalFailed(action.domain, action.kill, problem))

    def release(self, kill: int) -> None:
        """Let go of a victim, whether it has ended or not."""
        hold = self._holds.pop(kill, None)
        if hold is not None:
            hold.watch.cancel()
            for handle in hold.handles:
                # Closed by the hand that may still be using it.
                self._hand.do(handle.close)

    def _take_hold(self, action: SendSignal) -> str | None:
        victim = action.victim
        leader = self._kernel.open_victim(victim.pid, victim.start_ticks)
        if leader is None:
            return "it is gone"
        hold = _Hold(victim, [leader])
        self._holds[action.kill] = hold
        if victim.unit is Unit.CGROUP:
            problem = self._hold_members(hold)
            if problem is not None:
                return problem
        reached = [handle.send(Signal.TERM) for handle in hold.handles]
        if not any(reached):
            return "it is gone"
        self._nursery.start_soon(self._watch, action.domain, action.kill, hold)
        return None

    def _members(self, cgroup: str) -> list[Process] | str:
        """Return the processes of a cgroup, or why it is not to be killed as a whole."""
        found = (self._kernel.process(pid) for pid in self._kernel.cgroup_pids(cgroup))
        members = [process for process in found if process is not None]
        for process in members:
            reason = never_kill_reason(process, self._own_pid)
            if reason is not None:
                return f"its cgroup now holds {process.comm} ({reason})"
        return members

    def _hold_members(self, hold: _Hold) -> str | None:
        members = self._members(hold.victim.cgroup)
        if isinstance(members, str):
            return members
        for process in members:
            if process.pid != hold.victim.pid:
                handle = self._kernel.open_victim(process.pid, process.start_ticks)
                if handle is not None:
                    hold.handles.append(handle)
        return None

    def _finish_off(self, action: SendSignal) -> str | None:
        hold = self._holds.get(action.kill)
        if hold is None:
            return None  # it ended in this very moment, and that has been said
        whole = (
            hold.victim.unit is Unit.CGROUP
            and not isinstance(self._members(hold.victim.cgroup), str)  # somebody may have moved in
            and self._kernel.kill_cgroup(hold.victim.cgroup)
        )
        for handle in hold.handles:
            if whole or handle.send(Signal.KILL):
                self._hand.do(handle.release_memory)
        return None

    async def _watch(self, domain: str, kill: int, hold: _Hold) -> None:
        with hold.watch:
            # A hold that was released before this began has handles that are closed, or being closed.
            await trio.lowlevel.checkpoint_if_cancelled()
            if hold.victim.unit is Unit.CGROUP:
                await self._kernel.wait_cgroup_empty(hold.victim.cgroup)
            else:
                await hold.handles[0].wait_exit()
        if hold.watch.cancelled_caught:
            return
        self.release(kill)
        self._engine.feed(VictimExited(domain, kill))
