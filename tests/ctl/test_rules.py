"""`rules check` and `rules test`: what they print, and their exit codes. No daemon is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from lmkd import config
from lmkd.ctl.page import Page
from lmkd.ctl.rules import Supposed, run_check, run_test

from .conftest import run_ctl

RULES = """\
[sets]
editors = ["vim", "code"]

[[rule]]
name = "my editor last"
match = { comm = "@editors", uid = ">=1000" }
class = "foreground"

[[rule]]
name = "builds go first"
match = { cmdline = ".*make.*" }
class = "cached"
unit = "tree"
grace = "250ms"
bias = 20
least = "8MiB"

[[rule]]
name = "the database whole"
match = { systemd_unit = "db.service" }
class = "service"
unit = "cgroup"
ceiling = "service"
"""
DOMAIN = """\
[[domain]]
cgroup = "/build*"
kill = ["cached"]
"""


@pytest.fixture(autouse=True)
def no_files_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "SYSTEM_DIRECTORY", tmp_path / "etc")


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(RULES)
    return path


def check(*files: Path) -> tuple[int, str]:
    out = StringIO()
    return run_check(Page(out), files, as_json=False), out.getvalue()


def check_json(*files: Path) -> tuple[int, dict[str, Any]]:
    out = StringIO()
    return run_check(Page(out), files, as_json=True), json.loads(out.getvalue())


def trial(
    supposed: Supposed, *files: Path, pid: int | None = None, width: int = 400
) -> tuple[int, str]:
    out = StringIO()
    return run_test(Page(out, width), pid, supposed, files, as_json=False), out.getvalue()


def trial_json(supposed: Supposed, *files: Path, pid: int | None = None) -> dict[str, Any]:
    out = StringIO()
    assert run_test(Page(out), pid, supposed, files, as_json=True) == 0
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def verdict(text: str) -> str:
    """Return the sentences below the rules that were tried."""
    return text.split("\n\n")[-1]


# --- check ------------------------------------------------------------------------------------------------------------


def test_a_good_file_is_counted(rules: Path, tmp_path: Path) -> None:
    domain = tmp_path / "domain.toml"
    domain.write_text(DOMAIN)
    assert check(rules, domain) == (
        0,
        "2 files: no mistakes, 3 rules, 14 shipped ones after them, 1 domain\n",
    )


def test_mistakes_are_told_a_line_each_and_fail(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('[[rule]]\nname = "a"\nclass = "cachd"\nmatch = { comm = "(" }\n')
    code, text = check(path)
    assert code == 1
    assert text.splitlines() == [
        f'{path}:3:9: rule.class: expected one of "cached", "background", "service", "perceptible",'
        ' "foreground", "system", got \'cachd\'',
        f"{path}:4:18: rule.match.comm: not a regular expression: missing ), unterminated subpattern"
        " at character 1 of '('",
        "1 file: 2 mistakes",
    ]


def test_warnings_are_told_and_do_not_fail(tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.write_text("[sets]\nunused = ['x']\n")
    assert check(path) == (
        0,
        f"{path}:2:1: warning: sets.unused: no rule uses the set @unused\n"
        "1 file: no mistakes, 1 warning, 0 rules, 14 shipped ones after them, 0 domains\n",
    )


def test_without_a_file_those_of_the_daemon_are_checked(tmp_path: Path) -> None:
    assert check() == (
        0,
        "no file, the shipped defaults alone: no mistakes, 0 rules, 14 shipped ones after them, 0 domains\n",
    )
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/lmkd.toml").write_text(RULES)
    assert check()[1].startswith("1 file: no mistakes, 3 rules")


def test_a_script_is_told_the_same(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[timing]\nrest = 5\n")
    code, document = check_json(path)
    assert code == 1
    assert document == {
        "files": [str(path)],
        "mistakes": [
            {
                "file": str(path),
                "line": 2,
                "column": 8,
                "key": "timing.rest",
                "text": 'expected a duration up to 60min, such as "500ms" or "3s", got 5',
            }
        ],
        "warnings": [],
    }
    path.write_text("[sets]\nunused = ['x']\n")
    code, document = check_json(path)
    assert code == 0
    assert (document["rules"], document["shipped_rules"], document["domains"]) == (0, 14, 0)
    assert [one["key"] for one in document["warnings"]] == ["sets.unused"]


def test_what_could_steer_a_terminal_is_not_printed(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('"\\u001b[31m" = 1\n')
    _, text = check(path)
    assert "\x1b" not in text


# --- test -------------------------------------------------------------------------------------------------------------


def test_each_rule_that_was_tried_is_shown_with_why_it_did_not_match(rules: Path) -> None:
    code, text = trial(
        Supposed(comm="postgres", cgroup="/system.slice/db.service/x"), rules, width=300
    )
    assert code == 0
    lines = [line.split("  ") for line in text.split("\n\n")[1].splitlines()]
    assert [[cell.strip() for cell in line if cell.strip()] for line in lines] == [
        ["rule", "at"],
        ["1", "my editor last", f"{rules}:4", "no: comm is 'postgres'; wanted 'vim', 'code'"],
        ["2", "builds go first", f"{rules}:9", "no: cmdline is not known; wanted '.*make.*'"],
        ["3", "the database whole", f"{rules}:18", "matches"],
    ]


def test_the_verdict_is_told_in_plain_words(rules: Path) -> None:
    _, text = trial(Supposed(comm="postgres", cgroup="/system.slice/db.service/x"), rules)
    assert text.startswith(
        "'postgres', supposed, executable not known, uid 1000, gid 1000, cgroup /system.slice/db.service/x,"
    )
    assert (
        verdict(text)
        == f"""\
  class   service, by the rule 'the database whole' ({rules}:18)
  killed  only at critical, when nothing of a lower class is left that is worth it
  unit    the whole cgroup /system.slice/db.service
  grace   5 s from a notice on, if it has registered; 5 s to exit after SIGTERM
  claim   at most service, should it register
