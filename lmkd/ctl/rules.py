"""The commands about rules that ask no daemon: `rules check` reads files, `rules test` tries a process on them.

Files and /proc are read here, and nothing is changed. What is printed is made of the same document as --json prints,
so a script and a person are told the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmkd.cgroup_paths import glob_matches, paths_up
from lmkd.config import Config, ConfigError, Mistake, find_config_files, load_config
from lmkd.ctl.page import Block, Column, Line, Page, Table
from lmkd.ctl.result import Row, flag, number, printable, row, rows, text, texts
from lmkd.ctl.words import NOT_SAID, count_words, size_words, time_words
from lmkd.kernel.processes import read_process
from lmkd.model import AppClass, Process, Unit
from lmkd.policy.classify import Classed, ceiling_of, classify, fixed_reason
from lmkd.policy.settings import Settings

DONE, FAILED = 0, 1
NOBODY = 0
"""Stands for the daemon's own pid, which is not known here."""
_TRIED_COLUMNS = (
    Column("", right=True),
    Column("rule", wraps=True),
    Column("at", wraps=True),
    Column("", wraps=True),
)


@dataclass(frozen=True, slots=True)
class Supposed:
    """What is supposed of a process; None: nothing, so what was read of it stands, or an ordinary user's program."""

    comm: str | None = None
    exe: str | None = None
    cmdline: str | None = None
    environ: tuple[str, ...] | None = None
    uid: int | None = None
    gid: int | None = None
    cgroup: str | None = None
    parent: str | None = None
    oom_score_adj: int | None = None
    resident_kib: int | None = None
    registered: bool = False

    def put_on(self, process: Process) -> Process:
        """Return the process with what is supposed in place of what was read."""
        names = {"parent": "parent_comm"}
        supposed = {
            names.get(name, name): value
            for name in self.__slots__
            if name != "registered" and (value := getattr(self, name)) is not None
        }
        return replace(process, **supposed)


_ORDINARY = Process(
    pid=2, start_ticks=0, ppid=1, comm="", exe="", uid=1000, gid=1000, cgroup="/", oom_score_adj=0,
    anon_kib=0, swap_kib=0, state="S",
)  # fmt: skip


def run_check(page: Page, files: Sequence[Path], *, as_json: bool) -> int:
    """Print what is wrong and what is odd about configuration files; return the exit code.

    Without files, those of /etc are read. Each is laid over the ones before it, as the daemon does.
    """
    checked = check_files(files or find_config_files(None))
    if as_json:
        _print_json(page, checked)
    else:
        page.draw(describe_check(checked))
    return FAILED if rows(checked, "mistakes") else DONE


def run_test(
    page: Page, pid: int | None, supposed: Supposed, files: Sequence[Path], *, as_json: bool
) -> int:
    """Print how a process fares under the rules; return the exit code. Without a pid, it is supposed altogether."""
    found = files or find_config_files(None)
    try:
        config = load_config(found)
    except ConfigError:
        return run_check(page, found, as_json=as_json)
    process: Process | None = _ORDINARY
    if pid is not None:
        process = read_process("/", pid, config.settings.rules.details)
    if process is None:
        problem = f"no process {pid}, or it may not be read"
        if as_json:
            _print_json(page, {"error": problem})
        else:
            page.draw([Line(problem)])
        return FAILED
    process = supposed.put_on(process)
    tried = try_rules(config, process, pid=pid, registered=supposed.registered)
    if as_json:
        _print_json(page, tried)
    else:
        page.draw(describe_trial(tried))
    return DONE


def _print_json(page: Page, document: Row) -> None:
    page.out.write(json.dumps(document) + "\n")
    page.out.flush()


# --- check ----------------------------------------------------------------------------------------------------------


def check_files(files: Sequence[Path]) -> dict[str, Any]:
    """Return what is wrong and what is odd, as a document."""
    document: dict[str, Any] = {"files": [str(path) for path in files]}
    try:
        config = load_config(files)
    except ConfigError as error:
        return {**document, "mistakes": [_told(one) for one in error.mistakes], "warnings": []}
    own = [rule for rule in config.settings.rules.rules if not rule.shipped]
    return {
        **document,
        "mistakes": [],
        "warnings": [_told(one) for one in config.warnings],
        "rules": len(own),
        "shipped_rules": len(config.settings.rules.rules) - len(own),
        "domains": len(config.settings.domains),
    }


