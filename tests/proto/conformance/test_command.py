"""What the command prints, and with which status it ends."""

from __future__ import annotations

import json
import runpy
import socket
import sys
from pathlib import Path

import pytest
from lmkd_proto import Notice
from lmkd_proto.conformance import command, peer
from lmkd_proto.conformance.command import main
from lmkd_proto.conformance.findings import Findings
from lmkd_proto.conformance.peer import EndedError, Peer, SilenceError, show
from lmkd_proto.conformance.rules import SERVER_RULES

from .servant import Servant

GUEST = Path(__file__).with_name("guest.py")
QUICK = ["--patience", "1"]


def test_a_server_is_looked_at_rule_by_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "socket")
    with Servant(path):
        assert main([*QUICK, path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "F-6   holds     takes frames in any number of pieces" in lines
    assert (
        "L-7   not seen  kills no app before the deadline of its last notice: takes a real shortage"
        in lines
    )
    assert lines[-1].endswith("not seen")
    assert ", 0 broken, " in lines[-1]
    assert len(lines) == len(SERVER_RULES) + 2


def test_what_is_broken_is_told_and_is_the_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "socket")
    with Servant(path, "odd_unknown"):
        assert main([*QUICK, path]) == 1
    out = capsys.readouterr().out
    assert (
        "R-6   BROKEN    answers requests of unknown type with unknown_type, and goes on\n" in out
    )
    assert "notice: expected unknown_type; got error failed of request" in out


def test_advice_that_is_not_followed_breaks_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "socket")
    with Servant(path, "mutters"):
        assert main([*QUICK, path]) == 0
    out = capsys.readouterr().out
    assert "T-12  differs   an error names the key and what was expected (should)\n" in out
    assert "0 broken, 1 that it should keep differ, " in out


def test_json_says_the_same_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "socket")
    with Servant(path):
        main([*QUICK, "--json", path])
    rows = {row["rule"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["F-6"] == {
        "rule": "F-6",
        "asks": "takes frames in any number of pieces",
        "must": True,
        "result": "holds",
        "details": [],
    }
    assert rows["X-2"]["result"] == "not_seen"


def test_it_is_run_as_a_module(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["conformance", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("lmkd_proto.conformance", run_name="__main__")
    assert ended.value.code == 2
    assert "No such file or directory" in capsys.readouterr().err


def test_a_client_is_looked_at_rule_by_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--patience", "1", "--client", sys.executable, str(GUEST), ""]) == 0
    assert "H-1   holds     says hello first" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "program"),
    [
        (["a program", "--of", "it's"], ["a program", "--of", "it's"]),
        (["'a program' --of \"it's\""], ["a program", "--of", "it's"]),
        # Neither a -- nor what looks like an option of ours is taken from it.
        (["runs", "--", "a", "--json"], ["runs", "--", "a", "--json"]),
    ],
)
def test_a_client_may_be_one_argument_or_many(
    asked: list[str], program: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[list[str]] = []
    monkeypatch.setattr(command, "look_at_client", lambda argv, _: looked.append(list(argv)) or [])
    assert main(["--client", *asked]) == 0
    assert looked == [program]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected either SOCKET or --client CMD"),
        (["a-socket", "--client", "a-program"], "expected either SOCKET or --client CMD"),
        (["--client"], "expected either SOCKET or --client CMD"),
        (["--patience", "0", "a-socket"], "expected more than 0 seconds"),
    ],
)
def test_what_is_asked_wrongly_is_told(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["/no/such/socket"], ["--client", "/no/such/program"]])
def test_nothing_to_look_at_is_told(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"{arguments[-1]}: No such file or directory\n"


# --- a server that is not one ----------------------------------------------------------------------------


def mute_server(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def test_one_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    with mute_server(tmp_path / "socket"):
        one = Peer(str(tmp_path / "socket"), Findings(SERVER_RULES), 0.1, None)
        with pytest.raises(SilenceError, match=r"nothing came for 0\.1 s"):
            one.ask("status")
        with pytest.raises(SilenceError, match="does not read"):
            one.say_bytes(bytes(1 << 24))
        one.close()


def test_one_that_closes_is_told(tmp_path: Path) -> None:
    with mute_server(tmp_path / "socket") as listener:
        one = Peer(str(tmp_path / "socket"), Findings(SERVER_RULES), 0.5, None)
        one.say_bytes(b"unread")
        sock, _ = listener.accept()
        sock.close()
        with pytest.raises(EndedError, match=r"it closed \(Connection reset by peer\)"):
            one.reply(1)
        with pytest.raises(EndedError, match=r"it closed \(Broken pipe\)"):
            one.say_bytes(b"unread")
        one.close()


def test_messages_are_shown_in_short() -> None:
    assert show(None) == "nothing"
    assert show(peer.Ok(3)) == "ok of request 3"
    assert show(peer.Error(4, "busy", "later")) == "error busy of request 4 (later)"
    assert show(peer.UnknownMessage("odd", None)) == "odd"


def test_a_push_is_waited_for_among_others(tmp_path: Path) -> None:
    with Servant(str(tmp_path / "socket")):
        one = Peer(str(tmp_path / "socket"), Findings(SERVER_RULES), 5, None)
        one.ask("hello", version=1)
        one.ask("register", name="one", **{"class": "cached"})
        one.ask("subscribe")
        one.ask("simulate", level="low", duration_ms=60_000)
        assert one.push(Notice).level == "low"
        one.close()
