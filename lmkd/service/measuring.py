"""How much an app holds: what would go if it went.

For an app whose unit is its tree that is the tree: who gives memory back may be a child, and a supervisor of it that
registered holds next to nothing itself. Knows processes; what a size is good for, it does not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from lmkd.kernel.interface import Kernel
from lmkd.model import App, Unit
from lmkd.policy.groups import may_end

TREE_MOST: Final = 32
"""Processes of a tree that are measured, which takes 0.15 to 0.3 ms each while the processors are busy: it is done when
an app answers, in an episode. What a larger tree holds is not known, and so is not held against it."""


TREES_MOST: Final = 256
"""The same of all trees that are measured at once: anybody may register, and when a level rises all are measured."""


def measure_app(kernel: Kernel, app: App) -> int | None:
    """Return the memory and swap of an app, in KiB; None where it is gone, or its tree too large to look at."""
    return _measure(kernel, app, TREE_MOST)[0]


def measure_apps(kernel: Kernel, apps: Iterable[App]) -> Iterator[tuple[App, int | None]]:
    """Measure many, each when it is asked for; where TREES_MOST were looked at, a tree with children is not known."""
    left = TREES_MOST
    for app in apps:
        size_kib, looked_at = _measure(kernel, app, min(TREE_MOST, 1 + left))
        left -= looked_at
        yield app, size_kib


def _measure(kernel: Kernel, app: App, most: int) -> tuple[int | None, int]:
    """Return the size, and how many were looked at beside the app's own process."""
    size_kib = kernel.size_kib(app.pid, app.start_ticks)
    if size_kib is None or app.unit is not Unit.TREE:
        return size_kib, 0
    seen, pending = {app.pid}, kernel.child_pids(app.pid)
    while pending:
        pid = pending.pop()
        if pid in seen:
            continue
        if len(seen) == most:
            return None, most - 1
        seen.add(pid)
        glance = kernel.glance(pid)
        if glance is None or glance.is_copy:
            continue  # about to execute something else: its parent's memory would count twice
        member = kernel.process(pid)
        if member is not None and may_end(app, member):
            size_kib += kernel.size_kib(pid, member.start_ticks) or 0
            pending += kernel.child_pids(pid)
    return size_kib, len(seen) - 1
