"""The socket: everybody who is connected, and how they are told.

All clients hang on one epoll of our own, and one task waits for that; an idle client costs its socket and a few
hundred bytes. To tell many is a plain loop of non-blocking sends (FACTS: within 1.5 of the same loop in C; a task
each is ten times that). A turn takes a few requests of each client that has some, and ends when it has taken its time
and not when all are served, so that a flood delays nobody: not the other clients, and not the readings.

What a request means is in `requests`; here it is only received.
"""

from __future__ import annotations

import errno
import logging
import resource
import select
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable

import trio
from lmkd_proto import (
    Bye,
    Error,
    Event,
    Killed,
    KillWarning,
    Notice,
    Pressure,
    RemoteProtocolError,
    encode,
)

from lmkd.model import Level, Unit
from lmkd.peers import read_credentials
from lmkd.policy.actions import Broadcast, Notify, ReportKilled, WarnKill
from lmkd.service.client import RECEIVE_BYTES, SEND_BUFFER_BYTES, SEND_FLAGS, Client, notice_maker
from lmkd.service.subscribers import Subscribers

log = logging.getLogger("lmkd")

KEPT_FDS = 128
"""Descriptors that clients never get: for readings, kills and the history."""
REQUESTS_A_TURN = 8
ACCEPTS_A_TURN = 16
EVENTS_A_TURN = 256
TURN_US = 2_000
"""After so long a turn ends, and its rest waits for the next. 500 clients that ask for all they can get were served in
one turn before, and a reading came 1.3 s late (tests/bench/hostile.py)."""
TURN_REST_S = 0.002
"""Between two turns that took their whole time. At real-time priority a flood would else take a processor from all
others, until the kernel stops us, too, for 50 ms in each second (RT throttling)."""
ACCEPT_AGAIN_S = 1
"""After a failure to accept; for room, a client must leave."""
REASON_MOST = 512
KIB = 1024

Handler = Callable[[Client, Event], None]
Credentials = Callable[[socket.socket], tuple[int, int]]


