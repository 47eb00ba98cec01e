"""What the server says: one frozen value for each reply and push.

When each may come is for lmkd_proto.connection to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lmkd_proto.fields import (
    BYTES,
    CLASS,
    DOMAIN,
    DURATION,
    FLAG,
    ID,
    IDENTITY,
    LEVEL,
    NAME,
    NAME_OR_EMPTY,
    PID_OR_NONE,
    REQUEST_ID,
    TEXT,
    VERSION,
    Body,
    Field,
)
from lmkd_proto.values import Code, Map

# Replies ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Welcome(Body):
    """The answer to hello: the version both will speak, and what this client may do."""

    type = "welcome"
    fields = (
        ID,
        Field("version", VERSION),
        Field("server", NAME),
        Field("controller", FLAG),
    )
    id: int
    version: int
    server: str
    controller: bool


@dataclass(frozen=True, slots=True)
class Ok(Body):
    """The request was done. The result is not to be changed once it is in here."""

    type = "ok"
    fields = (ID, Field("result", Map(), {}))
    id: int
    result: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Error(Body):
    """The request was not done. The id is None when the request's could not be read."""

    type = "error"
    fields = (
        Field("id", REQUEST_ID, None),
        Field("code", Code()),
        Field("message", TEXT),
    )
    id: int | None
    code: str
    message: str


# Pushes -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pressure(Body):
    """A subscribed domain's level, as it is now."""

    type = "pressure"
    fields = (
        Field("domain", DOMAIN),
        Field("level", LEVEL),
        Field("reason", TEXT),
        Field("available_bytes", BYTES),
        Field("simulated", FLAG, False),
    )
    domain: str
    level: str
    reason: str
    available_bytes: int
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Notice(Body):
    """To one app: how much to free, and by when."""

    type = "notice"
    fields = (
        Field("notice", IDENTITY),
        Field("domain", DOMAIN),
        Field("level", LEVEL),
        Field("target_bytes", BYTES),
        Field("deadline_ms", DURATION),
        Field("reason", TEXT),
        Field("emergency", FLAG, False),
        Field("simulated", FLAG, False),
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
class KillWarning(Body):
    """To one app: SIGTERM is on its way, SIGKILL follows."""

    type = "kill_warning"
    fields = (
        Field("reason", TEXT),
        Field("time_to_exit_ms", DURATION),
    )
    reason: str
    time_to_exit_ms: int


@dataclass(frozen=True, slots=True)
class Killed(Body):
    """To a domain's subscribers: what died, and why. A pid of 0 stands for a cgroup as a whole."""

    type = "killed"
    fields = (
        Field("domain", DOMAIN),
        Field("pid", PID_OR_NONE),
        Field("name", NAME_OR_EMPTY),
        Field("class", CLASS, attribute="app_class"),
        Field("reason", TEXT),
        Field("freed_bytes", BYTES),
    )
    domain: str
    pid: int
    name: str
    app_class: str
    reason: str
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class Bye(Body):
    """The last word of a server that goes away."""

    type = "bye"
    fields = (Field("reason", TEXT),)
    reason: str
