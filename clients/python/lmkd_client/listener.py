"""A plain program that listens: a thread that connects, registers and answers, and a second one that sheds.

They are two so that who takes longer than half of the deadline is said to be `working`, and both are there from the
start: when memory is short is no time to make a thread. Where there is no lmkd the first tries again, with growing
pauses and without a word, for as long as the program lives. It costs the program nothing else: no signal handler,
nothing at exit. A thread does not survive a fork: a child that wants to listen makes a listener of its own.
"""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue

from lmkd_proto import Notice, Register, Update

from lmkd_client.backoff import Backoff
from lmkd_client.blocking import REPLY_TIMEOUT_MS, App, Client
from lmkd_client.channel import find_socket
from lmkd_client.errors import (
    BusyClient,
    ClosedClient,
    ConnectionLost,
    DaemonUnavailable,
    LmkdError,
    RequestRefused,
)
from lmkd_client.registration import Grant
from lmkd_client.rehearsal import AwaitedRehearsal, Rehearsal
from lmkd_client.session import Session

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Report: TypeAlias = Callable[[Exception], None]
    Work: TypeAlias = Callable[[Notice, Register, Grant], tuple[str, int]]
    """Sheds, and returns what to answer: a word, and how many bytes."""
    Answers: TypeAlias = SimpleQueue[tuple[str, int]]

REHEARSAL_MS = 1000
PATIENCE_MS = 10_000
"""How much longer than it lasts a rehearsal is waited for."""
BUSY_PAUSE_MS = 20
"""After this a rehearsal is asked for again, where the daemon has not quite ended the one before."""
OPEN: dict[Listener, None] = {}
"""Those of this program that are not closed, the latest last."""


