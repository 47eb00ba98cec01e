"""Read the configuration files into Settings, and say exactly what is wrong with them.

Every mistake of every file is reported in one pass: file, line, key, and what was expected. Nothing here applies a
configuration; who calls decides what to do with the mistakes (a start refuses, a reload keeps the old policy).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lmkd.config_schema import RISING, SCHEMA, BadValue, check_boolean, check_cgroup
from lmkd.model import SYSTEM_DOMAIN, AppClass, Level
from lmkd.policy.settings import Amount, ClassSettings, FloorStep, Settings, StallStep

T = TypeVar("T")
Table = dict[str, Any]
Key = tuple[str, ...]

SYSTEM_CONFIG = Path("/etc/lmkd/lmkd.toml")
SYSTEM_CONFIG_DIR = Path("/etc/lmkd/lmkd.d")
DESCRIBED_MOST = 80
"""Characters of a wrong value that are repeated in a mistake."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong in a configuration."""

    file: str
    line: int | None
    key: str
    expected: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.expected}" if self.key else f"{place}: {self.expected}"


class ConfigError(Exception):
    """A configuration with mistakes, all of them."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in mistakes))


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration: the policy, and what the service itself needs."""

    settings: Settings
    socket: str
    state_dir: str
    history_episodes: int
    files: tuple[str, ...]
    """Where it came from, in the order in which they were laid over each other."""


def find_config_files(given: Path | None) -> list[Path]:
    """Return the files to read: the one given alone, or those of /etc that are there."""
    if given is not None:
        return [given]
    found = [SYSTEM_CONFIG] if SYSTEM_CONFIG.exists() else []
    if SYSTEM_CONFIG_DIR.is_dir():
        found.extend(sorted(SYSTEM_CONFIG_DIR.glob("*.toml")))
    return found


def load_config(files: Iterable[Path]) -> Config:
    """Return the shipped defaults with these files laid over them.

    Raises ConfigError with every mistake in every file.
    """
    layers = [_parse("lmkd/defaults.toml", _shipped())]
    mistakes: list[Mistake] = []
    for path in files:
        try:
            layers.append(_parse(str(path), path.read_bytes()))
        except OSError as error:
            mistakes.append(Mistake(str(path), None, "", f"cannot be read: {error.strerror}"))
        except ConfigError as error:
            mistakes.extend(error.mistakes)
    reader = _Reader(layers, mistakes)
    for layer in layers[1:]:
        reader.check_keys(layer)
    config = _build(reader)
    if mistakes or config is None:
        raise ConfigError(mistakes)
    return config


# --- files and places ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Layer:
    file: str
    table: Table
    text: str
    lines: dict[Key, int] | None = None
    """Found when the first mistake asks for one."""

    def line(self, key: Key) -> int | None:
        """Return the line of a key; inside an inline table or array, that of the key which holds it."""
        if self.lines is None:
            self.lines = _find_lines(self.text)
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key)


def _shipped() -> bytes:
    # Not importlib.resources: with zipfile, bz2, lzma and tempfile it would cost the daemon 1 MiB for good.
    return Path(__file__).with_name("defaults.toml").read_bytes()


def _parse(file: str, content: bytes) -> _Layer:
    try:
        text = content.decode()
        table = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError([Mistake(file, line, "", "not UTF-8 text")]) from None
    except tomllib.TOMLDecodeError as error:
        said = re.match(r"(.*) \(at line (\d+), column \d+\)", str(error))
        line_number = int(said[2]) if said else text.count("\n") + 1
        message = said[1] if said else str(error).removesuffix(" (at end of document)")
        raise ConfigError([Mistake(file, line_number, "", f"not TOML: {message}")]) from None
    except RecursionError:
        raise ConfigError([Mistake(file, None, "", "not TOML: nested too deep")]) from None
    except ValueError as error:
        # int() of Python 3.11 refuses more than 4,300 digits; tomllib lets that through.
        raise ConfigError([Mistake(file, None, "", f"not TOML: {error}")]) from None
    return _Layer(file, table, text)


_HEADER = r"\s*\[(\[)?\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$"
_NAME = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_ASSIGNMENT = rf"\s*({_NAME}(?:\s*\.\s*{_NAME})*)\s*="
"""Compiled when there is a mistake to place, and not before: it takes 1.5 MiB, which Python does not give back."""


def _find_lines(text: str) -> dict[Key, int]:
    """Return the line of each table and key. tomllib does not keep them; headers and `key =` are enough to look for.

    An element of an array of tables has its index as a part of the key, as text.
    """
    lines: dict[Key, int] = {}
    counts: dict[Key, int] = {}
    prefix: Key = ()
    # Not splitlines(): it breaks at U+2028 and its like too, which TOML and editors do not.
    for number, line in enumerate(text.split("\n"), 1):
        if header := re.match(_HEADER, line):
            prefix = _split_key(header[2])
            if header[1]:
                index = counts.get(prefix, 0)
                counts[prefix] = index + 1
                prefix = (*prefix, str(index))
            for length in range(1, len(prefix) + 1):
                lines.setdefault(prefix[:length], number)
        elif assignment := re.match(_ASSIGNMENT, line):
            key = (*prefix, *_split_key(assignment[1]))
            for length in range(len(prefix) + 1, len(key) + 1):
                lines.setdefault(key[:length], number)
    return lines


