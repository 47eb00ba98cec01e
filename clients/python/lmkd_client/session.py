"""One client's side of lmkd, whatever it waits with: the core that the blocking, asyncio and trio shells share.

It matches replies to requests, and keeps what this program wants (its subscriptions, its registration), so that a
new connection says all of it again. It knows no socket, no clock and no task: a shell moves the bytes, and tells it
when a connection stands and when one is lost.

- Bytes that were read go into `receive` at once, and bytes stay in `outgoing` until `sent` says that they went: a
  task that is cancelled between the two loses and repeats nothing.
- What came over one connection means nothing over the next: a notice of an earlier one is never acknowledged, though
  a restarted daemon may use its number again.
- A reply that never came is an error for the one who waits for it, unless it only says what this program wants, and
  that is said again anyway.
"""

from __future__ import annotations

from dataclasses import replace

from lmkd_proto import (
    MAX_ID,
    PROTOCOL_VERSION,
    Ack,
    Bye,
    ClientConnection,
    Error,
    Event,
    Explain,
    Hello,
    History,
    Killed,
    KillWarning,
    LocalProtocolError,
    Notice,
    Ok,
    Pressure,
    Processes,
    Record,
    Register,
    Reload,
    RemoteProtocolError,
    Request,
    Rules,
    SetClass,
    Simulate,
    Status,
    Subscribe,
    Unregister,
    Unsubscribe,
    Update,
    Welcome,
)

from lmkd_client.errors import (
    BrokenReply,
    BusyClient,
    ClosedClient,
    ConnectionLost,
    DaemonUnavailable,
    LmkdError,
    RequestRefused,
)
from lmkd_client.inbox import DomainInbox, ReplyInbox, is_below
from lmkd_client.registration import AppState

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Answer: TypeAlias = Ok | Welcome | RequestRefused | ConnectionLost
    Heard: TypeAlias = Callable[[Answer], None]

Question = Status | History | Explain | Rules | Processes | Simulate | SetClass | Reload | Record
SENT_AT_ONCE_BYTES = 65_536
_QUESTIONS = (
    *("status", "history", "explain", "rules", "processes"),
    *("simulate", "set_class", "reload", "record"),
)


