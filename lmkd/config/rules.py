"""[[rule]]: the rules of all files in the order in which they are tried, administrators' before the shipped ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmkd.cgroup_paths import glob_base
from lmkd.config.layers import Layer, Mistakes, Table, check_table, find_tables, refusal
from lmkd.config.matches import MATCHES
from lmkd.config.mistakes import BadValue, describe, suggest
from lmkd.config.places import Key
from lmkd.config.schema import RULE_SCHEMA, Check, check_name
from lmkd.config.sets import Entry, Sets, list_entries
from lmkd.model import AppClass, Unit
from lmkd.policy.patterns import GlobTest
from lmkd.policy.rules import SUBJECTS, Condition, Rule, RuleSet, Verdict


class Rules:
    """The rules of all layers, and where they and their sets are written."""

    def __init__(self, layers: Sequence[Layer], mistakes: Mistakes) -> None:
        self._mistakes = mistakes
        self.sets = Sets(layers, mistakes)
        self.places: dict[str, tuple[Layer, Key]] = {}
        """By the name of the rule."""
        shipped, others = layers[0], layers[1:]
        # The shipped names are taken first, so that an administrator's rule is told of a name that is not free.
        last = self._read_layer(shipped)
        first = [rule for layer in others for rule in self._read_layer(layer)]
        self.rules = RuleSet((*first, *last))

    def _read_layer(self, layer: Layer) -> list[Rule]:
        rules = []
        for at, table in find_tables(layer, "rule", self._mistakes):
            rule = self._read_rule(layer, at, table)
            if rule is not None:
                rules.append(rule)
        return rules

    def _read_rule(self, layer: Layer, at: Key, table: Table) -> Rule | None:
        before = len(self._mistakes)
        self._check_keys(layer, at, table)
        if "name" not in table:
            self._mistake(layer, at, 'needs name = "..."')
        else:
            self._take_name(layer, at, table["name"])
        exempt = table.get("exempt") is True
        if not exempt and "class" not in table:
            self._mistake(layer, at, 'needs class = "...", or exempt = true')
        conditions = self._read_match(layer, (*at, "match"), table.get("match", {}))
        if len(self._mistakes) > before:
            return None
        verdict = Verdict(
            app_class=_value(table, "class", AppClass.SYSTEM),
            unit=_value(table, "unit", Unit.PROCESS),
            grace_us=_value(table, "grace", None),
            time_to_exit_us=_value(table, "time_to_exit", None),
            exempt=exempt,
            bias=_value(table, "bias", 0),
            least_kib=_value(table, "least", None),
            ceiling=_value(table, "ceiling", None),
        )
        if verdict.unit is Unit.CGROUP and _reaches_root(conditions):
            told = "a unit of all cgroups together would be everything at once; name a cgroup"
            self._mistake(layer, (*at, "match", "cgroup"), told)
            return None
        return Rule(table["name"], layer.place(at), conditions, verdict, shipped=layer.shipped)

    def _check_keys(self, layer: Layer, at: Key, table: Table) -> None:
        known = {}
        for key, value in table.items():
            if key in MATCHES:
                told = f"belongs into the match of the rule: match = {{ {key} = ... }}"
                self._mistake(layer, (*at, key), told)
            else:
                known[key] = value
        check_table(layer, at, known, RULE_SCHEMA, self._mistakes)

    def _take_name(self, layer: Layer, at: Key, name: object) -> None:
        try:
            checked = check_name(name)
        except BadValue:
            return  # kept already
        if checked in self.places:
            other, other_at = self.places[checked]
            told = f"the name {checked!r} is taken by the rule at {other.place(other_at)}"
            self._mistake(layer, (*at, "name"), told, of_value=True)
        else:
            self.places[checked] = layer, at

    def _read_match(self, layer: Layer, at: Key, match: object) -> tuple[Condition, ...]:
        if not isinstance(match, dict):
            told = f'expected a table, such as {{ comm = "make" }}, got {describe(match)}'
            self._mistake(layer, at, told, of_value=True)
            return ()
        found = {}
        for subject, value in match.items():
            key = (*at, subject)
            if subject in MATCHES:
                found[subject] = self._read_subject(layer, key, subject, value)
            elif subject in RULE_SCHEMA:
                told = f"belongs to the rule itself, outside its match: {subject} = ..."
                self._mistake(layer, key, told)
            else:
                self._mistake(layer, key, "unknown key" + suggest(subject, MATCHES))
        # In one order whatever the file's, so that the cheapest question is asked first.
        conditions = ((subject, found.get(subject)) for subject in SUBJECTS)
        return tuple(Condition(subject, test) for subject, test in conditions if test is not None)

    def _read_subject(self, layer: Layer, key: Key, subject: str, value: object) -> Any:
        how = MATCHES[subject]
        entries = (
            list_entries(layer, key, value) if how.takes_arrays else [Entry(value, layer, key)]
        )
        if not entries:
            self._mistake(layer, key, "an empty array matches nothing", of_value=True)
            return None
        if how.takes_sets:
            entries = self.sets.expand(entries)
        found = []
        for entry in entries:
            try:
                found.append(how.check(entry.value))
            except BadValue as bad:
                told = refusal(bad, entry.value)
                if entry.set_name is not None:
                    told += f" ({subject} of a rule uses the set)"
                self._mistake(entry.layer, entry.key, told, of_value=True)
        return how.build(found) if found else None

    def _mistake(self, layer: Layer, key: Key, told: str, *, of_value: bool = False) -> None:
        self._mistakes[layer.mistake(key, told, of_value=of_value)] = None


def _value(table: Table, key: str, default: Any) -> Any:
    if key not in table:
        return default
    check: Check = RULE_SCHEMA[key]
    return check(table[key])


def _reaches_root(conditions: Sequence[Condition]) -> bool:
    for condition in conditions:
        if isinstance(condition.test, GlobTest):
            return any(not glob_base(glob).strip("/*?") for glob in condition.test.globs)
    return False