def _split_key(dotted: str) -> Key:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


# --- reading ------------------------------------------------------------------------------------------------


class _Reader:
    """Values by key, from the topmost layer that has them; keeps the mistakes it meets."""

    def __init__(self, layers: Sequence[_Layer], mistakes: list[Mistake]) -> None:
        self.layers = layers
        self.mistakes = mistakes

    def check_keys(self, layer: _Layer) -> None:
        """Check every key and value of one file, so that what a later file covers is not left wrong."""
        self._check_table(layer, (), layer.table, SCHEMA)

    def _check_table(self, layer: _Layer, at: Key, table: Table, schema: dict[str, Any]) -> None:
        for name, value in table.items():
            key = (*at, name)
            expected = schema.get(name)
            if expected is None:
                self._mistake(layer, key, "unknown key" + _suggest(name, schema))
            elif isinstance(expected, dict):
                if isinstance(value, dict):
                    self._check_table(layer, key, value, expected)
                else:
                    self._mistake(layer, key, f"expected a table, got {_describe(value)}")
            elif isinstance(expected, list):
                self._check_array(layer, key, value, expected[0])
            else:
                try:
                    expected(value)
                except BadValue as bad:
                    self._mistake(layer, key, f"expected {bad}, got {_describe(value)}")

    def _check_array(self, layer: _Layer, key: Key, value: object, schema: dict[str, Any]) -> None:
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self._mistake(layer, key, f"expected [[{key[-1]}]] tables, got {_describe(value)}")
            return
        for index, item in enumerate(value):
            self._check_table(layer, (*key, str(index)), item, schema)
            if "cgroup" not in item:
                self._mistake(layer, (*key, str(index)), 'needs cgroup = "/path"')

    def _mistake(self, layer: _Layer, key: Key, expected: str) -> None:
        self.mistakes.append(Mistake(layer.file, layer.line(key), ".".join(key), expected))

    def value(self, *key: str) -> Any:
        """Return the checked value of a key that the defaults have."""
        _, value = self._topmost(key)
        check: Any = SCHEMA
        for part in key:
            check = check[part]
        try:
            return check(value)
        except BadValue:
            # The mistake is already kept. The defaults stand in, so that the order of thresholds can be checked.
            return check(_dig(self.layers[0].table, key))

    def domains(self) -> dict[str, bool]:
        """Return the cgroups to watch, of all layers, and whether something in them may die."""
        found: dict[str, bool] = {}
        for layer in self.layers:
            items = layer.table.get("domain", [])
            for item in items if isinstance(items, list) else []:
                try:
                    found[check_cgroup(item["cgroup"])] = check_boolean(item.get("kill", True))
                except (BadValue, TypeError, KeyError, AttributeError):
                    continue
        return found

    def _topmost(self, key: Key) -> tuple[_Layer, object]:
        for layer in reversed(self.layers[1:]):
            value = _dig(layer.table, key)
            if value is not None:
                return layer, value
        return self.layers[0], _dig(self.layers[0].table, key)

    def refuse_order(self, what: str, keys: Sequence[Key], values: Sequence[int]) -> None:
        """Keep a mistake where a value is not larger than the one before it."""
        for index in range(1, len(values)):
            if values[index - 1] >= values[index]:
                first, second = ".".join(keys[index - 1]), ".".join(keys[index])
                layers = [self._topmost(key)[0] for key in keys[index - 1 : index + 1]]
                blame = max((0, 1), key=lambda one: (self.layers.index(layers[one]), one))
                self._mistake(
                    layers[blame],
                    keys[index - 1 + blame],
                    f"{what}: {first} must be less than {second}",
                )


def _dig(table: object, key: Key) -> object:
    for part in key:
        if not isinstance(table, dict):
            return None
        table = table.get(part)
    return table


