"""Run any program as an app: `lmkctl run`.

lmkctl starts the program, registers itself with it as one tree, and waits for its end; meanwhile a thread turns each
notice into a signal or a command, wakes what waits at $MEMORY_PRESSURE_WATCH, and answers by what came of that: how the
command ended, and how much less the program holds. The program knows nothing of it. Where there is no daemon, or none
yet, it runs all the same.

Whatever becomes of the messages, the program's standard streams, its terminal and its exit status are its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from lmkd_client import (
    App,
    Backoff,
    Client,
    ClosedClient,
    DaemonUnavailable,
    LmkdError,
    Notice,
    RequestRefused,
    connect,
    find_socket,
)
from lmkd_proto import LEVELS

from lmkd.ctl.given import Reaction
from lmkd.ctl.held import read_held_kib
from lmkd.ctl.pressure import KERNEL, OFF, WATCH, WokenProgram, choose, kernel_environment
from lmkd.ctl.result import printable

CANNOT_RUN, NOT_FOUND = 126, 127
"""As env, timeout and the shells say it."""
KILLED_BASE: Final = 128
NAME_MOST: Final = 64
FORWARDED: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
LEFT_TO_THE_TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT)
"""It sends them to the whole process group: the program has its own."""
LOOK_S: Final = 0.02
SPARE: Final = 0.8
"""The share of a deadline after which an answer must be on its way."""
DONE, NOTHING, UNSAID = "done", "nothing", ""
"""What is answered; UNSAID: what the program holds less then is all that is known."""
NOTHING_TO_FREE: Final = 1
"""The status of a command that says so."""

Say = Callable[[str], None]


def run_program(arguments: Namespace) -> int:
    """Run the program to its end; return its exit status."""
    if arguments.unit == "cgroup" and not arguments.in_scope:
        return _enter_scope(arguments)
    wanted = choose(arguments.memory_pressure, arguments.program[0])
    woken, variables = _open_pressure(wanted)
    try:
        return _run_to_its_end(arguments, woken, variables)
    finally:
        if woken is not None:
            woken.close()


def _run_to_its_end(
    arguments: Namespace, woken: WokenProgram | None, variables: Mapping[str, str]
) -> int:
    try:
        program = subprocess.Popen(arguments.program, env={**os.environ, **variables})
    except OSError as error:
        _say(f"{arguments.program[0]}: {error.strerror}")
        return NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN
    for number in FORWARDED:
        signal.signal(number, lambda received, _: program.send_signal(received))
    for number in LEFT_TO_THE_TERMINAL:
        signal.signal(number, lambda received, _: None)
    messenger = Messenger(program, arguments, woken, _say)
    messenger.start()
    status = program.wait()
    messenger.close()
    return status if status >= 0 else KILLED_BASE - status


def _open_pressure(wanted: str) -> tuple[WokenProgram | None, Mapping[str, str]]:
    """Return the socket at which the program is woken, if there is to be one, and what tells it of that."""
    if wanted == OFF:
        return None, {}
    if wanted == KERNEL:
        return None, kernel_environment()
    try:
        woken = WokenProgram(wanted, _say)
    except OSError as error:
        _say(f"no socket for {WATCH}: {error.strerror}")
        return None, {}
    return woken, woken.environment


def _enter_scope(arguments: Namespace) -> int:
    """Begin anew in a scope of systemd's, a cgroup of its own; returns only where that cannot be."""
    starter = shutil.which("systemd-run")
    if starter is None:
        _say("a cgroup of its own takes systemd-run, which is not here; --unit tree does without")
        return CANNOT_RUN
    manager = [] if os.geteuid() == 0 else ["--user"]
    again = [sys.executable, "-m", "lmkd.ctl", "run", "--in-scope", *arguments.again]
    try:
        os.execv(  # noqa: S606  # by argument list, as everywhere
            starter, [starter, *manager, "--scope", "--quiet", "--collect", "--", *again]
        )
    except OSError as error:
        _say(f"{starter}: {error.strerror}")
    return CANNOT_RUN


def _say(text: str) -> None:
    print(f"lmkctl: {printable(text)}", file=sys.stderr, flush=True)


def name_of(program: Sequence[str]) -> str:
    """Return what a program is called: the last part of its path, as a name may be."""
    name = "".join(each if each.isprintable() else "?" for each in Path(program[0]).name)
    return name[:NAME_MOST] or "program"


def reaction_to(level: str, reactions: Mapping[str, Reaction]) -> Reaction | None:
    """Return what is to be done at a level: what was given for it, or for the nearest one below, but for `normal`."""
    if level == "normal":
        return reactions.get(level)
    below = LEVELS[1 : LEVELS.index(level) + 1]
    return next((reactions[each] for each in reversed(below) if each in reactions), None)


