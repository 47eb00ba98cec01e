"""Split an amount to free among apps: lower classes first, then in proportion to what they declared."""

from __future__ import annotations

from collections.abc import Iterable

from lmkd.model import App, AppClass


def share_need(need_kib: int, apps: Iterable[App]) -> dict[int, int]:
    """Return {app number: KiB to free}, without those of which nothing is asked.

    A class is asked for all that it declared before the next one is asked for anything. Within a class each share
    is rounded up, so that the shares are never short of the need for want of a few KiB.
    """
    by_class: list[list[App]] = [[] for _ in AppClass]
    for app in apps:
        if app.sheddable_kib:
            by_class[app.app_class].append(app)
    shares: dict[int, int] = {}
    left_kib = need_kib
    for members in by_class:
        if left_kib <= 0:
            break
        declared_kib = sum([app.sheddable_kib for app in members])
        asked_kib = min(left_kib, declared_kib)
        left_kib -= asked_kib
        for app in members:
            shares[app.app] = -(-asked_kib * app.sheddable_kib // declared_kib)
    return shares
