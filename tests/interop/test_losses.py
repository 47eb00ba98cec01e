"""What one desktop notice is about: who is seen, what belongs together, and that what is kept is bounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lmkd.interop.desktop_entries import Entries
from lmkd.interop.losses import LOSSES_MOST, STALE_S, TOGETHER_S, Losses
from lmkd.model import SYSTEM_DOMAIN, AppClass, Level, Process, Signal, Unit, Victim
from lmkd.policy.actions import (
    Action,
    Broadcast,
    Record,
    ReleaseVictim,
    ReportKilled,
    SendSignal,
)

APPS = "/user.slice/user-1000.slice/user@1000.service/app.slice"
UNIT = f"{APPS}/app-firefox-77.scope"
GIMP = f"{APPS}/app-gimp-78.scope"
HIDDEN = f"{APPS}/app-indexer@79.service"
FULL = "37.1 MiB of 8192.0 MiB available"
FOREGROUND, SERVICE = AppClass.FOREGROUND, AppClass.SERVICE


def victim(
    pid: int = 10,
    name: str = "firefox",
    app_class: AppClass = FOREGROUND,
    cgroup: str = "/",
    size_kib: int = 300 << 10,
    unit: Unit = Unit.PROCESS,
    processes: int = 1,
) -> Victim:
    return Victim(pid, pid, name, app_class, "a rule", size_kib, unit, cgroup, processes=processes)


def term(of: Victim, kill: int = 1, domain: str = SYSTEM_DOMAIN) -> SendSignal:
    return SendSignal(domain, kill, of, Signal.TERM, FULL, 5_000_000)


def kill(of: Victim, number: int = 1) -> SendSignal:
    return SendSignal(SYSTEM_DOMAIN, number, of, Signal.KILL, FULL)


def ended(of: Victim) -> ReportKilled:
    return ReportKilled(SYSTEM_DOMAIN, of, FULL, of.size_kib)


def failed(number: int = 1) -> Record:
    return Record(1, SYSTEM_DOMAIN, 0, "failed", {"kill": number, "reason": "it is gone"})


def process(pid: int, comm: str, cgroup: str) -> Process:
    return Process(pid, pid, 1, comm, "", 1000, cgroup, 0, 0, 0, "S")


class Scene:
    """Losses with a desktop of three applications, of which menus show two."""

    def __init__(self, folder: Path) -> None:
        for name, text in (
            ("firefox", "Name=Firefox\nIcon=fx"),
            ("gimp", "Name=GIMP\nIcon=gimp"),
            ("indexer", "Name=Indexer\nNoDisplay=true"),
        ):
            (folder / f"{name}.desktop").write_text(f"[Desktop Entry]\n{text}\n")
        self.folder = folder
        self.entries = Entries([folder])
        self.entries.read_all()
        self.now_s = 1000.0
        self.parents: dict[int, Process] = {}
        self.losses = Losses(self.entries, self.parents.get, lambda: self.now_s)

    def take(self, *actions: Action) -> list[bool]:
        return [self.losses.take(action) for action in actions]

    @property
    def said(self) -> str | None:
        words = self.losses.words()
        return None if words is None else f"{words.summary}: {words.body}"

    @property
    def summary(self) -> str | None:
        words = self.losses.words()
        return None if words is None else words.summary


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


# --- who is seen ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "summary"),
    [
        (victim(name="a", app_class=AppClass.FOREGROUND), "a is being closed"),
        (victim(name="a", app_class=AppClass.PERCEPTIBLE), "a is being closed"),
        (victim(name="a", app_class=AppClass.SERVICE), None),
        (victim(name="a", app_class=AppClass.BACKGROUND), None),
        (victim(name="a", app_class=AppClass.CACHED), None),
        (victim(name="a", app_class=SERVICE, cgroup=UNIT), "Firefox is being closed"),
        (
            victim(name="a", app_class=AppClass.BACKGROUND, cgroup=UNIT),
            "Firefox is being closed",
        ),
        (victim(name="a", app_class=AppClass.CACHED, cgroup=UNIT), None),
        (victim(name="a", app_class=SERVICE, cgroup=HIDDEN), None),
        (victim(name="a", app_class=FOREGROUND, cgroup=HIDDEN), "Indexer is being closed"),
        (victim(name="gimp", app_class=SERVICE), "GIMP is being closed"),
        (victim(name="indexer", app_class=SERVICE), None),
        (victim(name="a", app_class=SERVICE, cgroup="/system.slice/a.service"), None),
    ],
)
def test_what_the_user_sees_is_told_of_and_nothing_else(
    scene: Scene, of: Victim, summary: str | None
) -> None:
    assert scene.take(term(of)) == [summary is not None]
    assert scene.summary == summary
    scene.take(ended(of))
    assert scene.summary == (None if summary is None else summary.replace("is being", "was"))


def test_an_application_that_was_installed_since_is_looked_for_before_it_is_told_of(
    scene: Scene,
) -> None:
    new, unknown = (f"{APPS}/app-{name}-5.scope" for name in ("new", "unknown"))
    scene.take(term(victim(1, "n", SERVICE, new), 1), term(victim(2, "u", SERVICE, unknown), 2))
    scene.take(term(victim(3, "v", FOREGROUND, unknown), 3))
    assert set(scene.losses.missing()) == {"new", "unknown"}
    (scene.folder / "new.desktop").write_text("[Desktop Entry]\nName=Novelty\n")
    ids = scene.losses.missing()
    scene.entries.read(ids)
    scene.losses.note_looked_up(ids)
    assert scene.losses.missing() == {}
    assert scene.summary == "2 programs are being closed"
    assert "Novelty holds 300 MiB." in (scene.said or "")
    assert "v holds 300 MiB." in (scene.said or "")


# --- the application, or a part of it ------------------------------------------------------------------------------

INSIDE, OUTSIDE = UNIT, f"{APPS}/shell.service"


@pytest.mark.parametrize(
    ("of", "parent", "called"),
    [
        (victim(name="firefox-bin", cgroup=UNIT), process(5, "systemd", OUTSIDE), "Firefox"),
        (victim(name="firefox-bin", cgroup=UNIT), None, "Firefox"),
        (
            victim(name="Web Content", cgroup=UNIT),
            process(5, "firefox", INSIDE),
            "Web Content in Firefox",
        ),
        (victim(cgroup=UNIT), process(5, "firefox", INSIDE), "firefox in Firefox"),
        (victim(cgroup=UNIT), process(5, "bwrap", f"{INSIDE}/box"), "Firefox"),
        (victim(name="a", cgroup=UNIT, unit=Unit.CGROUP), process(5, "a", INSIDE), "Firefox"),
        (
            victim(name="a", cgroup=f"{UNIT}/box", unit=Unit.CGROUP),
            process(5, "systemd", OUTSIDE),
            "a in Firefox",
        ),
        (victim(name="firefox"), process(5, "firefox", "/"), "firefox in Firefox"),
        (victim(name="firefox"), process(5, "sh", "/"), "Firefox"),
    ],
)
def test_a_part_of_an_application_is_not_said_to_be_all_of_it(
    scene: Scene, of: Victim, parent: Process | None, called: str
) -> None:
    if parent is not None:
        scene.parents[of.pid] = parent
    scene.take(term(of))
    assert scene.summary == f"{called} is being closed"


def test_a_swarm_is_counted_and_a_tree_is_one_program(scene: Scene) -> None:
    scene.take(term(victim(name="worker", unit=Unit.SWARM, processes=12)))
    assert scene.summary == "12 \N{MULTIPLICATION SIGN} worker are being closed"
    scene.losses.start_anew()
    scene.take(term(victim(name="make", unit=Unit.TREE, processes=12)))
    assert scene.summary == "make is being closed"


def test_the_icon_is_that_of_the_one_application_it_is_about(scene: Scene) -> None:
    scene.take(term(victim(cgroup=UNIT)))
    assert scene.losses.icon() == "fx"
    scene.take(term(victim(11, "gimp", cgroup=GIMP), 2))
    assert scene.losses.icon() == ""


# --- how it goes on ------------------------------------------------------------------------------------------------

HELD = "Memory is nearly full (37 MiB of 8 GiB left). notes holds 300 MiB."


def test_a_kill_is_said_at_sigterm_at_sigkill_and_at_the_end(scene: Scene) -> None:
    one = victim(name="notes")
    assert scene.take(term(one)) == [True]
    assert scene.said == f"notes is being closed: {HELD} It has 5 seconds to save."
    assert scene.losses.longest_exit_us() == 5_000_000
    assert scene.take(kill(one)) == [True]
    assert scene.said == f"notes is being closed: {HELD} Its time to save is over."
    assert scene.take(ended(one)) == [True]
    assert scene.summary == "notes was closed"
    assert scene.losses.longest_exit_us() is None
    # It is over: nothing that is heard of this kill afterwards changes a word.
    assert scene.take(kill(one), ReleaseVictim(SYSTEM_DOMAIN, 1), failed()) == [False] * 3
    assert scene.summary == "notes was closed"


def test_a_victim_that_does_not_end_is_not_said_to_be_closed(scene: Scene) -> None:
    one = victim()
    scene.take(term(one), kill(one), ReleaseVictim(SYSTEM_DOMAIN, 1), failed())
    assert scene.summary == "Firefox cannot be closed"


def test_a_victim_that_is_let_be_after_it_was_asked_may_stay_open(scene: Scene) -> None:
    scene.take(term(victim()), ReleaseVictim(SYSTEM_DOMAIN, 1), failed())
    assert scene.summary == "Firefox may stay open"


def test_of_a_victim_that_was_never_asked_nothing_remains(scene: Scene) -> None:
    """It had gone by itself, or the signal was not permitted."""
    assert scene.take(term(victim()), failed()) == [True, True]
    assert scene.said is None


def test_a_kill_that_nobody_announced_is_said_afterwards(scene: Scene) -> None:
    """That of the watchdog, or of the system's daemon: how much time it had is not known."""
    assert scene.take(ended(victim())) == [True]
    assert scene.said == (
        "Firefox was closed: Memory was nearly full (37 MiB of 8 GiB left)."
        " Firefox gave back 300 MiB. What it had not saved is lost."
    )


