"""What a server is asked of levels, notices and registrations. None of it harms anybody: levels are rehearsed."""

from __future__ import annotations

import time

from lmkd_proto.answers import Error, KillWarning, Notice, Ok, Pressure
from lmkd_proto.conformance.checks import Check
from lmkd_proto.conformance.peer import Peer, show
from lmkd_proto.conformance.server import Stage, is_error

_LONG_MS = 60_000
_SHORT_MS = 200
_REGISTRATION = frozenset(("app", "class", "unit", "domain", "grace_ms", "time_to_exit_ms"))
_SUBSCRIPTION = frozenset(("domain", "propagation"))
_OF_AN_ACK = frozenset(("deadline_ms",))
_FAR = 1_000_000_000
"""Further than the number of any notice."""
_CALM_PATIENCES = 3
"""A level may be held for a while before it falls."""
_REHEARSAL_S = 1.5
"""Beyond the grace of the first class, 1 s unless it is configured otherwise."""


def _holds_keys(stage: Stage, what: str, reply: object, keys: frozenset[str]) -> bool:
    """Note whether a reply is a result and holds all the keys of its table."""
    missing = keys - reply.result.keys() if isinstance(reply, Ok) else keys
    stage.expect("Q-2", not missing, f"{what}: its result lacks {', '.join(sorted(missing))}")
    return not missing


def _subscribe(stage: Stage) -> None:
    peer = stage.greet()
    for number, what in (("L-1", "subscribe"), ("L-24", "a second subscribe")):
        reply = peer.ask("subscribe")
        stage.expect(number, isinstance(reply, Ok), f"{what}: got {show(reply)}")
        if not _holds_keys(stage, what, reply, _SUBSCRIPTION):
            return
        heard = peer.push(Pressure)
        stage.expect(number, heard.domain == "system", f"{what}: the level of {heard.domain}")
    reply = peer.ask("unsubscribe")
    stage.expect("L-24", isinstance(reply, Ok), f"unsubscribe: got {show(reply)}")
    reply = peer.ask("unsubscribe")
    stage.expect(
        "L-24", is_error(reply, "not_subscribed"), f"a second unsubscribe: got {show(reply)}"
    )


def _own(stage: Stage) -> None:
    peer = stage.greet()
    reply = peer.ask("subscribe", domain="own")
    if isinstance(reply, Error):
        stage.findings.miss("L-18", f"own was refused: {reply.message}")
        return
    named = reply.result.get("domain") if isinstance(reply, Ok) else None
    heard = peer.push(Pressure).domain
    right = named == heard != "own"
    stage.expect("L-18", right, f"the reply names {named}, the level is that of {heard}")


def _latest(stage: Stage) -> None:
    """Who does not read meanwhile still hears, at the end, how things are."""
    peer = stage.greet()
    peer.ask("subscribe")
    peer.push(Pressure)
    reply = peer.ask("simulate", level="critical", duration_ms=_SHORT_MS)
    stage.expect("L-2", isinstance(reply, Ok), f"simulate: got {show(reply)}")
    while (said := peer.push(Pressure, stage.patience_s * _CALM_PATIENCES)).simulated:
        pass  # the rehearsal is still on
    last = [said, *(other for other in peer.pushes(0.1) if isinstance(other, Pressure))][-1]
    real = _real_level(stage)
    stage.expect("L-2", last.level == real, f"after a rehearsal, at {real}: heard {last.level}")


def _real_level(stage: Stage) -> str:
    peer = stage.greet()
    peer.ask("subscribe")
    return peer.push(Pressure).level


def _register(stage: Stage, peer: Peer) -> Ok | None:
    reply = peer.ask("register", name="conformance", **{"class": "cached"}, sheddable_bytes=1 << 20)
    if not isinstance(reply, Ok):
        stage.expect("L-4", False, f"register: got {show(reply)}")
        return None
    return reply if _holds_keys(stage, "register", reply, _REGISTRATION) else None


def _registration(stage: Stage) -> None:
    level = _real_level(stage)
    peer = stage.greet()
    if _register(stage, peer) is None:
        return
    if level == "normal":
        stage.findings.miss("L-4", "the level is normal now")
    else:
        stage.expect("L-4", peer.push(Notice).level != "normal", f"no notice at level {level}")
    _holds_keys(stage, "update", peer.ask("update", sheddable_bytes=0), _REGISTRATION)


def _acks(stage: Stage) -> None:
    peer = stage.greet()
    if _register(stage, peer) is None:
        return
    peer.ask("simulate", level="medium", duration_ms=_SHORT_MS)
    first = peer.push(Notice)
    over = peer.push(Notice, stage.patience_s * _CALM_PATIENCES)
    stage.expect("L-12", over.level == "normal", f"at the end of it: a notice of {over.level}")
    reply = peer.ask("ack", notice=over.notice, answer="nothing")
    stage.expect("L-12", isinstance(reply, Ok), f"ack of a normal notice: got {show(reply)}")
    peer.ask("simulate", level="critical", duration_ms=_LONG_MS)
    last = peer.push(Notice)
    right = first.notice < last.notice
    stage.expect("L-11", right, f"notice {last.notice} came after notice {first.notice}")
    for number, what in ((first.notice, "an earlier notice"), (last.notice, "the last notice")):
        reply = peer.ask("ack", notice=number, answer="nothing")
        stage.expect("L-11", isinstance(reply, Ok), f"ack of {what}: got {show(reply)}")
        _holds_keys(stage, "ack", reply, _OF_AN_ACK)
    reply = peer.ask("ack", notice=last.notice + _FAR, answer="nothing")
    right = is_error(reply, "unknown_notice")
    stage.expect("L-11", right, f"ack of a notice never given: got {show(reply)}")


def _rehearsal(stage: Stage) -> None:
    peer = stage.greet()
    if _register(stage, peer) is None:
        return
    peer.ask("simulate", level="critical", duration_ms=_LONG_MS)
    told = peer.push(Notice)
    stage.expect("L-14", told.simulated, "a notice of a rehearsal that is not said to be one")
    wait_s = max(told.deadline_ms / 1000 + 0.5, _REHEARSAL_S)
    warned = [said for said in peer.pushes(wait_s) if isinstance(said, KillWarning)]
    stage.expect("L-14", not warned, "a kill_warning in a rehearsal")


def _goodbye(stage: Stage) -> None:
    """A registration is over when its connection is, in the middle of a frame as well."""
    peer = stage.greet()
    granted = _register(stage, peer)
    if granted is None:
        return
    peer.say_bytes(b"\x00\x00")
    peer.close()
    other = stage.greet()
    until = time.monotonic() + stage.patience_s
    while True:
        reply = other.ask("set_class", app=granted.result["app"], **{"class": "cached"})
        if is_error(reply, "forbidden"):
            stage.findings.miss("S-5", "takes the controller")
            return
        if not isinstance(reply, Ok) or time.monotonic() > until:
            break
        time.sleep(0.01)
    right = is_error(reply, "unknown_app")
    stage.expect("S-5", right, f"set_class of an app that left: got {show(reply)}")


CHECKS = (
    Check("L-1 L-24", _subscribe),
    Check("L-18", _own),
    Check("L-2", _latest),
    Check("L-4", _registration),
    Check("L-11 L-12", _acks),
    Check("L-14", _rehearsal),
    Check("S-5", _goodbye),
)
