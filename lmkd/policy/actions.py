"""What comes out of the heart, in the order in which it is to be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from lmkd.model import Level, Signal, Victim

Plain = int | str | bool | None | list["Plain"] | dict[str, "Plain"]
"""What a record may hold: anything that JSON and msgpack both know, without floats."""


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Tell every subscriber of the domain its level."""

    domain: str
    level: Level
    reason: str
    available_kib: int


class Notify(NamedTuple):
    """Give one app a notice.

    A tuple and not a dataclass: a thousand of them are made in one step, at a third of the time.
    """

    app: int
    notice: int
    domain: str
    level: Level
    target_kib: int
    deadline_us: int
    """The moment, not the span."""
    reason: str
    emergency: bool = False
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class MeasureApps:
    """Read the sizes of these apps, soon, and answer with AppsMeasured."""

    domain: str
    apps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ScanProcesses:
    """Read the processes of a domain, now, and answer with ProcessesScanned."""

    domain: str
    min_size_kib: int
    small: bool = False
    """Whether the smaller ones are wanted as well, as they are known, with their sizes alone read now."""

    @property
    def least_seen_kib(self) -> int:
        """The size from which on processes are in the answer."""
        return 0 if self.small else self.min_size_kib


@dataclass(frozen=True, slots=True)
class NoteSizes:
    """Measure what the processes of a domain hold now, and answer with SizesNoted."""

    domain: str


@dataclass(frozen=True, slots=True)
class SendSignal:
    """Signal a victim, after its identity was checked again. TERM comes first, KILL later or never."""

    domain: str
    kill: int
    victim: Victim
    signal: Signal
    reason: str = ""
    time_to_exit_us: int = 0
    """How long it has from SIGTERM to SIGKILL as things stand; it may become less."""


@dataclass(frozen=True, slots=True)
class WarnKill:
    """Tell an app that it is about to be ended."""

    app: int
    reason: str
    time_to_exit_us: int


@dataclass(frozen=True, slots=True)
class ReleaseVictim:
    """Let go of a victim that was given up: it never ended."""

    domain: str
    kill: int


@dataclass(frozen=True, slots=True)
class ReportKilled:
    """Tell every subscriber of the domain who died and why."""

    domain: str
    victim: Victim
    reason: str
    freed_kib: int


@dataclass(frozen=True, slots=True)
class RaiseAlarm:
    """Say loudly, once an episode, that nothing worth killing is left."""

    domain: str
    reason: str


@dataclass(frozen=True, slots=True)
class DelayOutsideKill:
    """Have whoever announced a kill wait until then, or until AllowOutsideKill."""

    announcement: int
    until_us: int


@dataclass(frozen=True, slots=True)
class AllowOutsideKill:
    """Let whoever announced a kill go on: nobody is waited for any more."""

    announcement: int


@dataclass(frozen=True, slots=True)
class Record:
    """Keep this for the history of an episode."""

    episode: int
    domain: str
    at_us: int
    kind: str
    """opened, level, told, ack, kill, signal, exited, measured, failed, watchdog, nothing_left, closed"""
    detail: Mapping[str, Plain] = field(default_factory=dict)


Action = (
    Broadcast
    | Notify
    | MeasureApps
    | ScanProcesses
    | NoteSizes
    | SendSignal
    | WarnKill
    | ReleaseVictim
    | ReportKilled
    | RaiseAlarm
    | DelayOutsideKill
    | AllowOutsideKill
    | Record
)
