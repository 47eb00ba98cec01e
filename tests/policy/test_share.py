"""How an amount to free is split."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkd.model import AppClass
from lmkd.policy.share import share_need

from .scenes import MIB, app

CACHED, SERVICE = AppClass.CACHED, AppClass.SERVICE


@pytest.mark.parametrize(
    ("need_mib", "shares_mib"),
    [
        (0, [0, 0, 0]),
        (40, [10, 30, 0]),  # in proportion to what they declared
        (80, [20, 60, 0]),
        (100, [20, 60, 20]),  # the higher class only for what the lower one cannot give
        (1000, [20, 60, 50]),  # nobody is asked for more than was declared
    ],
)
def test_lower_classes_give_all_they_declared_before_a_higher_one_is_asked(
    need_mib: int, shares_mib: list[int]
) -> None:
    apps = [
        app(3, SERVICE, sheddable_mib=50),
        app(1, CACHED, sheddable_mib=20),
        app(2, CACHED, sheddable_mib=60),
    ]
    shares = share_need(need_mib * MIB, apps)
    assert [shares.get(number, 0) // MIB for number in (1, 2, 3)] == shares_mib


def test_who_declared_nothing_is_asked_for_nothing_and_nobody_is_no_error() -> None:
    assert share_need(5000, [app(1, CACHED)]) == {}
    assert share_need(5000, []) == {}


@settings(derandomize=True, deadline=None)
@given(
    st.integers(0, 1 << 40),
    st.lists(st.tuples(st.sampled_from(list(AppClass)), st.integers(0, 1 << 20))),
)
def test_shares_cover_the_need_and_exceed_no_promise(
    need_kib: int, declared: list[tuple[AppClass, int]]
) -> None:
    apps = [app(n, which, sheddable_mib=mib) for n, (which, mib) in enumerate(declared)]
    shares = share_need(need_kib, apps)
    assert set(shares) <= {one.app for one in apps}
    assert all(0 <= shares.get(one.app, 0) <= one.sheddable_kib for one in apps)
    assert sum(shares.values()) >= min(need_kib, sum(one.sheddable_kib for one in apps))
    assert sum(shares.values()) < need_kib + max(len(apps), 1)
