"""What a configuration means, and how files are laid over each other."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from lmkd import config
from lmkd.config import find_config_files, load_config
from lmkd.model import SYSTEM_DOMAIN, AppClass, Level
from lmkd.policy.settings import Amount, FloorStep, StallStep

from .files import load, write

MIB = 1024
ALL = frozenset(AppClass) - {AppClass.SYSTEM}


def test_the_shipped_defaults_are_the_classes_of_the_design() -> None:
    classes = load_config([]).settings.classes
    assert {
        which.word: (one.oom_score_adj, one.killed_at, one.grace_us, one.time_to_exit_us)
        for which, one in classes.items()
    } == {
        "cached": (900, Level.MEDIUM, 1_000_000, 500_000),
        "background": (700, Level.CRITICAL, 3_000_000, 2_000_000),
        "service": (500, Level.CRITICAL, 5_000_000, 5_000_000),
        "perceptible": (200, Level.CRITICAL, 5_000_000, 5_000_000),
        "foreground": (0, Level.CRITICAL, 5_000_000, 5_000_000),
        "system": (-900, None, 5_000_000, 5_000_000),
    }


def test_without_a_file_the_system_is_watched_by_the_defaults() -> None:
    loaded = load_config([])
    assert loaded.files == ("lmkd/defaults.toml",)
    assert loaded.socket == "/run/lmkd/socket"
    assert loaded.state_dir == "/var/lib/lmkd"
    assert (loaded.project, loaded.process_events) == ("all", "auto")
    assert loaded.scan_every_us == 5_000_000
    assert (loaded.recordings, loaded.recording_most_kib) == (20, 4 * MIB)
    assert loaded.warnings == ()
    policy = loaded.settings
    assert (policy.domains, policy.killable, policy.own_uid) == ((), ALL, None)
    assert (policy.strict, policy.unruled, policy.dry_run) == (False, AppClass.SERVICE, False)
    assert all(rule.shipped for rule in policy.rules.rules)


def test_every_unit_is_understood(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [service]
        socket = "/tmp/s"
        history_episodes = 7
        claim_ceiling = "service"
        [policy]
        strict = true
        unruled = "background"
        project = "registered"
        [process_events]
        source = "scan"
        scan_every = "2s"
        [recording]
        episodes = 0
        most = "64KiB"
        [timing]
        calm_hold = "2min"
        rest = "5 s"
        settle = "0ms"
        [victims]
        least = "0KiB"
        share = "12.5%"
        most = "2TiB"
        [floor.low]
        enter = "20%"
        leave = "30%"
        most = "2GiB"
        [stall.low]
        some = "0.05%"
        full = "1.2 %"
        """,
    )
    loaded = load_config([path])
    assert (loaded.socket, loaded.history_episodes) == ("/tmp/s", 7)
    assert (loaded.project, loaded.process_events) == ("registered", "scan")
    assert (loaded.scan_every_us, loaded.recordings, loaded.recording_most_kib) == (
        2_000_000,
        0,
        64,
    )
    policy = loaded.settings
    assert policy.claim_ceiling is AppClass.SERVICE
    assert (policy.strict, policy.unruled) == (True, AppClass.BACKGROUND)
    assert (policy.calm_hold_us, policy.rest_us, policy.settle_us) == (120_000_000, 5_000_000, 0)
    assert policy.min_victim == Amount(1250, 2 << 30)
    assert policy.min_victim_least_kib == 0
    assert policy.floor[Level.LOW] == FloorStep(Amount(2000, 2048 * MIB), Amount(3000, 3072 * MIB))
    assert policy.stall[Level.LOW] == StallStep(5, 120)


def test_the_upper_bound_of_leaving_keeps_the_distance_of_the_shares() -> None:
    """Otherwise a big machine would leave a floor where it entered it."""
    for step in load_config([]).settings.floor.values():
        assert step.enter.of(1 << 30) < step.leave.of(1 << 30)


@pytest.mark.parametrize(
    ("kill", "killable"),
    [
        ("true", ALL),
        ("false", frozenset()),
        ("[]", frozenset()),
        ('["cached", "background"]', frozenset({AppClass.CACHED, AppClass.BACKGROUND})),
    ],
)
def test_what_may_die_is_all_none_or_some_classes(
    tmp_path: Path, kill: str, killable: frozenset[AppClass]
) -> None:
    text = f'[system]\nkill = {kill}\n[[domain]]\ncgroup = "/a"\n[[domain]]\ncgroup = "/b"\nkill = {kill}\n'
    policy = load(tmp_path, text).settings
    assert policy.of(SYSTEM_DOMAIN).killable == killable
    assert policy.of("/a").killable == ALL
    assert policy.of("/b").killable == killable
    assert policy.of("/c").killable == frozenset()


def test_a_later_file_is_laid_over_an_earlier_one_key_by_key(tmp_path: Path) -> None:
    first = write(
        tmp_path, '[classes.cached]\ngrace = "2s"\ntime_to_exit = "1s"\n', "10-first.toml"
    )
    second = write(tmp_path, '[classes.cached]\ngrace = "3s"\n', "20-second.toml")
    loaded = load_config([first, second])
    cached = loaded.settings.classes[AppClass.CACHED]
    assert (cached.grace_us, cached.time_to_exit_us) == (3_000_000, 1_000_000)
    assert cached.oom_score_adj == 900
    assert loaded.files == ("lmkd/defaults.toml", str(first), str(second))


def test_harm_above_critical_is_a_choice(tmp_path: Path) -> None:
    policy = load(tmp_path, '[stall.harm]\nsome = "80%"\nfull = "40%"\n').settings
    assert policy.stall_harm == StallStep(8000, 4000)


def test_the_files_of_etc_or_of_a_session_are_found_in_the_order_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "SYSTEM_DIRECTORY", tmp_path)
    assert find_config_files(None) == []
    (tmp_path / "lmkd.d").mkdir()
    for name in ("b.toml", "a.toml", "c.conf"):
        write(tmp_path / "lmkd.d", "", name)
    write(tmp_path, "")
    names = [path.name for path in find_config_files(None)]
    assert names == ["lmkd.toml", "a.toml", "b.toml"]
    session = tmp_path / "session"
    assert find_config_files(None, session) == []
    session.mkdir()
    assert find_config_files(None, session) == []
    write(session, "")
    assert find_config_files(None, session) == [session / "lmkd.toml"]
    other = tmp_path / "other.toml"
    assert find_config_files(other) == find_config_files(other, session) == [other]


# --- the pinned policy of the tests -----------------------------------------------------------------------------------


def paths_of(table: dict[str, object], at: str = "") -> set[str]:
    """Return every key below which there is a value."""
    found: set[str] = set()
    for name, value in table.items():
        if isinstance(value, dict):
            found |= paths_of(value, f"{at}{name}.")
        else:
            found.add(at + name)
    return found


def test_the_pinned_policy_names_every_threshold_and_every_shipped_set() -> None:
    """Else a tuned default would move an edge in the tables of tests/policy."""
    root = Path(__file__).parents[2]
    shipped = tomllib.loads((root / "lmkd/defaults.toml").read_text())
    pinned = tomllib.loads((root / "tests/policy/pinned.toml").read_text())
    of_the_service = (
        "service.socket",
        "service.state_dir",
        "service.history",
        "process_events",
        "recording",
        "interop",
        "rule",
    )
    policy = {key for key in paths_of(shipped) if not key.startswith(of_the_service)}
    assert policy == paths_of(pinned)
