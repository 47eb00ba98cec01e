"""Ten programs in four subtrees under a rule file: who goes, in which order, with whom, and who never?

/work is pressed by a filler that no rule lets die; /work/tabs, /work/db and /work/build hold what may go, /keep what
has nothing to do with it. In the middle two more programs are started by exec. Then the whole machine runs out of
memory with lmkd still there, and at last without it.
"""

import os

from tests.vm.guest.stage import Stage

RULES = """
[process_events]
source = "netlink"

[[rule]]
name = "kept whatever comes"
match = { cgroup = "/keep/safe" }
exempt = true

[[rule]]
name = "the one that presses"
match = { cgroup = "/work/filler" }
exempt = true

[[rule]]
name = "tabs go first"
match = { comm = "tab" }
class = "cached"

[[rule]]
name = "the database as a whole"
match = { cgroup = "/work/db/**" }
class = "background"
unit = "cgroup"

[[rule]]
name = "a build with all it started"
match = { comm = "make" }
class = "service"
unit = "tree"

[[rule]]
name = "my editor last"
match = { comm = "editor" }
class = "perceptible"

[[domain]]
cgroup = "/work"
"""
GROUPS = ("/work/tabs", "/work/db", "/work/db/workers", "/work/build", "/work/filler", "/keep/safe")


def main() -> None:
    stage = Stage("rules")
    stage.make_group("/work", memory_high="150M", memory_swap_max="0")
    stage.delegate_memory("/work")
    stage.make_group("/keep")
    for group in GROUPS:
        stage.make_group(group)
    stage.start_daemon(RULES)
    watcher = stage.start("watcher", "--subscribe", "/work", "--adj", "-999")
    for name, hold, comm, cgroup, more in (
        ("tab1", 18, "tab", "/work/tabs", ()),
        ("tab2", 16, "tab", "/work/tabs", ()),
        ("db1", 6, "db", "/work/db", ()),
        ("db2", 6, "db", "/work/db/workers", ()),
        ("db3", 6, "db", "/work/db/workers", ()),
        ("make", 2, "make", "/work/build", ("--children", "2", "--child-hold", "9")),
        ("editor", 20, "editor", "/keep", ()),
        ("outsider", 25, "tab", "/keep", ()),
        ("safe", 30, "tab", "/keep/safe", ()),
        ("bystander", 10, "plain", "/keep", ()),
    ):
        stage.start_plain(name, hold, *more, comm=comm, cgroup=cgroup)
    places = {p.name: stage.adj(p.process.pid) for p in stage.programs if p is not watcher}
    stage.note("places", **places)
    filler = stage.start_plain("filler", 5, "--grow", "12", "--most", "130", cgroup="/work/filler")

    stage.wait(lambda: watcher.has("killed"), 60, "the first kill")
    late = [
        stage.start_plain("late-tab", 1, comm="tab", cgroup="/keep", wait=False),
        stage.start_plain("late-editor", 1, comm="editor", cgroup="/keep", wait=False),
    ]
    for program, wanted in zip(late, (900, 200), strict=True):
        stage.wait(lambda p=program, w=wanted: stage.adj(p.process.pid) == w, 30, program.name)
        stage.note("classed", program=program.name, adj=wanted)
    stage.wait(lambda: filler.has("full"), 90, "the filler to be full")
    stage.sleep(4)
    # A build's children are nobody's program here: said by their pids.
    make = next(program for program in stage.programs if program.name == "make")
    for child in make.events():
        if child["what"] == "child":
            stage.note("build_child", pid=child["pid"], alive=stage.adj(child["pid"]) is not None)
    for group in ("/work/tabs", "/work/db"):
        marks = {
            name: os.getxattr(f"/sys/fs/cgroup{group}", f"user.oomd_{name}").decode()
            for name in ("ooms", "kill", "kill_uuid")
        }
        stage.note("marks", group=group, **marks)
    stage.finish()


if __name__ == "__main__":
    main()
