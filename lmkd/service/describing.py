"""Say how things stand, as the results of `status`, `history` and `explain` have it, and as `pressure` has it.

Pure but for the sizes of processes, which are read. A result fits into one frame, however much there is to say: lists
are shortened or given in parts, texts are cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import msgpack

import lmkd
from lmkd.kernel.interface import Kernel
from lmkd.model import SYSTEM_DOMAIN, App, Level, Process
from lmkd.policy.actions import Plain
from lmkd.policy.classify import classify, never_kill_reason
from lmkd.policy.state import DomainState, State
from lmkd.policy.window import SECOND_US, stall_permyriad
from lmkd.service.server import pressure_frame, printable

ROOM_BYTES = 40_000
"""Of a frame's 65,536, for what is listed in one reply; longer lists are asked for in parts."""
APPS_LISTED = 200
FILES_LISTED = 64
PROBLEM_MOST = 2_000
CGROUP_MOST = 200
"""Of an app's in a list of many."""
PATH_MOST = 1_024


@dataclass(frozen=True, slots=True)
class Standing:
    """What the heart does not know of the service that it beats in."""

    uptime_ms: int
    own_pid: int
    clients: int
    config_files: tuple[str, ...]
    reload_problem: str | None


def level_frame(state: State, name: str) -> bytes:
    """Encode a domain's present level."""
    domain = state.domains.get(name)
    if domain is None:
        return pressure_frame(name, Level.NORMAL, "the domain is gone", 0)
    available_kib = domain.window[-1].available_kib if domain.window else 0
    return pressure_frame(name, domain.level, domain.reason, available_kib)


def describe_status(state: State, kernel: Kernel, standing: Standing) -> dict[str, Plain]:
    """Return how the service stands: its domains, and as many of its apps as there is room for."""
    domains = [_describe_domain(state, domain) for domain in state.domains.values()]
    shown_domains, room_bytes = _fit(domains, ROOM_BYTES)
    apps = (_describe_app(state, kernel, app) for app in state.apps.values())
    shown_apps, _ = _fit(islice(apps, APPS_LISTED), room_bytes)
    problem = standing.reload_problem
    return {
        "version": lmkd.__version__,
        "uptime_ms": standing.uptime_ms,
        "pid": standing.own_pid,
        "dry_run": state.settings.dry_run,
        "clients": standing.clients,
        "config_files": list_files(standing.config_files),
        "reload_problem": None if problem is None else problem[:PROBLEM_MOST],
        "missing": list(kernel.features().missing()),
        "domains": shown_domains,
        "app_count": len(state.apps),
        "truncated": len(shown_domains) + len(shown_apps) < len(domains) + len(state.apps),
        "apps": shown_apps,
    }


def describe_process(
    state: State, kernel: Kernel, process: Process, own_pid: int
) -> dict[str, Plain]:
    """Return how a process would be treated, and why."""
    identity = (process.pid, process.start_ticks)
    apps = [app for app in state.apps.values() if (app.pid, app.start_ticks) == identity]
    classed = classify(process, own_pid)
    app_class = apps[0].app_class if apps else classed.app_class
    never = never_kill_reason(process, own_pid)
    killed_at = state.settings.classes[app_class].killed_at
    system = state.domains.get(SYSTEM_DOMAIN)
    total_kib = system.window[-1].total_kib if system is not None and system.window else 0
    return {
        "pid": process.pid,
        "name": printable(process.comm),
        "exe": process.exe[:PATH_MOST],
        "cgroup": process.cgroup[:PATH_MOST],
        "class": app_class.word,
        "why_class": "registered" if apps else classed.why,
        "never_killed": never,
        "killed_at": None if killed_at is None or never else killed_at.word,
        "size_kib": process.size_kib,
        "least_kib": state.settings.min_victim_kib(total_kib),
        "oom_score_adj": process.oom_score_adj,
        "app": _describe_app(state, kernel, apps[0]) if apps else None,
    }


def list_files(files: tuple[str, ...]) -> list[Plain]:
    """Return the files of a configuration, as many as are listed."""
    return list(files[:FILES_LISTED])


def give_part(key: str, rows: list[dict[str, Plain]], after: int, limit: int) -> dict[str, Plain]:
    """Return as many rows as one frame holds, how many there are, and where to go on (nil: that was all)."""
    part, _ = _fit(rows[after : after + limit], ROOM_BYTES)
    end = after + max(len(part), 1)  # a row that fits no frame is left out
    return {key: part, "total": len(rows), "next": end if end < len(rows) else None}


def _describe_domain(state: State, domain: DomainState) -> dict[str, Plain]:
    described: dict[str, Plain] = {
        "domain": domain.domain,
        "level": domain.level.word,
        "reason": domain.reason,
        "episode": domain.episode,
        "may_kill": domain.domain in state.settings.killing_domains,
        "killing": domain.in_flight.victim.name if domain.in_flight is not None else None,
    }
    if domain.window:
        last = domain.window[-1]
        some, full = stall_permyriad(domain.window, SECOND_US)
        described.update(
            total_kib=last.total_kib,
            available_kib=last.available_kib,
            swap_total_kib=last.swap_total_kib,
            swap_free_kib=last.swap_free_kib,
            some_permyriad=some,
            full_permyriad=full,
        )
    return described


def _describe_app(state: State, kernel: Kernel, app: App) -> dict[str, Plain]:
    words = [domain.told[app.app] for domain in state.domains.values() if app.app in domain.told]
    told = max(words, key=lambda word: word.notice, default=None)
    return {
        "app": app.app,
        "pid": app.pid,
        "name": app.name,
        "class": app.app_class.word,
        "unit": app.unit.value,
        "cgroup": app.cgroup[:CGROUP_MOST],
        "sheddable_kib": app.sheddable_kib,
        "size_kib": kernel.size_kib(app.pid, app.start_ticks),
        "trust": state.trust.get(app.app, 0),
        "told": None if told is None else told.level.word,
        "answer": None if told is None or told.answer is None else told.answer.value,
    }


def _fit(rows: Iterable[dict[str, Plain]], room_bytes: int) -> tuple[list[Plain], int]:
    """Return the first rows, as many as there is room for, and the room that is left then."""
    fitting: list[Plain] = []
    for row in rows:
        size_bytes = len(msgpack.packb(row))
        if size_bytes > room_bytes:
            break
        room_bytes -= size_bytes
        fitting.append(row)
    return fitting, room_bytes