def _told(mistake: Mistake) -> dict[str, Any]:
    return {
        "file": mistake.file,
        "line": mistake.line,
        "column": mistake.column,
        "key": mistake.key,
        "text": mistake.expected,
    }


def describe_check(checked: Row) -> list[Block]:
    """Return mistakes and warnings, a line each, and a summary."""
    blocks: list[Block] = []
    for key, lead in (("mistakes", ""), ("warnings", "warning: ")):
        for one in rows(checked, key):
            told = Mistake(
                text(one, "file"),
                number(one, "line"),
                text(one, "key"),
                text(one, "text"),
                number(one, "column"),
            )
            blocks.append(Line(printable(f"{told.place}: {lead}{told.text}")))
    mistakes, warnings = len(rows(checked, "mistakes")), len(rows(checked, "warnings"))
    summary = [count_words(mistakes, "mistake")]
    if not mistakes:
        odd = [count_words(warnings, "warning")] if warnings else []
        counted = [
            count_words(number(checked, "rules") or 0, "rule"),
            f"{number(checked, 'shipped_rules')} shipped ones after them",
            count_words(number(checked, "domains") or 0, "domain"),
        ]
        summary = ["no mistakes", *odd, *counted]
    files = texts(checked, "files")
    read = count_words(len(files), "file") if files else "no file, the shipped defaults alone"
    return [*blocks, Line(f"{read}: {', '.join(summary)}")]


# --- test -----------------------------------------------------------------------------------------------------------


def try_rules(
    config: Config, process: Process, *, pid: int | None, registered: bool
) -> dict[str, Any]:
    """Return how a process fares under the rules, as a document. A pid of None: it is supposed."""
    settings = config.settings
    fixed = fixed_reason(process, settings, NOBODY)
    classed = classify(process, settings, NOBODY, registered=registered)
    tried = (
        []
        if fixed is not None
        else [
            {"rule": one.rule.name, "place": one.rule.place, "failed": one.failed}
            for one in settings.rules.try_all(process, registered=registered)
        ]
    )
    return {
        "process": {
            "pid": pid,
            "comm": process.comm,
            "exe": process.exe or None,
            "uid": process.uid,
            "gid": process.gid,
            "cgroup": process.cgroup,
            "oom_score_adj": process.oom_score_adj,
            "resident_kib": process.resident_kib,
            "registered": registered,
        },
        "tried": tried,
        "verdict": _verdict(settings, classed, process),
    }


def _verdict(settings: Settings, classed: Classed, process: Process) -> dict[str, Any]:
    meant = settings.classes[classed.app_class]
    rule = classed.rule
    verdict = None if rule is None else rule.verdict
    unit = Unit.PROCESS if verdict is None else verdict.unit
    grace_us = None if verdict is None else verdict.grace_us
    exit_us = None if verdict is None else verdict.time_to_exit_us
    return {
        "class": classed.app_class.word,
        "why_class": classed.why,
        "rule": None if rule is None else rule.name,
        "place": None if rule is None else rule.place,
        "never_killed": classed.never,
        "killed_at": None if classed.never else _killed_at(settings, classed.app_class),
        "domains": [
            {"domain": path, "killed_at": _killed_at(settings.of(path), classed.app_class)}
            for path in _domains_of(settings, process.cgroup)
        ],
        "strict": settings.strict and rule is None and classed.never is None,
        "unit": unit.value,
        "unit_cgroup": rule.unit_path(process.cgroup)
        if rule is not None and unit is Unit.CGROUP
        else None,
        "grace_ms": (meant.grace_us if grace_us is None else grace_us) // 1000,
        "time_to_exit_ms": (meant.time_to_exit_us if exit_us is None else exit_us) // 1000,
        "bias": 0 if verdict is None else verdict.bias,
        "least_kib": None if verdict is None else verdict.least_kib,
        "ceiling": ceiling_of(rule, settings).word,
    }


def _killed_at(settings: Settings, app_class: AppClass) -> str | None:
    """Return the level from which on the class may die there, None for never."""
    level = settings.classes[app_class].killed_at
    return None if level is None or app_class not in settings.killable else level.word


