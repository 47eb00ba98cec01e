"""A program in a scenario: it holds memory, may register, and does with notices what it was told to do.

It speaks the protocol through lmkd_proto alone, not through our client library, and writes a line of JSON for all
that happens to it, stamped with CLOCK_MONOTONIC, which all programs of the guest share.

What it holds is incompressible: copies of one random MiB. zram compresses page by page, so copies do not help it.
"""

import argparse
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from lmkd_proto import (
    Ack,
    Bye,
    ClientConnection,
    Error,
    Hello,
    Killed,
    KillWarning,
    Notice,
    Ok,
    Pressure,
    Register,
    Subscribe,
)

MIB = 1 << 20
PAGE = 4096


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def available_mib() -> int:
    with open("/proc/meminfo") as meminfo:
        return next(
            int(line.split()[1]) // 1024 for line in meminfo if line.startswith("MemAvailable")
        )


def say(what: str, **more: Any) -> None:
    sys.stdout.write(json.dumps({"t": now_ms(), "what": what, **more}) + "\n")
    sys.stdout.flush()


class Member:
    """One program."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.base = os.urandom(MIB)
        self.held: list[bytearray] = [bytearray(self.base) for _ in range(options.hold)]
        self.grown_at = time.monotonic()
        self.connection = ClientConnection()
        self.sock: socket.socket | None = None
        self.number = 10

    def connect(self) -> bool:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(self.options.socket)
        except OSError:
            return False
        self.sock, self.connection = sock, ClientConnection()
        send = self.connection.send
        sock.sendall(send(Hello(0, 1, self.options.name)))
        if self.options.subscribe:
            sock.sendall(send(Subscribe(1, self.options.subscribe)))
        if self.options.register:
            sheddable = (self.options.sheddable or self.options.hold) * MIB
            sock.sendall(
                send(
                    Register(
                        2, self.options.name, self.options.register, sheddable, self.options.unit
                    )
                )
            )
        return True

    def hear(self) -> None:
        assert self.sock is not None
        try:
            chunk = self.sock.recv(65536)
        except OSError:
            chunk = b""
        if not chunk:
            self.drop()
            return
        for event in self.connection.receive(chunk):
            if isinstance(event, Notice):
                say(
                    "notice",
                    notice=event.notice,
                    domain=event.domain,
                    level=event.level,
                    target_kib=event.target_bytes // 1024,
                    deadline_ms=event.deadline_ms,
                    emergency=event.emergency,
                    reason=event.reason,
                )
                self.answer(event)
            elif isinstance(event, KillWarning):
                say("kill_warning", time_to_exit_ms=event.time_to_exit_ms)
            elif isinstance(event, Pressure):
                say("pressure", domain=event.domain, level=event.level, reason=event.reason)
            elif isinstance(event, Killed):
                say("killed", name=event.name, pid=event.pid, app_class=event.app_class)
            elif isinstance(event, Error | Bye):
                say(event.type, text=str(event))
            elif isinstance(event, Ok) and event.id == 2:
                say("registered", **event.result)

    def drop(self) -> None:
        """The daemon is gone: say so, and look for it again."""
        assert self.sock is not None
        say("disconnected")
        self.sock.close()
        self.sock = None

    def answer(self, notice: Notice) -> None:
        if not self.options.shed or notice.level == "normal" or self.sock is None:
            return
        blocks = min(-(-notice.target_bytes // MIB), len(self.held))
        if blocks:
            del self.held[-blocks:]
        self.number += 1
        answer = "done" if blocks else "nothing"
        self.sock.sendall(
            self.connection.send(Ack(self.number, notice.notice, answer, blocks * MIB))
        )
        say("shed", mib=blocks, left=len(self.held))

    def grow(self) -> None:
        """Take what the rate asks for since the last time, and touch a little of what is held."""
        now = time.monotonic()
        due = int((now - self.grown_at) * self.options.grow)
        due = min(due, self.options.most - len(self.held))
        if self.options.until_available and available_mib() - due < self.options.until_available:
            due = 0
            self.grown_at = now
        if due > 0:
            self.grown_at += due / self.options.grow
            self.held.extend(bytearray(self.base) for _ in range(due))
            if len(self.held) >= self.options.most:
                say("full", held=len(self.held))
        for block in self.held[:: max(len(self.held) // 8, 1)]:
            block[0] = 1

    def sweep(self) -> None:
        """Use all that is held, as a program in the foreground does."""
        began = time.monotonic_ns()
        for block in self.held:
            bytes(memoryview(block)[::PAGE])
        took_ms = (time.monotonic_ns() - began) // 1_000_000
        if took_ms >= 200:
            say("slow", ms=took_ms)

    def run(self) -> None:
        options = self.options
        tick_s = 0.05 if options.sweep or options.grow else 0.5
        say("started", pid=os.getpid(), held=len(self.held))
        started = time.monotonic()
        while True:
            if self.sock is None and (options.register or options.subscribe) and self.connect():
                say("connected")
            ready = select.select([self.sock] if self.sock else [], [], [], tick_s)[0]
            if ready:
                try:
                    self.hear()
                except BrokenPipeError:  # the daemon died between its notice and our answer
                    self.drop()
            if options.grow and time.monotonic() - started >= options.grow_after:
                self.grow()
            else:
                self.grown_at = time.monotonic()
            if options.sweep:
                self.sweep()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--register", metavar="CLASS")
    parser.add_argument("--unit", default="process")
    parser.add_argument("--subscribe", metavar="DOMAIN")
    parser.add_argument("--hold", type=int, default=0, metavar="MIB")
    parser.add_argument("--sheddable", type=int, metavar="MIB")
    parser.add_argument("--shed", action="store_true")
    parser.add_argument("--grow", type=int, default=0, metavar="MIB_A_SECOND")
    parser.add_argument(
        "--most", type=int, default=10_000, metavar="MIB", help="where growing ends"
    )
    parser.add_argument(
        "--until-available", type=int, metavar="MIB", help="grow while more is available"
    )
    parser.add_argument("--grow-after", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--adj", type=int)
    parser.add_argument("--cgroup", metavar="PATH")
    options = parser.parse_args()
    if options.cgroup:
        with open(f"/sys/fs/cgroup{options.cgroup}/cgroup.procs", "w") as procs:
            procs.write("0")
    if options.adj is not None:
        with open("/proc/self/oom_score_adj", "w") as adj:
            adj.write(str(options.adj))
    if options.ignore_term:
        signal.signal(signal.SIGTERM, lambda *_: say("sigterm"))
    Member(options).run()


if __name__ == "__main__":
    main()
