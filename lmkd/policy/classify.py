"""Give a process that never registered its class, and keep the never-kill set out of reach.

The class follows from what the session or the service manager already said: oom_score_adj, first of all. The
never-kill set is what a machine or a session cannot lose. It is told by the *executable*, which a process cannot
set for itself; its comm it can (prctl), so a comm alone protects nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmkd.model import AppClass, Process

NEVER_KILLED = frozenset(
    {
        # init, and what it needs to run a machine
        "systemd", "init", "runit", "openrc-init", "s6-svscan", "systemd-journald", "systemd-logind", "systemd-udevd",
        "systemd-networkd", "systemd-resolved", "systemd-timesyncd", "systemd-oomd", "systemd-executor", "udevd",
        # the way in
        "sshd", "sshd-session", "agetty", "login", "NetworkManager", "wpa_supplicant", "iwd", "dhclient",
        # the message bus
        "dbus-daemon", "dbus-broker", "dbus-broker-launch",
        # display managers and session leaders
        "gdm", "gdm3", "gdm-session-worker", "gdm-wayland-session", "gdm-x-session", "sddm", "sddm-helper", "lightdm",
        "greetd", "gnome-session-binary",
        "gnome-session-service", "startplasma-wayland", "startplasma-x11", "ksmserver",
        "xfce4-session", "lxsession", "mate-session", "cinnamon-session",
        # compositors and display servers
        "Xorg", "Xwayland", "gnome-shell", "kwin_wayland", "kwin_x11", "plasmashell", "sway", "weston", "labwc",
        "wayfire", "Hyprland", "river", "cosmic-comp", "mutter", "muffin", "phoc", "cage",
        # sound, without which a session looks frozen
        "pipewire", "wireplumber", "pulseaudio",
    }
)  # fmt: skip
SYSTEM_PLACES = ("/usr/", "/bin/", "/sbin/", "/lib", "/opt/", "/nix/store/", "/gnu/store/")
"""Where an administrator alone installs: a copy named sshd in somebody's home is not sshd."""
DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class Classed:
    """A class and where it came from."""

    app_class: AppClass
    why: str

    @property
    def never_killed(self) -> bool:
        return self.app_class is AppClass.SYSTEM


def exe_name(exe: str) -> str:
    """Return the file name of an executable, also of one that an upgrade has replaced meanwhile."""
    return exe.removesuffix(DELETED).rsplit("/", 1)[-1]


def never_kill_reason(process: Process, own_pid: int) -> str | None:
    """Return why a process is never to be signalled, or None."""
    if process.pid == 1:
        return "init"
    if process.pid == own_pid:
        return "this daemon"
    if process.kernel_thread:
        return "kernel thread"
    if process.oom_score_adj <= -900:
        return f"oom_score_adj {process.oom_score_adj}"
    # Without CAP_SYS_PTRACE the link of another user's process cannot be read: then its own word has to do.
    name = exe_name(process.exe) or process.comm
    installed = not process.exe or process.exe.startswith(SYSTEM_PLACES)
    if name in NEVER_KILLED and installed:
        return f"{name}: a session or a machine cannot lose it"
    return None


def classify(process: Process, own_pid: int) -> Classed:
    """Return the class of a process for which nobody spoke.

    The bands follow the classes' own oom_score_adj (900, 700, 500, 200, 0), split half-way. An ordinary program has
    0 everywhere, so 0 says nothing about it and means `service`: after what called itself dispensable, before what
    called itself perceptible. Below zero somebody asked for protection.
    """
    reason = never_kill_reason(process, own_pid)
    if reason is not None:
        return Classed(AppClass.SYSTEM, reason)
    adj = process.oom_score_adj
    if adj < 0:
        return Classed(AppClass.FOREGROUND, f"oom_score_adj {adj}: protected by whoever started it")
    if adj >= 800:
        return Classed(AppClass.CACHED, f"oom_score_adj {adj}")
    if adj >= 600:
        return Classed(AppClass.BACKGROUND, f"oom_score_adj {adj}")
    if adj >= 350:
        return Classed(AppClass.SERVICE, f"oom_score_adj {adj}")
    if adj >= 100:
        return Classed(AppClass.PERCEPTIBLE, f"oom_score_adj {adj}")
    return Classed(AppClass.SERVICE, f"oom_score_adj {adj}, nobody spoke for it")
