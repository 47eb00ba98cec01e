"""A scripted daemon on a real Unix socket: it says what a test has written, and checks what it is asked.

A script runs in a thread, so that any shell can talk to it. Nothing here waits for longer than PATIENCE_S.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from lmkd_client.testing.peer import PATIENCE_S, Peer, listen


class ScriptedDaemon:
    """Listens at a path. `run` starts the script; leaving the block waits for its end and raises what it raised."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._listener = listen(path)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._thread.join()
        self._listener.close()
        if self._error is not None:
            raise self._error

    def run(self, script: Callable[[ScriptedDaemon], None]) -> None:
        """Run a script in a thread."""

        def run() -> None:
            try:
                script(self)
            except BaseException as error:
                self._error = error
                self._listener.close()

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def accept(self) -> Peer:
        """Wait for the next client."""
        sock, _ = self._listener.accept()
        sock.settimeout(PATIENCE_S)
        return Peer(sock)

    def stop(self) -> None:
        """Go away: nobody listens any more, and the socket is gone."""
        self._listener.close()
        os.unlink(self.path)  # noqa: PTH108 - as the path was given

    def start(self) -> None:
        """Be there again."""
        self._listener = listen(self.path)
