"""Hear of systemd-oomd's kills before they happen, and give registered apps their grace (systemd 260).

systemd-oomd calls io.systemd.oom.Prekill.Notify at every socket in /run/systemd/oomd.prekill.hook, with the cgroup that
it is about to end, and kills when all have answered or PrekillHookTimeoutSec= is over (oomd.conf(5)). It kills
in any case: what is gained is time, to save and to leave. Whose grace that is and how long is for lmkd.policy.

Only root, systemd-oomd and our own user are believed: others could have every program told that its end is near.
"""

from __future__ import annotations

import logging
import os
import pwd
import re
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from lmkd.interop.varlink import (
    SERVICE,
    Call,
    Framing,
    NotVarlink,
    answer_about_service,
    encode_error,
    encode_reply,
)
from lmkd.peers import read_credentials
from lmkd.policy.actions import Action, AllowOutsideKill, DelayOutsideKill
from lmkd.policy.events import OutsideKillAnnounced, OutsideKillOver

log = logging.getLogger("lmkd")

INTERFACE: Final = "io.systemd.oom.Prekill"
DESCRIPTION: Final = f"""\
interface {INTERFACE}

# A cgroup is about to be killed: answer when that may happen.
method Notify(cgroup: string) -> ()
"""
KILLER: Final = "systemd-oomd"
ITS_USER: Final = "systemd-oom"
CGROUP_MOST_CHARS: Final = 4096
CALLERS_MOST: Final = 8
SILENCE_S: Final = 30
"""So long a caller may be connected and say nothing whole."""
AFTER_S: Final = 3
"""After the answer: whoever lives then was not killed, and is told how things are."""
RECEIVE_BYTES: Final = 4096
CONFIGURATION: Final = tuple(
    f"{folder}/systemd/oomd.conf{more}"
    for folder in ("/etc", "/run", "/usr/local/lib", "/usr/lib")
    for more in ("", ".d/*.conf")
)


class PrekillHook:
    """The service that systemd-oomd calls. `feed` gives the heart an event, `removed` is called when it is closed."""

    key = "prekill_hook"

    def __init__(
        self,
        listener: socket.socket,
        feed: Callable[[OutsideKillAnnounced | OutsideKillOver], None],
        now_us: Callable[[], int],
        timeout_us: int,
        believed: frozenset[int],
        removed: Callable[[], None],
        version: str,
    ) -> None:
        self._socket = listener
        self._feed = feed
        self._now_us = now_us
        self._timeout_us = timeout_us
        self._believed = believed
        self._removed = removed
        self._version = version
        self._announcements = 0
        self._delays: dict[int, int] = {}
        """Until when each call that waits may wait at most."""
        self._allowed: dict[int, trio.Event] = {}
        self._callers = 0
        self._refused_said: set[int] = set()

    @property
    def standing(self) -> str:
        count = self._announcements
        announced = "1 kill was" if count == 1 else f"{count} kills were"
        return f"{KILLER} may call; {announced} announced"

    def take(self, action: Action) -> None:
        """Keep until when a caller is to wait, or that it need not any more."""
        match action:
            case DelayOutsideKill(announcement, until_us):
                self._delays[announcement] = until_us
            case AllowOutsideKill(announcement):
                if announcement in self._allowed:
                    self._allowed[announcement].set()

    async def run(self) -> None:
        """Serve whoever calls, for ever."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._socket))
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await trio.serve_listeners(self._serve, [listener], handler_nursery=nursery)

    def close(self) -> None:
        """Let go of the socket."""
        self._removed()
        self._socket.close()

    async def _serve(self, stream: trio.SocketStream) -> None:
        """Serve one caller; whatever is wrong with it ends with it."""
        async with stream:
            if self._callers >= CALLERS_MOST:
                return
            self._callers += 1
            try:
                await self._talk(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # it has hung up, or its time was over
            except NotVarlink as error:
                log.warning("interop.%s: a caller says what is no varlink: %s", self.key, error)
            finally:
                self._callers -= 1

    async def _talk(self, stream: trio.SocketStream) -> None:
        _, uid = read_credentials(stream.socket)
        framing = Framing()
        while True:
            with trio.move_on_after(SILENCE_S) as silence:
                chunk = await stream.receive_some(RECEIVE_BYTES)
            if silence.cancelled_caught or not chunk:
                return
            for call in framing.receive(chunk):
                answer = await self._answer(call, uid)
                if not call.oneway:
                    await stream.send_all(answer)

    async def _answer(self, call: Call, uid: int) -> bytes:
        if call.method != f"{INTERFACE}.Notify":
            return answer_about_service(call, self._version, {INTERFACE: DESCRIPTION})
        if uid not in self._believed:
            if uid not in self._refused_said:
                self._refused_said.add(uid)
                log.warning(
                    "interop.%s: uid %d announced a kill, and is not believed", self.key, uid
                )
            return encode_error(f"{SERVICE}.PermissionDenied", {})
        cgroup = call.parameters.get("cgroup")
        if not isinstance(cgroup, str) or not is_cgroup(cgroup):
            return encode_error(f"{SERVICE}.InvalidParameter", {"parameter": "cgroup"})
        await self._wait_for_apps(cgroup.rstrip("/") or "/")
        return encode_reply({})

    async def _wait_for_apps(self, cgroup: str) -> None:
        """Announce the kill, and wait until it may happen."""
        self._announcements += 1
        number = self._announcements
        event = self._allowed[number] = trio.Event()
        until_us = self._now_us() + self._timeout_us
        log.warning("interop.%s: %s is about to end %s", self.key, KILLER, cgroup)
        self._feed(OutsideKillAnnounced(number, cgroup, KILLER, until_us))
        until_us = self._delays.pop(number, until_us)
        try:
            with trio.move_on_after(max(until_us - self._now_us(), 0) / 1_000_000):
                await event.wait()
        finally:
            del self._allowed[number]
            self._nursery.start_soon(self._look_back, number)

    async def _look_back(self, number: int) -> None:
        await trio.sleep(AFTER_S)
        self._feed(OutsideKillOver(number))


def is_cgroup(path: str) -> bool:
    """Whether this may be a cgroup's path below the mount."""
    parts = path.rstrip("/").split("/")[1:]
    return (
        path.startswith("/")
        and len(path) <= CGROUP_MOST_CHARS
        and "\0" not in path
        and not any(part in ("", ".", "..") for part in parts)
    )


def find_believed() -> frozenset[int]:
    """Return the uids that may announce a kill: root's, our own, and that of systemd-oomd, where there is one."""
    believed = {0, os.geteuid()}
    with suppress(KeyError):  # then it runs as root, or not at all
        believed.add(pwd.getpwnam(ITS_USER).pw_uid)
    return frozenset(believed)


def is_called(files: Iterable[str] = CONFIGURATION) -> bool:
    """Whether systemd-oomd is configured to call hooks at all: it does not, by default (oomd.conf(5))."""
    for pattern in files:
        base, _, glob = pattern.partition("*")
        paths = [Path(pattern)] if not glob else sorted(Path(base).glob("*" + glob))
        for path in paths:
            try:
                text = path.read_text(errors="replace")
            except OSError:
                continue
            if re.search(r"^\s*PrekillHookTimeoutSec\s*=\s*[^\s0]", text, re.M):
                return True
    return False
