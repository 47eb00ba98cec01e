"""One level to many subscribers, first send to last receive, against the same loop of sends in C.

Both sides send to the same receivers' program, a process of its own, in turns. Ours is the daemon's Server with real
connections that said hello and subscribed; it has the frame to encode as well.
"""

import os
import tempfile
import time
from pathlib import Path

import trio
from lmkd_proto import ClientConnection, Event, Hello, Ok, Subscribe, Welcome

from lmkd.model import Level, Propagation
from lmkd.policy.actions import Broadcast
from lmkd.service.client import Client
from lmkd.service.daemon import raise_fd_limit
from lmkd.service.listening import bind_socket
from lmkd.service.server import Server, pressure_frame
from tests.bench.native import Peer, compile_peer
from tests.bench.rows import Row, middle

ROUNDS = 41
REASON = "6.1 MiB of 457.1 MiB available"


def measure() -> list[Row]:
    raise_fd_limit()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        receivers, sender = compile_peer("receivers", directory), compile_peer("sender", directory)
        return [
            trio.run(_measure, directory, receivers, sender, count) for count in (1_000, 10_000)
        ]


async def _measure(directory: Path, receivers: Path, sender: Path, count: int) -> Row:
    greeting = ClientConnection()
    words = greeting.send(Hello(0, 1)) + greeting.send(Subscribe(1))
    frame = pressure_frame("system", Level.LOW, REASON, 6_247)
    ours_path, theirs_path = f"{directory}/ours{count}", f"{directory}/theirs{count}"
    async with trio.open_nursery() as nursery:
        server = _serve(ours_path)
        nursery.start_soon(server.serve)
        our_receivers = Peer(receivers, ours_path, str(count), words.hex())
        await trio.to_thread.run_sync(our_receivers.hear)
        while server.subscribers.count("system") < count:  # noqa: ASYNC110 - the server has no event for a bench
            await trio.sleep(0.05)
        their_sender = Peer(sender, theirs_path, str(count), frame.hex())
        their_sender.hear()
        their_receivers = Peer(receivers, theirs_path, str(count), "-")
        their_receivers.hear()
        their_sender.hear()
        ours_ms, theirs_ms = [], []
        for turn in range(ROUNDS):
            level = Level(1 + turn % 3)
            our_receivers.ask("arm")
            began_ns = time.monotonic_ns()
            server.broadcast(Broadcast("system", level, REASON, 6_247))
            ours_ms.append((int(our_receivers.hear()) - began_ns) / 1e6)
            their_receivers.ask("arm")
            began_ns = int(their_sender.ask("send"))
            theirs_ms.append((int(their_receivers.hear()) - began_ns) / 1e6)
        for peer in (our_receivers, their_sender, their_receivers):
            peer.close()
        nursery.cancel_scope.cancel()
    server.say_bye("done")
    os.unlink(ours_path)
    ratio = middle(ours_ms) / middle(theirs_ms)
    note = f"medians {middle(ours_ms):.2f} ms, C {middle(theirs_ms):.2f} ms"
    return Row(f"broadcast to {count:,} subscribers, against C", ratio, 1.3, "times", note)


def _serve(path: str) -> Server:
    def handle(client: Client, event: Event) -> None:
        if isinstance(event, Hello):
            client.reply(client.connection.send(Welcome(event.id, 1, "bench", False)))
        elif isinstance(event, Subscribe):
            server.subscribers.add(client, event.domain, event.domain, Propagation.LOCAL)
            client.reply(client.connection.send(Ok(event.id)))

    server = Server(
        bind_socket(path), handle, lambda client: None, lambda: time.monotonic_ns() // 1000
    )
    return server
