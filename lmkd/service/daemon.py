"""The daemon: the parts, put together, from start to leave.

What may fail at start fails before anything is touched: configuration and socket first. Once it runs, nothing ends
it but a signal: one client's failure ends that client, a vanished cgroup ends that watch.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace

import trio

import lmkd
from lmkd.config import Config, ConfigError
from lmkd.kernel.interface import Kernel
from lmkd.kernel.locked import lock_memory, raise_priority, release_unused_libraries
from lmkd.kernel.rehearsed import RehearsedKernel
from lmkd.model import SYSTEM_DOMAIN, Process
from lmkd.policy import actions, events, heart
from lmkd.policy.settings import DomainPolicy, Settings
from lmkd.replay.recorder import Recorder, Segment
from lmkd.replay.recording import encode_recording
from lmkd.service.births import Births, open_births
from lmkd.service.engine import Engine
from lmkd.service.executor import Executor, Hand
from lmkd.service.journal import Journal, open_journal
from lmkd.service.listening import read_credentials, remove_socket
from lmkd.service.monitor import Monitor
from lmkd.service.projection import Projection
from lmkd.service.questions import Questions
from lmkd.service.ready import notify_manager
from lmkd.service.recordings import Recordings, open_recordings
from lmkd.service.rehearsal import PATIENCE_S, Rehearsal, in_silence
from lmkd.service.relay import Relay
from lmkd.service.requests import Requests
from lmkd.service.roll import Roll
from lmkd.service.server import Credentials, Server
from lmkd.service.simulations import Simulations

log = logging.getLogger("lmkd")

OWN_OOM_SCORE_ADJ = -1000


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
    credentials: Credentials = read_credentials
    """Says which process is at the other end of a connection."""
    make_hand: Callable[[str], Hand] = Hand
    prepare: Callable[[Kernel], None] = settle_down
    """Done once, when all the rest is ready."""
    session: Session | None = None
    """What is different for one user's session; None: this is the system's daemon."""
    rehearses: bool = True
    """Whether an episode is played at the start, so that the first real one finds its code in memory."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until SIGTERM or SIGINT, then say bye to all."""
        raise_fd_limit()
        inode = os.stat(self.socket_path).st_ino if self.socket_path is not None else 0
        keep = self.config.history_episodes
        journal = (
            Journal(None, keep) if self.state_dir is None else open_journal(self.state_dir, keep)
        )
        with ExitStack() as leaving:
            leaving.callback(journal.close)
            # Two: to take a victim's memory back must not wait for the disk.
            hand, clerk = self.make_hand("lmkd-hand"), self.make_hand("lmkd-clerk")
            leaving.callback(clerk.finish)
            leaving.callback(hand.finish)
            async with trio.open_nursery() as nursery:
                parts = _Parts(self, nursery, journal, hand, clerk)
                leaving.callback(parts.leave)
                # Loads pyroute2, perhaps: before memory is locked, and before anybody is told that we are ready.
                parts.births.start(nursery)
                if self.socket_path is not None:
                    # While it still answers: once it does not, another daemon may take its place, inode and all.
                    leaving.callback(remove_socket, self.socket_path, inode)
                # From here on SIGHUP no longer ends us, and who hears READY may send it.
                await nursery.start(parts.obey_signals, nursery.cancel_scope)
                nursery.start_soon(parts.server.serve)
                if parts.relay is not None:
                    nursery.start_soon(parts.relay.run)
                if self.rehearses:
                    await self._rehearse(hand, clerk)
                parts.monitor.follow(_globs(parts.engine.state.settings))
                self.prepare(self.kernel)
                task_status.started()
                place = self.socket_path or "the socket that was passed"
                log.info("lmkd %s ready, listening at %s", lmkd.__version__, place)
                notify_manager("READY=1")
        log.info("left")

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
                session=None,
                credentials=read_credentials,
            )
            async with trio.open_nursery() as nursery:
                parts = _Parts(understudy, nursery, Journal(None, 1), hand, clerk)
                nursery.start_soon(parts.server.serve)
                await rehearsal.play(parts.engine)
                segment = parts.recorder.snapshot()
                if segment is not None:
                    encode_recording(segment)
                nursery.cancel_scope.cancel()
            parts.server.say_bye("the rehearsal is over")
        return rehearsal


