"""A whole daemon in a test: a simulated kernel, an invented clock, real sockets.

A client's socket is bound to a name that says which simulated process it belongs to, and the daemon's `credentials`
read that name: SO_PEERCRED would name the test's own process for all of them.
"""

from __future__ import annotations

import gc
import itertools
import os
import signal
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import lmkd_proto as wire
import trio

from lmkd.config import Config, load_config
from lmkd.kernel.interface import Kernel
from lmkd.kernel.simulated import SimulatedKernel
from lmkd.model import Level
from lmkd.service.daemon import Daemon, Session
from lmkd.service.executor import Hand
from lmkd.service.listening import bind_socket
from lmkd.service.parts import Parts

MIB = 1024
PINNED = Path(__file__).parents[1] / "policy" / "pinned.toml"
"""Every threshold by name, so that tuning the shipped defaults moves nothing here."""
PATIENCE_S = 30

Heard = wire.Message | wire.UnknownMessage
M = TypeVar("M")
_numbers = itertools.count()


class PromptHand(Hand):
    """Does at once what a thread would do soon: an invented clock does not wait for threads."""

    def __init__(self, name: str = "") -> None:
        self.finished = False

    def do(self, work: Callable[[], object]) -> None:
        work()

    def finish(self, within_s: float | None = None) -> None:
        self.finished = True


def socket_of(pid: int, uid: int = 1000) -> trio.socket.SocketType:
    """Return a socket that says, to `read_bound_credentials`, whose it is."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(f"\0lmkd-test-{os.getpid()}-{next(_numbers)}/{pid}/{uid}")
    return trio.socket.from_stdlib_socket(sock)


def read_bound_credentials(sock: socket.socket) -> tuple[int, int]:
    """Read what `socket_of` wrote."""
    name: bytes = sock.getpeername()
    _, pid, uid = name.decode().split("/")
    return int(pid), int(uid)


class Peer:
    """A client as the protocol has it, one socket and no cleverness."""

    def __init__(self, sock: trio.socket.SocketType, pid: int) -> None:
        self.sock = sock
        self.pid = pid
        self.heard: list[Heard] = []
        """Everything, in order."""
        self._frames = wire.FrameReader()
        self._unread: deque[Heard] = deque()
        self._ids = itertools.count(1)

    async def send_bytes(self, content: bytes) -> None:
        """Send these very bytes."""
        with trio.fail_after(PATIENCE_S):
            left = memoryview(content)
            while left:
                left = left[await self.sock.send(left) :]

    async def hear(self, kind: type[M]) -> M:
        """Return the next message of a kind; others stay to be heard."""
        with trio.fail_after(PATIENCE_S):
            while True:
                for message in self._unread:
                    if isinstance(message, kind):
                        self._unread.remove(message)
                        return message
                assert await self._receive(), f"the server closed before any {kind.__name__}"

    async def hear_level(self, level: Level) -> wire.Pressure:
        """Return the next word that this is the level."""
        while (word := await self.hear(wire.Pressure)).level != level.word:
            pass
        return word

    async def hear_end(self) -> None:
        """Return when the server has closed."""
        with trio.fail_after(PATIENCE_S):
            while await self._receive():
                pass

    async def ask(self, make: Callable[..., wire.Request], **keys: object) -> wire.Reply:
        """Send a request and return its reply; pushes that come before it stay to be heard."""
        number = next(self._ids)
        await self.send_bytes(wire.encode(make(number, **keys)))
        with trio.fail_after(PATIENCE_S):
            while True:
                for event in self._unread:
                    if (
                        isinstance(event, wire.Ok | wire.Error | wire.Welcome)
                        and event.id == number
                    ):
                        self._unread.remove(event)
                        return event
                assert await self._receive(), "the server closed before it replied"

    async def get(self, make: Callable[..., wire.Request], **keys: object) -> dict[str, Any]:
        """Send a request that must succeed, and return its result."""
        reply = await self.ask(make, **keys)
        assert isinstance(reply, wire.Ok), reply
        return reply.result

    async def refusal(self, make: Callable[..., wire.Request], **keys: object) -> str:
        """Send a request that must fail, and return the code."""
        reply = await self.ask(make, **keys)
        assert isinstance(reply, wire.Error), reply
        return reply.code

    def close(self) -> None:
        """Leave without a word."""
        self.sock.close()

    async def _receive(self) -> bool:
        try:
            chunk = await self.sock.recv(65536)
        except ConnectionResetError:
            return False
        if not chunk:
            return False
        self._frames.feed(chunk)
        while (payload := self._frames.next_frame()) is not None:
            message = wire.decode(payload)
            self.heard.append(message)
            self._unread.append(message)
        return True


class House:
    """A running daemon, the machine below it and the way in."""

    def __init__(self, kernel: SimulatedKernel, path: str, daemon: Daemon) -> None:
        self.kernel = kernel
        self.path = path
        self.daemon = daemon
        self.peers: list[Peer] = []
        self.left = trio.Event()

    @cached_property
    def parts(self) -> Parts:
        """What the daemon is made of: for what no client can see, such as what is left behind in it."""
        return next(
            one for one in gc.get_objects() if isinstance(one, Parts) and one._daemon is self.daemon
        )

    @property
    def domains(self) -> list[str]:
        """Return what is watched."""
        return list(self.parts.engine.state.domains)

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run the daemon."""
        await self.daemon.run(task_status=task_status)
        self.left.set()

    async def leave(self) -> None:
        """Have it leave as a service manager would."""
        if not self.left.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
            with trio.fail_after(PATIENCE_S):
                await self.left.wait()

    async def connect(self, pid: int = 1, *, uid: int = 1000, hello: bool = True) -> Peer:
        """Connect as a process; say hello unless asked not to."""
        sock = socket_of(pid, uid)
        await sock.connect(self.path)
        peer = Peer(sock, pid)
        self.peers.append(peer)
        if hello:
            await peer.ask(wire.Hello, version=wire.PROTOCOL_VERSION, name=f"peer-{pid}")
        return peer

    async def run_app(
        self, name: str, app_class: str, size_mib: int, *, sheddable_mib: int = 0, **process: object
    ) -> Peer:
        """Start a process and register it."""
        pid = self.kernel.spawn(name, anon_kib=size_mib * MIB, **process)  # type: ignore[arg-type]
        peer = await self.connect(pid)
        await peer.get(
            wire.Register, name=name, app_class=app_class, sheddable_bytes=sheddable_mib << 20
        )
        return peer

    def signals_to(self, pid: int) -> list[str]:
        """Return the signals that reached a process, in order."""
        return [sent.signal.value for sent in self.kernel.signals if sent.pid == pid]


