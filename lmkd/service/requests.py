"""What each request means: who may ask it, what it changes, and what is answered.

Nothing here waits. A request either becomes an event for the heart, or is answered from what is known. A mistake of
the asker is an `error` with a code and a sentence, and costs nobody else anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import lmkd_proto as wire

import lmkd
from lmkd.config import Config
from lmkd.kernel.interface import Kernel
from lmkd.model import SYSTEM_DOMAIN, Answer, App, AppClass, Level, Process, Unit, is_within
from lmkd.policy.actions import Plain
from lmkd.policy.events import AckReceived, AppGone, AppRegistered, AppUpdated
from lmkd.service.client import Client
from lmkd.service.describing import (
    Standing,
    describe_process,
    describe_status,
    give_part,
    level_frame,
    list_files,
)
from lmkd.service.engine import Engine
from lmkd.service.journal import Journal
from lmkd.service.listening import has_peer_left
from lmkd.service.projection import Projection
from lmkd.service.server import KIB, Server, printable
from lmkd.service.simulations import Simulations

SIMULATION_MOST_MS = 600_000


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class Requests:
    """Answers requests. `reload` returns what was wrong, if anything.

    `registered` holds the identities of all registered programs.
    """

    engine: Engine
    kernel: Kernel
    journal: Journal
    projection: Projection
    own_uid: int
    own_pid: int
    config: Config
    simulations: Simulations
    reload: Callable[[], str | None]
    registered: set[tuple[int, int]]
    server: Server | None = None
    next_app: int = 1
    reload_problem: str | None = None
    started_us: int = 0
    ceilings: dict[int, AppClass] = field(default_factory=dict)
    """The highest class that an app may have by its own word, where the controller has given it one."""

    def handle(self, client: Client, event: wire.Event) -> None:
        """Take one event of a client's stream, and answer it."""
        if isinstance(event, wire.Malformed):
            client.reply(wire.encode(event.reply()))
            return
        number = getattr(event, "id", None)
        if isinstance(event, wire.UnknownMessage):
            text = f"no request is called {printable(event.type)!r}"
            client.reply(wire.encode(wire.Error(number, "unknown_type", text)))
            return
        if isinstance(event, wire.Hello):
            self._hello(client, event)
            return
        try:
            result, then = _HANDLERS[type(event)](self, client, event)
        except Refused as refused:
            client.reply(wire.encode(wire.Error(number, refused.code, str(refused)[:512])))
            return
        assert number is not None
        client.reply(wire.encode(wire.Ok(number, dict(result))))
        if then is not None:
            then()

    def forget(self, client: Client) -> None:
        """A client has left: so has its app, and what it simulated for itself."""
        self.simulations.forget(client)
        if client.app is not None:
            self._remove_app(client)

    # --- hello, and who may what -----------------------------------------------------------------------

    def _hello(self, client: Client, hello: wire.Hello) -> None:
        client.name = hello.name
        welcome = wire.Welcome(
            hello.id, wire.PROTOCOL_VERSION, f"lmkd {lmkd.__version__}", self._is_controller(client)
        )
        client.reply(wire.encode(welcome))

    def _is_controller(self, client: Client) -> bool:
        return client.uid in (0, self.own_uid)

    def _need_controller(self, client: Client, what: str) -> None:
        if not self._is_controller(client):
            raise Refused("forbidden", f"{what} takes root")

    @property
    def _served(self) -> Server:
        assert self.server is not None
        return self.server

    # --- levels ----------------------------------------------------------------------------------------

    def _subscribe(self, client: Client, request: wire.Subscribe) -> Answered:
        domain = self.engine.state.domains.get(request.domain)
        if domain is None:
            known = ", ".join(self.engine.state.domains)
            raise Refused("unknown_domain", f"no domain {request.domain!r}; watched are: {known}")

        def tell() -> None:
            self._served.tell_level(
                client, request.domain, level_frame(self.engine.state, request.domain)
            )

        if request.domain not in client.domains:
            self._served.subscribe(client, request.domain)
        return {}, tell

    def _unsubscribe(self, client: Client, request: wire.Unsubscribe) -> Answered:
        if request.domain not in client.domains:
            raise Refused("not_subscribed", f"not subscribed to {request.domain!r}")
        self._served.unsubscribe(client, request.domain)
        return {}, None

    # --- apps ------------------------------------------------------------------------------------------

    def _register(self, client: Client, request: wire.Register) -> Answered:
        if client.app is not None:
            raise Refused("already_registered", "this connection speaks for an app already")
        process = self._peer(client)
        if self._replace_earlier(process):
            process = self._peer(client)  # what was projected on it has been put back
        app = App(
            self.next_app,
            process.pid,
            process.start_ticks,
            process.uid,
            request.name,
            self._granted(client, AppClass[request.app_class.upper()]),
            process.cgroup,
            request.sheddable_bytes // KIB,
            self._granted_unit(client, request.unit, process.cgroup),
        )
        self.next_app += 1
        self._served.name_app(app.app, client)
        self.registered.add((app.pid, app.start_ticks))
        self.projection.project(app, self.engine.state.settings, process.oom_score_adj)
        return self._describe_grant(app), lambda: self.engine.feed(AppRegistered(app))

    def _peer(self, client: Client) -> Process:
        process = self.kernel.process(client.pid) if client.pid else None
        if process is None or has_peer_left(client.sock):
            raise Refused("unknown_process", f"process {client.pid} cannot be seen from here")
        return process

    def _replace_earlier(self, process: Process) -> bool:
        """A program that comes back over a new connection is the same program: the earlier word ends."""
        replaced = False
        for app in list(self.engine.state.apps.values()):
            if (app.pid, app.start_ticks) == (process.pid, process.start_ticks):
                earlier = self._served.client_of(app.app)
                if earlier is not None:
                    self._remove_app(earlier)
                    replaced = True
        return replaced

    def _granted(self, client: Client, claimed: AppClass) -> AppClass:
        if self._is_controller(client):
            return claimed
        ceiling = self.engine.state.settings.claim_ceiling
        if client.app is not None:
            # What a controller has said of it stands above the rule for all.
            ceiling = self.ceilings.get(client.app, ceiling)
        return min(claimed, ceiling)

    def _granted_unit(self, client: Client, unit: str, cgroup: str) -> Unit:
        # Its whole cgroup may hold others' programs: only the controller may put those at stake.
        if unit == Unit.CGROUP.value and cgroup != "/" and self._is_controller(client):
            return Unit.CGROUP
        return Unit.PROCESS

    def _describe_grant(self, app: App) -> dict[str, Plain]:
        settings = self.engine.state.settings.classes[app.app_class]
        inside = [name for name in self.engine.state.domains if is_within(app.cgroup, name)]
        innermost = max(
            (name for name in inside if name != SYSTEM_DOMAIN), key=len, default=SYSTEM_DOMAIN
        )
        return {
            "app": app.app,
            "class": app.app_class.word,
            "unit": app.unit.value,
            "domain": innermost,
            "grace_ms": settings.grace_us // 1000,
            "time_to_exit_ms": settings.time_to_exit_us // 1000,
        }

    def _own_app(self, client: Client) -> App:
        app = self.engine.state.apps.get(client.app) if client.app is not None else None
        if app is None:
            raise Refused("not_registered", "register first")
        return app

    def _update(self, client: Client, request: wire.Update) -> Answered:
        app = self._own_app(client)
        app_class = None
        if request.app_class is not None:
            app_class = self._granted(client, AppClass[request.app_class.upper()])
        sheddable = request.sheddable_bytes
        self._change(
            AppUpdated(
                app.app, app_class, None if sheddable is None else sheddable // KIB, request.name
            )
        )
        return self._describe_grant(self.engine.state.apps[app.app]), None

    def _change(self, event: AppUpdated) -> None:
        self.engine.feed(event)
        if event.app_class is not None:
            app = self.engine.state.apps[event.app]
            self.projection.project(app, self.engine.state.settings)

    def _unregister(self, client: Client, request: wire.Unregister) -> Answered:
        self._own_app(client)
        self._remove_app(client)
        return {}, None

    def _remove_app(self, client: Client) -> None:
        assert client.app is not None
        number, app = client.app, self.engine.state.apps.get(client.app)
        self._served.unname_app(client)
        self.ceilings.pop(number, None)
        if app is not None:
            # In this order: what is not registered, a kernel of lent processes will not write.
            self.projection.restore(app)
            self.registered.discard((app.pid, app.start_ticks))
        self.engine.feed(AppGone(number))

    def _ack(self, client: Client, request: wire.Ack) -> Answered:
        app = self._own_app(client)
        if request.notice not in client.notices:
            text = f"no notice {request.notice} was given to this app"
            raise Refused("unknown_notice", text)
        measured_kib = self.kernel.size_kib(app.pid, app.start_ticks)
        answer = Answer(request.answer)
        self.engine.feed(
            AckReceived(app.app, request.notice, answer, request.freed_bytes // KIB, measured_kib)
        )
        left_us = self.engine.state.deadline_us(app.app) - self.engine.now_us()
        return {"deadline_ms": max(left_us // 1000, 0)}, None

    def _set_class(self, client: Client, request: wire.SetClass) -> Answered:
        self._need_controller(client, "to set another program's class")
        if request.app not in self.engine.state.apps:
            raise Refused("unknown_app", f"no app has the number {request.app}")
        app_class = AppClass[request.app_class.upper()]
        self.ceilings[request.app] = app_class
        self._change(AppUpdated(request.app, app_class))
        return self._describe_grant(self.engine.state.apps[request.app]), None

    # --- simulations -----------------------------------------------------------------------------------

    def _simulate(self, client: Client, request: wire.Simulate) -> Answered:
        if request.duration_ms > SIMULATION_MOST_MS:
            raise Refused("bad_value", f"key 'duration_ms': at most {SIMULATION_MOST_MS}")
        if client.simulating:
            raise Refused("busy", "a simulation of this client is still running")
        level = Level[request.level.upper()]
        begin = self.simulations.begin_for_one
        if request.scope == "all":
            self._need_controller(client, "to simulate for others")
            begin = self.simulations.begin_for_all
        return {}, lambda: begin(self._served, client, level, request.duration_ms)

    # --- asking ----------------------------------------------------------------------------------------

    def _status(self, client: Client, request: wire.Status) -> Answered:
        standing = Standing(
            uptime_ms=(self.engine.now_us() - self.started_us) // 1000,
            own_pid=self.own_pid,
            clients=len(self._served),
            config_files=self.config.files,
            reload_problem=self.reload_problem,
        )
        return describe_status(self.engine.state, self.kernel, standing), None

    def _history(self, client: Client, request: wire.History) -> Answered:
        if request.episode is None:
            rows = self.journal.summaries()
            return give_part("episodes", rows, request.after, request.limit), None
        records = self.journal.records(request.episode)
        if records is None:
            raise Refused("unknown_episode", f"no episode {request.episode} is kept")
        found = [row for row in self.journal.summaries() if row["episode"] == request.episode]
        result = give_part("records", records, request.after, request.limit)
        result["summary"] = found[0] if found else None
        return result, None

    def _explain(self, client: Client, request: wire.Explain) -> Answered:
        process = self.kernel.process(request.pid)
        if process is None:
            raise Refused("unknown_process", f"no process has the pid {request.pid}")
        return describe_process(self.engine.state, self.kernel, process, self.own_pid), None

    def _reload(self, client: Client, request: wire.Reload) -> Answered:
        self._need_controller(client, "to reload the configuration")
        problem = self.reload()
        if problem is not None:
            raise Refused("failed", problem)
        return {"config_files": list_files(self.config.files)}, None


Answered = tuple[Mapping[str, Plain], Callable[[], None] | None]
"""The result of a request, and what is to happen once it has been sent."""

_HANDLERS: dict[type, Callable[..., Answered]] = {
    wire.Subscribe: Requests._subscribe,
    wire.Unsubscribe: Requests._unsubscribe,
    wire.Register: Requests._register,
    wire.Update: Requests._update,
    wire.Unregister: Requests._unregister,
    wire.Ack: Requests._ack,
    wire.Status: Requests._status,
    wire.History: Requests._history,
    wire.Explain: Requests._explain,
    wire.Simulate: Requests._simulate,
    wire.SetClass: Requests._set_class,
    wire.Reload: Requests._reload,
}
