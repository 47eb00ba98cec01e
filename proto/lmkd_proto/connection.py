"""The state of a conversation, without any input or output.

A connection turns bytes that came into events, and messages into bytes to send. What may come and
go in which state is written in two tables, one for each side. It does not know sockets, time,
permissions, or which reply belongs to which request: a reply's id is for its owner to match.

- An event is a message, an UnknownMessage, or a Malformed: a mistake of the peer that the stream
  survives.
- A mistake the stream does not survive (a frame of a forbidden length) is raised as
  RemoteProtocolError, after the events of the good frames before it have been given: `receive`
  gives those, `fault` is set at once, and the next `receive`, with or without new bytes, raises it.
- The server may still send one `error` then, to say so, and nothing else.
- An idle connection holds no buffer.

`receive` takes in every request of a chunk before the first of them is answered, so where requests
come behind one another the state is ahead of the replies: a `hello` may be greeted while the error
to what came before it is still to be said. A server that takes such requests, as SPEC H-4 has it,
uses its connection to receive, and encodes what it sends with `encode`.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmkd_proto.answers import Error
from lmkd_proto.codec import decode, encode
from lmkd_proto.errors import LocalProtocolError, RemoteProtocolError
from lmkd_proto.framing import FrameReader
from lmkd_proto.messages import PUSHES, REPLIES, REQUESTS, Message, UnknownMessage
from lmkd_proto.values import MAX_ITEMS

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from typing import ClassVar, Literal, TypeAlias

    State: TypeAlias = Literal["await_hello", "greeting", "open", "failed", "closed"]
    Direction: TypeAlias = Literal["send", "receive"]
    Transitions: TypeAlias = dict[tuple[State, Direction, str], State]

# No request of this version holds an array or a map, so a server that makes room for the claims of
# a nested bomb makes room for few.
REQUEST_MAX_ITEMS = 64


@dataclass(frozen=True, slots=True)
class Malformed:
    """A frame that means nothing, or a message that may not come now. The connection stays."""

    code: str
    message: str
    request_id: int | None

    def reply(self) -> Error:
        """Build what a server answers."""
        return Error(self.request_id, self.code, self.message)


Event = Message | UnknownMessage | Malformed


def _each(
    states: tuple[State, ...], direction: Direction, types: tuple[str, ...], after: State | None
) -> Transitions:
    """List one transition for each state and type; `after` None means that the state stays."""
    return {(state, direction, name): after or state for state in states for name in types}


_REQUESTS = tuple(message.type for message in REQUESTS if message.type != "hello")
_PUSHES = tuple(message.type for message in PUSHES if message.type != "bye")

# greeting: hello has come and is not answered yet. Requests may follow it at once; their replies
# follow its own.
SERVER_TRANSITIONS: Transitions = {
    ("await_hello", "receive", "hello"): "greeting",
    ("greeting", "send", "welcome"): "open",
    ("greeting", "send", "error"): "await_hello",
    ("failed", "send", "error"): "closed",
    **_each(("greeting", "open"), "receive", _REQUESTS, None),
    **_each(("await_hello", "open"), "send", ("error",), None),
    **_each(("open",), "send", ("ok", *_PUSHES), None),
    **_each(("await_hello", "greeting", "open"), "send", ("bye",), "closed"),
}

# The same states, seen from the other side.
CLIENT_TRANSITIONS: Transitions = {
    ("await_hello", "send", "hello"): "greeting",
    ("greeting", "receive", "welcome"): "open",
    ("greeting", "receive", "error"): "await_hello",
    **_each(("greeting", "open"), "send", _REQUESTS, None),
    **_each(("await_hello", "open"), "receive", ("error",), None),
    **_each(("open",), "receive", ("ok", *_PUSHES), None),
    **_each(("await_hello", "greeting", "open"), "receive", ("bye",), "closed"),
}

_FROM_SERVER = frozenset(message.type for message in (*REPLIES, *PUSHES))


class _Connection:
    """What both sides share."""

    __slots__ = ("_fault", "_reader", "_state")

    _transitions: ClassVar[Transitions]
    _max_items: ClassVar[int]
    _types: ClassVar[frozenset[str]]
    """What this side takes; to a server, what only servers say is unknown (SPEC R-6)."""
    _after_fault: ClassVar[State]

    def __init__(self) -> None:
        self._state: State = "await_hello"
        self._reader: FrameReader | None = None
        self._fault: RemoteProtocolError | None = None

    @property
    def state(self) -> State:
        """Where the conversation stands."""
        return self._state

    @property
    def fault(self) -> RemoteProtocolError | None:
        """The mistake that ended the stream, to be raised by the next `receive`."""
        return self._fault

    def receive(self, chunk: bytes | bytearray | memoryview) -> list[Event]:
        """Take bytes from the peer, and give the events in them.

        An empty chunk is allowed and is not the end of the stream. What follows a `bye` is dropped.
        Raises RemoteProtocolError when the stream cannot go on, and LocalProtocolError when it has
        ended before.
        """
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault
        if self._state in ("failed", "closed"):
            raise LocalProtocolError(f"cannot receive in state {self._state}")
        reader = self._reader or FrameReader()
        reader.feed(chunk)
        events: list[Event] = []
        try:
            while self._state != "closed" and (payload := reader.next_frame()) is not None:
                events.append(self._event(payload))
        except RemoteProtocolError as error:
            self._state = self._after_fault
            self._reader = None
            if not events:
                raise
            self._fault = error
            return events
        self._reader = reader if reader.buffered_bytes and self._state != "closed" else None
        return events

    def send(self, message: Message) -> bytes:
        """Give the bytes that say this to the peer.

        Raises LocalProtocolError when it may not be said now.
        """
        after = self._transitions.get((self._state, "send", message.type))
        if after is None:
            raise LocalProtocolError(f"{message.type} may not be sent in state {self._state}")
        frame = encode(message)
        self._state = after
        return frame

    def _event(self, payload: bytes) -> Event:
        try:
            message = decode(payload, max_items=self._max_items, types=self._types)
        except RemoteProtocolError as error:
            return Malformed(error.code, error.message, error.request_id)
        after = self._transitions.get((self._state, "receive", message.type))
        if after is None:
            return self._out_of_turn(UnknownMessage(message.type, getattr(message, "id", None)))
        self._state = after
        return message

    def _out_of_turn(self, message: UnknownMessage) -> Event:
        """Say what to make of a message that no transition takes."""
        return message


class ServerConnection(_Connection):
    """The server's side of one conversation."""

    __slots__ = ()

    _transitions = SERVER_TRANSITIONS
    _max_items = REQUEST_MAX_ITEMS
    _types = frozenset(message.type for message in REQUESTS)
    _after_fault = "failed"

    def _out_of_turn(self, message: UnknownMessage) -> Event:
        if self._state == "await_hello":
            return Malformed("hello_first", "expected hello before anything else", message.id)
        if message.type == "hello":
            return Malformed("hello_twice", "hello has been said before", message.id)
        # A server's own message, said by a client, is as unknown here as any other.
        return super()._out_of_turn(message)


class ClientConnection(_Connection):
    """The client's side of one conversation.

    A Malformed is the server's fault and is not answered.
    """

    __slots__ = ()

    _transitions = CLIENT_TRANSITIONS
    _max_items = MAX_ITEMS
    _types = _FROM_SERVER
    _after_fault = "closed"

    def _out_of_turn(self, message: UnknownMessage) -> Event:
        if message.type in _FROM_SERVER:
            why = f"{message.type} may not come in state {self._state}"
            return Malformed("malformed", why, message.id)
        return super()._out_of_turn(message)
