"""The client in C: what it adds to a process, and how long a notice takes from the socket to the callback.

Resident is all of it: `Rss` of /proc/PID/smaps_rollup, which is counted page by page, of a process that the library
(as meson builds it: a shared object) has connected, registered and told of a hundred notices in, less that of a bare
process, which makes the same system calls on its own and knows nothing of the protocol. The library's own file pages
are in it, and those of libc that it alone has touched, though other processes share them.

A touched file page brings in up to 15 others around it that are in the page cache (the kernel's fault-around, windows
of 64 KiB), so how much of libc is resident changes with the address that it is loaded at, by 100 KiB and more from one
process to the next. So both are started at each of the 16 places that a page can have in such a window, and the means
compared.
"""

import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import mean

from lmkd_proto import Hello, Notice, Ok, Register, Welcome, encode

from tests.bench.rows import Row, middle, percentile

CLIENT = Path(__file__).parents[2] / "clients" / "c"
MSGPACK = Path("/usr/include/msgpack/unpack_template.h")
LIMIT_KIB = 64
LIMIT_MS = 0.1
PAGE_BYTES = 4096
WINDOW_PAGES = 16
STACK_BYTES = 512 << 20
"""The limit of the stack says where libraries are loaded, where chance does not: a page more, a page lower."""
NOTICES = 20_000
NOTICES_APART = 2_000
GRANT: dict[str, object] = {
    "app": 7,
    "class": "cached",
    "unit": "process",
    "domain": "system",
    "grace_ms": 1000,
    "time_to_exit_ms": 500,
}
SAID = encode(Hello(1, 1)) + encode(Register(2, "bench", "cached", 1 << 20))
GREETING = encode(Welcome(1, 1, "lmkd", False)) + encode(Ok(2, GRANT))
NOTICE = encode(Notice(7, "system", "medium", 0x1111_1111_1111_1111, 1000, "132 s to the floor"))


def measure() -> list[Row]:
    if not MSGPACK.exists():
        print("client_c: nothing is measured: no libmsgpack-dev here")
        return []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        _compile(directory)
        return [*_resident(directory), *_latency(directory)]


def _compile(directory: Path) -> None:
    """Build the library as meson does by default, and the programs."""
    library = directory / "liblmkd.so.0"
    shared = ("-Os", "-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-soname,liblmkd.so.0")
    _gcc(*shared, "-o", library, CLIENT / "lmkd.c")
    bench = Path(__file__).parent
    _gcc("-O2", "-DBARE", "-o", directory / "bare", bench / "listener.c")
    linked = (f"-I{CLIENT}", library, f"-Wl,-rpath,{directory}")
    _gcc("-O2", "-o", directory / "client", bench / "listener.c", *linked)
    _gcc("-O2", "-o", directory / "callbacks", bench / "callbacks.c", *linked)


def _gcc(*arguments: str | Path) -> None:
    subprocess.run(["gcc", "-std=c11", *arguments], check=True)


def _resident(directory: Path) -> list[Row]:
    bare = [_weigh(directory, "bare", place) for place in range(WINDOW_PAGES)]
    client = [_weigh(directory, "client", place) for place in range(WINDOW_PAGES)]
    added, library, anonymous = (
        mean(each[key] for each in client) - mean(each[key] for each in bare)
        for key in ("Rss", "library", "Anonymous")
    )
    note = (
        f"{mean(each['Rss'] for each in bare):.0f} bare; of the {added:.0f}: pages of the library {library:.0f},"
        f" anonymous {anonymous:.0f}, the rest libc's"
    )
    return [Row("client in C, resident above a bare process", added, LIMIT_KIB, "KiB", note)]


def _weigh(directory: Path, program: str, place: int) -> dict[str, float]:
    """Return in KiB what a program has resident when it was greeted and told a hundred notices."""
    path = str(directory / "socket")
    with suppress(FileNotFoundError):
        Path(path).unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        placed = ("setarch", "-R", "prlimit", f"--stack={STACK_BYTES + place * PAGE_BYTES}")
        command = [*placed, directory / program, path, SAID.hex()]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        peer, _ = listener.accept()
        with peer, process:
            heard = b""
            while len(heard) < len(SAID):
                heard += peer.recv(4096)
            peer.sendall(GREETING)
            for _ in range(100):
                peer.sendall(NOTICE)
            _wait_asleep(process.pid)
            smaps = Path(f"/proc/{process.pid}/smaps").read_text()
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            sizes = dict(_sizes(rollup))
            sizes["library"] = sum(
                size
                for part in smaps.split("VmFlags")
                if "liblmkd.so" in part
                for key, size in _sizes(part)
                if key == "Rss"
            )
            process.communicate(b"\n")
            if process.returncode != 0:
                raise RuntimeError(f"{program} heard nothing")
    return sizes


def _sizes(smaps: str) -> list[tuple[str, float]]:
    return [
        (line.split(":")[0], float(line.split()[1]))
        for line in smaps.splitlines()
        if line.endswith(" kB")
    ]


def _wait_asleep(pid: int) -> None:
    """Wait until a process has heard all: it has used no more processor time for a while."""
    before = ""
    for _ in range(1000):
        used = Path(f"/proc/{pid}/schedstat").read_text()
        if used == before:
            return
        before = used
        time.sleep(0.05)
    raise RuntimeError("it does not come to rest")


def _latency(directory: Path) -> list[Row]:
    rows = []
    for how, count, words in (
        ("in one thread", NOTICES, ()),
        ("and woken for it", NOTICES_APART, ("apart",)),
    ):
        path = directory / "socket"
        path.unlink(missing_ok=True)
        ran = subprocess.run(
            [directory / "callbacks", path, GREETING.hex(), NOTICE.hex(), str(count), *words],
            capture_output=True,
            text=True,
            check=True,
        )
        late_ms = [int(line) / 1e6 for line in ran.stdout.split()]
        note = f"median {middle(late_ms):.4f}, max {max(late_ms):.3f}, {len(late_ms)} notices"
        what = f"notice to callback in C, p99, {how}"
        rows.append(Row(what, percentile(late_ms, 0.99), LIMIT_MS, "ms", note))
    return rows
