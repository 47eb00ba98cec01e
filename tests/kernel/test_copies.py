"""A child that was forked just now holds what is its parent's, until it executes something or has lived for a while."""

from __future__ import annotations

import subprocess
import time

import pytest

from lmkd.kernel.machine import Machine

pytestmark = pytest.mark.real_kernel


def test_a_fork_is_a_copy_for_a_second_and_then_a_worker() -> None:
    machine = Machine()
    # A part of a script in parentheses is forked, and nothing is executed for it.
    with subprocess.Popen(
        ["sh", "-c", "exec 3<&0; (read line <&3) & echo $!; wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as script:
        assert script.stdout is not None
        child = int(script.stdout.readline())
        fresh = machine.glance(child)
        assert fresh is not None
        assert (fresh.ppid, fresh.is_copy) == (script.pid, True)
        parent = machine.glance(script.pid)
        assert parent is not None
        assert not parent.is_copy
        until = time.monotonic() + 10
        while (glance := machine.glance(child)) is not None and glance.is_copy:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert glance is not None
        script.communicate("over\n")
    machine.close()
