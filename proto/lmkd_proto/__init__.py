"""The lmkd wire protocol, as SPEC.md has it, without any input or output.

`ServerConnection` and `ClientConnection` turn bytes into events and messages into bytes; everything
else here is what they are made of. This package knows no socket, no clock and nothing else of lmkd,
and needs msgpack only.

    connection = ClientConnection()
    sock.sendall(connection.send(Hello(id=0, version=PROTOCOL_VERSION)))
    for event in connection.receive(sock.recv(65536)):
        ...
"""

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
from lmkd_proto.codec import decode, encode
from lmkd_proto.connection import (
    REQUEST_MAX_ITEMS,
    ClientConnection,
    Event,
    Malformed,
    ServerConnection,
)
from lmkd_proto.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from lmkd_proto.framing import FrameReader, encode_frame
from lmkd_proto.messages import (
    MESSAGES,
    PROTOCOL_VERSION,
    PUSHES,
    REPLIES,
    REQUESTS,
    Message,
    Push,
    Reply,
    Request,
    UnknownMessage,
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
from lmkd_proto.values import (
    ANSWERS,
    CLASSES,
    ERROR_CODES,
    LEVELS,
    MAX_DEPTH,
    MAX_FRAME_BYTES,
    MAX_ID,
    MAX_ITEMS,
    PROPAGATIONS,
    SCOPES,
    UNITS,
)

__all__ = [
    "ANSWERS",
    "CLASSES",
    "ERROR_CODES",
    "LEVELS",
    "MAX_DEPTH",
    "MAX_FRAME_BYTES",
    "MAX_ID",
    "MAX_ITEMS",
    "MESSAGES",
    "PROPAGATIONS",
    "PROTOCOL_VERSION",
    "PUSHES",
    "REPLIES",
    "REQUESTS",
    "REQUEST_MAX_ITEMS",
    "SCOPES",
    "UNITS",
    "Ack",
    "Bye",
    "ClientConnection",
    "Error",
    "Event",
    "Explain",
    "FrameReader",
    "Hello",
    "History",
    "KillWarning",
    "Killed",
    "LocalProtocolError",
    "Malformed",
    "Message",
    "Notice",
    "Ok",
    "Pressure",
    "Processes",
    "ProtocolError",
    "Push",
    "Record",
    "Register",
    "Reload",
    "RemoteProtocolError",
    "Reply",
    "Request",
    "Rules",
    "ServerConnection",
    "SetClass",
    "Simulate",
    "Status",
    "Subscribe",
    "UnknownMessage",
    "Unregister",
    "Unsubscribe",
    "Update",
    "Welcome",
    "decode",
    "encode",
    "encode_frame",
]
