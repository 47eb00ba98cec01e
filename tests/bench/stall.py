"""Real stalls that fill no memory: page cache is reclaimed while it is being read (FACTS; Linux 6.17 and later).

python -m tests.bench.stall FILE SECONDS
"""

import sys
import threading
import time
from pathlib import Path

RECLAIM = Path("/sys/devices/system/node/node0/reclaim")
FILE_BYTES = 256 << 20


def stall(path: Path, seconds: float) -> None:
    """Stall for so long. Drops page cache of the whole system, so it is to be short."""
    until = time.monotonic() + seconds

    def read() -> None:
        buffer = bytearray(1 << 20)
        while time.monotonic() < until:
            with path.open("rb", buffering=0) as file:
                while time.monotonic() < until and file.readinto(buffer):
                    pass

    reader = threading.Thread(target=read)
    reader.start()
    while time.monotonic() < until:
        try:
            RECLAIM.write_text("32M swappiness=0")
        except OSError:
            continue  # it says EAGAIN when it found less than was asked for
    reader.join()


if __name__ == "__main__":
    stall(Path(sys.argv[1]), float(sys.argv[2]))
