"""The one-liners: for a program that has no loop to wait in, and only wants to be told, or not even that.

    lmkd_client.on_pressure(lambda notice: cache.shed(notice.target_bytes), name="thumbnails")
    lmkd_client.shed_on_pressure(name="thumbnails")

What they start, and what that costs, is in lmkd_client.listener.
"""

from __future__ import annotations

from lmkd_proto import LocalProtocolError, Notice, Register

from lmkd_client.backoff import Backoff
from lmkd_client.errors import ClosedClient
from lmkd_client.listener import OPEN, REHEARSAL_MS, Listener
from lmkd_client.registration import Grant
from lmkd_client.rehearsal import Rehearsal
from lmkd_client.shedding import SHEDDERS, Shedders

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from lmkd_client.listener import Report

    Shed: TypeAlias = Callable[[Notice], int | None]


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

    def work(notice: Notice, wanted: Register, grant: Grant) -> tuple[str, int]:
        return _read_answer(notice, shed(notice))

    return Listener(work, wanted, path, backoff or Backoff(), report)


def shed_on_pressure(
    *,
    name: str,
    app_class: str = "cached",
    sheddable_bytes: int = 0,
    unit: str = "process",
    shedders: Shedders | None = None,
    report: Report | None = None,
    path: str | None = None,
    backoff: Backoff | None = None,
) -> Listener:
    """Have what `sheddable` and `shed_with` named be shed whenever this program is asked to free memory.

    What that gave is measured and acknowledged. Who says how much is `sheddable_bytes` is asked for an amount, and no
    more is shed; who does not is not asked for any, and sheds at each level all that it reaches. What is shed is shed
    in a thread of its own. The other arguments are those of `on_pressure`.
    """
    wanted = Register(0, name, app_class, sheddable_bytes, unit)
    chosen = shedders or SHEDDERS
    chosen.memory.prepare()

    def work(notice: Notice, wanted: Register, grant: Grant) -> tuple[str, int]:
        shedding = chosen.begin(notice, wanted, grant)
        for _ in shedding:
            pass  # `working` is for the other thread to say, which is not held up by one long piece
        return shedding.answer

    return Listener(work, wanted, path, backoff or Backoff(), report)


def simulate(
    level: str, duration_ms: int = REHEARSAL_MS, *, timeout_ms: int | None = None
) -> Rehearsal:
    """Rehearse a level with this program, as `Listener.simulate` does, where it listens by one of the above."""
    for listener in reversed(OPEN.copy()):
        if listener.is_running:
            return listener.simulate(level, duration_ms, timeout_ms=timeout_ms)
    raise ClosedClient(
        "nothing in this program listens: it calls on_pressure or shed_on_pressure first"
    )


def _read_answer(notice: Notice, freed_bytes: int | None) -> tuple[str, int]:
    """Make an answer of what a program's own function returned. Raises LocalProtocolError."""
    if freed_bytes is not None and not 0 <= freed_bytes < 1 << 63:
        raise LocalProtocolError(f"shed() gave {freed_bytes}: expected a count of bytes")
    # Who has freed nothing because nothing was asked has not said that there is nothing.
    has_nothing = freed_bytes == 0 and notice.target_bytes > 0
    return "nothing" if has_nothing else "done", freed_bytes or 0
