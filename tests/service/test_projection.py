"""oom_score_adj: written for the kernel, and put back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmkd.config import load_config
from lmkd.kernel.simulated import SimulatedKernel
from lmkd.model import App, AppClass
from lmkd.service.projection import Projection

from .house import PINNED

SETTINGS = load_config([PINNED]).settings


def spawn(kernel: SimulatedKernel, *, adj: int = 5, protected: bool = False) -> App:
    pid = kernel.spawn("app", oom_score_adj=adj, protected=protected)
    process = kernel.process(pid)
    assert process is not None
    return App(1, pid, process.start_ticks, 1000, "app", AppClass.BACKGROUND, "/")


def adj_of(kernel: SimulatedKernel, app: App) -> int:
    process = kernel.process(app.pid)
    assert process is not None
    return process.oom_score_adj


def kept(tmp_path: Path) -> object:
    return json.loads((tmp_path / "oom_score_adj.json").read_text())


def test_a_class_is_projected_and_what_was_there_is_put_back(tmp_path: Path) -> None:
    kernel = SimulatedKernel()
    projection, app = Projection(kernel, str(tmp_path)), spawn(kernel)
    projection.project(app, SETTINGS, 5)
    assert adj_of(kernel, app) == 700
    assert kept(tmp_path) == [[app.pid, app.start_ticks, 5]]
    projection.project(app, SETTINGS, 700)  # what stands there now is our own
    projection.restore(app)
    assert adj_of(kernel, app) == 5
    assert kept(tmp_path) == []
    projection.restore(app)
    projection.project(app, SETTINGS)
    assert adj_of(kernel, app) == 5, "what it had was never learned, so it stays as it is"


def test_a_recycled_pid_is_not_written(tmp_path: Path) -> None:
    kernel = SimulatedKernel()
    projection, app = Projection(kernel, str(tmp_path)), spawn(kernel)
    projection.project(app, SETTINGS, 5)
    kernel.recycle(app.pid, "innocent")
    projection.restore_all()
    assert adj_of(kernel, app) == 0
    assert kept(tmp_path) == []


def test_what_may_not_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = SimulatedKernel()
    projection = Projection(kernel, str(tmp_path))
    for _ in range(2):
        projection.project(spawn(kernel, protected=True), SETTINGS, 5)
    assert caplog.text.count("no CAP_SYS_RESOURCE") == 1


def test_an_earlier_daemon_that_was_killed_is_made_good(tmp_path: Path) -> None:
    kernel = SimulatedKernel()
    app, dead, guarded = spawn(kernel), spawn(kernel), spawn(kernel, protected=True)
    first = Projection(kernel, str(tmp_path))
    for one in (app, dead, guarded):
        first.project(one, SETTINGS, 5)
    kernel.exit(dead.pid)
    second = Projection(kernel, str(tmp_path))
    assert adj_of(kernel, app) == 5
    assert kept(tmp_path) == [[guarded.pid, guarded.start_ticks, 5]], (
        "what could not be written is still known"
    )
    second.project(guarded, SETTINGS, 700)
    second.restore(guarded)
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"7", b"[[1]]", b'[["a", 1, 2]]', b"{}", b"[null]"]
)
def test_a_file_of_garbage_is_passed_over(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "oom_score_adj.json").write_bytes(content)
    kernel = SimulatedKernel()
    projection, app = Projection(kernel, str(tmp_path)), spawn(kernel)
    projection.project(app, SETTINGS, 5)
    assert kept(tmp_path) == [[app.pid, app.start_ticks, 5]]


def test_without_a_directory_it_works_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    kernel = SimulatedKernel()
    for projection in (Projection(kernel, None), Projection(kernel, "/nowhere/at/all")):
        app = spawn(kernel)
        projection.project(app, SETTINGS, 5)
        projection.restore(app)
        assert adj_of(kernel, app) == 5
    assert caplog.text.count("cannot be written") == 1
