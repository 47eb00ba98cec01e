"""A bus of its own for each test, which is the system's for whatever it starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .bus_of_its_own import MessageBus, message_bus


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MessageBus]:
    """A bus with our policy."""
    with message_bus(tmp_path) as made:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", made.address)
        yield made
