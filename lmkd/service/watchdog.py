"""The watchdog: a thread that does the one thing that matters, should the loop not answer.

The loop may hang: in a read of /proc that waits for a lock, in a write to whoever reads our log, in a fault of ours. In
an emergency nobody has time for that. So a thread of its own waits for the same stalls, with files of its own, and when
the loop has not read the system for HUNG_US it reads, ranks what it finds by the state that the heart was in, and ends
whoever ranks first: SIGKILL at once, one at a time, for as long as the loop is silent and the emergency lasts.

It writes no log, for that may be what the loop hangs in. What it did it hands to the loop when that answers again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from itertools import islice
from typing import Protocol

from lmkd.kernel.interface import Alarm, Kernel
from lmkd.kernel.locked import raise_priority
from lmkd.model import SYSTEM_DOMAIN, Level, Process, Signal, Unit, Victim
from lmkd.policy.classify import never_kill_reason
from lmkd.policy.detect import Judgement, judge
from lmkd.policy.escalate import find_first, least_scanned_kib
from lmkd.policy.events import WatchdogKilled
from lmkd.policy.pace import left_us
from lmkd.policy.state import NEVER_US, State
from lmkd.policy.window import SECOND_US, Window, fall_kib_s, push
from lmkd.service.descendants import find_descendants, hold_all

HUNG_US = 2_000_000
"""As in Android's lmkd. In an emergency the loop reads every 10 ms."""
LOOK_S = 0.25
LOOKS_ON_THE_WAY = 8
"""So many looks until nothing is left, but none sooner than LOOK_LEAST_S after the last."""
LOOK_LEAST_S = 0.02
AHEAD_US = 3_000_000
"""What is left lasts for so long at the present slope, and there is nothing else to take: that is late enough. It looks
less often than the loop and has all processes yet to read, which took half a second in the emulated machine; there the
kernel was first when it waited for the hard limit (12 MB/s, 6.4 MiB left), and on a slower one when it waited for the
last second (7.9 MiB)."""
AWAKE_US = 5_000_000
"""Kept looking for so long after a stall."""
NEWCOMERS_MOST = 100
EXIT_LOOKS = 40
EXIT_LOOK_S = 0.05


class Looked(Protocol):
    """What of the roll may be asked from any thread."""

    def as_others_have(self, processes: Iterable[Process], /) -> list[Process]: ...

    def is_known(self, pid: int, /) -> bool: ...

    def small_ones(
        self, domain: str, below_kib: int, apart: Collection[int], /
    ) -> list[Process]: ...


