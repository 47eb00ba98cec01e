"""Who hears of which domain: subscriptions, and how a level travels up.

The three ways are the kernel's own, of memory.pressure_level (cgroup v1, mm/vmpressure.c, vmpressure_event): from the
domain where it happened a word goes up the path to the system. `hierarchy` hears every one that passes, `default` only
what no subscriber below has heard, `local` none that comes from below.

Whoever was told of a lower domain's level above normal hears its end, even if somebody nearer has come to listen
since: the last word of a domain always names its present level (SPEC L-2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lmkd.cgroup_paths import paths_up
from lmkd.model import SYSTEM_DOMAIN, Level, Propagation
from lmkd.service.client import Client


class Subscribers:
    """All subscriptions. `first` and `last` hear when a domain gets its first subscriber, and has lost its last."""

    def __init__(self, first: Callable[[str], None], last: Callable[[str], None]) -> None:
        self._first = first
        self._last = last
        self._by_domain: dict[str, dict[Client, Propagation]] = {}
        self._asked: dict[Client, dict[str, str]] = {}
        """By client: what it subscribed to, in its words, and the domain that this stood for."""
        self._told_below: dict[Client, set[str]] = {}
        """By client: the lower domains of which it heard a level above normal."""

    def count(self, domain: str) -> int:
        """Return how many subscribe to a domain."""
        return len(self._by_domain.get(domain, ()))

    def domains_of(self, client: Client) -> list[str]:
        """Return the domains that a client subscribes to."""
        return list(dict.fromkeys(self._asked.get(client, {}).values()))

    def stands_for(self, client: Client, asked: str) -> str | None:
        """Return the domain that a client subscribed to by these words; None when it did not."""
        return self._asked.get(client, {}).get(asked)

    def add(self, client: Client, asked: str, domain: str, propagation: Propagation) -> None:
        """Have a client hear of a domain; a second subscription to it changes how."""
        self._asked.setdefault(client, {})[asked] = domain
        held = self._by_domain.setdefault(domain, {})
        is_first = not held
        held[client] = propagation
        if is_first:
            self._first(domain)

    def remove(self, client: Client, asked: str) -> str | None:
        """Have it hear no more; return the domain that it leaves, None when other words of its stand for that."""
        words = self._asked[client]
        domain = words.pop(asked)
        if not words:
            del self._asked[client]
        if domain in words.values():
            return None
        self._leave(client, domain)
        return domain

    def forget(self, client: Client) -> None:
        """A client has left."""
        for domain in self.domains_of(client):
            self._leave(client, domain)
        self._asked.pop(client, None)
        self._told_below.pop(client, None)

    def _leave(self, client: Client, domain: str) -> None:
        held = self._by_domain[domain]
        del held[client]
        if not held:
            del self._by_domain[domain]
            self._last(domain)

    def hearing(self, domain: str) -> list[Client]:
        """Return those that subscribe to exactly this domain."""
        return list(self._by_domain.get(domain, ()))

    def hearing_level(self, domain: str, level: Level) -> list[Client]:
        """Return all that hear of a domain's new level, here or further up, and remember who is owed its end."""
        found = self.hearing(domain)
        above = self._above(domain, found)
        for client in above:
            told = self._told_below.setdefault(client, set())
            if level is Level.NORMAL:
                told.discard(domain)
            else:
                told.add(domain)
            if not told:
                del self._told_below[client]
        return found + above

    def hearing_news(self, domain: str) -> list[Client]:
        """Return all that hear of something that happened in a domain."""
        found = self.hearing(domain)
        return found + self._above(domain, found)

    def _above(self, domain: str, found: list[Client]) -> list[Client]:
        if domain == SYSTEM_DOMAIN or len(self._by_domain) == (domain in self._by_domain):
            return []  # nobody listens to anything else
        return list(self._going_up(domain, bool(found), set(found)))

    def _going_up(self, domain: str, heard: bool, told: set[Client]) -> Iterator[Client]:
        for path in (*paths_up(domain)[1:], SYSTEM_DOMAIN):
            heard_here = False
            for client, propagation in self._by_domain.get(path, {}).items():
                if client in told or propagation is Propagation.LOCAL:
                    continue
                owed = domain in self._told_below.get(client, ())
                if propagation is Propagation.HIERARCHY or not heard or owed:
                    heard_here = True
                    told.add(client)
                    yield client
            heard = heard or heard_here
