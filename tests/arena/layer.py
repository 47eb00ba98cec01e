"""Fetch the guards, and the systemd they belong to, into a tree of files that lies over the guest's root.

apt is asked what it would install here and now, which is what the host lacks and what it has in another version;
each package is downloaded and unpacked, none is installed, and no maintainer script runs: users that a script would
make are for the guest to make. A tree is named by what is in it; it appears by a rename, whole, and is never changed.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.vm.image import cache_dir

PACKAGES = (
    "earlyoom",
    "nohang",
    "systemd-oomd",
    "oomd",
    "low-memory-monitor",
    "dbus",
    "systemd",
)
_FORMAT = 1  # raise when the tree is made in another way
_INSTALL = re.compile(r"^Inst (\S+) (?:\[[^]]*\] )?\((\S+) ", re.MULTILINE)
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


class LayerError(Exception):
    """The guards cannot be had; the message says what would help."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A tree of files, and the version of each package that a run may name."""

    tree: Path
    versions: dict[str, str]


def parse_wanted(simulated: str) -> dict[str, str]:
    """Return package to version, of what `apt-get --simulate install` says it would unpack."""
    return dict(_INSTALL.findall(simulated))


def build_layer() -> Layer:
    """Return the tree for what apt offers now, building it if it is not there."""
    wanted = parse_wanted(
        _run(["apt-get", "--simulate", "--no-install-recommends", "install", *PACKAGES])
    )
    versions = {**_installed(), **{name: wanted[name] for name in PACKAGES if name in wanted}}
    named = repr((_FORMAT, sorted(wanted.items())))
    directory = cache_dir() / f"arena-layer-{hashlib.sha256(named.encode()).hexdigest()[:12]}"
    if not directory.exists():
        _build(wanted, directory)
    return Layer(directory, versions)


def _installed() -> dict[str, str]:
    asked = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\\n", *PACKAGES]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)


def _build(wanted: dict[str, str], directory: Path) -> None:
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix="layer-") as temporary:
        packages, tree = Path(temporary, "packages"), Path(temporary, "tree")
        packages.mkdir()
        tree.mkdir(mode=0o755)
        names = [f"{name}={version}" for name, version in sorted(wanted.items())]
        # As itself, not as the user _apt, who cannot write here.
        _run(["apt-get", "-o", "APT::Sandbox::User=root", "download", *names], packages)
        for package in sorted(packages.iterdir()):
            _run(["dpkg-deb", "-x", str(package), str(tree)])
            _merge_usr(tree)
        try:
            tree.rename(directory)
        except OSError:
            if not directory.exists():  # else another run was quicker: its tree is the same
                raise


def _merge_usr(tree: Path) -> None:
    """Move /lib and its like below /usr: over the host's symbolic link they would hide all that is there."""
    for name in _MERGED:
        if (tree / name).is_dir() and not (tree / name).is_symlink():
            shutil.copytree(tree / name, tree / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(tree / name)


def _run(command: list[str], directory: Path | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode != 0:
        raise LayerError(f"{' '.join(command)}: {done.stderr.strip()} (apt-get update helps?)")
    return done.stdout
