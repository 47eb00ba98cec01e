"""The client, built once, and the program that does with it what a test says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lmkd_client.pytest_plugin import lmkd

from .probe import Probe
from .programs import build, place

__all__ = ["lmkd"]

_TIMEOUT_S = 180  # to fetch and build the client is in the time of the first test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


@pytest.fixture(scope="session")
def app() -> Path:
    """A folder in whose node_modules the client is."""
    return build()


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the daemon is."""
    return str(tmp_path / "socket")


@pytest.fixture
def probe(app: Path, tmp_path: Path, path: str) -> Iterator[Probe]:
    """A program that has imported the client and runs what a test gives it; LMKD_SOCKET leads to `path`."""
    with Probe(
        place(tmp_path, app, Path(__file__).parent / "probe.mjs", "probe.mjs"), path
    ) as started:
        yield started