class Watchdog:
    """Watches one loop. `state` is the heart's as it is now; of the roll it asks what any thread may ask."""

    def __init__(
        self,
        kernel: Kernel,
        alarm: Alarm,
        own_pid: int,
        state: Callable[[], State],
        roll: Looked,
    ) -> None:
        self._kernel = kernel
        self._alarm = alarm
        self._own_pid = own_pid
        self._state = state
        self._roll = roll
        self._window: Window = ()
        self._relieved_us = NEVER_US
        self._beat_us = kernel.now_us()
        self._woken_us = NEVER_US
        self._pressed = False
        self._closing = False
        self._killed: deque[WatchdogKilled] = deque()
        self.fault: str | None = None
        """Why it gave up its last look that it had to give up."""
        self._thread = threading.Thread(target=self._run, name="lmkd-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def beat(self, level: Level, again_us: int) -> list[WatchdogKilled]:
        """Say that the loop has read the system, and when it will again; return what was done since. From the loop."""
        self._beat_us = self._kernel.now_us()
        self._alarm.expect(again_us + HUNG_US)
        pressed = level > Level.NORMAL
        if pressed and not self._pressed:
            self._pressed = True
            self._alarm.call()
        self._pressed = pressed
        return self.take_killed()

    def take_killed(self) -> list[WatchdogKilled]:
        """Return what was done since this was asked last. From the loop, before it judges anything."""
        killed = []
        while self._killed:
            killed.append(self._killed.popleft())
        return killed

    def note_alive(self) -> None:
        """Say that the loop is at work on something long, and not hanging. From the loop."""
        self._beat_us = self._kernel.now_us()

    def close(self) -> None:
        """End the thread. From the loop."""
        self._closing = True
        if self._thread.ident is not None:  # it may not have come to be started
            self._alarm.call()
            self._thread.join()
        self._alarm.close()

    # --- in the thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        raise_priority()  # of this thread: that of the loop is its own
        while not self._closing:
            answered = self._beat_us > self._woken_us
            rested = self._kernel.now_us() - self._woken_us > AWAKE_US
            calm = not self._pressed and answered and rested
            self._alarm.wait(None if calm else self._pause_s())
            if calm:
                self._woken_us = self._kernel.now_us()
                self._window = ()
            if not self._closing:
                self.look()

    def look(self) -> None:
        """Look once, and do what has to be done. A fault of ours costs this look."""
        try:
            judgement = self._judge()
            if judgement is not None and self._is_late(judgement) and self.silent_us() >= HUNG_US:
                self._end_first(judgement)
        except Exception as error:
            self.fault = f"{type(error).__name__}: {error}"

    def _pause_s(self) -> float:
        """Return how long to wait until the next look."""
        left = left_us(self._window) if self._window else None
        if left is None:
            return LOOK_S
        return min(max(left / SECOND_US / LOOKS_ON_THE_WAY, LOOK_LEAST_S), LOOK_S)

    def _is_late(self, judgement: Judgement) -> bool:
        """Whether somebody has to end now, the loop being silent."""
        if judgement.emergency or not judgement.exhausted:
            return judgement.emergency
        soon_kib = fall_kib_s(self._window) * AHEAD_US // SECOND_US
        return self._window[-1].available_kib < soon_kib

    def silent_us(self) -> int:
        """Return for how long the loop has owed us a reading."""
        return self._kernel.now_us() - max(self._beat_us, self._woken_us)

    def _judge(self) -> Judgement | None:
        reading = self._alarm.read()
        if reading is None:
            return None
        self._window = push(self._window, reading)
        settings = self._state().settings
        return judge(self._window, settings, {}, self._relieved_us)

    def _end_first(self, judgement: Judgement) -> None:
        state, now_us = self._state(), self._kernel.now_us()
        domain = state.domains.get(SYSTEM_DOMAIN)
        if domain is None or domain.relayed is not None or state.settings.dry_run:
            return  # who dies for a relayed level is for the other daemon to say
        domain = replace(domain, window=self._window, judgement=judgement)
        victim = None if domain.in_flight is None else domain.in_flight.victim
        if victim is None or not self._is_there(victim):
            details = state.settings.rules.details
            least_kib = least_scanned_kib(state, domain)
            found = self._kernel.scan(SYSTEM_DOMAIN, least_kib, details)
            large = self._roll.as_others_have(found)
            apart = {process.pid for process in large}
            small = self._roll.small_ones(SYSTEM_DOMAIN, least_kib, apart)
            seen = [*large, *small, *self._newcomers(apart, least_kib)]
            victim = find_first(replace(state, domains={}), domain, seen, now_us)
        silent_us = self.silent_us()
        # To look through all processes takes its time: the loop may have answered meanwhile.
        if victim is None or silent_us < HUNG_US or not self._end(victim, state):
            return
        reason = f"{judgement.reason}, and the loop had not answered for {silent_us // 1000} ms"
        # Said at once: should the loop answer now, the stall of before is no reason for it to end another one.
        self._killed.append(WatchdogKilled(SYSTEM_DOMAIN, victim, reason))
        for _ in range(EXIT_LOOKS):
            if not self._is_there(victim):
                break
            time.sleep(EXIT_LOOK_S)
        self._relieved_us = self._kernel.now_us()

    def _newcomers(self, apart: Collection[int], below_kib: int) -> list[Process]:
        """Read some of those that the roll does not know yet: the loop may hang in reading a thousand of them."""
        pids = sorted(self._kernel.pids(), reverse=True)  # mostly the youngest first
        unknown = (pid for pid in pids if pid not in apart and not self._roll.is_known(pid))
        found = (self._kernel.process(pid) for pid in islice(unknown, NEWCOMERS_MOST))
        there = [one for one in found if one is not None and not one.kernel_thread]
        return self._roll.as_others_have([one for one in there if one.size_kib < below_kib])

    def _is_there(self, victim: Victim) -> bool:
        process = self._kernel.process(victim.pid)
        return process is not None and process.start_ticks == victim.start_ticks

    def _end(self, victim: Victim, state: State) -> bool:
        """Kill a victim with all that dies with it; False when nobody was reached."""
        found = self._members(victim)
        members = [one for one in found if self._may_end(one, state)]
        if victim.unit is Unit.CGROUP and len(members) != len(found):
            return False  # as a whole or not at all
        handles = hold_all(self._kernel, [(one.pid, one.start_ticks) for one in members])
        reached = [handle.send(Signal.KILL) for handle in handles]
        for handle in handles:
            handle.release_memory()
            handle.close()
        return any(reached)

    def _members(self, victim: Victim) -> list[Process]:
        look = self._kernel.process
        identities = victim.members or ((victim.pid, victim.start_ticks),)
        found = [(look(pid), ticks) for pid, ticks in identities]
        members = [one for one, ticks in found if one is not None and one.start_ticks == ticks]
        if victim.unit is Unit.CGROUP:
            inside = [look(pid) for pid in self._kernel.cgroup_pids(victim.cgroup)]
            return [one for one in inside if one is not None]
        if victim.unit is Unit.TREE and members:
            members += find_descendants(self._kernel, look, [victim.pid], victim.cgroup)
        return members

    def _may_end(self, process: Process, state: State) -> bool:
        identity = (process.pid, process.start_ticks)
        registered = any((app.pid, app.start_ticks) == identity for app in state.apps.values())
        (judged,) = self._roll.as_others_have((process,))
        return (
            never_kill_reason(judged, state.settings, self._own_pid, registered=registered) is None
        )
