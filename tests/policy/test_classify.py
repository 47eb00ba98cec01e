"""The class of a process by the shipped rules, and what no rule may say otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lmkd.config import load_config
from lmkd.model import AppClass, Process
from lmkd.policy.classify import (
    UNRULED,
    classify,
    classify_all,
    fixed_reason,
    never_kill_reason,
)
from lmkd.policy.patterns import exe_name
from lmkd.policy.rules import Rule, RuleSet, Verdict

from .scenes import OWN_PID, process

SHIPPED = load_config([]).settings
NEVER_LOST = [
    *("systemd", "init", "runit", "openrc-init", "s6-svscan", "systemd-journald", "systemd-logind"),
    *("systemd-udevd", "systemd-networkd", "systemd-resolved", "systemd-timesyncd"),
    *("systemd-oomd", "systemd-executor", "udevd"),
    *("sshd", "sshd-session", "agetty", "login", "NetworkManager", "wpa_supplicant", "iwd"),
    *("dhclient", "dbus-daemon", "dbus-broker", "dbus-broker-launch"),
    *("gdm", "gdm3", "gdm-session-worker", "gdm-wayland-session", "gdm-x-session", "sddm"),
    *("sddm-helper", "lightdm", "greetd", "gnome-session-binary", "gnome-session-service"),
    *("startplasma-wayland", "startplasma-x11", "ksmserver", "xfce4-session", "lxsession"),
    *("mate-session", "cinnamon-session"),
    *("Xorg", "Xwayland", "gnome-shell", "kwin_wayland", "kwin_x11", "plasmashell", "sway"),
    *("weston", "labwc", "wayfire", "Hyprland", "river", "cosmic-comp", "mutter", "muffin"),
    *("phoc", "cage", "pipewire", "wireplumber", "pulseaudio"),
]
MANAGER = "/user.slice/user-1000.slice/user@1000.service"


def classified(one: Process) -> tuple[AppClass, str]:
    found = classify(one, SHIPPED, OWN_PID)
    return found.app_class, found.why


@pytest.mark.parametrize(
    ("adj", "app_class"),
    [
        (1000, AppClass.CACHED),
        (800, AppClass.CACHED),
        (799, AppClass.BACKGROUND),
        (600, AppClass.BACKGROUND),
        (599, AppClass.SERVICE),
        (350, AppClass.SERVICE),
        (349, AppClass.PERCEPTIBLE),
        (100, AppClass.PERCEPTIBLE),
        (-1, AppClass.FOREGROUND),
        (-899, AppClass.FOREGROUND),
        (-900, AppClass.SYSTEM),
        (-1000, AppClass.SYSTEM),
    ],
)
def test_the_class_follows_from_oom_score_adj(adj: int, app_class: AppClass) -> None:
    found = classify(process(7, adj=adj), SHIPPED, OWN_PID)
    assert found.app_class is app_class
    assert "oom_score_adj" in found.why
    assert (found.never is not None) == (app_class is AppClass.SYSTEM)


@pytest.mark.parametrize("adj", [0, 99])
def test_an_ordinary_programs_oom_score_adj_says_nothing_about_it(adj: int) -> None:
    assert classify(process(7, adj=adj), SHIPPED, OWN_PID) == (
        AppClass.SERVICE, UNRULED, None, None,
    )  # fmt: skip


@pytest.mark.parametrize("name", NEVER_LOST)
def test_what_a_machine_or_a_session_cannot_lose_is_never_killed(name: str) -> None:
    """Whatever it calls itself, whatever its oom_score_adj, and when an upgrade has replaced its file."""
    for exe in (f"/usr/bin/{name}", f"/usr/lib/{name}", f"/usr/sbin/{name} (deleted)"):
        one = process(7, exe=exe, comm="renamed", adj=900)
        found = classify(one, SHIPPED, OWN_PID)
        assert found.app_class is AppClass.SYSTEM
        assert found.never == found.why
    # Unreadable: its own word has to do.
    assert never_kill_reason(process(7, exe="", comm=name[:15]), SHIPPED, OWN_PID) is not None


@pytest.mark.parametrize("comm", ["sshd", "systemd", "Xorg", "dbus-daemon", "init"])
@pytest.mark.parametrize("exe", ["/home/me/leak", "/home/me/{}", "/tmp/usr/bin/{}", "/var/lib/{}"])
def test_neither_a_comm_nor_a_copy_in_somebodys_home_protects(comm: str, exe: str) -> None:
    one = process(7, comm=comm, exe=exe.format(comm))
    assert never_kill_reason(one, SHIPPED, OWN_PID) is None


def test_an_unknown_name_protects_nobody_where_the_executable_cannot_be_read() -> None:
    assert never_kill_reason(process(7, exe="", comm="leak"), SHIPPED, OWN_PID) is None


@pytest.mark.parametrize(
    ("exe", "name"),
    [("/usr/bin/cat", "cat"), ("/usr/bin/cat (deleted)", "cat"), ("", ""), ("cat", "cat")],
)
def test_the_name_of_an_executable_survives_its_upgrade(exe: str, name: str) -> None:
    assert exe_name(exe) == name


@pytest.mark.parametrize(
    ("cgroup", "app_class"),
    [
        (MANAGER + "/background.slice/tracker.service", AppClass.BACKGROUND),
        (MANAGER + "/session.slice/org.gnome.SettingsDaemon.Color.service", AppClass.PERCEPTIBLE),
        (MANAGER + "/app.slice/app-firefox-1.scope", AppClass.SERVICE),
        ("/user.slice/user-1000.slice/session-2.scope", AppClass.SERVICE),
        ("/system.slice/background.slice/x.service", AppClass.SERVICE),
    ],
)
def test_the_slices_of_a_session_say_what_their_programs_are(
    cgroup: str, app_class: AppClass
) -> None:
    assert classified(process(7, cgroup=cgroup))[0] is app_class


def test_what_somebody_said_of_a_program_counts_before_its_slice() -> None:
    one = process(7, adj=900, cgroup=MANAGER + "/session.slice/x.service")
    assert classified(one)[0] is AppClass.CACHED


# --- what no rule may say otherwise ---------------------------------------------------------------------------------

EVERYTHING_GOES = replace(
    SHIPPED, rules=RuleSet((Rule("everything goes", "x:1", (), Verdict(AppClass.CACHED)),))
)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (process(1), "init"),
        (process(OWN_PID), "this daemon"),
        (process(7, kernel_thread=True), "kernel thread"),
    ],
)
def test_no_rule_is_asked_about_init_the_daemon_and_kernel_threads(
    one: Process, reason: str
) -> None:
    assert classify(one, EVERYTHING_GOES, OWN_PID) == (AppClass.SYSTEM, reason, None, reason)
    assert never_kill_reason(one, EVERYTHING_GOES, OWN_PID) == reason


def test_in_a_session_what_belongs_to_another_user_is_out_of_reach() -> None:
    session = replace(EVERYTHING_GOES, own_uid=1000)
    assert fixed_reason(process(7), session, OWN_PID) is None
    other = replace(process(7), uid=0)
    assert classify(other, session, OWN_PID).never == (
        "it belongs to uid 0, and this is the session of 1000"
    )


def test_a_rule_gives_class_and_reason() -> None:
    found = classify(process(7), EVERYTHING_GOES, OWN_PID)
    assert (found.app_class, found.why, found.never) == (AppClass.CACHED, "everything goes", None)


def test_an_exempt_process_is_never_killed_whatever_its_class() -> None:
    rule = Rule("mine", "x:1", (), Verdict(AppClass.CACHED, exempt=True))
    found = classify(process(7), replace(SHIPPED, rules=RuleSet((rule,))), OWN_PID)
    assert (found.app_class, found.never) == (AppClass.CACHED, "mine")


def test_the_class_system_is_out_of_reach_by_the_name_of_its_rule() -> None:
    rule = Rule("mine", "x:1", (), Verdict(AppClass.SYSTEM))
    found = classify(process(7), replace(SHIPPED, rules=RuleSet((rule,))), OWN_PID)
    assert (found.app_class, found.never) == (AppClass.SYSTEM, "mine")


def test_in_strict_mode_what_no_rule_speaks_for_is_the_lowest() -> None:
    strict = replace(SHIPPED, strict=True, unruled=AppClass.FOREGROUND)
    assert classify(process(7), strict, OWN_PID).app_class is AppClass.CACHED
    assert classify(process(7, adj=200), strict, OWN_PID).app_class is AppClass.PERCEPTIBLE
    lax = replace(strict, strict=False)
    assert classify(process(7), lax, OWN_PID).app_class is AppClass.FOREGROUND


def test_many_are_classed_as_each_of_them_is() -> None:
    many = [
        *(process(1), process(OWN_PID), process(7, kernel_thread=True), process(7)),
        *(process(7, adj=adj) for adj in (900, 900, -950)),
        *(process(7, exe=f"/usr/bin/{name}") for name in ("sshd", "sway", "make")),
        replace(process(7), uid=0),
    ]
    for one in (SHIPPED, replace(SHIPPED, strict=True), replace(SHIPPED, own_uid=1000)):
        assert classify_all(many, one, OWN_PID) == [classify(each, one, OWN_PID) for each in many]
