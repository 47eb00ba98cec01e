"""Be told by lmkd, the low-memory service, in time to give memory back.

A plain program needs one line, and a function that frees what it can:

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
    from lmkd_client.listener import Listener, on_pressure
    from lmkd_client.registration import Grant

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
    "Reload",
    "RequestRefused",
    "Rules",
    "SetClass",
    "Simulate",
    "Status",
    "Subscription",
    "connect",
    "find_socket",
    "on_pressure",
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
    "lmkd_client.listener": ("Listener", "on_pressure"),
    "lmkd_client.registration": ("Grant",),
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
