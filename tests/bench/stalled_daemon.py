"""A daemon that tells of every stall at once, for the trigger benchmark.

    python -m tests.bench.stalled_daemon SOCKET CONFIG

It is the real one on the real kernel, but for its readings of memory: there is no end of it, so that nothing but the
trigger wakes it, and the counter that says whether the *system* reclaims is left out. The generator's stalls come from
reclaim that it asks for itself, which that counter does not count: the daemon would rightly not believe them.
"""

import sys
from dataclasses import replace
from pathlib import Path

import trio

from lmkd.config import load_config
from lmkd.kernel.machine import Machine, MachineDomain
from lmkd.model import Reading
from lmkd.service.daemon import Daemon
from lmkd.service.listening import bind_socket


class StalledDomain:
    """A domain whose readings say of memory only that there is plenty, and of stall the truth."""

    def __init__(self, domain: MachineDomain) -> None:
        self._domain = domain
        self.wait_event = domain.wait_event
        self.close = domain.close

    def read(self, now_us: int) -> Reading | None:
        reading = self._domain.read(now_us)
        if reading is None:
            return None
        return replace(
            reading, scanned_pages=None, file_lru_kib=0, total_kib=1 << 20, available_kib=1 << 40
        )


class StalledMachine(Machine):
    """The real kernel, with such domains."""

    def open_domain(self, domain: str) -> StalledDomain | None:  # type: ignore[override]
        opened = super().open_domain(domain)
        return None if opened is None else StalledDomain(opened)


def main() -> None:
    config = load_config([Path(sys.argv[2])])
    listener = bind_socket(sys.argv[1])
    trio.run(Daemon(StalledMachine(), config, lambda: config, listener, sys.argv[1]).run)


if __name__ == "__main__":
    main()
