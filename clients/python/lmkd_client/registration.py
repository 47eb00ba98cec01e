"""This program as an app: what it asked for, what it was given, and what it was told.

Knows no request and no reply, only what the session found in them.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmkd_proto import KillWarning, Notice, Register

from lmkd_client.errors import BrokenReply
from lmkd_client.inbox import NoticeInbox


@dataclass(frozen=True, slots=True)
class Grant:
    """What an app was given when it registered; class and unit may be less than it asked for."""

    app: int
    app_class: str
    unit: str
    domain: str
    grace_ms: int
    time_to_exit_ms: int


class AppState:
    """This program as an app: what it asked for, what it was given, what it was told last."""

    __slots__ = ("grant", "kill_warning", "latest", "notices", "wanted")

    def __init__(self, wanted: Register) -> None:
        self.wanted = wanted
        self.notices = NoticeInbox()
        self.grant: Grant | None = None
        self.latest: Notice | None = None
        self.kill_warning: KillWarning | None = None

    @property
    def level(self) -> str:
        """The level of the last notice; `normal` before the first."""
        return "normal" if self.latest is None else self.latest.level

    def take_grant(self, result: dict[str, object]) -> None:
        """Take in what was granted. Raises BrokenReply."""
        self.grant = read_grant(result)

    def hear(self, notice: Notice) -> None:
        """Take in a notice."""
        self.latest = notice
        self.notices.put(notice)

    def forget(self) -> None:
        """Drop all that an ended connection said."""
        self.latest = self.kill_warning = None
        self.notices.forget()


def read_grant(result: dict[str, object]) -> Grant:
    """Read the registration out of a reply."""
    words = [result.get(key) for key in ("class", "unit", "domain")]
    numbers = [result.get(key) for key in ("app", "grace_ms", "time_to_exit_ms")]
    app_class, unit, domain = words
    app, grace_ms, time_to_exit_ms = numbers
    if (
        isinstance(app_class, str)
        and isinstance(unit, str)
        and isinstance(domain, str)
        and isinstance(app, int)
        and isinstance(grace_ms, int)
        and isinstance(time_to_exit_ms, int)
    ):
        return Grant(app, app_class, unit, domain, grace_ms, time_to_exit_ms)
    raise BrokenReply(f"a registration without all of its keys: {sorted(result)}")