class Messenger:
    """The thread that listens for a program, and answers for it."""

    def __init__(
        self,
        program: subprocess.Popen[bytes],
        arguments: Namespace,
        woken: WokenProgram | None,
        say: Say,
    ) -> None:
        self._program = program
        self._woken = woken
        self._reactions: Mapping[str, Reaction] = arguments.on
        self._name: str = arguments.name or name_of(arguments.program)
        self._class: str = arguments.app_class
        self._unit: str = arguments.unit
        self._sheddable_bytes: int = arguments.sheddable_kib << 10
        self._path: str = arguments.socket or find_socket()
        self._say = say
        self._closed = threading.Event()
        self._turn = threading.Lock()
        self._client: Client | None = None
        self._thread = threading.Thread(target=self._run, name="lmkd", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """Listen no more; returns soon, whatever a command still does."""
        self._closed.set()
        with self._turn:
            if self._client is not None:
                self._client.close()
        self._thread.join()

    # --- the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff, missed = Backoff(), False
        while not self._closed.is_set():
            since_ns = time.monotonic_ns()
            try:
                self._attend()
            except ClosedClient:
                return
            except RequestRefused as refused:
                self._say(f"{self._name} is not registered: {refused.message or refused.code}")
                return
            except (LmkdError, OSError) as error:
                if isinstance(error, DaemonUnavailable) and not missed:
                    self._say(
                        f"no lmkd at {error.path}: {self._name} runs, and is told as soon as there is one"
                    )
                missed = True
            lasted_ms = (time.monotonic_ns() - since_ns) // 1_000_000
            self._closed.wait(backoff.next_pause_ms(lasted_ms) / 1000)

    def _attend(self) -> None:
        with connect(self._path, name=self._name) as client:
            with self._turn:
                if self._closed.is_set():
                    return
                self._client = client
            try:
                app = client.register(
                    self._name, self._class, sheddable_bytes=self._sheddable_bytes, unit=self._unit
                )
                if app.grant.unit != self._unit:
                    self._say(
                        f"granted is unit {app.grant.unit}, not {self._unit}: that takes the controller"
                    )
                for notice in app.notices():
                    self._take(app, notice)
            finally:
                with self._turn:
                    self._client = None

    def _take(self, app: App, notice: Notice) -> None:
        reaction = reaction_to(notice.level, self._reactions)
        if notice.level == "normal":
            if reaction is not None:
                self._react(app, notice, reaction, 0)
            return
        before_kib = read_held_kib(self._program.pid)
        listens = self._woken is not None and self._woken.wake(notice.level)
        said = NOTHING
        if reaction is not None or listens:
            said = self._react(app, notice, reaction, before_kib)
        freed_kib = 0
        if said != NOTHING:
            freed_kib = max(before_kib - read_held_kib(self._program.pid), 0)
        # Who has freed nothing because nothing was asked has not said that there is nothing.
        if said == UNSAID and (freed_kib or notice.target_bytes == 0):
            said = DONE
        self._answer(app, notice, said or NOTHING, freed_kib << 10)

    def _react(self, app: App, notice: Notice, reaction: Reaction | None, before_kib: int) -> str:
        """Do what is to be done, until it is done or the time is over; return what a command says of it."""
        # An emergency and the end of it all have no deadline.
        time_ms = notice.deadline_ms or app.grant.grace_ms
        until = time.monotonic() + time_ms * SPARE / 1000
        if isinstance(reaction, str):
            return self._run_command(app, notice, reaction, until)
        if reaction is not None:
            self._program.send_signal(reaction)
        if notice.level != "normal":
            while not self._has_freed(before_kib, notice) and time.monotonic() < until:
                if self._closed.wait(LOOK_S):
                    break
        return UNSAID

    def _run_command(self, app: App, notice: Notice, command: str, until: float) -> str:
        told = {
            "LMKD_LEVEL": notice.level,
            "LMKD_TARGET_BYTES": str(notice.target_bytes),
            "LMKD_DEADLINE_MS": str(notice.deadline_ms),
            "LMKD_REASON": notice.reason,
            "LMKD_PID": str(self._program.pid),
        }
        running = subprocess.Popen(
            ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, env={**os.environ, **told}
        )
        extended = not notice.deadline_ms
        while running.poll() is None and not self._closed.is_set():
            if time.monotonic() >= until:
                if extended:
                    self._say(f"{command!r} takes longer than there is time")
                    return UNSAID
                extended = True
                self._answer(app, notice, "working", 0)
                until += app.grant.grace_ms * SPARE / 1000
            self._closed.wait(LOOK_S)
        status = running.poll()
        if status not in (None, 0, NOTHING_TO_FREE):
            self._say(f"{command!r} ended with status {status}")
        return DONE if status in (None, 0) else NOTHING

    def _has_freed(self, before_kib: int, notice: Notice) -> bool:
        freed_kib = before_kib - read_held_kib(self._program.pid)
        return freed_kib >= max(notice.target_bytes >> 10, 1)

    def _answer(self, app: App, notice: Notice, answer: str, freed_bytes: int) -> None:
        try:
            app.ack(notice, answer, freed_bytes)
        except RequestRefused:
            return  # a later notice has taken its place, and is on its way
