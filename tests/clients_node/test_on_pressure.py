"""`onPressure`: the callback is called, what it gave is measured, and the answer is there in time."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from lmkd_client.testing import FakeLmkd
from lmkd_proto import Ack, Error, Ok, Register

from ..clients.fake_daemon import PATIENCE_S, FakeDaemon, notice
from .probe import QUICK, Probe
from .programs import place

MIB = 1 << 20
HOLD = "state.cache = Array.from({ length: 32 }, () => new Uint8Array(2 ** 20).fill(1))"
LONG_MS = PATIENCE_S * 1000


@pytest.fixture
def path(lmkd: FakeLmkd) -> str:
    """Where the fake is."""
    return lmkd.path


def listen(probe: Probe, callback: str, options: str = "") -> None:
    """Have the probe listen; `state.told` are the notices, `state.errors` what went wrong."""
    probe.run(
        "state.told = []; state.errors = [];"
        f"state.listener = lmkd.onPressure({{ name: 'shop', {QUICK}, {options} }},"
        f" (notice) => {{ state.told.push(notice); {callback} }})"
    )


def test_what_was_dropped_is_collected_measured_and_acknowledged(
    probe: Probe, lmkd: FakeLmkd
) -> None:
    probe.run(HOLD)
    listen(probe, "state.cache = []", "sheddableBytes: 32 * 2 ** 20")
    answered = lmkd.notice("critical", deadline_ms=LONG_MS)
    assert answered.answer == "done"
    assert 31 * MIB <= answered.freed_bytes <= 36 * MIB
    (told,) = probe.run("return state.told")
    assert (told["level"], told["targetBytes"], told["reason"]) == ("critical", 32 * MIB, "a test")


def test_without_a_collection_what_was_dropped_has_not_gone_back(
    probe: Probe, lmkd: FakeLmkd
) -> None:
    """That is why there is one: this is what V8 does by itself."""
    probe.run(HOLD)
    listen(probe, "state.cache = []", "sheddableBytes: 32 * 2 ** 20, collectGarbage: false")
    assert lmkd.notice("critical", deadline_ms=LONG_MS).freed_bytes < 8 * MIB


def test_who_has_freed_nothing_says_so_unless_nothing_was_asked(
    probe: Probe, lmkd: FakeLmkd
) -> None:
    listen(
        probe,
        "state.more = new Uint8Array(8 * 2 ** 20).fill(1)",
        "sheddableBytes: 1, collectGarbage: false",
    )
    assert lmkd.notice("medium", MIB, deadline_ms=LONG_MS).answer == "nothing"
    answered = lmkd.notice("medium", 0, deadline_ms=LONG_MS)
    assert (answered.answer, answered.freed_bytes) == ("done", 0)


@pytest.mark.parametrize("returned", ["{ freedBytes: 77 }", "Promise.resolve({ freedBytes: 77n })"])
def test_who_knows_better_says_how_much_it_was(probe: Probe, lmkd: FakeLmkd, returned: str) -> None:
    listen(probe, f"return {returned}", "sheddableBytes: 1")
    answered = lmkd.notice("low", deadline_ms=LONG_MS)
    assert (answered.answer, answered.freed_bytes) == ("done", 77)
    probe.run("state.listener.close()")


def test_what_else_a_callback_returns_is_ignored(probe: Probe, lmkd: FakeLmkd) -> None:
    probe.run(HOLD)
    listen(probe, "return (state.cache.length = 0)", "sheddableBytes: 1")
    assert lmkd.notice("low", 16 * MIB, deadline_ms=LONG_MS).freed_bytes > 16 * MIB


def test_a_callback_that_takes_past_half_of_its_deadline_is_said_to_be_working_once(
    probe: Probe, lmkd: FakeLmkd
) -> None:
    listen(
        probe,
        "return new Promise((resolve) => setTimeout(resolve, 1600, { freedBytes: 5 }))",
        "sheddableBytes: 1",
    )
    # Past the deadline, too: the extension of a cached app's grace, 1 s, is had.
    answered = lmkd.notice("medium", deadline_ms=1000)
    assert answered.said_working
    assert (answered.answer, answered.freed_bytes) == ("done", 5)


def test_in_an_emergency_nothing_is_said_but_the_answer(probe: Probe, lmkd: FakeLmkd) -> None:
    listen(probe, "return new Promise((resolve) => setTimeout(resolve, 50))", "sheddableBytes: 1")
    assert not lmkd.notice("critical", emergency=True).said_working
    assert probe.run("return state.told[0].emergency") is True


def test_a_level_of_normal_calls_nobody_and_is_the_level(probe: Probe, lmkd: FakeLmkd) -> None:
    listen(probe, "return { freedBytes: 1 }", "sheddableBytes: 1")
    lmkd.notice("medium", deadline_ms=LONG_MS)
    lmkd.tell("normal")
    lmkd.notice("low", deadline_ms=LONG_MS)
    assert probe.run("return state.told.map((notice) => notice.level)") == ["medium", "low"]
    assert probe.run("return state.listener.level") == "low"


def test_what_a_callback_throws_is_told_and_what_it_freed_counts(
    probe: Probe, lmkd: FakeLmkd
) -> None:
    probe.run(HOLD)
    listen(
        probe,
        "state.cache = []; throw new Error('half way')",
        "sheddableBytes: 1, onError: (error) => state.errors.push(error)",
    )
    assert lmkd.notice("critical", 32 * MIB, deadline_ms=LONG_MS).freed_bytes > 31 * MIB
    assert lmkd.notice("critical", deadline_ms=LONG_MS).answer in ("done", "nothing")
    (error,) = probe.run("return state.errors")
    assert (error["name"], error["message"]) == ("Error", "half way")


def test_a_warning_is_handed_on_and_what_its_callback_throws_ends_nothing(
    probe: Probe, lmkd: FakeLmkd
) -> None:
    listen(
        probe,
        "return { freedBytes: 1 }",
        "onError: (error) => state.errors.push(error), onKillWarning: (warning) => {"
        " state.warning = warning; throw new Error('no time') }",
    )
    lmkd.kill_warning(250)
    assert lmkd.notice("critical", deadline_ms=LONG_MS).freed_bytes == 1
    assert probe.run("return state.warning") == {
        "type": "kill_warning",
        "reason": "a test",
        "timeToExitMs": 250,
    }
    assert [error["message"] for error in probe.run("return state.errors")] == ["no time"]


def test_what_nobody_listens_for_is_a_warning_of_the_process(probe: Probe, lmkd: FakeLmkd) -> None:
    listen(probe, "return { freedBytes: -1 }", "sheddableBytes: 1")
    assert lmkd.notice("low", deadline_ms=LONG_MS).answer in ("done", "nothing")
    said = "freedBytes: expected a count of bytes; the callback returned -1"
    probe.expect(rf"\(node:\d+\) \[invalid_argument\] InvalidArgumentError: {said}", r"\(Use .*")


def test_after_a_restart_it_is_there_again_and_what_was_changed_meanwhile_is_so(
    probe: Probe, lmkd: FakeLmkd
) -> None:
    listen(probe, "return { freedBytes: 1 }", "sheddableBytes: 1, appClass: 'background'")
    lmkd.wait_app("shop")
    probe.run("await state.listener.update({ sheddableBytes: 2 })")
    assert lmkd.wait_app("shop").sheddable_bytes == 2
    lmkd.stop()
    probe.run("await state.listener.update({ name: 'store' })")
    lmkd.start()
    found = lmkd.wait_app("store")
    assert (found.app_class, found.sheddable_bytes) == ("background", 2)
    assert lmkd.notice("low", deadline_ms=LONG_MS).freed_bytes == 1


def test_a_rehearsal_comes_to_its_end_and_one_follows_another(probe: Probe, lmkd: FakeLmkd) -> None:
    for level in ("low", "critical"):
        probe.run(HOLD)
        if level == "low":
            listen(probe, "state.cache = []", "sheddableBytes: 32 * 2 ** 20")
        seen = probe.run(f"return state.listener.simulate('{level}', {{ durationMs: 50 }})")
        assert (seen["notice"]["level"], seen["answer"]) == (level, "done")
        assert seen["freedBytes"] > 0
        assert seen["tookMs"] < LONG_MS
    assert probe.fails("await state.listener.simulate('normal')")["code"] == "invalid_argument"


def test_a_rehearsal_that_nobody_can_answer_fails(probe: Probe, lmkd: FakeLmkd) -> None:
    lmkd.stop()
    listen(probe, "")
    code = "await state.listener.simulate('low', { signal: AbortSignal.timeout(50) })"
    assert probe.fails(code)["name"] == "TimeoutError"
    probe.begin("return state.listener.simulate('low').catch((error) => error.code)")
    lmkd.start()
    lmkd.wait_app()
    probe.expect('{"value":{.*"level":"low".*}}')


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("lmkd.onPressure({ name: '' }, () => 0)", "register: key 'name' (name): expected text"),
        ("lmkd.onPressure({ name: 'a' })", "onPressure: expected options and a function"),
        ("lmkd.onPressure(() => 0)", "onPressure: expected options and a function"),
        (
            "lmkd.onPressure({ name: 'a', appClass: 'system' }, () => 0)",
            "key 'class' (appClass): expected one of `cached`",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(
    probe: Probe, code: str, why: str
) -> None:
    error = probe.fails(code)
    assert error["code"] == "invalid_argument"
    assert why in error["message"]


def test_closed_by_a_signal_it_listens_no_more(probe: Probe, lmkd: FakeLmkd) -> None:
    probe.run("state.controller = new AbortController()")
    listen(probe, "", "signal: state.controller.signal")
    lmkd.wait_app()
    probe.run("state.controller.abort()")
    until_s = time.monotonic() + PATIENCE_S
    while lmkd.apps:
        assert time.monotonic() < until_s
        time.sleep(0.01)
    assert probe.fails("await state.listener.simulate('low')")["code"] == "closed"


# --- what wants a script -------------------------------------------------------------------------------------


def run_program(app: Path, folder: Path, path: str, source: str) -> subprocess.Popen[str]:
    program = place(folder, app, source, "program.mjs")
    return subprocess.Popen(
        ["node", program, path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_refused_registration_is_asked_for_again_after_a_pause(app: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "scripted")

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            for _ in range(3):
                peer.say(Error(peer.expect(Register).id, "too_many", "enough"))
            peer.grant(notice(1))
            ack = peer.expect(Ack)
            peer.say(Ok(ack.id, {"deadline_ms": 5}))
            peer.expect_end()

    source = """
