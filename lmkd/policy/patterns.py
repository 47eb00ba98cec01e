"""What a rule may ask of one property of a process: the tests of single values.

Pure values, compared and recorded as they are; what is compiled from them is a cache beside them. Which property a
test is of is not known here (lmkd.policy.rules).

Texts are regular expressions (Python's `re`) that must match the *whole* value: "fire.*" is firefox, "fire" is not.
A pattern without any of `\\ . ^ $ * + ? { } [ ] | ( )` stands for itself and costs no regular expression.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from lmkd.cgroup_paths import glob_base, glob_matches, is_glob, systemd_units

_SPECIAL = re.compile(r"[\\.^$*+?{}\[\]|()]")
SYSTEM_PLACES = ("/usr/", "/bin/", "/sbin/", "/lib", "/opt/", "/nix/store/", "/gnu/store/")
"""Where an administrator alone installs: a copy named sshd in somebody's home is not sshd."""
_DELETED = " (deleted)"
COMM_BYTES = 15
"""TASK_COMM_LEN less the final NUL (include/linux/sched.h)."""


@lru_cache(maxsize=4096)
def is_literal(pattern: str) -> bool:
    """Whether a pattern stands for itself."""
    return _SPECIAL.search(pattern) is None


@lru_cache(maxsize=4096)
def compile_text(pattern: str) -> re.Pattern[str]:
    """Return what a whole value must match; a line break is a character like any other. Raises re.error."""
    return re.compile(pattern, re.DOTALL)


def text_matches(pattern: str, value: str) -> bool:
    """Whether a pattern matches the whole value."""
    if is_literal(pattern):
        return pattern == value
    return compile_text(pattern).fullmatch(value) is not None


def cut_name(name: str) -> str:
    """Return what the kernel keeps of a literal name in a comm; a regular expression as it is."""
    if len(name) <= COMM_BYTES or not is_literal(name):
        return name
    return name.encode(errors="surrogateescape")[:COMM_BYTES].decode(errors="backslashreplace")


def present_exe(exe: str) -> str:
    """Return the path of an executable, also of one that an upgrade has replaced meanwhile."""
    return exe.removesuffix(_DELETED)


def exe_name(exe: str) -> str:
    """Return the file name of an executable."""
    return present_exe(exe).rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class TextTest:
    """The whole value is matched by one of the patterns."""

    patterns: tuple[str, ...]

    def accepts(self, value: str) -> bool:
        return any(text_matches(pattern, value) for pattern in self.patterns)

    @property
    def expected(self) -> str:
        return _one_of(self.patterns)


@dataclass(frozen=True, slots=True)
class ExeTest:
    """The executable is one of these: by its whole path, or, without a slash, by the name it is installed under.

    A name alone means a program in a place where an administrator alone installs (SYSTEM_PLACES), since anybody can
    call a file what he likes. Where the link of another user's process cannot be read, its comm has to do, which is
    the name as far as the kernel keeps it.
    """

    patterns: tuple[str, ...]

    def accepts(self, exe: str, comm: str) -> bool:
        path = present_exe(exe)
        installed = path.startswith(SYSTEM_PLACES)
        name = path.rpartition("/")[2]
        for pattern in self.patterns:
            if not path:
                if "/" not in pattern and text_matches(cut_name(pattern), comm):
                    return True
            elif "/" in pattern:
                if text_matches(pattern, path):
                    return True
            elif installed and text_matches(pattern, name):
                return True
        return False

    @property
    def expected(self) -> str:
        return _one_of(self.patterns)


@dataclass(frozen=True, slots=True)
class GlobTest:
    """The cgroup is one that a glob names."""

    globs: tuple[str, ...]

    def accepts(self, path: str) -> bool:
        return any(glob_matches(glob, path) for glob in self.globs)

    @property
    def expected(self) -> str:
        return _one_of(self.globs)


@dataclass(frozen=True, slots=True)
class UnitTest:
    """The cgroup belongs to a systemd unit, the system's or a user's, that a glob names."""

    globs: tuple[str, ...]

    def find_path(self, path: str) -> str | None:
        """Return the cgroup of the unit that is named; None where none is."""
        for unit, unit_path in systemd_units(path):
            if any(glob_matches(glob, unit) for glob in self.globs):
                return unit_path
        return None

    def accepts(self, path: str) -> bool:
        return self.find_path(path) is not None

    @property
    def expected(self) -> str:
        return _one_of(self.globs)


