"""Thresholds, classes and times: the values of the layers, laid over each other, as Settings.

A domain's are the system's with its own laid over them. What is refused here is what single values cannot show: an
order in which a higher level would be reached before a lower one. That is asked of each domain's merged values too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from lmkd.config.layers import Layer, Mistakes, Table
from lmkd.config.mistakes import BadValue
from lmkd.config.places import Key
from lmkd.config.schema import RISING, find_check
from lmkd.model import AppClass, Level
from lmkd.policy.settings import Amount, ClassSettings, FloorStep, Settings, StallStep


class Source(NamedTuple):
    """A table that values are taken from: a whole layer, or a [[domain]] of one."""

    layer: Layer
    at: Key
    table: Table


class Values:
    """Values by key, from the topmost source that has them. The lowest are the shipped defaults, which have all."""

    def __init__(self, sources: Sequence[Source], mistakes: Mistakes) -> None:
        self._sources = tuple(sources)
        self._mistakes = mistakes

    def laid_over(self, sources: Sequence[Source]) -> Values:
        """Return these values with others laid over them."""
        return Values((*self._sources, *sources), self._mistakes)

    def get(self, *key: str) -> Any:
        """Return the checked value of a key that the defaults have."""
        check = find_check(key)
        try:
            return check(_dig(self._topmost(key).table, key))
        except BadValue:
            # The mistake is already kept. The defaults stand in, so that the order of thresholds can be checked.
            return check(_dig(self._sources[0].table, key))

    def refuse(self, key: Key, expected: str) -> None:
        """Keep a mistake at a value, where its topmost source has it."""
        source = self._topmost(key)
        self._mistakes[source.layer.mistake((*source.at, *key), expected, of_value=True)] = None

    def refuse_order(self, what: str, keys: Sequence[Key]) -> None:
        """Keep a mistake where a value is not larger than the one before it; the topmost of the two is to blame."""
        values = [self.get(*key) for key in keys]
        for index in range(1, len(keys)):
            if values[index - 1] >= values[index]:
                pair = keys[index - 1 : index + 1]
                ranks = [(self._sources.index(self._topmost(key)), n) for n, key in enumerate(pair)]
                first, second = (".".join(key) for key in pair)
                self.refuse(pair[max(ranks)[1]], f"{what}: {first} must be less than {second}")

    def _topmost(self, key: Key) -> Source:
        for source in reversed(self._sources[1:]):
            if _dig(source.table, key) is not None:
                return source
        return self._sources[0]


def _dig(table: object, key: Key) -> object:
    for part in key:
        if not isinstance(table, dict):
            return None
        table = table.get(part)
    return table


def build_settings(values: Values) -> Settings:
    """Return the system's settings, without rules and domains, and keep what is wrong with their order."""
    classes = {
        app_class: ClassSettings(
            values.get("classes", app_class.word, "oom_score_adj"),
            values.get("classes", app_class.word, "killed_at"),
            values.get("classes", app_class.word, "grace"),
            values.get("classes", app_class.word, "time_to_exit"),
        )
        for app_class in AppClass
    }
    _check_classes(values, classes)
    _check_thresholds(values)
    return Settings(
        classes=classes,
        claim_ceiling=values.get("service", "claim_ceiling"),
        killable=values.get("system", "kill"),
        unruled=values.get("policy", "unruled"),
        strict=values.get("policy", "strict"),
        **_thresholds(values),
    )


def build_domain_settings(
    system: Settings, values: Values, killable: frozenset[AppClass]
) -> Settings:
    """Return a domain's settings: the system's, with the thresholds of these values."""
    _check_thresholds(values)
    return replace(system, killable=killable, domains=(), **_thresholds(values))


