"""systemd-oomd's pre-kill hook: a caller as systemd 260 is one, and apps that get their grace."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import lmkd_proto as wire
import pytest
import trio

from lmkd.interop.prekill_hook import (
    CALLERS_MOST,
    SILENCE_S,
    find_believed,
    is_called,
    is_cgroup,
)
from lmkd.kernel.simulated import SimulatedKernel

from ..service.house import House, Peer, running

SWITCHED_ON = "[interop]\nprekill_hook = true\nprekill_timeout = '2s'\n"
GROUP = "/user.slice/app.scope"


class Oomd:
    """What calls the hook: one connection, as src/oom/oomd-util.c of systemd 260 makes it for each kill."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._read = b""

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        await self.send(json.dumps({"method": method, "parameters": parameters}).encode() + b"\0")
        return await self.hear()

    async def announce(self, cgroup: str) -> dict[str, Any]:
        return await self.call("io.systemd.oom.Prekill.Notify", cgroup=cgroup)

    async def send(self, content: bytes) -> None:
        await self._stream.send_all(content)

    async def hear(self) -> dict[str, Any]:
        with trio.fail_after(60):
            while b"\0" not in self._read:
                chunk = await self._stream.receive_some()
                assert chunk, "the hook has hung up"
                self._read += chunk
        message, _, self._read = self._read.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    async def hear_end(self) -> None:
        # Reset, where it has not read all that was sent.
        with trio.fail_after(60), suppress(trio.BrokenResourceError):
            assert await self._stream.receive_some() == b""

    async def hang_up(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def hooked(tmp_path: Path, kernel: SimulatedKernel | None = None) -> AsyncIterator[House]:
    async with running(tmp_path, kernel, text=SWITCHED_ON) as house:
        yield house


@asynccontextmanager
async def oomd(tmp_path: Path) -> AsyncIterator[Oomd]:
    async with await trio.open_unix_socket(tmp_path / "hooks" / "lmkd") as stream:
        yield Oomd(stream)


async def run_app(house: House, app_class: str, cgroup: str, sheddable_mib: int = 0) -> Peer:
    house.kernel.add_cgroup(cgroup)
    return await house.run_app("app", app_class, 50, sheddable_mib=sheddable_mib, cgroup=cgroup)


async def test_an_app_gets_its_grace_and_the_killer_goes_on_when_it_has_answered(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.1
    answers: list[dict[str, Any]] = []
    async with hooked(tmp_path) as house, oomd(tmp_path) as caller:
        app = await run_app(house, "cached", GROUP, sheddable_mib=30)
        async with trio.open_nursery() as nursery:

            async def announce() -> None:
                answers.append(await caller.announce(GROUP))

            nursery.start_soon(announce)
            notice = await app.hear(wire.Notice)
            warning = await app.hear(wire.KillWarning)
            assert answers == []
            await app.get(wire.Ack, notice=notice.notice, answer="done", freed_bytes=30 << 20)
        assert answers == [{"parameters": {}}]
        assert (notice.level, notice.target_bytes, notice.deadline_ms) == (
            "critical",
            30 << 20,
            1000,
        )
        assert notice.reason == warning.reason == f"systemd-oomd is about to end {GROUP}"
        assert warning.time_to_exit_ms == 1000
        # It was not killed: it hears how things are.
        spared = await app.hear(wire.Notice)
        assert (spared.level, spared.target_bytes) == ("normal", 0)


async def test_one_that_does_not_answer_is_waited_for_as_long_as_its_grace(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.1
    async with hooked(tmp_path) as house, oomd(tmp_path) as caller:
        await run_app(house, "cached", GROUP)
        began_s = trio.current_time()
        assert await caller.announce(GROUP) == {"parameters": {}}
        assert 0.9 <= trio.current_time() - began_s <= 1.2


async def test_nobody_is_waited_for_longer_than_the_killer_waits(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """A service has 5 s; what is configured of systemd-oomd is 2."""
    autojump_clock.autojump_threshold = 0.1
    async with hooked(tmp_path) as house, oomd(tmp_path) as caller:
        app = await run_app(house, "service", GROUP)
        began_s = trio.current_time()
        assert await caller.announce(GROUP + "/") == {"parameters": {}}
        assert 1.9 <= trio.current_time() - began_s <= 2.2
        assert (await app.hear(wire.Notice)).deadline_ms == 2000


async def test_where_no_app_is_it_goes_on_at_once_and_others_hear_nothing(tmp_path: Path) -> None:
    async with hooked(tmp_path) as house, oomd(tmp_path) as caller:
        app = await run_app(house, "cached", "/elsewhere.slice")
        assert await caller.announce(GROUP) == {"parameters": {}}
        await app.get(wire.Status)
        assert not [
            heard for heard in app.heard if isinstance(heard, wire.Notice | wire.KillWarning)
        ]


async def test_a_killer_that_hangs_up_leaves_nothing_behind(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.1
    async with hooked(tmp_path) as house:
        app = await run_app(house, "cached", GROUP)
        async with oomd(tmp_path) as caller:
            await caller.send(
                b'{"method":"io.systemd.oom.Prekill.Notify","parameters":{"cgroup":"%b"}}\0'
                % GROUP.encode()
            )
            await app.hear(wire.KillWarning)
        await trio.sleep(10)
        assert house.parts.engine.state.announced == {}
        async with oomd(tmp_path) as again:
            assert await again.announce("/nobody.slice") == {"parameters": {}}


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"cgroup": 7},
        {"cgroup": "relative"},
        {"cgroup": "/a/../b"},
        {"cgroup": "/" + "x" * 5000},
    ],
)
async def test_what_is_no_cgroup_is_refused_by_name(
    tmp_path: Path, parameters: dict[str, Any]
) -> None:
    async with hooked(tmp_path), oomd(tmp_path) as caller:
        answer = await caller.call("io.systemd.oom.Prekill.Notify", **parameters)
        assert answer == {
            "error": "org.varlink.service.InvalidParameter",
            "parameters": {"parameter": "cgroup"},
        }


async def test_it_says_what_it_is_as_every_varlink_service(tmp_path: Path) -> None:
    async with hooked(tmp_path), oomd(tmp_path) as caller:
        info = await caller.call("org.varlink.service.GetInfo")
        assert info["parameters"]["interfaces"] == ["org.varlink.service", "io.systemd.oom.Prekill"]
        asked = "org.varlink.service.GetInterfaceDescription"
        described = await caller.call(asked, interface="io.systemd.oom.Prekill")
        assert "method Notify(cgroup: string) -> ()" in described["parameters"]["description"]


async def test_who_is_not_believed_is_refused_and_nobody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmkd.interop.prekill_hook.find_believed", frozenset)
    async with hooked(tmp_path) as house, oomd(tmp_path) as caller:
        app = await run_app(house, "cached", GROUP)
        answer = await caller.announce(GROUP)
        assert answer == {"error": "org.varlink.service.PermissionDenied", "parameters": {}}
        await app.get(wire.Status)
        assert not [heard for heard in app.heard if isinstance(heard, wire.Notice)]


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\0", b"[]\0", b"x" * 70_000])
async def test_what_is_no_varlink_ends_that_caller_alone(tmp_path: Path, said: bytes) -> None:
    async with hooked(tmp_path), oomd(tmp_path) as bad, oomd(tmp_path) as good:
        await bad.send(said)
        await bad.hear_end()
        assert await good.announce("/nobody.slice") == {"parameters": {}}


async def test_callers_are_few_and_the_silent_are_let_go(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.1
    async with hooked(tmp_path), trio.open_nursery() as nursery:
        streams = [
            await trio.open_unix_socket(tmp_path / "hooks" / "lmkd") for _ in range(CALLERS_MOST)
        ]
        async with oomd(tmp_path) as one_too_many:
            await one_too_many.hear_end()
        await trio.sleep(SILENCE_S + 1)
        async with oomd(tmp_path) as caller:
            assert await caller.announce("/nobody.slice") == {"parameters": {}}
        for stream in streams:
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_the_socket_is_gone_with_the_daemon(tmp_path: Path) -> None:
    hook = tmp_path / "hooks" / "lmkd"
    async with hooked(tmp_path):
        assert hook.is_socket()
    assert not hook.exists()


@pytest.mark.parametrize(
    ("hooks", "said"),
    [
        ("in/the/way", "systemd is not here: there is no {folder}/in/the"),
        ("file", "socket directory {folder}/file: File exists"),
    ],
)
async def test_what_it_lacks_is_said_and_the_daemon_goes_on(
    tmp_path: Path, hooks: str, said: str
) -> None:
    (tmp_path / "file").touch()
    async with running(tmp_path, text=SWITCHED_ON, hooks=hooks) as house:
        peer = await house.connect()
        lines = (await peer.get(wire.Status))["interop"]
    assert lines == ["prekill_hook: " + said.format(folder=tmp_path)]


@pytest.mark.parametrize(
    ("path", "good"),
    [
        ("/a.slice/b.scope", True),
        ("/", True),
        ("/a/", True),
        ("", False),
        ("a", False),
        ("/a//b", False),
        ("/a/./b", False),
        ("/a\0", False),
    ],
)
def test_a_cgroup_is_known_from_what_is_none(path: str, good: bool) -> None:
    assert is_cgroup(path) is good


@pytest.mark.parametrize(
    ("files", "called"),
    [
        ({}, False),
        ({"oomd.conf": "[OOM]\n#PrekillHookTimeoutSec=0\n"}, False),
        ({"oomd.conf": "[OOM]\nPrekillHookTimeoutSec=0\n"}, False),
        ({"oomd.conf": "[OOM]\nPrekillHookTimeoutSec = 3s\n"}, True),
        ({"oomd.conf": "[OOM]\n", "oomd.conf.d/a.conf": "[OOM]\nPrekillHookTimeoutSec=1\n"}, True),
    ],
)
def test_whether_systemd_oomd_calls_at_all_is_read(
    tmp_path: Path, files: dict[str, str], called: bool
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert is_called((f"{tmp_path}/oomd.conf", f"{tmp_path}/oomd.conf.d/*.conf")) is called


def test_root_is_believed() -> None:
    assert 0 in find_believed()
