"""What a client says: one frozen value for each request.

Who may send what, and when, is for lmkd_proto.connection to say.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmkd_proto.errors import LocalProtocolError
from lmkd_proto.fields import (
    BYTES,
    CLASS,
    DOMAIN_ASKED,
    DURATION,
    FLAG,
    ID,
    IDENTITY,
    LEVEL,
    NAME,
    NAME_OR_EMPTY,
    OWN_CLASS,
    PID,
    ROWS,
    SKIPPED,
    VERSION,
    Body,
    Field,
)
from lmkd_proto.values import ANSWERS, PROPAGATIONS, SCOPES, UNITS, Choice


@dataclass(frozen=True, slots=True)
class Hello(Body):
    """Open the conversation: the highest version the client speaks, and its name for people."""

    type = "hello"
    fields = (
        ID,
        Field("version", VERSION),
        Field("name", NAME_OR_EMPTY, ""),
    )
    id: int
    version: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Subscribe(Body):
    """Hear every change of a domain's level, and the present one at once.

    `own` is the cgroup that the asking process is in. `propagation` says whether levels of domains
    below are heard too: of none, of those that nobody nearer hears of, or of all.
    """

    type = "subscribe"
    fields = (
        ID,
        Field("domain", DOMAIN_ASKED, "system"),
        Field("propagation", Choice(PROPAGATIONS), "local"),
    )
    id: int
    domain: str = "system"
    propagation: str = "local"


@dataclass(frozen=True, slots=True)
class Unsubscribe(Body):
    """Hear no more of a domain."""

    type = "unsubscribe"
    fields = (ID, Field("domain", DOMAIN_ASKED, "system"))
    id: int
    domain: str = "system"


@dataclass(frozen=True, slots=True)
class Register(Body):
    """Be an app: be told before being killed, and be asked to free memory."""

    type = "register"
    fields = (
        ID,
        Field("name", NAME),
        Field("class", OWN_CLASS, attribute="app_class"),
        Field("sheddable_bytes", BYTES, 0),
        Field("unit", Choice(UNITS), "process"),
    )
    id: int
    name: str
    app_class: str
    sheddable_bytes: int = 0
    unit: str = "process"


@dataclass(frozen=True, slots=True)
class Update(Body):
    """Change what was registered. None leaves a value as it is; one value at least must change."""

    type = "update"
    fields = (
        ID,
        Field("class", OWN_CLASS, None, attribute="app_class"),
        Field("sheddable_bytes", BYTES, None),
        Field("name", NAME, None),
    )
    id: int
    app_class: str | None = None
    sheddable_bytes: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        # Not super(): a slotted dataclass is a new class, which a zero-argument super() does not
        # know.
        Body.__post_init__(self)
        if self.app_class is None and self.sheddable_bytes is None and self.name is None:
            raise LocalProtocolError(
                "update: expected at least one of the keys 'class', 'sheddable_bytes', 'name'"
            )


@dataclass(frozen=True, slots=True)
class Unregister(Body):
    """Be an app no more."""

    type = "unregister"
    fields = (ID,)
    id: int


@dataclass(frozen=True, slots=True)
class Ack(Body):
    """Answer a notice: what was done, and how much was freed."""

    type = "ack"
    fields = (
        ID,
        Field("notice", IDENTITY),
        Field("answer", Choice(ANSWERS)),
        Field("freed_bytes", BYTES, 0),
    )
    id: int
    notice: int
    answer: str
    freed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Status(Body):
    """Ask how things stand."""

    type = "status"
    fields = (ID,)
    id: int


@dataclass(frozen=True, slots=True)
class History(Body):
    """Ask for past episodes, or for the records of one."""

    type = "history"
    fields = (
        ID,
        Field("episode", IDENTITY, None),
        Field("after", SKIPPED, 0),
        Field("limit", ROWS, 20),
    )
    id: int
    episode: int | None = None
    after: int = 0
    limit: int = 20


@dataclass(frozen=True, slots=True)
class Explain(Body):
    """Ask how a process would be treated, or why a kill was made. One of the two is named."""

    type = "explain"
    fields = (ID, Field("pid", PID, None), Field("kill", IDENTITY, None))
    id: int
    pid: int | None = None
    kill: int | None = None

    def __post_init__(self) -> None:
        Body.__post_init__(self)  # not super(): as in Update
        if (self.pid is None) is (self.kill is None):
            raise LocalProtocolError("explain: expected exactly one of the keys 'pid', 'kill'")


@dataclass(frozen=True, slots=True)
class Rules(Body):
    """Ask for the rules in their order, and how many processes each was given to."""

    type = "rules"
    fields = (ID, Field("after", SKIPPED, 0), Field("limit", ROWS, 20))
    id: int
    after: int = 0
    limit: int = 20


@dataclass(frozen=True, slots=True)
class Processes(Body):
    """Ask for the processes and their classes; or only for those that no rule speaks for."""

    type = "processes"
    fields = (
        ID,
        Field("unruled", FLAG, False),
        Field("after", SKIPPED, 0),
        Field("limit", ROWS, 20),
    )
    id: int
    unruled: bool = False
    after: int = 0
    limit: int = 20


@dataclass(frozen=True, slots=True)
class Simulate(Body):
    """Rehearse a level: everything is said as if it were real, and nothing is killed."""

    type = "simulate"
    fields = (
        ID,
        Field("level", LEVEL),
        Field("scope", Choice(SCOPES), "self"),
        Field("duration_ms", DURATION, 5000),
    )
    id: int
    level: str
    scope: str = "self"
    duration_ms: int = 5000


@dataclass(frozen=True, slots=True)
class SetClass(Body):
    """Give another app a class (controller)."""

    type = "set_class"
    fields = (
        ID,
        Field("app", IDENTITY),
        Field("class", CLASS, attribute="app_class"),
    )
    id: int
    app: int
    app_class: str


@dataclass(frozen=True, slots=True)
class Reload(Body):
    """Read the configuration again (controller)."""

    type = "reload"
    fields = (ID,)
    id: int


@dataclass(frozen=True, slots=True)
class Record(Body):
    """Ask for the recordings that are kept, and have what is in memory saved first (controller)."""

    type = "record"
    fields = (ID, Field("save", FLAG, True))
    id: int
    save: bool = True
