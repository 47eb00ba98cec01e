"""The cgroups that some globs name, as they come and go.

inotify on the directories along the globs: each that could have one below it is watched, and no other is even
listed. An event names what came or went in a directory, so that alone is looked at again, and ten thousand groups
made and removed cost each its own, not a walk of all. When events were lost, everything is walked again.

A cgroup that cannot be named to others is passed over with all below it (lmkd.cgroup_paths.is_sayable). What the
cgroups are watched for is not known here.

Where this user may have no more inotify watches (fs.inotify.max_user_watches), the globs are walked every 5 s.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

import trio

from lmkd.cgroup_paths import compile_glob, is_glob, is_sayable
from lmkd.kernel.cgroups import cgroup_directory
from lmkd.kernel.files import is_vanished
from lmkd.kernel.inotify import IN_IGNORED, IN_Q_OVERFLOW, Inotify

_WALKS_APART_S: Final = 5
_ANY_DEPTH: Final = "**"
_NO_NAMES: Final = ("", ".", "..")
_NO_MORE: Final = (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSYS)

Tail = tuple[str, ...]
"""What is left of a glob for the names below a directory; () when the directory itself is one that it names."""


def split_globs(globs: Iterable[str]) -> frozenset[Tail]:
    """Return what the globs ask of the root."""
    return _unfold(tuple(glob.split("/")[1:]) if glob != "/" else () for glob in globs)


def tails_below(tails: Iterable[Tail], name: str) -> frozenset[Tail]:
    """Return what is left for the names below a child of that name; nothing where none can match."""
    left = []
    for tail in tails:
        if not tail:
            continue
        if tail[0] == _ANY_DEPTH:
            left.append(tail)
        elif compile_glob(tail[0]).fullmatch(name):
            left.append(tail[1:])
    return _unfold(left)


def _unfold(tails: Iterable[Tail]) -> frozenset[Tail]:
    # `**` also stands for no part at all
    unfolded: set[Tail] = set()
    for tail in tails:
        unfolded.add(tail)
        while tail and tail[0] == _ANY_DEPTH:
            tail = tail[1:]
            unfolded.add(tail)
    return frozenset(unfolded)


@dataclass(slots=True, eq=False)
class _Directory:
    """A cgroup that a glob names, or that could have such below it."""

    path: str
    tails: frozenset[Tail]
    watch: int | None = None
    children: dict[str, _Directory] = field(default_factory=dict)

    @property
    def is_named(self) -> bool:
        return () in self.tails

    @property
    def may_have_below(self) -> bool:
        return self.tails != {()}


class MountWatch:
    """A CgroupWatch of a real cgroup2 mount."""

    def __init__(self, mount: str, globs: Iterable[str]) -> None:
        self._mount = mount
        self._root = _Directory("/", split_globs(globs))
        self._watched: dict[int, _Directory] = {}
        self._found: set[str] = set()
        self._is_changed = False
        self._is_blind = False
        """Whether some directory is not watched, for want of watches."""
        self._inotify = _open_inotify()
        self._visit(None, self._root)

    def paths(self) -> frozenset[str]:
        """Return the cgroups that a glob names and that are there now."""
        if self._inotify is None or self._is_blind:
            self._walk_again()
        else:
            self._absorb(self._inotify)
        self._is_changed = False
        return frozenset(self._found)

    async def wait_changed(self) -> None:
        """Return when one has come or gone since the last look at `paths`, or was replaced by a namesake."""
        await trio.lowlevel.checkpoint()
        if self._inotify is None:
            await trio.sleep(_WALKS_APART_S)
            return
        with trio.move_on_after(_WALKS_APART_S if self._is_blind else float("inf")):
            self._absorb(self._inotify)
            while not self._is_changed:
                await self._inotify.wait_readable()
                self._absorb(self._inotify)
        self._is_changed = False

    def close(self) -> None:
        """End all watches; who waits gets trio.ClosedResourceError."""
        if self._inotify is not None:
            self._inotify.close()

    def _absorb(self, inotify: Inotify) -> None:
        must_walk = False
        # Each once, for what matters is what is there now; in order, for one may be below another.
        places: dict[tuple[int, str], None] = {}
        for watch, mask, name in inotify.take_nowait():
            must_walk |= bool(mask & IN_Q_OVERFLOW)
            if mask & IN_IGNORED:
                gone = self._watched.pop(watch, None)
                must_walk |= gone is self._root
                if gone is not None:
                    gone.watch = None  # the event of the directory above it forgets it
            elif name:
                places[watch, name] = None
        if must_walk:
            self._walk_again()
            return
        for watch, name in places:
            directory = self._watched.get(watch)
            if directory is not None:
                self._look_at(directory, name)

    def _look_at(self, directory: _Directory, name: str) -> None:
        former = directory.children.get(name)
        if former is not None:
            del directory.children[name]
            self._forget(former)
        child = _child_of(directory, name)
        if child is not None:
            self._visit(directory, child)

    def _walk_again(self) -> None:
        self._forget(self._root)
        self._is_blind = False
        self._root = _Directory("/", self._root.tails)
        self._visit(None, self._root)
        self._is_changed = True

    def _visit(self, parent: _Directory | None, top: _Directory) -> None:
        """Take note of a directory, if it is there, and of all below it that matter."""
        waiting = [(parent, top)]
        while waiting:
            above, directory = waiting.pop()
            where = cgroup_directory(self._mount, directory.path)
            # Watched before it is listed: what comes between is an event.
            if where is None or not self._watch(directory, where):
                continue
            if above is not None:
                above.children[directory.path.rpartition("/")[2]] = directory
            if directory.is_named:
                self._found.add(directory.path)
                self._is_changed = True
            for name in _names_below(directory, where):
                child = _child_of(directory, name)
                if child is not None:
                    waiting.append((directory, child))

    def _watch(self, directory: _Directory, where: str) -> bool:
        """Watch a directory if anything below could matter; whether it is there."""
        if self._inotify is None or not directory.may_have_below:
            return os.path.isdir(where)
        try:
            watch = self._inotify.add(where)
        except OSError as error:
            # Others: not permitted to be listed, or too long to be opened.
            self._is_blind |= error.errno in _NO_MORE
            return os.path.isdir(where)
        if watch is None:
            return False
        directory.watch = watch
        self._watched[watch] = directory
        return True

    def _forget(self, top: _Directory) -> None:
        """Let a directory go, and all below it."""
        waiting = [top]
        while waiting:
            directory = waiting.pop()
            waiting.extend(directory.children.values())
            if directory.watch is not None and self._inotify is not None:
                del self._watched[directory.watch]
                self._inotify.remove(directory.watch)
            if directory.path in self._found:
                self._found.remove(directory.path)
                self._is_changed = True


class NoCgroups:
    """A CgroupWatch where there is no cgroup2: none ever come."""

    def paths(self) -> frozenset[str]:
        return frozenset()

    async def wait_changed(self) -> None:
        await trio.sleep_forever()

    def close(self) -> None:
        pass


def _open_inotify() -> Inotify | None:
    try:
        return Inotify()
    except OSError as error:
        if error.errno in _NO_MORE:
            return None
        raise


def _child_of(directory: _Directory, name: str) -> _Directory | None:
    """Return what a child of that name would be; None where it does not matter, or cannot be named to others."""
    tails = tails_below(directory.tails, name)
    path = f"/{name}" if directory.path == "/" else f"{directory.path}/{name}"
    return _Directory(path, tails) if tails and is_sayable(path) else None


def _names_below(directory: _Directory, where: str) -> Collection[str]:
    """List the children that could matter: without a listing where the globs go on with plain names."""
    nexts = {tail[0] for tail in directory.tails if tail}
    if not any(is_glob(part) for part in nexts):
        return nexts.difference(_NO_NAMES)
    try:
        with os.scandir(where) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if is_vanished(error) or error.errno in (errno.EACCES, errno.ENAMETOOLONG):
            return ()
        raise
