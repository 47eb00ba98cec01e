"""Hear of processes as they are born, change and end: the kernel's process connector, by netlink.

pyroute2 has the words of it: the constants, the message that subscribes, and the layout of the events. Its own sockets
belong to asyncio and strand events when another loop waits for them, and its decoder takes 38 us an event; so the
socket is ours, and each event is unpacked by pyroute2's layout in one step, which takes 2 us. Threads come and go
more often than processes, and are left out. What an event is good for is not known here.

Pids are those of the initial pid namespace (drivers/connector/cn_proc.c), so in any other nobody could use them.

EXIT is the end of a process's first thread. Where others of its threads run on, the process does too, and only a scan
shows it. One that execs in another thread than its first ends so and is then there again: EXIT, EXEC.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from typing import Any, Final

import trio

from lmkd.kernel import files
from lmkd.model import ProcessEvent, ProcessEventKind

_INITIAL_PID_NAMESPACE: Final = 0xEFFFFFFC
"""The inode of it (PROC_PID_INIT_INO, include/linux/proc_ns.h)."""
_SO_RCVBUFFORCE: Final = 33
RECEIVE_BUFFER_BYTES: Final = 2 << 20
"""Doubled by the kernel, it holds 5,041 events (6.18): 1,600 processes that fork, exec and exit while we look away.
What is in it is memory that nobody can reclaim, so it is no larger."""
_MOST_AT_ONCE: Final = 4096
"""Then others get their turn: in a storm events come as fast as they are taken."""
_LONGEST: Final = 1024
_ACK_MARK: Final = 0x6C6D6B64
"""Sent with the subscription; the answer carries the next number, events carry 0."""


class NetlinkProcessEvents:
    """A ProcessEvents over a netlink socket."""

    def __init__(self, connector: socket.socket, words: _Words) -> None:
        self._connector = connector
        self._words = words
        self._buffer = bytearray(_LONGEST)

    async def wait(self) -> None:
        """Return when there are events, or word that some were lost. They stay until they are taken."""
        await trio.lowlevel.wait_readable(self._connector)

    def take_nowait(self) -> tuple[list[ProcessEvent], bool]:
        """Take up to 4,096 messages of what has come, in order; and whether some were lost."""
        events: list[ProcessEvent] = []
        is_lost = False
        receive, unpack, buffer = self._connector.recvfrom_into, self._words.unpack, self._buffer
        for _ in range(_MOST_AT_ONCE):
            try:
                length, (sender, _) = receive(buffer)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                is_lost = True
                continue
            if sender == 0:  # else another program's, which may write to us what it likes
                event = unpack(buffer, length)
                if event is not None:
                    events.append(event)
        return events, is_lost

    def close(self) -> None:
        """Hear no more; who waits gets trio.ClosedResourceError."""
        if self._connector.fileno() < 0:
            return
        if trio.lowlevel.in_trio_run():
            trio.lowlevel.notify_closing(self._connector)
        # Before 6.6 the kernel does not see that a listener has gone, and goes on making events.
        with contextlib.suppress(OSError):
            self._connector.send(self._words.leave)
        self._connector.close()


class _Words:
    """The connector's messages, as pyroute2 describes them."""

    def __init__(self, cn_proc: Any, message_type: int) -> None:
        self.join = _control(cn_proc, message_type, cn_proc.PROC_CN_MCAST_LISTEN)
        self.leave = _control(cn_proc, message_type, cn_proc.PROC_CN_MCAST_IGNORE)
        # A fork's is the longest that is needed; the others begin alike, and the kernel pads all to one length.
        fields = cn_proc.proc_event_fork.fields
        names = [name for name, _ in fields]
        self._layout = struct.Struct("=16x" + "".join(form for _, form in fields))
        self._what, self._ack = names.index("what"), names.index("ack")
        self._body = names.index("parent_pid")
        self._fork: int = cn_proc.PROC_EVENT_FORK
        self._none: int = cn_proc.PROC_EVENT_NONE
        self._kinds: dict[int, ProcessEventKind] = {
            cn_proc.PROC_EVENT_EXEC: ProcessEventKind.EXEC,
            cn_proc.PROC_EVENT_UID: ProcessEventKind.IDS,
            cn_proc.PROC_EVENT_GID: ProcessEventKind.IDS,
            cn_proc.PROC_EVENT_COMM: ProcessEventKind.COMM,
            cn_proc.PROC_EVENT_EXIT: ProcessEventKind.EXIT,
        }

    def unpack(self, message: bytes | bytearray, length: int) -> ProcessEvent | None:
        """Return the event, or None for one of a thread, of another kind, or cut short."""
        if length < self._layout.size:
            return None
        fields = self._layout.unpack_from(message)
        what, body = fields[self._what], self._body
        if what == self._fork:
            child, process = fields[body + 2], fields[body + 3]
            if child != process:
                return None
            return ProcessEvent(ProcessEventKind.FORK, child, fields[body + 1])
        kind = self._kinds.get(what)
        if kind is None or fields[body] != fields[body + 1]:
            return None
        return ProcessEvent(kind, fields[body])

    def unpack_ack(self, message: bytes) -> int | None:
        """Return the errno that answers our subscription, 0 for success; None for any other message."""
        if len(message) < self._layout.size:
            return None
        fields = self._layout.unpack_from(message)
        is_ours = fields[self._what] == self._none and fields[self._ack] == _ACK_MARK + 1
        return int(fields[self._body]) if is_ours else None


