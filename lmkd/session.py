"""Where one user's daemon has its things, and what of the machine is that user's.

`lmkd --session` runs as an ordinary user, for that user's programs alone. Its places are those of the XDG base
directory specification; what cannot be found is said with what would help.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lmkd.cgroup_paths import paths_up
from lmkd.kernel.interface import Kernel


class SessionError(Exception):
    """There is no session to serve; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class SessionPlaces:
    """Where a session's daemon listens, keeps its history, and is configured."""

    socket: str
    state_dir: str
    config_dir: Path


def session_places(environ: Mapping[str, str]) -> SessionPlaces:
    """Return the places of this user's session. Raises SessionError."""
    runtime = Path(environ.get("XDG_RUNTIME_DIR", ""))
    if not runtime.is_absolute():
        raise SessionError(
            "no session: $XDG_RUNTIME_DIR is not set; login sets it (pam_systemd), and the socket goes there"
        )
    home = Path(environ.get("HOME", ""))
    state, config = (
        # What is not absolute is to be ignored, by the same specification.
        given if (given := Path(environ.get(name, ""))).is_absolute() else home / usual
        for name, usual in (("XDG_STATE_HOME", ".local/state"), ("XDG_CONFIG_HOME", ".config"))
    )
    if not (state.is_absolute() and config.is_absolute()):
        raise SessionError("no session: $HOME is not set, so there is no place for its history")
    return SessionPlaces(str(runtime / "lmkd" / "socket"), str(state / "lmkd"), config / "lmkd")


def find_delegated(kernel: Kernel, uid: int) -> str | None:
    """Return the topmost cgroup above our own that belongs to the user: what is the user's to divide.

    None where there is none, and for root, to whom everything belongs.
    """
    own = kernel.features().own_cgroup
    if uid == 0 or own == "/":
        return None
    found = None
    for path in paths_up(own):
        if path == "/" or kernel.cgroup_owner(path) != uid:
            break
        found = path
    return found
