"""The test machine keeps its promises; what the tests of lmkd on a real kernel rely on is proved here."""

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .image import parse_module_depends
from .machine import CommandFailedError, Machine, MachineEndedError, find_missing

PYTHON = sys.executable
REPO = Path(__file__).parent.parent.parent


def sh(machine: Machine, script: str, timeout_s: int = 60) -> str:
    return machine.run(["sh", "-c", script], timeout_s=timeout_s).check()


def test_exit_code_output_and_arguments_come_through_unchanged(vm_zram: Machine) -> None:
    script = 'printf "%s|" "$@"; echo to stderr >&2; exit 3'
    result = vm_zram.run(
        ["sh", "-c", script, "sh", "it's", "two\nlines", "$HOME", "é"], timeout_s=30
    )
    assert (result.exit_code, result.output) == (3, "it's|two\nlines|$HOME|é|to stderr\n")
    with pytest.raises(CommandFailedError, match="exit code 3"):
        result.check()


def test_a_command_killed_by_a_signal_exits_with_128_and_its_number(vm_zram: Machine) -> None:
    assert vm_zram.run(["sh", "-c", "kill -KILL $$"], timeout_s=30).exit_code == 128 + 9


def test_a_command_starts_in_the_repository_and_its_own_cgroup_open_to_the_oom_killer(
    vm_zram: Machine,
) -> None:
    output = sh(
        vm_zram, "pwd; cat /proc/self/cgroup /proc/self/oom_score_adj; ulimit -Sn; ulimit -Hn"
    )
    assert output.splitlines() == [str(REPO), "0::/command", "0", "1024", "65536"]


def test_python_of_this_environment_runs_with_its_packages(vm_zram: Machine) -> None:
    program = "import sys, trio, msgpack; print(sys.prefix, *sys.argv[1:])"
    output = vm_zram.run([PYTHON, "-c", program, "argument"], timeout_s=60).check()
    assert output == f"{sys.prefix} argument\n"


