"""What a message declares of itself: its keys, once, as data.

A `Field` names the wire key, the attribute, the kind of value and the default. Checking, decoding,
encoding and the tests of SPEC.md all read these tables. The kinds that several messages share are
named here; what a kind accepts is for lmkd_proto.values to say.

A message that exists is valid: building one with a wrong value raises LocalProtocolError.
"""

from __future__ import annotations

from lmkd_proto.errors import LocalProtocolError
from lmkd_proto.values import (
    CLASSES,
    LEVELS,
    MAX_ID,
    Choice,
    Domain,
    DomainAsked,
    Flag,
    Integer,
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


IDENTITY = Integer(0, 2**63 - 1, "2^63-1")
BYTES = Integer(0, 2**63 - 1, "2^63-1")
DURATION = Integer(0, 2**31 - 1, "2^31-1")
PID = Integer(1, 2**31 - 1, "2^31-1")
PID_OR_NONE = Integer(0, 2**31 - 1, "2^31-1")
VERSION = Integer(1, 2**31 - 1, "2^31-1")
REQUEST_ID = Integer(0, MAX_ID, "2^32-1")
TEXT = Text(512)
NAME = Name(1)
NAME_OR_EMPTY = Name(0)
DOMAIN = Domain()
DOMAIN_ASKED = DomainAsked()
FLAG = Flag()
SKIPPED = Integer(0, 2**63 - 1, "2^63-1")
ROWS = Integer(1, 1000, "1000")
LEVEL = Choice(LEVELS)
CLASS = Choice(CLASSES)
OWN_CLASS = Choice(tuple(word for word in CLASSES if word != "system"))

ID = Field("id", REQUEST_ID)


class Body:
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
