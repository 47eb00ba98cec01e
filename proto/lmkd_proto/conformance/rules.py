"""The rules of SPEC.md that a tool can hold a peer to: those with a MUST or a SHOULD, and what each asks of which side.

Knows nothing of how they are looked at. A test holds the numbers against the text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, as it binds one side."""

    number: str
    asks: str
    unseen: str = ""
    """Why it does not show from outside; empty: it does."""
    must: bool = True
    """False: a SHOULD, which a peer may have reasons not to follow."""


_PRESSURE = "takes a real shortage"
_BELOW = "takes a cgroup below that is short of memory"
_INSIDE = "what it makes of it does not show"

_BOTH = (
    Rule("F-2", "sends frames of 1 to 65536 bytes, and takes them"),
    Rule("F-6", "takes frames in any number of pieces"),
    Rule("T-1", "sends one map in a frame, with nothing behind it"),
    Rule("T-2", "keys are text, and none comes twice"),
    Rule("T-3", "no floats, extension types or timestamps"),
    Rule("T-4", "an integer of whatever width is the same; a boolean is none, bytes are no text"),
    Rule("T-5", "values nested at most 32 deep"),
    Rule("T-6", "no more entries than are allowed"),
    Rule("T-7", "every message has a type, 1 to 64 characters"),
    Rule("T-8", "what is absent or nil means its default; required keys are there"),
    Rule("T-9", "takes keys in any order and values in any form"),
    Rule("T-10", "ignores keys that it does not know"),
)

SERVER_RULES = (
    Rule("S-3", "knows its peers by the kernel's word alone"),
    Rule("S-5", "the end of a connection ends its registration"),
    Rule("F-3", "refuses a forbidden length as soon as its four bytes are there"),
    Rule("F-4", "closes after a forbidden length"),
    Rule("F-5", "answers what came whole before a forbidden length"),
    *_BOTH,
    Rule("T-11", "answers a malformed frame, with its id where there is one, and goes on"),
    Rule("T-12", "an error names the key and what was expected", must=False),
    Rule("R-2", "answers each request exactly once, with its id"),
    Rule("R-3", "answers in the order of the requests"),
    Rule("R-6", "answers requests of unknown type with unknown_type, and goes on"),
    Rule("R-7", "answers a bad value with bad_value, and changes nothing"),
    Rule("R-10", "sends no error codes but those listed"),
    Rule("R-11", "shortens what would not fit into a frame"),
    Rule("H-1", "wants hello first, and goes on"),
    Rule("H-2", "speaks no higher version than the client"),
    Rule("H-3", "says bad_version where there is none in common", "no version is below its lowest"),
    Rule("H-5", "sends nothing but errors and bye before welcome"),
    Rule("H-6", "answers a second hello with hello_twice"),
    Rule("L-1", "tells a subscriber the present level at once"),
    Rule("L-2", "the last level that a subscriber is told is the present one"),
    Rule("L-4", "tells an app at once, when it registers above normal"),
    Rule("L-7", "kills no app before the deadline of its last notice", _PRESSURE),
    Rule("L-8", "an emergency is told with a deadline of 0", _PRESSURE),
    Rule("L-11", "an ack of an earlier notice is ok, of one never given unknown_notice"),
    Rule("L-12", "an ack of a notice of level normal is ok"),
    Rule("L-14", "kills nobody in a rehearsal"),
    Rule("L-15", "leaves a victim its time to exit", _PRESSURE),
    Rule("L-18", "names the domain that own stands for, never own"),
    Rule("L-21", "tells the end of a level below", _BELOW),
    Rule("L-22", "tells a new subscriber the levels below", _BELOW),
    Rule("L-24", "answers a second subscription as the first"),
    Rule("P-2", "grants no class above the ceiling", "what the ceiling is, is not told"),
    Rule("P-4", "refuses to others what takes the controller"),
    Rule("P-7", "refuses domains that are not the peer's"),
    Rule("Q-2", "results with a table hold all of its keys"),
    Rule("X-2", "holds bounded memory for a client", "memory is not seen through a socket"),
    Rule("V-3", "speaks the version before as well", "version 1 is the first", must=False),
    Rule("V-4", "sends no levels, classes, units or answers but those listed"),
)

CLIENT_RULES = (
    Rule("S-2", "connects to the socket that LMKD_SOCKET names"),
    Rule("S-4", "connects again, after growing pauses, and says all again", must=False),
    Rule("F-3", "refuses a forbidden length as soon as its four bytes are there"),
    Rule("F-4", "closes after a forbidden length"),
    Rule("F-5", "takes what came whole before a forbidden length", _INSIDE),
    *_BOTH,
    Rule("T-11", "ignores a malformed frame", must=False),
    Rule("R-1", "gives each request an id, none of an open one", must=True),
    Rule("R-8", "ignores pushes of unknown type"),
    Rule("R-9", "takes an error code that it does not know as failed"),
    Rule("H-1", "says hello first"),
    Rule("L-3", "takes levels in whatever steps"),
    Rule("L-6", "answers before the deadline", must=False),
    Rule("L-9", "answers a notice above normal", must=False),
    Rule("L-10", "says done when it had said working", must=False),
    Rule("L-14", "acts on a rehearsal as if it were real", must=False),
    Rule("L-17", "connects again after bye", must=False),
    Rule("P-2", "reads its class in the reply", _INSIDE),
    Rule("Q-1", "is ready for results without the keys it knows", _INSIDE),
    Rule("Q-3", "takes the empty result of an earlier server"),
)
