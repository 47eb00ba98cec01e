"""The `lmkctl` command: run what was asked, and turn what went wrong into one clear line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from lmkd_client import (
    ConnectionLost,
    DaemonUnavailable,
    LmkdError,
    LocalProtocolError,
    RequestRefused,
)

from lmkd.ctl.arguments import (
    DONE,
    FAILED,
    INTERRUPTED,
    NO_DAEMON,
    WRONG_ARGUMENTS,
    parse_arguments,
)
from lmkd.ctl.failure import CommandFailed
from lmkd.ctl.result import printable

_NOBODY_THERE = {os.strerror(number) for number in (errno.ENOENT, errno.ECONNREFUSED)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    arguments = parse_arguments(argv)
    # A locale that cannot show a character is no reason to fail.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        # Each is imported where it is needed: `run` stays beside a program for as long as that lives.
        if arguments.action == "run":
            from lmkd.ctl.running import run_program

            return run_program(arguments)
        from lmkd.ctl.commands import run_command
        from lmkd.ctl.page import open_page

        return run_command(arguments, open_page(sys.stdout))
    except OSError as error:
        # What Python still holds for a reader that is gone is not to be tried again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return DONE  # who reads has had enough
        return _complain(error.strerror or str(error), FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except DaemonUnavailable as error:
        return _complain(_say_unavailable(error), NO_DAEMON)
    except ConnectionLost as error:
        return _complain(str(error), NO_DAEMON)
    except RequestRefused as error:
        return _complain(error.message or error.code, FAILED)
    except LocalProtocolError as error:
        return _complain(str(error), WRONG_ARGUMENTS)
    except (LmkdError, CommandFailed) as error:
        return _complain(str(error), FAILED)


def _say_unavailable(error: DaemonUnavailable) -> str:
    if error.why in _NOBODY_THERE:
        return f"no lmkd at {error.path}: start it, or give --socket"
    return f"lmkd at {error.path} cannot be reached: {error.why}"


def _complain(text: str, code: int) -> int:
    lines = [printable(line) for line in text.splitlines() if line]
    print(
        "\n".join([f"lmkctl: {lines[0]}", *lines[1:]] if lines else ["lmkctl: failed"]),
        file=sys.stderr,
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
