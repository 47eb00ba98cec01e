"""What we ship keeps the protocol's rules: the daemon itself, and each shell of the client in a program of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNSEEN_OF_A_SERVER = {"H-3", "L-4", "L-7", "L-8", "L-15", "L-21", "L-22", "P-2", "V-3", "X-2"}
UNSEEN_OF_A_CLIENT = {"F-5", "P-2", "Q-1", "Q-3"}


def conformance(*arguments: str) -> dict[str, set[str]]:
    """Return the rules by what became of them."""
    patient = ["--patience", "5", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "lmkd_proto.conformance", *patient, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, set[str]] = {"holds": set(), "broken": set(), "not_seen": set()}
    for row in json.loads(done.stdout):
        found[row["result"]].add(row["rule"])
        assert row["result"] != "broken", row
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become another user")
def test_the_daemon_keeps_every_rule_that_shows(daemon_socket: str, tmp_path: Path) -> None:
    for above in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        above.chmod(0o755)
    assert conformance(daemon_socket)["not_seen"] == UNSEEN_OF_A_SERVER


@pytest.mark.parametrize("name", ["shedding_cache", "asyncio_server", "trio_worker"])
def test_each_shell_keeps_every_rule_that_shows(name: str) -> None:
    program = str(ROOT / "examples" / f"{name}.py")
    found = conformance("--client", sys.executable, program)
    assert found["not_seen"] == UNSEEN_OF_A_CLIENT


def test_what_runs_under_lmkctl_keeps_every_rule_that_shows() -> None:
    run = [sys.executable, "-m", "lmkd.ctl", "run", "--on", "low=true", "--"]
    found = conformance("--client", *run, "sleep", "600")
    assert found["not_seen"] == UNSEEN_OF_A_CLIENT
