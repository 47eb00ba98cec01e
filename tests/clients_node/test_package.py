"""What the package of the client for Node is made of: what it asks for, what it loads, and what its types refuse."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path

import pytest

from .programs import CLIENT, EXAMPLES, ROOT, compiled, place

PACKAGE = json.loads((CLIENT / "package.json").read_text())
SOURCES = {path.stem: path.read_text() for path in CLIENT.glob("src/*.ts")}
LINES_MOST = 500
IMPORTS = {
    "channel": {"node:fs", "node:net", "node:util"},
    "codec": {"@msgpack/msgpack"},
    "held-memory": {"node:fs", "node:inspector"},
}
"""What a module may import that is not ours. Nothing else does any input or output, or knows msgpack."""
CORE = {
    *("backoff", "codec", "connection", "errors", "framing", "inbox", "messages", "replies"),
    *("session", "values", "wire"),
}
SHELL = {"channel", "client", "held-memory", "index", "listener", "shedding"}


def imported_by(module: str) -> set[str]:
    return set(
        re.findall(r'(?:from|import\() ?"([^"]+)"', re.sub(r"(?m)^ \*.*", "", SOURCES[module]))
    )


def test_the_version_is_the_projects_own_and_all_that_is_asked_for_is_one_version() -> None:
    assert f'version = "{PACKAGE["version"]}"' in (ROOT / "pyproject.toml").read_text()
    assert set(PACKAGE["dependencies"]) == {"@msgpack/msgpack"}
    for asked in (PACKAGE["dependencies"], PACKAGE["devDependencies"]):
        assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in asked.values())
    assert PACKAGE["engines"] == {"node": ">=18"}
    # The types are Node 18's, so that what came later does not compile.
    assert PACKAGE["devDependencies"]["@types/node"].startswith("18.")


def test_no_registry_is_named_and_no_lock_that_names_one_is_kept() -> None:
    assert "package-lock.json" in (ROOT / ".gitignore").read_text().splitlines()
    for path in (CLIENT / "package.json", CLIENT / "tsconfig.json", *EXAMPLES.iterdir()):
        if path.is_file():
            assert not re.search(r"registry|https?:", path.read_text()), path


def test_what_is_packed_is_code_and_types_and_nothing_else(app: Path) -> None:
    package = app / "node_modules" / "lmkd-client"
    packed = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    modules = {f"dist/{name}{end}" for name in SOURCES for end in (".js", ".d.ts")}
    assert packed == {"package.json"} | modules


def test_the_core_knows_no_socket_no_clock_and_nothing_of_the_shell() -> None:
    assert set(SOURCES) == CORE | SHELL
    for module in SOURCES:
        ours = {name for name in imported_by(module) if name.startswith("./")}
        assert imported_by(module) - ours <= IMPORTS.get(module, set()), module
        if module in CORE:
            assert {name[2:-3] for name in ours} <= CORE, module
            for word in ("process.", "setTimeout", "performance.", "Date.", "Promise", "async "):
                assert word not in SOURCES[module], f"{module}: {word}"


def test_no_module_has_two_ideas() -> None:
    for name, source in SOURCES.items():
        assert source.count("\n") <= LINES_MOST, name
        assert source.startswith("/**\n"), f"{name}: what it is, and what it does not know"


@pytest.mark.parametrize("module", ["client", "listener", "shedding", "channel", "held-memory"])
def test_every_public_function_says_what_it_does(app: Path, module: str) -> None:
    declared = (app / "node_modules" / "lmkd-client" / "dist" / f"{module}.d.ts").read_text()
    lines = declared.splitlines()
    found = 0
    for above, line in itertools.pairwise(lines):
        if re.match(r"(    (get |async )?\[?[\w.]+\]?\(|export declare (function|class))", line):
            found += 1
            # The iterator is the language's own, and is described by `events`.
            assert above.strip().endswith("*/") or "asyncIterator" in line, f"{module}: {line}"
    assert found > 0


def test_the_types_refuse_what_the_daemon_would(app: Path, tmp_path: Path) -> None:
    compiled(
        tmp_path,
        app,
        """
import { connect, onPressure, RequestRefusedError, type Event, type Notice } from "lmkd-client";

const client = await connect();
// @ts-expect-error: a level is one of four words
await client.simulate("highest");
// @ts-expect-error: nobody is `system` by its own word
await client.register({ name: "a", appClass: "system" });
// @ts-expect-error: an app has a name
onPressure({}, () => 0);
// @ts-expect-error: a word that is no answer
declare const notice: Notice; await client.ack(notice, "maybe");
// @ts-expect-error: a byte count may be a bigint, and must be made a number to be divided
notice.targetBytes / 2;
// @ts-expect-error: what was heard is not to be changed
notice.level = "low";
// @ts-expect-error: a client is made by `connect`
new (await import("lmkd-client")).Client();

export function describe(event: Event): string {
  switch (event.type) {
    case "notice": return `${Number(event.targetBytes) / 2} ${event.deadlineMs}`;
    case "pressure": return `${event.domain} ${event.level} ${event.availableBytes > 5}`;
    case "killed": return `${event.name} ${event.appClass}`;
    case "kill_warning": return String(event.timeToExitMs);
    case "connected": return event.server;
    case "lost": return event.error.code;
    case "registered": return String(event.grant.graceMs);
    case "refused": return event.request;
    case "malformed": return event.message;
  }
}

export const isBusy = (error: unknown) => error instanceof RequestRefusedError && error.code === "busy";
""",
    )


def test_it_is_closed_by_await_using_where_the_language_has_that(app: Path, tmp_path: Path) -> None:
    code = """
import { onPressure } from "lmkd-client";
const listener = onPressure({ name: "a", path: "/nowhere" }, () => 0);
if (Symbol.asyncDispose !== undefined) await listener[Symbol.asyncDispose]();
else listener.close();
await listener.simulate("low").catch((error) => console.log(error.code));
"""
    program = place(tmp_path, app, code, "program.mjs")
    ran = subprocess.run(["node", program], capture_output=True, text=True, check=True, timeout=20)
    assert ran.stdout == "closed\n"


def test_what_is_held_is_read_and_added_up(app: Path, tmp_path: Path) -> None:
    code = """
const dist = (name) => import(new URL(`./node_modules/lmkd-client/dist/${name}.js`, import.meta.url));
const { heldBytes, parseHeldBytes } = await dist("held-memory");
const { Backoff } = await dist("backoff");
const status = "Name:\\tRssAnon: 5 kB\\nVmRSS:\\t  900 kB\\nRssAnon:\\t  100 kB\\nRssFile:\\t  700 kB\\n";
const pauses = (draw, backoff = new Backoff({ firstMs: 10, mostMs: 50 }, draw)) =>
  [0, 0, 0, 0, 49, 50, 0].map((lastedMs) => backoff.nextPauseMs(lastedMs));
console.log(JSON.stringify([
  parseHeldBytes(status),
  parseHeldBytes(`${status}RssShmem:\\t 20 kB\\nVmSwap:\\t  3 kB\\n`),
  heldBytes() > 2 ** 20,
  pauses(() => 0),
  pauses(() => 0.999999),
]));
"""
    program = place(tmp_path, app, code, "program.mjs")
    ran = subprocess.run(["node", program], capture_output=True, text=True, check=True, timeout=20)
    assert json.loads(ran.stdout) == [
        *(100 << 10, 123 << 10, True),
        *([10, 20, 40, 50, 50, 10, 20], [6, 11, 21, 26, 26, 6, 11]),
    ]
