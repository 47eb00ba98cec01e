"""What happens, as it happens: the levels of domains and the kills in them, and rehearsals of a level.

An event is a plain map with integers and text, fit for a script as it is; `describe_event` makes a line of it for a
person. Times are when this program heard of it, not when it was decided.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import tzinfo

from lmkd_client import Client, Killed, Notice, Notices, Pressure, Subscription

from lmkd.ctl.page import Line
from lmkd.ctl.result import Row, flag, number, text
from lmkd.ctl.words import clock_words, size_words, time_words

LOOK_MS = 100
"""How long one domain is listened to before the next is looked at, and before a lost daemon is noticed."""
REHEARSAL_LOOK_MS = 20
YIELDED_REMEMBERED = 64
"""Events that may still come from another subscription too."""
PATIENCE_MS = 3_000
"""How long to wait, when a rehearsal is over, for the word that says so."""
OWN_NAME = "lmkctl"
OWN_CLASS = "background"
OWN_SHEDDABLE_BYTES = 64 << 20
"""What we claim to hold while we rehearse: it decides what we are asked for, and we give nothing."""

Event = dict[str, object]
Heard = Pressure | Killed | Notice


def event_of(message: Heard, at_unix_ms: int) -> Event:
    """Return what the daemon said as an event."""
    event: Event = {"event": message.type, "at_unix_ms": at_unix_ms}
    for declared in message.fields:
        event[declared.key] = getattr(message, declared.attribute)
    return event


def describe_event(event: Row, zone: tzinfo | None) -> Line:
    """Return an event as one line."""
    lead = f"{clock_words(number(event, 'at_unix_ms') or 0, zone)}  "
    level = text(event, "level")
    rehearsed = " (rehearsed)" if flag(event, "simulated") else ""
    kind = text(event, "event")
    if kind == "pressure":
        domain, reason = text(event, "domain"), text(event, "reason")
        said = f"{domain}: {level}{rehearsed}" + (f", {reason}" if reason else "")
        if not rehearsed:
            said += f"; {size_words(_kib(event, 'available_bytes'))} available"
        return Line(said, lead, level)
    if kind == "killed":
        pid = number(event, "pid")
        who = f"pid {pid}" if pid else "a whole cgroup"
        said = (
            f"{text(event, 'domain')}: ended {text(event, 'name')} ({who}, {text(event, 'class')}); "
            f"it gave back {size_words(_kib(event, 'freed_bytes'))}; {text(event, 'reason')}"
        )
        return Line(said, lead)
    if kind == "notice":
        if level == "normal":
            said = "nothing is asked any more"
        elif flag(event, "emergency"):
            said = f"free {size_words(_kib(event, 'target_bytes'))} at once: an emergency"
        else:
            deadline = time_words(number(event, "deadline_ms"))
            said = f"free {size_words(_kib(event, 'target_bytes'))} within {deadline}"
        return Line(f"notice: {level}{rehearsed}, {said}; {text(event, 'reason')}", lead, level)
    return Line(text(event, "said", kind), lead)


def _kib(event: Row, key: str) -> int | None:
    amount = number(event, key)
    return None if amount is None else amount >> 10


def watch(
    client: Client, domains: Sequence[str], propagation: str, now_unix_ms: Callable[[], int]
) -> Iterator[Event]:
    """Yield all events of these domains, for ever; and when the daemon leaves and comes back.

    What several of them hear is yielded once.
    """
    subscriptions = [client.subscribe(domain, propagation) for domain in domains]
    yielded: deque[Heard] = deque(maxlen=YIELDED_REMEMBERED)
    greeting, away = client.welcome, False
    while True:
        found = _listen(subscriptions, LOOK_MS)
        if client.welcome is not greeting:
            if not away:
                yield _own_event(
                    "lost", "the daemon is gone; waiting for it to return", now_unix_ms()
                )
            greeting, away = client.welcome, client.welcome is None
            if greeting is not None:
                yield _own_event("back", f"{greeting.server} is back", now_unix_ms())
        for message in found:
            # One message is one value, whichever subscriptions it went to; an equal one is news.
            if not any(message is earlier for earlier in yielded):
                yielded.append(message)
                yield event_of(message, now_unix_ms())


def rehearse(
    client: Client, level: str, scope: str, duration_ms: int, now_unix_ms: Callable[[], int]
) -> Iterator[Event]:
    """Be a program, have a level rehearsed, and yield what it hears until things are as they really are."""
    subscription = client.subscribe()
    app = client.register(OWN_NAME, OWN_CLASS, OWN_SHEDDABLE_BYTES)
    notices = app.notices()
    before = subscription.wait(PATIENCE_MS)
    if before is not None:
        yield event_of(before, now_unix_ms())
    client.simulate(level, scope, duration_ms)
    until_ms = _now_ms() + duration_ms + PATIENCE_MS
    heard: dict[str, bool] = {}
    while heard != {"pressure": True, "notice": True} and _now_ms() < until_ms:
        for message in _listen((notices, subscription), REHEARSAL_LOOK_MS):
            yield event_of(message, now_unix_ms())
            if isinstance(message, Killed):
                continue
            if message.simulated:
                heard[message.type] = False
            elif message.type in heard:
                heard[message.type] = True
            if isinstance(message, Notice) and message.level != "normal":
                # It is due an answer, and we have nothing. Of a rehearsal, that is held against nobody.
                app.ack(message, "nothing")
                yield _own_event("answered", "answered: nothing to free", now_unix_ms())


def _listen(sources: Sequence[Subscription | Notices], timeout_ms: int) -> list[Heard]:
    """Return what has come from any of the sources; wait for the first of them when there is nothing yet.

    A client waits for one thing at a time, so what comes from the others is heard when that time is up.
    """
    found = [source.wait(0) for source in sources]
    if not any(found):
        found = [sources[0].wait(timeout_ms)]
    return [message for message in found if message is not None]


def _own_event(kind: str, said: str, at_unix_ms: int) -> Event:
    return {"event": kind, "at_unix_ms": at_unix_ms, "said": said}


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
