"""After SIGKILL of lmkd: whom does the kernel's own killer take, and is it whom lmkd would have taken?

Five arrangements, each in a cgroup with a hard limit. lmkd is asked who ranks first there, is killed, and then
something that the kernel may not take fills the group until the kernel acts.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

from lmkd_proto import Explain

from tests.vm.guest.stage import Program, Stage

LIMIT_MIB = 150
RULES = """
[[rule]]
name = "kept whatever comes"
match = { cgroup = "/arranged/safe" }
exempt = true
[[rule]]
name = "cached"
match = { comm = "tab" }
class = "cached"
[[rule]]
name = "rather this one"
match = { comm = "rather" }
class = "background"
bias = 100
[[rule]]
name = "background"
match = { comm = "job" }
class = "background"
[[rule]]
name = "as a whole"
match = { cgroup = "/arranged/whole/**" }
class = "cached"
unit = "cgroup"
[[rule]]
name = "service"
match = { comm = "server" }
class = "service"
[[domain]]
cgroup = "/arranged"
"""
STRICT = "[policy]\nstrict = true\n"

ARRANGEMENTS: dict[str, tuple[str, tuple[tuple[str, str, str, int], ...]]] = {
    # (name, comm, group, MiB)
    "the lower class, though smaller": (
        "",
        (("small", "tab", "", 15), ("large", "server", "", 30), ("other", "job", "", 15)),
    ),
    "the larger of one class": (
        "",
        (("smaller", "job", "", 12), ("larger", "job", "", 24), ("server", "server", "", 20)),
    ),
    "not the exempt one, though largest": (
        "",
        (("kept", "tab", "/safe", 45), ("first", "job", "", 12), ("server", "server", "", 14)),
    ),
    "a group as a whole": (
        "",
        (("one", "plain", "/whole", 14), ("two", "plain", "/whole/in", 12), ("job", "job", "", 15)),
    ),
    "what no rule speaks for, in strict mode, and the bias": (
        STRICT,
        (("unruled", "plain", "", 12), ("rather", "rather", "", 15), ("job", "job", "", 18)),
    ),
}


def ranks(stage: Stage, programs: list[Program]) -> dict[str, Any]:
    """Ask lmkd where each of them stands at critical in the group."""
    found = {}
    for program in programs:
        explained = stage.ask(Explain(1, program.process.pid))
        [rank] = [
            row
            for row in explained["ranks"]
            if row["domain"] == "/arranged" and row["level"] == "critical"
        ]
        found[program.name] = rank["rank"]
        time.sleep(0.2)  # it answers a few of these a second
    return found


def group_kills(group: str) -> int:
    """Read how often the kernel has killed a group as a whole."""
    for line in Path(f"/sys/fs/cgroup{group}/memory.events").read_text().splitlines():
        if line.startswith("oom_group_kill "):
            return int(line.split()[1])
    raise AssertionError("no oom_group_kill in memory.events: a kernel before 5.17")


def main() -> None:
    stage = Stage("orders")
    for number, (what, (config, wanted)) in enumerate(ARRANGEMENTS.items()):
        stage.make_group("/arranged", memory_max=f"{LIMIT_MIB}M", memory_swap_max="0")
        stage.delegate_memory("/arranged")  # else the groups in it have no memory.oom.group
        for group in ("/plain", "/safe", "/whole", "/whole/in", "/filler"):
            stage.make_group(f"/arranged{group}")
        stage.start_daemon(config + RULES)
        programs = [
            stage.start_plain(
                f"{name}-{number}", hold, comm=comm, cgroup=f"/arranged{group or '/plain'}"
            )
            for name, comm, group, hold in wanted
        ]
        stage.sleep(2)  # `scan` looks once a second while somebody young is there
        stage.note(
            "arranged",
            arrangement=what,
            ranks=ranks(stage, programs),
            places={p.name: stage.adj(p.process.pid) for p in programs},
            together=Path("/sys/fs/cgroup/arranged/whole/memory.oom.group").read_text().strip(),
        )
        stage.kill_daemon()
        filler = stage.start_plain(
            f"filler-{number}",
            5,
            *("--grow", "60", "--most", str(LIMIT_MIB)),
            cgroup="/arranged/filler",
            adj=-1000,
        )
        stage.wait(lambda ps=programs: any(p.ended_ms for p in ps), 60, "the kernel to act")
        stage.sleep(1)
        taken = [program for program in programs if program.ended_ms is not None]
        taken.sort(key=lambda program: program.ended_ms or 0)
        stage.note(
            "taken",
            arrangement=what,
            taken=[program.name for program in taken],
            group_kills=group_kills("/arranged/whole"),
        )
        for program in (*programs, filler):
            if program.ended_ms is None:
                os.kill(program.process.pid, signal.SIGKILL)
        stage.wait(lambda ps=programs: all(p.ended_ms for p in ps), 20, "all to end")
        stage.wait(lambda f=filler: f.ended_ms is not None, 20, "the filler to end")
        stage.sleep(0.5)
        for group in ("/plain", "/safe", "/whole/in", "/whole", "/filler", ""):
            Path(f"/sys/fs/cgroup/arranged{group}").rmdir()
    stage.start_daemon()  # the outcome wants one that is alive
    stage.finish()


if __name__ == "__main__":
    main()
