"""The one-liner: a plain program that has no loop to wait in, and only wants to be told.

    lmkd_client.on_pressure(lambda notice: cache.shed(notice.target_bytes), name="thumbnails")

One daemon thread connects, registers, and calls back. Where there is no lmkd it tries again, with growing pauses and
without a word, for as long as the program lives. It costs the program nothing else: no signal handler, nothing at
exit. A thread does not survive a fork: a child that wants to listen calls `on_pressure` again.
"""

from __future__ import annotations

import threading
import time

from lmkd_proto import LocalProtocolError, Notice, Register, Update

from lmkd_client.backoff import Backoff
from lmkd_client.blocking import REPLY_TIMEOUT_MS, App, Client
from lmkd_client.channel import find_socket
from lmkd_client.errors import LmkdError, RequestRefused
from lmkd_client.registration import Grant
from lmkd_client.session import Session

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Shed: TypeAlias = Callable[[Notice], int | None]
    Report: TypeAlias = Callable[[Exception], None]


def on_pressure(
    shed: Shed,
    *,
    name: str,
    app_class: str = "cached",
    sheddable_bytes: int = 0,
    unit: str = "process",
    report: Report | None = None,
    path: str | None = None,
    backoff: Backoff | None = None,
) -> Listener:
    """Have `shed(notice)` called, in a thread of its own, whenever this program is asked to free memory.

    It returns how many bytes it freed; 0 says that there was nothing, None that it does not know how many. What it
    raises goes to `report`, or else to threading.excepthook, counts as nothing freed, and ends nothing. Notices that
    come while it works wait, and only the latest of them is kept. A notice of level `normal` does not call it.
    """
    wanted = Register(0, name, app_class, sheddable_bytes, unit)
    return Listener(shed, wanted, path or find_socket(), backoff or Backoff(), report)


class Listener:
    """A program that listens. Made by `on_pressure`; any thread may use it."""

    def __init__(
        self, shed: Shed, wanted: Register, path: str, backoff: Backoff, report: Report | None
    ) -> None:
        self._shed = shed
        self._wanted = wanted
        self._path = path
        self._backoff = backoff
        self._report = report or _report_as_threads_do
        self._closed = threading.Event()
        self._turn = threading.Lock()
        self._client: Client | None = None
        self._app: App | None = None
        self._update: Update | None = None
        self._thread = threading.Thread(target=self._run, name="lmkd", daemon=True)
        self._thread.start()

    @property
    def level(self) -> str:
        """The level that this program was told last; `normal` while there is no daemon."""
        app = self._app
        return "normal" if app is None else app.level

    @property
    def grant(self) -> Grant | None:
        """What was granted; None while this program is not registered."""
        app = self._app
        return None if app is None else app.grant

    def update(self, app_class: str | None = None, sheddable_bytes: int | None = None) -> None:
        """Change what was registered. It is said as soon as `shed` does not run and a daemon is there."""
        update = Update(0, app_class, sheddable_bytes)
        with self._turn:
            wanted = self._wanted
            self._wanted = Register(
                0,
                wanted.name,
                wanted.app_class if app_class is None else app_class,
                wanted.sheddable_bytes if sheddable_bytes is None else sheddable_bytes,
                wanted.unit,
            )
            self._update = update
            if self._client is not None:
                self._client.interrupt()

    def close(self) -> None:
        """Listen no more. Returns when `shed` does not run and never will; not from within `shed`, then at once."""
        self._closed.set()
        with self._turn:
            if self._client is not None:
                self._client.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # --- the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed.is_set():
            since_ns = time.monotonic_ns()
            try:
                self._listen()
            except (LmkdError, OSError):
                # Away, lost or refused: each may be otherwise later, and nobody waits to be told.
                lasted_ms = (time.monotonic_ns() - since_ns) // 1_000_000
                self._closed.wait(self._backoff.next_pause_ms(lasted_ms) / 1000)

    def _listen(self) -> None:
        """Connect, register, and call back until the connection is lost or this is closed."""
        session = Session(self._path, self._wanted.name, reconnect=False)
        with Client(session, Backoff(), REPLY_TIMEOUT_MS) as client:
            with self._turn:
                # From here on `close` can end whatever this thread waits for.
                self._client, wanted, self._update = client, self._wanted, None
            try:
                if not self._closed.is_set():
                    client.open()
                    self._serve(client, wanted)
            finally:
                self._app = None
                with self._turn:
                    self._client = None

    def _serve(self, client: Client, wanted: Register) -> None:
        app = client.register(wanted.name, wanted.app_class, wanted.sheddable_bytes, wanted.unit)
        self._app = app
        notices = app.notices()
        while not self._closed.is_set():
            notice = notices.wait()
            if notice is not None and notice.level != "normal":
                self._answer(app, notice)
            self._say_update(app)

    def _answer(self, app: App, notice: Notice) -> None:
        try:
            app.ack(notice, *self._call(notice))
        except RequestRefused:
            return  # a later notice has taken its place, and is on its way

    def _call(self, notice: Notice) -> tuple[str, int]:
        """Call the program; return what to answer: a word, and how many bytes."""
        try:
            freed_bytes = self._shed(notice)
            if freed_bytes is not None and not 0 <= freed_bytes < 1 << 63:
                raise LocalProtocolError(f"shed() gave {freed_bytes}: expected a count of bytes")
        except Exception as error:  # whatever a program's own code raises
            self._report(error)
            return "nothing", 0
        # Who has freed nothing because nothing was asked has not said that there is nothing.
        has_nothing = freed_bytes == 0 and notice.target_bytes > 0
        return "nothing" if has_nothing else "done", freed_bytes or 0

    def _say_update(self, app: App) -> None:
        with self._turn:
            changed, self._update = self._update is not None, None
            wanted = self._wanted
        if changed:
            app.update(wanted.app_class, wanted.sheddable_bytes)


def _report_as_threads_do(error: Exception) -> None:
    threading.excepthook(
        threading.ExceptHookArgs(
            (type(error), error, error.__traceback__, threading.current_thread())
        )
    )