"""
    )


def test_all_that_a_rule_gives_is_told(rules: Path) -> None:
    _, text = trial(Supposed(comm="make", cmdline="make -j9"), rules)
    assert (
        verdict(text)
        == f"""\
  class   cached, by the rule 'builds go first' ({rules}:9)
  killed  from medium on
  unit    the process and its descendants that stayed in its cgroup
  grace   250 ms from a notice on, if it has registered; 500 ms to exit after SIGTERM
  bias    +20: earlier than others of its class
  least   not worth a kill below 8.0 MiB
  claim   at most perceptible, should it register
"""
    )


def test_what_is_never_killed_is_told_so_and_why(rules: Path) -> None:
    _, text = trial(Supposed(comm="sshd", exe="/usr/sbin/sshd"), rules)
    assert "  killed  never: the way into the machine\n" in verdict(text)
    assert "unit" not in verdict(text)


def test_what_no_rule_speaks_for_is_told_so(rules: Path, tmp_path: Path) -> None:
    _, text = trial(Supposed(comm="other"), rules)
    assert "  class   service: no rule speaks for it\n" in verdict(text)
    strict = tmp_path / "strict.toml"
    strict.write_text("[policy]\nstrict = true\n")
    _, text = trial(Supposed(comm="other"), strict)
    assert (
        "  class   cached: no rule speaks for it, and strict mode has such go first\n"
        in verdict(text)
    )


def test_each_domain_that_it_is_in_is_told(tmp_path: Path) -> None:
    path = tmp_path / "domains.toml"
    path.write_text(DOMAIN + '[[domain]]\ncgroup = "/build1/x"\n[system]\nkill = false\n')
    _, text = trial(Supposed(comm="make", cgroup="/build1/x/y", oom_score_adj=900), path)
    assert (
        "  killed  never: nothing of the class cached may die there\n"
        "          in /build1/x: from medium on\n"
        "          in /build1: from medium on\n"
    ) in verdict(text)
    _, text = trial(Supposed(comm="make", cgroup="/build1"), path)
    assert "in /build1: never: nothing of the class service may die there\n" in verdict(text)


def test_a_registered_program_can_be_supposed(tmp_path: Path) -> None:
    path = tmp_path / "registered.toml"
    path.write_text(
        "[[rule]]\nname = 'talks'\nclass = 'perceptible'\nmatch.registered = true\nbias = -3\n"
    )
    assert trial_json(Supposed(comm="a"), path)["verdict"]["rule"] is None
    found = trial_json(Supposed(comm="a", registered=True), path)
    assert found["verdict"]["rule"] == "talks"
    assert found["process"]["registered"] is True
    _, text = trial(Supposed(comm="a", registered=True), path)
    assert "-3: later than others of its class" in text


def test_a_script_is_told_the_whole_of_it(rules: Path) -> None:
    found = trial_json(
        Supposed(
            comm="vim",
            exe="/usr/bin/vim",
            environ=("A=1",),
            uid=1001,
            gid=5,
            parent="sh",
            oom_score_adj=100,
            resident_kib=4096,
        ),
        rules,
    )
    assert found["process"] == {
        "pid": None,
        "comm": "vim",
        "exe": "/usr/bin/vim",
        "uid": 1001,
        "gid": 5,
        "cgroup": "/",
        "oom_score_adj": 100,
        "resident_kib": 4096,
        "registered": False,
    }
    assert found["tried"] == [{"rule": "my editor last", "place": f"{rules}:4", "failed": None}]
    assert found["verdict"] == {
        "class": "foreground",
        "why_class": "my editor last",
        "rule": "my editor last",
        "place": f"{rules}:4",
        "never_killed": None,
        "killed_at": "critical",
        "domains": [],
        "strict": False,
        "unit": "process",
        "unit_cgroup": None,
        "grace_ms": 5000,
        "time_to_exit_ms": 5000,
        "bias": 0,
        "least_kib": None,
        "ceiling": "foreground",
    }


# --- a process that runs ----------------------------------------------------------------------------------------------


@pytest.fixture
def sleeper() -> Iterator[int]:
    process = subprocess.Popen(["sleep", "100"])
    yield process.pid
    process.kill()
    process.wait()


def test_a_process_that_runs_is_read_as_far_as_the_rules_ask(rules: Path, sleeper: int) -> None:
    found = trial_json(Supposed(), rules, pid=sleeper)
    assert found["process"]["pid"] == sleeper
    assert found["process"]["uid"] == os.getuid()
    assert found["tried"][1]["failed"] == "cmdline is 'sleep 100'; wanted '.*make.*'"
    make = trial_json(Supposed(cmdline="make it so", uid=1), rules, pid=sleeper)
    assert make["verdict"]["rule"] == "builds go first"
    assert make["process"]["uid"] == 1


def test_an_oom_score_adj_that_may_be_our_own_is_told_to_be(rules: Path, sleeper: int) -> None:
    _, text = trial(Supposed(oom_score_adj=900), rules, pid=sleeper)
    assert f"ask `lmkctl explain {sleeper}`" in text.replace("\n", " ")
    _, text = trial(Supposed(oom_score_adj=0), rules, pid=sleeper)
    assert "lmkctl explain" not in text


def test_no_rule_is_asked_about_init(rules: Path) -> None:
    found = trial_json(Supposed(), rules, pid=1)
    assert found["tried"] == []
    assert found["verdict"]["never_killed"] == "init"
    _, text = trial(Supposed(), rules, pid=1)
    assert "  killed  never: init\n" in text


def test_a_process_that_is_not_there_fails(rules: Path) -> None:
    assert trial(Supposed(), rules, pid=2**22 + 1) == (
        1,
        "no process 4194305, or it may not be read\n",
    )
    out = StringIO()
    assert run_test(Page(out), 2**22 + 1, Supposed(), [rules], as_json=True) == 1
    assert "error" in json.loads(out.getvalue())


def test_a_bad_configuration_is_told_instead(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[timing]\nrest = 5\n")
    code, text = trial(Supposed(comm="x"), path)
    assert (code, text.splitlines()[-1]) == (1, "1 file: 1 mistake")


# --- as a command -----------------------------------------------------------------------------------------------------


def test_the_commands_need_no_daemon(rules: Path) -> None:
    done = run_ctl("rules", "check", str(rules))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "1 file: no mistakes, 3 rules, 14 shipped ones after them, 0 domains\n"
    done = run_ctl("rules", "test", "--comm", "vim", "--config", str(rules), "--json")
    assert json.loads(done.stdout)["verdict"]["class"] == "foreground"
    rules.write_text("[rules]")
    assert run_ctl("rules", "check", str(rules)).returncode == 1


def test_a_daemons_work_is_not_imported() -> None:
    code = "import sys, lmkd.ctl.rules; print({'trio', 'asyncio', 'pyroute2', 'msgpack'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout == "set()\n"