def _control(cn_proc: Any, message_type: int, action: int) -> bytes:
    message = cn_proc.proc_event_control()
    message["idx"], message["val"] = cn_proc.CN_IDX_PROC, cn_proc.CN_VAL_PROC
    message["ack"] = _ACK_MARK
    message["len"] = struct.calcsize("I")
    message["action"] = action
    message["header"]["type"] = message_type
    message.encode()
    return bytes(message.data)


def open_process_events(
    root: str = "/", receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES
) -> NetlinkProcessEvents | str:
    """Subscribe to the process connector, or return why that cannot be.

    Loads pyroute2: 12 MiB and 140 ms, so it is done before memory is locked, or not at all.
    """
    if not _is_initial_pid_namespace(root):
        return (
            "this is not the machine's own pid namespace, and the kernel's word names pids of that"
        )
    try:
        from pyroute2.netlink import NETLINK_CONNECTOR, NLMSG_DONE
        from pyroute2.netlink.connector import cn_proc
    except ImportError:
        return "pyroute2 is not installed"
    words = _Words(cn_proc, NLMSG_DONE)
    try:
        connector = socket.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, NETLINK_CONNECTOR
        )
    except OSError as error:
        return f"this kernel has no connector (CONFIG_CONNECTOR): {error.strerror}"
    failure = _subscribe(connector, words, cn_proc.CN_IDX_PROC, receive_buffer_bytes)
    if failure is not None:
        connector.close()
        return failure
    return NetlinkProcessEvents(connector, words)


def _is_initial_pid_namespace(root: str) -> bool:
    try:
        return (
            os.stat(os.path.join(root, files.SELF_PID_NAMESPACE)).st_ino == _INITIAL_PID_NAMESPACE
        )
    except OSError:
        return False


def _subscribe(
    connector: socket.socket, words: _Words, group: int, receive_buffer_bytes: int
) -> str | None:
    try:
        _set_receive_buffer(connector, receive_buffer_bytes)
        connector.bind((0, group))
        connector.send(words.join)
    except PermissionError:
        return "it takes CAP_NET_ADMIN before Linux 6.6"
    except ConnectionRefusedError:
        return "this is not the machine's own network namespace, and the connector is in that alone"
    except OSError as error:
        return f"the process connector refuses: {error.strerror}"
    # The kernel answers before send() returns (cn_call_callback is a plain call since 2.6.39).
    code = _find_answer(connector, words)
    if code is None:
        return "the kernel does not answer: no CONFIG_PROC_EVENTS, or a user namespace of our own"
    if code != 0:
        return f"the process connector refuses: {os.strerror(code)}"
    return None


def _set_receive_buffer(connector: socket.socket, size_bytes: int) -> None:
    try:
        connector.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size_bytes)
    except PermissionError:  # no CAP_NET_ADMIN: up to net.core.rmem_max
        connector.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)


def _find_answer(connector: socket.socket, words: _Words) -> int | None:
    # Events may have come before it, and are left aside: who subscribes scans afterwards.
    while True:
        try:
            message, (sender, _) = connector.recvfrom(_LONGEST)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                continue
            raise
        code = words.unpack_ack(message) if sender == 0 else None
        if code is not None:
            return code
