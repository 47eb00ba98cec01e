"""The five programs, and what they need: each registers as cached, and could shed as many MiB as it is told to hold."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from ..clients_c.programs import CLIENT, STRICT
from ..clients_c.programs import EXAMPLES as EXAMPLES_C
from ..clients_c.programs import build as build_c
from ..clients_node.programs import EXAMPLES as EXAMPLES_NODE
from ..clients_node.programs import build as build_node
from ..clients_node.programs import place

HERE = Path(__file__).parent


def commands(folder: Path, mib: int) -> dict[str, list[str]]:
    """Return the command lines of the five by their language; builds what is to be built, in this folder."""
    in_c = build_c(
        folder / "shedding_cache", *STRICT, EXAMPLES_C / "shedding_cache.c", CLIENT / "lmkd.c"
    )
    in_node = place(
        folder, build_node(), EXAMPLES_NODE / "shedding-cache.mjs", "shedding-cache.mjs"
    )
    script = ["--class", "cached", "--sheddable", f"{mib}MiB", "--on", "low=SIGUSR1"]
    run = [sys.executable, "-m", "lmkd.ctl", "run", *script, "--"]
    return {
        "Python": [sys.executable, str(HERE / "blocking.py"), str(mib)],
        "asyncio": [sys.executable, str(HERE / "with_asyncio.py"), str(mib)],
        "C": [str(in_c), str(mib)],
        "Node": [shutil.which("node") or "node", str(in_node), str(mib)],
        "shell": [*run, "sh", str(HERE / "script.sh"), str(mib)],
    }
