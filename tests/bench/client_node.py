"""The client for Node: what it adds to a process, and how long a notice takes from the socket to the callback.

The program is a process of its own, as it would be; it answers each notice with the time at which its callback began.
Resident is all of a process (VmRSS), its files' pages included. All of them make garbage first, bare Node too: with
the first MiB of it V8's young generation grows by 5 MB, whoever makes it, and would be taken for the client's.
"""

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from lmkd_client.testing.peer import listen

from tests.bench.python_client import ask
from tests.bench.rows import Row, middle, percentile

STARTS = 9
NOTICES = 2000
NOTICES_BEFORE_SIZE = 100
NOTICE_LIMIT_MS = 5
"""V8 compiles and collects now and then: on two processors 35 of 2,000 notices take 1 to 5 ms, and 14 where there is
no client but a socket and the codec."""
IMPORT_LIMIT_MS = 60
RESIDENT_LIMIT_MB = 10
CHURN = "let churned = []; for (let i = 0; i < 3e6; i += 1) churned = [i, churned.length];\n"
STAYS = "setInterval(() => {}, 1000);\n"
CALLBACK = """
import { onPressure } from "lmkd-client";
onPressure({ name: "bench", path: process.argv[2], keepAlive: true }, () => ({ freedBytes: process.hrtime.bigint() }));
"""
ITERATOR = """
import { connect } from "lmkd-client";
const client = await connect({ path: process.argv[2] });
await client.register({ name: "bench" });
for await (const event of client) {
  if (event.type === "notice") await client.ack(event, "done", process.hrtime.bigint());
}
"""
FLOOR = """
import { connect } from "node:net";
import { decode, encode } from "@msgpack/msgpack";
const socket = connect(process.argv[2]);
const say = (message) => {
  const payload = encode(message, { useBigInt64: true });
  const head = Buffer.alloc(4);
  head.writeUInt32BE(payload.length);
  socket.write(Buffer.concat([head, payload]));
};
say({ type: "hello", id: 1, version: 1 });
say({ type: "register", id: 2, name: "bench", class: "cached" });
socket.on("data", (chunk) => {
  for (let at = 0; at < chunk.length; ) {
    const end = at + 4 + chunk.readUInt32BE(at);
    const { type, notice } = decode(chunk.subarray(at + 4, end));
    const freed_bytes = process.hrtime.bigint();
    if (type === "notice") say({ type: "ack", id: 3, notice, answer: "done", freed_bytes });
    at = end;
  }
});
"""
"""No client at all: a socket and the codec. What this takes is the machine's and Node's, and what else runs here."""
USES = {
    "import": f'import "lmkd-client";\n{STAYS}',
    "connect": ITERATOR,
    "a socket and @msgpack/msgpack alone": FLOOR,
    "onPressure": CALLBACK,
}
"""What the limit is for last; the others are in its note."""


def measure() -> list[Row]:
    if shutil.which("node") is None or shutil.which("npm") is None:
        print("client_node: nothing is measured: no node and npm here")
        return []
    from tests.clients_node.programs import build

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "node_modules").symlink_to(build() / "node_modules")
        floor_ms = _notices(directory, FLOOR)
        return [
            _import_time(directory),
            _resident(directory),
            _row("onPressure", _notices(directory, CALLBACK), floor_ms),
            _row("connect", _notices(directory, ITERATOR), floor_ms),
        ]


def _place(directory: Path, code: str) -> Path:
    program = directory / "program.mjs"
    program.write_text(code)
    return program


def _import_time(directory: Path) -> Row:
    """Start bare Node and each import in turns, so that what else goes on here is in all of them."""
    codes = {"bare": "", "@msgpack/msgpack": 'import "@msgpack/msgpack";'}
    codes["lmkd-client"] = 'import "lmkd-client";'
    took_ms: dict[str, list[float]] = {use: [] for use in codes}
    for _ in range(STARTS):
        for use, code in codes.items():
            program = _place(directory, code)
            began = time.perf_counter()
            subprocess.run(["node", program], check=True)
            took_ms[use].append((time.perf_counter() - began) * 1000)
    bare_ms = middle(took_ms["bare"])
    note = f"{bare_ms:.1f} bare; @msgpack/msgpack alone {middle(took_ms['@msgpack/msgpack']) - bare_ms:.1f}"
    over_ms = max(middle(took_ms["lmkd-client"]) - bare_ms, 0)
    return Row("import lmkd-client, over bare Node: time", over_ms, IMPORT_LIMIT_MS, "ms", note)


def _resident(directory: Path) -> Row:
    codes = {"bare": STAYS, **USES}
    sizes_mb: dict[str, list[float]] = {use: [] for use in codes}
    for _ in range(STARTS):
        for use, code in codes.items():
            sizes_mb[use].append(_weigh(directory, code + CHURN, "process.argv" in code))
    bare_mb = middle(sizes_mb["bare"])
    over_mb = {use: middle(sizes_mb[use]) - bare_mb for use in USES}
    *others, last = USES
    note = f"{bare_mb:.1f} bare; " + ", ".join(f"{use} {over_mb[use]:.1f}" for use in others)
    what = f"{last} in Node, resident above bare Node"
    return Row(what, over_mb[last], RESIDENT_LIMIT_MB, "MB", note)


def _weigh(directory: Path, code: str, talks: bool) -> float:
    """Return in MB what a program has resident once it rests; one that talks was told a hundred notices."""
    path = directory / "socket"
    path.unlink(missing_ok=True)
    with (
        listen(str(path)) as listener,
        subprocess.Popen(["node", _place(directory, code), path]) as program,
    ):
        try:
            if not talks:
                return _size_mb(program.pid)
            sock, _ = listener.accept()
            with sock:
                ask(sock, NOTICES_BEFORE_SIZE)
                return _size_mb(program.pid)
        finally:
            program.kill()


def _size_mb(pid: int) -> float:
    _wait_asleep(pid)
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e6


def _wait_asleep(pid: int) -> None:
    """Wait until a process has used no more processor time for a while."""
    before = ""
    time.sleep(0.3)  # Node has not begun before that
    for _ in range(1000):
        used = Path(f"/proc/{pid}/schedstat").read_text()
        if used == before:
            return
        before = used
        time.sleep(0.1)
    raise RuntimeError("it does not come to rest")


def _row(how: str, took_ms: list[float], floor_ms: list[float]) -> Row:
    note = (
        f"median {middle(took_ms):.3f}, max {max(took_ms):.3f}; without a client"
        f" {middle(floor_ms):.3f}, p99 {percentile(floor_ms, 0.99):.3f}"
    )
    what = f"notice, socket to callback in Node, p99, {how}"
    return Row(what, percentile(took_ms, 0.99), NOTICE_LIMIT_MS, "ms", note)


def _notices(directory: Path, code: str) -> list[float]:
    """Return what each notice to a program took until its own code began."""
    path = directory / "socket"
    path.unlink(missing_ok=True)
    with (
        listen(str(path)) as listener,
        subprocess.Popen(["node", _place(directory, code), path]) as program,
    ):
        try:
            sock, _ = listener.accept()
            with sock:
                return ask(sock, NOTICES)
        finally:
            program.kill()