def configure(tmp_path: Path, text: str = "") -> Config:
    """Return the pinned configuration with this laid over it."""
    over = tmp_path / "over.toml"
    over.write_text(text)
    return load_config([PINNED, over])


@asynccontextmanager
async def running(
    tmp_path: Path,
    kernel: SimulatedKernel | None = None,
    *,
    text: str = "",
    dry_run: bool = False,
    state_dir: str | None = None,
    prepare: Callable[[Kernel], None] = lambda kernel: None,
    load: Callable[[], Config] | None = None,
    registered: set[tuple[int, int]] | None = None,
    rehearses: bool = False,
    hooks: str = "hooks",
    session: Session | None = None,
) -> AsyncIterator[House]:
    """Run a daemon for as long as the block lasts, then have it leave as SIGTERM would."""
    kernel = kernel or SimulatedKernel()
    path = str(tmp_path / "socket")
    daemon = Daemon(
        kernel,
        configure(tmp_path, text),
        load or (lambda: load_config([PINNED, tmp_path / "over.toml"])),
        bind_socket(path),
        path,
        dry_run=dry_run,
        state_dir=state_dir,
        registered=set() if registered is None else registered,
        credentials=read_bound_credentials,
        make_hand=PromptHand,
        prepare=prepare,
        hook_folder=str(tmp_path / hooks),
        rehearses=rehearses,
        session=session,
    )
    house = House(kernel, path, daemon)
    async with trio.open_nursery() as nursery:
        await nursery.start(house.serve)
        try:
            yield house
            await house.leave()
        finally:
            for peer in house.peers:
                peer.close()
