"""Play runs in a machine: boot it, hand it one run after another, and return what became of each.

A run that hangs is bounded and recorded as such, and the machine is booted anew; so is one that ended under a run.
Knows nothing of order or files of results.
"""

import compileall
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.arena.guards import BY_NAME as GUARDS
from tests.arena.layer import Layer, build_layer
from tests.arena.plan import Planned
from tests.arena.workloads import DATA_MIB
from tests.vm.image import cache_dir
from tests.vm.machine import Machine, MachineEndedError, find_missing

_HERE = Path(__file__).parent
_REPO = _HERE.parent.parent
_OURS = ("lmkd", "proto/lmkd_proto", "clients/python/lmkd_client")
_DECIDES = (
    *("tests/arena/guest", "tests/arena/workloads.py", "tests/arena/layer.py"),
    *("tests/vm/init.sh", "tests/vm/agent.sh", "tests/vm/machine.py", "tests/vm/image.py"),
)
_RUN_TIMEOUT_S = 150  # longest seen: 71 s, with three machines on two processors
_RUNS_PER_BOOT = 40


def find_lacking() -> list[str]:
    """Name all that this host lacks for the arena."""
    lacking = list(find_missing())
    if shutil.which("gcc") is None:
        lacking.append("no gcc: install gcc and libc6-dev")
    if shutil.which("apt-get") is None:
        lacking.append("no apt-get: the guards come from Debian's packages")
    return lacking


def revisions(guards: list[str]) -> dict[str, str]:
    """Return for each guard the hash of all that decides how its runs go."""
    arena, ours = _hash(_DECIDES), _hash(_OURS) if "lmkd" in guards else ""
    known = {}
    for name in guards:
        own = hashlib.sha256(repr(GUARDS[name]).encode()).hexdigest()[:6]
        known[name] = "-".join((arena, own, *([ours] if name == "lmkd" else ())))
    return known


@functools.cache
def _hash(names: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name in names:
        path = _REPO / name
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        for file in files:
            if file.suffix in (".py", ".c", ".sh", ".toml"):
                digest.update(str(file.relative_to(_REPO)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def compile_program() -> Path:
    """Compile guest/program.c into the cache, named by its source."""
    source = _HERE / "guest" / "program.c"
    binary = cache_dir() / f"arena-program-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    if not binary.exists():
        binary.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=binary.parent, prefix="compile-") as temporary:
            built = Path(temporary, "program")
            command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(built), str(source)]
            subprocess.run(command, check=True)
            built.rename(binary)
    return binary


def make_data() -> Path:
    """Make the file that workloads read: all holes, which cost the host nothing and the guest as much as others."""
    path = cache_dir() / f"arena-data-{DATA_MIB}"
    if not path.exists():
        with open(path, "wb") as file:
            file.truncate(DATA_MIB << 20)
    return path


class Contest:
    """A context manager around a machine that is booted when it is first needed, and again when it must be."""

    def __init__(self) -> None:
        self._machine: Machine | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._played = 0
        self.console = ""

    def __enter__(self) -> Self:
        self._layer: Layer = build_layer()
        self._program = compile_program()
        self._data = make_data()
        for package in (*_OURS, "tests/arena"):
            compileall.compile_dir(_REPO / package, quiet=2)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def play(self, planned: Planned) -> dict[str, Any]:
        """Play one run, and return its raw numbers, with "failed" among them if there are none to speak of."""
        spec = {
            "id": planned.id,
            "workload": planned.workload,
            "guard": planned.guard,
            "run": planned.number,
            "seed": planned.seed,
            "binary": str(self._program),
            "data": str(self._data),
        }
        identity = {name: spec[name] for name in ("workload", "guard", "run", "seed")}
        try:
            machine = self._running()
            argv = [sys.executable, "-m", "tests.arena.guest", json.dumps(spec)]
            result = machine.run(argv, timeout_s=_RUN_TIMEOUT_S)
            out = machine.out_dir / f"{planned.id}.json"
            if result.exit_code == 0:
                outcome = json.loads(out.read_text())
            elif result.exit_code is None:
                outcome = {"failed": f"hung: ended after {_RUN_TIMEOUT_S} s"}
            else:
                outcome = {"failed": f"exit {result.exit_code}: {result.output[-2000:]}"}
            outcome["wall_ms"] = result.duration_ms
            self._played += 1
        except MachineEndedError as error:
            outcome = {"failed": f"the machine ended: {error}"}
        if "failed" in outcome or self._played >= _RUNS_PER_BOOT:
            self._end()
        for name in ("id", "binary", "data"):
            outcome.pop(name, None)
        outcome = _without_paths(outcome)
        return {**identity, **outcome, "versions": self._versions()}

    def _running(self) -> Machine:
        if self._machine is None or not self._machine.running:
            self._end()
            self._directory = tempfile.TemporaryDirectory(prefix="arena-")
            machine = Machine(
                Path(self._directory.name), swap_mib=0, layer=self._layer.tree, systemd=True
            )
            self._machine = machine.__enter__()
            self._played = 0
            self._kernel = machine.run(["/bin/uname", "-r"], timeout_s=60).check().strip()
        return self._machine

    def _end(self) -> None:
        machine, self._machine = self._machine, None
        if machine is not None:
            self.console = machine.console()
            machine.__exit__(None, None, None)
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def _versions(self) -> dict[str, str]:
        return {**self._layer.versions, **_host_versions(), "kernel": getattr(self, "_kernel", "")}


def _without_paths(outcome: dict[str, Any]) -> dict[str, Any]:
    """Name this checkout by what it is: guards log command lines, and the raw numbers are published.

    The cache may be another checkout's, by a link.
    """
    text = json.dumps(outcome).replace(str(_REPO), "REPOSITORY")
    return dict(json.loads(text.replace(str(cache_dir().resolve()), "REPOSITORY/.cache/vm")))


@functools.cache
def _host_versions() -> dict[str, str]:
    said = subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True
    )
    described = subprocess.run(
        ["git", "-C", str(_REPO), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    return {"qemu": said.stdout.split()[3], "lmkd": described.stdout.strip() or "?"}
