"""The tests of single values: what they accept, and which of them takes all that another takes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkd.policy.patterns import (
    ExeTest,
    FlagTest,
    GlobTest,
    RangeTest,
    Test,
    TextTest,
    UnitTest,
    compile_text,
    covers,
    is_literal,
    present_exe,
    text_matches,
)

thorough = settings(derandomize=True, deadline=None, max_examples=500)


@pytest.mark.parametrize(
    ("pattern", "value", "matches"),
    [
        ("firefox", "firefox", True),
        ("fire", "firefox", False),
        ("fox", "firefox", False),
        ("fire.*", "firefox", True),
        ("chrom(e|ium)", "chromium", True),
        ("chrom(e|ium)", "chromium-bin", False),
        # alternatives are matched whole, each of them
        ("a|b", "b", True),
        ("a|b", "ab", False),
        # a line break is a character like any other, and the end is the very end
        ("a.b", "a\nb", True),
        ("a", "a\n", False),
        ("a$", "a\n", False),
        ("Web Content", "Web Content", True),
        ("FIREFOX", "firefox", False),
        ("(?i)FIREFOX", "firefox", True),
        ("foo) Z 1 (", "foo) Z 1 (", None),
        (r"foo\) Z 1 \(", "foo) Z 1 (", True),
    ],
)
def test_a_pattern_matches_the_whole_value(pattern: str, value: str, matches: bool | None) -> None:
    if matches is None:
        with pytest.raises(Exception, match="unbalanced parenthesis"):
            text_matches(pattern, value)
    else:
        assert text_matches(pattern, value) is matches


@thorough
@given(st.text(max_size=6), st.text(max_size=6))
def test_a_literal_is_the_regular_expression_that_it_looks_like(pattern: str, value: str) -> None:
    """So leaving the regular expression out changes nothing."""
    if is_literal(pattern):
        for one in (value, pattern):
            by_expression = compile_text(pattern).fullmatch(one) is not None
            assert text_matches(pattern, one) is by_expression


@pytest.mark.parametrize(
    ("pattern", "exe", "comm", "accepts"),
    [
        ("sshd", "/usr/sbin/sshd", "x", True),
        ("sshd", "/usr/sbin/sshd (deleted)", "x", True),
        ("sshd", "/opt/ssh/sshd", "x", True),
        ("sshd", "/home/eve/sshd", "sshd", False),
        ("sshd", "/tmp/usr/bin/sshd", "sshd", False),
        ("ssh.*", "/usr/sbin/sshd", "x", True),
        ("ssh.*", "/home/eve/sshd", "sshd", False),
        ("sshd", "", "sshd", True),
        ("sshd", "", "leak", False),
        ("gnome-session-binary", "", "gnome-session-b", True),  # all that a comm holds
        ("gnome-session-binary", "", "gnome-session-", False),
        # with a slash it is the whole path, wherever that is
        ("/home/me/bin/db", "/home/me/bin/db", "x", True),
        ("/home/me/bin/db", "/home/me/bin/db (deleted)", "x", True),
        ("/home/me/bin/.*", "/home/me/bin/db", "x", True),
        ("/home/me/bin/d", "/home/me/bin/db", "x", False),
        ("/usr/bin/db", "", "db", False),
        # and what cannot be read is nothing, not the empty path
        ("(/usr)?.*", "", "db", False),
    ],
)
def test_an_executable_is_known_by_its_path_or_its_installed_name(
    pattern: str, exe: str, comm: str, accepts: bool
) -> None:
    assert ExeTest((pattern,)).accepts(exe, comm) is accepts
    assert ExeTest(("other", pattern)).accepts(exe, comm) is accepts


@pytest.mark.parametrize(
    ("glob", "path", "found"),
    [
        ("db.service", "/system.slice/db.service", "/system.slice/db.service"),
        ("db.service", "/system.slice/db.service/worker", "/system.slice/db.service"),
        ("db*.service", "/system.slice/db@15.service", "/system.slice/db@15.service"),
        ("db.service", "/system.slice/adb.service", None),
        ("user@*.service", "/user.slice/user-1.slice/user@1.service/init.scope",
         "/user.slice/user-1.slice/user@1.service"),
        ("app-*.scope", "/user.slice/user-1.slice/user@1.service/app.slice/app-x-1.scope",
         "/user.slice/user-1.slice/user@1.service/app.slice/app-x-1.scope"),
        ("*", "/", None),
        ("*", "/user.slice", None),
    ],
)  # fmt: skip
def test_a_unit_is_found_with_its_cgroup(glob: str, path: str, found: str | None) -> None:
    test = UnitTest((glob,))
    assert test.find_path(path) == found
    assert test.accepts(path) is (found is not None)


def test_a_range_has_both_its_ends() -> None:
    test = RangeTest(((5, 7), (10, None), (None, -3)))
    accepted = [value for value in range(-5, 13) if test.accepts(value)]
    assert accepted == [-5, -4, -3, 5, 6, 7, 10, 11, 12]


def test_a_flag_is_one_or_the_other() -> None:
    assert FlagTest(True).accepts(True)
    assert not FlagTest(True).accepts(False)
    assert FlagTest(False).accepts(False)


def test_a_glob_test_takes_any_of_its_globs() -> None:
    test = GlobTest(("/a/*", "/b/**"))
    accepted = [path for path in ("/a", "/a/x", "/a/x/y", "/b", "/b/x/y") if test.accepts(path)]
    assert accepted == ["/a/x", "/b", "/b/x/y"]


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (TextTest(("a", "b.*")), "'a', 'b.*'"),
        (TextTest(tuple("abcdefg")), "'a', 'b', 'c', 'd', 'e' and 2 more"),
        (ExeTest(("sshd",)), "'sshd'"),
        (GlobTest(("/a",)), "'/a'"),
        (UnitTest(("a.service",)), "'a.service'"),
        (RangeTest(((1, 1), (2, 3), (None, 0), (9, None), (None, None))),
         "1 or 2 to 3 or at most 0 or at least 9 or anything"),
        (FlagTest(True), "yes"),
        (FlagTest(False), "no"),
    ],
)  # fmt: skip
def test_a_test_says_what_it_wants(test: Test, expected: str) -> None:
    assert test.expected == expected


def text(*patterns: str) -> TextTest:
    return TextTest(patterns)


def exe(*patterns: str) -> ExeTest:
    return ExeTest(patterns)


def glob(*globs: str) -> GlobTest:
    return GlobTest(globs)


def span(*spans: tuple[int | None, int | None]) -> RangeTest:
    return RangeTest(spans)


@pytest.mark.parametrize(
    ("outer", "inner", "covered"),
    [
        (text("a"), text("a"), True),
        (text("a", "b"), text("b"), True),
        (text("b"), text("a", "b"), False),
        (text("a.*"), text("abc"), True),
        (text("a.*"), text("ab.*"), False),  # so it is, but that is not worked out
        (text(".*"), text("ab.*"), True),
        (text("abc"), text("a.*"), False),
        (exe("sshd"), exe("sshd"), True),
        (exe(".*"), exe("sshd", "s.*"), True),
        (exe(".*"), exe("/usr/bin/x"), True),
        (exe(".*"), exe("/home/me/x"), False),  # a name counts only where programs are installed
        (exe(".*"), exe("/home/.*"), False),
        (exe("/home/.*"), exe("/home/me/x"), True),
        (exe("/usr/.*"), exe("sshd"), False),
        (glob("/a/**"), glob("/a"), True),
        (glob("/a/**"), glob("/a/b", "/a/b/c"), True),
        (glob("/a/**"), glob("/a/b*/c"), True),
        (glob("/a/**"), glob("/ab"), False),
        (glob("/**"), glob("/a*", "/**/x"), True),
        (glob("/a*"), glob("/ab*"), False),
        (UnitTest(("a*.service",)), UnitTest(("ab.service",)), True),
        (UnitTest(("ab.service",)), UnitTest(("a*.service",)), False),
        (span((0, 10)), span((1, 2), (3, 10)), True),
        (span((0, 10)), span((5, 11)), False),
        (span((0, 10)), span((5, None)), False),
        (span((None, 10)), span((None, 9)), True),
        (span((0, 10)), span((None, 9)), False),
        (span((None, None)), span((None, 9), (5, None)), True),
        (FlagTest(True), FlagTest(True), True),
        (FlagTest(True), FlagTest(False), False),
        (text("a"), exe("a"), False),
    ],
)
def test_what_covers_what(outer: Test, inner: Test, covered: bool) -> None:
    assert covers(outer, inner) is covered


# --- what is said to be covered is covered ----------------------------------------------------------------------------

NAMES = st.sampled_from(
    ["a", "b", "ab", "a.*", ".*", "a|b", "[ab]", "/usr/a", "/home/a", "/usr/.*", "/home/.*"]
)
VALUES = st.sampled_from(["", "a", "b", "ab", "abc"])
EXES = st.sampled_from(
    ["", "/usr/a", "/usr/b", "/home/a", "/home/ab", "/usr/a (deleted)", "/home/a (deleted)"]
)
GLOBS = st.sampled_from(
    ["/**", "/a", "/a/**", "/a/*", "/*", "/a/b", "/a?", "/a/b/**", "/**/b", "/a/*/c"]
)
PATHS = st.sampled_from(["/", "/a", "/b", "/ab", "/a/b", "/a/b/c", "/b/b", "/a/x/c", "/a/b/x/c"])
UNITS = st.sampled_from(["*", "a.service", "a*.service", "b.scope", "*.scope", "?.service"])
UNIT_PATHS = st.sampled_from(["/", "/s/a.service", "/s/ab.service/x", "/u/user@1.service/b.scope"])
BOUNDS = st.none() | st.integers(-3, 3)


def lists(of: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(of, min_size=1, max_size=3).map(tuple)


@thorough
@given(lists(NAMES), lists(NAMES), VALUES, EXES)
def test_a_covered_text_or_executable_is_taken(
    outer: tuple[str, ...], inner: tuple[str, ...], value: str, path: str
) -> None:
    if covers(TextTest(outer), TextTest(inner)) and TextTest(inner).accepts(value):
        assert TextTest(outer).accepts(value)
    if covers(ExeTest(outer), ExeTest(inner)) and ExeTest(inner).accepts(path, value):
        assert ExeTest(outer).accepts(path, value)


@thorough
@given(lists(GLOBS), lists(GLOBS), PATHS)
def test_a_covered_cgroup_is_taken(
    outer: tuple[str, ...], inner: tuple[str, ...], path: str
) -> None:
    if covers(GlobTest(outer), GlobTest(inner)) and GlobTest(inner).accepts(path):
        assert GlobTest(outer).accepts(path)


@thorough
@given(lists(UNITS), lists(UNITS), UNIT_PATHS)
def test_a_covered_unit_is_taken(outer: tuple[str, ...], inner: tuple[str, ...], path: str) -> None:
    if covers(UnitTest(outer), UnitTest(inner)) and UnitTest(inner).accepts(path):
        assert UnitTest(outer).accepts(path)


@thorough
@given(
    st.lists(st.tuples(BOUNDS, BOUNDS), max_size=3).map(tuple),
    st.lists(st.tuples(BOUNDS, BOUNDS), max_size=3).map(tuple),
    st.integers(-4, 4),
)
def test_a_covered_number_is_taken(
    outer: tuple[tuple[int | None, int | None], ...],
    inner: tuple[tuple[int | None, int | None], ...],
    value: int,
) -> None:
    if covers(RangeTest(outer), RangeTest(inner)) and RangeTest(inner).accepts(value):
        assert RangeTest(outer).accepts(value)


def test_an_upgrade_does_not_change_a_path() -> None:
    assert present_exe("/usr/bin/a (deleted)") == present_exe("/usr/bin/a") == "/usr/bin/a"
