"""What each request means: who may ask it, what it changes, and what is answered.

Nothing here waits. A request either becomes an event for the heart, or is answered from what is known. A mistake of
the asker is an `error` with a code and a sentence, and costs nobody else anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import lmkd_proto as wire

import lmkd
from lmkd.kernel.interface import Kernel
from lmkd.model import (
    SYSTEM_DOMAIN,
    Answer,
    App,
    AppClass,
    Level,
    Process,
    Propagation,
    Unit,
    is_within,
)
from lmkd.policy.actions import Plain
from lmkd.policy.classify import ceiling_of
from lmkd.policy.events import AckReceived, AppGone, AppRegistered, AppRuled, AppUpdated
from lmkd.policy.rules import Rule
from lmkd.service.client import Client
from lmkd.service.describing import level_frame, list_files
from lmkd.service.engine import Engine
from lmkd.service.listening import has_peer_left
from lmkd.service.measuring import measure_app
from lmkd.service.questions import Questions
from lmkd.service.recordings import Recordings
from lmkd.service.refused import Answered, Refused
from lmkd.service.roll import Roll
from lmkd.service.server import KIB, Server, printable
from lmkd.service.simulations import Simulations

SIMULATION_MOST_MS = 600_000
SUBSCRIPTIONS_MOST = 32
"""Of one client."""
DOMAINS_NAMED = 20


@dataclass(slots=True)
class Requests:
    """Answers requests. `reload` returns what was wrong, if anything.

    `registered` holds the identities of all registered programs, `trees` of those that stand for all they start.
    """

    engine: Engine
    kernel: Kernel
    roll: Roll
    questions: Questions
    recordings: Recordings
    own_uid: int
    simulations: Simulations
    reload: Callable[[], str | None]
    save_recording: Callable[[], str | None]
    registered: set[tuple[int, int]]
    trees: set[tuple[int, int]]
    server: Server | None = None
    next_app: int = 1
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
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                result, then = handler(self, client, event)
            else:
                result, then = _QUESTIONS[type(event)](self.questions, client, event)
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
        subscribers = self._served.subscribers
        domain = self._resolve(client, request.domain)
        self._need_sight(client, domain)
        held = subscribers.domains_of(client)
        if domain not in held and len(held) >= SUBSCRIPTIONS_MOST:
            raise Refused("too_many", f"a client may hear of {SUBSCRIPTIONS_MOST} domains")
        if not subscribers.try_watch(domain, lambda: domain in self.engine.state.domains):
            known = ", ".join(list(self.engine.state.domains)[:DOMAINS_NAMED])
            text = f"no domain {domain!r} can be watched; watched are: {known}"
            raise Refused("unknown_domain", text)
        propagation = Propagation(request.propagation)
        left = subscribers.add(client, request.domain, domain, propagation)
        if left is not None:
            client.withdraw(f"pressure {left}")

        def tell() -> None:
            state = self.engine.state
            self._served.tell_level(client, domain, level_frame(state, domain))
            for name in self._pressed_below(domain, propagation):
                if subscribers.tells_present(client, name, state.domains[name].level):
                    self._served.tell_level(client, name, level_frame(state, name))

        return {"domain": domain, "propagation": propagation.value}, tell

    def _resolve(self, client: Client, asked: str) -> str:
        """Return the domain that a client means: its own group is the kernel's word, not the client's."""
        if asked == "/":
            return SYSTEM_DOMAIN
        if asked != "own":
            return asked
        own = self._peer(client).cgroup
        return SYSTEM_DOMAIN if own == "/" else own

    def _need_sight(self, client: Client, domain: str) -> None:
        """Whoever is not the controller may hear of what is watched anyway, and of its own group, up and down."""
        if domain in self.engine.state.domains or self._is_controller(client):
            return
        process = None
        if client.pid and not has_peer_left(client.sock):
            process = self.kernel.process(client.pid)
        own = None if process is None else process.cgroup
        if own is None or not (is_within(own, domain) or (own != "/" and is_within(domain, own))):
            raise Refused(
                "forbidden", f"{domain!r} is neither watched nor above or below your group"
            )

    def _pressed_below(self, domain: str, propagation: Propagation) -> list[str]:
        if propagation is Propagation.LOCAL:
            return []
        return [
            name
            for name, held in self.engine.state.domains.items()
            if name not in (domain, SYSTEM_DOMAIN)
            and held.level > Level.NORMAL
            and is_within(name, domain)
        ]

    def _unsubscribe(self, client: Client, request: wire.Unsubscribe) -> Answered:
        if self._served.subscribers.stands_for(client, request.domain) is None:
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
        rule = self._rule_for(process)
        app = App(
            self.next_app,
            process.pid,
            process.start_ticks,
            process.uid,
            request.name,
            self._granted(client, AppClass[request.app_class.upper()], rule),
            process.cgroup,
            request.sheddable_bytes // KIB,
            self._granted_unit(client, Unit(request.unit), process.cgroup),
            None if rule is None else rule.verdict.grace_us,
        )
        self.next_app += 1
        self._served.name_app(app.app, client)
        self.registered.add((app.pid, app.start_ticks))
        if app.unit is Unit.TREE:
            self.trees.add((app.pid, app.start_ticks))
        self.roll.register(app)
        return self._describe_grant(app), lambda: self.engine.feed(AppRegistered(app))

    def _rule_for(self, process: Process) -> Rule | None:
        """Return the rule that speaks for a process once it has registered."""
        known = self.roll.look(process.pid)
        if known is None:
            raise Refused("unknown_process", f"process {process.pid} has ended")
        return self.engine.state.settings.rules.find(known.process, registered=True)

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

    def _granted(self, client: Client, claimed: AppClass, rule: Rule | None) -> AppClass:
        explicit = None if rule is None else rule.verdict.ceiling
        if self._is_controller(client) and explicit is None:
            return claimed
        ceiling = ceiling_of(rule, self.engine.state.settings)
        if client.app is not None:
            # What a controller has said of it stands above the rule for all.
            ceiling = self.ceilings.get(client.app, ceiling)
        return min(claimed, ceiling)

    def _granted_unit(self, client: Client, unit: Unit, cgroup: str) -> Unit:
        # Its whole cgroup may hold others' programs: only the controller may put those at stake.
        if unit is Unit.CGROUP and (cgroup == "/" or not self._is_controller(client)):
            return Unit.PROCESS
        return unit

    def follow_rules(self) -> None:
        """Give every app what the rules give it now: they have been read again."""
        settings = self.engine.state.settings
        for app in list(self.engine.state.apps.values()):
            known = self.roll.known.get(app.pid)
            rule = None
            if known is not None and known.identity == (app.pid, app.start_ticks):
                rule = settings.rules.find(known.process, registered=True)
            self.engine.feed(AppRuled(app.app, None if rule is None else rule.verdict.grace_us))
            client = self._served.client_of(app.app)
            if client is not None:
                granted = self._granted(client, app.app_class, rule)
                if granted is not app.app_class:
                    self.engine.feed(AppUpdated(app.app, app_class=granted))
            self.roll.register(self.engine.state.apps[app.app])

    def _describe_grant(self, app: App) -> dict[str, Plain]:
        settings = self.engine.state.settings
        inside = [name for name in self.engine.state.domains if is_within(app.cgroup, name)]
        innermost = max(
            (name for name in inside if name != SYSTEM_DOMAIN), key=len, default=SYSTEM_DOMAIN
        )
        return {
            "app": app.app,
            "class": app.app_class.word,
            "unit": app.unit.value,
            "domain": innermost,
            "grace_ms": settings.grace_us(app) // 1000,
            "time_to_exit_ms": settings.classes[app.app_class].time_to_exit_us // 1000,
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
            known = self.roll.known.get(app.pid)
            settings = self.engine.state.settings
            rule = None if known is None else settings.rules.find(known.process, registered=True)
            app_class = self._granted(client, AppClass[request.app_class.upper()], rule)
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
            self.roll.register(self.engine.state.apps[event.app])

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
            self.roll.unregister(app)
            self.registered.discard((app.pid, app.start_ticks))
            self.trees.discard((app.pid, app.start_ticks))
        self.engine.feed(AppGone(number))

    def _ack(self, client: Client, request: wire.Ack) -> Answered:
        app = self._own_app(client)
        if request.notice not in client.notices:
            text = f"no notice {request.notice} was given to this app"
            raise Refused("unknown_notice", text)
        measured_kib = measure_app(self.kernel, app)
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

    # --- the service -------------------------------------------------------------------------------------

    def _record(self, client: Client, request: wire.Record) -> Answered:
        self._need_controller(client, "to see the recordings")
        domains = self.engine.state.domains.values()
        if request.save and any(domain.episode is not None for domain in domains):
            text = "memory is short just now: what is recorded is saved when the episode is over"
            raise Refused("busy", text)
        saved = self.save_recording() if request.save else None
        kept: list[Plain] = [*self.recordings.describe()]
        return {"recordings": kept, "saved": saved}, None

    def _reload(self, client: Client, request: wire.Reload) -> Answered:
        self._need_controller(client, "to reload the configuration")
        problem = self.reload()
        if problem is not None:
            raise Refused("failed", problem)
        return {"config_files": list_files(self.questions.config.files)}, None


_HANDLERS: dict[type, Callable[..., Answered]] = {
    wire.Subscribe: Requests._subscribe,
    wire.Unsubscribe: Requests._unsubscribe,
    wire.Register: Requests._register,
    wire.Update: Requests._update,
    wire.Unregister: Requests._unregister,
    wire.Ack: Requests._ack,
    wire.Simulate: Requests._simulate,
    wire.SetClass: Requests._set_class,
    wire.Reload: Requests._reload,
    wire.Record: Requests._record,
}

_QUESTIONS: dict[type, Callable[..., Answered]] = {
    wire.Status: Questions.status,
    wire.History: Questions.history,
    wire.Explain: Questions.explain,
    wire.Rules: Questions.rules,
    wire.Processes: Questions.processes,
}
