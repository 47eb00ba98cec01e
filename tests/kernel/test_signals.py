"""Handles on real processes."""

from __future__ import annotations

import subprocess

import pytest
import trio

from lmkd.kernel.machine import Machine


@pytest.mark.real_kernel
async def test_who_waits_for_a_process_that_was_let_go_is_told_so() -> None:
    kernel = Machine()
    with subprocess.Popen(["sleep", "60"]) as child:  # noqa: ASYNC220 - starting it takes no time
        ticks = kernel.start_ticks(child.pid)
        assert ticks is not None
        handle = kernel.open_victim(child.pid, ticks)
        assert handle is not None
        handle.close()
        with pytest.raises(trio.ClosedResourceError):
            await handle.wait_exit()
        child.kill()
