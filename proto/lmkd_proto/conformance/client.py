"""What a client is told, and what it must make of it.

Each check starts the program anew. Whether it took a message shows in its answer to the notice that comes next.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from lmkd_proto.conformance.checks import Check
from lmkd_proto.conformance.findings import Findings, Outcome
from lmkd_proto.conformance.host import PRESSURE, Heard, Host, Visitor, notice, reply
from lmkd_proto.conformance.peer import EndedError
from lmkd_proto.conformance.rules import CLIENT_RULES
from lmkd_proto.conformance.words import fill, frame, malformed, pack, spread
from lmkd_proto.values import MAX_FRAME_BYTES, MAX_ITEMS

RECONNECTS_MOST = 40
"""In RECONNECTS_S, where every connection ends at once: a pause that grows from 10 ms allows fewer."""
RECONNECTS_S = 2.0
AWAY_S = 0.5
_WATCHED_S = 1.0
_APART_S = 0.1


class NoAppError(Exception):
    """The program does not register, so it cannot be asked for anything."""


def _settle(host: Host, visitor: Visitor | None = None) -> Visitor:
    """Wait until the program has registered."""
    visitor = visitor or host.accept()
    if not visitor.serve(lambda: visitor.asked("register"), host.patience_s):
        if not visitor.ended:
            raise NoAppError
        ended = host.wait_end(host.patience_s) is not None
        raise EndedError(host.last_words() if ended else "it left before it registered")
    return visitor


def _expect_answer(host: Host, visitor: Visitor, number: int, rules: str, what: str) -> None:
    """Note whether the program answers a notice that it was given."""
    answered = visitor.wait_ack(number)
    left = ", and the connection ended" if visitor.ended else ""
    host.findings.expect(rules, answered, f"{what}: no ack{left}")


# --- the plain course ----------------------------------------------------------------------------------


def _greeting(host: Host) -> None:
    visitor = host.accept()
    host.findings.expect("S-2", True, "")
    visitor.serve(lambda: bool(visitor.heard), host.patience_s)
    first = [one.type for one in visitor.heard[:1]]
    host.findings.expect("H-1", first == ["hello"], f"said {first or 'nothing'} first")


def _answers(host: Host) -> None:
    visitor = _settle(host)
    began = time.monotonic()
    deadline_s = host.patience_s / 2
    visitor.say(notice(1, deadline_ms=int(deadline_s * 1000)))
    if visitor.serve(lambda: bool(visitor.acks(1)), host.patience_s):
        took_s = time.monotonic() - began
        late = f"answered after {took_s:.1f} s, where it had {deadline_s:.1f} s"
        host.findings.expect("L-6", took_s < deadline_s, late)
    _expect_answer(host, visitor, 1, "L-3 L-9", "critical after normal")
    said = [ack.answer for ack in visitor.acks(1)]
    host.findings.expect("L-10", said[-1:] != ["working"], "said working, and never done")
    visitor.say(notice(2, "normal"))
    visitor.say(notice(3, "low", simulated=True))
    _expect_answer(host, visitor, 3, "L-14", "a rehearsal of low")


# --- frames and types ----------------------------------------------------------------------------------


def _pieces(host: Host) -> None:
    visitor = _settle(host)
    for byte in frame(pack(notice(1))):
        visitor.say_bytes(bytes([byte]))
    _expect_answer(host, visitor, 1, "F-6", "a notice in pieces of a byte")
    both = frame(pack(PRESSURE)) + frame(pack(notice(2)))
    visitor.say_bytes(both[:-3])
    time.sleep(_APART_S)
    visitor.say_bytes(both[-3:])
    _expect_answer(host, visitor, 2, "F-6", "one and a half frames, and then the rest")


def _forms(host: Host) -> None:
    visitor = _settle(host)
    visitor.say_bytes(frame(spread(notice(1))))
    _expect_answer(host, visitor, 1, "T-4 T-9", "a notice in the longest forms, reversed")
    visitor.say(notice(2, emergency=None, simulated=None))
    _expect_answer(host, visitor, 2, "T-8", "a notice with nil for its defaults")
    visitor.say(notice(3, xyzzy={"a": [1, b"2", None]}, plugh=True))
    _expect_answer(host, visitor, 3, "T-10", "a notice with unknown keys")


def _largest(host: Host) -> None:
    visitor = _settle(host)
    visitor.say_bytes(frame(fill(notice(1))))
    _expect_answer(host, visitor, 1, "F-2 T-10", "a notice of 65536 bytes")


def _malformed(host: Host) -> None:
    visitor = _settle(host)
    for number, (rule, what, payload, _) in enumerate(malformed(PRESSURE, MAX_ITEMS), 1):
        visitor.say_bytes(frame(payload))
        visitor.say(notice(number))
        _expect_answer(host, visitor, number, "T-11", f"a notice behind {what} ({rule})")
        if visitor.ended:
            return


def _forbidden_length(host: Host) -> None:
    visitor = _settle(host)
    visitor.say_bytes((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
    visitor.serve(lambda: visitor.ended, host.patience_s)
    host.findings.expect("F-3 F-4", visitor.ended, "a length of 65537: it stays")


# --- what it may not know ------------------------------------------------------------------------------


def _unknown_push(host: Host) -> None:
    visitor = _settle(host)
    visitor.say({"type": "from_the_future", "level": ["critical"], "notice": None})
    visitor.say_bytes(frame(fill({"type": "from_the_future"})))
    visitor.say(notice(1))
    _expect_answer(host, visitor, 1, "R-8", "a notice behind pushes of unknown type")


def _unknown_code(host: Host) -> None:
    """Seen from outside it must do the same as after `failed`; what that is, is its own affair."""
    seen = [_refuse(host, "from_the_future")]
    with Host(host.command, host.findings, host.patience_s) as again:
        seen.append(_refuse(again, "failed"))
    right = seen[0] == seen[1]
    host.findings.expect("R-9", right, f"unknown code: {seen[0]}; code failed: {seen[1]}")


def _refuse(host: Host, code: str) -> str:
    """Refuse a registration, and return what the program does then."""

    def error(heard: Heard) -> list[bytes]:
        return [reply(heard, "error", code=code, message="as a test")]

    visitor = _settle(host, host.accept({"register": error}))
    until = time.monotonic() + _WATCHED_S
    visitor.serve(lambda: time.monotonic() > until, _WATCHED_S * 2)
    status = host.wait_end(max(until - time.monotonic(), 0))
    if status is not None:
        return f"it ends with status {status}"
    kinds = sorted({one.type for one in visitor.heard})
    return f"it {'leaves' if visitor.ended else 'stays'}, having asked {', '.join(kinds)}"


def _old_server(host: Host) -> None:
    def empty(heard: Heard) -> list[bytes]:
        return [reply(heard, "ok"), pack(PRESSURE)]

    visitor = _settle(host, host.accept({"subscribe": empty}))
    if not visitor.serve(lambda: visitor.asked("subscribe"), _WATCHED_S):
        host.findings.miss("Q-3", "the program does not subscribe")
        return
    visitor.say(notice(1))
    _expect_answer(host, visitor, 1, "Q-3", "a notice behind the empty result of subscribe")


# --- when the server goes ------------------------------------------------------------------------------


def _restart(host: Host) -> None:
    visitor = _settle(host)
    visitor.say_bytes(frame(pack(notice(1)))[:-9])
    host.vanish()
    visitor.close()
    time.sleep(AWAY_S)
    host.listen()
    again = _settle(host)
    host.findings.expect("S-4", again.asked("hello"), "it came again without hello")
    again.say(notice(2))
    _expect_answer(host, again, 2, "S-4", "a notice after a restart in the middle of one")


def _bye(host: Host) -> None:
    visitor = _settle(host)
    visitor.say({"type": "bye", "reason": "as a test"})
    visitor.close()
    again = _settle(host)
    host.findings.expect("L-17", again.asked("hello"), "it came again without hello")


def _pauses(host: Host) -> None:
    _settle(host).close()
    count = 0
    until = time.monotonic() + RECONNECTS_S
    while time.monotonic() < until:
        host.accept().close()
        count += 1
    right = count <= RECONNECTS_MOST
    host.findings.expect(
        "S-4", right, f"{count} connections in {RECONNECTS_S:.0f} s that end at once"
    )


CHECKS = (
    Check("S-2 H-1", _greeting),
    Check("L-3 L-6 L-9 L-10 L-14", _answers),
    Check("F-6", _pieces),
    Check("T-4 T-8 T-9 T-10", _forms),
    Check("F-2 T-10", _largest),
    Check("T-11", _malformed),
    Check("F-3 F-4", _forbidden_length),
    Check("R-8", _unknown_push),
    Check("R-9", _unknown_code),
    Check("Q-3", _old_server),
    Check("S-4", _restart),
    Check("L-17", _bye),
    Check("S-4", _pauses),
)


def look_at_client(
    command: Sequence[str], patience_s: float, checks: Sequence[Check[Host]] = CHECKS
) -> list[Outcome]:
    """Return what became of each rule for clients. OSError where the program cannot be started."""
    findings = Findings(CLIENT_RULES)
    for check in checks:
        with Host(command, findings, patience_s) as host:
            try:
                check.run(host, findings)
            except NoAppError:
                findings.miss(check.numbers, "the program does not register")
    return findings.outcomes()
