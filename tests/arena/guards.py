"""The guards, as a user would run them: by unit, with what their configuration adds to the package's.

Nothing here starts anything. A guard's unit is its package's own; the drop-ins that every unit gets (its output to a
file, no dependence on a full boot) are guest/service.py's. Files are paths in the guest and what is put there.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Guard:
    """One contestant: its unit, and how it says that it watches."""

    name: str
    package: str
    unit: str = ""
    files: dict[str, str] = field(default_factory=dict)
    says: str = ""  # in its log, once it watches
    asks: tuple[str, ...] = ()  # a command that succeeds, and says `says`, once it watches
    needs_bus: bool = False
    warns: str = ""  # how its notices reach programs: "lmkd" or "dbus"


_OOMD_ASKS = ("oomctl",)
_CHOOSE = "--avoid '^(systemd|dbus-daemon|gnome-shell|sshd)$' --prefer '^Web Content$'"
_EARLYOOM_UNIT = {
    "/run/systemd/system/earlyoom.service.d/best.conf": "[Service]\nOOMScoreAdjust=-100\nNice=-20\n",
}
GUARDS = (
    Guard("none", ""),
    Guard("earlyoom", "earlyoom", "earlyoom.service", says="sending SIGTERM when"),
    Guard(
        "earlyoom-best",
        "earlyoom",
        "earlyoom.service",
        # What its README's example sets, --avoid for what a session cannot lose and --prefer for tabs, but for its
        # `-m 5`, which is later than stock; and the lines that earlyoom(1) gives for -p, which does nothing in a unit.
        files={"/etc/default/earlyoom": f'EARLYOOM_ARGS="-r 3600 {_CHOOSE}"\n', **_EARLYOOM_UNIT},
        says="sending SIGTERM when",
    ),
    Guard(
        "earlyoom-memory",
        "earlyoom",
        "earlyoom.service",
        # And the option that earlyoom(1) describes for whoever wants no swap used: it acts on available memory alone.
        files={
            "/etc/default/earlyoom": f'EARLYOOM_ARGS="-r 3600 -m 10,5 -s 100 {_CHOOSE}"\n',
            **_EARLYOOM_UNIT,
        },
        says="sending SIGTERM when",
    ),
    Guard("nohang", "nohang", "nohang.service", says="onitoring has started"),
    Guard(
        "systemd-oomd",
        "systemd-oomd",
        "systemd-oomd.service",
        says="/user.slice/user-1000.slice/user@1000.service",
        asks=_OOMD_ASKS,
        needs_bus=True,
    ),
    Guard(
        "systemd-oomd-best",
        "systemd-oomd",
        "systemd-oomd.service",
        # Debian ships swap on -.slice and pressure above 50% for 20 s on user@.service. systemd-oomd.service(8) speaks
        # for 40% there and for 60% on system.slice; how long is oomd.conf(5)'s, 1 s at least: 2 s are in its favour.
        files={
            "/run/systemd/oomd.conf.d/90-best.conf": "[OOM]\nDefaultMemoryPressureDurationSec=2s\n",
            "/run/systemd/system/user@1000.service.d/90-best.conf": (
                "[Service]\nManagedOOMMemoryPressure=kill\nManagedOOMMemoryPressureLimit=40%\n"
            ),
            "/run/systemd/system/system.slice.d/90-best.conf": (
                "[Slice]\nManagedOOMMemoryPressure=kill\nManagedOOMMemoryPressureLimit=60%\n"
            ),
        },
        says="/user.slice/user-1000.slice/user@1000.service",
        asks=_OOMD_ASKS,
        needs_bus=True,
    ),
    Guard("oomd", "oomd", "oomd.service"),
    Guard(
        "low-memory-monitor",
        "low-memory-monitor",
        "low-memory-monitor.service",
        asks=("busctl", "--system", "status", "org.freedesktop.LowMemoryMonitor"),
        needs_bus=True,
        warns="dbus",
    ),
    Guard("lmkd", "", "lmkd.service", says=" ready", warns="lmkd"),
)
BY_NAME = {guard.name: guard for guard in GUARDS}
