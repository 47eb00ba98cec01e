"""The daemon: the parts, put together, from start to leave.

What may fail at start fails before anything is touched: configuration and socket first. Once it runs, nothing ends
it but a signal: one client's failure ends that client, a vanished cgroup ends that watch.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace

import trio

import lmkd
from lmkd.config import Config
from lmkd.kernel.heap import return_large_blocks
from lmkd.kernel.interface import Kernel
from lmkd.kernel.locked import lock_memory, raise_priority, release_unused_libraries
from lmkd.kernel.rehearsed import RehearsedKernel
from lmkd.model import Process
from lmkd.peers import read_credentials
from lmkd.policy.events import Event
from lmkd.replay.recording import encode_recording
from lmkd.service.bridges import Bridges, Grounds, open_bridges
from lmkd.service.executor import Hand
from lmkd.service.journal import Journal, open_journal
from lmkd.service.listening import remove_socket
from lmkd.service.parts import Parts, globs_of
from lmkd.service.ready import notify_manager
from lmkd.service.rehearsal import PATIENCE_S, Rehearsal, in_silence
from lmkd.service.scribe import logged_by
from lmkd.service.server import Credentials

log = logging.getLogger("lmkd")

OWN_OOM_SCORE_ADJ = -1000
HOOK_FOLDER = "/run/systemd/oomd.prekill.hook"
"""Of systemd 260 (oomd.conf(5), PREKILL EVENT)."""


def settle_down(kernel: Kernel) -> None:
    """Make this process the last to go, and what it has allocated so far permanent."""
    me = kernel.process(os.getpid())
    if me is not None:
        try:
            kernel.set_oom_score_adj(me.pid, me.start_ticks, OWN_OOM_SCORE_ADJ)
        except PermissionError:
            log.warning("no CAP_SYS_RESOURCE: this daemon's own oom_score_adj stays as it is")
    release_unused_libraries()
    problem = lock_memory()
    if problem is not None:
        log.warning(
            "memory is not locked (%s): under pressure this daemon may have to wait", problem
        )
    problem = raise_priority()
    if problem is not None:
        log.warning("no real-time priority (%s): busy processors may delay this daemon", problem)
    gc.collect()
    gc.freeze()  # a full collection then takes 0.08 ms instead of 4.6 (FACTS)


def raise_fd_limit() -> None:
    """Allow ourselves as many descriptors as the hard limit does: each client is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@dataclass(frozen=True, slots=True)
