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

    def try_watch(self, domain: str, is_watched: Callable[[], bool]) -> bool:
        """Have a domain watched for somebody who is about to subscribe; whether it is."""
        if not is_watched() and not self.count(domain):
            self._first(domain)
            if not is_watched():
                self._last(domain)
        return is_watched()

    def add(self, client: Client, asked: str, domain: str, propagation: Propagation) -> str | None:
        """Have a client hear of a domain; a second subscription to it changes how.

        Return the domain that it leaves for it: `own` stands for another one after a move.
        """
        words = self._asked.setdefault(client, {})
        left = words.get(asked)
        words[asked] = domain
        held = self._by_domain.setdefault(domain, {})
        is_first = not held
        held[client] = propagation
        if is_first:
            self._first(domain)
        if left is not None and left not in words.values():
            self._leave(client, left)
            return left
        self._forgive(client)
        return None

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
        self._forgive(client)

    def _forgive(self, client: Client) -> None:
        """Owe a client no more the ends of domains that it does not reach any more, of its own accord."""
        told = self._told_below.get(client)
        if told is not None:
            self._owe(client, {name for name in told if client in self._reaching(name)})

    def _owe(self, client: Client, told: set[str]) -> None:
        if told:
            self._told_below[client] = told
        else:
            self._told_below.pop(client, None)

    def hearing(self, domain: str) -> list[Client]:
        """Return those that subscribe to exactly this domain."""
        return list(self._by_domain.get(domain, ()))

    def hearing_level(self, domain: str, level: Level) -> list[Client]:
        """Return all that hear of a domain's new level, here or further up, and remember who is owed its end."""
        hearing = self.hearing_news(domain)
        if not self._is_alone(domain):
            reaching = self._reaching(domain)
            for client in hearing:
                if client in reaching:
                    self._note(client, domain, level)
        return hearing

    def tells_present(self, client: Client, domain: str, level: Level) -> bool:
        """Whether one client is to be told now how a domain stands; if so, remember that it was."""
        if client not in self.hearing_news(domain):
            return False
        if client in self._reaching(domain):
            self._note(client, domain, level)
        return True

    def _note(self, client: Client, domain: str, level: Level) -> None:
        told = self._told_below.get(client, set())
        if level is Level.NORMAL:
            told.discard(domain)
        else:
            told.add(domain)
        self._owe(client, told)

    def hearing_news(self, domain: str) -> list[Client]:
        """Return all that hear of something that happened in a domain."""
        found = self.hearing(domain)
        if self._is_alone(domain):
            return found
        return found + list(self._going_up(domain, bool(found), set(found)))

    def _is_alone(self, domain: str) -> bool:
        """Whether nobody can hear of it but those that subscribe to it: the usual case, with thousands of them."""
        return domain == SYSTEM_DOMAIN or len(self._by_domain) == (domain in self._by_domain)

    def _reaching(self, domain: str) -> set[Client]:
        """Return those whose subscription to something above reaches down to a domain."""
        return {
            client
            for path in _paths_above(domain)
            for client, propagation in self._by_domain.get(path, {}).items()
            if propagation is not Propagation.LOCAL
        }

    def _going_up(self, domain: str, heard: bool, told: set[Client]) -> Iterator[Client]:
        for path in _paths_above(domain):
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


def _paths_above(domain: str) -> tuple[str, ...]:
    return () if domain == SYSTEM_DOMAIN else (*paths_up(domain)[1:], SYSTEM_DOMAIN)