def test_environment_is_the_given_one_and_not_the_hosts(
    vm_zram: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_HOST", "1")
    output = vm_zram.run(["env"], timeout_s=30, env={"GIVEN": "a b"}).check()
    assert "GIVEN=a b" in output.splitlines()
    assert "OF_THE_HOST" not in output


def test_a_hanging_command_is_killed_with_all_it_started_and_the_next_one_runs(
    vm_zram: Machine,
) -> None:
    script = """
        mkdir /sys/fs/cgroup/elsewhere
        touch /tmp/left /run/left /dev/shm/left
        setsid sh -c 'trap "" TERM; echo 0 >/sys/fs/cgroup/elsewhere/cgroup.procs
                      while :; do sleep 987; done' &
        echo started
        sleep 987
    """
    result = vm_zram.run(["sh", "-c", script], timeout_s=3)
    assert (result.exit_code, result.output) == (None, "started\n")
    assert result.duration_ms >= 3000
    left = "ps ax | grep '[s]leep 987'; ls -d /tmp/* /run/* /dev/shm/* /sys/fs/cgroup/elsewhere"
    found = sh(vm_zram, f"({left}) 2>/dev/null; echo next").splitlines()
    # Where the checkout itself lies below /tmp, the way to it stays.
    assert [path for path in found if not REPO.is_relative_to(path)] == ["next"]


def test_orphans_are_reaped(vm_zram: Machine) -> None:
    # A pid in the 4th field of stat is the parent: init is the new one, and nobody stays a zombie.
    script = "(sleep 0.2 & echo $! >/tmp/pid); sleep 1; test ! -e /proc/$(cat /tmp/pid)"
    sh(vm_zram, script)


def test_files_written_to_out_arrive_in_out_dir(vm_zram: Machine) -> None:
    program = "import json, os; json.dump({'pid': os.getpid()}, open('/out/result.json', 'w'))"
    vm_zram.run([PYTHON, "-S", "-c", program], timeout_s=60).check()
    assert json.loads((vm_zram.out_dir / "result.json").read_text())["pid"] > 1


def test_a_file_made_in_the_guest_does_not_appear_on_the_host(vm_zram: Machine) -> None:
    assert sh(vm_zram, "echo guest >made-in-the-guest && cat made-in-the-guest") == "guest\n"
    assert not (REPO / "made-in-the-guest").exists()


def test_swap_is_200_mib_of_zram(vm_zram: Machine) -> None:
    [_, swap] = sh(vm_zram, "cat /proc/swaps").splitlines()
    path, _, size_kib, *_ = swap.split()
    assert path == "/dev/zram0"
    assert 0 <= 200 * 1024 - int(size_kib) <= 4  # one page is the header


def test_without_swap_there_is_none(vm_noswap: Machine) -> None:
    assert len(sh(vm_noswap, "cat /proc/swaps").splitlines()) == 1


@pytest.mark.parametrize("name", ["high", "max", "events", "reclaim", "pressure", "oom.group"])
def test_cgroups_have_the_memory_controllers_files(vm_zram: Machine, name: str) -> None:
    sh(vm_zram, f"mkdir /sys/fs/cgroup/x && test -e /sys/fs/cgroup/x/memory.{name}", timeout_s=30)


def test_a_psi_trigger_with_a_window_of_one_second_fires_under_a_memory_limit(
    vm_zram: Machine,
) -> None:
    program = """
import os, select, subprocess
group = "/sys/fs/cgroup/limited"
os.mkdir(group)
open(f"{group}/memory.high", "w").write("8M")
descriptor = os.open(f"{group}/memory.pressure", os.O_RDWR | os.O_NONBLOCK)
os.write(descriptor, b"some 50000 1000000\\0")
subprocess.Popen(["sh", "-c", f"echo 0 >{group}/cgroup.procs; exec tail /dev/zero"])
epoll = select.epoll()
epoll.register(descriptor, select.EPOLLPRI)
print(len(epoll.poll(30)))
"""
    assert vm_zram.run([PYTHON, "-S", "-c", program], timeout_s=60).check() == "1\n"


def test_an_oom_kill_in_a_cgroup_is_seen_on_the_console_and_in_vmstat(vm_zram: Machine) -> None:
    before = vm_zram.console().count("Memory cgroup out of memory")
    kills = int(sh(vm_zram, "sed -n 's/^oom_kill //p' /proc/vmstat"))
    script = """
        cd /sys/fs/cgroup && mkdir small && echo 16M >small/memory.max && echo 0 >small/memory.swap.max
        echo 0 >small/cgroup.procs
        exec tail /dev/zero
    """
    assert vm_zram.run(["sh", "-c", script], timeout_s=60).exit_code == 128 + 9
    assert vm_zram.console().count("Memory cgroup out of memory") == before + 1
    assert int(sh(vm_zram, "sed -n 's/^oom_kill //p' /proc/vmstat")) == kills + 1


def test_the_agent_survives_when_the_whole_machine_is_out_of_memory(vm_noswap: Machine) -> None:
    assert vm_noswap.run(["tail", "/dev/zero"], timeout_s=120).exit_code == 128 + 9
    assert "Out of memory: Killed process" in vm_noswap.console()
    assert sh(vm_noswap, "echo alive") == "alive\n"


def test_a_kernel_panic_is_reported_with_the_console_and_the_next_machine_is_a_new_one(
    vm_machine: Callable[[int], Machine],
) -> None:
    machine = vm_machine(0)
    with pytest.raises(MachineEndedError, match="sysrq triggered crash"):
        machine.run(["sh", "-c", "echo c >/proc/sysrq-trigger"], timeout_s=60)
    with pytest.raises(MachineEndedError, match="not running"):
        machine.run(["true"], timeout_s=30)
    assert not machine.running
    successor = vm_machine(0)
    assert successor is not machine
    assert sh(successor, "echo new") == "new\n"


@pytest.mark.usefixtures("vm_machine")
def test_qemu_ends_when_the_test_process_is_killed(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(REPO)!r})
from tests.vm.machine import Machine
Machine(Path({str(tmp_path)!r})).__enter__()
"""
    with subprocess.Popen([PYTHON, "-c", program]) as process:
        try:
            qemu = _wait_qemu_pid(process.pid)
            descriptor = os.pidfd_open(qemu)
        finally:
            process.kill()
    try:
        assert select.select([descriptor], [], [], 10)[0]
    finally:
        os.close(descriptor)


def _wait_qemu_pid(parent: int) -> int:
    """Wait for the child that is qemu; apt and dpkg may come and go before it."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    while True:
        for child in children.read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{child}/comm").read_text().startswith("qemu-system"):
                    return int(child)


def test_what_is_missing_is_named_with_what_would_enable_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LMKD_VM_CACHE", str(tmp_path))
    find_missing.cache_clear()
    try:
        missing = "\n".join(find_missing())
    finally:
        find_missing.cache_clear()
    for word in ("qemu-system-x86", "dpkg", "busybox-static", "linux-image-amd64"):
        assert word in missing


def test_module_dependencies_are_read_with_dashes_as_underscores() -> None:
    module = b"\x7fELF...\0license=GPL\0depends=virtio-ring,virtio\0name=x\0"
    assert parse_module_depends(module) == ("virtio_ring", "virtio")
    assert parse_module_depends(b"\0depends=\0") == ()
