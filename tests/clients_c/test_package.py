"""The client for C as a library: what it is built from, what it brings in, and what it leaves alone."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from lmkd_proto import Error, Register, Subscribe

from ..clients.fake_daemon import FakeDaemon, notice, pressure
from ..program import PATIENCE_S, Program
from .programs import CLIENT, HERE, ROOT, STRICT, build, need
from .scripts import padded
from .test_decoding import SEED, mutate, rebuild, seeds
from .test_examples import SNIPPETS

ALLOCATES = {
    "malloc",
    "calloc",
    "realloc",
    "free",
    "strdup",
    "mmap",
    "aligned_alloc",
    "posix_memalign",
}
C_PLUS_PLUS = """
#include <lmkd.h>
static void heard(lmkd_client *, const lmkd_notice *, void *) {}
int main() {
    lmkd_options options = {};
    options.on_notice = heard;
    lmkd_client *client = lmkd_new(&options);
    int error = lmkd_register(client, "c++", LMKD_CACHED, 1, LMKD_PROCESS);
    lmkd_free(client);
    return error;
}
"""
WITHOUT_A_CLIENT = """
#include <lmkd.h>
#include <stdio.h>
int main(void) {
    struct lmkd_client *client = lmkd_new(NULL);
    struct lmkd_notice notice = {.number = 1};
    puts(lmkd_error_text(client));
    int results[] = {
        lmkd_register(client, "app", LMKD_CACHED, 0, LMKD_PROCESS), lmkd_update(client, LMKD_CACHED, 0),
        lmkd_unregister(client), lmkd_subscribe(client, "system", LMKD_LOCAL), lmkd_unsubscribe(client, "system"),
        lmkd_ack(client, &notice, LMKD_DONE, 0), lmkd_simulate(client, LMKD_LOW, LMKD_SELF, 0),
        lmkd_dispatch(client), lmkd_wait(client, -1),
    };
    for (unsigned i = 0; i < sizeof results / sizeof *results; i++)
        if (results[i] != -22) return 1;
    if (lmkd_fd(client) != -1 || lmkd_state(client) != LMKD_OVER) return 2;
    lmkd_free(client);
    return 0;
}
"""


def run(*command: str | Path, **environment: str) -> str:
    """Run a command, which must succeed, and return its output."""
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("level", ["-O0", "-O2", "-Os"])
def test_it_compiles_without_a_warning(tmp_path: Path, compiler: str, level: str) -> None:
    if compiler == "clang" and shutil.which("clang") is None:
        pytest.skip("there is no clang here")
    build(tmp_path / "lmkd.o", *STRICT, level, "-c", CLIENT / "lmkd.c", compiler=compiler)


def test_the_header_is_one_for_c_plus_plus_and_a_program_in_it_links_and_runs(
    tmp_path: Path,
) -> None:
    need("g++")
    source = tmp_path / "main.cpp"
    source.write_text(C_PLUS_PLUS)
    build(tmp_path / "lmkd.o", *STRICT, "-c", CLIENT / "lmkd.c")
    warnings = ("-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
    run(build(tmp_path / "main", *warnings, source, tmp_path / "lmkd.o", compiler="g++"))


def test_a_program_whose_client_could_not_be_made_goes_on_without_lmkd(tmp_path: Path) -> None:
    source = tmp_path / "none.c"
    source.write_text(WITHOUT_A_CLIENT)
    program = build(tmp_path / "none", *STRICT, source, CLIENT / "lmkd.c")
    assert run(program, LMKD_SOCKET="/" + "x" * 200) == "no client: lmkd_new has failed\n"


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix that meson has installed the library into."""
    need("meson", "ninja", "pkg-config")
    folder = tmp_path_factory.mktemp("meson")
    run(
        "meson",
        "setup",
        folder / "build",
        CLIENT,
        "--prefix",
        folder / "usr",
        "--libdir",
        "lib",
        "--werror",
    )
    run("meson", "install", "-C", folder / "build")
    return folder / "usr"


def test_what_is_installed_is_a_header_a_library_with_a_soname_and_what_finds_them(
    prefix: Path,
) -> None:
    installed = {str(path.relative_to(prefix)) for path in prefix.rglob("*") if not path.is_dir()}
    assert installed == {
        *("include/lmkd.h", "lib/liblmkd.so", "lib/liblmkd.so.0", "lib/liblmkd.so.0.1.0"),
        "lib/pkgconfig/lmkd.pc",
    }
    library = prefix / "lib" / "liblmkd.so.0.1.0"
    dynamic = run("readelf", "-d", library)
    assert "Library soname: [liblmkd.so.0]" in dynamic
    needed = [line for line in dynamic.splitlines() if "(NEEDED)" in line]
    assert len(needed) == 1
    assert "libc." in needed[0]


def test_only_the_functions_of_the_header_are_seen_and_all_of_them(prefix: Path) -> None:
    library = prefix / "lib" / "liblmkd.so"
    seen = {line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines()}
    header = (prefix / "include" / "lmkd.h").read_text()
    declared = {
        line.partition("(")[0].split()[-1].lstrip("*")
        for line in header.splitlines()
        if line.startswith("LMKD_API")
    }
    assert seen == declared
    used = {line.split()[-1] for line in run("nm", "-D", "--undefined-only", library).splitlines()}
    assert {name.partition("@")[0] for name in used} & ALLOCATES == {"calloc", "free"}