class Session:
    """One user's session: only that user's processes, in that user's part of the cgroups."""

    uid: int
    domain: str | None
    """The cgroup that is the user's to divide; None: there is none."""
    system_socket: str
    """Where the system's daemon would be listening; its levels are relayed while it does."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """What a daemon is made from. `load` reads the configuration again; it raises ConfigError."""

    kernel: Kernel
    config: Config
    load: Callable[[], Config]
    listener: socket.socket
    socket_path: str | None
    """Removed when we leave; None for a socket that was passed to us."""
    dry_run: bool = False
    state_dir: str | None = None
    """Where history is kept; None: in memory only."""
    registered: set[tuple[int, int]] = field(default_factory=set)
    """Filled with the identities of all registered programs, for a kernel that knows no others."""
    registered_trees: set[tuple[int, int]] = field(default_factory=set)
    """Those of them that registered with all that they start."""
    credentials: Credentials = read_credentials
    """Says which process is at the other end of a connection."""
    make_hand: Callable[[str], Hand] = Hand
    prepare: Callable[[Kernel], None] = settle_down
    """Done once, when all the rest is ready."""
    session: Session | None = None
    """What is different for one user's session; None: this is the system's daemon."""
    hook_folder: str = HOOK_FOLDER
    """Where systemd-oomd looks for its hooks."""
    rehearses: bool = True
    """Whether an episode is played at the start, so that the first real one finds its code in memory."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until SIGTERM or SIGINT, then say bye to all."""
        raise_fd_limit()
        return_large_blocks()
        inode = os.stat(self.socket_path).st_ino if self.socket_path is not None else 0
        keep = self.config.history_episodes
        journal = (
            Journal(None, keep) if self.state_dir is None else open_journal(self.state_dir, keep)
        )
        with ExitStack() as leaving:
            leaving.enter_context(logged_by(self.make_hand("lmkd-log")))
            leaving.callback(log.info, "left")
            leaving.callback(journal.close)
            # Two: to take a victim's memory back must not wait for the disk.
            hand, clerk = self.make_hand("lmkd-hand"), self.make_hand("lmkd-clerk")
            leaving.callback(clerk.finish)
            leaving.callback(hand.finish)
            async with trio.open_nursery() as nursery:
                # What a bridge has heard or asks comes only once it runs, and then there are parts.
                grounds = self._grounds(
                    clerk,
                    lambda event: parts.engine.feed(event),
                    lambda pid: parts.parent_of(pid),
                )
                bridges = open_bridges(grounds)
                leaving.callback(bridges.close)
                parts = Parts(self, nursery, journal, hand, clerk, bridges)
                leaving.callback(parts.leave)
                # Loads pyroute2, perhaps: before memory is locked, and before anybody is told that we are ready.
                parts.births.start(nursery)
                if self.socket_path is not None:
                    # While it still answers: once it does not, another daemon may take its place, inode and all.
                    leaving.callback(remove_socket, self.socket_path, inode)
                # From here on SIGHUP no longer ends us, and who hears READY may send it.
                await nursery.start(parts.obey_signals, nursery.cancel_scope)
                if self.rehearses:
                    # Before anything else runs: what it says is not written.
                    await self._rehearse(hand, clerk)
                nursery.start_soon(parts.server.serve)
                if parts.relay is not None:
                    nursery.start_soon(parts.relay.run)
                parts.monitor.follow(globs_of(parts.engine.state.settings))
                bridges.start(nursery)
                parts.start_watching_ourselves(nursery)
                self.prepare(self.kernel)
                task_status.started()
                place = self.socket_path or "the socket that was passed"
                log.info("lmkd %s ready, listening at %s", lmkd.__version__, place)
                notify_manager("READY=1")

    def _grounds(
        self,
        clerk: Hand,
        feed: Callable[[Event], None],
        parent_of: Callable[[int], Process | None],
    ) -> Grounds:
        return Grounds(
            self.config,
            self.kernel,
            self.socket_path or self.config.socket,
            self.session is not None,
            feed,
            self.hook_folder,
            clerk.do,
            parent_of,
        )

    async def _rehearse(self, hand: Hand, clerk: Hand) -> None:
        """Play an episode with parts like ours, on a kernel in which nothing happens; whatever fails, we go on."""
        try:
            with trio.move_on_after(PATIENCE_S) as patience, in_silence():
                await self.play_episode(hand, clerk)
        except Exception as error:
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            log.warning("the rehearsal of an episode failed: %s: %s", type(error).__name__, error)
        else:
            if patience.cancelled_caught:
                log.warning("the rehearsal of an episode took over %d s: it was ended", PATIENCE_S)

    async def play_episode(self, hand: Hand, clerk: Hand) -> Rehearsal:
        """Play it, and return the stage as it was left."""
        kernel = RehearsedKernel(self.kernel)
        with closing(Rehearsal(kernel)) as rehearsal:
            understudy = replace(
                self,
                kernel=kernel,
                listener=rehearsal.listener,
                socket_path=None,
                state_dir=None,
                registered=set(),
                registered_trees=set(),
                session=None,
                credentials=read_credentials,
            )
            async with trio.open_nursery() as nursery:
                parts = Parts(understudy, nursery, Journal(None, 1), hand, clerk, Bridges())
                nursery.start_soon(parts.server.serve)
                await rehearsal.play(parts.engine)
                segment = parts.recorder.snapshot()
                if segment is not None:
                    encode_recording(segment)
                nursery.cancel_scope.cancel()
            parts.server.say_bye("the rehearsal is over")
        return rehearsal