def _domains_of(settings: Settings, cgroup: str) -> list[str]:
    return [
        path
        for path in paths_up(cgroup)
        if any(glob_matches(entry.pattern, path) for entry in settings.domains)
    ]


def describe_trial(trial: Row) -> list[Block]:
    """Return each rule that was tried and why it did not match, and the verdict in sentences."""
    process, verdict = row(trial, "process"), row(trial, "verdict")
    blocks: list[Block] = [Line(_subject(process))]
    tried = rows(trial, "tried")
    if tried:
        cells = tuple(
            (
                str(place),
                text(one, "rule"),
                text(one, "place"),
                "matches" if one.get("failed") is None else f"no: {text(one, 'failed')}",
            )
            for place, one in enumerate(tried, 1)
        )
        blocks += [Line(), Table(_TRIED_COLUMNS, cells)]
    blocks.append(Line())

    def add(title: str, sentence: str) -> None:
        blocks.append(Line(sentence, f"  {title:<8}"))

    add("class", _class_words(verdict))
    add("killed", _fate(verdict))
    if not text(verdict, "never_killed"):
        for domain in rows(verdict, "domains"):
            add("", f"in {text(domain, 'domain')}: {_fate({**verdict, **domain})}")
        add("unit", _unit_words(verdict))
        add("grace", _grace_words(verdict))
        if bias := number(verdict, "bias"):
            add("bias", f"{bias:+d}: {'earlier' if bias > 0 else 'later'} than others of its class")
        if (least_kib := number(verdict, "least_kib")) is not None:
            add("least", f"not worth a kill below {size_words(least_kib)}")
    add("claim", f"at most {text(verdict, 'ceiling')}, should it register")
    if number(process, "pid") is not None and number(process, "oom_score_adj"):
        blocks.append(
            Line(
                "Its oom_score_adj is taken as it stands. Where lmkd runs it may be lmkd's own doing:"
                f" ask `lmkctl explain {number(process, 'pid')}`, or give --oom-score-adj."
            )
        )
    return blocks


def _subject(process: Row) -> str:
    pid = number(process, "pid")
    parts = [
        f"{text(process, 'comm', '?')!r}" + (", supposed" if pid is None else f", pid {pid}"),
        text(process, "exe") or "executable not known",
        f"uid {number(process, 'uid')}",
        f"gid {number(process, 'gid')}",
        f"cgroup {text(process, 'cgroup')}",
        f"oom_score_adj {number(process, 'oom_score_adj')}",
        f"{size_words(number(process, 'resident_kib'))} resident",
        "registered" if flag(process, "registered") else "not registered",
    ]
    return ", ".join(parts)


def _class_words(verdict: Row) -> str:
    app_class = text(verdict, "class", NOT_SAID)
    if text(verdict, "rule"):
        return f"{app_class}, by the rule {text(verdict, 'rule')!r} ({text(verdict, 'place')})"
    words = f"{app_class}: {text(verdict, 'why_class')}"
    return f"{words}, and strict mode has such go first" if flag(verdict, "strict") else words


def _fate(verdict: Row) -> str:
    never, killed_at = text(verdict, "never_killed"), text(verdict, "killed_at")
    if never:
        return f"never: {never}"
    if not killed_at:
        return f"never: nothing of the class {text(verdict, 'class')} may die there"
    at = "only at critical" if killed_at == "critical" else f"from {killed_at} on"
    if text(verdict, "class") == AppClass.CACHED.word:
        return at
    return f"{at}, when nothing of a lower class is left that is worth it"


def _unit_words(verdict: Row) -> str:
    match text(verdict, "unit"):
        case Unit.CGROUP.value:
            return f"the whole cgroup {text(verdict, 'unit_cgroup')}"
        case Unit.TREE.value:
            return "the process and its descendants that stayed in its cgroup"
        case _:
            return "the process alone"


def _grace_words(verdict: Row) -> str:
    grace, exits = number(verdict, "grace_ms"), number(verdict, "time_to_exit_ms")
    return (
        f"{time_words(grace)} from a notice on, if it has registered;"
        f" {time_words(exits)} to exit after SIGTERM"
    )
