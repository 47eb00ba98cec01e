"""Do what a command asks: put the questions, and print the answers for a person or for a script.

For a script: one JSON document, for `watch` one a line. For a person: blocks on a page. Lists that come in parts are
asked for until they are whole. What asks no daemon is in lmkd.ctl.offline.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable

from lmkd_client import Client, RequestRefused, connect

from lmkd.ctl.arguments import DONE
from lmkd.ctl.explaining import describe_kill, describe_process
from lmkd.ctl.failure import CommandFailed
from lmkd.ctl.live import Event, describe_event, rehearse, watch
from lmkd.ctl.page import Line, Page
from lmkd.ctl.recordings import describe_recordings, find_latest
from lmkd.ctl.result import Row, number, row, rows, text, texts
from lmkd.ctl.rulebook import describe_rules, describe_unruled
from lmkd.ctl.standing import describe_apps, describe_episodes, describe_status
from lmkd.ctl.story import tell_story
from lmkd.ctl.words import time_words

PART_MOST = 1_000


def run_command(arguments: Namespace, page: Page) -> int:
    """Run one command to its end; return its exit code. Raises what lmkd_client raises, and CommandFailed."""
    # Set only where it was given (lmkd.ctl.arguments).
    arguments.json = getattr(arguments, "json", False)
    command = _COMMANDS.get(arguments.action)
    if command is None:
        from lmkd.ctl.offline import run_offline

        return run_offline(arguments, page, as_json=arguments.json)
    lasting = arguments.action == "watch"
    with connect(arguments.socket, name="lmkctl", reconnect=lasting) as client:
        command(client, arguments, page)
    return DONE


def _print_json(page: Page, document: Row) -> None:
    # Escaped to ASCII: what a process calls itself does not steer a terminal from here either.
    page.out.write(json.dumps(document) + "\n")
    page.out.flush()


def _status(client: Client, arguments: Namespace, page: Page) -> None:
    status = client.status()
    if arguments.json:
        _print_json(page, status)
    else:
        page.draw(describe_status(status))


def _apps(client: Client, arguments: Namespace, page: Page) -> None:
    if arguments.unruled:
        _unruled(client, arguments, page)
        return
    status = client.status()
    if arguments.json:
        _print_json(page, {key: status.get(key) for key in ("apps", "app_count", "truncated")})
    else:
        page.draw(describe_apps(status))


def _unruled(client: Client, arguments: Namespace, page: Page) -> None:
    found, last = read_parts(
        lambda after, most: client.processes(unruled=True, after=after, limit=most), "processes"
    )
    if arguments.json:
        _print_json(page, {"processes": found, "total": last.get("total")})
    else:
        page.draw(describe_unruled(found))


def _rules(client: Client, arguments: Namespace, page: Page) -> None:
    found, last = read_parts(client.rules, "rules")
    said = {key: value for key, value in last.items() if key not in ("rules", "next")}
    if arguments.json:
        _print_json(page, {"rules": found, **said})
    else:
        page.draw(describe_rules(found, said))


def _watch(client: Client, arguments: Namespace, page: Page) -> None:
    domains = list(dict.fromkeys(arguments.domain or ["system"]))
    show = _shown_json if arguments.json else _shown
    try:
        for event in watch(client, domains, arguments.propagation, _now_unix_ms):
            show(page, event)
            if arguments.exec is not None:
                _run_for(event, arguments.exec)
    except KeyboardInterrupt:
        return


def _run_for(event: Event, command: str) -> None:
    """Run a command with what happened in its environment, and as JSON on its standard input; wait for its end."""
    told = {f"LMKD_{key.upper()}": str(value) for key, value in event.items()}
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        input=json.dumps(event).encode() + b"\n",
        env={**os.environ, **told},
        check=False,
    )
    if done.returncode != 0:
        print(f"lmkctl: {command!r} ended with status {done.returncode}", file=sys.stderr)


def _shown(page: Page, event: Event) -> None:
    page.draw([describe_event(event, None)])


def _shown_json(page: Page, event: Event) -> None:
    _print_json(page, event)


def _history(client: Client, arguments: Namespace, page: Page) -> None:
    if arguments.episode is not None:
        _one_episode(client, arguments, page)
        return
    episodes, last = read_parts(
        lambda after, most: client.history(None, after, most), "episodes", arguments.limit
    )
    if arguments.json:
        _print_json(page, {"episodes": episodes, "total": last.get("total")})
        return
    total = number(last, "total")
    page.draw(describe_episodes(episodes, total, _now_unix_ms(), None))


def _one_episode(client: Client, arguments: Namespace, page: Page) -> None:
    records, last = read_parts(
        lambda after, most: client.history(arguments.episode, after, most), "records"
    )
    summary = {"episode": arguments.episode, **row(last, "summary")}
    if arguments.json:
        _print_json(page, {"summary": summary, "records": records})
        return
    page.draw(tell_story(summary, records, _now_unix_ms(), None))


def read_parts(
    ask: Callable[[int, int], Row], key: str, limit: int | None = None
) -> tuple[list[Row], Row]:
    """Return all rows of a list that comes in parts, at most `limit`, and the last part as it came.

    `ask` is given how many rows to skip and how many to give at most.
    """
    found: list[Row] = []
    after = 0
    while True:
        part = ask(after, PART_MOST if limit is None else min(limit - len(found), PART_MOST))
        found += rows(part, key)
        following = number(part, "next")
        full = limit is not None and len(found) >= limit
        if full or following is None or following <= after:
            return found, part
        after = following


def _simulate(client: Client, arguments: Namespace, page: Page) -> None:
    scope = "all" if arguments.all else "self"
    heard: list[Event] = []
    if not arguments.json:
        whom = "every program and this one" if arguments.all else "this program alone"
        lasting = time_words(arguments.duration_ms)
        page.draw(
            [
                Line(
                    f"Rehearsing {arguments.level} for {lasting}, for {whom}. Nothing is killed for it."
                )
            ]
        )
    try:
        for event in rehearse(client, arguments.level, scope, arguments.duration_ms, _now_unix_ms):
            heard.append(event)
            if not arguments.json:
                _shown(page, event)
    except KeyboardInterrupt:
        if arguments.all and not arguments.json:
            page.draw([Line("Left; for the others it goes on until its time is up.")])
    if arguments.json:
        document = {
            "level": arguments.level,
            "scope": scope,
            "duration_ms": arguments.duration_ms,
            "heard": heard,
        }
        _print_json(page, document)


def _explain(client: Client, arguments: Namespace, page: Page) -> None:
    explained = client.explain(arguments.pid, kill=arguments.kill)
    if arguments.json:
        _print_json(page, explained)
    elif arguments.kill is not None:
        page.draw(describe_kill(explained, _now_unix_ms(), None))
    else:
        page.draw(describe_process(explained))


def _record(client: Client, arguments: Namespace, page: Page) -> None:
    busy = ""
    try:
        recorded = client.record()
    except RequestRefused as refused:
        if refused.code != "busy":
            raise
        # In an episode nothing is saved; what was before can still be seen, and copied.
        recorded, busy = client.record(save=False), refused.message
    copied: str | None = None
    if arguments.file is not None:
        latest = find_latest(recorded)
        if latest is None:
            raise CommandFailed("no recording is kept yet, so there is none to copy")
        try:
            shutil.copyfile(latest, arguments.file)
        except shutil.SameFileError:
            raise CommandFailed(f"{arguments.file}: that is the recording itself") from None
        except OSError as error:
            where = latest if error.filename == latest else arguments.file
            raise CommandFailed(f"{where}: {error.strerror}") from None
        copied = arguments.file
    if arguments.json:
        _print_json(page, {**recorded, "copied_to": copied})
        return
    if busy:
        page.draw([Line(f"Nothing saved: {busy}."), Line()])
    page.draw(describe_recordings(recorded, _now_unix_ms(), None))
    if copied is not None:
        page.draw([Line(), Line(f"Copied to {copied}. To run it again: lmkctl replay {copied}")])


def _reload(client: Client, arguments: Namespace, page: Page) -> None:
    reloaded = client.reload()
    if arguments.json:
        _print_json(page, reloaded)
        return
    files = texts(reloaded, "config_files")
    read = ", ".join(files) if files else "no file there: the shipped defaults"
    page.draw([Line(f"Configuration read again: {read}")])


def _set_class(client: Client, arguments: Namespace, page: Page) -> None:
    granted = client.set_class(arguments.app, arguments.app_class)
    if arguments.json:
        _print_json(page, granted)
        return
    grace, leave = (time_words(number(granted, key)) for key in ("grace_ms", "time_to_exit_ms"))
    app_class = text(granted, "class", arguments.app_class)
    times = f"{grace} of grace, {leave} to exit"
    page.draw([Line(f"App {arguments.app} is {app_class} now: {times}.")])


def _now_unix_ms() -> int:
    return time.time_ns() // 1_000_000


_COMMANDS: dict[str, Callable[[Client, Namespace, Page], None]] = {
    "status": _status,
    "apps": _apps,
    "rules": _rules,
    "record": _record,
    "watch": _watch,
    "history": _history,
    "simulate": _simulate,
    "explain": _explain,
    "reload": _reload,
    "set-class": _set_class,
}
