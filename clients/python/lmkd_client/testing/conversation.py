"""One program in conversation with a fake lmkd: what it asks is answered as SPEC.md has it.

Whoever calls a method holds the lock of the fake (`changed`), which is told of whatever happens here.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from lmkd_proto import (
    Ack,
    Error,
    Event,
    Explain,
    Hello,
    History,
    Malformed,
    Message,
    Notice,
    Ok,
    Pressure,
    Processes,
    Record,
    Register,
    Reload,
    RemoteProtocolError,
    Rules,
    SetClass,
    Simulate,
    Status,
    Subscribe,
    Unregister,
    Unsubscribe,
    Update,
    Welcome,
    encode,
)

from lmkd_client.testing.peer import Peer

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from lmkd_client.testing.fake_lmkd import FakeLmkd

TIMES_MS = {"cached": (1000, 500), "background": (3000, 2000)}
"""Grace and time to exit by class, as lmkd has them; of the other classes 5 s each."""
OWN = "/own"
"""The path that the domain `own` stands for here."""


@dataclass(frozen=True, slots=True)
class FakeApp:
    """A program that has registered, with what it asked for and was granted."""

    number: int
    name: str
    app_class: str
    sheddable_bytes: int
    unit: str

    @property
    def grace_ms(self) -> int:
        """How long it has from a notice on."""
        return TIMES_MS.get(self.app_class, (5000, 5000))[0]

    def describe(self) -> dict[str, object]:
        """Make the result of a registration."""
        grace_ms, time_to_exit_ms = TIMES_MS.get(self.app_class, (5000, 5000))
        return {
            "app": self.number,
            "class": self.app_class,
            "unit": self.unit,
            "domain": "system",
            "grace_ms": grace_ms,
            "time_to_exit_ms": time_to_exit_ms,
        }


@dataclass(slots=True)
class Told:
    """A notice that was said, and what came of it."""

    notice: Notice
    said_ns: int
    due_ms: int
    """The deadline, from when it was said; with the extension, once that was had."""
    words: list[tuple[str, int]] = field(default_factory=list)
    after_ms: int = 0
    """When the last of the words came."""

    @property
    def since_ms(self) -> int:
        """How long ago it was said."""
        return (time.monotonic_ns() - self.said_ns) // 1_000_000

    @property
    def is_answered(self) -> bool:
        """Whether the last word was said."""
        return any(word != "working" for word, _ in self.words)


class Conversation:
    """One connection. `told` are the notices that went over it, by number."""

    def __init__(self, peer: Peer, fake: FakeLmkd) -> None:
        self.peer = peer
        self.name = ""
        self.app: FakeApp | None = None
        self.has_left = False
        self.told: dict[int, Told] = {}
        self._fake = fake
        self._propagation: dict[str, str] = {}
        self._rehearsal: threading.Timer | None = None
        self.thread = threading.Thread(target=self._run, name="lmkd fake client", daemon=True)

    def say(self, *messages: Message) -> None:
        """Say this, if the program is still there to hear it."""
        self.peer.say_anyway(b"".join(encode(message) for message in messages))

    def show_level(self, *, simulated: bool = False, level: str | None = None) -> None:
        """Tell the subscriber, if it is one, of a level; of the one that stands, if none is given."""
        for domain in self._propagation:
            path = OWN if domain == "own" else domain
            shown = level or self._fake.level
            self.say(Pressure(path, shown, self._fake.reason, 1 << 30, simulated))

    def tell(self, notice: Notice) -> None:
        """Tell the app."""
        self.told[notice.notice] = Told(notice, time.monotonic_ns(), notice.deadline_ms)
        self.say(notice)

    def end(self) -> None:
        """End it, and wait until it has ended. Without the lock."""
        self.peer.hang_up()
        self.thread.join()
        if self._rehearsal is not None:
            self._rehearsal.cancel()
            self._rehearsal.join()
        self.peer.close()

    def _run(self) -> None:
        event: Event | None = None
        while True:
            try:
                event = self.peer.hear()
            except TimeoutError:
                continue  # the time is for what is said: who does not read may not hold up a test
            except RemoteProtocolError as error:
                self.say(Error(None, error.code, error.message))
                event = None
            with self._fake.changed:
                if event is None:
                    self.has_left = True
                    self.app = None
                    self.peer.hang_up()
                else:
                    self._answer(event)
                self._fake.changed.notify_all()
            if event is None:
                return

    def _answer(self, event: Event) -> None:
        if isinstance(event, Hello):
            self.name = event.name
            self.say(Welcome(event.id, 1, "lmkd fake", False))
        elif isinstance(event, Malformed):
            self.say(event.reply())
        elif isinstance(event, Subscribe):
            self._propagation[event.domain] = event.propagation
            path = OWN if event.domain == "own" else event.domain
            level = self._fake.level
            self.say(
                Ok(event.id, {"domain": path, "propagation": event.propagation}),
                Pressure(path, level, self._fake.reason, 1 << 30),
            )
        elif isinstance(event, Unsubscribe):
            known = self._propagation.pop(event.domain, None) is not None
            self._settle(event.id, None if known else "not_subscribed")
        elif isinstance(event, Register):
            self._register(event)
        elif isinstance(event, Update | Unregister | Ack) and self.app is None:
            self._settle(event.id, "not_registered")
        elif isinstance(event, Update):
            self._update(event)
        elif isinstance(event, Unregister):
            self.app = None
            self.say(Ok(event.id))
        elif isinstance(event, Ack):
            self._take(event)
        elif isinstance(event, Simulate):
            self._simulate(event)
        elif isinstance(event, Status):
            self.say(Ok(event.id, self._fake.describe()))
        elif isinstance(event, History):
            unknown = event.episode is not None
            self._settle(event.id, "unknown_episode" if unknown else None, {"episodes": []})
        elif isinstance(event, Rules | Processes):
            self._settle(event.id, None, {event.type: [], "total": 0, "next": None})
        elif isinstance(event, Explain):
            self._settle(event.id, "unknown_process" if event.kill is None else "unknown_kill")
        elif isinstance(event, SetClass | Reload | Record):
            self._settle(event.id, "forbidden")
        else:
            self.say(Error(getattr(event, "id", None), "unknown_type", f"{event.type}: not here"))

    def _settle(
        self, request: int, code: str | None, result: dict[str, object] | None = None
    ) -> None:
        self.say(Error(request, code, "a fake's word") if code else Ok(request, result or {}))

    def _register(self, asked: Register) -> None:
        if self.app is not None:
            self._settle(asked.id, "already_registered")
            return
        unit = "process" if asked.unit == "cgroup" else asked.unit  # that takes the controller
        self.app = FakeApp(
            self._fake.next_app(), asked.name, asked.app_class, asked.sheddable_bytes, unit
        )
        self.say(Ok(asked.id, self.app.describe()))
        if self._fake.level != "normal":
            self.tell(self._fake.make_notice(self._fake.level, self.app))

    def _update(self, asked: Update) -> None:
        assert self.app is not None
        sheddable_bytes = asked.sheddable_bytes
        self.app = FakeApp(
            self.app.number,
            asked.name or self.app.name,
            asked.app_class or self.app.app_class,
            self.app.sheddable_bytes if sheddable_bytes is None else sheddable_bytes,
            self.app.unit,
        )
        self.say(Ok(asked.id, self.app.describe()))

    def _take(self, ack: Ack) -> None:
        """SPEC L-10 and L-11."""
        assert self.app is not None
        if not self.told or not min(self.told) <= ack.notice <= max(self.told):
            self._settle(ack.id, "unknown_notice")
            return
        told = self.told.get(ack.notice)
        if told is not None:
            asked_for_more = ack.answer == "working" and not told.words
            if asked_for_more and not told.notice.emergency and told.since_ms < told.due_ms:
                told.due_ms += self.app.grace_ms
            if not told.is_answered:
                told.words.append((ack.answer, ack.freed_bytes))
                told.after_ms = told.since_ms
        latest = self.told[max(self.told)]
        self._settle(ack.id, None, {"deadline_ms": max(latest.due_ms - latest.since_ms, 0)})

    def _simulate(self, asked: Simulate) -> None:
        """Say a level to this program alone, and after the time how things are."""
        if asked.scope == "all":
            self._settle(asked.id, "forbidden")
            return
        if self._rehearsal is not None and self._rehearsal.is_alive():
            self._settle(asked.id, "busy")
            return
        self.say(Ok(asked.id))
        self.show_level(simulated=True, level=asked.level)
        if self.app is not None:
            self.tell(self._fake.make_notice(asked.level, self.app, simulated=True))
        self._rehearsal = threading.Timer(asked.duration_ms / 1000, self._end_rehearsal)
        self._rehearsal.daemon = True
        self._rehearsal.start()

    def _end_rehearsal(self) -> None:
        with self._fake.changed:
            if self.has_left:
                return
            self.show_level()
            if self.app is not None:
                self.tell(self._fake.make_notice(self._fake.level, self.app))
