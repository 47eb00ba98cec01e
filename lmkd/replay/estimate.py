"""An estimate of the machine as it would have been, had others died than did.

It holds two worlds apart: who was alive in the recording, as the recording says bit by bit, and who would be alive
*here*, under the other policy. Their difference in memory is what readings are corrected by.

It is an estimate. Whoever lives on here stays as large as he was last seen. What the others would have done with the
memory, nobody knows; stall and reclaim are taken to shrink as the shortage does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from lmkd.model import Process, Reading, Unit, Victim, is_within
from lmkd.policy.groups import stayed_in
from lmkd.policy.settings import PERMYRIAD
from lmkd.policy.state import Identity

COUNTERS = (
    "some_total_us",
    "full_total_us",
    "refault_file_pages",
    "scanned_pages",
    "events_high",
    "events_max",
    "events_oom",
)
"""The counters of a reading that a shortage moves."""


def identity_of(process: Process) -> Identity:
    return process.pid, process.start_ticks


class Estimate:
    """Who is alive, there and here, and what a reading would have been."""

    def __init__(self) -> None:
        self._there: dict[Identity, Process] = {}
        """Alive in the recording, as seen last."""
        self._ended_there: set[Identity] = set()
        """Victims of the recording; a scan that was begun before may still show them."""
        self._survivors: dict[Identity, Process] = {}
        """Ended in the recording and not here, as seen last."""
        self._dead_here: set[Identity] = set()
        self._last: dict[str, Reading] = {}
        self._held_back: dict[str, dict[str, int]] = {}
        """By domain and counter: what of its growth is taken not to have happened."""

    # --- what the recording says -------------------------------------------------------------------------------

    def see(self, processes: Iterable[Process]) -> None:
        """Take processes as they are now in the recording."""
        for process in processes:
            identity = identity_of(process)
            if identity not in self._ended_there:
                self._there[identity] = process

    def see_all(self, domain: str, processes: Sequence[Process], least_kib: int) -> None:
        """Take all processes of a domain of at least that size; whoever was that large and is not there has ended."""
        seen = {identity_of(process) for process in processes}
        for identity, process in list(self._there.items()):
            if (
                identity not in seen
                and process.size_kib >= least_kib
                and is_within(process.cgroup, domain)
            ):
                del self._there[identity]
        self.see(processes)

    def end_there(self, victim: Victim) -> None:
        """A victim of the recording has ended."""
        for process in members_of(victim, self._there.values()):
            identity = identity_of(process)
            del self._there[identity]
            self._ended_there.add(identity)
            if identity not in self._dead_here:
                self._survivors[identity] = process

    # --- what happens here -------------------------------------------------------------------------------------

    def end_here(self, members: Iterable[Process]) -> None:
        """Some have ended here."""
        for process in members:
            self._dead_here.add(identity_of(process))
            self._survivors.pop(identity_of(process), None)

    def is_dead_here(self, identity: Identity) -> bool:
        return identity in self._dead_here

    def alive_here(self) -> list[Process]:
        """Return those alive here, by pid."""
        alive = [
            process for identity, process in self._there.items() if identity not in self._dead_here
        ]
        alive.extend(self._survivors.values())
        alive.sort(key=identity_of)
        return alive

    def scan(self, domain: str, least_kib: int) -> tuple[Process, ...]:
        """Answer for a scan of a domain."""
        return tuple(
            process
            for process in self.alive_here()
            if process.size_kib >= least_kib and is_within(process.cgroup, domain)
        )

    def size_kib(self, identity: Identity) -> int | None:
        """Return the size of one, alive here or not; None where it was never seen."""
        process = self._there.get(identity) or self._survivors.get(identity)
        return None if process is None else process.size_kib

    def correct(self, reading: Reading, need_kib: int) -> Reading:
        """Return a reading as it would have been here. `need_kib`: what the domain lacked in the recording then."""
        domain = reading.domain
        before, self._last[domain] = self._last.get(domain), reading
        anon_kib, swap_kib = self._gain_kib(domain)
        gain_kib = anon_kib + swap_kib
        held_back = self._held_back.setdefault(domain, dict.fromkeys(COUNTERS, 0))
        if gain_kib > 0 and before is not None:
            share = PERMYRIAD if gain_kib >= need_kib else gain_kib * PERMYRIAD // need_kib
            for name in COUNTERS:
                then, now = getattr(before, name), getattr(reading, name)
                if then is not None and now is not None and now > then:
                    held_back[name] += (now - then) * share // PERMYRIAD
        if gain_kib == 0 and not any(held_back.values()):
            return reading
        counters = {
            name: value - held
            for name, held in held_back.items()
            if (value := getattr(reading, name)) is not None
        }
        return replace(_with_gain(reading, anon_kib, swap_kib), **counters)

    def _gain_kib(self, domain: str) -> tuple[int, int]:
        """Return by how much more memory and swap a domain has here than in the recording."""
        anon_kib = swap_kib = 0
        for identity in self._dead_here:
            process = self._there.get(identity)
            if process is not None and is_within(process.cgroup, domain):
                anon_kib += process.anon_kib
                swap_kib += process.swap_kib
        for process in self._survivors.values():
            if is_within(process.cgroup, domain):
                anon_kib -= process.anon_kib
                swap_kib -= process.swap_kib
        return anon_kib, swap_kib


def _with_gain(reading: Reading, anon_kib: int, swap_kib: int) -> Reading:
    free_kib, stored_kib, used_kib = (
        reading.zram_free_kib,
        reading.zram_stored_kib,
        reading.zram_used_kib,
    )
    if stored_kib > 0 and swap_kib:
        # Taken to lie on zram, at the ratio of all that does: it gives memory back, too.
        moved_kib = max(min(swap_kib, stored_kib), -free_kib)
        gained_kib = moved_kib * used_kib // stored_kib
        free_kib += moved_kib
        stored_kib -= moved_kib
        used_kib -= gained_kib
        available_kib = reading.available_kib + anon_kib + gained_kib
    else:
        available_kib = reading.available_kib + anon_kib
    return replace(
        reading,
        available_kib=max(min(available_kib, reading.total_kib), 0),
        anon_kib=max(reading.anon_kib - anon_kib, 0),
        swap_free_kib=max(min(reading.swap_free_kib + swap_kib, reading.swap_total_kib), 0),
        zram_free_kib=free_kib,
        zram_stored_kib=stored_kib,
        zram_used_kib=used_kib,
    )


def members_of(victim: Victim, processes: Collection[Process]) -> list[Process]:
    """Return what of these processes ends with a victim."""
    leader = (victim.pid, victim.start_ticks)
    if victim.unit is Unit.PROCESS:
        return [process for process in processes if identity_of(process) == leader]
    if victim.unit is Unit.SWARM:
        return [process for process in processes if identity_of(process) in victim.members]
    inside = [process for process in processes if is_within(process.cgroup, victim.cgroup)]
    if victim.unit is Unit.CGROUP:
        return inside
    inside = [process for process in inside if stayed_in(process.cgroup, victim.cgroup)]
    children: dict[int, list[Process]] = {}
    for process in inside:
        children.setdefault(process.ppid, []).append(process)
    found = [process for process in inside if identity_of(process) == leader]
    seen = {process.pid for process in found}
    for parent in found:
        for child in children.get(parent.pid, ()):
            if child.pid not in seen:
                seen.add(child.pid)
                found.append(child)
    return found
