"""The shared core, without a socket: what is said after what was heard, and what is bounded."""

from __future__ import annotations

import pytest
from lmkd_client.backoff import Backoff
from lmkd_client.errors import (
    BrokenReply,
    BusyClient,
    ClosedClient,
    ConnectionLost,
    RequestRefused,
)
from lmkd_client.inbox import DOMAINS_MOST, KILLED_MOST, DomainInbox, NoticeInbox, ReplyInbox
from lmkd_client.registration import read_grant
from lmkd_client.session import Session
from lmkd_proto import (
    MAX_ID,
    Error,
    Hello,
    Killed,
    LocalProtocolError,
    Message,
    Notice,
    Ok,
    Register,
    ServerConnection,
    Status,
    Subscribe,
    Unsubscribe,
    Welcome,
    encode,
)

from .fake_daemon import GRANT, notice, pressure


class Pair:
    """A session and the other side of it, with nothing between."""

    def __init__(self, *, reconnect: bool = True) -> None:
        self.session = Session("/nowhere", "a test", reconnect=reconnect)
        self.server = ServerConnection()

    def hear(self) -> list[Message]:
        """Give the server all that the session has to say."""
        said = self.session.outgoing
        self.session.sent(len(said))
        return [message for message in self.server.receive(said) if isinstance(message, Message)]

    def say(self, *messages: Message) -> None:
        """Have the server say something, byte by byte."""
        for message in messages:
            for byte in self.server.send(message):
                self.session.receive(bytes([byte]))

    def greet(self) -> None:
        """Connect and be welcomed."""
        self.session.connected()
        hello = self.hear()[0]
        assert isinstance(hello, Hello)
        self.say(Welcome(hello.id, 1, "lmkd fake", False))

    def drop(self) -> None:
        """End the connection."""
        self.session.receive(b"")
        self.server = ServerConnection()


def open_pair(*, reconnect: bool = True) -> Pair:
    pair = Pair(reconnect=reconnect)
    pair.greet()
    return pair


def test_a_frame_that_went_out_in_part_goes_on_where_it_stopped() -> None:
    pair = open_pair()
    pair.session.ask(Status(0))
    whole = pair.session.outgoing
    for _ in whole:
        pair.server.receive(pair.session.outgoing[:1])
        pair.session.sent(1)
    pair.session.ask(Status(0))
    (second,) = pair.hear()
    assert isinstance(second, Status)
    assert len(whole) == len(encode(second))


def test_replies_find_their_requests_whatever_comes_between() -> None:
    pair = open_pair()
    first, second = pair.session.ask(Status(0)), pair.session.ask(Status(0))
    one, two = pair.hear()
    assert isinstance(one, Status)
    assert isinstance(two, Status)
    assert one.id != two.id
    pair.say(Ok(one.id, {"n": 1}), pressure("low"), Error(None, "malformed", "whose?"))
    assert (first.take(), second.take()) == ({"n": 1}, None)
    pair.say(Ok(two.id, {"n": 2}))
    pair.say(Ok(two.id, {"n": 3}))  # again: nobody waits for it
    assert (first.take(), second.take()) == ({"n": 1}, {"n": 2})


def test_why_the_daemon_hung_up_is_part_of_the_error() -> None:
    pair = open_pair(reconnect=False)
    asked = pair.session.ask(Status(0))
    pair.say(Error(None, "frame_too_long", "at most 65536 are allowed"))
    pair.drop()
    with pytest.raises(ConnectionLost, match="frame_too_long: at most 65536"):
        asked.take()


def test_request_ids_begin_again_and_pass_over_those_still_unanswered() -> None:
    pair = open_pair()
    pair.session._last_id = MAX_ID - 1
    unanswered = pair.session.ask(Status(0))
    pair.session._last_id = MAX_ID - 1
    later = pair.session.ask(Status(0))
    one, two = pair.hear()
    assert isinstance(one, Status)
    assert isinstance(two, Status)
    assert (one.id, two.id) == (MAX_ID, 1)
    pair.say(Ok(two.id, {"n": 2}))
    assert (unanswered.take(), later.take()) == (None, {"n": 2})