@dataclass(frozen=True, slots=True)
class RangeTest:
    """The number lies in one of the spans; both ends belong to a span, None is no end."""

    spans: tuple[tuple[int | None, int | None], ...]

    def accepts(self, value: int) -> bool:
        return any(
            (least is None or value >= least) and (most is None or value <= most)
            for least, most in self.spans
        )

    def covers(self, other: RangeTest) -> bool:
        """Whether all that the other accepts is accepted here by a single span; joined spans are not looked for."""
        return all(
            any(
                (least is None or (inner_least is not None and inner_least >= least))
                and (most is None or (inner_most is not None and inner_most <= most))
                for least, most in self.spans
            )
            for inner_least, inner_most in other.spans
        )

    @property
    def expected(self) -> str:
        return " or ".join(_span_words(span) for span in self.spans)


@dataclass(frozen=True, slots=True)
class FlagTest:
    """It is so, or it is not."""

    wanted: bool

    def accepts(self, value: bool) -> bool:
        return value is self.wanted

    @property
    def expected(self) -> str:
        return "yes" if self.wanted else "no"


Test = TextTest | ExeTest | GlobTest | UnitTest | RangeTest | FlagTest


def covers(outer: Test, inner: Test) -> bool:
    """Whether whatever the inner test accepts is accepted by the outer one, as far as can be told from the texts.

    False also where it cannot be told: what two regular expressions have in common is not worked out.
    """
    if outer == inner:
        return True
    if type(outer) is not type(inner):
        return False
    if isinstance(outer, RangeTest) and isinstance(inner, RangeTest):
        return outer.covers(inner)
    if isinstance(outer, GlobTest) and isinstance(inner, GlobTest):
        return all(any(_glob_covers(o, i) for o in outer.globs) for i in inner.globs)
    if isinstance(outer, UnitTest) and isinstance(inner, UnitTest):
        return all(any(_glob_covers(o, i) for o in outer.globs) for i in inner.globs)
    if isinstance(outer, TextTest) and isinstance(inner, TextTest):
        # Two hundred rules of twenty names each are 20,000 pairs: what is not literal is looked for once a pair.
        wide = [pattern for pattern in outer.patterns if not is_literal(pattern)]
        return all(
            i in outer.patterns or any(_text_covers(o, i) for o in wide) for i in inner.patterns
        )
    if isinstance(outer, ExeTest) and isinstance(inner, ExeTest):
        return all(any(_exe_covers(o, i) for o in outer.patterns) for i in inner.patterns)
    return False


def _exe_covers(outer: str, inner: str) -> bool:
    if "/" in outer:
        return "/" in inner and _text_covers(outer, inner)
    if "/" in inner:
        # A name covers a path that is written out, and lies where names count.
        return is_literal(inner) and ExeTest((outer,)).accepts(inner, "")
    return _text_covers(outer, inner)


def _text_covers(outer: str, inner: str) -> bool:
    if outer == inner or outer in (".*", "(?s).*"):
        return True
    return is_literal(inner) and text_matches(outer, inner)


def _glob_covers(outer: str, inner: str) -> bool:
    if outer == inner or outer in ("/**", "**"):
        return True
    if not is_glob(inner):
        return glob_matches(outer, inner)
    # "/a/**" covers "/a/b*/c" and "/a/b/**": what is below stays below.
    base = glob_base(outer)
    return outer.endswith("/**") and not is_glob(base) and inner.startswith(base + "/")


def _one_of(texts: tuple[str, ...]) -> str:
    shown = ", ".join(repr(text) for text in texts[:5])
    left = len(texts) - 5
    return shown + (f" and {left} more" if left > 0 else "")


def _span_words(span: tuple[int | None, int | None]) -> str:
    least, most = span
    if least is None:
        return "anything" if most is None else f"at most {most}"
    if most is None:
        return f"at least {least}"
    return str(least) if least == most else f"{least} to {most}"
