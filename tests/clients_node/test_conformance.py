"""The client for Node keeps every rule of the protocol that shows, in the program that a user would begin with."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..clients.test_conformance import UNSEEN_OF_A_CLIENT, conformance
from .programs import EXAMPLES, place


def test_the_client_keeps_every_rule_that_shows(app: Path, tmp_path: Path) -> None:
    node = shutil.which("node")
    assert node is not None
    program = place(tmp_path, app, EXAMPLES / "shedding-cache.mjs", "shedding-cache.mjs")
    assert conformance("--client", node, str(program))["not_seen"] == UNSEEN_OF_A_CLIENT
