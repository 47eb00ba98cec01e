"""A virtual machine with a real kernel, for tests: boot it once, run commands in it one after another.

The guest sees this host's root, read-only under a tmpfs, so every program of the host runs in it as it is.
It is emulated (no KVM), 15 to 20 times slower than the host. What a command prints comes back with its exit
code; what it writes to /out is in `out_dir`; what the kernel says is in `console()`.

A command starts in the repository, as root, in the cgroup /command, with oom_score_adj 0. When it has ended or
run out of time, whatever still runs is killed, and every cgroup and all files in /tmp, /run and /dev/shm are
removed; sysctls and other files it changed stay. Files that the *host* changes after boot may be seen or not.

`layer` is a tree of files that lies over this host's root in the guest. With `systemd` PID 1 is Debian's systemd,
as on a real system; after a command its cgroups and /run are then left as they are, and all but it is killed.

Invariants: qemu ends when the machine is closed and when the thread that booted it dies. Commands never
overlap. After MachineEndedError, or anything else raised out of `run`, the machine stays ended.
"""

import functools
import os
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from .image import Image, build_image, find_kernel_source, find_static_busybox

_REPO = Path(__file__).parent.parent.parent
_BOOT_TIMEOUT_S = 180  # 5 s on an idle machine; CI machines are neither idle nor fast
_CLEAN_TIMEOUT_S = 60
_SHUTDOWN_TIMEOUT_S = 5
_CONSOLE_TAIL_LINES = 40
_ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "TERM": "dumb",
    # The host's bytecode is used where there is some; new bytecode would take the guest's memory.
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}


class MachineEndedError(Exception):
    """The machine is gone: a kernel panic, an agent that no longer answers, or qemu itself."""


class CommandFailedError(Exception):
    """A command did not exit with 0."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended; `exit_code` is None when it ran out of time, 128+N when signal N ended it."""

    exit_code: int | None
    output: str
    duration_ms: int

    def check(self) -> str:
        """Return the output, or raise CommandFailedError with it if the exit code is not 0."""
        if self.exit_code != 0:
            ending = "timed out" if self.exit_code is None else f"exit code {self.exit_code}"
            raise CommandFailedError(f"{ending} after {self.duration_ms} ms:\n{self.output}")
        return self.output


@functools.cache
def find_missing() -> list[str]:
    """Name all that this host lacks for a machine to boot, each with what would enable it."""
    missing = [
        f"no {program}: install {package}"
        for program, package in (
            ("qemu-system-x86_64", "qemu-system-x86"),
            ("dpkg-deb", "dpkg"),
            ("setpriv", "util-linux"),
        )
        if shutil.which(program) is None
    ]
    if any(sign.isspace() for sign in str(_REPO)):
        missing.append(
            f"a kernel command line cannot name {str(_REPO)!r}: check out where no space is"
        )
    if find_static_busybox() is None:
        missing.append("no statically linked busybox: install busybox-static")
    if find_kernel_source() is None:
        missing.append(
            "no kernel: run apt-get update on a Debian with the package linux-image-amd64, or put a"
            " linux-image-*.deb into the directory LMKD_VM_CACHE"
        )
    return missing