class Session:
    """What this program wants of lmkd, and one conversation about it after another.

    `over` says why there will be no further one; until then the shell is to connect again whenever `is_away`.
    """

    def __init__(
        self,
        path: str | None,
        name: str = "",
        *,
        reconnect: bool = True,
        look: Callable[[], str] = lambda: "",
    ) -> None:
        """`look` says, before each connection, where lmkd is to be found, where no `path` was given."""
        Hello(0, PROTOCOL_VERSION, name)  # a name that cannot be said is the caller's mistake, now
        self._look = None if path else look
        self.path = path or look()
        self.over: LmkdError | None = None
        self.welcome: Welcome | None = None
        self.last_loss: ConnectionLost | None = None
        self.app: AppState | None = None
        self._name = name
        self._reconnect = reconnect
        self._domains: dict[str, DomainInbox] = {}
        self._connection: ClientConnection | None = None
        self._outgoing = bytearray()
        self._heard: dict[int, Heard] = {}
        self._replies: set[ReplyInbox] = set()
        self._last_id = 0
        self._last_word = ""

    # --- the connection, as the shell sees it ------------------------------------------------------------

    @property
    def is_away(self) -> bool:
        """Whether there is no connection."""
        return self._connection is None

    @property
    def outgoing(self) -> bytes:
        """What is to be sent next."""
        return bytes(self._outgoing[:SENT_AT_ONCE_BYTES])

    def sent(self, count: int) -> None:
        """Say that so many bytes of `outgoing` went."""
        del self._outgoing[:count]

    def drop_outgoing(self) -> None:
        """Say that nothing can be sent any more. What the daemon said last is still to be read."""
        self._outgoing.clear()

    def look_again(self) -> None:
        """Find out where lmkd is now, before a connection: a session's may have come meanwhile."""
        if self._look is not None:
            self.path = self._look()

    def connected(self) -> None:
        """Say that a new connection stands: say hello, and all that this program wants."""
        assert self._connection is None
        assert self.over is None
        self._connection = ClientConnection()
        self._last_word = ""
        self._say(Hello(0, PROTOCOL_VERSION, self._name), self._hear_welcome)
        for inbox in self._domains.values():
            self._say_subscribe(inbox)
        if self.app is not None:
            self._say_register(self.app)

    def receive(self, chunk: bytes) -> None:
        """Take bytes as they were read; no bytes at all are the end of the connection."""
        if self._connection is None:
            return
        if not chunk:
            self.lost(self._last_word or "it closed the connection")
            return
        try:
            events = self._connection.receive(chunk)
            fault = self._connection.fault
        except RemoteProtocolError as error:
            events, fault = [], error
        for event in events:
            self._take(event)
        if fault is not None:
            self.lost(f"it broke the protocol: {fault}")

    def lost(self, why: str) -> None:
        """Say that the connection has ended."""
        if self._connection is None:
            return
        self._connection = None
        self.welcome = None
        self._outgoing.clear()
        self.last_loss = error = ConnectionLost(self.path, why)
        heard, self._heard = self._heard, {}
        if self.app is not None:
            self.app.forget()
        for hear in heard.values():
            hear(error)
        if not self._reconnect:
            self._end(error)

    def close(self) -> None:
        """End for good, by the wish of this program."""
        self._connection = None
        self._outgoing.clear()
        self._heard = {}
        self._end(ClosedClient("this client is closed"))

    # --- what a program asks -----------------------------------------------------------------------------

    def ask(self, question: Question) -> ReplyInbox:
        """Ask something once. The id of the message is replaced by one of ours."""
        if question.type not in _QUESTIONS:
            raise LocalProtocolError(f"{question.type}: not for request(); it has its own method")
        return self._ask(question)

    def subscribe(self, domain: str, propagation: str = "local") -> tuple[DomainInbox, ReplyInbox]:
        """Hear of a domain, over this connection and those that follow."""
        if domain in self._domains:
            raise BusyClient(f"this client subscribes to {domain!r} already")
        request = Subscribe(0, domain, propagation)
        inbox = DomainInbox(domain, propagation)

        def settle(error: LmkdError | None) -> None:
            if error is not None and self._domains.get(domain) is inbox:
                del self._domains[domain]

        reply = self._ask(
            request, settle, lambda result: inbox.stands_for(_read_path(result, domain))
        )
        # Now, not at the reply: the level that follows it may come in the same read.
        self._domains[domain] = inbox
        return inbox, reply

    def unsubscribe(self, inbox: DomainInbox) -> None:
        """Hear no more of a domain. Nothing waits for the reply: there is none that would change anything."""
        if self._domains.get(inbox.domain) is inbox:
            del self._domains[inbox.domain]
            if self._connection is not None:
                self._say(Unsubscribe(0, inbox.domain), _ignore)
        inbox.end()

    def register(self, wanted: Register) -> tuple[AppState, ReplyInbox]:
        """Be an app, over this connection and those that follow."""
        if self.app is not None:
            raise BusyClient("this client has registered already; a connection is one app")
        app = AppState(wanted)

        def settle(error: LmkdError | None) -> None:
            if error is not None and self.app is app:
                self.app = None

        reply = self._ask(wanted, settle, app.take_grant)
        self.app = app
        return app, reply

    def update(
        self,
        app: AppState,
        app_class: str | None = None,
        sheddable_bytes: int | None = None,
        name: str | None = None,
    ) -> ReplyInbox | None:
        """Change what was registered; None when there is nobody to tell now, and it will be said later."""
        update = Update(0, app_class, sheddable_bytes, name)
        self._check_app(app)
        wanted = app.wanted
        app.wanted = replace(
            wanted,
            app_class=wanted.app_class if app_class is None else app_class,
            sheddable_bytes=wanted.sheddable_bytes if sheddable_bytes is None else sheddable_bytes,
            name=wanted.name if name is None else name,
        )
        return (
            None
            if self._connection is None
            else self._ask(update, learn=app.take_grant, repeated=True)
        )

    def unregister(self, app: AppState) -> ReplyInbox | None:
        """Be an app no more; None when there is nobody to tell."""
        if self.app is not app:
            return None
        self.app = None
        app.notices.end()
        return None if self._connection is None else self._ask(Unregister(0), repeated=True)

    def ack(
        self, app: AppState, notice: Notice, answer: str, freed_bytes: int = 0
    ) -> ReplyInbox | None:
        """Answer a notice; None when it came over an earlier connection, and nobody waits for an answer."""
        request = Ack(0, notice.notice, answer, freed_bytes)
        self._check_app(app)
        if not app.notices.gave(notice):
            return None
        return self._ask(request, repeated=True)

    def _check_app(self, app: AppState) -> None:
        if self.over is not None:
            raise self.over
        if app.notices.over is not None:
            raise app.notices.over
        if self.app is not app:
            raise ClosedClient("this app has been unregistered")

    # --- requests and their replies ----------------------------------------------------------------------

    def _ask(
        self,
        request: Request,
        settle: Callable[[LmkdError | None], None] | None = None,
        learn: Callable[[dict[str, object]], None] | None = None,
        *,
        repeated: bool = False,
    ) -> ReplyInbox:
        """Send a request. `learn` reads the result, and `settle` hears how it ended.

        A `repeated` one may be lost with its connection.
        """
        if self.over is not None:
            raise self.over
        if self._connection is None:
            raise DaemonUnavailable(self.path, "the connection was lost and is not back yet")
        inbox = ReplyInbox()

        def hear(answer: Answer) -> None:
            self._replies.discard(inbox)
            error: LmkdError | None = None
            if isinstance(answer, Ok):
                try:
                    if learn is not None:
                        learn(answer.result)
                except BrokenReply as broken:
                    error = broken
            elif isinstance(answer, Welcome):
                error = BrokenReply(f"{request.type} was answered with welcome")
            elif not (repeated and self._reconnect and isinstance(answer, ConnectionLost)):
                error = answer
            if settle is not None:
                settle(error)
            if error is not None:
                inbox.fail(error)
            else:
                inbox.put(answer.result if isinstance(answer, Ok) else {})

        self._say(request, hear)
        self._replies.add(inbox)
        return inbox

    def _say(self, request: Request, heard: Heard) -> None:
        assert self._connection is not None
        number = self._next_id()
        self._outgoing += self._connection.send(replace(request, id=number))
        self._heard[number] = heard

    def _next_id(self) -> int:
        number = self._last_id
        while True:
            number = 1 if number == MAX_ID else number + 1
            if number not in self._heard:
                self._last_id = number
                return number

    def _say_subscribe(self, inbox: DomainInbox) -> None:
        def hear(answer: Answer) -> None:
            refused = _read_refusal(
                answer, lambda result: inbox.stands_for(_read_path(result, inbox.domain))
            )
            if refused is not None:
                if self._domains.get(inbox.domain) is inbox:
                    del self._domains[inbox.domain]
                inbox.fail(refused)

        # `own` may stand for another path by now.
        inbox.path = inbox.domain
        self._say(Subscribe(0, inbox.domain, inbox.propagation), hear)

    def _say_register(self, app: AppState) -> None:
        def hear(answer: Answer) -> None:
            refused = _read_refusal(answer, app.take_grant)
            if refused is not None:
                if self.app is app:
                    self.app = None
                app.notices.fail(refused)

        self._say(app.wanted, hear)

    def _hear_welcome(self, answer: Answer) -> None:
        if isinstance(answer, Welcome):
            self.welcome = answer
        elif isinstance(answer, RequestRefused):
            # Another version: to connect again would only be refused again.
            self._end(answer)

    # --- what comes --------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        """Take one event. What means nothing to us is for another version of us, and is passed over."""
        if isinstance(event, Welcome | Ok):
            self._answer(event.id, event)
        elif isinstance(event, Error):
            if event.id is None:
                self._last_word = f"{event.code}: {event.message}"
            else:
                self._answer(event.id, RequestRefused(event.code, event.message))
        elif isinstance(event, Pressure | Killed):
            self._deliver(event)
        elif isinstance(event, Notice):
            if self.app is not None:
                self.app.hear(event)
        elif isinstance(event, KillWarning):
            if self.app is not None:
                self.app.kill_warning = event
        elif isinstance(event, Bye):
            self.lost(f"it left: {event.reason}")

    def _deliver(self, event: Pressure | Killed) -> None:
        """Give a message, which comes once, to each subscription that asked for it."""
        hearing = [inbox for inbox in self._domains.values() if inbox.hears(event.domain)]
        for inbox in hearing:
            # SPEC L-19: by default, only what nobody nearer hears of, and (L-21) the end of what was heard.
            nearer = inbox.propagation == "default" and any(
                is_below(other.path, inbox.path) for other in hearing
            )
            if not nearer or (isinstance(event, Pressure) and inbox.awaits_end(event.domain)):
                inbox.put(event)

    def _answer(self, number: int, answer: Answer) -> None:
        hear = self._heard.pop(number, None)
        if hear is not None:
            hear(answer)

    def _end(self, error: LmkdError) -> None:
        if self.over is not None:
            return
        self.over = error
        self._connection = None
        self._outgoing.clear()
        for inbox in (*self._replies, *self._domains.values()):
            inbox.fail(error)
        self._replies.clear()
        if self.app is not None:
            self.app.notices.fail(error)


def _read_refusal(answer: Answer, learn: Callable[[dict[str, object]], None]) -> LmkdError | None:
    """Have the result of something that was said again read; return why it holds no more, if so."""
    if isinstance(answer, RequestRefused):
        return answer
    if isinstance(answer, Ok):
        try:
            learn(answer.result)
        except BrokenReply as broken:
            return broken
    return None


def _read_path(result: dict[str, object], domain: str) -> str:
    """Read out of the reply to `subscribe` what the domain stands for. Servers before `own` did not say (SPEC Q-3)."""
    path = result.get("domain")
    if isinstance(path, str):
        return path
    if domain == "own":
        raise BrokenReply("a subscription to `own` without the path that it stands for")
    return domain


def _ignore(answer: Answer) -> None:
    """Hear a reply that changes nothing."""
