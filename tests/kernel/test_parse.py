"""Bytes to values: as real kernels write them, as hostile processes name themselves, and garbage."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkd.kernel import parse
from lmkd.kernel.files import MalformedKernelFile

from .conftest import CAPTURED

Captured = Callable[[str], bytes]


def test_meminfo_as_captured(captured: Captured) -> None:
    found = parse.parse_meminfo(captured("meminfo-6.18"), "meminfo")
    fields = dict(line.split(b":") for line in captured("meminfo-6.18").splitlines())
    kib = {key.decode(): int(value.split()[0]) for key, value in fields.items()}
    assert found == parse.MemInfo(
        total_kib=kib["MemTotal"],
        available_kib=kib["MemAvailable"],
        anon_kib=kib["Active(anon)"] + kib["Inactive(anon)"],
        file_lru_kib=kib["Active(file)"] + kib["Inactive(file)"],
        swap_total_kib=kib["SwapTotal"],
        swap_free_kib=kib["SwapFree"],
    )


def test_meminfo_without_memavailable_says_so(captured: Captured) -> None:
    content = captured("meminfo-6.18").replace(b"MemAvailable", b"MemUnavailable")
    with pytest.raises(MalformedKernelFile, match="a line of MemAvailable"):
        parse.parse_meminfo(content, "proc/meminfo")


def test_vmstat_keys_as_captured(captured: Captured) -> None:
    content = captured("vmstat-6.18")
    values = dict(line.split() for line in content.splitlines())
    keys = [b"workingset_refault_file", b"pgscan_direct", b"pgscan_kswapd", b"nr_free_pages"]
    assert parse.parse_flat_keyed(content, keys, "vmstat") == [int(values[key]) for key in keys]


def test_a_key_is_not_found_inside_a_longer_one() -> None:
    content = b"oom_kill 1\noom_group_kill 2\noom 3\n"
    assert parse.parse_flat_keyed(content, (b"oom", b"kill", b"oom_kill"), "f") == [3, None, 1]


def test_a_last_line_without_newline_counts() -> None:
    assert parse.parse_flat_keyed(b"low 0\nhigh 7", (b"high",), "f") == [7]


@pytest.mark.parametrize(
    ("content", "some", "full"),
    [
        (
            b"some avg10=1.25 avg60=0.00 avg300=0.00 total=123456\n"
            b"full avg10=0.00 avg60=0.00 avg300=0.00 total=789\n",
            123456,
            789,
        ),
        (b"some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n", 5, None),
    ],
)
def test_pressure_totals(content: bytes, some: int, full: int | None) -> None:
    assert parse.parse_pressure(content, "memory") == parse.Stalls(some, full)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"some\n",
        b"full avg10=0.00 total=1\n",
        b"some total=\n",
        b"some total=-1\n",
        b"some total=1_0\n",
        b"most avg10=0.00 total=1\n",
    ],
)
def test_malformed_pressure_carries_path_and_bytes(content: bytes) -> None:
    with pytest.raises(MalformedKernelFile) as caught:
        parse.parse_pressure(content, "proc/pressure/memory")
    assert (caught.value.path, caught.value.content) == ("proc/pressure/memory", content)


def test_swaps_with_escaped_names_and_a_deleted_file() -> None:
    content = (
        b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        b"/dev/zram0                              partition\t204796\t\t1024\t\t100\n"
        b"/swap\\040file\\040(deleted)              file\t\t1000\t\t0\t\t-2\n"
    )
    assert parse.parse_swaps(content, "swaps") == [
        parse.SwapArea("/dev/zram0", 204796, 1024),
        parse.SwapArea("/swap\\040file\\040(deleted)", 1000, 0),
    ]


def test_zram_figures_are_the_first_and_the_third() -> None:
    content = b"  4194304    65536   131072        0   200000        7        0        0        0\n"
    assert parse.parse_zram_mm_stat(content, "mm_stat") == (4096, 128)


@pytest.mark.parametrize(("content", "limit"), [(b"max\n", None), (b"67108864\n", 67108864)])
def test_limits(content: bytes, limit: int | None) -> None:
    assert parse.parse_limit(content, "memory.max") == limit


def test_arcstats_give_what_zfs_would_give_back() -> None:
    content = b"13 1 0x01 123 33456 1 2\nname type data\nsize 4 10485760\nc_min 4 2097152\n"
    assert parse.parse_arcstats(content, "arcstats") == 8192


STAT = (
    b" S 1 77 78 0 -1 4194304 70 0 1 0 0 0 0 0 20 0 3 0 4711 430080 33 18446744073709551615"
    b" 1 1 0 0 0 0 0 0 6 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)


@pytest.mark.parametrize(
    "name",
    [
        b"sleep",
        b"",
        b" ",
        b"foo) Z 1 (",
        b"a) R 1 1 1 1\n(",
        b"x\ny",
        b") ",
        b"(((",
        b"77 (evil) Z 1",
    ],
)
def test_a_process_cannot_lie_by_its_name(name: bytes) -> None:
    found = parse.parse_proc_stat(b"77 (" + name + b")" + STAT, "stat")
    assert (found.pid, found.state, found.ppid, found.start_ticks) == (77, "S", 1, 4711)
    assert found.session == 78
    assert found.comm == name.decode()


def test_a_name_that_is_not_utf8_is_escaped() -> None:
    found = parse.parse_proc_stat(b"77 (\xff\xfe)" + STAT, "stat")
    assert found.comm == "\\xff\\xfe"


def test_stat_as_captured(captured: Captured) -> None:
    found = parse.parse_proc_stat(captured("proc-pid-stat-6.18"), "stat")
    assert (found.comm, found.state, found.threads) == ("sleep", "R", 1)
    assert not found.is_kernel_thread
    assert parse.parse_proc_stat(captured("proc-kthread-stat-6.18"), "stat").is_kernel_thread


@pytest.mark.parametrize(("threads", "dead"), [(b"0", True), (b"1", True), (b"2", False)])
def test_a_zombie_with_living_threads_is_not_dead(threads: bytes, dead: bool) -> None:
    stat = STAT.replace(b" S ", b" Z ", 1).replace(b" 20 0 3 ", b" 20 0 " + threads + b" ")
    assert parse.parse_proc_stat(b"77 (x)" + stat, "stat").is_dead is dead


def test_a_process_that_is_being_reaped_has_no_session_and_is_dead() -> None:
    """Seen on 6.18: state X, no thread, and -1 for group, session and terminal."""
    line = b"27242 (sleep) X 0 -1 -1 0 -1 4194564 0 0 0 0 0 0 0 0 20 0 0 0 99 0 0 0\n"
    stat = parse.parse_proc_stat(line, "proc/27242/stat")
    assert (stat.session, stat.is_dead, stat.start_ticks) == (0, True, 99)


def test_status_as_captured(captured: Captured) -> None:
    content = captured("proc-pid-status-6.18")
    found = parse.parse_proc_status(content, "status")
    lines = dict(line.split(b":\t", 1) for line in content.splitlines() if b":\t" in line)
    assert found.uid == int(lines[b"Uid"].split()[0])
    assert found.gid == int(lines[b"Gid"].split()[0])
    assert found.resident_kib == int(lines[b"VmRSS"].split()[0])
    assert found.anon_kib == int(lines[b"RssAnon"].split()[0])
    assert found.swap_kib == int(lines[b"VmSwap"].split()[0])


def test_the_real_ids_are_taken_and_an_exiting_process_has_no_size() -> None:
    content = b"Name:\tx\nState:\tR (running)\nUid:\t1000\t0\t0\t0\nGid:\t1007\t0\t0\t0\n"
    assert parse.parse_proc_status(content, "status") == parse.ProcStatus(1000, 1007, 0, 0, 0)


def test_what_is_held_is_anonymous_shared_and_swapped_memory(captured: Captured) -> None:
    content = captured("proc-pid-status-6.18")
    lines = dict(line.split(b":\t", 1) for line in content.splitlines() if b":\t" in line)
    held = sum(int(lines[key].split()[0]) for key in (b"RssAnon", b"RssShmem", b"VmSwap"))
    assert parse.parse_held_kib(content, "status") == held
    other = b"RssFile:\t 9 kB\nRssShmem:\t 30 kB\n"
    assert parse.parse_held_kib(b"Name:\tx\nRssAnon:\t  200 kB\n" + other, "status") == 230
    assert parse.parse_held_kib(b"Name:\tx\n", "status") == 0


@pytest.mark.parametrize("content", [b"Name:\tx\nUid:\t1\t0\n", b"Name:\tx\nGid:\t1\t0\n"])
def test_a_status_without_ids_is_malformed(content: bytes) -> None:
    with pytest.raises(MalformedKernelFile, match="a line of"):
        parse.parse_proc_status(content, "status")


@pytest.mark.parametrize(
    ("content", "path"),
    [
        (b"0::/user.slice/app-7.scope\n", "/user.slice/app-7.scope"),
        (b"0::/\n", "/"),
        (b"4:memory:/old\n1:cpu:/\n0::/new\n", "/new"),
        (b"4:memory:/old\n", "/"),
        (b"", "/"),
        (b"0::/gone.scope (deleted)\n", "/gone.scope"),
        (b"0::/caf\xc3\xa9\n", "/café"),
        (b"0::/\xff\n", "/\\xff"),
        (b"0::/../outside\n", "/../outside"),
        (b"10::/not-this\n0::/this\n", "/this"),
    ],
)
def test_cgroup_paths(content: bytes, path: str) -> None:
    assert parse.parse_proc_cgroup(content, "cgroup") == path


def test_statm_as_captured(captured: Captured) -> None:
    content = captured("proc-pid-statm-6.18")
    size, resident, shared = parse.parse_statm(content, "statm")
    assert [size, resident, shared] == [int(word) for word in content.split()[:3]]


def test_signed_numbers() -> None:
    assert parse.parse_signed(b"-1000\n", "oom_score_adj") == -1000
    assert parse.parse_signed(b"900\n", "oom_score_adj") == 900


def test_pids() -> None:
    assert parse.parse_pids(b"1\n22\n333\n", "cgroup.procs") == [1, 22, 333]


PARSERS: list[Callable[[bytes, str], object]] = [
    parse.parse_number,
    parse.parse_limit,
    parse.parse_signed,
    parse.parse_pressure,
    parse.parse_meminfo,
    parse.parse_swaps,
    parse.parse_zram_mm_stat,
    parse.parse_arcstats,
    parse.parse_statm,
    parse.parse_proc_stat,
    parse.parse_proc_status,
    parse.parse_held_kib,
    parse.parse_proc_cgroup,
    parse.parse_pids,
    lambda content, path: parse.parse_flat_keyed(content, (b"high", b"max", b"oom"), path),
]

_REAL = [path.read_bytes() for path in sorted(CAPTURED.iterdir()) if path.suffix != ".md"]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a real file with a piece of it cut out and something else put there."""
    content = draw(st.sampled_from(_REAL))
    start = draw(st.integers(0, len(content)))
    end = draw(st.integers(start, len(content)))
    return content[:start] + draw(st.binary(max_size=20)) + content[end:]


NUMBERS = st.builds(lambda digits: b"9" * digits, st.sampled_from([1, 20, 5000]))


def malformed_by(parser: Callable[[bytes, str], object], content: bytes) -> object:
    try:
        parser(content, "some/file")
    except MalformedKernelFile as error:
        return error
    return None


@pytest.mark.parametrize("parser", PARSERS)
@settings(derandomize=True, max_examples=150, deadline=None)
@given(content=st.one_of(st.binary(max_size=200), damaged(), NUMBERS))
def test_nothing_but_malformed_kernel_file_leaves_a_parser(
    parser: Callable[[bytes, str], object], content: bytes
) -> None:
    error = malformed_by(parser, content)
    if isinstance(error, MalformedKernelFile):
        assert (error.path, error.content) == ("some/file", content)