class Listener:
    """A program that listens. Made by `on_pressure` and `shed_on_pressure`; any thread may use it."""

    def __init__(
        self,
        work: Work,
        wanted: Register,
        path: str | None,
        backoff: Backoff,
        report: Report | None,
    ) -> None:
        self._work = work
        self._wanted = wanted
        self._given_path = path
        self._backoff = backoff
        self._report = report or _report_as_threads_do
        self._closed = threading.Event()
        self._wake = threading.Event()
        self._turn = threading.Lock()
        self._tried = threading.Condition(self._turn)
        self._client: Client | None = None
        self._app: App | None = None
        self._update: Update | None = None
        self._rehearsal: AwaitedRehearsal | None = None
        self._why_not: Exception | None = None
        self._asked: SimpleQueue[tuple[Notice, Grant, Answers] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="lmkd", daemon=True)
        self._worker = threading.Thread(target=self._run_work, name="lmkd shed", daemon=True)
        self._worker.start()
        try:
            self._thread.start()
        except BaseException:
            self._asked.put(None)
            raise
        OPEN[self] = None

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

    @property
    def is_running(self) -> bool:
        """Whether it listens; in a child of a fork it does not."""
        return self._thread.is_alive() and not self._closed.is_set()

    def simulate(
        self, level: str, duration_ms: int = REHEARSAL_MS, *, timeout_ms: int | None = None
    ) -> Rehearsal:
        """Ask the daemon to simulate a level for this program alone; return what the program did when that is over.

        It really sheds; nothing is killed. Raises DaemonUnavailable, ConnectionLost, RequestRefused, and TimeoutError
        where the program has not answered. Where real pressure takes its place, that is what comes of it.
        """
        rehearsal = AwaitedRehearsal(level, duration_ms)
        if threading.current_thread() in (self._thread, self._worker):
            raise BusyClient("this is what sheds: it would wait for itself")
        patience_ms = duration_ms + PATIENCE_MS if timeout_ms is None else timeout_ms
        with self._turn:
            self._wait_registered(patience_ms)
            if self._rehearsal is not None:
                raise BusyClient("another thread rehearses already")
            self._rehearsal = rehearsal
            if self._client is not None:
                self._client.interrupt()
        try:
            return rehearsal.wait(patience_ms)
        finally:
            self._rehearsal = None

    def _wait_registered(self, patience_ms: int) -> None:
        """Wait until this program is an app. Raises why it is not."""
        if self._closed.is_set():
            raise ClosedClient("this listener is closed")
        if self._app is not None:
            return
        self._why_not = None
        self._wake.set()  # now, not when the pause is over
        outcome = self._tried.wait_for(self._outcome, patience_ms / 1000)
        if outcome is None:
            raise DaemonUnavailable(self._path, "it does not let this program in")
        if isinstance(outcome, Exception):
            raise outcome

    @property
    def _path(self) -> str:
        return self._given_path or find_socket()

    def _outcome(self) -> App | Exception | None:
        return self._app or self._why_not

    def close(self) -> None:
        """Listen no more. Returns when `shed` does not run and never will; not from within `shed`, then at once."""
        self._closed.set()
        self._wake.set()
        OPEN.pop(self, None)
        with self._turn:
            if self._client is not None:
                self._client.close()
        if threading.current_thread() not in (self._thread, self._worker):
            self._thread.join()
            self._worker.join()

    # --- the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._listen_again_and_again()
        finally:
            self._asked.put(None)

    def _listen_again_and_again(self) -> None:
        while not self._closed.is_set():
            self._wake.clear()
            since_ns = time.monotonic_ns()
            try:
                self._listen()
            except (LmkdError, OSError) as error:
                # Away, lost or refused: each may be otherwise later, and nobody waits to be told, but who rehearses.
                self._tell_why_not(error)
                if self._closed.is_set():
                    return
                lasted_ms = (time.monotonic_ns() - since_ns) // 1_000_000
                self._wake.wait(self._backoff.next_pause_ms(lasted_ms) / 1000)

    def _listen(self) -> None:
        """Connect, register, and have the program shed until the connection is lost or this is closed."""
        session = Session(self._given_path, self._wanted.name, reconnect=False, look=find_socket)
        with Client(session, Backoff(), REPLY_TIMEOUT_MS) as client:
            with self._turn:
                # From here on `close` can end whatever this thread waits for.
                self._client, wanted, self._update = client, self._wanted, None
            try:
                if not self._closed.is_set():
                    client.open()
                    self._serve(client, wanted)
            finally:
                with self._turn:
                    self._app = self._client = None

    def _serve(self, client: Client, wanted: Register) -> None:
        app = client.register(wanted.name, wanted.app_class, wanted.sheddable_bytes, wanted.unit)
        with self._turn:
            self._app = app
            self._tried.notify_all()
        notices = app.notices()
        while not self._closed.is_set():
            rehearsal = self._rehearsal
            waits = rehearsal is not None and not rehearsal.is_asked
            notice = notices.wait(BUSY_PAUSE_MS if waits else None)
            if notice is not None:
                if rehearsal is not None:
                    rehearsal.told(notice)
                if notice.level != "normal":
                    self._answer(app, notice)
            self._say_update(app)
            self._say_rehearsal(client)

    def _answer(self, app: App, notice: Notice) -> None:
        began_ns = time.monotonic_ns()
        word, freed_bytes = self._shed(app, notice)
        try:
            app.ack(notice, word, freed_bytes)
        except RequestRefused:
            return  # a later notice has taken its place, and is on its way
        rehearsal = self._rehearsal
        if rehearsal is not None:
            took_ms = (time.monotonic_ns() - began_ns) // 1_000_000
            rehearsal.answered(notice, word, freed_bytes, took_ms)

    def _shed(self, app: App, notice: Notice) -> tuple[str, int]:
        """Have the program shed in the other thread; say `working` when half of the time has passed."""
        answers: Answers = SimpleQueue()
        self._asked.put((notice, app.grant, answers))
        try:
            return answers.get(timeout=notice.deadline_ms / 2000 if notice.deadline_ms else None)
        except Empty:
            pass
        try:
            app.ack(notice, "working")
        except RequestRefused:
            pass  # as in _answer
        finally:
            answer = answers.get()  # whatever becomes of the connection: it sheds once at a time
        return answer

    def _say_update(self, app: App) -> None:
        with self._turn:
            changed, self._update = self._update is not None, None
            wanted = self._wanted
        if changed:
            app.update(wanted.app_class, wanted.sheddable_bytes)

    def _say_rehearsal(self, client: Client) -> None:
        rehearsal = self._rehearsal
        if rehearsal is None or rehearsal.is_asked:
            return
        try:
            client.request(rehearsal.request)
            rehearsal.is_asked = True
        except RequestRefused as refused:
            if refused.code != "busy":
                rehearsal.fail(refused)

    def _tell_why_not(self, error: Exception) -> None:
        with self._turn:
            self._why_not = error
            self._tried.notify_all()
            if self._rehearsal is not None:
                lost = error if isinstance(error, LmkdError) else None
                self._rehearsal.fail(lost or ConnectionLost(self._path, str(error)))

    # --- the other one -----------------------------------------------------------------------------------

    def _run_work(self) -> None:
        while (asked := self._asked.get()) is not None:
            notice, grant, answers = asked
            answers.put(self._call(notice, grant))

    def _call(self, notice: Notice, grant: Grant) -> tuple[str, int]:
        """Call the program. Whatever it does, somebody waits for an answer."""
        try:
            try:
                return self._work(notice, self._wanted, grant)
            except Exception as error:  # whatever a program's own code raises
                self._report(error)
        except BaseException as error:  # of its report, too, or sys.exit(), which ends nothing here
            _report_as_threads_do(error)
        return "nothing", 0


def _report_as_threads_do(error: BaseException) -> None:
    threading.excepthook(
        threading.ExceptHookArgs(
            (type(error), error, error.__traceback__, threading.current_thread())
        )
    )