class Server:
    """Everybody who is connected."""

    def __init__(
        self,
        listener: socket.socket,
        handle: Handler,
        forget: Callable[[Client], None],
        now_us: Callable[[], int],
        credentials: Credentials = read_credentials,
        most_clients: int | None = None,
        wanted: Callable[[str, bool], None] = lambda domain, wanted: None,
    ) -> None:
        """`most_clients` None: as many as there are descriptors for.

        `wanted` hears when somebody listens to a domain, and when nobody does any more.
        """
        self._listener = listener
        self._handle = handle
        self._forget = forget
        self._now_us = now_us
        self._credentials = credentials
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}
        self.peak = 0
        """The most that were here at a time, since it was last set."""
        self._held: Counter[int] = Counter()
        """How many connections each uid has."""
        self._crowded: set[int] = set()
        """The uids that were refused one, which is logged once until they have none."""
        self.subscribers = Subscribers(
            lambda domain: wanted(domain, True), lambda domain: wanted(domain, False)
        )
        self._apps: dict[int, Client] = {}
        self._behind: dict[Client, None] = {}
        """Those with requests that have come and are not served, in the order in which it is their turn."""
        self._ready: dict[int, int] = {}
        """Descriptors and their epoll events that a turn did not come to."""
        if most_clients is None:
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            most_clients = max(limit - KEPT_FDS, limit // 2)
        self._most = most_clients
        self._most_of_one = max(most_clients // 2, 1)
        self._accepting = True
        self._refused_said = False
        self._epoll.register(listener.fileno(), select.EPOLLIN)

    def __len__(self) -> int:
        return len(self._clients)

    # --- telling ---------------------------------------------------------------------------------------

    def broadcast(self, action: Broadcast) -> None:
        """Tell everybody who hears of a domain its level."""
        frame = pressure_frame(action.domain, action.level, action.reason, action.available_kib)
        hearing = self.subscribers.hearing_level(action.domain, action.level)
        self._tell_level(hearing, action.domain, frame)

    def broadcast_frame(self, domain: str, frame: bytes) -> None:
        """Tell every subscriber of a domain what is in this frame."""
        self._tell_level(self.subscribers.hearing(domain), domain, frame)

    def tell_level(self, client: Client, domain: str, frame: bytes) -> None:
        """Tell one client, if it is still there."""
        if client.sock.fileno() in self._clients:
            self._tell_level((client,), domain, frame)

    def notify(self, action: Notify) -> None:
        """Give an app its notice."""
        client = self._apps.get(action.app)
        if client is None:
            return
        # Not always a higher number than before: a word that is repeated keeps its own.
        number, given = action.notice, client.notices or range(action.notice, action.notice + 1)
        client.notices = range(min(given.start, number), max(given.stop, number + 1))
        notice = Notice(
            action.notice,
            action.domain,
            action.level.word,
            action.target_kib * KIB,
            0,
            action.reason[:REASON_MOST],
            action.emergency,
            action.simulated,
        )
        kind = f"notice {action.domain}"
        client.push(kind, notice_maker(notice, action.deadline_us, self._now_us))
        self._drop_broken((client,))

    def warn(self, action: WarnKill) -> None:
        """Tell an app that it is being ended."""
        client = self._apps.get(action.app)
        if client is not None:
            message = KillWarning(action.reason[:REASON_MOST], action.time_to_exit_us // 1000)
            client.push("warning", encode(message))
            self._drop_broken((client,))

    def report(self, action: ReportKilled) -> None:
        """Tell everybody who hears of a domain who died and why."""
        victim = action.victim
        frame = encode(
            Killed(
                action.domain,
                0 if victim.unit is Unit.CGROUP else victim.pid,
                printable(victim.name),
                victim.app_class.word,
                action.reason[:REASON_MOST],
                action.freed_kib * KIB,
            )
        )
        hearing = self.subscribers.hearing_news(action.domain)
        for client in hearing:
            client.push_killed(frame)
        self._drop_broken(hearing)

    def say_bye(self, reason: str) -> None:
        """Tell everybody that we leave, as far as their sockets take it, and close."""
        frame = encode(Bye(reason[:REASON_MOST]))
        for client in list(self._clients.values()):
            if client.clear:
                client.push("bye", frame)
            client.close()
        self._clients.clear()
        self._epoll.close()
        self._listener.close()

    def _tell_level(self, clients: Iterable[Client], domain: str, frame: bytes) -> None:
        kind, length = f"pressure {domain}", len(frame)
        broken: list[Client] = []
        for client in clients:
            # The same as client.push, without its calls where all goes well: they took a fifth of a broadcast.
            if client.clear:
                try:
                    sent = client.send(frame, SEND_FLAGS)
                except OSError:
                    client.push(kind, frame)  # meets the same, and does what is to be done about it
                else:
                    if sent == length:
                        continue
                    client.keep_rest(frame, sent)
            else:
                client.push(kind, frame)
            if client.broken:
                broken.append(client)
        self._drop_broken(broken)

    # --- who listens to what -----------------------------------------------------------------------------

    def unsubscribe(self, client: Client, asked: str) -> None:
        """Have a client hear no more of what it subscribed to by these words."""
        domain = self.subscribers.remove(client, asked)
        if domain is not None:
            client.withdraw(f"pressure {domain}")

    def name_app(self, app: int, client: Client) -> None:
        """Say which client speaks for an app."""
        self._apps[app] = client
        client.app = app
        client.notices = range(0)

    def unname_app(self, client: Client) -> None:
        """Say that it speaks for none any more."""
        if client.app is not None:
            del self._apps[client.app]
            client.app = None
            for kind in list(client.waiting or ()):
                if kind == "warning" or kind.startswith("notice "):
                    client.withdraw(kind)

    def client_of(self, app: int) -> Client | None:
        """Return who speaks for an app."""
        return self._apps.get(app)

    # --- listening ---------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Take connections and requests, for ever."""
        is_tired = False
        while True:
            if is_tired:
                await trio.sleep(TURN_REST_S)
            elif self._behind or self._ready:
                await trio.lowlevel.checkpoint()
            elif self._accepting or len(self._clients) >= self._most:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            else:
                with trio.move_on_after(ACCEPT_AGAIN_S) as pause:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                if pause.cancelled_caught:
                    self._resume_accepting()
            is_tired = self._turn()

    def _turn(self) -> bool:
        """Serve whoever is to be served, for so long; return whether all the time was taken."""
        until_us = self._now_us() + TURN_US
        if not self._ready:
            self._ready.update(self._epoll.poll(0, EVENTS_A_TURN))
        # Half of the time at most for what comes, so that those who are behind have theirs.
        while self._ready and self._now_us() < until_us - TURN_US // 2:
            fd = next(iter(self._ready))
            self._see(fd, self._ready.pop(fd))
        for client in list(self._behind):
            if self._now_us() >= until_us:
                return True
            if client in self._behind:  # else another's request has let it go
                del self._behind[client]
                self._work_off(client)
        return self._now_us() >= until_us

    def _see(self, fd: int, events: int) -> None:
        """Do what the epoll has to say of one descriptor."""
        if fd == self._listener.fileno():
            self._accept()
            return
        client = self._clients.get(fd)
        if client is None:
            return
        if events & select.EPOLLOUT:
            client.flush()
        gone = events & (select.EPOLLHUP | select.EPOLLERR)
        if gone and client.out:
            client.broken = True  # nobody will ever read the reply that waits
        elif (events & select.EPOLLIN or gone) and not client.backlog:
            self._receive(client)
        if client.broken:
            self._drop(client)
        elif client.backlog and not client.out:
            self._behind.setdefault(client)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    if not self._refused_said:
                        log.warning("no connection can be taken: %s", error.strerror)
                    self._refused_said = True
                    self._pause_accepting()
                return
            self._refused_said = False
            self._admit(sock)
            if len(self._clients) >= self._most:
                log.warning("%d clients: no more are taken until one leaves", len(self._clients))
                self._pause_accepting()
                return

    def _admit(self, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            credentials = self._credentials(sock)
            if self._has_its_share(credentials[1]):
                self._turn_away(sock, credentials[1])
                return
            client = Client(sock, credentials, self._epoll)
        except OSError:
            sock.close()  # gone before it was greeted
            return
        self._clients[sock.fileno()] = client
        self.peak = max(self.peak, len(self._clients))
        self._held[client.uid] += 1

    def _has_its_share(self, uid: int) -> bool:
        """Whether a user has half of all connections: the rest is for others. Root may have all."""
        return uid != 0 and self._held[uid] >= self._most_of_one

    def _turn_away(self, sock: socket.socket, uid: int) -> None:
        if uid not in self._crowded:
            self._crowded.add(uid)
            log.warning("uid %d has %d connections: it gets no more", uid, self._held[uid])
        text = f"uid {uid} has {self._held[uid]} connections, which is the most that one may have"
        with sock:
            sock.send(encode(Error(None, "too_many", text)), SEND_FLAGS)

    def _pause_accepting(self) -> None:
        if self._accepting:
            self._accepting = False
            self._epoll.unregister(self._listener.fileno())

    def _resume_accepting(self) -> None:
        if not self._accepting and len(self._clients) < self._most:
            self._accepting = True
            self._epoll.register(self._listener.fileno(), select.EPOLLIN)

    def _receive(self, client: Client) -> None:
        try:
            chunk = client.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            client.broken = True
            return
        try:
            found = client.connection.receive(chunk)
        except RemoteProtocolError as error:
            self._refuse_stream(client, error)
            return
        if found:
            client.backlog = deque(found)
            self._work_off(client)

    def _refuse_stream(self, client: Client, error: RemoteProtocolError) -> None:
        """Say why a stream cannot go on, and end it."""
        client.reply(encode(Error(error.request_id, error.code, error.message)))
        client.broken = True

    def _work_off(self, client: Client) -> None:
        """Take some of the requests that a client has sent; the rest waits for the next turn."""
        for _ in range(REQUESTS_A_TURN):
            if not client.backlog or client.out or client.broken:
                break
            try:
                self._handle(client, client.backlog.popleft())
            except Exception:
                # A fault of ours, of which the others are to feel nothing.
                log.exception("pid %d: a request could not be handled; it is let go", client.pid)
                client.broken = True
        if not client.backlog:
            client.backlog = None
            fault = client.connection.fault
            if fault is not None and not client.broken:
                self._refuse_stream(client, fault)
        if client.broken:
            self._drop(client)
        elif client.backlog and not client.out:
            self._behind.setdefault(client)
        else:
            self._behind.pop(client, None)
        if not client.broken:
            client.watch()

    # --- leaving -----------------------------------------------------------------------------------------

    def _drop_broken(self, clients: Iterable[Client]) -> None:
        for client in list(clients):
            if client.broken:
                self._drop(client)

    def _drop(self, client: Client) -> None:
        fd = client.sock.fileno()
        if self._clients.pop(fd, None) is None:
            return
        self._held[client.uid] -= 1
        if not self._held[client.uid]:
            del self._held[client.uid]
            self._crowded.discard(client.uid)
        self._behind.pop(client, None)
        self._ready.pop(fd, None)  # its number may be another's soon
        client.close()
        self.subscribers.forget(client)
        self._forget(client)
        self._resume_accepting()


def pressure_frame(
    domain: str, level: Level, reason: str, available_kib: int, *, simulated: bool = False
) -> bytes:
    """Encode a level once, for however many listen."""
    return encode(
        Pressure(domain, level.word, reason[:REASON_MOST], max(available_kib, 0) * KIB, simulated)
    )


def printable(name: str) -> str:
    """Return a process's name as the wire takes it: no control characters, at most 64."""
    return "".join(sign if sign.isprintable() else "?" for sign in name)[:64]
