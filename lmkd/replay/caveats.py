"""What is to be known before the outcome of another policy is believed: where the recording says too little for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import lmkd
from lmkd.policy import actions, events
from lmkd.policy.patterns import Test
from lmkd.policy.settings import Settings
from lmkd.replay.past import Past
from lmkd.replay.recording import KnownProcesses, Recording
from lmkd.replay.run import Outcome, Step
from lmkd.replay.verdicts import first_difference, plain_verdicts
from lmkd.replay.whatif import OtherRun

ESTIMATED = (
    "This is an estimate. Readings are those of the recording, taken when it took them, and corrected by the sizes of"
    " those who died in one run and not in the other; for the rest, programs do what they did."
)


def find_caveats(
    recording: Recording, settings: Settings, steps: Sequence[Step], past: Past, other: OtherRun
) -> list[str]:
    """Return what to know before the other run is believed, in sentences."""
    notes = [ESTIMATED]
    verdicts = [one for step in steps for one in plain_verdicts(step.actions, step.at_us)]
    if first_difference(verdicts, recording.verdicts) is not None:
        notes.append(
            f"This lmkd ({lmkd.__version__}) decides otherwise than the one that recorded it"
            f" ({recording.header.get('version')}): both runs are those of this one."
        )
    if any(domain.episode is not None for domain in recording.base.domains.values()):
        notes.append(
            "The recording begins in mid-episode: what was decided before that stays as it was."
        )
    if not past.ends_calm:
        notes.append("The recording ends in mid-episode: what was to come of it is not known.")
    notes.extend(_unread(recording, settings))
    if any(isinstance(moment.event, events.SettingsChanged) for moment in recording.moments):
        notes.append("The policy was changed in mid-recording: the other one holds from the start.")
    recorded = recording.base.settings
    granted = (recorded.rules, recorded.claim_ceiling) != (settings.rules, settings.claim_ceiling)
    if granted and any(step.after.apps for step in steps):
        notes.append(
            "Programs that registered keep the class, the unit and the grace that they were granted."
        )
    domains = {name for step in steps for name in step.after.domains}
    domains.update(recording.base.domains)
    notes.extend(
        f"The recording has no readings of a domain that {entry.pattern!r} names."
        for entry in settings.domains
        if not any(settings.of(name) is entry.settings for name in domains)
    )
    if other.looked_ahead:
        notes.append(
            "Processes are asked for before the recording says of any: they are taken as it has them first."
        )
    if other.ran_on:
        notes.append(
            "The recording ends before this run is calm: the last readings are taken to stay, for up to 10 s."
        )
    known = any(isinstance(moment.event, KnownProcesses) for moment in recording.moments)
    least_kib = min(past.least_kib.values(), default=0)
    if other.least_kib is not None and other.least_kib < least_kib and not known:
        notes.append(
            f"The recording says nothing of processes below {least_kib} KiB; some of them would count."
        )
    silent = len(_told_apps(other.outcomes) - _told_apps([step.outcome for step in steps]))
    if silent:
        programs = "1 registered program" if silent == 1 else f"{silent} registered programs"
        notes.append(
            f"{programs} would be asked for memory, of whom it was not: silence is taken for the answer."
        )
    return notes


def _unread(recording: Recording, settings: Settings) -> list[str]:
    """Say what the other rules ask for that was not read."""
    recorded = recording.base.settings
    read, asked = _details(recorded), _details(settings)
    words = {"cmdline": "command line", "environ": "environment", "parent": "parent"}
    notes = [
        f"Rules ask for the {word} of processes, which was not read when it was recorded: none of them matches."
        for detail, word in words.items()
        if detail in asked - read
    ]
    if "environ" in read and not _environ_questions(settings) <= _environ_questions(recorded):
        notes.append(
            "Of environments only what the recorded rules asked for is there: other questions find nothing."
        )
    return notes


def _details(settings: Settings) -> set[str]:
    details = settings.rules.details
    return {name for name in ("cmdline", "environ", "parent") if getattr(details, name)}


def _environ_questions(settings: Settings) -> set[Test]:
    return {
        condition.test
        for rule in settings.rules.rules
        for condition in rule.conditions
        if condition.subject == "environ"
    }


def _told_apps(outcomes: Iterable[Outcome]) -> set[int]:
    return {
        action.app
        for _, out in outcomes
        for action in out
        if isinstance(action, actions.Notify) and action.target_kib > 0 and not action.simulated
    }