def _thresholds(values: Values) -> dict[str, Any]:
    return {
        "stall": {level: _stall_step(values, level.word) for level in RISING},
        "stall_emergency_permyriad": values.get("stall", "emergency", "full"),
        "stall_harm": _stall_step(values, "harm"),
        "floor": {level: _floor_step(values, level.word) for level in RISING},
        "floor_emergency": Amount(
            values.get("floor", "emergency", "enter"), values.get("floor", "emergency", "most")
        ),
        "swap": {level: values.get("swap", level.word) for level in RISING},
        "thrash": {level: values.get("thrash", level.word) for level in RISING},
        "forecast": {level: values.get("forecast", level.word) for level in RISING[:2]},
        "forecast_slope_kib_s": values.get("forecast", "slope_per_second"),
        "calm_hold_us": values.get("timing", "calm_hold"),
        "rest_us": values.get("timing", "rest"),
        "exit_emergency_us": values.get("timing", "exit_in_emergency"),
        "settle_us": values.get("timing", "settle"),
        "unkillable_us": values.get("timing", "unkillable"),
        "unkillable_emergency_us": values.get("timing", "unkillable_in_emergency"),
        "read_idle_us": values.get("timing", "read_idle"),
        "read_pressed_us": values.get("timing", "read_pressed"),
        "read_emergency_us": values.get("timing", "read_in_emergency"),
        "min_victim": Amount(values.get("victims", "share"), values.get("victims", "most")),
        "min_victim_least_kib": values.get("victims", "least"),
    }


def _stall_step(values: Values, name: str) -> StallStep:
    return StallStep(values.get("stall", name, "some"), values.get("stall", name, "full"))


def _floor_step(values: Values, name: str) -> FloorStep:
    enter = values.get("floor", name, "enter")
    leave = values.get("floor", name, "leave")
    most_kib = values.get("floor", name, "most")
    # The upper bounds keep the distance that the shares have: both are of the same machine.
    return FloorStep(Amount(enter, most_kib), Amount(leave, most_kib * leave // max(enter, 1)))


def _check_thresholds(values: Values) -> None:
    rising = [level.word for level in RISING]
    falling = [*reversed(rising)]
    more, less = "a higher level needs more stall", "a higher level has less memory left"
    for which in ("some", "full"):
        values.refuse_order(more, [("stall", name, which) for name in rising])
    # Nothing of the kind between harm and critical: to tell first and kill later, or the other way, is a choice.
    for name in ("critical", "harm"):
        keys: list[Key] = [("stall", name, "full"), ("stall", "emergency", "full")]
        values.refuse_order(f"an emergency is more than {name}", keys)
    for which in ("enter", "most"):
        values.refuse_order(less, [("floor", name, which) for name in ("emergency", *falling)])
    for name in rising:
        keys = [("floor", name, "enter"), ("floor", name, "leave")]
        values.refuse_order("a floor is left above where it was entered", keys)
    values.refuse_order("a higher level has less swap left", [("swap", name) for name in falling])
    values.refuse_order("a higher level has more refaults", [("thrash", name) for name in rising])
    values.refuse_order(
        "a higher level has less time left", [("forecast", name) for name in ("medium", "low")]
    )
    names = ("read_in_emergency", "read_pressed", "read_idle")
    values.refuse_order("read more often under pressure", [("timing", name) for name in names])


def _check_classes(values: Values, classes: Mapping[AppClass, ClassSettings]) -> None:
    """Refuse an order in which a class could die before a lower one, or the kernel would see it so."""
    values.refuse_order(
        "the kernel must see the classes in our order",
        [("classes", app_class.word, "oom_score_adj") for app_class in reversed(AppClass)],
    )
    never = Level.CRITICAL + 1
    at = [never if (level := one.killed_at) is None else level for one in classes.values()]
    for app_class in list(AppClass)[1:]:
        if at[app_class] < at[app_class - 1]:
            below = AppClass(app_class - 1).word
            values.refuse(
                ("classes", app_class.word, "killed_at"),
                f"must not be below that of {below}, which is the lower class",
            )
    if classes[AppClass.SYSTEM].killed_at is not None:
        values.refuse(
            ("classes", "system", "killed_at"), 'expected "never": that is what system means'
        )
