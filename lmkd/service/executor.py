"""Carry out kills: the signals, the wait for the end, and taking the memory back.

Every signal goes through a handle (a pidfd) whose identity was checked after it was opened, so a recycled pid is
never signalled. Nothing here chooses; but between the ranking and the signal a victim may have become another by
exec, or have moved to another cgroup, so it is looked at once more, and so is all that a tree or a cgroup holds now.

process_mrelease blocks for 90-270 ms a GiB (FACTS), so it runs in a thread, and that thread has run from the start:
a thread made under pressure may not come to be.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue

import trio

from lmkd.kernel.interface import Kernel, VictimHandle
from lmkd.model import App, AppClass, Process, Signal, Unit, Victim, is_within
from lmkd.policy.actions import SendSignal
from lmkd.policy.classify import classify, never_kill_reason
from lmkd.policy.events import SignalFailed, VictimExited
from lmkd.policy.groups import may_end
from lmkd.policy.swarms import SWARM_WHOLE
from lmkd.service.descendants import find_descendants, find_kin_of, hold_all
from lmkd.service.engine import Engine

log = logging.getLogger("lmkd")

SWARM_AT_ONCE = 16
EMPTYING_PASSES = 20
"""Over a frozen cgroup without cgroup.kill; a second finds whoever was forked before the freeze took hold."""


class Hand:
    """One thread that does blocking work, in order, and outlives any pressure."""

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], object]) -> None:
        """Have this done after all that was asked before. What it raises is logged, and ends nothing."""
        self._work.put(work)

    def finish(self, within_s: float | None = None) -> None:
        """Wait until all is done, and end the thread; no longer than so many seconds, if that is given."""
        self._work.put(None)
        self._thread.join(within_s)

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
    """The victim's own first; of a tree parents before children."""
    root: Process | None = None
    """The victim as it was when it was taken hold of."""
    watch: trio.CancelScope = field(default_factory=trio.CancelScope)
    spared: list[VictimHandle] = field(default_factory=list)
    """Held once, and then found to be never killed; closed with the others."""
    last_word: Signal = Signal.TERM
    """What whoever is born into it is told."""
    waited_for: VictimHandle | None = None
    wait: trio.CancelScope = field(default_factory=trio.CancelScope)
    """The wait for that one's end."""

    @property
    def breeds(self) -> bool:
        """Whether who is born meanwhile is part of it."""
        whole = len(self.victim.members) >= SWARM_WHOLE
        return self.victim.unit is Unit.TREE or (self.victim.unit is Unit.SWARM and whole)

    @property
    def in_order(self) -> list[VictimHandle]:
        """The handles as they are signalled: of a tree children first, since a parent may start them again."""
        return self.handles[::-1] if self.victim.unit is Unit.TREE else self.handles


