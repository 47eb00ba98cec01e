"""The place of a process before the kernel's own killer: our order, said as an oom_score_adj.

The kernel adds to it what the process holds, in thousandths of all memory (oom_badness, mm/oom_kill.c, 6.1). So a class
goes before the next one as long as nobody of it is larger than another by the distance of the two: 200 is a fifth of
the memory. Inside a class the kernel takes the largest first, as we do.
"""

from __future__ import annotations

from lmkd.model import App, AppClass, Mark, Process
from lmkd.policy.classify import Classed
from lmkd.policy.settings import Settings

EXEMPT_ADJ = -1000
"""The kernel takes nobody of this (OOM_SCORE_ADJ_MIN), not even with its whole cgroup."""
STRICT_ADJ = 1000
MARK_STEP = 25
"""What a cgroup's mark of prefer or avoid moves a place by; a bias of 100 moves it by 50."""


def place_of(process: Process, classed: Classed, app: App | None, settings: Settings) -> int | None:
    """Return the oom_score_adj that says what the rules say; None where we have no say.

    Nobody is raised whom others have lowered, where it is to be kept anyway: a place of 0 is not for one at -500.
    """
    rule = classed.rule
    if classed.never is not None and rule is None:
        return None  # init, this daemon, a kernel thread, or another user's
    if rule is not None and rule.verdict.exempt:
        return EXEMPT_ADJ
    app_class = classed.app_class if app is None else app.app_class
    adj = settings.classes[app_class].oom_score_adj
    if app_class >= AppClass.FOREGROUND:
        return adj if app is not None else min(adj, process.oom_score_adj)
    if app is None and rule is None and settings.strict:
        return STRICT_ADJ
    bias = 0 if rule is None else rule.verdict.bias
    shift = bias // 2 - MARK_STEP * min(process.mark, Mark.AVOID)
    most = _room_around(app_class, settings)
    return max(EXEMPT_ADJ + 1, min(adj + max(-most, min(shift, most)), STRICT_ADJ))


def _room_around(app_class: AppClass, settings: Settings) -> int:
    """Return by how much a place may differ from its class's and still not reach one of the next class."""
    own = settings.classes[app_class].oom_score_adj
    others = [
        meant.oom_score_adj for one, meant in settings.classes.items() if one is not app_class
    ]
    return (min(abs(own - other) for other in others) - 1) // 2
