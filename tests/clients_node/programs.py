"""Programs for Node: the client as npm would install it, built once and kept, and programs that are run line by line.

Kept in .cache/node: what npm fetched, by what package.json asks for; and the package, by its sources and Node's
version.
Where this machine has no Node the tests are skipped and say so; with LMKD_VM_REQUIRED=1, as in CI, they fail.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients" / "node"
EXAMPLES = ROOT / "examples" / "node"
HERE = Path(__file__).parent
CACHE = ROOT / ".cache" / "node"
LEAST_MAJOR = 18
BUILD_MOST_S = 150


def need_node() -> str:
    """Return Node's version; skip, or fail where nothing may be skipped, without Node and npm."""
    missing = [command for command in ("node", "npm") if shutil.which(command) is None]
    if missing:
        refuse(f"the client for Node needs {' and '.join(missing)} here")
    version = run("node", "--version").strip()
    if int(version.lstrip("v").split(".")[0]) < LEAST_MAJOR:
        refuse(f"the client for Node needs Node {LEAST_MAJOR}; this is {version}")
    return version


def refuse(why: str) -> None:
    """Skip, or fail where nothing may be skipped."""
    if os.environ.get("LMKD_VM_REQUIRED") == "1":
        pytest.fail(why)
    pytest.skip(why)


def run(*command: str | Path, folder: Path | None = None) -> str:
    """Run a command to its end, and return what it prints; what it complains of is what the test says."""
    ran = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=BUILD_MOST_S
    )
    assert ran.returncode == 0, f"{command}:\n{ran.stdout}{ran.stderr}"
    return ran.stdout


def build() -> Path:
    """Return a folder in whose node_modules the client is, as it is packed; build it if its sources have changed."""
    version = need_node()
    tools = _fetch_tools()
    sources = [CLIENT / "package.json", CLIENT / "tsconfig.json", *sorted(CLIENT.glob("src/*.ts"))]
    target = CACHE / f"client-{_hash(version.encode(), *(path.read_bytes() for path in sources))}"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        made = Path(name)
        for path in sources:
            copy = made / "build" / path.relative_to(CLIENT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        (made / "build" / "node_modules").symlink_to(tools / "node_modules")
        run("npm", "pack", "--silent", folder=made / "build")
        (packed,) = (made / "build").glob("*.tgz")
        modules = made / "app" / "node_modules"
        modules.mkdir(parents=True)
        with tarfile.open(packed) as archive:
            archive.extractall(modules, filter="data")
        (modules / "package").rename(modules / "lmkd-client")
        for tool in ("@msgpack", "@types", "typescript", "undici-types"):
            (modules / tool).symlink_to(tools / "node_modules" / tool)
        _keep(made / "app", target)
    return target


def _fetch_tools() -> Path:
    """Return a folder in whose node_modules is what the client's package.json asks for."""
    package = json.loads((CLIENT / "package.json").read_text())
    asked = {key: package[key] for key in ("dependencies", "devDependencies")}
    manifest = json.dumps({"private": True, **asked}).encode()
    target = CACHE / f"tools-{_hash(manifest)}"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        made = Path(name) / "tools"
        made.mkdir()
        (made / "package.json").write_bytes(manifest)
        fetch = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent")
        ran = subprocess.run(
            fetch, cwd=made, capture_output=True, text=True, check=False, timeout=BUILD_MOST_S
        )
        if ran.returncode != 0:
            refuse(f"npm could not fetch what the client for Node needs: {ran.stderr.strip()}")
        _keep(made, target)
    return target


def _keep(made: Path, target: Path) -> None:
    """Move what was made to where it stays, if nobody else was faster."""
    try:
        made.rename(target)
    except OSError:
        if not target.exists():
            raise


def _hash(*contents: bytes) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()[:16]


def place(folder: Path, app: Path, source: Path | str, name: str = "program.ts") -> Path:
    """Put a program into a folder that has the client, and return its path."""
    link = folder / "node_modules"
    if not link.exists():
        link.symlink_to(app / "node_modules")
        (folder / "package.json").write_text('{"type": "module"}')
    program = folder / name
    program.write_text(source if isinstance(source, str) else source.read_text())
    return program


def compiled(folder: Path, app: Path, source: Path | str, name: str = "program.ts") -> Path:
    """Put a program into a folder, hold it against the client's types, and return what is to be run."""
    (made,) = compiled_together(folder, app, {name: source})
    return made


def compiled_together(folder: Path, app: Path, sources: dict[str, Path | str]) -> list[Path]:
    """Do the same with several at once: the compiler takes some seconds, however little there is to do."""
    programs = [place(folder, app, source, name) for name, source in sources.items()]
    strict = ("--strict", "--noUncheckedIndexedAccess", "--allowJs", "--checkJs", "--types", "node")
    into = ("--target", "ES2022", "--module", "Node16", "--outDir", "made")
    compiler = app / "node_modules" / "typescript" / "bin" / "tsc"
    run("node", compiler, *strict, *into, *programs, folder=folder)
    ends = {".ts": ".js", ".mjs": ".mjs"}
    return [folder / "made" / f"{program.stem}{ends[program.suffix]}" for program in programs]
