"""The values of the wire: what a key of a message may hold.

Knows msgpack's types and our limits, but no message. A kind says whether it accepts a value, and
says in words (`expected`) what it does accept; error messages and the tables of SPEC.md use the
same words.

Nothing here recurses: what a peer sends may be nested as deep as it likes.
"""

from __future__ import annotations

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from typing import Protocol

    class Kind(Protocol):
        """One sort of value."""

        @property
        def expected(self) -> str:
            """Say in words what is accepted, as SPEC.md does."""

        def accepts(self, value: object) -> bool:
            """Say whether this value may stand on the wire here."""


LEVELS = ("normal", "low", "medium", "critical")
CLASSES = ("cached", "background", "service", "perceptible", "foreground", "system")
UNITS = ("process", "tree", "cgroup")
ANSWERS = ("done", "working", "nothing")
SCOPES = ("self", "all")
PROPAGATIONS = ("local", "default", "hierarchy")
ERROR_CODES = (
    "malformed",
    "frame_too_long",
    "unknown_type",
    "bad_value",
    "hello_first",
    "hello_twice",
    "bad_version",
    "not_subscribed",
    "not_registered",
    "already_registered",
    "unknown_domain",
    "unknown_notice",
    "unknown_app",
    "unknown_process",
    "unknown_episode",
    "unknown_kill",
    "forbidden",
    "busy",
    "too_many",
    "failed",
)

MAX_FRAME_BYTES = 65_536
MAX_ID = 2**32 - 1
MAX_DEPTH = 32
MAX_ITEMS = 1024
MIN_INTEGER = -(2**63)
MAX_INTEGER = 2**64 - 1

_SHOWN_CHARS = 32


class Integer:
    """A whole number between two bounds, both included. A boolean is not one."""

    __slots__ = ("expected", "least", "most")

    def __init__(self, least: int, most: int, most_in_words: str) -> None:
        self.least = least
        self.most = most
        self.expected = f"integer, {least} to {most_in_words}"

    def accepts(self, value: object) -> bool:
        return type(value) is int and self.least <= value <= self.most


class Flag:
    """True or false."""

    __slots__ = ()
    expected = "boolean"

    def accepts(self, value: object) -> bool:
        return value is True or value is False


class Text:
    """Words for people."""

    __slots__ = ("expected", "most_chars")

    def __init__(self, most_chars: int) -> None:
        self.most_chars = most_chars
        self.expected = f"text, at most {most_chars} characters"

    def accepts(self, value: object) -> bool:
        return isinstance(value, str) and len(value) <= self.most_chars and is_utf8(value)


class Name:
    """A short text that can be shown on one line of a terminal."""

    __slots__ = ("expected", "least_chars")
    most_chars = 64

    def __init__(self, least_chars: int) -> None:
        self.least_chars = least_chars
        self.expected = (
            f"text, {least_chars} to {self.most_chars} characters, no control characters"
        )

    def accepts(self, value: object) -> bool:
        return (
            isinstance(value, str)
            and self.least_chars <= len(value) <= self.most_chars
            and is_utf8(value)
            and not has_control_characters(value)
        )


class Domain:
    """`system`, or the absolute path of a cgroup in its normal form."""

    __slots__ = ()
    most_chars = 1024
    expected = "`system`, or an absolute cgroup path of at most 1024 characters"

    def accepts(self, value: object) -> bool:
        if value == "system" or value == "/":
            return True
        return (
            isinstance(value, str)
            and value.startswith("/")
            and len(value) <= self.most_chars
            and is_utf8(value)
            and not has_control_characters(value)
            and not any(part in ("", ".", "..") for part in value[1:].split("/"))
        )


class DomainAsked(Domain):
    """A domain as a client may ask for it: also by the word `own`, which no server sends."""

    __slots__ = ()
    expected = "`system`, `own`, or an absolute cgroup path of at most 1024 characters"

    def accepts(self, value: object) -> bool:
        return value == "own" or super().accepts(value)


class Choice:
    """One word out of a closed set."""

    __slots__ = ("expected", "words")

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        self.expected = "one of " + " ".join(f"`{word}`" for word in words)

    def accepts(self, value: object) -> bool:
        return isinstance(value, str) and value in self.words


class Code:
    """An error code. Sent from the closed set; a later server may know more of them."""

    __slots__ = ()
    expected = "an error code, 1 to 64 ASCII characters"

    def accepts(self, value: object) -> bool:
        return isinstance(value, str) and 1 <= len(value) <= 64 and value.isascii()


class Map:
    """A map of anything the wire can carry, standing one level deep in its message."""

    __slots__ = ()
    expected = "map"

    def accepts(self, value: object) -> bool:
        return type(value) is dict and find_fault(value, depth=2) is None


class RepeatedKeys(dict[object, object]):
    """What decoding puts in the place of a map with repeated keys: the keys that came once.

    A repeated key is left out, so that nothing is read from it by mistake, not even an id.
    """

    __slots__ = ()


def is_utf8(text: str) -> bool:
    """Say whether a text can be written as UTF-8, which a lone surrogate cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def has_control_characters(text: str) -> bool:
    """Say whether a text holds C0 or C1 control characters, or DEL."""
    # isprintable() settles nearly every text at once; it also refuses what is no control character,
    # such as U+00A0.
    return not text.isprintable() and any(
        character < " " or "\x7f" <= character <= "\x9f" for character in text
    )


def find_fault(root: object, depth: int = 1) -> str | None:
    """Say what in a tree of values may not stand on the wire, or None.

    `depth` is that of the root itself.
    """
    pending = [(root, depth)]
    values_seen = 0
    while pending:
        node, depth = pending.pop()
        if type(node) is RepeatedKeys:
            return "a map repeats a key"
        if depth > MAX_DEPTH:
            return f"nested more than {MAX_DEPTH} deep"
        if type(node) is dict:
            for key in node:
                if type(key) is not str:
                    return f"a map key must be text, not {type(key).__name__}"
                if not is_utf8(key):
                    return "a map key is not valid UTF-8"
        else:
            assert type(node) is list
        # One value takes a byte at least. Without this a list that holds itself many times over
        # would never end.
        values_seen += len(node)
        if len(node) > MAX_ITEMS or values_seen > MAX_FRAME_BYTES:
            return f"more than {MAX_ITEMS} entries, or more than a frame can hold"
        for key, value in node.items() if type(node) is dict else enumerate(node):
            kind = type(value)
            if kind is dict or kind is list or kind is RepeatedKeys:
                pending.append((value, depth + 1))
            elif kind is int:
                if not MIN_INTEGER <= value <= MAX_INTEGER:
                    return f"{show(key)}: an integer must be in -2^63 to 2^64-1"
            elif kind is str:
                if not is_utf8(value):
                    return f"{show(key)}: the text is not valid UTF-8"
            elif value is not None and kind is not bool and kind is not bytes:
                return f"{show(key)}: {kind.__name__} is no type of this protocol"
    return None


def show(value: object) -> str:
    """Show a value in an error message: short, on one line, whatever it is."""
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN_CHARS else value[:_SHOWN_CHARS] + "…")
    if value is None:
        return "nil"
    if isinstance(value, bool | int) and MIN_INTEGER <= value <= MAX_INTEGER:
        return repr(value)
    return f"a value of type {type(value).__name__}"
