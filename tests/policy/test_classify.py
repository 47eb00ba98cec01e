"""The class of a process for which nobody spoke, and the never-kill set."""

from __future__ import annotations

import pytest

from lmkd.model import AppClass, Process
from lmkd.policy.classify import classify, exe_name, never_kill_reason

from .scenes import OWN_PID, process


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
        (99, AppClass.SERVICE),
        (0, AppClass.SERVICE),
        (-1, AppClass.FOREGROUND),
        (-899, AppClass.FOREGROUND),
        (-900, AppClass.SYSTEM),
        (-1000, AppClass.SYSTEM),
    ],
)
def test_the_class_follows_from_oom_score_adj(adj: int, app_class: AppClass) -> None:
    classed = classify(process(7, adj=adj), OWN_PID)
    assert classed.app_class is app_class
    assert classed.never_killed == (app_class is AppClass.SYSTEM)
    assert str(adj) in classed.why


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (process(1), "init"),
        (process(OWN_PID), "this daemon"),
        (process(7, kernel_thread=True), "kernel thread"),
        (process(7, adj=-950), "oom_score_adj -950"),
        (process(7, exe="/usr/sbin/sshd"), "sshd"),
        (process(7, exe="/usr/sbin/sshd (deleted)"), "sshd"),  # upgraded while it ran
        (process(7, exe="/usr/bin/gnome-shell", comm="renamed"), "gnome-shell"),
        (process(7, exe="", comm="sshd"), "sshd"),  # unreadable: its own word has to do
    ],
)
def test_what_a_machine_cannot_lose_is_never_killed(one: Process, reason: str) -> None:
    said = never_kill_reason(one, OWN_PID)
    assert said is not None
    assert reason in said
    assert classify(one, OWN_PID).app_class is AppClass.SYSTEM


@pytest.mark.parametrize("comm", ["sshd", "systemd", "Xorg", "dbus-daemon", "init"])
def test_a_comm_that_a_process_gave_itself_protects_nobody(comm: str) -> None:
    assert never_kill_reason(process(7, comm=comm, exe="/home/me/leak"), OWN_PID) is None


def test_an_unknown_name_protects_nobody_where_the_executable_cannot_be_read() -> None:
    assert never_kill_reason(process(7, exe="", comm="leak"), OWN_PID) is None


@pytest.mark.parametrize(
    ("exe", "name"),
    [("/usr/bin/cat", "cat"), ("/usr/bin/cat (deleted)", "cat"), ("", ""), ("cat", "cat")],
)
def test_the_name_of_an_executable_survives_its_upgrade(exe: str, name: str) -> None:
    assert exe_name(exe) == name


def test_a_copy_in_somebodys_home_is_not_the_program_whose_name_it_bears() -> None:
    assert never_kill_reason(process(10, comm="sshd", exe="/home/eve/sshd"), OWN_PID) is None
    assert never_kill_reason(process(10, comm="sshd", exe="/usr/sbin/sshd"), OWN_PID) is not None
