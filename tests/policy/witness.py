"""A witness of all that the heart says, who holds it against the invariants of DESIGN.md.

It keeps its own books from the events and actions alone. Of the heart's state it reads only the level and the
judgement of a domain, which are what the invariants speak of. Each invariant is a method named by its number.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmkd.model import (
    SYSTEM_DOMAIN,
    Answer,
    App,
    AppClass,
    Level,
    Process,
    Signal,
    Unit,
    is_within,
)
from lmkd.policy import actions, events, heart
from lmkd.policy.classify import classify
from lmkd.policy.detect import DETECTORS, Finding
from lmkd.policy.window import GAP_US, KEEP_US, Window

from .scenes import BOX, OWN_PID
from .world import World

Identity = tuple[int, int]
REMEMBERED_US = 4 * KEEP_US


class Witness:
    """Sees every event and every action, and asserts what must hold of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.settings = world.settings
        self.apps: dict[int, App] = {}
        self.notices: dict[tuple[int, str], actions.Notify] = {}
        """The last real notice to an app, by domain."""
        self.deadlines: dict[tuple[int, str], int] = {}
        self.told_before_us: dict[tuple[int, str, Level], int] = {}
        """The same for a program that left and is back under another number: its words may still rest."""
        self.numbers: dict[tuple[int, int], int] = {}
        self.extended: set[int] = set()
        self.given: dict[int, tuple[int, int]] = {}
        """By number of a notice: when it was first given, and its deadline."""
        self.heard: dict[tuple[int, str], Level] = {}
        self.told_us: dict[tuple[int, str, Level], int] = {}
        self.simulated_until_us: dict[int, int] = {}
        self.in_flight: dict[str, actions.SendSignal] = {}
        self.term_us: dict[str, int] = {}
        self.ended_us: dict[str, int] = {}
        self.read_us: dict[str, int] = {}
        self.history: dict[str, Window] = {}
        self.held: dict[str, dict[str, Level]] = {}
        self.held_before: dict[str, dict[str, Level]] = {}
        self.failed: dict[str, set[Identity]] = {}
        self.kills = 0
        self.broken = False
        """Whether an invariant was broken; what is seen after that means nothing."""
        world.observers.append(self.see)

    @property
    def now_us(self) -> int:
        return self.world.now_us

    def see(self, event: events.Event, out: tuple[actions.Action, ...]) -> None:
        self.broken = True  # until all of it was seen to hold
        self._note_event(event)
        for action in out:
            match action:
                case actions.Notify():
                    self.invariant_9_one_notice_per_level_and_rest(action)
                    self._note_notice(action)
                case actions.SendSignal(signal=Signal.TERM):
                    assert isinstance(event, events.ProcessesScanned)
                    self._see_term(event, action)
                case actions.SendSignal():
                    self.invariant_1_never_signalled(action)
                    self.invariant_3_one_kill_in_flight(action)
                    self.invariant_4_no_time_promised_after_sigterm(action)
                case actions.ReleaseVictim(domain, kill):
                    assert self.in_flight[domain].kill == kill
                    self._note_failure(domain)
                case _:
                    pass
        if isinstance(event, events.ReadingTaken):
            self.invariant_8_every_detector_sees_every_reading(event)
            self.invariant_9_the_last_word_is_the_present_level(event.reading.domain)
            self.it_never_spins(event.reading.domain)
            if self.world.state.domains[event.reading.domain].level is Level.NORMAL:
                self.failed[event.reading.domain] = set()
        self.broken = False

    def _see_term(self, scan: events.ProcessesScanned, sent: actions.SendSignal) -> None:
        self.kills += 1
        self.invariant_1_never_signalled(sent)
        self.invariant_1_nor_is_anything_in_the_same_cgroup(scan, sent)
        self.invariant_3_one_kill_in_flight(sent)
        self.invariant_3_measured_again_before_the_next(sent)
        self.invariant_4_not_before_the_deadline(sent)
        self.invariant_4_nor_of_any_app_in_its_tree(scan, sent)
        self.invariant_5_not_when_the_level_has_fallen(sent)
        self.invariant_6_no_lower_class_holds_a_victim(scan, sent)
        self.invariant_7_inside_the_subtree(sent)
        self.in_flight[sent.domain] = sent
        self.term_us[sent.domain] = self.now_us

    # --- the invariants ------------------------------------------------------------------------------------------

    def invariant_1_never_signalled(self, sent: actions.SendSignal) -> None:
        program = self.world.programs.get(sent.victim.pid)
        if program is None or program.identity != (sent.victim.pid, sent.victim.start_ticks):
            return  # it is gone: whoever signals sees that
        assert not self._is_exempt(program.as_process())

    def invariant_1_nor_is_anything_in_the_same_cgroup(
        self, scan: events.ProcessesScanned, sent: actions.SendSignal
    ) -> None:
        if sent.victim.unit is Unit.CGROUP:
            members = [one for one in scan.processes if is_within(one.cgroup, sent.victim.cgroup)]
            assert not any(self._is_exempt(member) for member in members)

    def invariant_3_one_kill_in_flight(self, sent: actions.SendSignal) -> None:
        before = self.in_flight.get(sent.domain)
        if sent.signal is Signal.TERM:
            assert before is None
        else:
            assert before is not None
            assert (before.kill, before.victim) == (sent.kill, sent.victim)

    def invariant_3_measured_again_before_the_next(self, sent: actions.SendSignal) -> None:
        assert self.read_us[sent.domain] >= self.ended_us.get(sent.domain, 0)

    def invariant_4_not_before_the_deadline(self, sent: actions.SendSignal) -> None:
        app = self._app_of(sent.victim.pid, sent.victim.start_ticks)
        if app is None:
            return
        last = self.notices.get((app.app, sent.domain))
        assert last is not None
        said_zero = last.emergency and last.deadline_us <= self.now_us
        deadlines = [until for (number, _), until in self.deadlines.items() if number == app.app]
        judgement = self.world.state.domains[sent.domain].judgement
        assert judgement is not None
        if said_zero:
            assert judgement.emergency
        else:
            assert max(deadlines) <= self.now_us

    def invariant_4_nor_of_any_app_in_its_tree(
        self, scan: events.ProcessesScanned, sent: actions.SendSignal
    ) -> None:
        """Whoever dies with another has its own deadline all the same, or was told that there is none left."""
        if sent.victim.unit is not Unit.TREE:
            return
        judgement = self.world.state.domains[sent.domain].judgement
        assert judgement is not None
        for process in self._tree(sent.victim.pid, scan.processes):
            app = self._app_of(process.pid, process.start_ticks)
            if app is None or process.cgroup != sent.victim.cgroup or self._is_exempt(process):
                continue
            deadlines = [
                until for (number, _), until in self.deadlines.items() if number == app.app
            ]
            assert judgement.emergency or max(deadlines) <= self.now_us

    def _tree(self, root: int, processes: Sequence[Process]) -> list[Process]:
        """Return a process and all below it, by what each says of its parent."""
        pids, before = {root}, 0
        while len(pids) > before:
            before = len(pids)
            pids |= {one.pid for one in processes if one.ppid in pids}
        return [one for one in processes if one.pid in pids]

    def invariant_4_no_time_promised_after_sigterm(self, sent: actions.SendSignal) -> None:
        app = self._app_of(sent.victim.pid, sent.victim.start_ticks)
        if app is None:
            return
        since_us = self.term_us[sent.domain]
        for (number, domain), until_us in self.deadlines.items():
            told_us = max(
                (at for (n, d, _), at in self.told_us.items() if (n, d) == (number, domain)),
                default=0,
            )
            if number == app.app and told_us > since_us:
                assert until_us <= self.now_us

    def invariant_5_not_when_the_level_has_fallen(self, sent: actions.SendSignal) -> None:
        """The level of the last reading, not the one that is held: who shed in time has its reward at once."""
        findings = self._findings(sent.domain, self.held_before[sent.domain])
        asked = max((finding.level for finding in findings), default=Level.NORMAL)
        judgement = self.world.state.domains[sent.domain].judgement
        if judgement is not None and judgement.emergency and findings:
            asked = Level.CRITICAL
        killed_at = self.settings.classes[sent.victim.app_class].killed_at
        assert killed_at is not None
        assert asked >= killed_at

    def invariant_6_no_lower_class_holds_a_victim(
        self, scan: events.ProcessesScanned, sent: actions.SendSignal
    ) -> None:
        judgement = self.world.state.domains[sent.domain].judgement
        assert judgement is not None
        total_kib = self.history[sent.domain][-1].total_kib
        least_kib = self.settings.min_victim_kib(total_kib)
        inside = [one for one in scan.processes if is_within(one.cgroup, sent.domain)]
        ending = {(one.victim.pid, one.victim.start_ticks) for one in self.in_flight.values()}
        # Who is in a tree goes with it; what a tree is worth is for the tables of test_groups.
        spoken_for: set[int] = {
            member.pid
            for app in self.apps.values()
            if app.unit is Unit.TREE
            for member in self._tree(app.pid, inside)
        }
        units: list[tuple[AppClass, Identity, int]] = []
        for process in inside:
            members = self._members(process, inside)
            if members is not None and process.pid not in spoken_for:
                app_class = max(self._class_of(member) for member in members)
                size_kib = sum(member.size_kib for member in members)
                units.append((app_class, (process.pid, process.start_ticks), size_kib))
                spoken_for.update(member.pid for member in members)
        units.extend(
            (self._class_of(one), (one.pid, one.start_ticks), one.size_kib)
            for one in inside
            if one.pid not in spoken_for and not self._is_exempt(one)
        )
        for app_class, identity, size_kib in units:
            killed_at = self.settings.classes[app_class].killed_at
            if app_class < sent.victim.app_class and killed_at is not None:
                assert (
                    size_kib < least_kib
                    or judgement.level < killed_at
                    or identity in ending
                    or identity in self.failed.get(sent.domain, set())
                )

    def invariant_7_inside_the_subtree(self, sent: actions.SendSignal) -> None:
        assert is_within(sent.victim.cgroup, sent.domain)

    def invariant_8_every_detector_sees_every_reading(self, event: events.ReadingTaken) -> None:
        """Judged from the whole history, not from what the heart kept, each detector says the same."""
        domain = event.reading.domain
        judgement = self.world.state.domains[domain].judgement
        assert judgement is not None
        expected = self._findings(domain, self.held.get(domain, {}))
        assert sorted(judgement.findings, key=repr) == sorted(expected, key=repr)
        self.held_before[domain] = self.held.get(domain, {})
        self.held[domain] = {finding.detector: finding.level for finding in expected}

    def invariant_8_a_recording_replays(self) -> None:
        """The same events at the same times give the same states and the same actions."""
        state = heart.start(self.settings, OWN_PID)
        for event, at_us, out in self.world.log:
            state, again = heart.step(state, event, at_us)
            assert again == out
        assert state == self.world.state

    def invariant_9_one_notice_per_level_and_rest(self, notice: actions.Notify) -> None:
        """But for the emergency notice of deadline zero, and the repetition of one: after a simulation, or to an app
        that left and is back. A repetition renews nothing."""
        if self._is_repeated(notice):
            assert notice.deadline_us == self.given[notice.notice][1]
            return
        if notice.simulated or notice.emergency:
            return
        last_us = self.told_us.get((notice.app, notice.domain, notice.level))
        assert last_us is None or self.now_us - last_us >= self.settings.rest_us

    def invariant_9_the_last_word_is_the_present_level(self, domain: str) -> None:
        """Unless that word was given less than a rest ago: then it is owed."""
        level = self.world.state.domains[domain].level
        for app in self.apps.values():
            simulated = self.simulated_until_us.get(app.app, 0) > self.now_us
            if not is_within(app.cgroup, domain) or (simulated and domain == SYSTEM_DOMAIN):
                continue
            if self.heard.get((app.app, domain), Level.NORMAL) is not level:
                key = (app.app, domain, level)
                last_us = self.told_us.get(key, self.told_before_us.get(key))
                assert last_us is not None
                assert self.now_us - last_us < self.settings.rest_us

    def it_never_spins(self, domain: str) -> None:
        pause_us = heart.next_wake_us(self.world.state, domain) - self.now_us
        assert self.settings.read_emergency_us <= pause_us <= self.settings.read_idle_us

    # --- the books -----------------------------------------------------------------------------------------------

    def _note_event(self, event: events.Event) -> None:
        match event:
            case events.ReadingTaken(reading):
                before = self.history.get(reading.domain, ())
                if before and reading.at_us - before[-1].at_us > GAP_US:
                    before = ()
                    self.held[reading.domain] = {}
                if before and before[-1].at_us == reading.at_us:
                    before = before[:-1]
                edge_us = reading.at_us - REMEMBERED_US
                kept = tuple(one for one in before if one.at_us >= edge_us)
                self.history[reading.domain] = (*kept, reading)
                self.read_us[reading.domain] = self.now_us
            case events.AppRegistered(app):
                earlier = self.numbers.get((app.pid, app.start_ticks))
                self.numbers[app.pid, app.start_ticks] = app.app
                for books in (self.told_before_us, self.told_us):
                    for (number, domain, level), at_us in list(books.items()):
                        if number == earlier:
                            self.told_before_us[app.app, domain, level] = at_us
                self.apps[app.app] = app
            case events.AppUpdated(number, app_class) if app_class is not None:
                self.apps[number] = self.world.state.apps[number]
            case events.AppGone(number):
                del self.apps[number]
                for domain in (SYSTEM_DOMAIN, BOX):
                    key = (number, domain)
                    self.notices.pop(key, None)
                    self.deadlines.pop(key, None)
                    self.heard.pop(key, None)
            case events.AckReceived(number, notice, Answer.WORKING):
                self._note_working(number, notice)
            case events.SimulationAsked(apps, _, duration_us):
                for number in apps:
                    self.simulated_until_us[number] = self.now_us + duration_us
            case events.VictimExited(domain, kill):
                if domain in self.in_flight and self.in_flight[domain].kill == kill:
                    del self.in_flight[domain]
                    self.ended_us[domain] = self.now_us
            case events.SignalFailed(domain, kill):
                if domain in self.in_flight and self.in_flight[domain].kill == kill:
                    self._note_failure(domain)
            case _:
                pass

    def _note_failure(self, domain: str) -> None:
        victim = self.in_flight.pop(domain).victim
        self.failed.setdefault(domain, set()).add((victim.pid, victim.start_ticks))

    def _note_working(self, number: int, notice: int) -> None:
        for (app, domain), last in self.notices.items():
            key = (app, domain)
            running = self.now_us < self.deadlines[key]
            if app == number and last.notice == notice and running and notice not in self.extended:
                self.extended.add(notice)
                grace_us = self.settings.classes[self.apps[number].app_class].grace_us
                self.deadlines[key] += grace_us
                self.given[notice] = (self.given[notice][0], self.deadlines[key])

    def _note_notice(self, notice: actions.Notify) -> None:
        key = (notice.app, notice.domain)
        self.heard[key] = notice.level
        if notice.simulated:
            return
        given_us = self.given[notice.notice][0] if self._is_repeated(notice) else self.now_us
        self.given[notice.notice] = (given_us, notice.deadline_us)
        if not notice.emergency:
            self.told_us[(*key, notice.level)] = given_us
        self.notices[key] = notice
        self.deadlines[key] = notice.deadline_us
        if notice.domain == SYSTEM_DOMAIN and not notice.emergency:
            self.simulated_until_us.pop(notice.app, None)

    def _is_repeated(self, notice: actions.Notify) -> bool:
        return notice.notice in self.given

    def _findings(self, domain: str, held: dict[str, Level]) -> list[Finding]:
        found = (
            detector(self.history[domain], self.settings, held.get(name, Level.NORMAL))
            for name, detector in DETECTORS.items()
        )
        return [finding for finding in found if finding is not None]

    def _app_of(self, pid: int, start_ticks: int) -> App | None:
        for app in self.apps.values():
            if (app.pid, app.start_ticks) == (pid, start_ticks):
                return app
        return None

    def _class_of(self, process: Process) -> AppClass:
        app = self._app_of(process.pid, process.start_ticks)
        return (
            app.app_class
            if app is not None
            else classify(process, self.settings, OWN_PID).app_class
        )

    def _is_exempt(self, process: Process) -> bool:
        system = self._class_of(process) is AppClass.SYSTEM
        return (
            system
            or process.pid in (1, OWN_PID)
            or process.oom_score_adj <= -900
            or process.exe.endswith(("/sshd", "/kept"))
        )

    def _members(self, leader: Process, inside: list[Process]) -> list[Process] | None:
        """Return what dies with the leader of a cgroup, or None where it dies alone."""
        app = self._app_of(leader.pid, leader.start_ticks)
        if app is None or app.unit is not Unit.CGROUP or leader.cgroup == "/":
            return None
        members = [one for one in inside if is_within(one.cgroup, leader.cgroup)]
        others = [one for one in members if one is not leader]
        if any(self._app_of(one.pid, one.start_ticks) is not None for one in others):
            return None
        return None if any(self._is_exempt(one) for one in members) else members
