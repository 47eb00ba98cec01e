"""Say on the desktop what is closed, and why: org.freedesktop.Notifications of the session's bus.

A notice comes when a program that the user sees is asked to end, and is replaced when it has; which those are, and what
is one notice, is for `losses`. The latest is said, never a queue: no more than one notice is open that is still written
to. News that could not be said for STALE_S are none any more. Where there is no server, or it says no, that is said
once, and what is still news is tried again.

An application's name is read before it is needed: when memory is short, the disk is slow. What was installed since is
looked for at the time by a thread that reads files anyway, and waited for no longer than LOOK_UP_S; then it is called
what it calls itself. Neither holds up a kill: who is shown an action keeps it and returns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import trio
from jeepney import DBusAddress, HeaderFields, Message, MessageType, new_method_call
from jeepney.bus_messages import MatchRule, message_bus

from lmkd.interop.bus import Bus, BusError, keep_on_bus
from lmkd.interop.desktop_entries import Entries
from lmkd.interop.losses import STALE_S, Losses
from lmkd.interop.notice_words import Words, escape_markup
from lmkd.model import Process
from lmkd.policy.actions import Action

log = logging.getLogger("lmkd")
T = TypeVar("T")

NAME: Final = "org.freedesktop.Notifications"
PATH: Final = "/org/freedesktop/Notifications"
APP_NAME: Final = "Memory"
USUAL_ICON: Final = "dialog-warning"
CATEGORY: Final = "x-lmkd.memory"
"""The specification has none for this; one of one's own begins so."""
LOOK_UP_S: Final = 0.3
REST_S: Final = 0.3
"""Between two messages: what happens in the meantime is said with the next."""
AGAIN_S: Final = 10.0
"""After the server said no, unless there are news or another server sooner."""
NORMAL, CRITICAL = 1, 2
"""Urgency, as the specification counts."""
AS_USUAL_MS: Final = -1
"""As long as the server shows such things."""
LEFT_BEHIND_MS: Final = 10_000
"""So long after the time to save a notice goes by itself, should we not be there to replace it."""
EXIT_MOST_MS: Final = 3_600_000
MALFORMED: Final = "lmkd.Malformed"
"""What we call the error of a server that answers something else."""
_SERVER = DBusAddress(PATH, bus_name=NAME, interface=NAME)
_NO_SERVER: Final = f"nothing on the session's bus shows notices ({NAME})"
_READY: Final = f"notices are shown by {NAME} on the session's bus"


