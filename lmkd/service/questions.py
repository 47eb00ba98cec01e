"""The questions that change nothing: how things stand, what happened, how a process would be treated and by what.

What takes a look at every process takes it at most once a second, however many ask, and none is taken in an
emergency: whoever asks then is told to ask again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import lmkd_proto as wire

from lmkd.config import Config
from lmkd.kernel.interface import Kernel
from lmkd.model import Process
from lmkd.policy.actions import Plain
from lmkd.policy.rules import Rule
from lmkd.service.client import Client
from lmkd.service.describing import (
    Standing,
    describe_known,
    describe_process,
    describe_ranks,
    describe_rule,
    describe_status,
    give_part,
    list_warnings,
)
from lmkd.service.engine import Engine
from lmkd.service.journal import Journal
from lmkd.service.projection import Projection
from lmkd.service.refused import Answered, Refused
from lmkd.service.roll import Known, Roll

LOOK_FRESH_US = 1_000_000
RANKINGS_A_SECOND = 8
"""Each takes about 10 ms on a machine of 2,000 processes; the notices of others come first."""


@dataclass(slots=True)
class Questions:
    """Answers them. `clients` counts who is connected, `bridges` says how it is with those of lmkd.interop."""

    engine: Engine
    kernel: Kernel
    journal: Journal
    projection: Projection
    roll: Roll
    own_pid: int
    config: Config
    process_events: str
    clients: Callable[[], int]
    bridges: Callable[[], list[str]]
    relayed_from: Callable[[], str | None]
    started_us: int = 0
    reload_problem: str | None = None
    _looked_us: int | None = None
    _seen: tuple[Process, ...] = ()
    _ranked_us: list[int] = field(default_factory=list)

    def status(self, client: Client, request: wire.Status) -> Answered:
        standing = Standing(
            uptime_ms=(self.engine.now_us() - self.started_us) // 1000,
            own_pid=self.own_pid,
            clients=self.clients(),
            config_files=self.config.files,
            reload_problem=self.reload_problem,
            warnings=tuple(str(warning) for warning in self.config.warnings),
            process_events=self.process_events,
            relayed_from=self.relayed_from(),
            bridges=tuple(self.bridges()),
        )
        return describe_status(self.engine.state, self.kernel, standing), None

    def history(self, client: Client, request: wire.History) -> Answered:
        if request.episode is None:
            rows = self.journal.summaries()
            return give_part("episodes", rows, request.after, request.limit, dict), None
        records = self.journal.records(request.episode)
        if records is None:
            raise Refused("unknown_episode", f"no episode {request.episode} is kept")
        found = [row for row in self.journal.summaries() if row["episode"] == request.episode]
        result = give_part("records", records, request.after, request.limit, dict)
        result["summary"] = found[0] if found else None
        return result, None

    def explain(self, client: Client, request: wire.Explain) -> Answered:
        if request.kill is not None:
            return self._explain_kill(request.kill), None
        assert request.pid is not None
        known = self.roll.look(request.pid)
        if known is None:
            raise Refused("unknown_process", f"no process has the pid {request.pid}")
        state = self.engine.state
        projected = self.projection.written(known.identity)
        result = describe_process(state, self.kernel, known, projected)
        self._count_ranking()
        now_us = self.engine.now_us()
        ranks, more = describe_ranks(state, self._look(), known.process, now_us)
        result["ranks"], result["truncated"] = ranks, more
        return result, None

    def _explain_kill(self, kill: int) -> dict[str, Plain]:
        found = self.journal.find_kill(kill)
        if found is None:
            raise Refused("unknown_kill", f"no kill {kill} is kept; `history` lists the episodes")
        summary, records = found
        chosen = next((r for r in records if r["kind"] in ("kill", "would_kill")), records[0])
        outcome: list[Plain] = [record for record in records if record is not chosen]
        return {
            "episode": summary["episode"],
            "domain": summary["domain"],
            "opened_unix_ms": summary["opened_unix_ms"],
            "kill": chosen,
            "outcome": outcome,
        }

    def rules(self, client: Client, request: wire.Rules) -> Answered:
        settings = self.engine.state.settings

        def describe(row: tuple[int, Rule]) -> dict[str, Plain]:
            number, rule = row
            return describe_rule(number + 1, rule, self.roll.hits[number])

        rows = list(enumerate(settings.rules.rules))
        result = give_part("rules", rows, request.after, request.limit, describe)
        result["strict"] = settings.strict
        result["unruled"] = settings.unruled.word
        result["unruled_hits"] = self.roll.unruled_hits
        result["warnings"] = list_warnings(self.config.warnings)
        return result, None

    def processes(self, client: Client, request: wire.Processes) -> Answered:
        self._look()
        rows = [
            known
            for known in self.roll.known.values()
            if not known.process.kernel_thread
            and not (request.unruled and (known.classed.rule or known.classed.never or known.app))
        ]
        rows.sort(key=lambda one: (-one.process.size_kib, one.process.pid))

        def describe(known: Known) -> dict[str, Plain]:
            return describe_known(known, self.projection.written(known.identity))

        return give_part("processes", rows, request.after, request.limit, describe), None

    def _look(self) -> tuple[Process, ...]:
        """Return all processes, as they were at most a second ago."""
        now_us = self.engine.now_us()
        if any(
            domain.judgement is not None and domain.judgement.emergency
            for domain in self.engine.state.domains.values()
        ):
            raise Refused("busy", "in an emergency nobody looks at all processes; ask again later")
        if self._looked_us is None or now_us - self._looked_us > LOOK_FRESH_US:
            self._looked_us = now_us
            self.roll.look_at_all()
            known = (known.process for known in self.roll.known.values())
            self._seen = tuple(process for process in known if not process.kernel_thread)
        return self._seen

    def _count_ranking(self) -> None:
        now_us = self.engine.now_us()
        self._ranked_us = [at_us for at_us in self._ranked_us if now_us - at_us < 1_000_000]
        if len(self._ranked_us) >= RANKINGS_A_SECOND:
            raise Refused("busy", f"more than {RANKINGS_A_SECOND} explanations a second; ask again")
        self._ranked_us.append(now_us)
