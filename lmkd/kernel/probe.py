"""Find once, at start, what this kernel has and what this process may do with it.

Looks and never changes anything: no trigger is armed, no cgroup made, no signal sent. Does not
know what the features are for, only what is used in place of a missing one.

Never raises for want of a feature: a file that cannot be read or makes no sense is a feature that
is missing.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Final, Literal

from lmkd.kernel import files
from lmkd.kernel.parse import parse_meminfo, parse_proc_cgroup, parse_swaps

PsiSupport = Literal["yes", "unprivileged", "off", "none"]

_CAP_KILL: Final = 5  # include/uapi/linux/capability.h
_CAP_SYS_RESOURCE: Final = 24
_CAP_SYS_PTRACE: Final = 19
_HIDING: Final = (  # numbers until 5.7, words since (fs/proc/root.c)
    b"hidepid=1",
    b"hidepid=2",
    b"hidepid=4",
    b"hidepid=noaccess",
    b"hidepid=invisible",
    b"hidepid=ptraceable",
)


@dataclass(frozen=True, slots=True)
class Features:
    """What there is to work with."""

    psi: PsiSupport
    """yes; unprivileged: windows of 2 s only; off: compiled in, not switched on (psi=1); none."""
    cgroup_mount: str | None
    """Where cgroup2 is mounted, as seen from the root directory that was probed."""
    memory_controller: bool
    """Whether that hierarchy has the memory controller."""
    own_cgroup: str
    hidepid: bool
    """Whether /proc hides the processes of other users from this process."""
    swap_kib: int
    zram: bool
    """Whether some of the swap that is on lies on zram."""
    total_kib: int
    pidfd: bool
    mrelease: bool
    """Whether process_mrelease exists (Linux 5.15)."""
    can_signal_others: bool
    """CAP_KILL: processes of all users, not our own alone."""
    sys_resource: bool
    """CAP_SYS_RESOURCE: short PSI windows, and oom_score_adj below the inherited value."""
    page_kib: int

    def missing(self) -> tuple[str, ...]:
        """Name each thing that is missing and what is used in its place, a line each."""
        lines = []
        if self.psi == "none":
            lines.append("no PSI in this kernel: memory, swap and refaults are watched")
        elif self.psi == "off":
            lines.append("PSI is off (boot with psi=1): memory, swap and refaults are watched")
        elif self.psi == "unprivileged":
            lines.append("no CAP_SYS_RESOURCE: PSI triggers have 2 s windows; the clock is quicker")
        if self.cgroup_mount is None:
            lines.append(
                "no cgroup2 mount: the whole system is the only domain, and kills are by process"
            )
        elif not self.memory_controller:
            lines.append("no memory controller on cgroup2: the whole system is the only domain")
        if self.hidepid:
            lines.append(
                "/proc hides other users' processes (hidepid): only visible ones are ranked"
            )
        if self.swap_kib == 0:
            lines.append(
                "no swap: exhaustion comes before the first stall, so available memory decides"
            )
        if not self.pidfd:
            lines.append(
                "no pidfds (Linux 5.3): nothing can be signalled safely, so nothing is killed"
            )
        if not self.mrelease:
            lines.append(
                "no process_mrelease (Linux 5.15): a victim's memory comes back at its own exit"
            )
        if not self.can_signal_others:
            lines.append("no CAP_KILL: only this user's processes can be signalled")
        if not self.sys_resource:
            lines.append(
                "no CAP_SYS_RESOURCE: oom_score_adj cannot be lowered below what was inherited"
            )
        return tuple(lines)


def probe(root: str = "/") -> Features:
    """Look at the kernel below `root`, and at what this process may do."""
    mount = find_cgroup_mount(root)
    capabilities = _effective_capabilities(root)
    sys_resource = bool(capabilities >> _CAP_SYS_RESOURCE & 1)
    swap_kib, zram = _swap(root)
    return Features(
        psi=_psi(root, sys_resource=sys_resource),
        cgroup_mount=mount,
        memory_controller=mount is not None and _has_memory_controller(root, mount),
        own_cgroup=_own_cgroup(root),
        hidepid=_hides_processes(root, capabilities),
        swap_kib=swap_kib,
        zram=zram,
        total_kib=_total_kib(root),
        pidfd=_has_pidfd(),
        mrelease=_kernel_release() >= (5, 15),
        can_signal_others=bool(capabilities >> _CAP_KILL & 1),
        sys_resource=sys_resource,
        page_kib=os.sysconf("SC_PAGE_SIZE") // 1024,
    )


def _read(root: str, name: str) -> bytes | None:
    try:
        return files.read_file(os.path.join(root, name))
    except (OSError, ValueError):  # ValueError: /proc/self/mounts gave a name that no file can have
        return None


def find_cgroup_mount(root: str) -> str | None:
    """Find where cgroup2 is mounted: the first mount that has the memory controller, else the
    first."""
    mounts = []
    for line in (_read(root, files.MOUNTS) or b"").splitlines():
        fields = line.split(b" ")
        if len(fields) >= 3 and fields[2] == b"cgroup2":
            mounts.append(_unescape(fields[1]))
    for mount in mounts:
        if _has_memory_controller(root, mount):
            return mount
    return mounts[0] if mounts else None


def _unescape(name: bytes) -> str:
    # /proc/mounts writes space, tab, newline and backslash in octal (fs/proc_namespace.c, mangle)
    for octal, char in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        name = name.replace(octal, char)
    return os.fsdecode(name)


def below(root: str, path: str) -> str:
    """Join an absolute path of the probed system to the root directory."""
    return os.path.join(root, path.lstrip("/"))


def _has_memory_controller(root: str, mount: str) -> bool:
    controllers = _read(root, os.path.join(mount.lstrip("/"), files.CGROUP_CONTROLLERS))
    return controllers is not None and b"memory" in controllers.split()


def _psi(root: str, *, sys_resource: bool) -> PsiSupport:
    path = os.path.join(root, files.PRESSURE_MEMORY)
    try:
        content = files.read_file(path)
    except OSError:
        return "off"  # the file opens, and reading gives EOPNOTSUPP (kernel/sched/psi.c)
    if content is None:
        return "none"
    return "yes" if sys_resource else "unprivileged"


def _own_cgroup(root: str) -> str:
    try:
        return parse_proc_cgroup(_read(root, files.SELF_CGROUP) or b"", files.SELF_CGROUP)
    except files.MalformedKernelFile:
        return "/"


def _effective_capabilities(root: str) -> int:
    status = _read(root, files.SELF_STATUS) or b""
    _, _, rest = status.partition(b"\nCapEff:\t")
    try:
        return int(rest[:16], 16)
    except ValueError:
        return 0


def _hides_processes(root: str, capabilities: int) -> bool:
    if capabilities >> _CAP_SYS_PTRACE & 1:
        return False  # hidepid does not apply to us
    for line in (_read(root, files.MOUNTS) or b"").splitlines():
        fields = line.split(b" ")
        if len(fields) >= 4 and fields[1] == b"/proc" and fields[2] == b"proc":
            return any(option in _HIDING for option in fields[3].split(b","))
    return False


def _swap(root: str) -> tuple[int, bool]:
    content = _read(root, files.SWAPS)
    if content is None:
        return 0, False
    try:
        areas = parse_swaps(content, files.SWAPS)
    except files.MalformedKernelFile:
        return 0, False
    return sum(area.size_kib for area in areas), any("/zram" in area.name for area in areas)


def _total_kib(root: str) -> int:
    try:
        return parse_meminfo(_read(root, files.MEMINFO) or b"", files.MEMINFO).total_kib
    except files.MalformedKernelFile:
        return 0


def _has_pidfd() -> bool:
    try:
        fd = os.pidfd_open(os.getpid())
    except (AttributeError, OSError):
        return False
    os.close(fd)
    return hasattr(signal, "pidfd_send_signal")


def _kernel_release() -> tuple[int, ...]:
    numbers = os.uname().release.split("-", 1)[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdigit())
