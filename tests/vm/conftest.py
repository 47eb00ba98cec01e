"""Fixtures for tests on a real kernel: one machine with zram swap and one without, each booted on first use.

A machine serves all tests of a session, in turn; one that died is replaced for the next test. Where machines
cannot boot the tests are skipped and say what is missing; with LMKD_VM_REQUIRED=1, as in CI, they fail.
"""

import compileall
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .machine import Machine, find_missing

_REPO = Path(__file__).parent.parent.parent
_OUR_PACKAGES = ("lmkd", "proto/lmkd_proto", "clients/python/lmkd_client")
_ZRAM_MIB = 200
_TIMEOUT_S = (
    300  # pytest-timeout's, boot and download of the kernel included; a test may set its own
)
_CONSOLE_TAIL_LINES = 60
_FIXTURES = {"vm_machine", "vm_zram", "vm_noswap"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that uses a machine as `vm`, with a timeout that an emulated one can keep."""
    for item in items:
        if _FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            continue
        item.add_marker(pytest.mark.vm)
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the guest's last kernel messages beside a failure."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Machine):
                tail = "\n".join(value.console().splitlines()[-_CONSOLE_TAIL_LINES:])
                report.sections.append(("console of the guest", tail))
    return report


@pytest.fixture(scope="session")
def vm_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Machine]]:
    """Return a function from swap size in MiB (0: none) to a running machine."""
    missing = find_missing()
    if missing:
        reason = f"no virtual machine here: {'; '.join(missing)}"
        if os.environ.get("LMKD_VM_REQUIRED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)

    # The guest reads the host's bytecode and writes none; compiling takes 20 times longer in there.
    for package in _OUR_PACKAGES:
        compileall.compile_dir(_REPO / package, quiet=2)

    machines: dict[int, Machine] = {}
    with ExitStack() as stack:

        def machine(swap_mib: int) -> Machine:
            if swap_mib not in machines or not machines[swap_mib].running:
                directory = tmp_path_factory.mktemp(f"vm-swap-{swap_mib}-mib-")
                booted = stack.enter_context(Machine(directory, swap_mib=swap_mib))
                machines[swap_mib] = booted
            return machines[swap_mib]

        yield machine


@pytest.fixture
def vm_zram(vm_machine: Callable[[int], Machine]) -> Machine:
    """A machine with 512 MiB of memory and 200 MiB of zram swap."""
    return vm_machine(_ZRAM_MIB)


@pytest.fixture
def vm_noswap(vm_machine: Callable[[int], Machine]) -> Machine:
    """A machine with 512 MiB of memory and no swap."""
    return vm_machine(0)
