"""lmkd for an asyncio program.

    async with connect() as client:
        app = await client.register("thumbnails", "cached", sheddable_bytes=64 << 20)
        async for notice in app.notices():
            if notice.level != "normal":
                await app.ack(notice, "done", freed_bytes=shed(notice.target_bytes))

There is no task behind it: the event loop calls back when the socket can be read, and when it is time to connect
again. Any tasks may use a client, one at a time for each iterator. Whatever is cancelled, no frame is torn: what a
caller says is handed to the session as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

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
from lmkd_client.errors import DaemonUnavailable, RequestRefused
from lmkd_client.inbox import DomainInbox, Inbox, ReplyInbox
from lmkd_client.registration import AppState, Grant
from lmkd_client.session import Question, Session
from lmkd_client.shedding import SHEDDERS, Shedders


@asynccontextmanager
async def connect(
    path: str | None = None,
    *,
    name: str = "",
    reconnect: bool = True,
    wait: bool = False,
    backoff: Backoff | None = None,
) -> AsyncIterator[Client]:
    """Connect to lmkd, and be greeted; the connection ends with the block.

    Where no daemon is, that is a DaemonUnavailable at once, or with `wait` no answer until there is one. With
    `reconnect` a lost connection is made again, and all that was subscribed and registered is said again.
    """
    client = Client(
        Session(path, name, reconnect=reconnect, look=find_socket), backoff or Backoff()
    )
    try:
        if wait:
            client._retry()
        else:
            client._connect()
        await client._wait_welcome(wait=wait)
        yield client
    finally:
        client._close()


async def shed_on_pressure(
    *,
    name: str,
    app_class: str = "cached",
    sheddable_bytes: int = 0,
    unit: str = "process",
    shedders: Shedders | None = None,
    path: str | None = None,
    backoff: Backoff | None = None,
) -> None:
    """Shed what `sheddable` and `shed_with` named whenever this program is asked to free memory; for ever.

    With or without a daemon at the start. Who says how much is `sheddable_bytes` is asked for an amount, and no more
    is shed; who does not is not asked for any, and sheds at each level all that it reaches.
    """
    chosen = shedders or SHEDDERS
    chosen.memory.prepare()
    async with connect(path, name=name, wait=True, backoff=backoff) as client:
        app = await client.register(name, app_class, sheddable_bytes, unit)
        async for notice in app.notices():
            await app.shed(notice, chosen)


class Client:
    """A program's connection to lmkd. Made by `connect`."""

    def __init__(self, session: Session, backoff: Backoff) -> None:
        self._session = session
        self._backoff = backoff
        self._channel: Channel | None = None
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._awaits_room = False
        self._connected_at_s = 0.0

    @property
    def welcome(self) -> Welcome | None:
        """What the daemon said of itself; None while it is away."""
        return self._session.welcome

    async def subscribe(self, domain: str = "system", propagation: str = "local") -> Subscription:
        """Hear a domain's level, at once and whenever it changes, and who was killed in it.

        `own` is the cgroup that this program is in. `propagation` says whose levels below are heard too: with `local`
        none, with `default` those that no subscriber nearer to them hears of, with `hierarchy` all.
        """
        inbox, reply = self._session.subscribe(domain, propagation)
        try:
            await self._wait_reply(reply)
        except BaseException:
            self._session.unsubscribe(inbox)
            self._say()
            raise
        return Subscription(self, inbox)

    async def register(
        self, name: str, app_class: str, sheddable_bytes: int = 0, unit: str = "process"
    ) -> App:
        """Be an app; a client is one at most. What was granted is in the app's `grant`."""
        state, reply = self._session.register(Register(0, name, app_class, sheddable_bytes, unit))
        try:
            await self._wait_reply(reply)
        except BaseException:
            self._session.unregister(state)
            self._say()
            raise
        return App(self, state)

    async def status(self) -> dict[str, object]:
        """Ask how things stand."""
        return await self.request(Status(0))

    async def history(
        self, episode: int | None = None, after: int = 0, limit: int = 20
    ) -> dict[str, object]:
        """Ask for past episodes, or for the records of one."""
        return await self.request(History(0, episode, after, limit))

    async def explain(
        self, pid: int | None = None, *, kill: int | None = None
    ) -> dict[str, object]:
        """Ask how a process would be treated, and why; or why that kill was made."""
        return await self.request(Explain(0, pid, kill))

    async def rules(self, after: int = 0, limit: int = 20) -> dict[str, object]:
        """Ask for the rules in their order, and how many processes each was given to."""
        return await self.request(Rules(0, after, limit))

    async def processes(
        self, *, unruled: bool = False, after: int = 0, limit: int = 20
    ) -> dict[str, object]:
        """Ask for the processes and their classes; or only for those that no rule speaks for."""
        return await self.request(Processes(0, unruled, after, limit))

    async def simulate(
        self, level: str, scope: str = "self", duration_ms: int = 5000
    ) -> dict[str, object]:
        """Rehearse a level."""
        return await self.request(Simulate(0, level, scope, duration_ms))

    async def set_class(self, app: int, app_class: str) -> dict[str, object]:
        """Give another app a class (controller)."""
        return await self.request(SetClass(0, app, app_class))

    async def reload(self) -> dict[str, object]:
        """Have the daemon read its configuration again (controller)."""
        return await self.request(Reload(0))

    async def record(self, *, save: bool = True) -> dict[str, object]:
        """Ask for the recordings that are kept, after what is in memory was saved (controller)."""
        return await self.request(Record(0, save))

    async def request(self, question: Question) -> dict[str, object]:
        """Ask anything that leaves nothing behind, and return the result. Its id is replaced by ours."""
        return await self._wait_reply(self._session.ask(question))

    # --- waiting -----------------------------------------------------------------------------------------

    async def _wait_welcome(self, *, wait: bool) -> None:
        while self._session.welcome is None:
            if self._session.over is not None:
                raise self._session.over
            if self._session.is_away and not wait:
                assert self._session.last_loss is not None
                raise self._session.last_loss
            await self._changed.wait()

    async def _wait_reply(self, reply: ReplyInbox) -> dict[str, object]:
        self._say()
        while (result := reply.take()) is None:
            await self._wait(reply)
        return result

    async def _wait(self, inbox: Inbox) -> None:
        changed = asyncio.Event()
        inbox.wait_with(changed.set)
        try:
            await changed.wait()
        finally:
            inbox.leave()

    def _say(self) -> None:
        """Send what the socket takes, and have the loop call again for the rest."""
        if self._channel is None:
            return
        self._channel.flush()
        awaits_room = bool(self._session.outgoing)
        if awaits_room and not self._awaits_room:
            self._loop.add_writer(self._channel.fileno(), self._say)
        elif self._awaits_room and not awaits_room:
            self._loop.remove_writer(self._channel.fileno())
        self._awaits_room = awaits_room

    # --- what the event loop calls -----------------------------------------------------------------------

    def _connect(self) -> None:
        self._channel = open_channel(self._session)
        self._connected_at_s = self._loop.time()
        self._loop.add_reader(self._channel.fileno(), self._read)
        self._say()

    def _read(self) -> None:
        assert self._channel is not None
        self._channel.fill()
        if self._session.is_away:
            self._hang_up()
            self._retry_later(int((self._loop.time() - self._connected_at_s) * 1000))
        self._tell_changed()

    def _retry(self) -> None:
        try:
            self._connect()
        except DaemonUnavailable:
            self._retry_later()

    def _retry_later(self, lasted_ms: int = 0) -> None:
        if self._session.over is None:
            pause_ms = self._backoff.next_pause_ms(lasted_ms)
            self._timer = self._loop.call_later(pause_ms / 1000, self._retry)

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._loop.remove_reader(self._channel.fileno())
            self._loop.remove_writer(self._channel.fileno())
            self._awaits_room = False
            self._channel.close()
            self._channel = None

    def _close(self) -> None:
        self._session.close()
        self._hang_up()
        if self._timer is not None:
            self._timer.cancel()

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Subscription:
    """The events of a domain, and of what was asked for below it: an async iterator of Pressure and Killed."""

    def __init__(self, client: Client, inbox: DomainInbox) -> None:
        self._client = client
        self._inbox = inbox

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Pressure | Killed:
        while (event := self._inbox.take()) is None:
            if self._inbox.ended:
                raise StopAsyncIteration
            await self._client._wait(self._inbox)
        return event

    @property
    def domain(self) -> str:
        """The domain that is heard of: for `own` its path, once the daemon has said it."""
        return self._inbox.path

    @property
    def latest(self) -> Pressure | None:
        """The last level of the domain itself that came."""
        return self._inbox.latest

    def close(self) -> None:
        """Unsubscribe; the iteration ends."""
        self._client._session.unsubscribe(self._inbox)
        self._client._say()


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
        """Return an asynchronous iterator of the notices. Only the latest is given."""
        return Notices(self._client, self._state)

    async def ack(self, notice: Notice, answer: str = "done", freed_bytes: int = 0) -> bool:
        """Answer a notice: `done`, `working` or `nothing`. False when the one who sent it is gone."""
        reply = self._client._session.ack(self._state, notice, answer, freed_bytes)
        if reply is None:
            return False
        await self._client._wait_reply(reply)
        return self._state.notices.gave(notice)

    async def shed(self, notice: Notice, shedders: Shedders | None = None) -> int:
        """Shed what `sheddable` and `shed_with` named as a notice asks, and acknowledge it; return the bytes freed.

        It is shed in the task that calls, so that nothing else of this program runs meanwhile; others do between any
        two pieces. A notice of level `normal` asks for nothing.
        """
        if notice.level == "normal":
            await asyncio.sleep(0)
            return 0
        shedding = (shedders or SHEDDERS).begin(notice, self._state.wanted, self.grant)
        try:
            for word in shedding:
                if word is None:
                    await asyncio.sleep(0)
                else:
                    await self.ack(notice, *word)
        except RequestRefused:
            return shedding.freed_bytes  # a later notice has taken its place, and is on its way
        return shedding.freed_bytes

    async def update(
        self,
        app_class: str | None = None,
        sheddable_bytes: int | None = None,
        name: str | None = None,
    ) -> Grant:
        """Change what was registered; while the daemon is away, for when it is back."""
        reply = self._client._session.update(self._state, app_class, sheddable_bytes, name)
        if reply is not None:
            await self._client._wait_reply(reply)
        return self.grant

    async def unregister(self) -> None:
        """Be an app no more; the iteration over its notices ends."""
        reply = self._client._session.unregister(self._state)
        if reply is not None:
            await self._client._wait_reply(reply)


class Notices:
    """The notices to an app."""

    def __init__(self, client: Client, state: AppState) -> None:
        self._client = client
        self._inbox = state.notices

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notice:
        while (notice := self._inbox.take()) is None:
            if self._inbox.ended:
                raise StopAsyncIteration
            await self._client._wait(self._inbox)
        return notice
