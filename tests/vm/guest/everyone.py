"""Five programs in five languages, one of GLib's and one on sd-event, and a leak: who hears what, and who is credited?

The first argument is of no consequence here. The second is a folder with what is run: `commands.json`, by language, and
the two that know nothing of lmkd.
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from lmkd_proto import Status

from tests.vm.guest.stage import SOCKET, Program, Stage, now_ms

CONFIG = """
[interop]
low_memory_monitor = true
memory_pressure = true
[classes.cached]
grace = "8s"    # emulated, each takes its time
"""
BUS = "unix:path=/tmp/stage/bus"
BUS_CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/tmp/stage/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><deny own="*"/><deny send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/>
<allow receive_type="signal"/><allow send_destination="org.freedesktop.DBus"/></policy>
<include>{policy}</include></busconfig>
"""


def start_other(stage: Stage, name: str, *command: str, **variables: str) -> Program:
    """Start a program that is not a member: each line that it prints is something that it says."""
    log = stage.directory / f"{name}.log"
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LMKD_SOCKET": SOCKET, **variables},
    )

    def listen() -> None:
        assert process.stdout is not None
        with log.open("w") as lines:
            for line in process.stdout:
                said = line.decode(errors="replace").rstrip()
                lines.write(json.dumps({"t": now_ms(), "what": "said", "line": said}) + "\n")
                lines.flush()

    log.touch()
    threading.Thread(target=listen, daemon=True).start()
    program = Program(name, process, log)
    stage.programs.append(program)
    return program


def apps(stage: Stage) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = stage.ask(Status(1))["apps"]
    return rows


def main() -> None:
    folder = Path(sys.argv[2])
    stage = Stage("everyone")
    policy = Path("lmkd/interop/org.freedesktop.LowMemoryMonitor.conf").absolute()
    (stage.directory / "bus.conf").write_text(BUS_CONFIG.format(policy=policy))
    bus = stage.directory / "bus"
    subprocess.Popen(["dbus-daemon", f"--config-file={stage.directory}/bus.conf", "--nofork"])
    stage.wait(bus.exists, 30, "the bus")
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = BUS
    stage.start_daemon(CONFIG)

    given = json.loads((folder / "commands.json").read_text())
    programs = {
        language: start_other(stage, language, *command)
        for language, command in given["commands"].items()
    }
    stage.wait(lambda: len(apps(stage)) == len(programs), 120, "five apps")
    for app in apps(stage):
        (name,) = [n for n, one in programs.items() if one.process.pid == app["pid"]]
        stage.note("app", who=name, app=app["app"])
    glib = start_other(stage, "glib", given["glib"])
    stage.wait(lambda: len(glib.events()) >= 2, 60, "GLib's program to listen")
    if given["sd_event"]:
        woken = start_other(
            stage,
            "sd_event",
            given["sd_event"],
            MEMORY_PRESSURE_WATCH="/run/lmkd/memory-pressure",
            **given["sd_environment"],
        )
        stage.wait(lambda: woken.has("said", line="listening"), 60, "sd-event to listen")
    stage.note("calm")
    leak = stage.start("leak", "--grow", "10", "--adj", "700")
    stage.wait(lambda: leak.ended_ms is not None, 120, "the leak to end")
    stage.wait(lambda: glib.events()[-1]["line"] == "warning 0", 30, "the end of it")
    stage.finish()


if __name__ == "__main__":
    main()
