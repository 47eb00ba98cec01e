"""What it costs to import the client, and where it looks for the daemon."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lmkd_client
import pytest
from lmkd_client import find_socket

from .fake_daemon import SOCKET_PLACES


def imported_by(code: str) -> set[str]:
    """Return the modules that are there after this code ran in a new interpreter."""
    code += "\nimport sys\nprint(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_the_import_alone_brings_in_nothing_before_it_is_used() -> None:
    brought = imported_by("import lmkd_client")
    assert {name for name in brought if name.startswith("lmkd")} == {"lmkd_client"}
    assert brought & {"msgpack", "dataclasses", "socket", "threading", "typing"} == set()


def test_a_plain_program_pays_for_no_event_loop() -> None:
    brought = imported_by("import lmkd_client\nlmkd_client.on_pressure\nlmkd_client.connect")
    heavy = {"asyncio", "trio", "typing", "logging", "random", "pathlib", "lmkd"}
    assert brought & heavy == set()


def test_to_name_what_can_be_shed_costs_a_program_next_to_nothing() -> None:
    brought = imported_by("import lmkd_client\nlmkd_client.sheddable\nlmkd_client.shed_with")
    heavy = {
        "lmkd_proto",
        "msgpack",
        "dataclasses",
        "socket",
        "typing",
        "logging",
        "ctypes",
        "inspect",
    }
    assert brought & heavy == set()


def test_no_program_loads_the_fake_daemon_nor_a_cache_that_it_does_not_use() -> None:
    every = "\n".join(f"lmkd_client.{name}" for name in lmkd_client.__all__)
    brought = imported_by(f"import lmkd_client, lmkd_client.asyncio, lmkd_client.trio\n{every}")
    assert {name for name in brought if name.startswith("lmkd_client.testing")} == set()
    assert brought & {"cachetools", "pytest"} == set()


def test_an_asyncio_program_does_not_pay_for_trio() -> None:
    assert "trio" not in imported_by("import lmkd_client.asyncio")


def test_every_name_that_is_promised_is_there_and_others_are_not() -> None:
    for name in lmkd_client.__all__:
        assert getattr(lmkd_client, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'conect'"):
        lmkd_client.conect  # noqa: B018


@pytest.mark.parametrize(
    ("named", "runtime", "expected"),
    SOCKET_PLACES,
)
def test_the_socket_is_looked_for_by_name_then_in_the_session_then_in_the_system(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    named: str | None,
    runtime: bool | None,
    expected: str,
) -> None:
    monkeypatch.delenv("LMKD_SOCKET", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if named is not None:
        monkeypatch.setenv("LMKD_SOCKET", named)
    if runtime is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        if runtime:
            (tmp_path / "lmkd").mkdir()
            (tmp_path / "lmkd" / "socket").touch()
    assert find_socket() == expected.format(runtime=tmp_path)


def test_a_path_that_no_socket_can_have_is_a_clear_error() -> None:
    with pytest.raises(lmkd_client.DaemonUnavailable, match=r"^no lmkd at /x+: .*too long$"):
        lmkd_client.connect("/" + "x" * 200)
