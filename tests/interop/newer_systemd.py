"""A libsystemd that has sd_event_add_memory_pressure (254): the installed one, or else that of Debian's backports.

The package is downloaded and unpacked into the cache, never installed: the machine's own stays as it is. Where apt gets
its packages from is left to its own configuration, of which only the suite is another.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from ..vm.image import cache_dir

NEEDED = 254
SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
PACKAGES = ("libsystemd0", "libsystemd-dev")


def find_libsystemd() -> tuple[list[str], dict[str, str]] | None:
    """Return the compiler's flags and the environment to run with; None where there is none that is new enough."""
    version = subprocess.run(
        ["pkg-config", "--modversion", "libsystemd"], capture_output=True, text=True, check=False
    ).stdout
    if (found := re.match(r"\d+", version)) and int(found[0]) >= NEEDED:
        return ["-lsystemd"], {}
    folder = cache_dir().parent / "libsystemd"
    if not folder.exists() and not _fetch(folder):
        return None
    library = next(folder.rglob("libsystemd.so.0"))
    return [f"-I{folder}/usr/include", str(library)], {"LD_LIBRARY_PATH": str(library.parent)}


def _fetch(folder: Path) -> bool:
    if not SOURCES.exists():
        return False
    work = folder.with_suffix(".new")
    shutil.rmtree(work, ignore_errors=True)
    for name in ("lists/partial", "archives/partial", "root"):
        (work / name).mkdir(parents=True)
    stanza = SOURCES.read_text().split("\n\n")[0]
    suite = re.search(r"^Suites: (\S+)", stanza, re.M)
    if suite is None:
        return False
    backports = re.sub(r"^Suites: .*$", f"Suites: {suite[1]}-backports", stanza, flags=re.M)
    (work / "backports.sources").write_text(backports + "\n")
    options = [
        "Dir::Etc::SourceParts=/dev/null",
        f"Dir::Etc::SourceList={work}/backports.sources",
        f"Dir::State::Lists={work}/lists",
        f"Dir::Cache={work}",
        "APT::Sandbox::User=root",
    ]
    apt = ["apt-get", "-qq", *(f"-o{option}" for option in options)]
    wanted = [f"{name}/{suite[1]}-backports" for name in PACKAGES]
    for command in ([*apt, "update"], [*apt, "download", *wanted]):
        if subprocess.run(command, cwd=work, capture_output=True, timeout=50).returncode != 0:
            return False
    for package in work.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, work / "root"], check=True)
    (work / "root").rename(folder)
    shutil.rmtree(work)
    return True
