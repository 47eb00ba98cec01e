"""What a daemon may not do between the reading that turns critical and SIGKILL, read from what strace saw.

No new process or thread, no program, no file made, and nothing of Python or a library opened: each of them may wait for
memory. The window begins with the last read of a kernel file before the word "critical" goes out to anybody, and ends
with the SIGKILL.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_WRITERS = (
    "creat",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "memfd_create",
    "rename",
    "renameat",
    "renameat2",
)
_BIRTHS = ("clone", "clone3", "fork", "vfork", "execve", "execveat")
CALLS = (*_BIRTHS, *_WRITERS, "open", "openat", "sendto", "pread64", "pidfd_send_signal")
"""What has to be traced for it."""
ARGUMENTS = ("strace", "-D", "-f", "-s", "400", "-e", f"trace={','.join(CALLS)}", "-o")
"""As its parent the traced program keeps the one it had (-D); the name of the trace is to follow."""
_LINE = re.compile(r"^(?:\[pid +)?(?P<thread>\d+)\]? +(?P<call>\w+)\((?P<rest>.*)$")
_CODE = re.compile(r"\.(py|pyc|pth|so)[.0-9]*\"")


def window(lines: Sequence[str]) -> list[str]:
    """Return the calls from the reading that turned critical to the first SIGKILL, both included.

    What was said in the rehearsal at the start is not counted: nobody was killed in it.
    """
    rehearsed = max(
        (n for n, line in enumerate(lines) if "the rehearsal is over" in line), default=-1
    )
    lines = lines[rehearsed + 1 :]
    killed = next(
        n for n, line in enumerate(lines) if "pidfd_send_signal" in line and "SIGKILL" in line
    )
    told = next(n for n, line in enumerate(lines) if "sendto(" in line and "critical" in line)
    if told > killed:
        raise ValueError("killed before anybody was told of a critical level")
    read = max(n for n, line in enumerate(lines[:told]) if "pread64(" in line)
    return list(lines[read : killed + 1])


def broken_rules(lines: Sequence[str]) -> list[str]:
    """Name each call that was not to be, with the rule that it breaks."""
    broken = []
    for line in lines:
        found = _LINE.match(line)
        if found is None:  # the end of a call that another one interrupted, or a signal
            continue
        call, rest = found["call"], found["rest"]
        if call in _BIRTHS:
            broken.append(f"no new process or thread: {line}")
        elif call in _WRITERS or (call.startswith("open") and "O_CREAT" in rest):
            broken.append(f"no file is made: {line}")
        elif call.startswith("open") and _CODE.search(rest):
            broken.append(f"nothing is imported: {line}")
    return broken
