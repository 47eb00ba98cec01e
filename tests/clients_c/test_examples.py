"""The examples in C, and the programs of docs/clients-c.md: compiled with the client, and run against lmkd itself."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import lmkd_client
import pytest

from ..conftest import RealDaemon
from ..program import Program
from .programs import CLIENT, EXAMPLES, ROOT, STRICT, build, need_package

PAGE = ROOT / "docs" / "clients-c.md"
SNIPPETS = re.findall(r"^```c\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
LONG_MS = 600_000
MIB = 1 << 20

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="to simulate for others takes root")


@pytest.fixture
def controller(real_daemon: RealDaemon) -> Iterator[lmkd_client.Client]:
    with lmkd_client.connect() as client:
        yield client


def compiled(folder: Path, source: Path) -> Path:
    flags = need_package("glib-2.0") if "<glib" in source.read_text() else []
    # GLib's headers are the system's own: they are not held to our warnings.
    flags = [flag.replace("-I", "-isystem", 1) for flag in flags]
    return build(folder / source.stem, *STRICT, source, CLIENT / "lmkd.c", *flags)


def wait_for_app(controller: lmkd_client.Client) -> None:
    """Wait until an app has registered; each look is an answer of the daemon."""
    for _ in range(10_000):
        if controller.status()["apps"]:
            return
    raise AssertionError("no app has registered")


@needs_root
def test_the_cache_gives_back_what_it_is_asked_and_the_daemon_hears_of_it(
    controller: lmkd_client.Client, tmp_path: Path
) -> None:
    with Program(compiled(tmp_path, EXAMPLES / "shedding_cache.c"), "24") as cache:
        cache.expect("holding 24 MiB", "registered as cached")
        controller.simulate("medium", "all", LONG_MS)
        cache.expect("medium: asked for 24 MiB, freed 24 MiB, holding 0 MiB")
        cache.interrupt()
        cache.expect("done")
        assert cache.wait() == 0


@needs_root
def test_the_watcher_in_glibs_loop_says_every_level_and_survives_a_restart(
    controller: lmkd_client.Client, real_daemon: RealDaemon, tmp_path: Path
) -> None:
    with Program(compiled(tmp_path, EXAMPLES / "watch_levels.c"), "3") as watcher:
        watcher.expect("system normal: .*")
        controller.simulate("low", "all", LONG_MS)
        watcher.expect(r"system low \(simulated\): .*")
        real_daemon.end()
        watcher.expect(f"lost lmkd at {real_daemon.socket}: .*")
        real_daemon.start()
        watcher.expect("system normal: .*", "done")
        assert watcher.wait() == 0


@needs_root
@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_every_program_of_the_page_compiles_and_hears_a_notice(
    controller: lmkd_client.Client, tmp_path: Path, number: int
) -> None:
    source = tmp_path / "snippet.c"
    source.write_text(SNIPPETS[number])
    with Program(compiled(tmp_path, source)) as program:
        wait_for_app(controller)
        controller.simulate("medium", "all", LONG_MS)
        program.expect(f"medium: {64 * MIB} bytes")


def test_the_page_begins_with_the_three_lines_that_the_header_has() -> None:
    main = SNIPPETS[0].partition("int main(void) {\n")[2].partition("\n}")[0].splitlines()
    assert len(main) == 3
    header = (CLIENT / "lmkd.h").read_text()
    assert all(f" *     {line.strip()}\n" in header for line in main)
