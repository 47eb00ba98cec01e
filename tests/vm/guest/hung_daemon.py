"""The real daemon on the real kernel, whose loop hangs in a read of memory for as long as a file is there.

python -m tests.vm.guest.hung_daemon FILE [ARGUMENTS OF LMKD]
"""

import sys
import time
from pathlib import Path

from lmkd.cli import main
from lmkd.kernel.machine import MachineDomain
from lmkd.model import Reading


def hang_while(there: Path) -> None:
    """Have every reading of a domain wait until the file is gone."""
    read = MachineDomain.read

    def read_late(self: MachineDomain, now_us: int) -> Reading | None:
        while there.exists():
            time.sleep(0.05)
        return read(self, now_us)

    MachineDomain.read = read_late  # type: ignore[method-assign]


if __name__ == "__main__":
    hang_while(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
