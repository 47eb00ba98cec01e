"""How much an app holds: what would go if it went.

For an app whose unit is its tree that is the tree: who gives memory back may be a child, and a supervisor of it that
registered holds next to nothing itself. Knows processes; what a size is good for, it does not know.
"""

from __future__ import annotations

from typing import Final

from lmkd.kernel.interface import Kernel
from lmkd.model import App, Unit
from lmkd.policy.groups import may_end

TREE_MOST: Final = 32
"""Processes of a tree that are measured, which takes 0.15 to 0.3 ms each while the processors are busy: it is done when
an app answers, in an episode. What a larger tree holds is not known, and so is not held against it."""


def measure_app(kernel: Kernel, app: App) -> int | None:
    """Return the memory and swap of an app, in KiB; None where it is gone, or its tree too large to look at."""
    size_kib = kernel.size_kib(app.pid, app.start_ticks)
    if size_kib is None or app.unit is not Unit.TREE:
        return size_kib
    seen, pending = {app.pid}, kernel.child_pids(app.pid)
    while pending:
        pid = pending.pop()
        if pid in seen:
            continue
        if len(seen) == TREE_MOST:
            return None
        seen.add(pid)
        member = kernel.process(pid)
        if member is not None and may_end(app, member):
            size_kib += kernel.size_kib(pid, member.start_ticks) or 0
            pending += kernel.child_pids(pid)
    return size_kib