import { onPressure } from "lmkd-client";
const onError = (error) => console.log(error.code);
const options = { name: "a", path: process.argv[2], backoff: { firstMs: 10, mostMs: 50 }, onError, keepAlive: true };
const listener = onPressure(options, () => setTimeout(() => listener.close(), 100));
"""
    with FakeDaemon(path) as daemon:
        daemon.run(script)
        with run_program(app, tmp_path, path, source) as program:
            # The same again is not said again.
            assert program.communicate(timeout=PATIENCE_S)[0] == "too_many\n"
            assert program.returncode == 0


def test_of_notices_that_come_while_it_works_only_the_latest_is_answered(
    app: Path, tmp_path: Path
) -> None:
    path = str(tmp_path / "scripted")

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            peer.grant(notice(1), notice(2))
            first = peer.expect(Ack)
            peer.say(Ok(first.id, {"deadline_ms": 5}))
            assert first.notice == 2
            peer.say(notice(3))
            time.sleep(0.1)
            peer.say(notice(4), notice(5))
            for number in (3, 5):
                ack = peer.expect(Ack)
                assert (ack.notice, ack.answer) == (number, "done")
                peer.say(Ok(ack.id, {"deadline_ms": 5}))

    source = """
import { onPressure } from "lmkd-client";
const options = { name: "a", path: process.argv[2], keepAlive: true };
onPressure(options, () => new Promise((resolve) => setTimeout(resolve, 200, { freedBytes: 1 })));
"""
    with FakeDaemon(path) as daemon:
        program = run_program(app, tmp_path, path, source)
        daemon.run(script)
    with program:  # the script has come to its end
        program.kill()


@pytest.mark.parametrize("keeps", [False, True])
def test_it_does_not_keep_a_process_alive_unless_that_is_asked(
    app: Path, tmp_path: Path, lmkd: FakeLmkd, keeps: bool
) -> None:
    source = f"""
import {{ onPressure }} from "lmkd-client";
const listener = onPressure({{ name: "brief", path: process.argv[2] }}, () => 0);
setTimeout(() => console.log(listener.grant?.app), 300);
if ({json.dumps(keeps)}) listener.ref();
"""
    with run_program(app, tmp_path, lmkd.path, source) as program:
        lmkd.wait_app("brief")
        if keeps:
            with pytest.raises(subprocess.TimeoutExpired):
                program.wait(1)
            program.kill()
        else:
            assert program.communicate(timeout=PATIENCE_S)[0] == "1\n"
            assert program.returncode == 0


def test_where_there_is_no_daemon_it_keeps_nothing_alive_either(app: Path, tmp_path: Path) -> None:
    source = """
import { onPressure } from "lmkd-client";
onPressure({ name: "brief", path: process.argv[2], backoff: { firstMs: 10, mostMs: 10 } }, () => 0);
setTimeout(() => console.log("over"), 100);
"""
    with run_program(app, tmp_path, str(tmp_path / "nobody"), source) as program:
        assert program.communicate(timeout=PATIENCE_S)[0] == "over\n"