class Executor:
    """The hands of the heart.

    `look` reads a process as the rules are to judge it; None when it is gone. `alive` is called now and then in what
    takes long.
    """

    def __init__(
        self,
        kernel: Kernel,
        engine: Engine,
        nursery: trio.Nursery,
        own_pid: int,
        hand: Hand,
        look: Callable[[int], Process | None],
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._kernel = kernel
        self._engine = engine
        self._nursery = nursery
        self._own_pid = own_pid
        self._hand = hand
        self._look = look
        self._alive = alive
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
            for handle in (*hold.handles, *hold.spared):
                # Closed by the hand that may still be using it.
                self._hand.do(handle.close)

    # --- SIGTERM -----------------------------------------------------------------------------------------

    def _take_hold(self, action: SendSignal) -> str | None:
        victim = action.victim
        if victim.unit is Unit.SWARM:
            return self._take_swarm(action)
        leader = self._kernel.open_victim(victim.pid, victim.start_ticks)
        if leader is None:
            return "it is gone"
        hold = _Hold(victim, [leader])
        self._holds[action.kill] = hold
        hold.root = self._look(victim.pid)
        problem = self._look_again(action.domain, victim, hold.root)
        if problem is None and victim.unit is Unit.CGROUP:
            problem = self._hold_members(hold)
        elif problem is None and victim.unit is Unit.TREE:
            self._hold_tree(hold)
        if problem is not None:
            return problem
        reached = [handle.send(Signal.TERM) for handle in hold.in_order]
        if not any(reached):
            return "it is gone"
        # Who has no handler is dying by now, perhaps caught in reclaim of its own; who has one is left as it is.
        for handle in hold.handles:
            self._hand.do(handle.release_memory)
        self._nursery.start_soon(self._watch, action.domain, action.kill, hold)
        return None

    def _take_swarm(self, action: SendSignal) -> str | None:
        """Take hold of those of a swarm who are still what was ranked; the others are let be.

        A great many that have a cgroup are stopped with it while they are looked at: meanwhile a bomb grows no further,
        and its processors are ours (the arena: it had filled the swap before the last of 1,200 was looked at). Who has
        no handler ends at SIGTERM, stopped or not.
        """
        victim = action.victim
        hold = self._holds[action.kill] = _Hold(victim, [])
        with self._frozen(victim.cgroup if hold.breeds else "/") as frozen:
            inside = set(self._kernel.cgroup_pids(victim.cgroup)) if frozen else set()
            problem = self._tell_swarm(hold, action.domain, inside)
            if problem is None and frozen:
                told = len(hold.handles)
                self._hold_born(hold)
                for handle in hold.handles[told:]:
                    handle.send(Signal.TERM)
        if problem is None:
            self._nursery.start_soon(self._watch, action.domain, action.kill, hold)
        return problem

    def _tell_swarm(self, hold: _Hold, domain: str, inside: Collection[int]) -> str | None:
        """Send SIGTERM to the members of a swarm; return why that reached nobody, or None.

        Of those `inside` their cgroup, which is stopped, a glance is enough: they have the name and the session still.
        """
        victim, problem, reached = hold.victim, "it is gone", False
        # The first of them have their signal before the last is looked at: three hundred take 50 ms.
        for at in range(0, len(victim.members), SWARM_AT_ONCE):
            self._alive()
            for handle in hold_all(self._kernel, victim.members[at : at + SWARM_AT_ONCE]):
                process = self._as_its_like(hold, handle.pid, inside) or self._look(handle.pid)
                changed = self._look_again(domain, victim, process)
                if changed is None:
                    hold.root = hold.root or process
                    hold.handles.append(handle)
                    reached |= handle.send(Signal.TERM)
                else:
                    problem = changed
                    handle.close()
        return None if reached else problem

    def _as_its_like(self, hold: _Hold, pid: int, inside: Collection[int]) -> Process | None:
        root = hold.root
        glance = None if root is None or pid not in inside else self._kernel.glance(pid)
        return None if root is None or glance is None else glance.as_like(root, pid)

    @contextmanager
    def _frozen(self, cgroup: str) -> Iterator[bool]:
        """Stop the processes of a cgroup meanwhile, where there is one; it takes up to 10 ms to take hold (FACTS)."""
        frozen = cgroup != "/" and self._kernel.freeze_cgroup(cgroup, True)
        try:
            yield frozen
        finally:
            if frozen:
                self._kernel.freeze_cgroup(cgroup, False)

    def _look_again(self, domain: str, victim: Victim, process: Process | None) -> str | None:
        """Return why the victim is not what was ranked any more, or None; its handle is open, so it is no other."""
        if process is None:
            return "it is gone"
        if not is_within(process.cgroup, domain):
            return f"it has moved to {process.cgroup} since, which is not in {domain}"
        if victim.unit is Unit.CGROUP and not is_within(process.cgroup, victim.cgroup):
            return f"it has moved to {process.cgroup} since, out of {victim.cgroup}"
        if victim.unit is Unit.SWARM and process.cgroup != victim.cgroup:
            return f"it has moved to {process.cgroup} since, away from its like"
        never = self._never(process)
        if never is not None:
            return f"it is never killed as it is now: {never}"
        classed = classify(process, self._engine.state.settings, self._own_pid)
        unspoken = victim.app is None and self._app_of(process) is None
        if unspoken and classed.app_class > victim.app_class:
            return f"it is {classed.app_class.word} now ({classed.why})"
        return None

    def _app_of(self, process: Process) -> App | None:
        identity = (process.pid, process.start_ticks)
        apps = self._engine.state.apps.values()
        return next((app for app in apps if (app.pid, app.start_ticks) == identity), None)

    def _never(self, process: Process) -> str | None:
        """Return why a process is not to be signalled as things stand now, or None."""
        app = self._app_of(process)
        if app is not None and app.app_class is AppClass.SYSTEM:
            return "the controller gave it the class system"
        settings, registered = self._engine.state.settings, app is not None
        return never_kill_reason(process, settings, self._own_pid, registered=registered)

    def _members(self, cgroup: str) -> list[Process] | str:
        """Return the processes of a cgroup, or why it is not to be killed as a whole."""
        found = (self._look(pid) for pid in self._kernel.cgroup_pids(cgroup))
        members = [process for process in found if process is not None]
        for process in members:
            reason = self._never(process)
            if reason is not None:
                return f"its cgroup now holds {process.comm} ({reason})"
        return members

    def _hold_members(self, hold: _Hold) -> str | None:
        members = self._members(hold.victim.cgroup)
        if isinstance(members, str):
            return members
        self._hold_more(hold, members)
        return None

    def _hold_born(self, hold: _Hold) -> bool:
        """Take hold of whoever was born into a tree or a swarm meanwhile; return whether anybody was new."""
        before = len(hold.handles)
        if hold.victim.unit is Unit.SWARM:
            assert hold.root is not None
            held = {handle.pid for handle in hold.handles}
            self._alive()
            kin = find_kin_of(self._kernel, self._look, hold.root, held)
            self._alive()
            self._hold_more(hold, [one for one in kin if self._is_free(one)])
        else:
            self._hold_tree(hold)
        return len(hold.handles) > before

    def _is_free(self, process: Process) -> bool:
        """Whether nobody speaks for a process that happens to be like its neighbours."""
        return self._app_of(process) is None and self._never(process) is None

    def _hold_tree(self, hold: _Hold) -> None:
        """Take hold of whoever is in the tree now."""
        held = [handle.pid for handle in hold.handles]
        found = find_descendants(self._kernel, self._look, held, hold.victim.cgroup)
        self._hold_more(hold, [one for one in found if self._is_of_tree(hold, one)])

    def _is_of_tree(self, hold: _Hold, process: Process) -> bool:
        if self._never(process) is not None:
            return False
        return hold.victim.app is None or hold.root is None or may_end(hold.root, process)

    def _hold_more(self, hold: _Hold, processes: list[Process]) -> None:
        held = {handle.pid for handle in hold.handles}
        hold.handles += hold_all(
            self._kernel,
            [(one.pid, one.start_ticks) for one in processes if one.pid not in held],
        )

    # --- SIGKILL -----------------------------------------------------------------------------------------

    def _finish_off(self, action: SendSignal) -> str | None:
        hold = self._holds.get(action.kill)
        if hold is None:
            return None  # it ended in this very moment, and that has been said
        if hold.victim.unit is not Unit.PROCESS:
            self._let_spared_go(hold)
        if hold.victim.unit is Unit.CGROUP:
            # Looked at again: somebody may have moved in.
            whole = not isinstance(self._members(hold.victim.cgroup), str)
            if whole and not self._kernel.kill_cgroup(hold.victim.cgroup):
                self._empty_frozen(hold)
        hold.last_word = Signal.KILL
        if hold.breeds:
            self._end_breeding(hold)
        else:
            for handle in hold.in_order:
                handle.send(Signal.KILL)
        for handle in hold.handles:
            self._hand.do(handle.release_memory)
        return None

    def _let_spared_go(self, hold: _Hold) -> None:
        """Let go of those who have become somebody that is never killed since SIGTERM."""
        # The first of others is the heart's own choice, and it has looked again.
        first = 0 if hold.victim.unit is Unit.SWARM else 1
        for number, handle in enumerate(hold.handles[first:]):
            if number % SWARM_AT_ONCE == 0:
                self._alive()
            process = self._look(handle.pid)
            if process is not None and self._never(process) is not None:
                hold.handles.remove(handle)
                hold.spared.append(handle)
                if hold.waited_for is handle:
                    hold.wait.cancel()

    def _empty_frozen(self, hold: _Hold) -> None:
        """Kill a cgroup without cgroup.kill: stopped as a whole it can fork no more, and SIGKILL reaches the frozen."""
        path = hold.victim.cgroup
        with self._frozen(path):
            for _ in range(EMPTYING_PASSES):
                members = self._members(path)
                held = {handle.pid for handle in hold.handles}
                if isinstance(members, str) or not [m for m in members if m.pid not in held]:
                    return
                self._hold_more(hold, members)
                for handle in hold.handles:
                    handle.send(Signal.KILL)

    def _end_breeding(self, hold: _Hold) -> None:
        """Kill a tree or a swarm with whoever is born meanwhile.

        A swarm is frozen with its cgroup, all at once, for as long as it takes to find them; others in there wait as
        well. The freeze takes a moment to take hold, so it is looked twice.
        """
        with self._frozen(hold.victim.cgroup if hold.victim.unit is Unit.SWARM else "/") as frozen:
            if not frozen:
                self._stop_all(hold)
            elif self._hold_born(hold):
                self._hold_born(hold)
            for handle in hold.in_order:
                handle.send(Signal.KILL)

    def _stop_all(self, hold: _Hold) -> None:
        """Stop a tree from the top, or a swarm, until nobody new is in it: who is stopped forks no more."""
        stopped: set[int] = set()
        for _ in range(EMPTYING_PASSES):
            for handle in hold.handles:
                if handle.pid not in stopped:
                    stopped.add(handle.pid)
                    handle.stop()
            if not self._hold_born(hold):
                return

    # --- the end -----------------------------------------------------------------------------------------

    async def _watch(self, domain: str, kill: int, hold: _Hold) -> None:
        with hold.watch:
            # A hold that was released before this began has handles that are closed, or being closed.
            await trio.lowlevel.checkpoint_if_cancelled()
            if hold.victim.unit is Unit.CGROUP:
                await self._kernel.wait_cgroup_empty(hold.victim.cgroup)
            else:
                await self._wait_all(hold)
        if hold.watch.cancelled_caught:
            return
        self._note_kill(hold)
        self.release(kill)
        self._engine.feed(VictimExited(domain, kill))

    async def _wait_all(self, hold: _Hold) -> None:
        """Wait for all that is held. Who was born into it as it died is part of it, and is signalled, too."""
        ended: set[VictimHandle] = set()  # a thousand of a bomb end one by one
        while True:
            left = [handle for handle in hold.handles if handle not in ended]
            if not left and hold.breeds and self._hold_born(hold):
                if hold.last_word is Signal.KILL:
                    # Stopped first: to kill one after another is a race with their forks.
                    self._end_breeding(hold)
                left = [handle for handle in hold.handles if handle not in ended]
                for handle in left:
                    handle.send(hold.last_word)
            if not left:
                return
            with trio.CancelScope() as hold.wait:
                hold.waited_for = left[0]
                await left[0].wait_exit()
            # The hold may have been released in the very moment in which that one ended.
            await trio.lowlevel.checkpoint_if_cancelled()
            ended.add(left[0])

    def _note_kill(self, hold: _Hold) -> None:
        """Leave the marks on the cgroup that systemd-oomd leaves, so that whoever shows its kills shows ours."""
        path, count = hold.victim.cgroup, len(hold.handles)
        if path != "/":
            kill_id = os.urandom(16).hex()
            self._hand.do(lambda: self._kernel.note_kill(path, count, kill_id))