class DesktopNotices:
    """The notices of a session, on the bus at this address.

    `do` has a thread do what may block; `parent_of` returns a process's parent, where that is known.
    """

    key = "desktop_notices"

    def __init__(
        self,
        address: str,
        entries: Entries,
        do: Callable[[Callable[[], object]], None],
        parent_of: Callable[[int], Process | None],
        now_s: Callable[[], float] = trio.current_time,
    ) -> None:
        self._address = address
        self._entries = entries
        self._do = do
        self._now_s = now_s
        self._losses = Losses(entries, parent_of, now_s)
        self._said: tuple[int, Words | None] = (0, None)
        """Of which notice what was said last."""
        self._shown = (0, 0)
        """Of which notice the server's number is what; 0: it has none."""
        self._changed = trio.Event()
        self._failure: str | None = None
        self.standing = "not on the session's bus yet"
        """How it is with this bridge, in a line."""

    def take(self, action: Action) -> None:
        """Keep what is to be said of it."""
        if self._losses.take(action):
            self._changed.set()

    async def run(self) -> None:
        """Be on the session's bus for ever, whenever it is there."""
        self._do(self._entries.read_all)
        await keep_on_bus(self._address, self._serve, self._tell, self._note_failure)

    def close(self) -> None:
        """Nothing is held but the connection, which ends with `run`."""

    def _note_failure(self, why: str) -> None:
        self.standing = why
        if why != self._failure:
            self._failure = why
            log.warning("interop.%s: %s", self.key, why)

    def _note_ready(self) -> None:
        if self.standing != _READY:
            self.standing = _READY
            log.info("interop.%s: %s", self.key, self.standing)

    def _serve(self, message: Message) -> None:
        """Hear whether there is a server, and which."""
        fields = message.header.fields
        told = fields.get(HeaderFields.sender), fields.get(HeaderFields.member)
        if message.header.message_type is not MessageType.signal:
            return
        if told == ("org.freedesktop.DBus", "NameOwnerChanged") and message.body[0] == NAME:
            self._shown = (0, 0)  # the number was the former one's
            if message.body[2]:
                self._failure = None
                self._note_ready()
                self._changed.set()
            else:
                self.standing = f"{NAME} has left the session's bus"

    async def _tell(self, bus: Bus) -> None:
        self._shown = (0, 0)  # the server may have gone with the bus
        await self._look_for_server(bus)
        self._changed.set()
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self._look_up()
            try:
                await self._say(bus)
            except BusError as error:
                if not error.name:
                    raise
                is_missing = error.name == "org.freedesktop.DBus.Error.ServiceUnknown"
                self._note_failure(_NO_SERVER if is_missing else str(error))
                with trio.move_on_after(AGAIN_S):
                    await self._changed.wait()
                self._changed.set()
            await trio.sleep(REST_S)

    async def _look_for_server(self, bus: Bus) -> None:
        """Find out whether there is a server, without having one started before there is anything to say."""
        rule = MatchRule(
            type="signal",
            sender="org.freedesktop.DBus",
            interface="org.freedesktop.DBus",
            member="NameOwnerChanged",
        )
        rule.add_arg_condition(0, NAME)
        await bus.call(message_bus.AddMatch(rule))
        (is_there,) = await bus.call(message_bus.NameHasOwner(NAME))
        (startable,) = await bus.call(message_bus.ListActivatableNames())
        if is_there or NAME in startable:
            self._note_ready()
        else:
            self._note_failure(_NO_SERVER)

    async def _look_up(self) -> None:
        """Look for the entries that are not known, for a moment."""
        ids = self._losses.missing()
        if not ids:
            return
        come, token = trio.Event(), trio.lowlevel.current_trio_token()

        def read() -> None:
            self._entries.read(ids)
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(come.set)

        self._do(read)
        with trio.move_on_after(LOOK_UP_S):
            await come.wait()
        self._losses.note_looked_up(ids)

    def _news(self) -> Words | None:
        """Return what is to be said and was not; None for nothing."""
        words = self._losses.words()
        return None if (self._losses.number, words) == self._said else words

    async def _say(self, bus: Bus) -> None:
        """Say the latest, where that is something new."""
        if self._now_s() - self._losses.news_s > STALE_S:
            if self._news() is not None:
                self._losses.start_anew()
            return
        if self._losses.words() is None:
            await self._withdraw(bus)
        elif self._news() is not None:
            able = await self._ask(bus, new_method_call(_SERVER, "GetCapabilities"), list)
            words, number = self._losses.words(), self._losses.number
            if words is None:
                return  # taken back in this very moment, which is news by itself
            message = self._notify(words, reads_markup="body-markup" in able)
            shown = await self._ask(bus, message, int)
            self._shown, self._said = (number, shown), (number, words)
            self._failure = None  # not before: one that is there and silent is said once
            self._note_ready()

    async def _ask(self, bus: Bus, message: Message, kind: type[T]) -> T:
        """Call the server; return its answer, which is one value of a kind. Raises BusError, also for another."""
        answer = await bus.call(message)
        if len(answer) != 1 or not isinstance(answer[0], kind):
            asked = message.header.fields[HeaderFields.member]
            raise BusError(f"{asked}: {NAME} does not answer as it should", MALFORMED)
        return answer[0]

    async def _withdraw(self, bus: Bus) -> None:
        """Take back what was said of somebody who is not closed after all."""
        number, shown = self._shown
        self._said, self._shown = (self._losses.number, None), (0, 0)
        if shown and number == self._losses.number:
            try:
                await bus.call(new_method_call(_SERVER, "CloseNotification", "u", (shown,)))
            except BusError as error:
                if not error.name:  # else the user has closed it
                    raise

    def _notify(self, words: Words, *, reads_markup: bool) -> Message:
        hints: dict[str, tuple[str, Any]] = {
            "urgency": ("y", CRITICAL if words.is_urgent else NORMAL),
            "category": ("s", CATEGORY),
            # That something is being closed is of interest now; that it was, also later.
            "transient": ("b", words.is_urgent),
        }
        exit_us = self._losses.longest_exit_us()
        expire_ms = AS_USUAL_MS
        if exit_us is not None:
            expire_ms = min(exit_us // 1000, EXIT_MOST_MS) + LEFT_BEHIND_MS
        number, shown = self._shown
        replaced = shown if number == self._losses.number else 0
        body = escape_markup(words.body) if reads_markup else words.body
        icon = self._losses.icon() or USUAL_ICON
        arguments: tuple[Any, ...] = (
            APP_NAME,
            replaced,
            icon,
            words.summary,
            body,
            [],
            hints,
            expire_ms,
        )
        return new_method_call(_SERVER, "Notify", "susssasa{sv}i", arguments)
