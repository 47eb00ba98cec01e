"""Every example runs for real, against lmkd on simulated memory, and does what its first line says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import lmkd_client
import pytest

from .program import PATIENCE_S, Program

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.py"))
MIB = 1 << 20
REHEARSAL_MS = 600_000

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="to simulate for others takes root")


class Running(Program):
    """An example that runs."""

    def __init__(self, name: str, *arguments: str) -> None:
        super().__init__(sys.executable, "-W", "error", EXAMPLES / name, *arguments)

    def end(self) -> None:
        """Ask it to end: it says that it is done, and leaves with 0."""
        self.interrupt()
        self.expect("done")
        assert self.wait() == 0


@pytest.fixture
def controller(daemon_socket: str) -> Iterator[lmkd_client.Client]:
    with lmkd_client.connect(daemon_socket) as client:
        yield client


def wait_registered(controller: lmkd_client.Client, running: Running) -> None:
    """Wait until an example is an app; each look is an answer of the daemon."""
    last_s = time.monotonic() + PATIENCE_S
    while controller.status()["app_count"] != 1:
        assert time.monotonic() < last_s, "it does not register"
    assert controller.explain(running.pid)["why_class"] == "registered"


def rehearse(socket: str, level: str) -> lmkd_client.Client:
    """Simulate a level for everybody, until the client that is returned is closed or much later."""
    client = lmkd_client.connect(socket)
    client.simulate(level, "all", REHEARSAL_MS)
    return client


@pytest.mark.parametrize("name", NAMES)
def test_every_example_says_what_it_is(name: str) -> None:
    said = subprocess.run(
        [sys.executable, EXAMPLES / name, "--help"], capture_output=True, text=True, check=True
    ).stdout
    source = (EXAMPLES / name).read_text()
    first_line = source.split("\n", 1)[0].strip('"')
    assert first_line in " ".join(said.split())


@needs_root
def test_the_cache_gives_back_what_it_is_asked_and_the_system_really_has_it(
    controller: lmkd_client.Client, daemon_socket: str
) -> None:
    with Running("shedding_cache.py", "--mib", "24", "--class", "background") as cache:
        cache.expect("holding 24 MiB")
        wait_registered(controller, cache)
        before_kib = cache.held_kib()
        with rehearse(daemon_socket, "medium"):
            cache.expect("medium: asked for 24 MiB, freed 24 MiB, holding 0 MiB")
            # But for a few KiB that it takes to say so.
            assert before_kib - cache.held_kib() >= 24 * 1024 - 256
            cache.end()


@pytest.mark.parametrize(
    ("level", "freed_mib", "left"),
    [
        ("low", 0, "8 thumbnails, 8 pages"),
        ("medium", 8, "0 thumbnails, 8 pages"),
        ("critical", 16, "0 thumbnails, 0 pages"),
    ],
)
def test_the_caches_are_shed_as_far_as_the_level_reaches(
    daemon_socket: str, level: str, freed_mib: int, left: str
) -> None:
    with Running("sheddable_caches.py", "--mib", "8", "--rehearse", level) as caches:
        caches.expect("holding 8 thumbnails, 8 pages")
        if freed_mib:
            caches.expect(r"asked for \d+ MiB")
        answer = "done" if freed_mib else r"\w+"
        freed = caches.expect(rf"{level}: {answer}, (\d+) MiB freed in \d+ ms")[1]
        assert freed_mib <= int(freed) <= freed_mib + 1
        caches.expect(f"holding {left}")
        caches.expect("done")
        assert caches.wait() == 0


@needs_root
def test_the_server_sheds_its_pages_and_goes_on_serving(
    controller: lmkd_client.Client, daemon_socket: str
) -> None:
    with Running("asyncio_server.py", "--page-kib", "64", "--cache-mib", "1") as server:
        port = server.expect(r"listening on port (\d+)")[1]
        server.expect("registered as service")

        def ask(path: str) -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as r:
                assert len(r.read()) == 64 * 1024
                return str(r.headers["X-Cache"])

        for path, found in (("/a", "miss"), ("/b", "miss"), ("/a", "hit")):
            assert ask(path) == found
            server.expect(rf"served {path} \({found}\)")
        with rehearse(daemon_socket, "critical"):
            server.expect("critical: freed 128 KiB, holding 0 KiB")
            assert ask("/a") == "miss"
            server.expect(r"served /a \(miss\)")
            server.end()


@needs_root
def test_the_workers_give_back_their_idle_buffers_and_work_on_when_it_is_over(
    controller: lmkd_client.Client, daemon_socket: str
) -> None:
    with Running("trio_worker.py", "--buffers", "4", "--mib", "2") as worker:
        worker.expect("pool of 8 MiB")
        worker.expect("registered as background")
        controller.simulate("critical", "all", 300)
        worker.expect("critical: freed 8 MiB, 0 MiB idle")
        worker.expect("normal: no more is asked")
        worker.end()


@needs_root
def test_the_watcher_says_every_level(controller: lmkd_client.Client) -> None:
    with Running("watch_levels.py", "--count", "3") as watcher:
        watcher.expect("system normal: .*")
        controller.simulate("low", "all", 100)
        watcher.expect(r"system low \(simulated\): .*")
        watcher.expect("system normal: .*")
        assert watcher.wait() == 0


def test_the_watcher_without_a_daemon_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMKD_SOCKET", str(tmp_path / "none"))
    with Running("watch_levels.py") as watcher:
        watcher.expect(f"no lmkd at {tmp_path}/none: No such file or directory")
        assert watcher.wait() == 1


@pytest.mark.timeout(120)
def test_the_demonstration_ends_the_leak_and_nobody_else() -> None:
    """`make demo`, on simulated memory; tests/vm plays it in a real memory cgroup."""
    demo = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / "demo.py", "--simulated"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert demo.stdout.startswith("Simulated memory of 128 MB (asked for)")
    for name in ("cache-1", "cache-2", "cache-3"):
        assert re.search(rf"{name} +told \w+, \d+ MiB within \d", demo.stdout)
        assert re.search(rf"│ {name} │ cached +│ \d+ times │ \d+ MiB +│ alive", demo.stdout)
    assert re.search(r"lmkd +ended leak \(pid \d+\)", demo.stdout)
    assert demo.stdout.rstrip().endswith("┘")
