"""The `lmkd` command: its arguments, what it prints, and its exit codes.

0: left when asked to, or a check found nothing wrong. 1: it could not start. 2: wrong arguments. 3: mistakes in the
configuration.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import lmkd
from lmkd.config import Config, ConfigError, find_config_files, load_config

if TYPE_CHECKING:
    from lmkd.session import SessionPlaces

LEFT, FAILED, BAD_CONFIG = 0, 1, 3

DESCRIPTION = "Watch memory; tell programs in time; end as little as possible, and say why."
EPILOG = """\
signals:  SIGHUP reads the configuration again; SIGTERM and SIGINT leave
exit:     0 left, or nothing wrong; 1 could not start; 2 wrong arguments; 3 mistakes in the configuration
files:    /etc/lmkd/lmkd.toml, then /etc/lmkd/lmkd.d/*.toml, over the shipped defaults;
          with --session lmkd.toml and lmkd.d/*.toml in ~/.config/lmkd
"""


def parse_arguments(argv: Sequence[str] | None) -> Namespace:
    """Return the arguments; exits with 2 when they are wrong."""
    parser = ArgumentParser(
        "lmkd",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="read this file, not those of /etc"
    )
    parser.add_argument(
        "--session",
        action="store_true",
        help="serve this user's session: own processes only, $XDG_RUNTIME_DIR/lmkd/socket",
    )
    parser.add_argument(
        "--socket",
        metavar="PATH",
        help="listen here (default: $LMKD_SOCKET, then the configuration's)",
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", help="keep history here (default: the configuration's)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="decide, record and say, but never signal anybody"
    )
    parser.add_argument(
        "--check", action="store_true", help="print what would be watched and done, and exit"
    )
    parser.add_argument(
        "--simulated",
        type=_size_kib,
        metavar="SIZE",
        help="on an invented memory of this size (say 128MiB), filled by registered programs; only they can die",
    )
    parser.add_argument(
        "--print-unit",
        action="store_true",
        help="print a systemd unit that starts this very lmkd, and exit",
    )
    parser.add_argument(
        "--print-dbus-policy",
        action="store_true",
        help="print what lets lmkd be org.freedesktop.LowMemoryMonitor on the system bus, and exit",
    )
    parser.add_argument(
        "--print-dbus-service",
        action="store_true",
        help="print what has the system bus start lmkd when a program asks for that, and exit",
    )
    parser.add_argument("--quiet", action="store_true", help="log warnings and errors only")
    parser.add_argument("--version", action="version", version=f"lmkd {lmkd.__version__}")
    arguments = parser.parse_args(argv)
    if arguments.print_unit and arguments.session:
        parser.error("--print-unit is for the system's daemon: a session has no say in memory.min")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    arguments = parse_arguments(argv)
    if arguments.print_unit:
        print(service_unit(sys.executable), end="")
        return LEFT
    for wanted, name in (
        (arguments.print_dbus_policy, "org.freedesktop.LowMemoryMonitor.conf"),
        (arguments.print_dbus_service, "org.freedesktop.LowMemoryMonitor.service"),
    ):
        if wanted:
            print((Path(__file__).parent / "interop" / name).read_text(), end="")
            return LEFT
    _set_up_logging(quiet=arguments.quiet)
    places = None
    if arguments.session:
        from lmkd.session import SessionError, session_places

        try:
            places = session_places(os.environ)
        except SessionError as error:
            print(f"lmkd: {error}", file=sys.stderr)
            return FAILED

    def load() -> Config:
        directory = None if places is None else places.config_dir
        return load_config(find_config_files(arguments.config, directory))

    try:
        config = load()
    except ConfigError as error:
        print(error, file=sys.stderr)
        count = len(error.mistakes)
        print(
            f"lmkd: {count} mistake{'s' if count > 1 else ''} in the configuration", file=sys.stderr
        )
        return BAD_CONFIG
    if arguments.check:
        from lmkd.check import print_check

        print_check(config)
        return LEFT
    return _serve(arguments, config, load, places)


def _serve(
    arguments: Namespace,
    config: Config,
    load: Callable[[], Config],
    places: SessionPlaces | None,
) -> int:
    # Imported here: --help, --version and a mistake in the configuration need none of it.
    import trio

    from lmkd.kernel.interface import Kernel
    from lmkd.kernel.machine import Machine
    from lmkd.service.daemon import Daemon, Session
    from lmkd.service.listening import SocketError, bind_socket, inherited_socket

    log = logging.getLogger("lmkd")
    try:
        listener = inherited_socket()
        path = None
        if listener is None:
            usual = config.socket if places is None else places.socket
            path = arguments.socket or os.environ.get("LMKD_SOCKET") or usual
            listener = bind_socket(path)
    except SocketError as error:
        print(f"lmkd: {error}", file=sys.stderr)
        return FAILED
    machine = Machine()
    registered: set[tuple[int, int]] = set()
    trees: set[tuple[int, int]] = set()
    kernel: Kernel = machine
    if arguments.simulated is not None:
        from lmkd.kernel.borrowed import BorrowedKernel

        kernel = BorrowedKernel(machine, arguments.simulated, lambda: registered, lambda: trees)
        log.warning(
            "simulated memory: registered programs fill it, and only they can be told or ended"
        )
    session = None
    if places is not None:
        from lmkd.session import find_delegated

        uid = os.getuid()
        session = Session(uid, find_delegated(kernel, uid), config.socket)
    for line in (*map(str, config.warnings), *kernel.features().missing()):
        log.warning("%s", line)
    daemon = Daemon(
        kernel,
        config,
        load,
        listener,
        path,
        dry_run=arguments.dry_run,
        state_dir=arguments.state_dir or (config.state_dir if places is None else places.state_dir),
        registered=registered,
        registered_trees=trees,
        session=session,
    )
    trio.run(daemon.run)
    return LEFT


def service_unit(python: str) -> str:
    """Return the unit file for a systemd that starts this lmkd with this interpreter (systemd.service(5))."""
    template = (Path(__file__).parent / "lmkd.service.in").read_text()
    quoted = python.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return template.replace("@START@", f'"{quoted}" -m lmkd')


def _size_kib(text: str) -> int:
    match = re.fullmatch(r"(\d{1,6})(MiB|GiB)", text)
    if match is None or int(match[1]) == 0:
        raise ArgumentTypeError(f"expected a size such as 128MiB, got {text!r}")
    return int(match[1]) << (10 if match[2] == "MiB" else 20)


class _Stderr(logging.Handler):
    """Writes to stderr without a lock: a thread that hangs in it must not hold up our leaving (logging.shutdown)."""

    def createLock(self) -> None:  # noqa: N802 - the name is logging's
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record) + "\n"
        with suppress(OSError):
            os.write(sys.stderr.fileno(), line.encode(errors="backslashreplace"))


def _set_up_logging(*, quiet: bool) -> None:
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("lmkd: %(message)s"))
    log = logging.getLogger("lmkd")
    log.handlers = [handler]
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False
