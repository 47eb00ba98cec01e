"""Be told by lmkd, the low-memory service, in time to give memory back.

A plain program says what can be shed, and that it is to be shed when memory is short:

    @lmkd_client.sheddable
    @functools.cache
    def thumbnail(path): ...

    lmkd_client.shed_on_pressure(name="thumbnails")

or, where it knows better, gives a function that frees what it can:

    lmkd_client.on_pressure(shed, name="thumbnails", sheddable_bytes=64 << 20)

A program that wants to wait itself uses `connect` here, or that of lmkd_client.asyncio or lmkd_client.trio; they are
the same but for `await`. None of these is imported before it is used, so that a program pays for one of them only.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from lmkd_proto import (
        Explain,
        History,
        Killed,
        KillWarning,
        LocalProtocolError,
        Notice,
        Pressure,
        Processes,
        Record,
        Reload,
        Rules,
        SetClass,
        Simulate,
        Status,
    )

    from lmkd_client.backoff import Backoff
    from lmkd_client.blocking import App, Client, Notices, Subscription, connect
    from lmkd_client.channel import find_socket
    from lmkd_client.errors import (
        BrokenReply,
        BusyClient,
        ClosedClient,
        ConnectionLost,
        DaemonUnavailable,
        LmkdError,
        RequestRefused,
    )
    from lmkd_client.listener import Listener
    from lmkd_client.one_liners import on_pressure, shed_on_pressure, simulate
    from lmkd_client.registration import Grant
    from lmkd_client.rehearsal import Rehearsal
    from lmkd_client.shedding import Shedders, forget, shed, shed_with, sheddable

__all__ = [
    "App",
    "Backoff",
    "BrokenReply",
    "BusyClient",
    "Client",
    "ClosedClient",
    "ConnectionLost",
    "DaemonUnavailable",
    "Explain",
    "Grant",
    "History",
    "KillWarning",
    "Killed",
    "Listener",
    "LmkdError",
    "LocalProtocolError",
    "Notice",
    "Notices",
    "Pressure",
    "Processes",
    "Record",
    "Rehearsal",
    "Reload",
    "RequestRefused",
    "Rules",
    "SetClass",
    "Shedders",
    "Simulate",
    "Status",
    "Subscription",
    "connect",
    "find_socket",
    "forget",
    "on_pressure",
    "shed",
    "shed_on_pressure",
    "shed_with",
    "sheddable",
    "simulate",
]

_HOMES = {
    "lmkd_client.backoff": ("Backoff",),
    "lmkd_client.blocking": ("App", "Client", "Notices", "Subscription", "connect"),
    "lmkd_client.channel": ("find_socket",),
    "lmkd_client.errors": (
        "BrokenReply",
        "BusyClient",
        "ClosedClient",
        "ConnectionLost",
        "DaemonUnavailable",
        "LmkdError",
        "RequestRefused",
    ),
    "lmkd_client.listener": ("Listener",),
    "lmkd_client.one_liners": ("on_pressure", "shed_on_pressure", "simulate"),
    "lmkd_client.registration": ("Grant",),
    "lmkd_client.rehearsal": ("Rehearsal",),
    "lmkd_client.shedding": ("Shedders", "forget", "shed", "shed_with", "sheddable"),
    "lmkd_proto": (
        "Explain",
        "History",
        "KillWarning",
        "Killed",
        "LocalProtocolError",
        "Notice",
        "Pressure",
        "Processes",
        "Record",
        "Reload",
        "Rules",
        "SetClass",
        "Simulate",
        "Status",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(home), name)
    globals()[name] = found
    return found
