"""The client for C keeps every rule of the protocol that shows, in the program that a user would begin with."""

from __future__ import annotations

from pathlib import Path

from ..clients.test_conformance import UNSEEN_OF_A_CLIENT, conformance
from .programs import CLIENT, EXAMPLES, STRICT, build


def test_the_client_keeps_every_rule_that_shows(tmp_path: Path) -> None:
    program = build(tmp_path / "cache", *STRICT, EXAMPLES / "shedding_cache.c", CLIENT / "lmkd.c")
    assert conformance("--client", str(program))["not_seen"] == UNSEEN_OF_A_CLIENT
