"""What the commands about rules, kills and recordings ask of a daemon, and what becomes of its answers.

Against a daemon that is scripted, so that the answers are whole and known.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from lmkd_client import connect
from lmkd_proto import (
    Error,
    Explain,
    Killed,
    Message,
    Ok,
    Processes,
    Record,
    Request,
    Rules,
    Subscribe,
)

from lmkd.ctl.live import watch

from ..clients.fake_daemon import FakeDaemon, pressure
from .conftest import run_ctl
from .literal import EXPLAINED, RECORDINGS, RULES, UNRULED

Answer = Callable[[Request], Message]


def ask(tmp_path: Path, answers: list[Answer], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run lmkctl against a daemon that gives these answers, one to each request."""

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            for answer in answers:
                peer.say(answer(peer.expect(Request)))  # type: ignore[arg-type]
            peer.expect_end()

    path = str(tmp_path / "socket")
    with FakeDaemon(path) as daemon:
        daemon.run(script)
        return run_ctl(*arguments, LMKD_SOCKET=path)


def ok(expected: Request, result: dict[str, Any]) -> Answer:
    """Expect this request, whatever its id, and answer it with this result."""

    def answer(request: Request) -> Message:
        assert type(request) is type(expected)
        for declared in expected.fields[1:]:
            name = declared.attribute
            assert getattr(request, name) == getattr(expected, name), request
        return Ok(request.id, result)

    return answer


def refuse(code: str, why: str) -> Answer:
    return lambda request: Error(request.id, code, why)


def rows_of(result: dict[str, Any], key: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = result[key]
    return rows


@pytest.mark.parametrize("as_json", [False, True])
def test_the_unruled_are_asked_for_in_parts_and_shown_whole(tmp_path: Path, as_json: bool) -> None:
    second = {**rows_of(UNRULED, "processes")[0], "pid": 4004}
    answers = [
        ok(Processes(0, True, 0, 1000), {**UNRULED, "next": 1, "total": 2}),
        ok(Processes(0, True, 1, 1000), {"processes": [second], "next": None, "total": 2}),
    ]
    done = ask(tmp_path, answers, "apps", "--unruled", *(["--json"] if as_json else []))
    assert (done.returncode, done.stderr) == (0, "")
    if as_json:
        document = json.loads(done.stdout)
        assert [row["pid"] for row in document["processes"]] == [4003, 4004]
        assert document["total"] == 2
    else:
        lines = [line.split()[0] for line in done.stdout.splitlines()[:3]]
        assert lines == ["pid", "4003", "4004"]


@pytest.mark.parametrize(
    "arguments", [["rules"], ["rules", "--json"], ["rules", "--json", "--json"]]
)
def test_rules_are_asked_for_in_parts_and_shown_whole(tmp_path: Path, arguments: list[str]) -> None:
    first, second = rows_of(RULES, "rules")
    answers = [
        ok(Rules(0, 0, 1000), {**RULES, "rules": [first], "next": 1}),
        ok(Rules(0, 1, 1000), {**RULES, "rules": [second]}),
    ]
    done = ask(tmp_path, answers, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    if "--json" in arguments:
        document = json.loads(done.stdout)
        assert [row["number"] for row in document["rules"]] == [1, 2]
        assert (document["unruled_hits"], document["strict"]) == (31, False)
        assert "next" not in document
    else:
        assert "What no rule matches is of class service (31 hits).\n" in done.stdout


def test_a_process_or_a_kill_is_explained(tmp_path: Path) -> None:
    done = ask(tmp_path, [ok(Explain(0, 4003), EXPLAINED)], "explain", "4003")
    assert done.stdout.startswith("leak (pid 4003) /usr/bin/leak\n")
    (tmp_path / "kill").mkdir()
    found = {"episode": 3, "kill": {"kill": 9, "name": "leak"}}
    done = ask(tmp_path / "kill", [ok(Explain(0, kill=9), found)], "explain", "--kill", "9")
    assert done.stdout.startswith("Kill 9 of episode 3.\n")
    (tmp_path / "none").mkdir()
    refused = [refuse("unknown_kill", "no kill 9 is kept")]
    done = ask(tmp_path / "none", refused, "explain", "--kill", "9", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "lmkctl: no kill 9 is kept\n")


def test_a_recording_is_saved_listed_and_copied(tmp_path: Path) -> None:
    kept, copy = tmp_path / "kept", tmp_path / "copy"
    kept.write_bytes(b"\x00seen")
    recorded = {**RECORDINGS, "saved": str(kept)}
    done = ask(tmp_path, [ok(Record(0, True), recorded)], "record", str(copy))
    assert (done.returncode, done.stderr) == (0, "")
    assert copy.read_bytes() == b"\x00seen"
    assert done.stdout.startswith(f"Saved: {kept}\n")
    assert done.stdout.endswith(f"Copied to {copy}. To run it again: lmkctl replay {copy}\n")
    (tmp_path / "j").mkdir()
    done = ask(tmp_path / "j", [ok(Record(0, True), recorded)], "record", "--json")
    assert json.loads(done.stdout) == {**recorded, "copied_to": None}


@pytest.mark.parametrize(
    ("recorded", "to", "said"),
    [
        ({"recordings": [], "saved": None}, "copy", "no recording is kept yet, so there is none"),
        ({"saved": "{}/gone"}, "copy", "{}/gone: No such file or directory"),
        ({"saved": "{}/kept"}, "no/such/folder", "{}/no/such/folder: No such file or directory"),
        ({"saved": "{}/kept"}, "kept", "{}/kept: that is the recording itself"),
    ],
)
def test_a_copy_that_cannot_be_made_is_one_clear_line(
    tmp_path: Path, recorded: dict[str, Any], to: str, said: str
) -> None:
    (tmp_path / "kept").write_bytes(b"seen")
    saved = recorded["saved"]
    answer = ok(Record(0), {**recorded, "saved": saved and saved.format(tmp_path)})
    done = ask(tmp_path, [answer], "record", str(tmp_path / to))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"lmkctl: {said.format(tmp_path)}")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "kept").read_bytes() == b"seen"


def test_whoever_may_not_see_the_recordings_is_told_so(tmp_path: Path) -> None:
    done = ask(tmp_path, [refuse("forbidden", "to see the recordings takes root")], "record")
    expected = (1, "", "lmkctl: to see the recordings takes root\n")
    assert (done.returncode, done.stdout, done.stderr) == expected


def test_what_several_watched_domains_hear_is_told_once(tmp_path: Path) -> None:
    """The daemon says it once, and both subscriptions hear it; what it says twice is told twice."""
    killed = Killed("/a/b", 7, "leak", "cached", "first", 0)

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            for domain in ("system", "own"):
                request = peer.expect(Subscribe)
                assert (request.domain, request.propagation) == (domain, "hierarchy")
                path = "/a" if domain == "own" else domain
                peer.say(Ok(request.id, {"domain": path, "propagation": "hierarchy"}))
            peer.say(killed, killed, pressure("low", "/a/b"), pressure("low"))
            peer.expect_end()

    path = str(tmp_path / "socket")
    with FakeDaemon(path) as daemon:
        daemon.run(script)
        with connect(path) as client:
            events = watch(client, ["system", "own"], "hierarchy", lambda: 0)
            found = [(event["event"], event["domain"]) for event in islice(events, 4)]
    told = [("killed", "/a/b"), ("killed", "/a/b"), ("pressure", "/a/b"), ("pressure", "system")]
    assert found == told