def _suggest(name: str, schema: Mapping[str, object]) -> str:
    # Imported here: a mistake is rare, and difflib costs the daemon a third of a MiB.
    from difflib import get_close_matches

    near = get_close_matches(name, schema, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return "; known here: " + ", ".join(schema)


def _describe(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        said = repr(value)
    except (
        ValueError
    ):  # a hexadecimal number of more digits than Python is willing to write in decimal
        return "a number without end"
    return said if len(said) <= DESCRIBED_MOST else said[: DESCRIBED_MOST - 3] + "..."


# --- the whole ----------------------------------------------------------------------------------------------


def _build(reader: _Reader) -> Config | None:
    value = reader.value
    _check_orders(reader)
    classes = {
        app_class: ClassSettings(
            value("classes", app_class.word, "oom_score_adj"),
            value("classes", app_class.word, "killed_at"),
            value("classes", app_class.word, "grace"),
            value("classes", app_class.word, "time_to_exit"),
        )
        for app_class in AppClass
    }
    _check_classes(reader, classes)
    if reader.mistakes:
        return None
    domains = reader.domains()
    killing = {path for path, kill in domains.items() if kill}
    if value("system", "kill"):
        killing.add(SYSTEM_DOMAIN)
    settings = Settings(
        classes=classes,
        stall={level: _stall_step(reader, level.word) for level in RISING},
        stall_emergency_permyriad=value("stall", "emergency", "full"),
        stall_harm=_stall_step(reader, "harm"),
        floor={level: _floor_step(reader, level.word) for level in RISING},
        floor_emergency=Amount(
            value("floor", "emergency", "enter"), value("floor", "emergency", "most")
        ),
        swap={level: value("swap", level.word) for level in RISING},
        thrash={level: value("thrash", level.word) for level in RISING},
        forecast={
            Level.LOW: value("forecast", "low"),
            Level.MEDIUM: value("forecast", "medium"),
        },
        forecast_slope_kib_s=value("forecast", "slope_per_second"),
        calm_hold_us=value("timing", "calm_hold"),
        rest_us=value("timing", "rest"),
        exit_emergency_us=value("timing", "exit_in_emergency"),
        min_victim=Amount(value("victims", "share"), value("victims", "most")),
        min_victim_least_kib=value("victims", "least"),
        settle_us=value("timing", "settle"),
        unkillable_us=value("timing", "unkillable"),
        read_idle_us=value("timing", "read_idle"),
        read_pressed_us=value("timing", "read_pressed"),
        read_emergency_us=value("timing", "read_in_emergency"),
        claim_ceiling=value("service", "claim_ceiling"),
        domains=(SYSTEM_DOMAIN, *domains),
        killing_domains=frozenset(killing),
    )
    return Config(
        settings,
        value("service", "socket"),
        value("service", "state_dir"),
        value("service", "history_episodes"),
        tuple(layer.file for layer in reader.layers),
    )


def _stall_step(reader: _Reader, name: str) -> StallStep:
    return StallStep(reader.value("stall", name, "some"), reader.value("stall", name, "full"))


def _floor_step(reader: _Reader, name: str) -> FloorStep:
    enter = reader.value("floor", name, "enter")
    leave = reader.value("floor", name, "leave")
    most_kib = reader.value("floor", name, "most")
    # The upper bounds keep the distance that the shares have: both are of the same machine.
    return FloorStep(Amount(enter, most_kib), Amount(leave, most_kib * leave // max(enter, 1)))


def _check_orders(reader: _Reader) -> None:
    rising = [level.word for level in RISING]
    falling = [*reversed(rising)]
    for which in ("some", "full"):
        _check_order(reader, "stall", "a higher level needs more stall", rising, which)
    _check_order(
        reader, "stall", "an emergency is more than critical", ["critical", "emergency"], "full"
    )
    # Nothing of the kind between harm and critical: to tell first and kill later, or the other way, is a choice.
    _check_order(reader, "stall", "an emergency is more than harm", ["harm", "emergency"], "full")
    _check_order(
        reader, "floor", "a higher level has less memory left", ["emergency", *falling], "enter"
    )
    _check_order(
        reader, "floor", "a higher level has less memory left", ["emergency", *falling], "most"
    )
    for level in rising:
        keys = [("floor", level, "enter"), ("floor", level, "leave")]
        values = [reader.value(*key) for key in keys]
        reader.refuse_order("a floor is left above where it was entered", keys, values)
    _check_order(reader, "swap", "a higher level has less swap left", falling)
    _check_order(reader, "thrash", "a higher level has more refaults", rising)
    _check_order(reader, "forecast", "a higher level has less time left", ["medium", "low"])
    names = ("read_in_emergency", "read_pressed", "read_idle")
    timing: list[Key] = [("timing", name) for name in names]
    reader.refuse_order(
        "read more often under pressure", timing, [reader.value(*key) for key in timing]
    )


def _check_order(
    reader: _Reader, section: str, what: str, names: Sequence[str], leaf: str | None = None
) -> None:
    keys: list[Key] = [(section, name) if leaf is None else (section, name, leaf) for name in names]
    reader.refuse_order(what, keys, [reader.value(*key) for key in keys])


def _check_classes(reader: _Reader, classes: Mapping[AppClass, ClassSettings]) -> None:
    """Refuse an order in which a class could die before a lower one, or the kernel would see it so."""
    words = [app_class.word for app_class in AppClass]
    keys: list[Key] = [("classes", word, "oom_score_adj") for word in reversed(words)]
    reader.refuse_order(
        "the kernel must see the classes in our order",
        keys,
        [reader.value(*key) for key in keys],
    )
    never = Level.CRITICAL + 1
    at = [
        level if (level := classes[app_class].killed_at) is not None else never
        for app_class in AppClass
    ]
    for app_class in list(AppClass)[1:]:
        if at[app_class] < at[app_class - 1]:
            key = ("classes", app_class.word, "killed_at")
            layer, _ = reader._topmost(key)
            below = AppClass(app_class - 1).word
            reader._mistake(
                layer, key, f"must not be below that of {below}, which is the lower class"
            )
    if classes[AppClass.SYSTEM].killed_at is not None:
        key = ("classes", "system", "killed_at")
        reader._mistake(reader._topmost(key)[0], key, 'expected "never": that is what system means')
