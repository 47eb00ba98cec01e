"""The examples for Node, and the programs of docs/clients-node.md: held against the types, and run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import lmkd_client
import pytest
from lmkd_client.testing import FakeLmkd

from ..clients.fake_daemon import PATIENCE_S
from ..conftest import RealDaemon
from ..program import Program
from .programs import CLIENT, EXAMPLES, ROOT, compiled, compiled_together, place
from .test_real_daemon import needs_root, wait_for_app

PAGE = (ROOT / "docs" / "clients-node.md").read_text()
BLOCKS = re.findall(r"^```(?:ts|js)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SUBSCRIBERS = [block for block in BLOCKS if "subscribe(" in block]
REHEARSALS = [block for block in BLOCKS if "simulate(" in block]
COMMON = [block for block in BLOCKS if "import(" in block]
APPS = [block for block in BLOCKS if block not in SUBSCRIBERS + REHEARSALS + COMMON]
STAYS = "\nsetInterval(() => {}, 1000);\n"
"""A program that only listens would be over; those of users have something to do."""
LONG_MS = 600_000


@pytest.fixture(scope="session")
def made(app: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All programs, held against the types and ready to be run; those of the page by what they are."""
    sources: dict[str, Path | str] = {path.name: path for path in EXAMPLES.glob("*.mjs")}
    for kind, blocks, end in (
        *(("app", APPS, STAYS), ("subscriber", SUBSCRIBERS, ""), ("rehearsal", REHEARSALS, "")),
    ):
        sources |= {f"{kind}{number}.ts": block + end for number, block in enumerate(blocks)}
    paths = compiled_together(tmp_path_factory.mktemp("page"), app, sources)
    return dict(zip((Path(name).stem for name in sources), paths, strict=True))


@pytest.fixture
def controller(real_daemon: RealDaemon) -> Iterator[lmkd_client.Client]:
    with lmkd_client.connect() as client:
        yield client


@needs_root
def test_the_cache_gives_back_what_it_is_asked_and_the_daemon_sees_it(
    made: dict[str, Path], controller: lmkd_client.Client
) -> None:
    with Program("node", made["shedding-cache"], "24") as cache:
        cache.expect("holding 24 MiB")
        before_kib = wait_for_app(controller)["size_kib"]
        controller.simulate("medium", "all", LONG_MS)
        cache.expect("medium: asked for 24 MiB, holding 0 MiB")
        for _ in range(10_000):
            after_kib = wait_for_app(controller)["size_kib"]
            if after_kib <= before_kib - (23 << 10):
                break
        assert after_kib <= before_kib - (23 << 10)
        cache.interrupt()
        cache.expect("done")
        assert cache.wait() == 0


@needs_root
def test_the_watcher_says_every_level_and_survives_a_restart(
    made: dict[str, Path], controller: lmkd_client.Client, real_daemon: RealDaemon
) -> None:
    with Program("node", made["watch-levels"]) as watcher:
        watcher.expect("system normal: .*")
        controller.simulate("low", "all", LONG_MS)
        watcher.expect(r"system low \(simulated\): .*")
        real_daemon.end()
        watcher.expect(f"lost lmkd at {real_daemon.socket}: .*")
        real_daemon.start()
        watcher.expect("system normal: .*")
        watcher.interrupt()
        watcher.expect("done")
        assert watcher.wait() == 0


# --- the page ------------------------------------------------------------------------------------------------


def test_every_sort_of_block_is_there() -> None:
    assert (len(APPS), len(SUBSCRIBERS), len(REHEARSALS), len(COMMON)) == (3, 1, 1, 1)


def test_it_begins_with_three_lines_which_the_package_has_too() -> None:
    assert APPS[0] == BLOCKS[0]
    first, _, last = BLOCKS[0].splitlines()
    index = (CLIENT / "src" / "index.ts").read_text()
    assert f" *     {first}\n *     {last}\n" in index


@pytest.mark.parametrize("number", range(len(APPS)))
def test_every_program_has_the_right_types_registers_and_answers(
    made: dict[str, Path], lmkd: FakeLmkd, number: int
) -> None:
    with Program("node", made[f"app{number}"]):
        assert lmkd.wait_app().name in APPS[number]
        for level in ("medium", "critical"):
            assert lmkd.notice(level, deadline_ms=PATIENCE_S * 1000).answer in ("done", "nothing")


def test_who_subscribes_hears_every_level(made: dict[str, Path], lmkd: FakeLmkd) -> None:
    with Program("node", made["subscriber0"]) as program:
        program.expect("system normal")
        lmkd.pressure("low")
        program.expect("system low")


def test_a_rehearsal_comes_to_its_end_and_the_program_too(
    made: dict[str, Path], lmkd: FakeLmkd
) -> None:
    subprocess.run(["node", made["rehearsal0"]], check=True, timeout=PATIENCE_S)


@pytest.mark.parametrize("block", COMMON)
def test_a_program_of_commonjs_loads_it(
    app: Path, tmp_path: Path, lmkd: FakeLmkd, block: str
) -> None:
    with Program("node", place(tmp_path, app, block + STAYS, "program.cjs")):
        assert lmkd.wait_app().name == "thumbnails"
        lmkd.notice("medium", deadline_ms=PATIENCE_S * 1000)


def test_every_error_and_every_event_that_is_listed_is_one_and_none_is_missing(
    app: Path, tmp_path: Path
) -> None:
    code = (
        "import * as lmkd from 'lmkd-client';"
        "console.log(...Object.keys(lmkd).filter((name) => name.endsWith('Error')))"
    )
    ran = subprocess.run(
        ["node", place(tmp_path, app, code, "errors.mjs")],
        capture_output=True,
        text=True,
        check=True,
    )
    listed = re.findall(
        r"`(\w+Error)`", " ".join(re.findall(r"^\| (`[A-Z].*)", PAGE, re.MULTILINE))
    )
    assert sorted([*listed, "LmkdError"]) == sorted(ran.stdout.split())
    rows = re.search(r"\| `event.type` \|.*?\n\n", PAGE, re.DOTALL)
    assert rows is not None
    kinds = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", rows[0], re.MULTILINE)
    listed = re.findall(r"\w+", " ".join(kinds))
    sources = "".join((CLIENT / "src" / name).read_text() for name in ("inbox.ts", "messages.ts"))
    union = re.search(r"export type Event =([^;]*);", sources)
    assert union is not None
    for name in re.findall(r"\w+", union[1]):
        kind = re.search(rf'interface {name} \{{\n  readonly type: "(\w+)"', sources)
        assert kind is not None, name
        listed.remove(kind[1])
    assert listed == []


def test_the_tests_would_see_a_page_that_is_wrong(app: Path, tmp_path: Path) -> None:
    wrong = BLOCKS[0].replace("cache.clear()", "cache.drain()")
    with pytest.raises(AssertionError, match="Property 'drain' does not exist"):
        compiled(tmp_path, app, wrong)
