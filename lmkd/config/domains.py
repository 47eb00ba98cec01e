"""[[domain]]: cgroups that are watched beside the system, each with what differs there.

The first domain whose glob names a cgroup is its policy. Those of the file that is read last come first, within a file
they stand as written; one glob in several files is one domain, laid over key by key, in the place of the last.
"""

from __future__ import annotations

from lmkd.config.layers import Layer, Mistakes, check_table, checked, find_tables
from lmkd.config.mistakes import BadValue
from lmkd.config.places import Key
from lmkd.config.schema import DOMAIN_SCHEMA, KILLABLE, check_domain, check_kill
from lmkd.config.settings import Source, Values, build_domain_settings
from lmkd.model import AppClass
from lmkd.policy.settings import DomainPolicy, Settings


class Domains:
    """What the files say of domains: by glob, in order, where it is said."""

    def __init__(self, layers: list[Layer], mistakes: Mistakes) -> None:
        self._sources: dict[str, list[Source]] = {}
        for layer in reversed(layers):
            seen: dict[str, Key] = {}
            for at, table in find_tables(layer, "domain", mistakes):
                check_table(layer, at, table, DOMAIN_SCHEMA, mistakes)
                if "cgroup" not in table:
                    mistakes[layer.mistake(at, 'needs cgroup = "/path"')] = None
                    continue
                key = (*at, "cgroup")
                pattern = checked(layer, key, table["cgroup"], check_domain, mistakes)
                if pattern is None:
                    continue
                if pattern in seen:
                    first = layer.place(seen[pattern])
                    told = f"{pattern!r} has a [[domain]] in this file already, at {first}"
                    mistakes[layer.mistake(key, told, of_value=True)] = None
                    continue
                seen[pattern] = at
                # Layers come from the last one down, and a source that is to lie on top is last.
                self._sources.setdefault(pattern, []).insert(0, Source(layer, at, table))

    def build(self, system: Settings, values: Values) -> tuple[DomainPolicy, ...]:
        """Return the policies in order, and keep what is wrong with the order of their merged values."""
        return tuple(
            DomainPolicy(
                pattern,
                build_domain_settings(system, values.laid_over(sources), _killable(sources)),
            )
            for pattern, sources in self._sources.items()
        )

    def place(self, pattern: str) -> tuple[Layer, Key]:
        """Return where a domain is written, the last of its places."""
        source = self._sources[pattern][-1]
        return source.layer, (*source.at, "cgroup")


def _killable(sources: list[Source]) -> frozenset[AppClass]:
    for source in reversed(sources):
        if "kill" in source.table:
            try:
                return check_kill(source.table["kill"])
            except BadValue:
                break
    return KILLABLE
