"""A message bus for a test: the real dbus-daemon, configured as a system bus is, at a socket of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..program import Program

HERE = Path(__file__).parent
POLICY = HERE.parents[1] / "lmkd" / "interop" / "org.freedesktop.LowMemoryMonitor.conf"
SYSTEM_LIKE = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  {more}
</busconfig>
"""
"""What the shipped system.conf of D-Bus 1.14 says, but for what systemd and selinux want."""
ALL_MAY = "<policy user='root'><allow own='*'/><allow send_destination='*'/></policy>"


def need_command(*commands: str) -> None:
    """Skip, or fail where nothing may be skipped, without these commands."""
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        why = f"{', '.join(missing)} is not installed"
        if os.environ.get("LMKD_VM_REQUIRED") == "1":
            pytest.fail(why)
        pytest.skip(why)


SYSTEM_PYTHON = "/usr/bin/python3"


def need_mock() -> None:
    """Skip, or fail where nothing may be skipped, without python3-dbusmock."""
    found = subprocess.run([SYSTEM_PYTHON, "-c", "import dbusmock"], capture_output=True)
    if found.returncode != 0:
        if os.environ.get("LMKD_VM_REQUIRED") == "1":
            pytest.fail("python3-dbusmock is not installed")
        pytest.skip("python3-dbusmock is not installed")


class MessageBus:
    """A dbus-daemon; `address` is what DBUS_SYSTEM_BUS_ADDRESS says of it."""

    def __init__(self, folder: Path, more: str) -> None:
        need_command("dbus-daemon")
        self._socket = folder / "bus"
        self.address = f"unix:path={self._socket}"
        self._configuration = folder / "bus.conf"
        self._configuration.write_text(SYSTEM_LIKE.format(socket=self._socket, more=more))
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._process = subprocess.Popen(
            ["dbus-daemon", f"--config-file={self._configuration}", "--nofork", "--print-address"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("unix:path=")

    def end(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None
            self._socket.unlink(missing_ok=True)


@contextmanager
def message_bus(folder: Path, more: str = f"<include>{POLICY}</include>") -> Iterator[MessageBus]:
    """Run a bus with our policy, or with what is given instead."""
    bus = MessageBus(folder, more)
    bus.start()
    try:
        yield bus
    finally:
        bus.end()


def run_filler(socket: str) -> Program:
    """Run what holds as many MiB as it is told, and wait until it is registered."""
    filler = Program(sys.executable, HERE / "filler.py", environment={"LMKD_SOCKET": socket})
    filler.expect("ready")
    return filler
