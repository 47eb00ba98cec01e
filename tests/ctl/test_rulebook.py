"""The rules, and what none of them speaks for, are shown exactly so."""

from __future__ import annotations

from typing import Any

import pytest

from lmkd.ctl.result import rows
from lmkd.ctl.rulebook import describe_rules, describe_unruled

from .literal import RULES, UNRULED, drawn


def test_rules() -> None:
    # In a list: what a table of this width does to long words is not for here.
    assert (
        drawn(describe_rules(rows(RULES, "rules"), RULES), 80)
        == """\
no.         1
hits        12
rule        the database as a whole, or not at all
matches     cgroup '/system.slice/postgresql*.service'; uid at least 1000
gives       service, as a whole cgroup, bias -10, 5 s of grace, 1.5 s to exit,
            if 64.0 MiB or more, may claim up to perceptible
written in  /etc/lmkd/lmkd.toml:3

no.         2
hits        0
rule        init
matches     anything
gives       never killed, system
written in  lmkd itself

What no rule matches is of class service (31 hits).
"""
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"strict": True}, "What no rule matches is the first to go: strict mode (31 hits).\n"),
        ({"unruled_hits": 1}, "is of class service (1 hit).\n"),
        ({"unruled_hits": None}, "is of class service.\n"),
        (
            {"warnings": ["a.toml:3: 'x' can never match"]},
            "\n\nDoubtful in the configuration:\n  - a.toml:3: 'x' can never match\n",
        ),
    ],
)
def test_what_no_rule_matches_and_what_is_doubtful(more: dict[str, object], said: str) -> None:
    assert drawn(describe_rules(rows(RULES, "rules"), {**RULES, **more})).endswith(said)
    assert drawn(describe_rules([], {**RULES, **more})).endswith(said.lstrip("\n"))


def test_the_unruled() -> None:
    assert (
        drawn(describe_unruled(rows(UNRULED, "processes")))
        == """\
 pid  name  class     uid      size  cgroup
4003  leak  service  1000  80.0 MiB  /user.slice

No rule speaks for these, nor did they register. Why none matches: lmkctl rules test PID
"""
    )
    none = "None: every process has registered, or a rule speaks for it.\n"
    assert drawn(describe_unruled([])) == none


@pytest.mark.parametrize("junk", [{}, {"match": 3, "bias": "x"}, {"match": [{}], "unit": "army"}])
def test_results_of_any_shape_are_survived(junk: dict[str, Any]) -> None:
    """SPEC Q-1: any key may be absent."""
    assert drawn(describe_rules([junk], junk))
    assert drawn(describe_unruled([junk]))


def test_names_steer_no_terminal() -> None:
    hostile = {
        "name": "a\x1b[2Jb",
        "place": "\x1b",
        "match": [{"subject": "\x1b", "expected": "\n"}],
    }
    text = drawn([*describe_rules([hostile], {}), *describe_unruled([hostile])])
    assert "\x1b" not in text
