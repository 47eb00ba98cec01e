"""The programs that several of these tests use, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from .programs import CLIENT, HERE, SANITIZED, STRICT, build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for programs."""
    return tmp_path_factory.mktemp("built")


@pytest.fixture(scope="session")
def probe(built: Path) -> Path:
    """The client that does what it is told, under the sanitizers."""
    return build(built / "probe", *STRICT, *SANITIZED, HERE / "probe.c", CLIENT / "lmkd.c")


@pytest.fixture(scope="session")
def plain_probe(built: Path) -> Path:
    """The same without, where what it allocates is looked at."""
    return build(built / "plain_probe", *STRICT, HERE / "probe.c", CLIENT / "lmkd.c")


@pytest.fixture(scope="session")
def decoder(built: Path) -> Path:
    """The decoder of lmkd.c, under the sanitizers."""
    return build(built / "decode", "-std=c11", "-O1", "-g", *SANITIZED, HERE / "decode.c")


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the daemon is."""
    return str(tmp_path / "socket")