class Machine:
    """A context manager: boots when entered, ends qemu when left. Not for use by two threads at once.

    `directory` is the caller's, and empty; out_dir, console and the commands' outputs stay there.
    """

    def __init__(
        self,
        directory: Path,
        *,
        swap_mib: int = 200,
        memory_mib: int = 512,
        cpus: int = 2,
        layer: Path | None = None,
        systemd: bool = False,
    ) -> None:
        self.swap_mib = swap_mib
        self.memory_mib = memory_mib
        self.cpus = cpus
        self.layer = layer
        self.systemd = systemd
        self.boot_ms = 0
        self.out_dir = directory / "out"
        self._commands_dir = directory / "commands"
        self._console_file = directory / "console.log"
        self._qemu_log = directory / "qemu.log"
        self._qemu: subprocess.Popen[bytes] | None = None
        self._received = b""
        self._number = 0

    def __enter__(self) -> Self:
        self.out_dir.mkdir()
        self._commands_dir.mkdir()
        image = build_image()
        started_ms = _now_ms()
        try:
            with open(self._qemu_log, "wb") as log:
                self._qemu = subprocess.Popen(
                    self._command_line(image),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    # A ^C at the terminal is for pytest, which then closes us.
                    start_new_session=True,
                )
            if self._wait_answer("ready", started_ms + _BOOT_TIMEOUT_S * 1000) is None:
                raise self._ended(f"not up after {_BOOT_TIMEOUT_S} s")
        except BaseException:
            self._end_qemu()
            raise
        self.boot_ms = _now_ms() - started_ms
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end_qemu()

    @property
    def running(self) -> bool:
        """Whether qemu is there to take a command."""
        return self._qemu is not None and self._qemu.poll() is None

    def run(
        self, argv: Sequence[str], *, timeout_s: int, env: Mapping[str, str] | None = None
    ) -> Result:
        """Run one command and wait until it has ended, or `timeout_s` has passed and it was killed.

        `env` is added to a small fixed environment. Output that is not UTF-8 is escaped. Raises
        MachineEndedError when the machine dies under it.
        """
        self._number += 1
        directory = self._commands_dir / str(self._number)
        directory.mkdir()
        environment = [f"{name}={text}" for name, text in {**_ENVIRONMENT, **(env or {})}.items()]
        command = shlex.join(["exec", "/usr/bin/env", "-i", *environment, *argv])
        (directory / "command").write_text(f"cd {shlex.quote(str(_REPO))} || exit\n{command}\n")

        started_ms = _now_ms()
        try:
            self._send(f"run {self._number}")
            exited = self._wait_answer(f"exit {self._number} ", started_ms + timeout_s * 1000)
            duration_ms = _now_ms() - started_ms
            self._clean()
        except BaseException:  # pytest-timeout, ^C: nobody knows what still runs in there
            self._end_qemu()
            raise
        return Result(
            exit_code=None if exited is None else int(exited),
            output=(directory / "output").read_text(errors="backslashreplace"),
            duration_ms=duration_ms,
        )

    def console(self) -> str:
        """Return the kernel's messages so far, warnings and worse, and what init and agent printed."""
        try:
            return self._console_file.read_text(errors="backslashreplace")
        except FileNotFoundError:
            return ""

    def _clean(self) -> None:
        self._send(f"clean {self._number}")
        deadline_ms = _now_ms() + _CLEAN_TIMEOUT_S * 1000
        if self._wait_answer(f"clean {self._number}", deadline_ms) is None:
            raise self._ended(f"the agent did not answer for {_CLEAN_TIMEOUT_S} s")

    def _command_line(self, image: Image) -> list[str]:
        kernel_parameters = (
            "console=ttyS0 loglevel=5 panic=-1 oops=panic psi=1",
            # Neither is of use to a guest that is emulated, and both cost it time.
            "mitigations=off nowatchdog",
            # With random addresses the guest stalled (RCU, a CPU for 21 s and more inside clear_page) in
            # 4 of 4 runs of 45 to 160 commands and then memory pressure; without, and without ERMS, in 0
            # of 2 (qemu 7.2). Presumably qemu keeps a translation of a libc page for each address it was
            # mapped at, and looks through all of them at every store that clears the page.
            "norandmaps",
            f"VM_SWAP_MIB={self.swap_mib}",
            f"VM_REPO={_REPO}",
            f"VM_LAYER={int(self.layer is not None)} VM_SYSTEMD={int(self.systemd)}",
        )
        if os.environ.get("LMKD_VM_KVM") == "1":
            acceleration = ["-accel", "kvm", "-cpu", "host"]
        else:
            # 5-level page tables make each walk of the emulated MMU longer (import trio: 2.8-3.5 s with,
            # 2.3-2.7 s without). Without ERMS the kernel clears a page by eight bytes at a time, not one.
            acceleration = ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off,erms=off"]
        return [
            # Not the end of a `with`: pytest killed outright must not leave qemu behind.
            *("setpriv", "--pdeathsig", "KILL"),
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
            *acceleration,
            *("-m", f"{self.memory_mib}M", "-smp", str(self.cpus), "-no-reboot"),
            *("-kernel", str(image.kernel), "-initrd", str(image.initramfs)),
            *("-append", " ".join(kernel_parameters)),
            *_share("root", Path("/"), readonly=True),
            *(_share("layer", self.layer, readonly=True) if self.layer else ()),
            *_share("commands", self._commands_dir),
            *_share("out", self.out_dir),
            *("-serial", f"file:{self._console_file}", "-serial", "stdio"),
        ]

    def _send(self, line: str) -> None:
        if self._qemu is None or self._qemu.stdin is None:
            raise MachineEndedError("the machine is not running")
        try:
            self._qemu.stdin.write(f"{line}\n".encode())
            self._qemu.stdin.flush()
        except BrokenPipeError:
            raise self._ended("qemu ended") from None

    def _wait_answer(self, prefix: str, deadline_ms: int) -> str | None:
        """Return what follows `prefix` in the agent's next answer that has it; None at the deadline.

        Answers to a command that has timed out meanwhile are skipped.
        """
        if self._qemu is None or self._qemu.stdout is None:
            raise MachineEndedError("the machine is not running")
        descriptor = self._qemu.stdout.fileno()
        while True:
            while b"\n" in self._received:
                line, _, self._received = self._received.partition(b"\n")
                answer = line.decode(errors="backslashreplace").rstrip("\r")
                if answer.startswith(prefix):
                    return answer.removeprefix(prefix)
            remaining_ms = max(deadline_ms - _now_ms(), 0)
            if not select.select([descriptor], [], [], remaining_ms / 1000)[0]:
                return None
            received = os.read(descriptor, 4096)
            if not received:
                raise self._ended("qemu ended")
            self._received += received

    def _ended(self, why: str) -> MachineEndedError:
        """End qemu, and return an error that carries the last words of the guest and of qemu."""
        self._end_qemu()
        tail = "\n".join(_last_words(self.console().splitlines()))
        log = self._qemu_log.read_text(errors="backslashreplace")
        return MachineEndedError(f"{why}\n--- end of the console:\n{tail}\n--- qemu said:\n{log}")

    def _end_qemu(self) -> None:
        qemu, self._qemu = self._qemu, None
        if qemu is None:
            return
        qemu.terminate()
        try:
            qemu.wait(_SHUTDOWN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            qemu.kill()
            qemu.wait()
        for pipe in (qemu.stdin, qemu.stdout):
            if pipe is not None:
                pipe.close()


def _last_words(console: list[str]) -> list[str]:
    """Return the end of what the kernel said; all since it panicked, for a long stack hides the reason at its head."""
    panics = [number for number, line in enumerate(console) if "Kernel panic" in line]
    return console[max(min([len(console) - _CONSOLE_TAIL_LINES, *panics[:1]]), 0) :]


def _share(tag: str, path: Path, *, readonly: bool = False) -> tuple[str, str]:
    escaped = str(path).replace(",", ",,")
    options = "readonly=on" if readonly else "readonly=off"
    return (
        "-virtfs",
        f"local,path={escaped},mount_tag={tag},security_model=none,multidevs=remap,{options}",
    )


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
