"""A program that knows nothing of lmkd: it holds memory, may grow, and may have children that hold some too.

    plain.py NAME HOLD_MIB [--grow MIB_A_SECOND --most MIB] [--children COUNT --child-hold MIB]

What it holds is incompressible, page by page, as in member.py. It writes the same lines of JSON about itself. Started
with -S -E and without argparse, since a dozen of them start in an emulated machine.
"""

import json
import os
import signal
import sys
import time

MIB = 1 << 20


def say(what, **more):  # type: ignore[no-untyped-def]
    line = {"t": time.monotonic_ns() // 1_000_000, "what": what, **more}
    os.write(1, (json.dumps(line) + "\n").encode())


def option(name, absent):  # type: ignore[no-untyped-def]
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else absent


def main():  # type: ignore[no-untyped-def]
    base = os.urandom(MIB)
    children = []
    for number in range(option("--children", 0)):
        pid = os.fork()
        if pid == 0:
            held = [bytearray(base) for _ in range(option("--child-hold", 0))]
            say("child", pid=os.getpid(), number=number, held=len(held))
            while True:
                signal.pause()
        children.append(pid)
    held = [bytearray(base) for _ in range(int(sys.argv[2]))]
    say("started", pid=os.getpid(), held=len(held))
    grow, most = option("--grow", 0), option("--most", 10_000)
    began, grown = time.monotonic(), 0
    while grow and len(held) < most:
        time.sleep(0.05)
        due = int((time.monotonic() - began) * grow) - grown
        for _ in range(min(due, most - len(held))):
            held.append(bytearray(base))
            grown += 1
        if len(held) >= most:
            say("full", held=len(held))
    while True:
        signal.pause()


main()
