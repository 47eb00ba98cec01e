"""Give a process its class: by the rules, and by the few things that no rule may say otherwise.

Init, this daemon, kernel threads, and for a session whatever belongs to another user, are never signalled, whatever
the configuration says. All else that a machine or a session cannot lose is in the shipped rules (lmkd/defaults.toml).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lmkd.model import AppClass, Process
from lmkd.policy.rules import Rule
from lmkd.policy.settings import Settings

UNRULED = "no rule speaks for it"


class Classed(NamedTuple):
    """A class and where it came from."""

    app_class: AppClass
    why: str
    rule: Rule | None
    """The rule that matched; None: none did, or it was not asked."""
    never: str | None
    """Why it is never to be signalled; None: its class decides."""


def fixed_reason(process: Process, settings: Settings, own_pid: int) -> str | None:
    """Return why no rule is asked about a process, or None."""
    if process.pid == 1:
        return "init"
    if process.pid == own_pid:
        return "this daemon"
    if process.kernel_thread:
        return "kernel thread"
    if settings.own_uid is not None and process.uid != settings.own_uid:
        return f"it belongs to uid {process.uid}, and this is the session of {settings.own_uid}"
    return None


def classify(
    process: Process, settings: Settings, own_pid: int, *, registered: bool = False
) -> Classed:
    """Return the class of a process, as if nobody had registered it, and the rule that gave it.

    `registered` says only what rules may ask: whether it registered. What class it has then is not for here.
    """
    reason = fixed_reason(process, settings, own_pid)
    if reason is not None:
        return Classed(AppClass.SYSTEM, reason, None, reason)
    return classed_by(settings.rules.find(process, registered=registered), settings)


def classed_by(rule: Rule | None, settings: Settings) -> Classed:
    """Return the class of whoever this rule speaks for; None: no rule does."""
    if rule is None:
        app_class = AppClass.CACHED if settings.strict else settings.unruled
        return Classed(app_class, UNRULED, None, None)
    verdict = rule.verdict
    return Classed(verdict.app_class, rule.name, rule, rule.name if rule.protects else None)


def classify_all(processes: Iterable[Process], settings: Settings, own_pid: int) -> list[Classed]:
    """Return the classes of processes of which none registered, in their order; what many share is made once."""
    find, own_uid = settings.rules.find, settings.own_uid
    by_rule: dict[int, Classed] = {}
    classes = []
    for process in processes:
        pid = process.pid
        if pid == 1 or pid == own_pid or process.kernel_thread or own_uid is not None:
            classes.append(classify(process, settings, own_pid))
            continue
        rule = find(process)
        classed = by_rule.get(id(rule))
        if classed is None:
            classed = by_rule[id(rule)] = classed_by(rule, settings)
        classes.append(classed)
    return classes


def never_kill_reason(
    process: Process, settings: Settings, own_pid: int, *, registered: bool = False
) -> str | None:
    """Return why a process is never to be signalled, or None."""
    return classify(process, settings, own_pid, registered=registered).never


def ceiling_of(rule: Rule | None, settings: Settings) -> AppClass:
    """Return the highest class that a program may claim for itself: the rule's word, or what all may.

    A class that a rule gives may be claimed as well, but for system, which is given and never claimed.
    """
    if rule is None:
        return settings.claim_ceiling
    if rule.verdict.ceiling is not None:
        return rule.verdict.ceiling
    return max(settings.claim_ceiling, min(rule.verdict.app_class, AppClass.FOREGROUND))
