"""The bridges of lmkd.interop that are switched on: made at the start, shown every action, run beside the rest.

What one of them lacks here is said once, at the start, and the others go on. What fails while it runs ends that bridge
and nothing else.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import trio

import lmkd
from lmkd.config import Config
from lmkd.kernel.interface import Kernel
from lmkd.model import Process
from lmkd.policy.actions import Action
from lmkd.policy.events import Event
from lmkd.service.listening import SocketError, bind_socket, remove_socket

log = logging.getLogger("lmkd")

NO_JEEPNEY = "it takes jeepney, which is not installed: pip install 'lmkd[dbus]'"


class Bridge(Protocol):
    """What each of them is."""

    @property
    def key(self) -> str:
        """Its name in [interop]."""

    @property
    def standing(self) -> str:
        """How it is with it, in a line."""

    def take(self, action: Action) -> None:
        """Keep what is to be told. Never waits."""

    async def run(self) -> None:
        """Tell it, for ever."""

    def close(self) -> None:
        """Let go of what is held."""


class Lacking(Exception):
    """A bridge cannot be there; the message says what it lacks."""


class Bridges:
    """All of them."""

    def __init__(
        self, bridges: Iterable[Bridge] = (), lacking: Iterable[tuple[str, str]] = ()
    ) -> None:
        self._bridges = tuple(bridges)
        self._lacking = list(lacking)

    def take(self, action: Action) -> None:
        """Show an action to each; one that stumbles over it is off, and nobody else feels it."""
        for bridge in self._bridges:
            try:
                bridge.take(action)
            except Exception:
                self._put_off(bridge)

    def start(self, nursery: trio.Nursery) -> None:
        """Run each."""
        for bridge in self._bridges:
            nursery.start_soon(self._run, bridge)

    def close(self) -> None:
        """Have each let go of what it holds."""
        for bridge in self._bridges:
            bridge.close()

    def describe(self) -> list[str]:
        """Return how it is with each that is switched on, a line each."""
        lines = [f"{bridge.key}: {bridge.standing}" for bridge in self._bridges]
        return lines + [f"{key}: {what}" for key, what in self._lacking]

    async def _run(self, bridge: Bridge) -> None:
        try:
            await bridge.run()
        except Exception:
            self._put_off(bridge)

    def _put_off(self, bridge: Bridge) -> None:
        """Let go of a bridge that has failed: a fault of ours, of which the rest of the daemon is to feel nothing."""
        if bridge not in self._bridges:
            return  # its task, after it was put off already
        log.exception("interop.%s has failed, and is off until a restart", bridge.key)
        self._bridges = tuple(one for one in self._bridges if one is not bridge)
        self._lacking.append((bridge.key, "it has failed; the log says how"))
        bridge.close()


@dataclass(frozen=True, slots=True)
class Grounds:
    """What bridges are built on."""

    config: Config
    kernel: Kernel
    socket_path: str
    """Where our own protocol is spoken, or would be."""
    is_session: bool
    feed: Callable[[Event], None]
    """Gives the heart what a bridge has heard, once it beats."""
    hook_folder: str
    """Where systemd-oomd looks for its hooks."""
    do: Callable[[Callable[[], object]], None]
    """Has a thread do what may block."""
    parent_of: Callable[[int], Process | None]
    """The parent of a process, where that is known; nothing is read for it."""


def open_bridges(grounds: Grounds) -> Bridges:
    """Make those that are switched on, and say of each what it lacks here."""
    interop = grounds.config.interop
    makers: list[tuple[str, bool, Callable[[Grounds], Bridge]]] = [
        ("low_memory_monitor", interop.low_memory_monitor, _low_memory_monitor),
        ("memory_pressure", interop.memory_pressure, _memory_pressure),
        ("prekill_hook", interop.prekill_hook, _prekill_hook),
        ("desktop_notices", interop.desktop_notices, _desktop_notices),
    ]
    bridges: list[Bridge] = []
    lacking: list[tuple[str, str]] = []
    for key, wanted, make in makers:
        if not wanted:
            continue
        try:
            bridges.append(make(grounds))
        except Lacking as what:
            lacking.append((key, str(what)))
            log.warning("interop.%s: %s", key, what)
    return Bridges(bridges, lacking)


def _low_memory_monitor(grounds: Grounds) -> Bridge:
    if grounds.is_session:
        raise Lacking("the system's bus is for the system's daemon: without --session")
    try:
        from lmkd.interop.bus import system_address
        from lmkd.interop.low_memory_monitor import LowMemoryMonitor
    except ImportError:
        raise Lacking(NO_JEEPNEY) from None
    return LowMemoryMonitor(system_address())


def _memory_pressure(grounds: Grounds) -> Bridge:
    from lmkd.interop.memory_pressure import NAME, MemoryPressure

    path = os.path.join(os.path.dirname(grounds.socket_path), NAME)
    listener, removed = _bind(path)

    def cgroup_of(pid: int) -> str:
        process = grounds.kernel.process(pid) if pid else None
        return "/" if process is None else process.cgroup

    rest_s = grounds.config.settings.rest_us / 1_000_000
    return MemoryPressure(listener, path, cgroup_of, rest_s, removed)


def _prekill_hook(grounds: Grounds) -> Bridge:
    from lmkd.interop.prekill_hook import PrekillHook, find_believed, is_called

    if grounds.is_session:
        raise Lacking("systemd-oomd's hooks are for the system's daemon: without --session")
    folder = grounds.hook_folder
    if not os.path.isdir(os.path.dirname(folder)):
        raise Lacking(f"systemd is not here: there is no {os.path.dirname(folder)}")
    listener, removed = _bind(os.path.join(folder, "lmkd"))
    if not is_called():
        log.warning(
            "interop.prekill_hook: oomd.conf sets no PrekillHookTimeoutSec=: systemd-oomd (260) will not call"
        )
    timeout_us = grounds.config.interop.prekill_timeout_us
    kernel = grounds.kernel
    return PrekillHook(
        listener,
        grounds.feed,
        kernel.now_us,
        timeout_us,
        find_believed(),
        removed,
        lmkd.__version__,
    )


def _bind(path: str) -> tuple[socket.socket, Callable[[], None]]:
    """Listen at a path; return the socket, and what removes it. Raises Lacking."""
    try:
        listener = bind_socket(path)
    except SocketError as error:
        raise Lacking(str(error)) from None
    inode = os.stat(path).st_ino
    return listener, lambda: remove_socket(path, inode)


def _desktop_notices(grounds: Grounds) -> Bridge:
    if not grounds.is_session:
        raise Lacking("a desktop is one user's: it takes `lmkd --session`")
    try:
        from lmkd.interop.bus import session_address
        from lmkd.interop.desktop_entries import Entries, applications_dirs, languages
        from lmkd.interop.desktop_notices import DesktopNotices
    except ImportError:
        raise Lacking(NO_JEEPNEY) from None
    address = session_address()
    if address is None:
        raise Lacking(
            "there is no session bus: $DBUS_SESSION_BUS_ADDRESS is not set, nor is there a $XDG_RUNTIME_DIR/bus"
        )
    entries = Entries(applications_dirs(os.environ), languages(os.environ))
    return DesktopNotices(address, entries, grounds.do, grounds.parent_of)