class _Parts:
    """The parts of a running daemon, and what connects them."""

    def __init__(
        self, daemon: Daemon, nursery: trio.Nursery, journal: Journal, hand: Hand, clerk: Hand
    ) -> None:
        self._daemon = daemon
        self._nursery = nursery
        self._journal = journal
        self._clerk = clerk
        kernel, config = daemon.kernel, daemon.config
        own_pid = os.getpid()
        settings = self._settings(config)
        state = heart.start(settings, own_pid, journal.last_episode + 1, journal.last_kill + 1)
        self.recorder = Recorder(state, config.recording_most_kib * 1024)
        self.recordings: Recordings = open_recordings(daemon.state_dir, config.recordings)
        self.engine = Engine(state, kernel.now_us, self.perform, self.recorder, self._save)
        self.projection = Projection(kernel, daemon.state_dir, clerk.do)
        self.roll = Roll(kernel, self.projection, settings, own_pid, kernel.now_us, config.project)
        self.births: Births = open_births(kernel, self.roll, config)
        self.executor = Executor(kernel, self.engine, nursery, own_pid, hand, self._look)
        self.monitor = Monitor(kernel, self.engine, nursery, self._looked)
        session = daemon.session
        self.relay = None if session is None else Relay(session.system_socket, self.engine.feed)
        self.questions = Questions(
            engine=self.engine,
            kernel=kernel,
            journal=journal,
            projection=self.projection,
            roll=self.roll,
            own_pid=own_pid,
            config=config,
            process_events=self.births.source,
            clients=lambda: len(self.server),
            relayed_from=lambda: None if self.relay is None else self.relay.source,
            started_us=kernel.now_us(),
        )
        self.requests = Requests(
            engine=self.engine,
            kernel=kernel,
            roll=self.roll,
            questions=self.questions,
            recordings=self.recordings,
            own_uid=os.geteuid(),
            simulations=Simulations(self.engine, self._later),
            reload=self.reload,
            save_recording=self._save_recording,
            registered=daemon.registered,
        )
        self.server = Server(
            daemon.listener,
            self.requests.handle,
            self.requests.forget,
            kernel.now_us,
            daemon.credentials,
            wanted=self.monitor.want,
        )
        self.requests.server = self.server

    def leave(self) -> None:
        """Say bye to all, and put back what we changed, however it came that we leave."""
        notify_manager("STOPPING=1")
        self.births.close()
        self.monitor.close()
        self.server.say_bye("the daemon leaves")
        self.projection.restore_all()
        if any(domain.episode is not None for domain in self.engine.state.domains.values()):
            self._save_recording()

    def _settings(self, config: Config) -> Settings:
        """Return the settings as they are for this daemon: what it was started with is not in any file."""
        session, dry_run = self._daemon.session, self._daemon.dry_run
        settings = replace(config.settings, dry_run=dry_run)
        if session is None:
            return settings
        settings = replace(settings, own_uid=session.uid)
        if session.domain is None:
            return settings
        own = DomainPolicy(session.domain, replace(settings, domains=()))
        return replace(settings, domains=(*settings.domains, own))

    def _look(self, pid: int) -> Process | None:
        known = self.roll.look(pid)
        return None if known is None else known.process

    def _looked(self) -> None:
        """The system was read: the roll is looked after in the same rhythm, and needs no timer of its own."""
        self.births.look_if_due(self.engine.state.domains[SYSTEM_DOMAIN].level)

    # --- what the heart wants done ---------------------------------------------------------------------

    def perform(self, action: actions.Action) -> None:
        """Carry out one action, and say it on the log where a person would want to know."""
        match action:
            case actions.Notify():
                self.server.notify(action)
            case actions.Broadcast():
                self.server.broadcast(action)
                log.info("%s: %s: %s", action.domain, action.level.word, action.reason)
            case actions.MeasureApps():
                self._measure(action)
            case actions.ScanProcesses():
                details = self.engine.state.settings.rules.details
                found = self._daemon.kernel.scan(action.domain, action.min_size_kib, details)
                seen = self.roll.corrected(found)
                self.engine.feed(events.ProcessesScanned(action.domain, seen))
            case actions.SendSignal():
                # First the deed: whoever reads our log may be stalled as well.
                self.executor.signal(action)
                victim = action.victim
                log.warning(
                    "%s: %s to %s (pid %d, %s, %d KiB)",
                    action.domain,
                    action.signal.value,
                    victim.name,
                    victim.pid,
                    victim.app_class.word,
                    victim.size_kib,
                )
            case actions.WarnKill():
                self.server.warn(action)
            case actions.ReleaseVictim():
                self.executor.release(action.kill)
            case actions.ReportKilled():
                self.server.report(action)
                log.warning("%s: %s ended: %s", action.domain, action.victim.name, action.reason)
            case actions.RaiseAlarm():
                log.critical("%s: %s", action.domain, action.reason)
            case actions.Record():
                self._keep(action)

    def _measure(self, action: actions.MeasureApps) -> None:
        sizes = []
        for number in action.apps:
            app = self.engine.state.apps.get(number)
            size = self._daemon.kernel.size_kib(app.pid, app.start_ticks) if app else None
            if size is not None:
                sizes.append((number, size))
        self.engine.feed(events.AppsMeasured(action.domain, tuple(sizes)))

    def _keep(self, record: actions.Record) -> None:
        if record.kind == "would_kill":
            log.warning(
                "%s: dry run: would end %s (pid %s, %s): %s",
                record.domain,
                record.detail["name"],
                record.detail["pid"],
                record.detail["class"],
                record.detail["reason"],
            )
        over = self._journal.add(record)
        if over is not None:
            self._clerk.do(lambda: self._journal.write(over))
        if record.kind == "opened":
            known = tuple(known.process for known in self.roll.known.values())
            self.recorder.note_processes(record.at_us, known)

    def _save(self, segment: Segment) -> None:
        self._clerk.do(lambda: self.recordings.write(segment))

    def _save_recording(self) -> str | None:
        """Save what is in memory now; return where, None where there is nothing yet or nowhere to keep it."""
        segment = self.recorder.snapshot()
        return None if segment is None else self.recordings.write(segment)

    # --- what comes from outside -----------------------------------------------------------------------

    async def obey_signals(
        self,
        scope: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """SIGHUP reloads; SIGTERM and SIGINT leave."""
        with trio.open_signal_receiver(signal.SIGHUP, signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                if number != signal.SIGHUP:
                    scope.cancel()
                    return
                self.reload()

    def reload(self) -> str | None:
        """Read the configuration again; return what is wrong with it, and keep the old policy then."""
        try:
            config = self._daemon.load()
        except ConfigError as error:
            self.questions.reload_problem = str(error)
            log.error("configuration kept as it was; the new one has mistakes:\n%s", error)
            return str(error)
        self.questions.reload_problem = None
        self.questions.config = config
        for line in self._fixed_differences(config):
            log.warning("%s", line)
        settings = self._settings(config)
        self.engine.feed(events.SettingsChanged(settings))
        self.roll.follow(settings, config.project)
        self.requests.follow_rules()
        self.births.scan_every_us = config.scan_every_us
        self.monitor.follow(_globs(settings))
        for warning in config.warnings:
            log.warning("%s", warning)
        log.info("configuration read again: %s", ", ".join(config.files))
        return None

    def _fixed_differences(self, config: Config) -> list[str]:
        """Say which settings differ from what runs and cannot change while it does.

        What the command line or a service manager gave instead of them has no say in that, before or after.
        """
        running = self._daemon.config
        fixed: list[tuple[str, object, object]] = [
            ("service.history_episodes", running.history_episodes, config.history_episodes),
            ("process_events.source", running.process_events, config.process_events),
            ("recording.episodes", running.recordings, config.recordings),
            ("recording.most", running.recording_most_kib, config.recording_most_kib),
        ]
        if self._daemon.socket_path == running.socket:
            fixed.append(("service.socket", running.socket, config.socket))
        if self._daemon.state_dir == running.state_dir:
            fixed.append(("service.state_dir", running.state_dir, config.state_dir))
        return [
            f"{key} is {new} in the configuration now: that takes a restart; until then it stays {old}"
            for key, old, new in fixed
            if old != new
        ]

    def _later(self, seconds: float, do: Callable[[], None]) -> Callable[[], None]:
        scope = trio.CancelScope()

        async def wait() -> None:
            with scope:
                await trio.sleep(seconds)
                do()

        self._nursery.start_soon(wait)
        return scope.cancel


def _globs(settings: Settings) -> tuple[str, ...]:
    """Return what names the cgroups that are watched."""
    return tuple(entry.pattern for entry in settings.domains)
