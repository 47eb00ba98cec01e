"""Swap on zram, made and taken away in the running guest."""

import subprocess
from pathlib import Path

_ZRAM = Path("/sys/block/zram0")


def set_swap(mib: int) -> None:
    """Have this much zram swap, empty; 0 for none."""
    if "zram0" in Path("/proc/swaps").read_text():
        subprocess.run(["swapoff", "/dev/zram0"], check=True)
    (_ZRAM / "reset").write_text("1")
    if mib:
        (_ZRAM / "disksize").write_text(f"{mib}M")
        subprocess.run(["mkswap", "/dev/zram0"], check=True, capture_output=True)
        subprocess.run(["swapon", "/dev/zram0"], check=True)