def test_a_new_connection_says_what_is_wanted_and_not_what_was_only_asked() -> None:
    pair = open_pair()
    kept, _ = pair.session.subscribe("/kept")
    dropped, _ = pair.session.subscribe("/dropped")
    subscribed = pair.hear()
    for request in subscribed:
        assert isinstance(request, Subscribe)
        pair.say(Ok(request.id))
    pair.session.unsubscribe(dropped)
    assert [type(request) for request in pair.hear()] == [Unsubscribe]
    pair.session.register(Register(0, "cache", "cached", 5))
    (register,) = pair.hear()
    assert isinstance(register, Register)
    pair.say(Ok(register.id, GRANT))
    asked = pair.session.ask(Status(0))
    pair.drop()
    with pytest.raises(Exception, match="lost lmkd"):
        asked.take()

    pair.session.connected()
    said = pair.hear()
    assert [type(message) for message in said] == [Hello, Subscribe, Register]
    assert isinstance(said[1], Subscribe)
    assert said[1].domain == kept.domain
    assert isinstance(said[2], Register)
    assert (said[2].name, said[2].sheddable_bytes) == ("cache", 5)


def test_half_a_frame_of_an_earlier_connection_is_never_sent_over_the_next() -> None:
    pair = open_pair()
    pair.session.ask(Status(0))
    pair.session.sent(3)
    pair.drop()
    pair.session.connected()
    assert [type(message) for message in pair.hear()] == [Hello]


def test_a_domain_that_is_gone_after_a_restart_ends_its_subscription_alone() -> None:
    pair = open_pair()
    gone, _ = pair.session.subscribe("/gone")
    kept, _ = pair.session.subscribe("/kept")
    for request in pair.hear():
        assert isinstance(request, Subscribe)
        pair.say(Ok(request.id))
    pair.drop()
    pair.session.connected()
    hello, first, second = pair.hear()
    assert isinstance(hello, Hello)
    assert isinstance(first, Subscribe)
    assert isinstance(second, Subscribe)
    pair.say(Welcome(hello.id, 1, "lmkd fake", False))
    pair.say(Error(first.id, "unknown_domain", "gone"), Ok(second.id), pressure("low", "/kept"))
    with pytest.raises(RequestRefused, match="unknown_domain"):
        gone.take()
    assert kept.take() == pressure("low", "/kept")
    pair.session.subscribe("/gone")  # may be tried again


def test_an_app_that_leaves_while_the_daemon_is_away_is_not_registered_again() -> None:
    pair = open_pair()
    app, _ = pair.session.register(Register(0, "cache", "cached"))
    (register,) = pair.hear()
    assert isinstance(register, Register)
    pair.say(Ok(register.id, GRANT))
    pair.drop()
    assert pair.session.unregister(app) is None
    pair.session.connected()
    assert [type(message) for message in pair.hear()] == [Hello]


def test_a_registration_that_lacks_a_key_is_the_daemon_s_mistake() -> None:
    pair = open_pair()
    _, reply = pair.session.register(Register(0, "cache", "cached"))
    (register,) = pair.hear()
    assert isinstance(register, Register)
    pair.say(Ok(register.id, {"app": 1}))
    with pytest.raises(BrokenReply, match="without all of its keys"):
        reply.take()
    assert pair.session.app is None


@pytest.mark.parametrize("key", sorted(GRANT))
def test_every_key_of_a_registration_is_required(key: str) -> None:
    assert read_grant(GRANT).app == 7
    for wrong in ({k: v for k, v in GRANT.items() if k != key}, {**GRANT, key: None}):
        with pytest.raises(BrokenReply):
            read_grant(wrong)


def test_a_closed_session_says_so_to_everybody() -> None:
    pair = open_pair()
    inbox, reply = pair.session.subscribe("system")
    app, _ = pair.session.register(Register(0, "cache", "cached"))
    pair.session.close()
    for take in (inbox.take, reply.take, app.notices.take):
        with pytest.raises(ClosedClient):
            take()
    with pytest.raises(ClosedClient):
        pair.session.ask(Status(0))
    assert pair.session.outgoing == b""


def test_a_name_that_cannot_be_said_is_refused_at_once() -> None:
    with pytest.raises(LocalProtocolError, match="no control characters"):
        Session("/nowhere", "a\nb")


def test_only_the_latest_notice_waits() -> None:
    inbox = NoticeInbox()
    inbox.put(notice(1, "critical"))
    inbox.put(notice(2, "normal"))
    assert inbox.take() == notice(2, "normal")
    assert inbox.take() is None


def test_a_program_that_never_takes_holds_one_level_and_a_few_kills() -> None:
    inbox = DomainInbox("system")
    for number in range(10 * KILLED_MOST):
        inbox.put(pressure("low"))
        inbox.put(Killed("system", number, "leak", "cached", "first", 0))
    inbox.put(pressure("normal"))
    taken = []
    while (event := inbox.take()) is not None:
        taken.append(event)
    pids = [event.pid for event in taken if isinstance(event, Killed)]
    assert pids == list(range(9 * KILLED_MOST, 10 * KILLED_MOST))
    assert taken[-1] == pressure("normal")
    assert len(taken) == KILLED_MOST + 1


