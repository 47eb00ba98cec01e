"""lmkd for a plain program: every call waits until it is done.

    with connect() as client:
        app = client.register("thumbnails", "cached", sheddable_bytes=64 << 20)
        for notice in app.notices():
            if notice.level != "normal":
                app.ack(notice, "done", freed_bytes=shed(notice.target_bytes))

There is no thread and no timer behind it: bytes move, and a lost connection comes back, while some call waits. One
thread at a time uses a client; `close` and `interrupt` may be called from any.
"""

from __future__ import annotations

import os
import select
import threading
import time

from lmkd_proto import (
    Explain,
    History,
    Killed,
    KillWarning,
    Notice,
    Pressure,
    Processes,
    Record,
    Register,
    Reload,
    Rules,
    SetClass,
    Simulate,
    Status,
    Welcome,
)

from lmkd_client.backoff import Backoff
from lmkd_client.channel import Channel, find_socket, open_channel
from lmkd_client.errors import (
    BusyClient,
    ClosedClient,
    ConnectionLost,
    DaemonUnavailable,
    RequestRefused,
)
from lmkd_client.inbox import DomainInbox, Inbox, ReplyInbox
from lmkd_client.registration import AppState, Grant
from lmkd_client.session import Question, Session
from lmkd_client.shedding import SHEDDERS, Shedders

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self, TypeVar

    T = TypeVar("T")

REPLY_TIMEOUT_MS = 10_000


def connect(
    path: str | None = None,
    *,
    name: str = "",
    reconnect: bool = True,
    wait: bool = False,
    reply_timeout_ms: int | None = REPLY_TIMEOUT_MS,
    backoff: Backoff | None = None,
) -> Client:
    """Connect to lmkd, and be greeted; a context manager.

    Where no daemon is, that is a DaemonUnavailable at once, or with `wait` no answer until there is one. With
    `reconnect` a lost connection is made again, and all that was subscribed and registered is said again.
    """
    client = Client(
        Session(path, name, reconnect=reconnect, look=find_socket),
        backoff or Backoff(),
        reply_timeout_ms,
    )
    try:
        client.open(wait=wait)
    except BaseException:
        client.close()
        raise
    return client