def test_what_does_not_concern_anybody_is_no_news(scene: Scene) -> None:
    others: list[Action] = [
        Broadcast(SYSTEM_DOMAIN, Level.CRITICAL, "", 0),
        Record(1, SYSTEM_DOMAIN, 0, "would_kill", {"kill": 1}),
        failed(7),
        kill(victim(), 7),
    ]
    assert scene.take(*others) == [False] * len(others)
    assert scene.said is None


def test_what_is_short_in_a_cgroup_is_not_said_of_the_machine(scene: Scene) -> None:
    scene.take(term(victim(), domain="/box"))
    assert "The memory that its group of programs may use is nearly full" in (scene.said or "")


# --- together, and bounded -----------------------------------------------------------------------------------------


def test_kills_that_follow_each_other_are_one_notice_and_a_later_one_is_another(
    scene: Scene,
) -> None:
    first, second, third = (victim(pid, f"app{pid}") for pid in (1, 2, 3))
    scene.take(term(first, 1), ended(first))
    number = scene.losses.number
    scene.now_s += TOGETHER_S
    scene.take(term(second, 2), ended(second))
    assert (scene.losses.number, scene.summary) == (number, "2 programs were closed")
    scene.now_s += TOGETHER_S + 1
    scene.take(term(third, 3))
    assert (scene.losses.number, scene.summary) == (number + 1, "app3 is being closed")


def test_a_notice_is_not_left_while_somebody_in_it_is_still_being_closed(scene: Scene) -> None:
    scene.take(term(victim(1, "a"), 1))
    scene.now_s += 5 * TOGETHER_S
    scene.take(term(victim(2, "b"), 2))
    assert scene.summary == "2 programs are being closed"
    scene.now_s += STALE_S + 1
    scene.take(term(victim(3, "c"), 3))
    assert scene.summary == "c is being closed", "nobody has heard of the others for too long"


@pytest.mark.parametrize("end", [ended, None])
def test_a_thousand_kills_are_one_notice_of_bounded_size(
    scene: Scene, end: Callable[[Victim], ReportKilled] | None
) -> None:
    for pid in range(1, 1001):
        scene.take(term(victim(pid, f"app{pid}"), pid))
        if end is not None:
            scene.take(end(victim(pid, f"app{pid}")))
    assert len(scene.losses._held) == LOSSES_MOST
    assert len(scene.said or "") < 1000
    if end is not None:
        assert scene.summary == "1000 programs were closed"
        assert "gave back 293 GiB together" in (scene.said or "")