def test_the_three_lines_compile_against_what_pkg_config_says_and_run(
    prefix: Path, tmp_path: Path
) -> None:
    found = {"PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")}
    flags = run("pkg-config", "--cflags", "--libs", "lmkd", **found).split()
    assert flags == [f"-I{prefix}/include", f"-L{prefix}/lib", "-llmkd"]
    assert run("pkg-config", "--print-requires-private", "--print-requires", "lmkd", **found) == ""
    source = tmp_path / "thumbnails.c"
    source.write_text(SNIPPETS[0])
    run("gcc", source, *flags, "-o", tmp_path / "thumbnails")
    path = str(tmp_path / "socket")

    def script(daemon: FakeDaemon) -> None:
        with daemon.accept() as peer:
            peer.greet()
            assert peer.grant(notice(1)).name == "thumbnails"

    environment = {"LD_LIBRARY_PATH": str(prefix / "lib"), "LMKD_SOCKET": path}
    with (
        FakeDaemon(path) as daemon,
        Program(tmp_path / "thumbnails", environment=environment) as program,
    ):
        daemon.run(script)
        program.expect(f"medium: {1 << 20} bytes")


def test_meson_takes_it_as_a_subproject(tmp_path: Path) -> None:
    need("meson", "ninja")
    (tmp_path / "subprojects").mkdir()
    (tmp_path / "subprojects" / "lmkd").symlink_to(CLIENT)
    (tmp_path / "meson.build").write_text(
        "project('other', 'c')\n"
        "subproject('lmkd')\n"
        "executable('thumbnails', 'thumbnails.c', dependencies: dependency('lmkd'))\n"
    )
    (tmp_path / "thumbnails.c").write_text(SNIPPETS[0])
    run("meson", "setup", tmp_path / "build", tmp_path)
    run("ninja", "-C", tmp_path / "build")


def test_valgrind_finds_nothing_in_a_life_with_two_daemons_and_everything_in_it(
    plain_probe: Path, tmp_path: Path
) -> None:
    need("valgrind")
    path = str(tmp_path / "socket")

    def script(daemon: FakeDaemon) -> None:
        for _ in range(2):
            with daemon.accept() as peer:
                peer.greet()
                peer.show(pressure("low"))
                peer.grant(notice(1))
                peer.say_bytes(padded(notice(2), 65_536))
                peer.say_bytes(bytes.fromhex("00000003 81a178 00000001c1 00000004 81a1ff01"))
                peer.say(Error(None, "failed", "why"), notice(3))
        with daemon.accept() as peer:
            peer.greet()
            peer.say(Error(peer.expect(Subscribe).id, "failed", "no"))
            peer.say(Error(peer.expect(Register).id, "failed", "no"))
            peer.expect_end()

    checks = ("--error-exitcode=9", "--leak-check=full", "--show-leak-kinds=all")
    command = (
        "valgrind",
        "--quiet",
        *checks,
        "--errors-for-leak-kinds=all",
        str(plain_probe),
        "10",
        "50",
    )
    with (
        FakeDaemon(path) as daemon,
        Program(*command, environment={"LMKD_SOCKET": path}) as program,
    ):
        daemon.run(script)
        program.expect("open lmkd fake")
        program.ask("subscribe system local", "returned 2")
        program.expect("ok subscribe as asked", "pressure .*")
        program.ask("register app cached 7 tree", "returned 3")
        for number in range(2):
            if number > 0:
                program.expect("open lmkd fake", "ok subscribe as asked", "pressure .*")
            program.expect("ok register .*", *(f"notice {each} .*" for each in (1, 2, 3)))
            program.expect(f"away lost lmkd at {path}: failed: why")
        program.expect("open lmkd fake", "refused subscribe .*", "refused register .*")
        program.ask("subscribe nowhere local", "returned -22 .*")
        program.ask("quit", "done")
        assert program.wait() == 0


def test_valgrind_finds_nothing_in_a_seeded_share_of_the_hostile_frames(tmp_path: Path) -> None:
    need("valgrind")
    chance = random.Random(SEED + 1)
    lines = []
    for number in range(600):
        request, reply, frame = chance.choice(seeds())
        changed = (mutate, rebuild)[number % 2](chance, frame)
        lines.append(f"{request} {reply} {changed.hex()}\n")
    decoder = build(tmp_path / "decode", "-std=c11", "-O1", "-g", HERE / "decode.c")
    ran = subprocess.run(
        ["valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full", decoder],
        input="".join(lines),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S * 2,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(ran.stdout.splitlines()) == len(lines)


def test_the_version_of_the_library_is_the_projects_own() -> None:
    version = 'version = "0.1.0"'
    assert version in (ROOT / "pyproject.toml").read_text()
    assert "version: '0.1.0'" in (CLIENT / "meson.build").read_text()
