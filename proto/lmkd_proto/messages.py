"""The messages of the protocol, one frozen value each.

Each message declares its keys once, as data: `fields` names the wire key, the attribute, the kind
of value and the default. Checking, decoding, encoding and the tests of SPEC.md all read that table.
Who may send what, and when, is for lmkd_proto.connection to say.

A message that exists is valid: building one with a wrong value raises LocalProtocolError.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lmkd_proto.errors import LocalProtocolError
from lmkd_proto.values import (
    ANSWERS,
    CLASSES,
    LEVELS,
    MAX_ID,
    SCOPES,
    UNITS,
    Choice,
    Code,
    Domain,
    Flag,
    Integer,
    Map,
    Name,
    Text,
    find_fault,
    show,
)

# Importing typing takes a client 10 ms (measured), and nothing here needs it at run time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from lmkd_proto.values import Kind

PROTOCOL_VERSION = 1

REQUIRED = object()


class Field:
    """One key of a message. `default` is what an absent key means, or REQUIRED."""

    __slots__ = ("attribute", "default", "key", "kind")

    def __init__(
        self, key: str, kind: Kind, default: object = REQUIRED, *, attribute: str | None = None
    ) -> None:
        self.key = key
        self.kind = kind
        self.default = default
        self.attribute = attribute or key


_IDENTITY = Integer(0, 2**63 - 1, "2^63-1")
_BYTES = Integer(0, 2**63 - 1, "2^63-1")
_DURATION = Integer(0, 2**31 - 1, "2^31-1")
_PID = Integer(1, 2**31 - 1, "2^31-1")
_PID_OR_NONE = Integer(0, 2**31 - 1, "2^31-1")
_VERSION = Integer(1, 2**31 - 1, "2^31-1")
_REQUEST_ID = Integer(0, MAX_ID, "2^32-1")
_TEXT = Text(512)
_NAME = Name(1)
_NAME_OR_EMPTY = Name(0)
_DOMAIN = Domain()
_FLAG = Flag()
_LEVEL = Choice(LEVELS)
_CLASS = Choice(CLASSES)
_OWN_CLASS = Choice(tuple(word for word in CLASSES if word != "system"))

ID = Field("id", _REQUEST_ID)


class _Body:
    """What all messages share: their table, and the check against it."""

    __slots__ = ()

    type: ClassVar[str]
    fields: ClassVar[tuple[Field, ...]]

    def __post_init__(self) -> None:
        for declared in self.fields:
            value = getattr(self, declared.attribute)
            if declared.kind.accepts(value) or (value is None and declared.default is None):
                continue
            expected = declared.kind.expected
            # Why a map is refused cannot be seen from its type.
            fault = find_fault(value, depth=2) if type(value) is dict else None
            got = show(value) if fault is None else fault
            raise LocalProtocolError(
                f"{self.type}: key '{declared.key}': expected {expected}; got {got}"
            )


# Client to server: requests ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello(_Body):
    """Open the conversation: the highest version the client speaks, and its name for people."""

    type = "hello"
    fields = (
        ID,
        Field("version", _VERSION),
        Field("name", _NAME_OR_EMPTY, ""),
    )
    id: int
    version: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Subscribe(_Body):
    """Hear every change of a domain's level, and the present one at once."""

    type = "subscribe"
    fields = (ID, Field("domain", _DOMAIN, "system"))
    id: int
    domain: str = "system"


@dataclass(frozen=True, slots=True)
class Unsubscribe(_Body):
    """Hear no more of a domain."""

    type = "unsubscribe"
    fields = (ID, Field("domain", _DOMAIN, "system"))
    id: int
    domain: str = "system"


@dataclass(frozen=True, slots=True)
class Register(_Body):
    """Be an app: be told before being killed, and be asked to free memory."""

    type = "register"
    fields = (
        ID,
        Field("name", _NAME),
        Field("class", _OWN_CLASS, attribute="app_class"),
        Field("sheddable_bytes", _BYTES, 0),
        Field("unit", Choice(UNITS), "process"),
    )
    id: int
    name: str
    app_class: str
    sheddable_bytes: int = 0
    unit: str = "process"


@dataclass(frozen=True, slots=True)
class Update(_Body):
    """Change what was registered. None leaves a value as it is; one value at least must change."""

    type = "update"
    fields = (
        ID,
        Field("class", _OWN_CLASS, None, attribute="app_class"),
        Field("sheddable_bytes", _BYTES, None),
        Field("name", _NAME, None),
    )
    id: int
    app_class: str | None = None
    sheddable_bytes: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        # Not super(): a slotted dataclass is a new class, which a zero-argument super() does not
        # know.
        _Body.__post_init__(self)
        if self.app_class is None and self.sheddable_bytes is None and self.name is None:
            raise LocalProtocolError(
                "update: expected at least one of the keys 'class', 'sheddable_bytes', 'name'"
            )


@dataclass(frozen=True, slots=True)
class Unregister(_Body):
    """Be an app no more."""

    type = "unregister"
    fields = (ID,)
    id: int


@dataclass(frozen=True, slots=True)
class Ack(_Body):
    """Answer a notice: what was done, and how much was freed."""

    type = "ack"
    fields = (
        ID,
        Field("notice", _IDENTITY),
        Field("answer", Choice(ANSWERS)),
        Field("freed_bytes", _BYTES, 0),
    )
    id: int
    notice: int
    answer: str
    freed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Status(_Body):
    """Ask how things stand."""

    type = "status"
    fields = (ID,)
    id: int


