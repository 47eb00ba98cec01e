"""Project a registered app's class onto its oom_score_adj, and put back what was there before.

So that the kernel's own killer, if it must act before us, picks what we would have picked. What was there before is
kept in a small file: a daemon that was killed would otherwise take its own projection for the original.
"""

from __future__ import annotations

import json
import logging
import os

from lmkd.kernel.interface import Kernel
from lmkd.model import App
from lmkd.policy.settings import Settings

log = logging.getLogger("lmkd")

FILE_NAME = "oom_score_adj.json"


class Projection:
    """What was written, and what stood there before."""

    def __init__(self, kernel: Kernel, directory: str | None) -> None:
        self._kernel = kernel
        self._path = os.path.join(directory, FILE_NAME) if directory is not None else None
        self._refused_said = False
        self._before: dict[tuple[int, int], int] = self._load()
        if self._before:
            # An earlier daemon did not live to do it. Who comes back is projected anew.
            self.restore_all()

    def project(self, app: App, settings: Settings, found_adj: int | None = None) -> None:
        """Write the class's oom_score_adj for an app; `found_adj` is what it had when it came, None later on."""
        identity = (app.pid, app.start_ticks)
        if identity not in self._before:
            if found_adj is None:
                return
            self._before[identity] = found_adj
            self._save()
        self._write(identity, settings.classes[app.app_class].oom_score_adj)

    def restore(self, app: App) -> None:
        """Put back what was there before."""
        identity = (app.pid, app.start_ticks)
        before = self._before.pop(identity, None)
        if before is not None:
            self._write(identity, before)
            self._save()

    def restore_all(self) -> None:
        """Put back everything. What must not be written is kept in the file for whoever may."""
        kept = {
            identity: before
            for identity, before in self._before.items()
            if not self._write(identity, before) and self._is_alive(identity)
        }
        self._before = kept
        self._save()

    def _write(self, identity: tuple[int, int], value: int) -> bool:
        try:
            return self._kernel.set_oom_score_adj(*identity, value)
        except PermissionError:
            if not self._refused_said:
                self._refused_said = True
                log.warning(
                    "oom_score_adj of pid %d cannot be set to %d (no CAP_SYS_RESOURCE): "
                    "the kernel's own order may differ from ours",
                    identity[0],
                    value,
                )
            return False

    def _is_alive(self, identity: tuple[int, int]) -> bool:
        process = self._kernel.process(identity[0])
        return process is not None and process.start_ticks == identity[1]

    def _load(self) -> dict[tuple[int, int], int]:
        if self._path is None:
            return {}
        try:
            with open(self._path, "rb") as file:
                kept = {(int(p), int(s)): int(adj) for p, s, adj in json.load(file)}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s: %s; what it held is passed over", self._path, error)
            return {}
        return {identity: adj for identity, adj in kept.items() if self._is_alive(identity)}

    def _save(self) -> None:
        if self._path is None:
            return
        rows = [[pid, start, adj] for (pid, start), adj in self._before.items()]
        try:
            with open(self._path + ".new", "w", encoding="ascii") as file:
                json.dump(rows, file)
            os.replace(self._path + ".new", self._path)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error.strerror)
            self._path = None
