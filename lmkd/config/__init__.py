"""Read the configuration files into Settings, and say exactly what is wrong with them.

Every mistake of every file is reported in one pass: file, line, column, key, and what was expected. Nothing here
applies a configuration; who calls decides what to do with the mistakes (a start refuses, a reload keeps the old
policy). What is merely odd comes beside a good configuration, as warnings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lmkd.config.domains import Domains
from lmkd.config.layers import Mistakes, check_table, parse_layer
from lmkd.config.mistakes import ConfigError, Mistake
from lmkd.config.rules import Rules
from lmkd.config.schema import SCHEMA
from lmkd.config.settings import Source, Values, build_settings
from lmkd.config.warn import find_oddities
from lmkd.policy.settings import Settings

__all__ = ["Config", "ConfigError", "Interop", "Mistake", "find_config_files", "load_config"]

SYSTEM_DIRECTORY = Path("/etc/lmkd")
# Not importlib.resources: with zipfile, bz2, lzma and tempfile it would cost the daemon 1 MiB for good.
_SHIPPED = Path(__file__).parents[1] / "defaults.toml"
SHIPPED_NAME = "lmkd/defaults.toml"


@dataclass(frozen=True, slots=True)
class Interop:
    """Which interfaces that programs already speak are spoken, beside our own protocol."""

    low_memory_monitor: bool = False
    memory_pressure: bool = False
    prekill_hook: bool = False
    prekill_timeout_us: int = 3_000_000
    """How long systemd-oomd waits for the hook: its PrekillHookTimeoutSec=."""
    desktop_notices: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration: the policy, and what the service itself needs."""

    settings: Settings
    socket: str
    state_dir: str
    history_episodes: int
    files: tuple[str, ...]
    """Where it came from, in the order in which they were laid over each other."""
    project: str = "all"
    """Whose oom_score_adj is written: "all", "registered" or "none"."""
    process_events: str = "auto"
    """How new processes are heard of: "netlink", "scan" or "auto"."""
    scan_every_us: int = 5_000_000
    recordings: int = 0
    """How many recordings of episodes are kept."""
    recording_most_kib: int = 0
    """The size that one of them may reach."""
    interop: Interop = Interop()
    warnings: tuple[Mistake, ...] = ()
    """What is odd, but no mistake."""


def find_config_files(given: Path | None, directory: Path | None = None) -> list[Path]:
    """Return the files to read: the one given alone, or those that are there in /etc or the directory of a session."""
    if given is not None:
        return [given]
    directory = SYSTEM_DIRECTORY if directory is None else directory
    main, more = directory / "lmkd.toml", directory / "lmkd.d"
    return [
        *([main] if main.exists() else []),
        *(sorted(more.glob("*.toml")) if more.is_dir() else []),
    ]


def load_config(files: Iterable[Path]) -> Config:
    """Return the shipped defaults with these files laid over them.

    Raises ConfigError with every mistake in every file.
    """
    mistakes: Mistakes = {}
    layers = [parse_layer(SHIPPED_NAME, _SHIPPED.read_bytes(), shipped=True)]
    order: list[str] = []
    for path in files:
        order.append(str(path))
        try:
            layers.append(parse_layer(str(path), path.read_bytes()))
        except OSError as error:
            told = f"cannot be read: {error.strerror}"
            mistakes[Mistake(str(path), None, "", told)] = None
        except ConfigError as error:
            mistakes.update(dict.fromkeys(error.mistakes))
    for layer in layers:
        check_table(layer, (), layer.table, SCHEMA, mistakes)
    values = Values([Source(layer, (), layer.table) for layer in layers], mistakes)
    settings = build_settings(values)
    rules = Rules(layers, mistakes)
    domains = Domains(layers, mistakes)
    settings = replace(settings, rules=rules.rules)
    settings = replace(settings, domains=domains.build(settings, values))
    if mistakes:
        raise ConfigError(_sorted(mistakes, order))
    return Config(
        settings=settings,
        socket=values.get("service", "socket"),
        state_dir=values.get("service", "state_dir"),
        history_episodes=values.get("service", "history_episodes"),
        files=tuple(layer.file for layer in layers),
        project=values.get("policy", "project"),
        process_events=values.get("process_events", "source"),
        scan_every_us=values.get("process_events", "scan_every"),
        recordings=values.get("recording", "episodes"),
        recording_most_kib=values.get("recording", "most"),
        interop=Interop(
            low_memory_monitor=values.get("interop", "low_memory_monitor"),
            memory_pressure=values.get("interop", "memory_pressure"),
            prekill_hook=values.get("interop", "prekill_hook"),
            prekill_timeout_us=values.get("interop", "prekill_timeout"),
            desktop_notices=values.get("interop", "desktop_notices"),
        ),
        warnings=tuple(_sorted(find_oddities(layers, rules, domains, settings), order)),
    )


def _sorted(mistakes: Iterable[Mistake], order: Sequence[str]) -> list[Mistake]:
    """Return mistakes as they stand in their files; what has no place comes first of its file."""
    return sorted(
        mistakes,
        key=lambda one: (
            order.index(one.file) if one.file in order else -1,
            one.line or 0,
            one.column or 0,
        ),
    )
