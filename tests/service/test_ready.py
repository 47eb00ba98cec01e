"""The word to the service manager."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from lmkd.service.ready import notify_manager


@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_hears_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"@lmkd-test-notify-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0") if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify_manager("READY=1")
        assert manager.recv(100, socket.MSG_DONTWAIT) == b"READY=1"


@pytest.mark.parametrize("name", [None, "", "/nowhere/at/all", "/" + "x" * 200])
def test_a_manager_that_is_not_there_is_no_trouble(
    monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    if name is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify_manager("READY=1")