def subscribe(pair: Pair, *wanted: tuple[str, str]) -> list[DomainInbox]:
    """Subscribe to each (domain, propagation), as a daemon that knows of `own` answers it; `own` is /a."""
    inboxes = [pair.session.subscribe(domain, propagation)[0] for domain, propagation in wanted]
    for request in pair.hear():
        assert isinstance(request, Subscribe)
        path = "/a" if request.domain == "own" else request.domain
        pair.say(Ok(request.id, {"domain": path, "propagation": request.propagation}))
    return inboxes


def taken(inbox: DomainInbox) -> list[tuple[str, str]]:
    """Take all that waits: (domain, level), or (domain, name) of who was killed there."""
    found = []
    while (event := inbox.take()) is not None:
        found.append((event.domain, event.name if isinstance(event, Killed) else event.level))
    return found


@pytest.mark.parametrize(
    ("domain", "propagation", "heard"),
    [
        ("system", "local", ["system"]),
        ("system", "hierarchy", ["system", "/", "/a", "/a/b", "/ab"]),
        ("/", "local", ["/"]),
        ("/", "hierarchy", ["/", "/a", "/a/b", "/ab"]),
        ("/a", "local", ["/a"]),
        ("/a", "hierarchy", ["/a", "/a/b"]),
        ("/a", "default", ["/a", "/a/b"]),
        ("own", "local", ["/a"]),
        ("own", "default", ["/a", "/a/b"]),
        ("/a/b", "hierarchy", ["/a/b"]),
    ],
)
def test_a_subscription_hears_of_its_domain_and_of_what_it_asked_for_below(
    domain: str, propagation: str, heard: list[str]
) -> None:
    pair = open_pair()
    (inbox,) = subscribe(pair, (domain, propagation))
    everywhere = ("system", "/", "/a", "/a/b", "/ab")
    pair.say(*(pressure("low", where) for where in everywhere))
    assert taken(inbox) == [(where, "low") for where in heard]
    pair.say(*(Killed(where, 5, "leak", "cached", "first", 0) for where in everywhere))
    assert taken(inbox) == [(where, "leak") for where in heard]


def test_one_message_is_heard_by_every_subscription_that_asked_for_it() -> None:
    pair = open_pair()
    wanted = ("system", "hierarchy"), ("/a", "hierarchy"), ("own", "local"), ("/b", "local")
    inboxes = subscribe(pair, *wanted)
    pair.say(pressure("low", "/a"))
    assert list(map(taken, inboxes)) == [[("/a", "low")]] * 3 + [[]]


def test_by_default_a_level_is_heard_by_the_nearest_and_its_end_by_whoever_heard_of_it() -> None:
    pair = open_pair()
    (far,) = subscribe(pair, ("system", "default"))
    pair.say(pressure("low", "/a/b"))
    (deaf, near) = subscribe(pair, ("/a/b/c", "default"), ("/a", "default"))
    pair.say(pressure("low", "/a/d"), pressure("normal", "/a/b"), pressure("low", "/a/b"))
    assert taken(far) == [("/a/b", "normal")]
    assert taken(near) == [("/a/d", "low"), ("/a/b", "low")]
    pair.say(Killed("/a/d", 5, "leak", "cached", "first", 0), pressure("low", "/e"))
    assert (taken(far), taken(near)) == ([("/e", "low")], [("/a/d", "leak")])
    # A nearer one that does not hear of it takes nothing away.
    subscribe(pair, ("/f", "local"))
    pair.say(pressure("low", "/f/g"))
    assert (taken(far), taken(deaf)) == ([("/f/g", "low")], [])


def test_each_domain_has_its_own_latest_level() -> None:
    pair = open_pair()
    (inbox,) = subscribe(pair, ("/a", "hierarchy"))
    levels = [("/a", "low"), ("/a/b", "low"), ("/a/c", "low"), ("/a/b", "medium"), ("/a", "normal")]
    pair.say(*(pressure(level, domain) for domain, level in levels))
    assert taken(inbox) == [("/a/c", "low"), ("/a/b", "medium"), ("/a", "normal")]
    assert inbox.latest == pressure("normal", "/a")


def test_a_program_that_never_takes_holds_a_bounded_number_of_levels_below() -> None:
    inbox = DomainInbox("/a", "hierarchy")
    inbox.put(pressure("low", "/a"))
    for number in range(3 * DOMAINS_MOST):
        inbox.put(pressure("low", f"/a/{number}"))
    assert not inbox.awaits_end("/a/0")
    assert inbox.awaits_end(f"/a/{3 * DOMAINS_MOST - 1}")
    found = taken(inbox)
    assert len(found) == DOMAINS_MOST + 1
    assert (found[0], found[-1]) == (("/a", "low"), (f"/a/{3 * DOMAINS_MOST - 1}", "low"))


