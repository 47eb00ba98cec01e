"""Escalate: whether to kill, whom, and how the kill in flight goes on.

Nothing dies for a level alone: there must be harm or exhaustion at this reading (see detect). The lowest class that
holds a victim worth killing is worked on, and no higher one is touched meanwhile (invariant 6), also while that
class still has its grace: waiting is then the decision, and it is taken until a stated moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lmkd.model import AppClass, Level, Process, Signal, Unit, Victim
from lmkd.policy.actions import (
    Notify,
    Plain,
    RaiseAlarm,
    ReleaseVictim,
    ReportKilled,
    ScanProcesses,
    SendSignal,
    WarnKill,
)
from lmkd.policy.detect import Judgement
from lmkd.policy.events import ProcessesScanned, SignalFailed, VictimExited, WatchdogKilled
from lmkd.policy.listen import open_promises
from lmkd.policy.pace import left_us
from lmkd.policy.rank import Candidate, rank_candidates
from lmkd.policy.state import UNTOLD, DomainState, Kill, State, Told
from lmkd.policy.tell import record_notices
from lmkd.policy.turn import Turn
from lmkd.policy.window import SECOND_US, reading_before

NOTHING_LEFT_PAUSE_US = 1_000_000
RECORDED_CANDIDATES = 12
DYING_US = 10_000
"""So long for each further process of a victim: the 440 of the arena's bomb were gone 2.0 to 3.2 s after SIGKILL."""
DYING_MOST_US = 5_000_000
_NO_LIMIT_US = 1 << 62


def advance_kill(turn: Turn, domain: DomainState) -> DomainState:
    """Take the kill in flight to its next step, when its time has come."""
    kill = domain.in_flight
    if kill is None:
        return domain
    now_us = turn.now_us
    if kill.sigkill_sent_us is None:
        assert domain.judgement is not None  # or nothing would be in flight
        exit_us = _time_to_exit_us(turn, domain, domain.judgement)
        kill = replace(kill, sigkill_us=min(kill.sigkill_us, kill.started_us + exit_us))
        domain = replace(domain, in_flight=kill)
        if now_us >= kill.sigkill_us:
            if _became_system(turn, kill.victim):
                turn.act(ReleaseVictim(domain.domain, kill.kill))
                return _end_in_failure(turn, domain, kill, "its class became system meanwhile")
            turn.act(SendSignal(domain.domain, kill.kill, kill.victim, Signal.KILL, kill.reason))
            turn.record(domain, "signal", {"kill": kill.kill, "signal": Signal.KILL.value})
            return replace(domain, in_flight=replace(kill, sigkill_sent_us=now_us))
    elif _is_stuck(turn, domain, kill.victim, kill.sigkill_sent_us):
        turn.act(ReleaseVictim(domain.domain, kill.kill))
        return _end_in_failure(turn, domain, kill, "it did not end after SIGKILL")
    return domain


