"""Write our order where the kernel's own killer sees it, and put back what was there before.

So that the kernel, if it must act before us, picks what we would have picked: a place is an oom_score_adj, and a
cgroup that dies as a whole has memory.oom.group set. What was there before is kept in a small file, a line for each
change: a daemon that was killed would otherwise take its own projection for the original. The file is written by a
thread of its own; a write may have to wait for memory, and nothing here may.

It knows no rules: which place a process has is for lmkd.policy.place to say.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import NamedTuple

from lmkd.kernel.interface import Kernel

log = logging.getLogger("lmkd")

FILE_NAME = "projected"
EARLIER_KEPT = 4
SHORTEN_AT_LINES = 4_000
"""Beyond that, and four times what is in force, the file is written anew."""

Identity = tuple[int, int]
"""(pid, start_ticks)"""


class Written(NamedTuple):
    """What was written over what."""

    before: int
    written: int
    earlier: tuple[int, ...] = ()
    """What we wrote before that. A child that was forked in between has one of these, and it is ours as well."""

    def is_ours(self, adj: int) -> bool:
        """Whether an oom_score_adj is of our writing."""
        return adj == self.written or adj in self.earlier

    def then(self, before: int, wanted: int) -> Written:
        """Return this with one more written over it."""
        if before != self.before:
            return Written(before, wanted)
        earlier = dict.fromkeys((*self.earlier, self.written))
        earlier.pop(wanted, None)
        return Written(before, wanted, tuple(earlier)[-EARLIER_KEPT:])


class Projection:
    """What was written, and what stood there before. `do` has a thing done by the writing thread."""

    def __init__(
        self, kernel: Kernel, directory: str | None, do: Callable[[Callable[[], object]], None]
    ) -> None:
        self._kernel = kernel
        self._path = os.path.join(directory, FILE_NAME) if directory is not None else None
        self._do = do
        self._processes: dict[Identity, Written] = {}
        self._groups: dict[str, bool] = {}
        """memory.oom.group as it was before, by cgroup."""
        self._lines: list[str] = []
        self._lock = threading.Lock()
        """Held for a swap of that list, never for the disk."""
        self._line_count = 0
        self._refused_said: set[str] = set()
        self.inherited: dict[Identity, Written] = {}
        """What an earlier daemon wrote that did not live to put it back."""
        self._load()

    def written(self, identity: Identity) -> int | None:
        """Return what we wrote for a process, None for nothing."""
        found = self._processes.get(identity)
        return None if found is None else found.written

    def find(self, identity: Identity) -> Written | None:
        """Return all that we wrote for a process, None for nothing."""
        return self._processes.get(identity)

    def project(self, identity: Identity, before: int, wanted: int) -> int | None:
        """Give a process its place; return what stands there of ours now, None for nothing."""
        found = self._processes.get(identity)
        if wanted == before:
            if found is not None:
                self._restore(identity, found)
            return None
        if found is not None and found[:2] == (before, wanted):
            return wanted
        if not self._write(identity, wanted):
            return None if found is None else found.written
        fresh = Written(before, wanted)
        self._processes[identity] = fresh if found is None else found.then(before, wanted)
        self._note(f"process {identity[0]} {identity[1]} {before} {wanted}")
        return wanted

    def inherit(self, identity: Identity, written: Written) -> None:
        """Take note of what of ours a process has: from its parent by fork, or from an earlier daemon."""
        self._processes[identity] = written
        self._note(f"process {identity[0]} {identity[1]} {written.before} {written.written}")

    def forget(self, identity: Identity) -> None:
        """A process has exited, or another has changed its place since: there is nothing to put back."""
        if self._processes.pop(identity, None) is not None:
            self._note(f"forget {identity[0]} {identity[1]}")

    def hold_together(self, path: str) -> None:
        """Have the kernel's killer take a cgroup as a whole."""
        if path in self._groups:
            return
        try:
            before = self._kernel.set_oom_group(path, True)
        except PermissionError:
            self._say_refused("memory.oom.group", f"memory.oom.group of {path} cannot be written")
            return
        if before is not None:
            self._groups[path] = before
            self._note(f"group {int(before)} {path}")

    def let_apart(self, path: str) -> None:
        """Put back how the kernel's killer takes a cgroup."""
        before = self._groups.pop(path, None)
        if before is not None:
            self._restore_group(path, before)
            self._note(f"apart {path}")

    @property
    def held_together(self) -> frozenset[str]:
        """The cgroups that the kernel's killer takes as a whole by our word."""
        return frozenset(self._groups)

    def restore_all(self) -> None:
        """Put back everything. What must not be written is kept in the file for whoever may."""
        kept = {
            identity: found
            for identity, found in (self.inherited | self._processes).items()
            if not self._write(identity, found.before) and self._is_alive(identity)
        }
        for path, before in self._groups.items():
            self._restore_group(path, before)
        self.inherited, self._processes, self._groups = {}, kept, {}
        self._save(self._all_lines())

    def _restore(self, identity: Identity, found: Written) -> None:
        if self._write(identity, found.before):
            self.forget(identity)

    def _restore_group(self, path: str, before: bool) -> None:
        if not before:
            try:
                self._kernel.set_oom_group(path, False)
            except PermissionError:
                self._say_refused("memory.oom.group", f"memory.oom.group of {path} stays set")

    def _write(self, identity: Identity, value: int) -> bool:
        try:
            return self._kernel.set_oom_score_adj(*identity, value)
        except PermissionError:
            self._say_refused(
                "oom_score_adj",
                f"oom_score_adj of pid {identity[0]} cannot be set to {value} (no CAP_SYS_RESOURCE)",
            )
            return False

    def _say_refused(self, what: str, line: str) -> None:
        if what not in self._refused_said:
            self._refused_said.add(what)
            log.warning("%s: the kernel's own order may differ from ours", line)

    def _is_alive(self, identity: Identity) -> bool:
        return self._kernel.start_ticks(identity[0]) == identity[1]

    # --- the file ---------------------------------------------------------------------------------------

    def _note(self, line: str) -> None:
        if self._path is None:
            return
        with self._lock:
            self._lines.append(line)
            first = len(self._lines) == 1
        if first:
            self._do(self._flush)

    def _flush(self) -> None:
        """Write what has been noted. Runs in the writing thread."""
        with self._lock:
            lines, self._lines = self._lines, []
        in_force = len(self._processes) + len(self._groups)
        self._line_count += len(lines)
        if self._line_count > max(SHORTEN_AT_LINES, 4 * in_force):
            self._save(self._all_lines())
        elif self._path is not None:
            try:
                fd = os.open(
                    self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
                )
                try:
                    os.write(fd, "".join(f"{line}\n" for line in lines).encode())
                finally:
                    os.close(fd)
            except OSError as error:
                self._give_up(error)

    def _all_lines(self) -> list[str]:
        lines = [
            f"process {pid} {start} {found.before} {found.written}"
            for (pid, start), found in list(self._processes.items())
        ]
        return lines + [
            f"group {int(before)} {path}" for path, before in list(self._groups.items())
        ]

    def _save(self, lines: list[str]) -> None:
        if self._path is None:
            return
        self._line_count = len(lines)
        try:
            with open(self._path + ".new", "w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
            os.replace(self._path + ".new", self._path)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        log.warning("%s cannot be written: %s", self._path, error.strerror)
        self._path = None

    def _load(self) -> None:
        """Take up what an earlier daemon left: groups are put back at once, processes when they are seen."""
        if self._path is None:
            return
        try:
            with open(self._path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("%s: %s; what it held is passed over", self._path, error.strerror)
            return
        groups: dict[str, bool] = {}
        bad = 0
        for line in content.decode(errors="replace").splitlines():
            bad += not self._take_line(line, groups)
        if bad:
            log.warning("%s: %d lines mean nothing and are passed over", self._path, bad)
        self.inherited = {
            identity: found
            for identity, found in self.inherited.items()
            if self._is_alive(identity)
        }
        for path, before in groups.items():
            self._restore_group(path, before)

    def _take_line(self, line: str, groups: dict[str, bool]) -> bool:
        kind, _, rest = line.partition(" ")
        try:
            if kind == "process":
                pid, start, before, written = map(int, rest.split())
                found = self.inherited.get((pid, start))
                one = Written(before, written)
                self.inherited[pid, start] = one if found is None else found.then(before, written)
            elif kind == "forget":
                pid, start = map(int, rest.split())
                self.inherited.pop((pid, start), None)
            elif kind == "group":
                flag, _, path = rest.partition(" ")
                groups[path] = bool(int(flag))
            elif kind == "apart":
                groups.pop(rest, None)
            else:
                return False
        except ValueError:
            return False
        return True
