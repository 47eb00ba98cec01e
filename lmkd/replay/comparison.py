"""Both runs of a recording side by side: what died and when, and what would have, under another policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lmkd.model import Level, Signal
from lmkd.policy import actions
from lmkd.policy.actions import Plain
from lmkd.policy.settings import DomainPolicy, Settings
from lmkd.replay.caveats import find_caveats
from lmkd.replay.past import Past
from lmkd.replay.recording import Recording
from lmkd.replay.run import Outcome, run
from lmkd.replay.whatif import OtherRun


@dataclass(frozen=True, slots=True)
class Death:
    """One kill, of either run. Moments are counted from the recording's first event."""

    at_ms: int
    domain: str
    kill: int
    pid: int
    start_ticks: int | None
    """None where nobody was signalled: a dry run."""
    name: str
    app_class: str
    why_class: str
    rule: str
    unit: str
    size_kib: int
    level: str
    reason: str
    ended_ms: int | None = None
    """None: it did not end while the recording goes on."""
    sigkill: bool = False
    failed: str | None = None
    freed_kib: int | None = None
    """By how much available memory rose until it was measured."""


@dataclass(frozen=True, slots=True)
class LevelChange:
    """A domain came to another level."""

    at_ms: int
    domain: str
    level: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that came out differently.

    `instead`: `now` died in place of `then`. `spared`: only `then` died. `also`: only `now` died. `otherwise`: the
    same one, at another moment or for another reason. `level`: a level was reached at another moment, or in one run
    alone.
    """

    kind: str
    domain: str
    then: Death | None = None
    now: Death | None = None
    level: str = ""
    then_ms: int | None = None
    now_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What died in the recording, what would have died, and the differences."""

    then: tuple[Death, ...]
    now: tuple[Death, ...]
    levels_then: tuple[LevelChange, ...]
    levels_now: tuple[LevelChange, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    """What to know before it is believed."""

    def as_plain(self) -> dict[str, Plain]:
        """Return all of it for JSON."""
        plain: dict[str, Any] = asdict(self)
        return plain


def replay_with(recording: Recording, settings: Settings) -> Comparison:
    """Return what would have come of the recording under other settings. Raises RecordingError.

    What is in no file stays as it was: whether it is a dry run, and whose session it is.
    """
    steps = list(run(recording))
    old = [step.outcome for step in steps]
    settings = _as_started(settings, recording.base.settings)
    past = Past(steps)
    other = OtherRun(recording, settings, past)
    outcomes = other.run()
    then = find_deaths(old, recording.base_us)
    now = find_deaths(outcomes, recording.base_us)
    levels_then = find_levels(old, recording.base_us)
    levels_now = find_levels(outcomes, recording.base_us)
    return Comparison(
        then=then,
        now=now,
        levels_then=levels_then,
        levels_now=levels_now,
        differences=(*compare_deaths(then, now), *compare_levels(levels_then, levels_now)),
        notes=tuple(find_caveats(recording, settings, steps, past, other)),
    )


def _as_started(settings: Settings, recorded: Settings) -> Settings:
    """Return settings as the daemon that recorded would have had them, by the way in which it was started."""
    settings = replace(settings, dry_run=recorded.dry_run, own_uid=recorded.own_uid)
    # A session's own cgroup comes last, with the policy of the whole (lmkd.service.daemon).
    own = recorded.domains[-1:] if recorded.own_uid is not None else ()
    if any(entry.settings != replace(recorded, domains=()) for entry in own):
        own = ()
    inner = replace(settings, domains=())
    return replace(
        settings,
        domains=(*settings.domains, *(DomainPolicy(entry.pattern, inner) for entry in own)),
    )


def find_deaths(outcomes: Iterable[Outcome], base_us: int) -> tuple[Death, ...]:
    """Return the kills of a run, in order."""
    found: dict[tuple[str, int], Death] = {}
    for at_us, out in outcomes:
        at_ms = (at_us - base_us) // 1000
        for action in out:
            if isinstance(action, actions.SendSignal):
                key = (action.domain, action.kill)
                if key in found:
                    killed = action.signal is Signal.KILL
                    found[key] = replace(
                        found[key],
                        start_ticks=action.victim.start_ticks,
                        sigkill=found[key].sigkill or killed,
                    )
            elif isinstance(action, actions.Record):
                _take_record(found, action, at_ms)
    return tuple(found.values())


def _take_record(found: dict[tuple[str, int], Death], record: actions.Record, at_ms: int) -> None:
    detail: Mapping[str, Any] = record.detail
    kill = detail.get("kill")
    if not isinstance(kill, int):
        return
    key = (record.domain, kill)
    if record.kind in ("kill", "would_kill"):
        # A dry run numbers no kills, so each is told apart by its moment.
        key = key if record.kind == "kill" else (record.domain, -1 - at_ms)
        found[key] = Death(
            at_ms=at_ms,
            domain=record.domain,
            kill=kill,
            pid=detail["pid"],
            start_ticks=None,
            name=detail["name"],
            app_class=detail["class"],
            why_class=detail["why_class"],
            rule=detail["rule"],
            unit=detail["unit"],
            size_kib=detail["size_kib"],
            level=detail["level"],
            reason=detail["reason"],
        )
    elif key in found and record.kind == "exited":
        found[key] = replace(found[key], ended_ms=at_ms)
    elif key in found and record.kind == "failed":
        found[key] = replace(found[key], failed=detail["reason"])
    elif key in found and record.kind == "measured":
        freed_kib = detail["available_kib"] - detail["before_kib"]
        found[key] = replace(found[key], freed_kib=freed_kib)


def find_levels(outcomes: Iterable[Outcome], base_us: int) -> tuple[LevelChange, ...]:
    """Return the level changes of a run, in order."""
    return tuple(
        LevelChange((at_us - base_us) // 1000, action.domain, action.level.word, action.reason)
        for at_us, out in outcomes
        for action in out
        if isinstance(action, actions.Broadcast)
    )


def compare_deaths(then: Sequence[Death], now: Sequence[Death]) -> list[Difference]:
    """Return who died in one run alone, and who died otherwise, in the order of their moments."""
    left = list(now)
    only_then: list[Death] = []
    found: list[Difference] = []
    for one in then:
        same = next((other for other in left if _is_same(one, other)), None)
        if same is None:
            only_then.append(one)
            continue
        left.remove(same)
        if (one.at_ms, one.reason) != (same.at_ms, same.reason):
            found.append(Difference("otherwise", one.domain, one, same))
    for one in only_then:
        instead = next((other for other in left if other.domain == one.domain), None)
        if instead is None:
            found.append(Difference("spared", one.domain, one))
        else:
            left.remove(instead)
            found.append(Difference("instead", one.domain, one, instead))
    found.extend(Difference("also", one.domain, now=one) for one in left)
    found.sort(key=_moment_ms)
    return found


def _is_same(one: Death, other: Death) -> bool:
    if one.start_ticks is None or other.start_ticks is None:
        return (one.pid, one.name) == (other.pid, other.name)
    return (one.pid, one.start_ticks) == (other.pid, other.start_ticks)


def _moment_ms(difference: Difference) -> int:
    deaths = (difference.then, difference.now)
    return min(death.at_ms for death in deaths if death is not None)


def compare_levels(then: Sequence[LevelChange], now: Sequence[LevelChange]) -> list[Difference]:
    """Return where a level was first reached, or calm last, at different moments."""
    found = []
    for domain in dict.fromkeys(change.domain for change in (*then, *now)):
        for level in (*list(Level)[1:], Level.NORMAL):
            moments = [
                [one.at_ms for one in changes if (one.domain, one.level) == (domain, level.word)]
                for changes in (then, now)
            ]
            pick = -1 if level is Level.NORMAL else 0
            then_ms, now_ms = (one[pick] if one else None for one in moments)
            if then_ms != now_ms:
                found.append(
                    Difference("level", domain, level=level.word, then_ms=then_ms, now_ms=now_ms)
                )
    return found
