"""Watch the level of memory: a subscriber that is told, and does nothing about it.

Exits with 1 when there is no lmkd, and with 0 after --count events or at Ctrl-C.
"""

import argparse
import sys

import lmkd_client

MIB = 1 << 20


def describe(event: lmkd_client.Pressure | lmkd_client.Killed) -> str:
    """Say in one line what happened."""
    if isinstance(event, lmkd_client.Killed):
        freed_mib = event.freed_bytes // MIB
        return (
            f"killed {event.name} ({event.pid}, {event.app_class}), {freed_mib} MiB: {event.reason}"
        )
    rehearsal = " (simulated)" if event.simulated else ""
    return f"{event.domain} {event.level}{rehearsal}: {event.reason}"


def watch(domain: str, propagation: str, count: int | None, *, wait: bool) -> None:
    """Print a line for each event; so many, or for ever."""
    with lmkd_client.connect(name="watch_levels", wait=wait) as client:
        for number, event in enumerate(client.subscribe(domain, propagation), start=1):
            print(describe(event), flush=True)
            if number == count:
                return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--domain", default="system", help="own, or a cgroup's path (default: system)"
    )
    parser.add_argument(
        "--propagation",
        choices=("local", "default", "hierarchy"),
        default="local",
        help="of domains below: nothing, what nobody nearer hears of, or everything (default: local)",
    )
    parser.add_argument("--count", type=int, help="end after so many events")
    parser.add_argument("--wait", action="store_true", help="wait for lmkd to be there")
    arguments = parser.parse_args()
    try:
        watch(arguments.domain, arguments.propagation, arguments.count, wait=arguments.wait)
    except lmkd_client.LmkdError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
