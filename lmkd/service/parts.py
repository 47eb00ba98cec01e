"""The parts of a running daemon, and what connects them: what the heart wants done, and what comes from outside.

How they come to be and go is for `daemon`.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import trio
from lmkd_proto import Killed

from lmkd.config import Config, ConfigError, Interop
from lmkd.kernel.locked import return_freed_memory
from lmkd.model import SYSTEM_DOMAIN, AppClass, Process, Unit, Victim
from lmkd.policy import actions, events, heart
from lmkd.policy.settings import DomainPolicy, Settings
from lmkd.replay.recorder import Recorder, Segment
from lmkd.service.births import Births, open_births
from lmkd.service.bridges import Bridges
from lmkd.service.engine import Engine
from lmkd.service.executor import Executor, Hand
from lmkd.service.journal import Journal
from lmkd.service.measuring import measure_apps
from lmkd.service.monitor import Monitor
from lmkd.service.projection import Projection
from lmkd.service.questions import Questions
from lmkd.service.ready import notify_manager, watchdog_interval_s
from lmkd.service.recordings import Recordings, open_recordings
from lmkd.service.relay import Relay
from lmkd.service.requests import Requests
from lmkd.service.roll import NEW_LOOKED_AT, Roll
from lmkd.service.server import Server
from lmkd.service.simulations import Simulations
from lmkd.service.watchdog import Watchdog

if TYPE_CHECKING:
    from lmkd.service.daemon import Daemon

log = logging.getLogger("lmkd")

CROWD = 64
"""So many clients fewer than there were, and it is worth to give back what malloc keeps of them: 5 MB of 500."""


class Parts:
    """The parts of a running daemon, and what connects them."""

    def __init__(
        self,
        daemon: Daemon,
        nursery: trio.Nursery,
        journal: Journal,
        hand: Hand,
        clerk: Hand,
        bridges: Bridges,
    ) -> None:
        self._daemon = daemon
        self._nursery = nursery
        self._journal = journal
        self._clerk = clerk
        self.bridges = bridges
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
        self.executor = Executor(
            kernel, self.engine, nursery, own_pid, hand, self._look, self._note_alive
        )
        self.monitor = Monitor(kernel, self.engine, nursery, self._looked, self._looking)
        alarm = kernel.open_alarm()
        self.watchdog = (
            None
            if alarm is None
            else Watchdog(kernel, alarm, own_pid, lambda: self.engine.state, self.roll)
        )
        self._read_us = kernel.now_us()
        session = daemon.session
        self.relay = (
            None
            if session is None
            else Relay(
                session.system_socket, self.engine.feed, hear_killed=self.hear_of_system_kill
            )
        )
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
            bridges=bridges.describe,
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
            trees=daemon.registered_trees,
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

    def start_watching_ourselves(self, nursery: trio.Nursery) -> None:
        """Have the watchdog look after the loop, and the service manager after both."""
        if self.watchdog is not None:
            self.watchdog.look()  # once here: what it needs is in memory then
            self.watchdog.start()
        interval_s = watchdog_interval_s()
        if interval_s is not None:
            nursery.start_soon(self._say_alive, interval_s)

    async def _say_alive(self, interval_s: float) -> None:
        """Tell the service manager that we are well, for as long as the system is read when it should be."""
        while True:
            owed_us = self.engine.wake_in_us(SYSTEM_DOMAIN) + int(interval_s * 2_000_000)
            if self._daemon.kernel.now_us() - self._read_us <= owed_us:
                notify_manager("WATCHDOG=1")
            await trio.sleep(interval_s)

    def leave(self) -> None:
        """Say bye to all, and put back what we changed, however it came that we leave."""
        notify_manager("STOPPING=1")
        gc.enable()
        if self.watchdog is not None:
            self.watchdog.close()
        self.births.close()
        self.monitor.close()
        self.server.say_bye("the daemon leaves")
        self.projection.restore_all()
        if self._in_episode():
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

    def _note_alive(self) -> None:
        """Say to the watchdog that this is slow work, and no hang."""
        if self.watchdog is not None:
            self.watchdog.note_alive()

    def _looking(self) -> None:
        """Before a reading is judged: what the watchdog did meanwhile, so that nobody dies for the stall of then."""
        if self.watchdog is not None:
            for killed in self.watchdog.take_killed():
                self.engine.feed(killed)

    def _looked(self) -> None:
        """The system was read: the roll is looked after in the same rhythm, and needs no timer of its own."""
        level = self.engine.state.domains[SYSTEM_DOMAIN].level
        self._read_us = self._daemon.kernel.now_us()
        if self.watchdog is not None:
            again_us = self.engine.wake_in_us(SYSTEM_DOMAIN)
            for killed in self.watchdog.beat(level, again_us):
                self.engine.feed(killed)
            fault, self.watchdog.fault = self.watchdog.fault, None
            if fault is not None:
                log.error("the watchdog had to give up a look: %s", fault)
        self.births.look_if_due(level)
        if self.server.peak - len(self.server) >= CROWD and not self._in_episode():
            self.server.peak = len(self.server)
            problem = return_freed_memory()
            if problem is not None:
                log.warning("memory is not locked any more: %s", problem)

    def hear_of_system_kill(self, word: Killed) -> None:
        """The system's daemon has ended somebody: where that was this user's, the bridges hear of it as of ours.

        Of a cgroup as a whole it says no pid, so whose that was is not known.
        """
        known, session = self.roll.recall(word.pid), self._daemon.session
        if session is None or known is None or known.process.uid != session.uid:
            return
        log.info("the system's lmkd has ended %s (pid %d): %s", word.name, word.pid, word.reason)
        process, app = known.process, known.app
        # It may have registered there, or here; who says that the user would miss it is right.
        own_class = known.classed.app_class if app is None else app.app_class
        victim = Victim(
            process.pid,
            process.start_ticks,
            word.name if app is None else app.name,
            max(own_class, AppClass[word.app_class.upper()]),
            "the system's lmkd",
            word.freed_bytes // 1024,
            Unit.PROCESS,
            process.cgroup,
        )
        self.bridges.take(actions.ReportKilled(word.domain, victim, word.reason, victim.size_kib))

    def parent_of(self, pid: int) -> Process | None:
        """Return the parent of a process, as far as the roll has it."""
        known = self.roll.recall(pid)
        parent = None if known is None else self.roll.recall(known.process.ppid)
        return None if parent is None else parent.process

    def _in_episode(self) -> bool:
        return any(domain.episode is not None for domain in self.engine.state.domains.values())

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
                self._note_alive()
                seen = self.roll.corrected(found)
                if action.small:
                    self.roll.look_for_new(NEW_LOOKED_AT)
                    apart = {process.pid for process in seen}
                    self._note_alive()
                    small = self.roll.small_ones(action.domain, action.min_size_kib, apart)
                    self._note_alive()
                    seen = (*seen, *small)
                self.engine.feed(events.ProcessesScanned(action.domain, seen))
            case actions.NoteSizes():
                self.engine.feed(
                    events.SizesNoted(action.domain, self.roll.note_sizes(action.domain))
                )
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
        # Last: our own clients, and the deed, come first.
        self.bridges.take(action)

    def _measure(self, action: actions.MeasureApps) -> None:
        known = self.engine.state.apps
        apps = (known[number] for number in action.apps if number in known)
        sizes = tuple(
            (app.app, size_kib)
            for app, size_kib in measure_apps(self._daemon.kernel, apps)
            if size_kib is not None
        )
        self.engine.feed(events.AppsMeasured(action.domain, sizes))

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
        if record.kind == "closed" and not self._in_episode():
            gc.enable()
        if record.kind == "opened":
            # A collection would be up to 5 ms of waiting. Neither the heart nor trio makes cycles (measured: none in
            # 5,000 readings), so there is nothing to collect either.
            gc.disable()
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
        self.monitor.follow(globs_of(settings))
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
            *_interop_keys(running.interop, config.interop),
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


def _interop_keys(running: Interop, read: Interop) -> Iterator[tuple[str, object, object]]:
    for key in fields(Interop):
        name = key.name.removesuffix("_us")
        yield f"interop.{name}", _shown(running, key.name), _shown(read, key.name)


def _shown(interop: Interop, key: str) -> str:
    """Return a value as the configuration has it."""
    value = getattr(interop, key)
    return str(value).lower() if isinstance(value, bool) else f"{value // 1000}ms"


def globs_of(settings: Settings) -> tuple[str, ...]:
    """Return what names the cgroups that are watched."""
    return tuple(entry.pattern for entry in settings.domains)
