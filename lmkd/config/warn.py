"""What is odd in a configuration without mistakes, each finding with its place in the files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lmkd.config.domains import Domains
from lmkd.config.layers import Layer
from lmkd.config.mistakes import Mistake
from lmkd.config.rules import Rules
from lmkd.policy.lint import guarded_names, lint_rules, lost_words
from lmkd.policy.patterns import GlobTest, covers
from lmkd.policy.settings import Settings


def find_oddities(
    layers: Sequence[Layer], rules: Rules, domains: Domains, settings: Settings
) -> list[Mistake]:
    """Return the warnings. The shipped defaults alone have none, and are not searched."""
    if len(layers) == 1:
        return []
    return [
        *_odd_rules(layers, rules),
        *_unused_sets(rules),
        *_covered_domains(domains, settings),
    ]


def _odd_rules(layers: Sequence[Layer], rules: Rules) -> Iterator[Mistake]:
    if not any("rule" in layer.table or "sets" in layer.table for layer in layers[1:]):
        return
    # With the sets as shipped: an administrator's of the same name may have lost some of them.
    guarded = guarded_names(Rules(layers[:1], {}).rules.rules)
    for finding in lint_rules(rules.rules, guarded):
        if finding.rule:
            layer, at = rules.places[finding.rule]
            key = (*at, finding.key) if finding.key else at
            yield layer.mistake(key, f"rule {finding.rule!r}: {finding.text}")
        else:
            yield from _lost_from_sets(layers, rules, finding.names)


def _lost_from_sets(
    layers: Sequence[Layer], rules: Rules, lost: Sequence[str]
) -> Iterator[Mistake]:
    """Yield the sets that took the place of shipped ones, with the names that those had and no rule has now."""
    for name, (layer, key) in rules.sets.places.items():
        if not layer.shipped:
            names = [one for one in layers[0].table["sets"].get(name, ()) if one in lost]
            if names:
                yield layer.mistake(key, lost_words(names))


def _unused_sets(rules: Rules) -> Iterator[Mistake]:
    for name, (layer, key) in rules.sets.places.items():
        if not layer.shipped and name not in rules.sets.used:
            yield layer.mistake(key, f"no rule uses the set @{name}")


def _covered_domains(domains: Domains, settings: Settings) -> Iterator[Mistake]:
    patterns = [entry.pattern for entry in settings.domains]
    for number, pattern in enumerate(patterns):
        for earlier in patterns[:number]:
            if covers(GlobTest((earlier,)), GlobTest((pattern,))):
                layer, key = domains.place(pattern)
                first_layer, first_key = domains.place(earlier)
                yield layer.mistake(
                    key,
                    f"this domain never applies: {earlier!r} ({first_layer.place(first_key)})"
                    " comes first, and names all that it would",
                    of_value=True,
                )
                break
