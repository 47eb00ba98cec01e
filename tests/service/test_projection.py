"""What is written for the kernel's own killer, and how it is put back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lmkd.kernel.simulated import SimulatedKernel
from lmkd.service.projection import SHORTEN_AT_LINES, Projection, Written

GROUP = "/db"


def at_once(work: Callable[[], object]) -> None:
    work()


def make(kernel: SimulatedKernel, directory: Path | None) -> Projection:
    return Projection(kernel, None if directory is None else str(directory), at_once)


def spawn(kernel: SimulatedKernel, *, adj: int = 5, protected: bool = False) -> tuple[int, int]:
    pid = kernel.spawn("app", oom_score_adj=adj, protected=protected)
    start_ticks = kernel.start_ticks(pid)
    assert start_ticks is not None
    return pid, start_ticks


def adj_of(kernel: SimulatedKernel, identity: tuple[int, int]) -> int:
    process = kernel.process(identity[0])
    assert process is not None
    return process.oom_score_adj


def lines(directory: Path) -> list[str]:
    return (directory / "projected").read_text().splitlines()


def test_a_place_is_written_and_what_was_there_is_put_back(tmp_path: Path) -> None:
    kernel = SimulatedKernel()
    projection, one = make(kernel, tmp_path), spawn(kernel)
    assert projection.project(one, 5, 700) == 700
    assert adj_of(kernel, one) == 700
    assert lines(tmp_path) == [f"process {one[0]} {one[1]} 5 700"]
    assert projection.project(one, 5, 700) == 700
    assert len(lines(tmp_path)) == 1, "nothing new"
    assert projection.project(one, 5, 5) is None
    assert adj_of(kernel, one) == 5
    projection.restore_all()
    assert lines(tmp_path) == []


def test_a_process_that_is_as_it_should_be_is_not_written(tmp_path: Path) -> None:
    kernel = SimulatedKernel()
    projection, one = make(kernel, tmp_path), spawn(kernel, protected=True)
    assert projection.project(one, 5, 5) is None
    assert not (tmp_path / "projected").exists()


def test_a_recycled_pid_is_not_written(tmp_path: Path) -> None:
    kernel = SimulatedKernel()
    projection, one = make(kernel, tmp_path), spawn(kernel)
    projection.project(one, 5, 700)
    kernel.recycle(one[0], "innocent")
    projection.restore_all()
    assert adj_of(kernel, one) == 0
    assert lines(tmp_path) == []


def test_what_may_not_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = SimulatedKernel()
    projection = make(kernel, tmp_path)
    for _ in range(2):
        assert projection.project(spawn(kernel, protected=True), 5, 700) is None
    assert caplog.text.count("no CAP_SYS_RESOURCE") == 1


def test_what_an_earlier_daemon_left_is_known_again(tmp_path: Path) -> None:
    kernel = SimulatedKernel()
    one, dead, forgotten = spawn(kernel), spawn(kernel), spawn(kernel)
    first = make(kernel, tmp_path)
    for each in (one, dead, forgotten):
        first.project(each, 5, 700)
    first.forget(forgotten)
    kernel.exit(dead[0])
    second = make(kernel, tmp_path)
    assert second.inherited == {one: Written(5, 700)}
    second.restore_all()
    assert adj_of(kernel, one) == 5, "also when nobody has looked at it"


def test_what_could_not_be_put_back_is_kept_for_whoever_may(tmp_path: Path) -> None:
    kernel = SimulatedKernel()
    one = spawn(kernel)
    projection = make(kernel, tmp_path)
    projection.project(one, 5, 700)
    kernel._sim(one[0]).protected = True
    projection.restore_all()
    assert lines(tmp_path) == [f"process {one[0]} {one[1]} 5 700"]


def test_a_cgroup_is_held_together_and_let_apart(tmp_path: Path) -> None:
    kernel = SimulatedKernel()
    kernel.add_cgroup(GROUP)
    projection = make(kernel, tmp_path)
    projection.hold_together(GROUP)
    projection.hold_together(GROUP)
    assert projection.held_together == {GROUP}
    assert kernel.set_oom_group(GROUP, True) is True, "it was set"
    projection.let_apart(GROUP)
    assert kernel.set_oom_group(GROUP, False) is False, "it was put back"
    assert lines(tmp_path) == [f"group 0 {GROUP}", f"apart {GROUP}"]


def test_a_cgroup_that_an_earlier_daemon_held_together_is_let_apart(tmp_path: Path) -> None:
    kernel = SimulatedKernel()
    kernel.add_cgroup(GROUP)
    make(kernel, tmp_path).hold_together(GROUP)
    make(kernel, tmp_path)
    assert kernel.set_oom_group(GROUP, False) is False


def test_a_cgroup_that_was_held_together_by_others_stays_so(tmp_path: Path) -> None:
    kernel = SimulatedKernel()
    kernel.add_cgroup(GROUP)
    kernel.set_oom_group(GROUP, True)
    projection = make(kernel, tmp_path)
    projection.hold_together(GROUP)
    projection.restore_all()
    assert kernel.set_oom_group(GROUP, True) is True


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"7", b"process 1", b"process a 2 3 4", b"group x /a", b"{}\n\n"]
)
def test_a_file_of_garbage_is_passed_over(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "projected").write_bytes(content + b"\n")
    kernel = SimulatedKernel()
    projection, one = make(kernel, tmp_path), spawn(kernel)
    assert projection.inherited == {}
    projection.project(one, 5, 700)
    assert (tmp_path / "projected").read_bytes().endswith(f"{one[0]} {one[1]} 5 700\n".encode())


def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    kernel = SimulatedKernel()
    projection, one = make(kernel, tmp_path), spawn(kernel)
    for number in range(SHORTEN_AT_LINES + 10):
        projection.project(one, 5, 700 + number % 2)
    assert len(lines(tmp_path)) < 20


def test_without_a_directory_it_works_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    kernel = SimulatedKernel()
    for projection in (make(kernel, None), make(kernel, Path("/nowhere/at/all"))):
        one = spawn(kernel)
        projection.project(one, 5, 700)
        assert adj_of(kernel, one) == 700
        projection.project(one, 5, 5)
        assert adj_of(kernel, one) == 5
    assert caplog.text.count("cannot be written") == 1
