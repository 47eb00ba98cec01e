"""A desktop for a test: a session bus, a server that shows notices, and what it was asked to show."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import trio
from jeepney import HeaderFields, Message, MessageType, new_error, new_method_return
from jeepney.bus_messages import message_bus

from lmkd.interop.bus import Bus, BusError, on_bus
from lmkd.interop.desktop_notices import NAME

ANYBODY = (
    "<policy context='mandatory'><allow own='*'/><allow send_destination='*'/>"
    "<allow receive_sender='*'/></policy>"
)
"""As on a session's bus."""
PATIENCE_S = 20


@dataclass(frozen=True)
class Shown:
    """One call of Notify."""

    notice: int
    replaces: int
    app_name: str
    icon: str
    summary: str
    body: str
    hints: dict[str, tuple[str, Any]]
    expire_ms: int

    @property
    def urgency(self) -> int:
        return int(self.hints["urgency"][1])


@dataclass
class NoticeServer:
    """Shows notices, as far as anybody can tell who sends them."""

    address: str
    capabilities: tuple[str, ...] = ("body", "body-markup")
    answers: bool = True
    refuses: bool = False
    is_sane: bool = True
    shown: list[Shown] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    asked: int = 0
    """How many calls came."""
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be there until `leave`."""

        async def own(bus: Bus) -> None:
            await bus.call(message_bus.RequestName(NAME))
            task_status.started()
            await trio.sleep_forever()

        with self._scope, suppress(BusError):
            await on_bus(self.address, self._serve, own)

    def leave(self) -> None:
        """Go without a word."""
        self._scope.cancel()

    def _serve(self, message: Message) -> Message | None:
        if message.header.message_type is not MessageType.method_call:
            return None
        self.asked += 1
        if not self.answers:
            return None
        if self.refuses:
            return new_error(message, f"{NAME}.Error.ExcessNotificationGeneration", "s", ("no",))
        if not self.is_sane:
            return new_method_return(message, "s", ("nonsense",))
        match message.header.fields.get(HeaderFields.member):
            case "GetCapabilities":
                return new_method_return(message, "as", (list(self.capabilities),))
            case "Notify":
                app_name, replaces, icon, summary, body, _, hints, expire_ms = message.body
                notice = replaces or len(self.shown) + 1
                self.shown.append(
                    Shown(notice, replaces, app_name, icon, summary, body, hints, expire_ms)
                )
                return new_method_return(message, "u", (notice,))
            case "CloseNotification":
                self.closed.append(message.body[0])
                return new_method_return(message)
            case member:
                raise AssertionError(f"nobody calls {member}")


async def until(is_true: Callable[[], object]) -> None:
    """Return once it is true."""
    with trio.fail_after(PATIENCE_S):
        while not is_true():  # noqa: ASYNC110 - a bus in between has no event for a test
            await trio.sleep(0.005)