@dataclass(frozen=True, slots=True)
class History(_Body):
    """Ask for past episodes, or for the records of one."""

    type = "history"
    fields = (
        ID,
        Field("episode", _IDENTITY, None),
        Field("after", _IDENTITY, 0),
        Field("limit", Integer(1, 1000, "1000"), 20),
    )
    id: int
    episode: int | None = None
    after: int = 0
    limit: int = 20


@dataclass(frozen=True, slots=True)
class Explain(_Body):
    """Ask how a process would be treated, and why."""

    type = "explain"
    fields = (ID, Field("pid", _PID))
    id: int
    pid: int


@dataclass(frozen=True, slots=True)
class Simulate(_Body):
    """Rehearse a level: everything is said as if it were real, and nothing is killed."""

    type = "simulate"
    fields = (
        ID,
        Field("level", _LEVEL),
        Field("scope", Choice(SCOPES), "self"),
        Field("duration_ms", _DURATION, 5000),
    )
    id: int
    level: str
    scope: str = "self"
    duration_ms: int = 5000


@dataclass(frozen=True, slots=True)
class SetClass(_Body):
    """Give another app a class (controller)."""

    type = "set_class"
    fields = (
        ID,
        Field("app", _IDENTITY),
        Field("class", _CLASS, attribute="app_class"),
    )
    id: int
    app: int
    app_class: str


@dataclass(frozen=True, slots=True)
class Reload(_Body):
    """Read the configuration again (controller)."""

    type = "reload"
    fields = (ID,)
    id: int


# Server to client: replies ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Welcome(_Body):
    """The answer to hello: the version both will speak, and what this client may do."""

    type = "welcome"
    fields = (
        ID,
        Field("version", _VERSION),
        Field("server", _NAME),
        Field("controller", _FLAG),
    )
    id: int
    version: int
    server: str
    controller: bool


@dataclass(frozen=True, slots=True)
class Ok(_Body):
    """The request was done. The result is not to be changed once it is in here."""

    type = "ok"
    fields = (ID, Field("result", Map(), {}))
    id: int
    result: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Error(_Body):
    """The request was not done. The id is None when the request's could not be read."""

    type = "error"
    fields = (
        Field("id", _REQUEST_ID, None),
        Field("code", Code()),
        Field("message", _TEXT),
    )
    id: int | None
    code: str
    message: str


# Server to client: pushes -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pressure(_Body):
    """A subscribed domain's level, as it is now."""

    type = "pressure"
    fields = (
        Field("domain", _DOMAIN),
        Field("level", _LEVEL),
        Field("reason", _TEXT),
        Field("available_bytes", _BYTES),
        Field("simulated", _FLAG, False),
    )
    domain: str
    level: str
    reason: str
    available_bytes: int
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Notice(_Body):
    """To one app: how much to free, and by when."""

    type = "notice"
    fields = (
        Field("notice", _IDENTITY),
        Field("domain", _DOMAIN),
        Field("level", _LEVEL),
        Field("target_bytes", _BYTES),
        Field("deadline_ms", _DURATION),
        Field("reason", _TEXT),
        Field("emergency", _FLAG, False),
        Field("simulated", _FLAG, False),
    )
    notice: int
    domain: str
    level: str
    target_bytes: int
    deadline_ms: int
    reason: str
    emergency: bool = False
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class KillWarning(_Body):
    """To one app: SIGTERM is on its way, SIGKILL follows."""

    type = "kill_warning"
    fields = (
        Field("reason", _TEXT),
        Field("time_to_exit_ms", _DURATION),
    )
    reason: str
    time_to_exit_ms: int


@dataclass(frozen=True, slots=True)
class Killed(_Body):
    """To a domain's subscribers: what died, and why. A pid of 0 stands for a cgroup as a whole."""

    type = "killed"
    fields = (
        Field("domain", _DOMAIN),
        Field("pid", _PID_OR_NONE),
        Field("name", _NAME_OR_EMPTY),
        Field("class", _CLASS, attribute="app_class"),
        Field("reason", _TEXT),
        Field("freed_bytes", _BYTES),
    )
    domain: str
    pid: int
    name: str
    app_class: str
    reason: str
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class Bye(_Body):
    """The last word of a server that goes away."""

    type = "bye"
    fields = (Field("reason", _TEXT),)
    reason: str


@dataclass(frozen=True, slots=True)
class UnknownMessage:
    """A well-formed message of a type that its receiver does not take.

    The id is None when it has none.
    """

    type: str
    id: int | None


Request = (
    Hello
    | Subscribe
    | Unsubscribe
    | Register
    | Update
    | Unregister
    | Ack
    | Status
    | History
    | Explain
    | Simulate
    | SetClass
    | Reload
)
Reply = Welcome | Ok | Error
Push = Pressure | Notice | KillWarning | Killed | Bye
Message = Request | Reply | Push

REQUESTS: tuple[type[Request], ...] = (
    Hello,
    Subscribe,
    Unsubscribe,
    Register,
    Update,
    Unregister,
    Ack,
    Status,
    History,
    Explain,
    Simulate,
    SetClass,
    Reload,
)
REPLIES: tuple[type[Reply], ...] = (Welcome, Ok, Error)
PUSHES: tuple[type[Push], ...] = (Pressure, Notice, KillWarning, Killed, Bye)
MESSAGES: tuple[type[Message], ...] = (*REQUESTS, *REPLIES, *PUSHES)
