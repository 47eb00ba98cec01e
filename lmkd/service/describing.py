"""Say how things stand, as the results of `status`, `history` and `explain` have it, and as `pressure` has it.

Pure but for the sizes of processes, which are read. A result fits into one frame, however much there is to say: lists
are shortened or given in parts, texts are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import msgpack

import lmkd
from lmkd.kernel.interface import Kernel
from lmkd.model import SYSTEM_DOMAIN, App, Level, Process, Unit, is_within
from lmkd.policy.actions import Plain
from lmkd.policy.rank import Standing as Place
from lmkd.policy.rank import stand_at
from lmkd.policy.rules import Rule
from lmkd.policy.state import DomainState, State
from lmkd.policy.turn import Turn
from lmkd.policy.window import SECOND_US, stall_permyriad
from lmkd.service.measuring import measure_app, measure_apps
from lmkd.service.roll import Known
from lmkd.service.server import pressure_frame, printable

T = TypeVar("T")

ROOM_BYTES = 40_000
"""Of a frame's 65,536, for what is listed in one reply; longer lists are asked for in parts."""
FRAME_ROOM_BYTES = 62_000
"""What a result may be in all; the rest is for the reply around it."""
APPS_LISTED = 200
FILES_LISTED = 64
FILES_ROOM_BYTES = 10_000
WARNINGS_LISTED = 16
WARNING_MOST = 300
PROBLEM_MOST = 2_000
CGROUP_MOST = 200
"""Of an app's in a list of many."""
PATH_MOST = 1_024
EXPECTED_MOST = 400
SPARED_MOST = 512
BEFORE_LISTED = 5
DOMAINS_RANKED = 16


@dataclass(frozen=True, slots=True)
class Standing:
    """What the heart does not know of the service that it beats in."""

    uptime_ms: int
    own_pid: int
    clients: int
    config_files: tuple[str, ...]
    reload_problem: str | None
    warnings: tuple[str, ...]
    """What the rules are warned of."""
    process_events: str
    """netlink, scan or off."""
    relayed_from: str | None
    """The socket of the daemon whose levels are relayed."""
    bridges: tuple[str, ...] = ()
    """How it is with each that is switched on in [interop]."""


def level_frame(state: State, name: str) -> bytes:
    """Encode a domain's present level."""
    domain = state.domains.get(name)
    if domain is None:
        return pressure_frame(name, Level.NORMAL, "the domain is gone", 0)
    available_kib = domain.window[-1].available_kib if domain.window else 0
    return pressure_frame(name, domain.level, domain.reason, available_kib)


def describe_status(state: State, kernel: Kernel, standing: Standing) -> dict[str, Plain]:
    """Return how the service stands: its domains, and as many of its apps as there is room for."""
    problem = standing.reload_problem
    status: dict[str, Plain] = {
        "version": lmkd.__version__,
        "uptime_ms": standing.uptime_ms,
        "pid": standing.own_pid,
        "dry_run": state.settings.dry_run,
        "clients": standing.clients,
        "config_files": list_files(standing.config_files),
        "reload_problem": None if problem is None else problem[:PROBLEM_MOST],
        "warnings": list_warnings(standing.warnings),
        "process_events": standing.process_events,
        "relayed_from": standing.relayed_from,
        "strict": state.settings.strict,
        "missing": list(kernel.features().missing()),
        "interop": [line[:WARNING_MOST] for line in standing.bridges],
        "app_count": len(state.apps),
    }
    room_bytes = min(ROOM_BYTES, FRAME_ROOM_BYTES - len(msgpack.packb(status)))
    domains = (_describe_domain(state, domain) for domain in state.domains.values())
    shown_domains, room_bytes = _fit(domains, room_bytes)
    measured = measure_apps(kernel, state.apps.values())
    apps = (_describe_app(state, app, size_kib) for app, size_kib in measured)
    shown_apps, _ = _fit(islice(apps, APPS_LISTED), room_bytes)
    shown, there = len(shown_domains) + len(shown_apps), len(state.domains) + len(state.apps)
    status.update(domains=shown_domains, apps=shown_apps, truncated=shown < there)
    return status


def describe_process(
    state: State, kernel: Kernel, known: Known, projected: int | None
) -> dict[str, Plain]:
    """Return how a process would be treated, and why."""
    process, app, classed = known.process, known.app, known.classed
    app_class = app.app_class if app is not None else classed.app_class
    killed_at = state.settings.classes[app_class].killed_at
    system = state.domains.get(SYSTEM_DOMAIN)
    total_kib = system.window[-1].total_kib if system is not None and system.window else 0
    least_kib = state.settings.min_victim_kib(total_kib)
    rule = classed.rule
    if rule is not None and rule.verdict.least_kib is not None:
        least_kib = rule.verdict.least_kib
    unit = app.unit if app is not None else Unit.PROCESS
    if app is None and rule is not None:
        unit = rule.verdict.unit
    return {
        "pid": process.pid,
        "name": printable(process.comm),
        "exe": process.exe[:PATH_MOST],
        "cgroup": process.cgroup[:PATH_MOST],
        "class": app_class.word,
        "why_class": "registered" if app is not None else classed.why,
        "rule": "" if rule is None else rule.name[:PATH_MOST],
        "rule_place": "" if rule is None else rule.place[:PATH_MOST],
        "unit": unit.value,
        "never_killed": classed.never,
        "killed_at": None if killed_at is None or classed.never else killed_at.word,
        "size_kib": process.size_kib,
        "least_kib": least_kib,
        "oom_score_adj": process.oom_score_adj,
        "projected": projected,
        "app": _describe_app(state, app, measure_app(kernel, app)) if app is not None else None,
    }


