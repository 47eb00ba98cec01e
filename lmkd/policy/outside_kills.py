"""Kills by somebody else: grace for our apps, where whoever kills says so before.

systemd-oomd announces the cgroup that it is about to end, and waits. Each app in there gets a last notice, critical and
with all that it could shed, and the warning that it is being ended. When all have answered or left, or their grace is
over, the other goes on. It kills whatever comes of the notices: nothing here decides about that, and no word is put
off.
"""

from __future__ import annotations

from dataclasses import replace

from lmkd.model import SYSTEM_DOMAIN, Answer, Level, is_within
from lmkd.policy.actions import AllowOutsideKill, DelayOutsideKill, Notify, WarnKill
from lmkd.policy.events import AckReceived, OutsideKillAnnounced, OutsideKillOver
from lmkd.policy.simulate import tell_truth
from lmkd.policy.state import Announced
from lmkd.policy.turn import Turn


def take_announcement(turn: Turn, event: OutsideKillAnnounced) -> None:
    """Tell the apps of the cgroup, and have the other wait for them."""
    apps = [app for app in turn.state.apps.values() if is_within(app.cgroup, event.cgroup)]
    reason = f"{event.killer} is about to end {event.cgroup}"
    notices: dict[int, int] = {}
    latest_us = turn.now_us
    for app in apps:
        notice = turn.state.next_notice
        grace_us = min(turn.settings.grace_us(app), max(event.until_us - turn.now_us, 0))
        deadline_us = turn.now_us + grace_us
        latest_us = max(latest_us, deadline_us)
        turn.act(
            Notify(
                app.app,
                notice,
                SYSTEM_DOMAIN,
                Level.CRITICAL,
                app.sheddable_kib,
                deadline_us,
                reason,
            ),
            WarnKill(app.app, reason, grace_us),
        )
        notices[app.app] = notice
        turn.state = replace(turn.state, next_notice=notice + 1)
    if not notices:
        turn.act(AllowOutsideKill(event.announcement))
        return
    announced = Announced(notices, frozenset(notices))
    _keep(turn, event.announcement, announced)
    turn.act(DelayOutsideKill(event.announcement, latest_us))


def take_answer(turn: Turn, event: AckReceived) -> None:
    """Wait no more for an app that has done what it could. Whether it has is not judged: its end is decided."""
    if event.answer is Answer.WORKING:
        return
    for number, announced in turn.state.announced.items():
        if announced.notices.get(event.app) == event.notice:
            _stop_waiting(turn, number, announced, event.app)
            return


def take_leave(turn: Turn, app: int) -> None:
    """Wait no more for an app that has gone."""
    for number, announced in list(turn.state.announced.items()):
        _stop_waiting(turn, number, announced, app)


def take_end(turn: Turn, event: OutsideKillOver) -> None:
    """Tell those who are still there how things are."""
    announced = turn.state.announced.get(event.announcement)
    if announced is None:
        return
    left = {n: kept for n, kept in turn.state.announced.items() if n != event.announcement}
    turn.state = replace(turn.state, announced=left)
    for app in announced.notices:
        if app in turn.state.apps:
            tell_truth(turn, app, "the kill that was announced is over")


def _stop_waiting(turn: Turn, number: int, announced: Announced, app: int) -> None:
    if app not in announced.awaited:
        return
    announced = replace(announced, awaited=announced.awaited - {app})
    _keep(turn, number, announced)
    if not announced.awaited:
        turn.act(AllowOutsideKill(number))


def _keep(turn: Turn, number: int, announced: Announced) -> None:
    turn.state = replace(turn.state, announced={**turn.state.announced, number: announced})