class Client:
    """A program's connection to lmkd. Made by `connect`."""

    def __init__(self, session: Session, backoff: Backoff, reply_timeout_ms: int | None) -> None:
        self._session = session
        self._backoff = backoff
        self._reply_timeout_ms = reply_timeout_ms
        self._channel: Channel | None = None
        self._connected_at_ms = 0
        self._retry_at_ms = 0
        self._turn = threading.Lock()
        self._bell_turn = threading.Lock()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = False
        self._interrupted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def welcome(self) -> Welcome | None:
        """What the daemon said of itself; None while it is away."""
        return self._session.welcome

    def open(self, *, wait: bool = False) -> None:
        """Connect and be greeted, as `connect` does."""
        until_ms = None if wait else self._reply_deadline_ms()
        while self._session.welcome is None:
            if self._session.over is not None:
                raise self._session.over
            if self._channel is None and not wait:
                if self._session.last_loss is not None:
                    raise self._session.last_loss
                self._connect_claimed()
            if until_ms is not None and _now_ms() >= until_ms:
                raise ConnectionLost(self._session.path, "no greeting came in time")
            self._step(until_ms)

    def close(self) -> None:
        """End the connection. From another thread it ends what waits there with ClosedClient."""
        self._closing = True  # before the bell: who wakes does not wait again
        self._ring()
        with self._turn:
            self._session.close()
            if self._channel is not None:
                self._channel.close()
                self._channel = None
            with self._bell_turn:
                if self._bell >= 0:
                    os.close(self._bell)
                    self._bell = -1

    def interrupt(self) -> None:
        """Have a `wait` that is under way, or else the next one, return None. For other threads."""
        self._interrupted = True
        self._ring()

    def subscribe(self, domain: str = "system", propagation: str = "local") -> Subscription:
        """Hear a domain's level, at once and whenever it changes, and who was killed in it.

        `own` is the cgroup that this program is in. `propagation` says whose levels below are heard too: with `local`
        none, with `default` those that no subscriber nearer to them hears of, with `hierarchy` all.
        """
        inbox, reply = self._start(lambda: self._session.subscribe(domain, propagation))
        try:
            self._wait_reply(reply)
        except BaseException:
            self._session.unsubscribe(inbox)
            raise
        return Subscription(self, inbox)

    def register(
        self, name: str, app_class: str, sheddable_bytes: int = 0, unit: str = "process"
    ) -> App:
        """Be an app; a client is one at most. What was granted is in the app's `grant`."""
        wanted = Register(0, name, app_class, sheddable_bytes, unit)
        state, reply = self._start(lambda: self._session.register(wanted))
        try:
            self._wait_reply(reply)
        except BaseException:
            self._session.unregister(state)
            raise
        return App(self, state)

    def status(self) -> dict[str, object]:
        """Ask how things stand."""
        return self.request(Status(0))

    def history(
        self, episode: int | None = None, after: int = 0, limit: int = 20
    ) -> dict[str, object]:
        """Ask for past episodes, or for the records of one."""
        return self.request(History(0, episode, after, limit))

    def explain(self, pid: int | None = None, *, kill: int | None = None) -> dict[str, object]:
        """Ask how a process would be treated, and why; or why that kill was made."""
        return self.request(Explain(0, pid, kill))

    def rules(self, after: int = 0, limit: int = 20) -> dict[str, object]:
        """Ask for the rules in their order, and how many processes each was given to."""
        return self.request(Rules(0, after, limit))

    def processes(
        self, *, unruled: bool = False, after: int = 0, limit: int = 20
    ) -> dict[str, object]:
        """Ask for the processes and their classes; or only for those that no rule speaks for."""
        return self.request(Processes(0, unruled, after, limit))

    def simulate(
        self, level: str, scope: str = "self", duration_ms: int = 5000
    ) -> dict[str, object]:
        """Rehearse a level."""
        return self.request(Simulate(0, level, scope, duration_ms))

    def set_class(self, app: int, app_class: str) -> dict[str, object]:
        """Give another app a class (controller)."""
        return self.request(SetClass(0, app, app_class))

    def reload(self) -> dict[str, object]:
        """Have the daemon read its configuration again (controller)."""
        return self.request(Reload(0))

    def record(self, *, save: bool = True) -> dict[str, object]:
        """Ask for the recordings that are kept, after what is in memory was saved (controller)."""
        return self.request(Record(0, save))

    def request(self, question: Question) -> dict[str, object]:
        """Ask anything that leaves nothing behind, and return the result. Its id is replaced by ours."""
        return self._wait_reply(self._start(lambda: self._session.ask(question)))

    # --- waiting -----------------------------------------------------------------------------------------

    def _start(self, begin: Callable[[], T]) -> T:
        """Have the session begin something, and send what it says."""
        self._claim()
        try:
            self._catch_up()
            if self._is_due():
                self._try_connect()
            begun = begin()
            if self._channel is not None:
                self._channel.flush()
            return begun
        finally:
            self._turn.release()

    def _wait_reply(self, reply: ReplyInbox) -> dict[str, object]:
        until_ms = self._reply_deadline_ms()
        while (result := reply.take()) is None:
            if until_ms is not None and _now_ms() >= until_ms:
                self._session.lost("no answer came in time")
            else:
                self._step(until_ms)
        return result

    def _wait_any(self, inbox: Inbox, take: Callable[[], T], timeout_ms: int | None) -> T | None:
        """Return what `take` gives; None at the inbox's end, when the time is up, or when interrupted."""
        until_ms = None if timeout_ms is None else _now_ms() + timeout_ms
        self._claim()
        try:
            self._catch_up()
        finally:
            self._turn.release()
        while (found := take()) is None:
            if inbox.ended or (until_ms is not None and _now_ms() >= until_ms):
                return None
            if self._interrupted:
                self._interrupted = False
                return None
            self._step(until_ms)
        return found

    def _step(self, until_ms: int | None) -> None:
        """Wait for one thing to happen, and do what is to be done about it."""
        self._claim()
        try:
            if self._session.over is not None:
                raise self._session.over
            if self._is_due():
                self._try_connect()
            self._wait(until_ms)
            self._catch_up()
        finally:
            self._turn.release()

    def _wait(self, until_ms: int | None) -> None:
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        if self._channel is not None:
            self._channel.flush()
            outgoing = select.POLLOUT if self._session.outgoing else 0
            poll.register(self._channel.fileno(), select.POLLIN | outgoing)
        elif until_ms is None or self._retry_at_ms < until_ms:
            until_ms = self._retry_at_ms
        ready = poll.poll(None if until_ms is None else max(until_ms - _now_ms(), 0))
        if (self._bell, select.POLLIN) in ready:
            os.eventfd_read(self._bell)

    def _catch_up(self) -> None:
        """Take in all that is there already."""
        if self._channel is None:
            return
        if not self._session.is_away:
            self._channel.fill()
        if self._session.is_away:
            self._channel.close()
            self._channel = None
            now_ms = _now_ms()
            lasted_ms = now_ms - self._connected_at_ms
            self._retry_at_ms = now_ms + self._backoff.next_pause_ms(lasted_ms)

    def _is_due(self) -> bool:
        return (
            self._channel is None and self._session.over is None and _now_ms() >= self._retry_at_ms
        )

    def _connect(self) -> None:
        try:
            self._channel = open_channel(self._session)
        except DaemonUnavailable:
            self._retry_at_ms = _now_ms() + self._backoff.next_pause_ms()
            raise
        self._connected_at_ms = _now_ms()

    def _connect_claimed(self) -> None:
        self._claim()
        try:
            self._connect()
        finally:
            self._turn.release()

    def _try_connect(self) -> None:
        try:
            self._connect()
        except DaemonUnavailable:
            return  # the next try has its time already

    def _claim(self) -> None:
        if self._closing:
            raise ClosedClient("this client is closed")
        if not self._turn.acquire(blocking=False):
            raise BusyClient("another thread uses this client")

    def _ring(self) -> None:
        with self._bell_turn:
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)

    def _reply_deadline_ms(self) -> int | None:
        if self._reply_timeout_ms is None:
            return None
        return _now_ms() + self._reply_timeout_ms