def _time_to_exit_us(turn: Turn, domain: DomainState, judgement: Judgement) -> int:
    """Return the most time that a victim has between SIGTERM and SIGKILL as things stand now.

    Half of what the memory lasts, where that is near its end: at 400 MB/s the 5% of a small machine are gone in 60 ms,
    and what is then waited for is the kernel's own killer.
    """
    exit_us = _NO_LIMIT_US
    if judgement.emergency:
        exit_us = turn.settings.of(domain.domain).exit_emergency_us
    if judgement.exhausted:
        lasts_us = left_us(domain.window)
        if lasts_us is not None:
            exit_us = min(exit_us, lasts_us // 2)
    return exit_us


def _is_stuck(turn: Turn, domain: DomainState, victim: Victim, sigkill_sent_us: int) -> bool:
    """Whether a victim that has had SIGKILL is to be given up: its time is up and no memory comes back.

    What is large takes its time to die (64 GiB at 95 ms a GiB: 6 s), and the next victim would die for nothing. One in
    an uninterruptible sleep may never end, and in an emergency three seconds of waiting for it are worth a program. Of
    many each has to get out of reclaim first, and what it frees the others take: that nothing comes back says nothing.
    """
    settings = turn.settings.of(domain.domain)
    patience_us = settings.unkillable_us
    if domain.judgement is not None and domain.judgement.emergency:
        patience_us = min(patience_us, settings.unkillable_emergency_us)
    patience_us += min((victim.processes - 1) * DYING_US, DYING_MOST_US)
    if turn.now_us < sigkill_sent_us + patience_us:
        return False
    last, before = domain.window[-1], reading_before(domain.window, SECOND_US)
    came_back_kib = last.available_kib - before.available_kib
    return came_back_kib < settings.min_victim_kib(last.total_kib)


def _became_system(turn: Turn, victim: Victim) -> bool:
    """Whether the controller gave the victim the class that is never signalled, after SIGTERM (invariant 1)."""
    return any(
        app.app_class is AppClass.SYSTEM
        and (app.pid, app.start_ticks) == (victim.pid, victim.start_ticks)
        for app in turn.state.apps.values()
    )


def consider_kill(turn: Turn, domain: DomainState) -> None:
    """Ask for a scan when, by what is known without one, somebody might have to die now."""
    judgement = domain.judgement
    if judgement is None or not may_kill_now(turn.state, domain, judgement):
        return
    if turn.now_us < domain.scan_after_us and not judgement.emergency:
        return
    if turn.now_us < domain.relieved_us + turn.settings.of(domain.domain).settle_us:
        return
    least_kib = least_scanned_kib(turn.state, domain)
    turn.act(ScanProcesses(domain.domain, least_kib, domain.scans_small and least_kib > 0))


def least_scanned_kib(state: State, domain: DomainState) -> int:
    """Return the size from which on processes must be seen to rank those of a domain."""
    settings = state.settings.of(domain.domain)
    # To know what a tree or a cgroup holds, and that nobody in it is never killed, all processes must be seen.
    if state.settings.rules.has_groups or any(
        app.unit is not Unit.PROCESS for app in state.apps_in(domain.domain)
    ):
        return 0
    total_kib = domain.window[-1].total_kib if domain.window else 0
    return state.settings.rules.least_kib(settings.min_victim_kib(total_kib))


def may_kill_now(state: State, domain: DomainState, judgement: Judgement) -> bool:
    """Whether a kill is to be thought of at all: one at a time, at medium or above, for harm or exhaustion."""
    if domain.in_flight is not None or not state.settings.of(domain.domain).killable:
        return False
    if judgement.level < Level.MEDIUM or not judgement.may_kill:
        return False
    return not _is_held_above(state, domain)


def _is_held_above(state: State, domain: DomainState) -> bool:
    """Whether the limit that presses a domain is that of another one above it, which then does the killing.

    Otherwise one shortage of a slice would be answered once in each watched group below it.
    """
    path = domain.window[-1].limited_by
    above = state.domains.get(path)
    return path != domain.domain and above is not None and bool(state.settings.of(path).killable)


@dataclass(frozen=True, slots=True)
class Choice:
    """Whom to kill, or until when to wait."""

    candidate: Candidate | None
    wait_until_us: int


def choose_victim(
    turn: Turn, domain: DomainState, judgement: Judgement, ranked: Sequence[Candidate]
) -> Choice | None:
    """Return the choice among ranked candidates; None when nothing worth killing is left."""
    worth = [candidate for candidate in ranked if candidate.spared is None]
    if not worth:
        return None
    lowest = worth[0].victim.app_class
    ending = turn.state.victims_in_flight()
    waits_us: list[int] = []
    for candidate in worth:
        if candidate.victim.app_class is not lowest:
            break
        if (candidate.victim.pid, candidate.victim.start_ticks) in ending:
            # Another domain is at it. What it gives back is given to us, too: a second life would be taken for nothing.
            waits_us.append(turn.now_us + turn.settings.of(domain.domain).read_pressed_us)
            break
        until_us = _wait_until_us(turn, domain, judgement, candidate)
        if judgement.emergency or until_us <= turn.now_us:
            return Choice(candidate, turn.now_us)
        waits_us.append(until_us)
    return Choice(None, min(waits_us))


def _wait_until_us(
    turn: Turn, domain: DomainState, judgement: Judgement, candidate: Candidate
) -> int:
    """Return until when this candidate is to be left alone, but for an emergency."""
    now_us = turn.now_us
    if not candidate.apps:
        promises = open_promises(domain, now_us)
        promised_kib = sum(told.target_kib for told in promises)
        if promises and promised_kib >= judgement.need_kib:
            return min(told.deadline_us for told in promises)
        return now_us
    return max(_grace_of_app_us(turn, domain, judgement, app) for app in candidate.apps)


def _grace_of_app_us(turn: Turn, domain: DomainState, judgement: Judgement, app: int) -> int:
    """Return until when an app is to be left alone."""
    settings, now_us = turn.settings.of(domain.domain), turn.now_us
    told = domain.told.get(app)
    killed_at = settings.classes[turn.state.apps[app].app_class].killed_at
    if told is None or killed_at is None or told.level < killed_at:
        # It rests between notices: its word is owed, and will be given when the rest is over.
        due_us = domain.tell_due_us if domain.tell_due_us is not None else now_us
        return max(due_us, now_us + settings.read_pressed_us)
    deadline_us = turn.state.deadline_us(app)
    if told.kept and judgement.level < Level.CRITICAL:
        # It gave all it was asked for, and was asked for too little. At critical it is asked anew; below that its
        # next notice comes when the rest is over, and nothing is so urgent that it could not wait for it.
        again_us = told.last_us[told.level] + settings.rest_us
        return max(deadline_us, again_us)
    return deadline_us


def take_scan(turn: Turn, event: ProcessesScanned) -> None:
    """Decide, from a scan: kill the one that ranks first, wait, or say that nothing is left."""
    domain = turn.state.domains.get(event.domain)
    if domain is None or domain.judgement is None:
        return
    judgement = domain.judgement
    if not may_kill_now(turn.state, domain, judgement):
        return
    # A scan may come late, asked for before the last victim ended: then the next reading speaks first.
    settled_us = domain.relieved_us + turn.settings.of(domain.domain).settle_us
    if turn.now_us < settled_us or domain.reading_us < domain.relieved_us:
        return
    ranked = rank_candidates(turn, domain, event.processes, judgement.level)
    choice = choose_victim(turn, domain, judgement, ranked)
    if _may_be_in_crumbs(turn, domain, event.processes, choice):
        turn.keep(replace(domain, scans_small=True))
        turn.act(ScanProcesses(domain.domain, least_scanned_kib(turn.state, domain), small=True))
        return
    if choice is None:
        turn.keep(_say_nothing_left(turn, domain, judgement, ranked))
    elif choice.candidate is None:
        turn.keep(replace(domain, scan_after_us=choice.wait_until_us))
    elif turn.settings.dry_run:
        _record_kill(turn, domain, judgement, choice.candidate, ranked, "would_kill")
        rest_us = turn.settings.of(domain.domain).rest_us
        turn.keep(replace(domain, relieved_us=turn.now_us + rest_us))
    else:
        turn.keep(_start_kill(turn, domain, judgement, choice.candidate, ranked))


def _may_be_in_crumbs(
    turn: Turn, domain: DomainState, processes: Sequence[Process], choice: Choice | None
) -> bool:
    """Whether what was too small to be scanned could hold, together, somebody to go before whoever would be taken.

    To size them takes as long again as to find the large ones, so it is done only then, and from then on at once.
    """
    if domain.scans_small or least_scanned_kib(turn.state, domain) == 0:
        return False
    last = domain.window[-1]
    seen_kib = sum([process.anon_kib + process.swap_kib for process in processes])
    crumbs_kib = last.anon_kib + last.swap_total_kib - last.swap_free_kib - seen_kib
    least_kib = turn.settings.of(domain.domain).min_victim_kib(last.total_kib)
    taken = None if choice is None or choice.candidate is None else choice.candidate.victim
    if taken is not None and taken.app_class is AppClass.CACHED:
        least_kib = max(
            least_kib, taken.size_kib
        )  # no class is below it: only a larger one would go first
    return crumbs_kib >= least_kib


def _start_kill(
    turn: Turn,
    domain: DomainState,
    judgement: Judgement,
    candidate: Candidate,
    ranked: Sequence[Candidate],
) -> DomainState:
    victim, now_us = candidate.victim, turn.now_us
    exit_us = victim.time_to_exit_us
    if exit_us is None:
        exit_us = turn.settings.classes[victim.app_class].time_to_exit_us
    exit_us = min(exit_us, _time_to_exit_us(turn, domain, judgement))
    number = turn.state.next_kill
    kill = Kill(
        number,
        victim,
        judgement.reason,
        now_us,
        now_us + exit_us,
        None,
        domain.window[-1].available_kib,
    )
    turn.state = replace(turn.state, next_kill=number + 1)
    _record_kill(turn, domain, judgement, candidate, ranked, "kill")
    for app in candidate.apps:
        domain = _end_grace(turn, domain, app, judgement)
        turn.act(WarnKill(app, judgement.reason, exit_us))
    turn.act(SendSignal(domain.domain, number, victim, Signal.TERM, judgement.reason, exit_us))
    return replace(domain, in_flight=kill)


def _end_grace(turn: Turn, domain: DomainState, app: int, judgement: Judgement) -> DomainState:
    """In an emergency, tell an app whose grace still runs that it has none left (invariant 4)."""
    told = domain.told.get(app, UNTOLD)
    if told.level is not Level.NORMAL and turn.state.deadline_us(app) <= turn.now_us:
        return domain
    word = Told(
        turn.state.next_notice,
        domain.level,
        turn.now_us,
        told.target_kib,
        told.last_us,
        emergency=True,
    )
    notify = Notify(
        app,
        word.notice,
        domain.domain,
        word.level,
        word.target_kib,
        word.deadline_us,
        judgement.reason,
        emergency=True,
    )
    turn.act(notify)
    record_notices(turn, domain, [notify])
    turn.state = replace(turn.state, next_notice=word.notice + 1)
    return replace(domain, told={**domain.told, app: word})


def take_exit(turn: Turn, event: VictimExited) -> None:
    """The victim has ended: say so, and let the next reading speak before anything else is done."""
    domain = turn.state.domains.get(event.domain)
    if domain is None or domain.in_flight is None or domain.in_flight.kill != event.kill:
        return
    kill = domain.in_flight
    turn.act(ReportKilled(domain.domain, kill.victim, kill.reason, kill.victim.size_kib))
    turn.record(
        domain,
        "exited",
        {
            "kill": kill.kill,
            "after_ms": (turn.now_us - kill.started_us) // 1000,
            "sigkill": kill.sigkill_sent_us is not None,
        },
    )
    turn.keep(
        replace(
            domain,
            in_flight=None,
            relieved_us=turn.now_us,
            scan_after_us=turn.now_us,
            ended=kill,
        )
    )


def measure_relief(turn: Turn, domain: DomainState) -> DomainState:
    """Keep what memory came back, at the first reading after a kill has settled."""
    kill = domain.ended
    settle_us = turn.settings.of(domain.domain).settle_us
    if kill is None or turn.now_us < domain.relieved_us + settle_us:
        return domain
    turn.record(
        domain,
        "measured",
        {
            "kill": kill.kill,
            "before_kib": kill.available_kib,
            "available_kib": domain.window[-1].available_kib,
        },
    )
    return replace(domain, ended=None)


def take_watchdog_kill(turn: Turn, event: WatchdogKilled) -> None:
    """The watchdog has ended somebody: say so, and let the next reading speak before anything else is done."""
    domain = turn.state.domains.get(event.domain)
    if domain is None:
        return
    victim = event.victim
    turn.act(ReportKilled(domain.domain, victim, event.reason, victim.size_kib))
    # The loop may have slept through all of it: then this is the episode.
    alone = domain.episode is None
    if alone:
        domain = replace(domain, episode=turn.state.next_episode)
        turn.state = replace(turn.state, next_episode=turn.state.next_episode + 1)
        total_kib = domain.window[-1].total_kib if domain.window else 0
        turn.record(domain, "opened", {"total_kib": total_kib})
    turn.record(
        domain,
        "watchdog",
        {
            "pid": victim.pid,
            "app": victim.app,
            "name": victim.name,
            "class": victim.app_class.word,
            "size_kib": victim.size_kib,
            "unit": victim.unit.value,
            "cgroup": victim.cgroup,
            "count": victim.processes,
            "reason": event.reason,
        },
    )
    if alone:
        turn.record(domain, "closed", {})
        domain = replace(domain, episode=None)
    turn.keep(replace(domain, relieved_us=turn.now_us, scan_after_us=turn.now_us))


def find_first(
    state: State, domain: DomainState, processes: Sequence[Process], now_us: int
) -> Victim | None:
    """Return who would be ended now in an emergency, as the domain is; None for nobody. For the watchdog."""
    judgement = domain.judgement
    if judgement is None or not state.settings.of(domain.domain).killable:
        return None
    turn = Turn(state, now_us)
    ranked = rank_candidates(turn, domain, processes, Level.CRITICAL)
    choice = choose_victim(turn, domain, judgement, ranked)
    return None if choice is None or choice.candidate is None else choice.candidate.victim


def take_failure(turn: Turn, event: SignalFailed) -> None:
    """A signal could not be sent: remember that, and go on to the next at the next reading."""
    domain = turn.state.domains.get(event.domain)
    if domain is None or domain.in_flight is None or domain.in_flight.kill != event.kill:
        return
    turn.keep(_end_in_failure(turn, domain, domain.in_flight, event.reason))


def _end_in_failure(turn: Turn, domain: DomainState, kill: Kill, reason: str) -> DomainState:
    turn.record(domain, "failed", {"kill": kill.kill, "reason": reason})
    identity = (kill.victim.pid, kill.victim.start_ticks)
    return replace(
        domain,
        in_flight=None,
        scan_after_us=turn.now_us,
        spared=domain.spared | {identity},
    )


def _say_nothing_left(
    turn: Turn, domain: DomainState, judgement: Judgement, ranked: Sequence[Candidate]
) -> DomainState:
    # Below critical most classes are out of reach: that is no reason to be loud.
    loud = judgement.level is Level.CRITICAL
    if loud and not domain.alarmed:
        reason = f"{judgement.reason}, and nothing worth killing is left"
        turn.act(RaiseAlarm(domain.domain, reason))
        turn.record(domain, "nothing_left", {"reason": reason, "ranked": describe_ranked(ranked)})
    alarmed = domain.alarmed or loud
    return replace(domain, alarmed=alarmed, scan_after_us=turn.now_us + NOTHING_LEFT_PAUSE_US)


def _record_kill(
    turn: Turn,
    domain: DomainState,
    judgement: Judgement,
    candidate: Candidate,
    ranked: Sequence[Candidate],
    kind: str,
) -> None:
    victim, last = candidate.victim, domain.window[-1]
    findings: list[Plain] = [
        {"detector": finding.detector, "level": finding.level.word, "reason": finding.reason}
        for finding in judgement.findings
    ]
    turn.record(
        domain,
        kind,
        {
            "kill": turn.state.next_kill - 1,
            "pid": victim.pid,
            "app": victim.app,
            "name": victim.name,
            "class": victim.app_class.word,
            "why_class": victim.why_class,
            "rule": victim.rule,
            "size_kib": victim.size_kib,
            "grown_kib": candidate.grown_kib,
            "unit": victim.unit.value,
            "cgroup": victim.cgroup,
            "count": victim.processes,
            "reason": judgement.reason,
            "level": judgement.level.word,
            "harm": judgement.harm,
            "exhausted": judgement.exhausted,
            "emergency": judgement.emergency,
            "need_kib": judgement.need_kib,
            "available_kib": last.available_kib,
            "swap_free_kib": last.swap_free_kib,
            "findings": findings,
            "ranked": describe_ranked(ranked),
        },
    )


def describe_ranked(ranked: Sequence[Candidate]) -> list[Plain]:
    """Return the first candidates as plain values for a record or a reply: those for killing, then the spared."""
    ordered = sorted(ranked, key=lambda candidate: candidate.spared is not None)
    return [
        {
            "pid": candidate.victim.pid,
            "name": candidate.victim.name,
            "class": candidate.victim.app_class.word,
            "why_class": candidate.victim.why_class,
            "unit": candidate.victim.unit.value,
            "count": candidate.victim.processes,
            "size_kib": candidate.victim.size_kib,
            "grown_kib": candidate.grown_kib,
            "trust": candidate.trust,
            "bias": candidate.bias,
            "mark": candidate.mark.name.lower(),
            "unruled_first": candidate.unruled_first,
            "spared": candidate.spared,
        }
        for candidate in ordered[:RECORDED_CANDIDATES]
    ]
