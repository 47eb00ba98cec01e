"""What goes into the heart: everything that can happen, as values."""

from __future__ import annotations

from dataclasses import dataclass

from lmkd.model import Answer, App, AppClass, Level, Process, Reading, Victim
from lmkd.policy.settings import Settings


@dataclass(frozen=True, slots=True)
class ReadingTaken:
    """A domain was read. Nothing else moves its level, and nothing else starts or advances a kill."""

    reading: Reading


@dataclass(frozen=True, slots=True)
class DomainOpened:
    """A domain is watched from now on."""

    domain: str


@dataclass(frozen=True, slots=True)
class DomainClosed:
    """A domain is gone, or no longer watched."""

    domain: str


@dataclass(frozen=True, slots=True)
class AppRegistered:
    """A program registered, with the class it was granted."""

    app: App


@dataclass(frozen=True, slots=True)
class AppUpdated:
    """A program, or the controller for it, changed what it declared. None: unchanged."""

    app: int
    app_class: AppClass | None = None
    sheddable_kib: int | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class AppRuled:
    """What the rules give a program, beside its class, is this from now on."""

    app: int
    grace_us: int | None


@dataclass(frozen=True, slots=True)
class AppGone:
    """A program unregistered or its connection ended."""

    app: int


@dataclass(frozen=True, slots=True)
class AppsMeasured:
    """The sizes of apps just after they were told, against which their promises will be held."""

    domain: str
    sizes_kib: tuple[tuple[int, int], ...]
    """(app number, KiB) pairs."""


@dataclass(frozen=True, slots=True)
class AckReceived:
    """An app answered a notice."""

    app: int
    notice: int
    answer: Answer
    freed_kib: int
    measured_kib: int | None
    """Its size when the answer came; None where it could not be read."""


@dataclass(frozen=True, slots=True)
class ProcessesScanned:
    """The processes of a domain, as asked for by ScanProcesses."""

    domain: str
    processes: tuple[Process, ...]


@dataclass(frozen=True, slots=True)
class SizesNoted:
    """What processes held for themselves in memory when an episode began, their swap not counted."""

    domain: str
    sizes_kib: tuple[tuple[int, int, int], ...]
    """(pid, start_ticks, KiB); those that are not in it were not there, or held next to nothing."""


@dataclass(frozen=True, slots=True)
class VictimExited:
    """The victim of a kill has ended (pidfd), or its cgroup is empty."""

    domain: str
    kill: int


@dataclass(frozen=True, slots=True)
class WatchdogKilled:
    """While the loop did not answer, the watchdog ended somebody."""

    domain: str
    victim: Victim
    reason: str


@dataclass(frozen=True, slots=True)
class SignalFailed:
    """A signal could not be sent: the victim vanished or was not the one that was ranked any more, or not permitted."""

    domain: str
    kill: int
    reason: str


@dataclass(frozen=True, slots=True)
class SimulationAsked:
    """Tell these apps that the level were another, for a while. Nothing is killed for it."""

    apps: tuple[int, ...]
    level: Level
    duration_us: int


@dataclass(frozen=True, slots=True)
class SimulationEnded:
    """The time of a simulation is up. Asleep, the next reading would see that only seconds later."""


@dataclass(frozen=True, slots=True)
class LevelRelayed:
    """Another daemon, which sees more of the machine, says what level a domain is at. None: it is gone."""

    domain: str
    level: Level | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class OutsideKillAnnounced:
    """Somebody else is about to end all that is in a cgroup, and waits a while for our apps in it."""

    announcement: int
    cgroup: str
    killer: str
    until_us: int
    """The moment until which it waits at most."""


@dataclass(frozen=True, slots=True)
class OutsideKillOver:
    """Whoever announced a kill has had the time for it."""

    announcement: int


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """A new policy was loaded."""

    settings: Settings


Event = (
    ReadingTaken
    | DomainOpened
    | DomainClosed
    | AppRegistered
    | AppUpdated
    | AppRuled
    | AppGone
    | AppsMeasured
    | AckReceived
    | ProcessesScanned
    | SizesNoted
    | VictimExited
    | WatchdogKilled
    | SignalFailed
    | SimulationAsked
    | SimulationEnded
    | LevelRelayed
    | OutsideKillAnnounced
    | OutsideKillOver
    | SettingsChanged
)
