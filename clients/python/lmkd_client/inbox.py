"""What is on its way to one part of a program: a reply, the events of a subscription, the notices of an app.

An inbox is filled by the session and emptied by a shell; it does not know how a shell waits. `take` never waits: it
gives what is there, or None.

- One place at a time may wait for an inbox.
- What a slow program has not taken yet stays bounded: a newer level or notice takes the place of an older one.
"""

from __future__ import annotations

from collections import deque

from lmkd_proto import Killed, Notice, Pressure

from lmkd_client.errors import BusyClient, LmkdError

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from collections.abc import Callable

KILLED_MOST = 16
"""Reports of kills that wait for a slow program; older ones are in the daemon's history."""
DOMAINS_MOST = 256
"""Domains below a subscribed one whose levels are kept apart; beyond that the one heard of longest ago is forgotten."""
NOTICES_REMEMBERED = 16
"""Notices that were taken, and that an ack may still be for."""


class Inbox:
    """What all inboxes share.

    `ended`: this program wants no more of it. `over`: nothing will come any more, and why.
    """

    __slots__ = ("_waker", "ended", "over")

    def __init__(self) -> None:
        self._waker: Callable[[], None] | None = None
        self.ended = False
        self.over: LmkdError | None = None

    def wait_with(self, waker: Callable[[], None]) -> None:
        """Have this called at each change, until `leave`."""
        if self._waker is not None:
            raise BusyClient("another task waits for the same thing already")
        self._waker = waker

    def leave(self) -> None:
        """Wait no more."""
        self._waker = None

    def end(self) -> None:
        """Give nothing more: this program has had enough."""
        self.ended = True
        self._wake()

    def fail(self, error: LmkdError) -> None:
        """Give nothing more than is there, and then this error."""
        if self.over is None:
            self.over = error
            self._wake()

    def _wake(self) -> None:
        if self._waker is not None:
            self._waker()

    def _find_nothing(self) -> None:
        if self.over is not None and not self.ended:
            raise self.over


class ReplyInbox(Inbox):
    """The reply to one request."""

    __slots__ = ("_result",)

    def __init__(self) -> None:
        super().__init__()
        self._result: dict[str, object] | None = None

    def put(self, result: dict[str, object]) -> None:
        """Take in what the request asked for."""
        self._result = result
        self._wake()

    def take(self) -> dict[str, object] | None:
        """Give the result, or raise what came in its place."""
        if self._result is None:
            self._find_nothing()
        return self._result


def is_below(domain: str, above: str) -> bool:
    """Whether a domain lies below another one, which is not itself."""
    if domain in ("system", above):
        return False
    return above in ("system", "/") or domain.startswith(above + "/")


class DomainInbox(Inbox):
    """What one subscription hears: the latest level of its domain and of those below it, and who was killed there.

    `domain` is as it was asked for, `path` what that stands for.
    """

    __slots__ = ("_above_normal", "_events", "domain", "latest", "path", "propagation")

    def __init__(self, domain: str, propagation: str = "local") -> None:
        super().__init__()
        self.domain = domain
        self.path = domain
        self.propagation = propagation
        self.latest: Pressure | None = None
        self._events: deque[Pressure | Killed] = deque()
        self._above_normal: dict[str, None] = {}
        """Domains below whose last word was not `normal`."""

    def hears(self, domain: str) -> bool:
        """Whether a message about this domain is for here, as far as the subscription alone can tell."""
        return domain == self.path or (self.propagation != "local" and is_below(domain, self.path))

    def awaits_end(self, domain: str) -> bool:
        """Whether the last word about a domain below was not `normal`: then its end is for here, whoever is nearer."""
        return domain in self._above_normal

    def stands_for(self, path: str) -> None:
        """Take in that the daemon has subscribed us, and to what.

        Levels below that it told over an earlier connection have ended, unless it tells them again now (SPEC L-22).
        """
        self.path = path
        told, self._above_normal = list(self._above_normal), {}
        for domain in told:
            self.put(Pressure(domain, "normal", "the daemon came back, and tells it no more", 0))

    def put(self, event: Pressure | Killed) -> None:
        """Take in an event, in the place of what it makes out of date."""
        if self.ended:
            return
        if isinstance(event, Pressure):
            self._put_level(event)
        else:
            killed = [old for old in self._events if isinstance(old, Killed)]
            if len(killed) == KILLED_MOST:
                self._events.remove(killed[0])
        self._events.append(event)
        self._wake()

    def _put_level(self, event: Pressure) -> None:
        """Note a level, and drop the earlier one of its domain; where too many wait, the oldest of a domain below."""
        below = event.domain != self.path
        if not below:
            self.latest = event
        else:
            self._above_normal.pop(event.domain, None)
            if event.level != "normal":
                self._above_normal[event.domain] = None
                if len(self._above_normal) > DOMAINS_MOST:
                    del self._above_normal[next(iter(self._above_normal))]
        levels = [old for old in self._events if isinstance(old, Pressure)]
        same = [old for old in levels if old.domain == event.domain]
        others = [old for old in levels if old.domain != self.path]
        if same:
            self._events.remove(same[0])
        elif below and len(others) == DOMAINS_MOST:
            self._events.remove(others[0])

    def take(self) -> Pressure | Killed | None:
        """Give the next event."""
        if self._events and not self.ended:
            return self._events.popleft()
        self._find_nothing()
        return None


class NoticeInbox(Inbox):
    """The notices to an app: only the latest waits."""

    __slots__ = ("_given", "_notice")

    def __init__(self) -> None:
        super().__init__()
        self._notice: Notice | None = None
        self._given: tuple[Notice, ...] = ()

    def put(self, notice: Notice) -> None:
        """Take in a notice, in the place of the one before."""
        self._notice = notice
        self._wake()

    def forget(self) -> None:
        """Drop all that came: the one who sent it is gone."""
        self._notice = None
        self._given = ()

    def gave(self, notice: Notice) -> bool:
        """Say whether this very notice was taken from here, and its sender is still there."""
        return any(notice is given for given in self._given)

    def take(self) -> Notice | None:
        """Give the latest notice, once."""
        if self._notice is not None and not self.ended:
            notice, self._notice = self._notice, None
            self._given = (*self._given, notice)[-NOTICES_REMEMBERED:]
            return notice
        self._find_nothing()
        return None
