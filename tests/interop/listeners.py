"""Real programs that know nothing of lmkd, and what they need to be built."""

from __future__ import annotations

from pathlib import Path

from ..clients_c.programs import build, need, need_package
from .newer_systemd import find_libsystemd

HERE = Path(__file__).parent


def build_glib_monitor(folder: Path) -> Path:
    """Build the program of GLib's."""
    flags = need_package("gio-2.0")
    source = HERE / "glib_monitor.c"
    return build(folder / "glib_monitor", source, "-Wall", "-Wextra", "-Werror", *flags)


def build_sd_event_program(folder: Path) -> tuple[Path, dict[str, str]] | None:
    """Build the program on sd-event; return it and what it is to be run with. None: there is no libsystemd for it."""
    need("gcc")
    found = find_libsystemd()
    if found is None:
        return None
    flags, environment = found
    source = HERE / "sd_event_program.c"
    return build(folder / "sd_event_program", source, "-Wall", "-Wextra", *flags), environment