def test_levels_below_that_a_new_daemon_does_not_tell_again_have_ended() -> None:
    pair = open_pair()
    (inbox,) = subscribe(pair, ("own", "hierarchy"))
    pair.say(pressure("low", "/a/b"), pressure("low", "/a/c"), pressure("normal", "/a/d"))
    taken(inbox)
    pair.drop()
    pair.session.connected()
    hello, request = pair.hear()
    assert isinstance(hello, Hello)
    assert request == Subscribe(getattr(request, "id", 0), "own", "hierarchy")
    pair.say(Welcome(hello.id, 1, "lmkd fake", False), pressure("low", "/a/b"))
    assert taken(inbox) == []  # whose `own` that would be is not known yet
    pair.say(
        Ok(getattr(request, "id", 0), {"domain": "/a"}),
        pressure("low", "/a"),
        pressure("medium", "/a/b"),
    )
    assert taken(inbox) == [("/a/c", "normal"), ("/a", "low"), ("/a/b", "medium")]


def test_a_daemon_from_before_propagation_is_one_that_propagates_nothing() -> None:
    pair = open_pair()
    inbox, reply = pair.session.subscribe("/a", "hierarchy")
    (request,) = pair.hear()
    assert isinstance(request, Subscribe)
    pair.say(Ok(request.id), pressure("low", "/a"))
    assert reply.take() == {}
    assert (inbox.path, taken(inbox)) == ("/a", [("/a", "low")])


def test_an_own_group_without_its_path_is_the_daemon_s_mistake() -> None:
    pair = open_pair()
    _, reply = pair.session.subscribe("own")
    (request,) = pair.hear()
    assert isinstance(request, Subscribe)
    pair.say(Ok(request.id, {"domain": 3}))
    with pytest.raises(BrokenReply, match="without the path"):
        reply.take()
    (kept,) = subscribe(pair, ("own", "local"))
    pair.drop()
    pair.session.connected()
    hello, again = pair.hear()
    assert isinstance(hello, Hello)
    assert isinstance(again, Subscribe)
    pair.say(Welcome(hello.id, 1, "lmkd fake", False), Ok(again.id))
    with pytest.raises(BrokenReply, match="without the path"):
        kept.take()


def test_two_places_cannot_wait_for_one_thing() -> None:
    inbox = ReplyInbox()
    woken = []
    inbox.wait_with(lambda: woken.append("first"))
    with pytest.raises(BusyClient):
        inbox.wait_with(lambda: woken.append("second"))
    inbox.put({})
    inbox.leave()
    inbox.wait_with(lambda: woken.append("third"))
    assert woken == ["first"]


def test_an_ack_is_for_the_very_notice_and_not_for_its_number() -> None:
    pair = open_pair()
    app, _ = pair.session.register(Register(0, "cache", "cached"))
    (register,) = pair.hear()
    assert isinstance(register, Register)
    pair.say(Ok(register.id, GRANT), notice(1))
    told = app.notices.take()
    assert isinstance(told, Notice)
    alike = notice(1)
    assert alike == told
    assert pair.session.ack(app, alike, "done") is None
    assert pair.session.ack(app, told, "done") is not None


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda below: 0, [100, 200, 400, 800, 1000, 1000]),
        (lambda below: below - 1, [50, 100, 200, 400, 500, 500]),
    ],
)
def test_pauses_grow_up_to_a_bound_and_are_never_nothing(draw, expected) -> None:  # type: ignore[no-untyped-def]
    backoff = Backoff(100, 1000, draw)
    assert [backoff.next_pause_ms() for _ in expected] == expected
    # A connection that broke soon does not count as success; one that lasted does.
    assert backoff.next_pause_ms(lasted_ms=999) == expected[-1]
    assert backoff.next_pause_ms(lasted_ms=1000) == expected[0]


def test_chance_stays_within_its_bounds() -> None:
    backoff = Backoff(1000, 1000)
    drawn = [backoff.next_pause_ms() for _ in range(200)]
    assert min(drawn) >= 500
    assert max(drawn) <= 1000
    assert len(set(drawn)) > 20


@pytest.mark.parametrize(("first_ms", "most_ms"), [(0, 10), (1, 10), (20, 10)])
def test_pauses_that_would_spin_are_refused(first_ms: int, most_ms: int) -> None:
    with pytest.raises(ValueError, match="expected 2 <= first_ms"):
        Backoff(first_ms, most_ms)
