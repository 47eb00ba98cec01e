"""Units: which processes die together, when the unit is more than one of them.

A `tree` is a process and its descendants that stayed in its cgroup. A `cgroup` is all that is in it. Where a cgroup
mixes many programs (a terminal's scope with shells, editors and builds in it), it is no unit at first: its largest
subtree is, and the whole only when no subtree is worth a kill of its own (tmux #3024: 2,104 processes for one build).

What is never killed is never part of a tree, and makes a cgroup no unit: as a whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from lmkd.model import App, Process, Unit, is_within
from lmkd.policy.classify import Classed
from lmkd.policy.patterns import exe_name

MIXED_MORE_THAN = 4
"""Different executables in one cgroup. A database has one or two, a browser with its helpers up to four; a terminal
in which somebody works has a shell, an editor, a compiler driver, a compiler and a make at once."""


class Placed(NamedTuple):
    """A process of a scan, with what is known of it."""

    process: Process
    app: App | None
    classed: Classed

    @property
    def is_never(self) -> bool:
        return self.classed.never is not None


class Group(NamedTuple):
    """Several processes that are one unit."""

    unit: Unit
    path: str
    """The cgroup that dies as a whole; for a tree the one that its root is in."""
    leader: Placed
    """Who gives the unit its name: the app that registered it, the root of a tree, else the largest."""
    members: tuple[Placed, ...]
    spared: str | None
    """Why it is no unit that may be ended."""


def stayed_in(cgroup: str, root: str) -> bool:
    """Whether a process of this cgroup is still where the root of its tree is; who left the root cgroup has moved."""
    return cgroup == root or (root != "/" and is_within(cgroup, root))


def find_groups(
    placed: Sequence[Placed], domain: str, is_worth: Callable[[int, Placed], bool]
) -> tuple[list[Group], set[int]]:
    """Return the units of more than a process, and the pids of all for whom one of them stands.

    No process is in two of them. `is_worth` judges a size in KiB. Of a cgroup that mixes many programs only the
    subtree that would go first is in the unit; the others have no place of their own as long as it is there.
    """
    groups: list[Group] = []
    taken: set[int] = set()
    # Most of a machine is asked for nothing but this.
    asking = [
        one
        for one in placed
        if one.app is not None
        or (one.classed.rule is not None and one.classed.rule.verdict.unit is not Unit.PROCESS)
    ]
    units = _cgroup_units(asking)
    by_cgroup: dict[str, list[Placed]] = {}
    for one in placed if units else ():
        by_cgroup.setdefault(one.process.cgroup, []).append(one)
    for path, leader in units:
        if path == "/" or leader.process.pid in taken:
            continue
        inside = [
            one for cgroup, held in by_cgroup.items() if is_within(cgroup, path) for one in held
        ]
        members = tuple(sorted(inside, key=lambda one: one.process.pid))
        if (
            leader.app is not None
            and leader.app.unit is Unit.CGROUP
            and not _alone(leader, members)
        ):
            continue  # its app then stands for its own process
        group = _whole(path, leader, members, domain)
        if group.spared is None and _is_mixed(members):
            subtree = largest_subtree(members)
            size_kib = sum(one.process.size_kib for one in subtree)
            if is_worth(size_kib, subtree[0]):
                group = Group(Unit.TREE, path, subtree[0], subtree, None)
        groups.append(group)
        taken.update(member.process.pid for member in members)
    wanted = {one.process.pid for one in asking if _is_tree(one)} - taken
    if wanted:
        groups.extend(_trees(placed, wanted, taken))
    return groups, taken


def _cgroup_units(placed: Iterable[Placed]) -> list[tuple[str, Placed]]:
    """Return the cgroups that are units, the outer ones first, each with the process that speaks for it."""
    found: dict[str, Placed] = {}
    for one in placed:
        rule = one.classed.rule
        if one.app is not None and one.app.unit is Unit.CGROUP:
            path = one.process.cgroup
        elif rule is not None and rule.verdict.unit is Unit.CGROUP and not one.is_never:
            path = rule.unit_path(one.process.cgroup)
        else:
            continue
        before = found.get(path)
        if before is None or _speaks_before(one, before):
            found[path] = one
    return sorted(found.items(), key=lambda item: (item[0].count("/"), item[0]))


def _speaks_before(one: Placed, other: Placed) -> bool:
    if (one.app is None) is not (other.app is None):
        return one.app is not None
    return (one.process.size_kib, -one.process.pid) > (other.process.size_kib, -other.process.pid)


def _alone(leader: Placed, members: Iterable[Placed]) -> bool:
    """Whether an app may stand for its whole cgroup: nobody never killed in it, and no other app."""
    return not any(
        member.is_never or (member.app is not None and member is not leader) for member in members
    )


def _whole(path: str, leader: Placed, members: tuple[Placed, ...], domain: str) -> Group:
    spared = None
    if not is_within(path, domain):
        spared = f"its unit {path} reaches out of this domain"
    else:
        never = next((one for one in members if one.is_never), None)
        if never is not None:
            name, why = never.process.comm, never.classed.never
            spared = f"never killed: {path} holds {name} ({why}), and it is the whole or nothing"
    return Group(Unit.CGROUP, path, leader, members, spared)


def _is_mixed(members: Sequence[Placed]) -> bool:
    programs = {exe_name(one.process.exe) or one.process.comm for one in members}
    return len(programs) > MIXED_MORE_THAN


def children_of(placed: Iterable[Placed]) -> dict[int, list[Placed]]:
    """Return the children of each pid, of those given."""
    children: dict[int, list[Placed]] = {}
    for one in placed:
        children.setdefault(one.process.ppid, []).append(one)
    return children


def descend(root: Placed, children: Mapping[int, Sequence[Placed]]) -> list[Placed]:
    """Return a process and its descendants, parents before children; each once, whatever the ppids say."""
    found, seen = [root], {root.process.pid}
    for one in found:
        for child in children.get(one.process.pid, ()):
            if child.process.pid not in seen:
                seen.add(child.process.pid)
                found.append(child)
    return found


def largest_subtree(members: Sequence[Placed]) -> tuple[Placed, ...]:
    """Return the subtree to end first in a cgroup that mixes many programs, its root first.

    From the largest child of those at the top it goes down as long as one child holds at least half: a shell that
    waits for a make that waits for a thousand compilers is left alive, the make goes. Those at the top, the terminal
    or the multiplexer, are taken only where they have no children.
    """
    children = children_of(members)
    pids = {one.process.pid for one in members}
    tops = [one for one in members if one.process.ppid not in pids] or list(members[:1])
    below = [child for top in tops for child in children.get(top.process.pid, ())]
    sizes: dict[int, int] = {}

    def size_kib(one: Placed) -> int:
        pid = one.process.pid
        if pid not in sizes:
            sizes[pid] = sum(each.process.size_kib for each in descend(one, children))
        return sizes[pid]

    def largest(of: Sequence[Placed]) -> Placed:
        return max(of, key=lambda one: (size_kib(one), -one.process.pid))

    root = largest([*below, *(top for top in tops if not children.get(top.process.pid))])
    seen = {root.process.pid}
    while nexts := children.get(root.process.pid):
        heavy = largest(nexts)
        if heavy.process.pid in seen or size_kib(heavy) * 2 < size_kib(root):
            break
        seen.add(heavy.process.pid)
        root = heavy
    return tuple(descend(root, children))


def _trees(placed: Sequence[Placed], wanted: set[int], taken: set[int]) -> list[Group]:
    """Return the trees: a root is a process that wants to be one and is in no tree above."""
    free = [one for one in placed if one.process.pid not in taken]
    by_pid = {one.process.pid: one for one in free}
    children = children_of(free)
    groups = []
    for pid in sorted(wanted, key=lambda each: (_depth(each, by_pid), each)):
        root = by_pid[pid]
        if pid in taken or root.is_never:
            continue
        cgroup = root.process.cgroup
        members = tuple(
            one
            for one in descend(root, children)
            if stayed_in(one.process.cgroup, cgroup)
            and not one.is_never
            and one.process.pid not in taken
            and (root.app is None or may_end(root.process, one.process))
        )
        taken.update(one.process.pid for one in members)
        groups.append(Group(Unit.TREE, cgroup, root, members, None))
    return groups


def may_end(root: Process | App, member: Process) -> bool:
    """Whether a program that asked for its tree to be the unit may put this member at stake: not another user's."""
    return root.uid in (0, member.uid)


def _is_tree(one: Placed) -> bool:
    if one.app is not None:
        return one.app.unit is Unit.TREE
    rule = one.classed.rule
    return rule is not None and rule.verdict.unit is Unit.TREE


def _depth(pid: int, by_pid: Mapping[int, Placed]) -> int:
    """Return how many of those given are above a process."""
    depth, seen = 0, {pid}
    while (one := by_pid.get(pid)) is not None and one.process.ppid not in seen:
        pid = one.process.ppid
        seen.add(pid)
        depth += 1
    return depth
