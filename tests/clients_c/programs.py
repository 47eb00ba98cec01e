"""Programs in C: what they need to be built, and built once.

Where this machine lacks something the tests are skipped and say what; with LMKD_VM_REQUIRED=1, as in CI, they fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients" / "c"
HERE = Path(__file__).parent
EXAMPLES = ROOT / "examples" / "c"
MSGPACK = Path("/usr/include/msgpack/unpack_template.h")
STRICT = (
    *("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"),
    *("-O2", "-g"),
)
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def need(*commands: str) -> None:
    """Skip, or fail where nothing may be skipped, without these commands and the headers of msgpack-c."""
    missing = [command for command in commands if shutil.which(command) is None]
    if not MSGPACK.exists():
        missing.append("libmsgpack-dev")
    if missing:
        why = f"the client for C needs {', '.join(missing)} here"
        if os.environ.get("LMKD_VM_REQUIRED") == "1":
            pytest.fail(why)
        pytest.skip(why)


def need_package(name: str) -> list[str]:
    """Return the flags that pkg-config gives for a library, and skip (or fail) where it is not there."""
    need("pkg-config")
    asked = subprocess.run(
        ["pkg-config", "--cflags", "--libs", name], capture_output=True, text=True, check=False
    )
    if asked.returncode != 0:
        if os.environ.get("LMKD_VM_REQUIRED") == "1":
            pytest.fail(asked.stderr)
        pytest.skip(f"{name} is not installed, for development")
    return asked.stdout.split()


def build(program: Path, *arguments: str | Path, compiler: str = "gcc") -> Path:
    """Compile a program; what the compiler says is what the test says."""
    need(compiler)
    made = subprocess.run(
        [compiler, *arguments, f"-I{CLIENT}", "-o", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""
    return program
