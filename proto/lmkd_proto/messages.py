"""The messages of the protocol, all of them.

Their tables are in lmkd_proto.requests and lmkd_proto.answers; here is what they are taken
together, and what stands for a message that this version does not know.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmkd_proto.answers import (
    Bye,
    Error,
    Killed,
    KillWarning,
    Notice,
    Ok,
    Pressure,
    Welcome,
)
from lmkd_proto.requests import (
    Ack,
    Explain,
    Hello,
    History,
    Processes,
    Record,
    Register,
    Reload,
    Rules,
    SetClass,
    Simulate,
    Status,
    Subscribe,
    Unregister,
    Unsubscribe,
    Update,
)

PROTOCOL_VERSION = 1


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
    | Rules
    | Processes
    | Simulate
    | SetClass
    | Reload
    | Record
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
    Rules,
    Processes,
    Simulate,
    SetClass,
    Reload,
    Record,
)
REPLIES: tuple[type[Reply], ...] = (Welcome, Ok, Error)
PUSHES: tuple[type[Push], ...] = (Pressure, Notice, KillWarning, Killed, Bye)
MESSAGES: tuple[type[Message], ...] = (*REQUESTS, *REPLIES, *PUSHES)
