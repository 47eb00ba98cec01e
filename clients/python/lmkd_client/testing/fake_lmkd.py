"""A daemon in the hands of a test: it answers what a program asks, and says what the test wants said.

    answered = lmkd.notice("critical", target_bytes=64 << 20, deadline_ms=1000)
    assert answered.answer == "done"

A program sees of it what it would see of lmkd, but that levels come by word of the test, and nobody is ever killed.
Its methods are for the thread of the test. `notice` and what begins with `wait` hold that thread, and belong into
another one where the program under test lives in the same event loop: asyncio.to_thread, trio.to_thread.run_sync.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from lmkd_proto import Bye, KillWarning, Message, Notice

from lmkd_client.testing.conversation import Conversation, FakeApp, Told
from lmkd_client.testing.peer import PATIENCE_S, Peer, listen

DEADLINE_MS = 5000
REASON = "a test"


class NoAnswer(AssertionError):
    """The program did not do in time what was waited for; the message says what it did instead."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a program made of a notice: its last word, after how long, and whether it said `working` before."""

    notice: Notice
    answer: str
    freed_bytes: int
    after_ms: int
    said_working: bool


class FakeLmkd:
    """A fake lmkd at a path, there from `start` (or where its block begins) until `stop`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.level = "normal"
        self.reason = REASON
        self.changed = threading.Condition(threading.RLock())
        """Held by whoever looks or changes something, and told of each change."""
        self._conversations: list[Conversation] = []
        self._listener: socket.socket | None = None
        self._accepting: threading.Thread | None = None
        self._last_notice = 0
        self._last_app = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # --- being there -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Be there, at level normal, and as one that knows nobody."""
        self.level, self.reason = "normal", REASON
        self._listener = listen(self.path)
        self._listener.settimeout(None)
        self._accepting = threading.Thread(
            target=self._accept, args=(self._listener,), name="lmkd fake", daemon=True
        )
        self._accepting.start()

    def stop(self, *, says_bye: bool = False) -> None:
        """Go away: every connection ends in the middle of whatever it was, and the socket is gone."""
        if self._listener is None or self._accepting is None:
            return
        if says_bye:
            self.say(Bye("the fake stops"))
        self._listener.shutdown(socket.SHUT_RDWR)  # ends the wait for the next one to come
        self._accepting.join()
        self._listener.close()
        self._listener = self._accepting = None
        Path(self.path).unlink(missing_ok=True)
        with self.changed:
            leaving, self._conversations = self._conversations, []
        for conversation in leaving:
            conversation.end()

    def restart(self) -> None:
        """Go away, and be there again: programs have to come back by themselves."""
        self.stop()
        self.start()

    # --- what a test says --------------------------------------------------------------------------------

    def notice(
        self,
        level: str = "critical",
        target_bytes: int | None = None,
        deadline_ms: int = DEADLINE_MS,
        *,
        app: str | None = None,
        emergency: bool = False,
        simulated: bool = False,
        reason: str = REASON,
    ) -> Answered:
        """Ask a program to free memory, and return its last word. Raises NoAnswer.

        Without a target it is asked for all that it declared. One that has not registered yet is waited for; where
        there are several, `app` is the name of the one that is meant. Subscribers hear the level, which stays.
        """
        if level == "normal":
            raise ValueError("level: normal asks for nothing and is not answered: tell() says it")
        told = self.tell(
            level,
            target_bytes,
            deadline_ms,
            app=app,
            emergency=emergency,
            simulated=simulated,
            reason=reason,
        )
        return self.wait_answer(told)

    def tell(
        self,
        level: str,
        target_bytes: int | None = None,
        deadline_ms: int = DEADLINE_MS,
        *,
        app: str | None = None,
        emergency: bool = False,
        simulated: bool = False,
        reason: str = REASON,
    ) -> Notice:
        """Say a notice as `notice` does, and do not wait for an answer."""
        found = self.wait_app(app)
        with self.changed:
            told = self.make_notice(
                level,
                found,
                target_bytes,
                deadline_ms,
                emergency=emergency,
                simulated=simulated,
                reason=reason,
            )
            self.pressure(level, simulated=simulated, reason=reason)
            for conversation in self._conversations:
                if conversation.app is found:
                    conversation.tell(told)
        return told

    def pressure(self, level: str, *, simulated: bool = False, reason: str = REASON) -> None:
        """Say a level to the subscribers, and nothing to the apps. It stays, unless it is a rehearsal."""
        with self.changed:
            if not simulated:
                self.level, self.reason = level, reason
            for conversation in self._conversations:
                conversation.show_level(level=level, simulated=simulated)

    def kill_warning(
        self, time_to_exit_ms: int = 500, *, app: str | None = None, reason: str = REASON
    ) -> None:
        """Warn a program of its end. lmkd sends SIGTERM with it; that is for the test to do, or not."""
        found = self.wait_app(app)
        with self.changed:
            for conversation in self._conversations:
                if conversation.app is found:
                    conversation.say(KillWarning(reason, time_to_exit_ms))

    def say(self, *messages: Message) -> None:
        """Say any messages to everybody who is connected, whether they may come now or not."""
        with self.changed:
            for conversation in self._conversations:
                conversation.say(*messages)

    def say_bytes(self, frames: bytes) -> None:
        """Send anything to everybody who is connected: garbage, half a frame, what is not invented yet."""
        with self.changed:
            for conversation in self._conversations:
                conversation.peer.say_anyway(frames)

    # --- what a test waits for ---------------------------------------------------------------------------

    @property
    def apps(self) -> tuple[FakeApp, ...]:
        """The programs that are registered now."""
        with self.changed:
            return tuple(talk.app for talk in self._conversations if talk.app is not None)

    def wait_app(self, name: str | None = None, timeout_s: float = PATIENCE_S) -> FakeApp:
        """Wait until a program has registered, by this name or else any, and return it. Raises NoAnswer."""
        until_s = time.monotonic() + timeout_s
        with self.changed:
            while True:
                found = [app for app in self.apps if name in (None, app.name)]
                if len(found) > 1:
                    names = ", ".join(app.name for app in found)
                    raise ValueError(f"app: there are {len(found)}, {names}; which one is meant?")
                if found:
                    return found[0]
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    raise NoAnswer(self._why_no_app(name, timeout_s))
                self.changed.wait(left_s)

    def wait_answer(self, notice: Notice) -> Answered:
        """Wait for the last word to a notice: until its deadline, as lmkd does. Raises NoAnswer.

        A deadline that is 0, as in an emergency, is nothing to wait for; then it is 10 s.
        """
        with self.changed:
            said_by = [talk for talk in self._conversations if notice.notice in talk.told]
            if not said_by:
                raise ValueError(f"notice {notice.notice} was not said since the fake started")
            (conversation,) = said_by
            told = conversation.told[notice.notice]
            while not told.is_answered:
                left_ms = (told.due_ms or PATIENCE_S * 1000) - told.since_ms
                if left_ms <= 0 or conversation.has_left:
                    raise NoAnswer(self._why_no_answer(told, conversation))
                self.changed.wait(left_ms / 1000)
            answer, freed_bytes = told.words[-1]
            return Answered(notice, answer, freed_bytes, told.after_ms, len(told.words) > 1)

    def _why_no_app(self, name: str | None, timeout_s: float) -> str:
        who = "no program" if name is None else f"no program {name!r}"
        here = [talk for talk in self._conversations if not talk.has_left]
        if not here:
            seen = "nobody is connected; was it started, and does it look for $LMKD_SOCKET?"
        elif self.apps:
            seen = f"registered: {', '.join(app.name for app in self.apps)}"
        else:
            seen = f"{len(here)} connected, and did not register"
        return f"{who} registered within {timeout_s:g} s at {self.path}: {seen}"

    def _why_no_answer(self, told: Told, conversation: Conversation) -> str:
        notice = told.notice
        what = f"notice {notice.notice} ({notice.level}, {notice.target_bytes} bytes)"
        said = ", then ".join(f"{word} with {freed} bytes" for word, freed in told.words)
        seen = f"it said {said}" if said else "it said nothing"
        if conversation.has_left:
            return f"the program left before it answered {what}; {seen}"
        return f"the program did not answer {what} within {told.due_ms or told.since_ms} ms; {seen}"

    # --- for conversations -------------------------------------------------------------------------------

    def make_notice(
        self,
        level: str,
        app: FakeApp,
        target_bytes: int | None = None,
        deadline_ms: int | None = None,
        *,
        emergency: bool = False,
        simulated: bool = False,
        reason: str = REASON,
    ) -> Notice:
        """Make the next notice to an app: for all that it declared, within its grace, if nothing else is said."""
        asked_bytes = app.sheddable_bytes if target_bytes is None else target_bytes
        within_ms = app.grace_ms if deadline_ms is None else deadline_ms
        if level == "normal":
            asked_bytes = within_ms = 0
        self._last_notice += 1
        return Notice(
            self._last_notice,
            "system",
            level,
            asked_bytes,
            0 if emergency else within_ms,
            reason,
            emergency,
            simulated,
        )

    def next_app(self) -> int:
        """Number an app."""
        self._last_app += 1
        return self._last_app

    def describe(self) -> dict[str, object]:
        """Make the result of a status, as much of it as there is here."""
        rows = [
            {**app.describe(), "name": app.name, "sheddable_kib": app.sheddable_bytes >> 10}
            for app in self.apps
        ]
        domains = [{"domain": "system", "level": self.level}]
        return {"domains": domains, "apps": rows, "app_count": len(rows)}

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return  # it was shut down
            sock.settimeout(PATIENCE_S)
            conversation = Conversation(Peer(sock), self)
            with self.changed:
                self._conversations.append(conversation)
                conversation.thread.start()
                self.changed.notify_all()