def describe_ranks(
    state: State, processes: Sequence[Process], process: Process, now_us: int
) -> tuple[list[Plain], bool]:
    """Return where a process stands at each level, in each domain that it is in; and whether that is not all."""
    ranks: list[dict[str, Plain]] = []
    turn = Turn(state, now_us)
    around = [domain for name, domain in state.domains.items() if is_within(process.cgroup, name)]
    for domain in around[:DOMAINS_RANKED]:
        for level in (Level.LOW, Level.MEDIUM, Level.CRITICAL):
            standing = stand_at(turn, domain, processes, level, process.pid)
            if standing is not None:
                ranks.append(_describe_standing(domain.domain, level, standing))
    shown, _ = _fit(ranks, ROOM_BYTES)
    return shown, len(shown) < len(ranks) or len(around) > DOMAINS_RANKED


def _describe_standing(name: str, level: Level, standing: Place) -> dict[str, Plain]:
    before: list[Plain] = [
        {
            "pid": victim.pid,
            "name": printable(victim.name),
            "class": victim.app_class.word,
            "size_kib": victim.size_kib,
        }
        for victim in standing.before[:BEFORE_LISTED]
    ]
    return {
        "domain": name,
        "level": level.word,
        "rank": standing.rank,
        "of": standing.of,
        "spared": None if standing.spared is None else standing.spared[:SPARED_MOST],
        "before": before,
        "before_count": len(standing.before),
        "before_kib": sum(victim.size_kib for victim in standing.before),
    }


def describe_rule(number: int, rule: Rule, hits: int) -> dict[str, Plain]:
    """Return a rule as the rows of `rules` have it."""
    verdict = rule.verdict
    match: list[Plain] = [
        {"subject": condition.subject, "expected": condition.test.expected[:EXPECTED_MOST]}
        for condition in rule.conditions
    ]
    return {
        "number": number,
        "name": rule.name[:PATH_MOST],
        "place": rule.place[:PATH_MOST],
        "shipped": rule.shipped,
        "match": match,
        "class": verdict.app_class.word,
        "unit": verdict.unit.value,
        "exempt": verdict.exempt,
        "bias": verdict.bias,
        "grace_ms": _ms(verdict.grace_us),
        "time_to_exit_ms": _ms(verdict.time_to_exit_us),
        "least_kib": verdict.least_kib,
        "ceiling": None if verdict.ceiling is None else verdict.ceiling.word,
        "hits": hits,
    }


def describe_known(known: Known, projected: int | None) -> dict[str, Plain]:
    """Return a process as the rows of `processes` have it."""
    process, app, rule = known.process, known.app, known.classed.rule
    app_class = known.classed.app_class if app is None else app.app_class
    return {
        "pid": process.pid,
        "name": printable(process.comm),
        "class": app_class.word,
        "rule": "" if rule is None else rule.name[:CGROUP_MOST],
        "uid": process.uid,
        "cgroup": process.cgroup[:CGROUP_MOST],
        "size_kib": process.size_kib,
        "oom_score_adj": process.oom_score_adj,
        "projected": projected,
        "app": None if app is None else app.app,
    }


def _ms(us: int | None) -> int | None:
    return None if us is None else us // 1000


def list_files(files: tuple[str, ...]) -> list[Plain]:
    """Return the files of a configuration, as many as are listed."""
    shown, _ = _fit(files[:FILES_LISTED], FILES_ROOM_BYTES)
    return shown


def list_warnings(warnings: Iterable[object]) -> list[Plain]:
    """Return what the rules are warned of, as many as are listed."""
    return [str(warning)[:WARNING_MOST] for warning in islice(warnings, WARNINGS_LISTED)]


def give_part(
    key: str,
    rows: Sequence[T],
    after: int,
    limit: int,
    describe: Callable[[T], dict[str, Plain]],
) -> dict[str, Plain]:
    """Return as many rows as one frame holds, how many there are, and where to go on (nil: that was all).

    Only those that are given are described.
    """
    part, _ = _fit(map(describe, rows[after : after + limit]), ROOM_BYTES)
    end = after + max(len(part), 1)  # a row that fits no frame is left out
    return {key: part, "total": len(rows), "next": end if end < len(rows) else None}


def _describe_domain(state: State, domain: DomainState) -> dict[str, Plain]:
    described: dict[str, Plain] = {
        "domain": domain.domain,
        "level": domain.level.word,
        "reason": domain.reason,
        "episode": domain.episode,
        "may_kill": bool(state.settings.of(domain.domain).killable),
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


def _describe_app(state: State, app: App, size_kib: int | None) -> dict[str, Plain]:
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
        "size_kib": size_kib,
        "trust": state.trust.get(app.app, 0),
        "told": None if told is None else told.level.word,
        "answer": None if told is None or told.answer is None else told.answer.value,
    }


def _fit(rows: Iterable[Plain], room_bytes: int) -> tuple[list[Plain], int]:
    """Return the first rows, as many as there is room for, and the room that is left then."""
    fitting: list[Plain] = []
    for row in rows:
        size_bytes = len(msgpack.packb(row))
        if size_bytes > room_bytes:
            break
        room_bytes -= size_bytes
        fitting.append(row)
    return fitting, room_bytes
