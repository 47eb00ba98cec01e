"""How things stand, in blocks of text: status, apps and episodes.

Pure: results and the time in, blocks out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo

from lmkd.ctl.page import Block, Column, Line, Table
from lmkd.ctl.result import Row, flag, number, printable, rows, text, texts
from lmkd.ctl.rulebook import list_warnings
from lmkd.ctl.words import (
    NOT_SAID,
    ago_words,
    count_words,
    date_words,
    share_words,
    signed_words,
    size_words,
    time_words,
)

_DOMAIN_COLUMNS = (
    Column("domain", wraps=True),
    Column("level"),
    Column("available", right=True),
    Column("of", right=True),
    Column("swap free", right=True),
    Column("stalled", right=True),
    Column("episode", right=True),
    Column("why", wraps=True),
)
_APP_COLUMNS = (
    Column("app", right=True),
    Column("pid", right=True),
    Column("name", wraps=True),
    Column("class"),
    Column("size", right=True),
    Column("sheddable", right=True),
    Column("told"),
    Column("answer"),
    Column("trust", right=True),
)
_EPISODE_COLUMNS = (
    Column("episode", right=True),
    Column("opened"),
    Column("when"),
    Column("domain", wraps=True),
    Column("peak"),
    Column("lasted", right=True),
    Column("shed", right=True),
    Column("ended", right=True),
)

_BIRTHS = {
    "netlink": "New processes are under policy at once: the kernel tells of each.",
    "scan": "New processes are under policy at the next look at all processes.",
    "off": "New processes are under policy only when somebody must die.",
}


def describe_status(status: Row) -> list[Block]:
    """Return the daemon, its domains, and what is the matter with it."""
    count = number(status, "app_count")
    clients = number(status, "clients")
    parts = [
        f"lmkd {text(status, 'version', '?')}",
        f"pid {number(status, 'pid') or NOT_SAID}",
        f"up {time_words(_in_seconds(number(status, 'uptime_ms')))}",
    ]
    if count is not None:
        parts.append(count_words(count, "app"))
    if clients is not None:
        parts.append(count_words(clients, "client"))
    blocks: list[Block] = [Line(", ".join(parts))]
    if flag(status, "dry_run"):
        blocks.append(Line("Dry run: it decides and records, but never signals anybody."))
    if flag(status, "strict"):
        blocks.append(Line("Strict: what no rule speaks for is the first to go."))
    relayed_from = text(status, "relayed_from")
    if relayed_from:
        blocks.append(Line(f"Levels are those of the system's daemon, at {relayed_from}."))
    births = _BIRTHS.get(text(status, "process_events"))
    if births:
        blocks.append(Line(births))
    domains = rows(status, "domains")
    blocks += [Line(), Table(_DOMAIN_COLUMNS, tuple(_domain_cells(domain) for domain in domains))]
    for domain in domains:
        blocks += _domain_notes(domain)
    missing = texts(status, "missing")
    if missing:
        blocks += [Line(), Line("Missing here, and what is done instead:")]
        blocks += [Line(line, "  - ") for line in missing]
    spoken = texts(status, "interop")
    if spoken:
        blocks += [Line(), Line("Spoken beside our own protocol:")]
        blocks += [Line(line, "  - ") for line in spoken]
    problem = status.get("reload_problem")
    if isinstance(problem, str):
        blocks += [Line(), Line("The configuration on disk has mistakes; the one before it stays:")]
        blocks += [Line(printable(line), "  ") for line in problem.splitlines()]
    return blocks + list_warnings(status)


def _in_seconds(ms: int | None) -> int | None:
    return None if ms is None else ms // 1000 * 1000


def _domain_cells(domain: Row) -> tuple[str, ...]:
    swap_kib = number(domain, "swap_total_kib")
    swap = "none" if swap_kib == 0 else size_words(number(domain, "swap_free_kib"))
    episode = number(domain, "episode")
    return (
        text(domain, "domain", NOT_SAID),
        text(domain, "level", NOT_SAID),
        size_words(number(domain, "available_kib")),
        size_words(number(domain, "total_kib")),
        swap,
        share_words(number(domain, "some_permyriad")),
        NOT_SAID if episode is None else str(episode),
        text(domain, "reason"),
    )


def _domain_notes(domain: Row) -> list[Block]:
    name = text(domain, "domain", NOT_SAID)
    notes = []
    killing = text(domain, "killing")
    if killing:
        notes.append(f"{name}: {killing} is being ended just now.")
    if domain.get("may_kill") is False:
        notes.append(f"{name}: programs are told here, but nothing is ended.")
    return [Line(note) for note in notes]


def describe_apps(status: Row) -> list[Block]:
    """Return the registered programs as a table."""
    apps = rows(status, "apps")
    count = number(status, "app_count")
    if not apps and not count:
        return [Line("No program has registered.")]
    blocks: list[Block] = [Table(_APP_COLUMNS, tuple(_app_cells(app) for app in apps))]
    left_out = 0 if count is None else count - len(apps)
    if left_out > 0:
        blocks.append(Line(f"... and {left_out} more, which the daemon does not list."))
    return blocks


def _app_cells(app: Row) -> tuple[str, ...]:
    return (
        _number_cell(app, "app"),
        _number_cell(app, "pid"),
        text(app, "name", NOT_SAID),
        text(app, "class", NOT_SAID),
        size_words(number(app, "size_kib")),
        size_words(number(app, "sheddable_kib")),
        text(app, "told", NOT_SAID),
        text(app, "answer", NOT_SAID),
        signed_words(number(app, "trust")),
    )


def _number_cell(holder: Row, key: str) -> str:
    value = number(holder, key)
    return NOT_SAID if value is None else str(value)


def describe_episodes(
    episodes: Sequence[Row],
    total: int | None,
    now_unix_ms: int,
    zone: tzinfo | None,
) -> list[Block]:
    """Return episodes as a table, in the order given."""
    if not episodes:
        return [Line("No episode yet: memory has not been short.")]
    cells = tuple(_episode_cells(episode, now_unix_ms, zone) for episode in episodes)
    blocks: list[Block] = [Table(_EPISODE_COLUMNS, cells)]
    earlier = 0 if total is None else total - len(episodes)
    if earlier > 0:
        blocks.append(Line(f"... and {earlier} earlier: lmkctl history --limit {total}"))
    return blocks


def _episode_cells(episode: Row, now_unix_ms: int, zone: tzinfo | None) -> tuple[str, ...]:
    opened_ms = number(episode, "opened_unix_ms")
    lasted = time_words(number(episode, "duration_ms"))
    if flag(episode, "open"):
        lasted = "going on"
    elif episode.get("closed") is False:
        lasted += ", cut short" if "open" in episode else ", not over"
    return (
        _number_cell(episode, "episode"),
        date_words(opened_ms, zone),
        "" if opened_ms is None else ago_words(opened_ms, now_unix_ms),
        text(episode, "domain", NOT_SAID),
        text(episode, "peak", NOT_SAID),
        lasted,
        size_words(number(episode, "shed_kib")),
        _number_cell(episode, "kills"),
    )