class Subscription:
    """The events of a domain, and of what was asked for below it: an iterator of Pressure and Killed that waits."""

    def __init__(self, client: Client, inbox: DomainInbox) -> None:
        self._client = client
        self._inbox = inbox

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Pressure | Killed:
        while (event := self.wait()) is None:
            if self._inbox.ended:
                raise StopIteration
        return event

    @property
    def domain(self) -> str:
        """The domain that is heard of: for `own` its path, once the daemon has said it."""
        return self._inbox.path

    @property
    def latest(self) -> Pressure | None:
        """The last level of the domain itself that came."""
        return self._inbox.latest

    def wait(self, timeout_ms: int | None = None) -> Pressure | Killed | None:
        """Return the next event, or None when none came in this time."""
        return self._client._wait_any(self._inbox, self._inbox.take, timeout_ms)

    def close(self) -> None:
        """Unsubscribe; the iteration ends."""
        self._client._start(lambda: self._client._session.unsubscribe(self._inbox))


class App:
    """This program as an app. Made by `Client.register`."""

    def __init__(self, client: Client, state: AppState) -> None:
        self._client = client
        self._state = state

    @property
    def grant(self) -> Grant:
        """What was granted last."""
        assert self._state.grant is not None
        return self._state.grant

    @property
    def level(self) -> str:
        """The level of the last notice."""
        return self._state.level

    @property
    def kill_warning(self) -> KillWarning | None:
        """The warning that came with SIGTERM, if one did."""
        return self._state.kill_warning

    def notices(self) -> Notices:
        """Return an iterator of the notices that waits for the next one. Only the latest is given."""
        return Notices(self._client, self._state)

    def ack(self, notice: Notice, answer: str = "done", freed_bytes: int = 0) -> bool:
        """Answer a notice: `done`, `working` or `nothing`. False when the one who sent it is gone."""
        state, session = self._state, self._client._session
        reply = self._client._start(lambda: session.ack(state, notice, answer, freed_bytes))
        if reply is None:
            return False
        self._client._wait_reply(reply)
        return state.notices.gave(notice)

    def shed(self, notice: Notice, shedders: Shedders | None = None) -> int:
        """Shed what `sheddable` and `shed_with` named as a notice asks, and acknowledge it; return the bytes freed.

        A notice of level `normal` asks for nothing.
        """
        if notice.level == "normal":
            return 0
        shedding = (shedders or SHEDDERS).begin(notice, self._state.wanted, self.grant)
        try:
            for word in shedding:
                if word is not None:
                    self.ack(notice, *word)
        except RequestRefused:
            return shedding.freed_bytes  # a later notice has taken its place, and is on its way
        return shedding.freed_bytes

    def update(
        self,
        app_class: str | None = None,
        sheddable_bytes: int | None = None,
        name: str | None = None,
    ) -> Grant:
        """Change what was registered; while the daemon is away, for when it is back."""
        state, session = self._state, self._client._session
        reply = self._client._start(lambda: session.update(state, app_class, sheddable_bytes, name))
        if reply is not None:
            self._client._wait_reply(reply)
        return self.grant

    def unregister(self) -> None:
        """Be an app no more; the iteration over its notices ends."""
        reply = self._client._start(lambda: self._client._session.unregister(self._state))
        if reply is not None:
            self._client._wait_reply(reply)


class Notices:
    """The notices to an app."""

    def __init__(self, client: Client, state: AppState) -> None:
        self._client = client
        self._inbox = state.notices

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Notice:
        while (notice := self.wait()) is None:
            if self._inbox.ended:
                raise StopIteration
        return notice

    def wait(self, timeout_ms: int | None = None) -> Notice | None:
        """Return the latest notice, or None when none came in this time."""
        return self._client._wait_any(self._inbox, self._inbox.take, timeout_ms)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
