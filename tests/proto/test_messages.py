"""Every message is valid or does not exist, and its table is the truth about it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from lmkd_proto import (
    ERROR_CODES,
    MESSAGES,
    PUSHES,
    REPLIES,
    REQUESTS,
    Ack,
    Error,
    Explain,
    LocalProtocolError,
    Message,
    Ok,
    Pressure,
    ProtocolError,
    Register,
    RemoteProtocolError,
    Subscribe,
    Unsubscribe,
    Update,
    decode,
    encode,
)
from lmkd_proto.fields import ID, REQUIRED


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)
def test_the_table_of_a_message_agrees_with_its_attributes(message: type[Message]) -> None:
    attributes = dataclasses.fields(message)
    assert [a.name for a in attributes] == [declared.attribute for declared in message.fields]
    for attribute, declared in zip(attributes, message.fields, strict=True):
        default: object = attribute.default
        if attribute.default_factory is not dataclasses.MISSING:
            default = attribute.default_factory()
        if declared.attribute == "id":
            # An error names its id, or says that it has none; on the wire none is left out.
            assert default is dataclasses.MISSING
        elif declared.default is REQUIRED:
            assert default is dataclasses.MISSING
        else:
            assert default == declared.default


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)
def test_a_default_is_a_value_that_its_kind_accepts(message: type[Message]) -> None:
    for declared in message.fields:
        assert declared.default in (REQUIRED, None) or declared.kind.accepts(declared.default), (
            declared.key
        )


def test_requests_and_replies_begin_with_an_id_and_pushes_have_none() -> None:
    for message in (*REQUESTS, *REPLIES):
        assert message.fields[0].key == "id"
    assert all(message.fields[0] is ID for message in REQUESTS)
    for push in PUSHES:
        assert "id" not in {declared.key for declared in push.fields}


def test_no_type_is_used_twice() -> None:
    assert len({message.type for message in MESSAGES}) == len(MESSAGES) == 24


def test_a_message_is_frozen_and_has_no_room_for_more() -> None:
    message = Subscribe(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.domain = "/x"  # type: ignore[misc]
    assert not hasattr(message, "__dict__")


def test_messages_of_two_types_are_never_equal() -> None:
    one: object = Subscribe(1, "system")
    other: object = Unsubscribe(1, "system")
    assert one != other
    assert one == Subscribe(1)
    assert hash(one) == hash(Subscribe(1))


def test_a_message_shows_what_it_says() -> None:
    assert repr(Unsubscribe(1, "/a")) == "Unsubscribe(id=1, domain='/a')"


def test_a_wrong_value_is_named_by_message_key_and_what_was_expected() -> None:
    with pytest.raises(LocalProtocolError) as caught:
        Register(1, "x", "important")
    assert str(caught.value) == (
        "register: key 'class': expected one of `cached` `background` `service` `perceptible` "
        "`foreground`; got 'important'"
    )


def test_an_update_of_nothing_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="at least one"):
        Update(1)
    assert Update(1, sheddable_bytes=0).sheddable_bytes == 0


@pytest.mark.parametrize(("pid", "kill"), [(None, None), (1, 0)])
def test_what_is_explained_is_a_process_or_a_kill(pid: int | None, kill: int | None) -> None:
    with pytest.raises(LocalProtocolError, match="exactly one of the keys 'pid', 'kill'"):
        Explain(1, pid, kill)
    assert (Explain(1, 7).pid, Explain(1, kill=0).kill) == (7, 0)


def test_own_is_for_asking_only() -> None:
    """A server says which path it is; `own` of somebody else would mean nothing."""
    assert Subscribe(1, "own").domain == Unsubscribe(1, "own").domain == "own"
    with pytest.raises(LocalProtocolError, match="'domain': expected `system`, or an absolute"):
        Pressure("own", "low", "", 0)


def test_none_stands_only_where_absence_means_something() -> None:
    assert Error(None, "failed", "x").id is None
    with pytest.raises(LocalProtocolError, match="got nil"):
        Ack(1, 1, "done", None)  # type: ignore[arg-type]


def test_a_text_of_512_characters_may_take_more_bytes_than_that() -> None:
    reason = "🦆" * 512
    message = Pressure("system", "low", reason, 0)
    assert decode(encode(message)[4:]) == message


def test_a_lone_surrogate_is_refused_when_the_message_is_built() -> None:
    with pytest.raises(LocalProtocolError):
        Pressure("system", "low", "\ud800", 0)


def test_spaces_beyond_ascii_are_no_control_characters() -> None:
    assert Register(1, "no\u00a0break", "cached").name == "no\u00a0break"


def test_a_result_that_no_frame_can_hold_is_refused_when_encoded() -> None:
    with pytest.raises(LocalProtocolError, match="1 to 65536 bytes"):
        encode(Ok(1, {"text": "x" * 65536}))


@pytest.mark.parametrize("spoiled", [object(), 2**64, "\ud800"])
def test_a_result_spoiled_after_it_was_built_is_refused_when_encoded(spoiled: object) -> None:
    result: dict[str, object] = {}
    message = Ok(1, result)
    result["x"] = spoiled
    with pytest.raises(LocalProtocolError, match="changed after it was built"):
        encode(message)


def test_an_absent_result_is_a_new_map_each_time() -> None:
    first = decode(encode(Ok(1))[4:])
    second = decode(encode(Ok(1))[4:])
    assert isinstance(first, Ok)
    assert isinstance(second, Ok)
    assert first.result == {}
    assert first.result is not second.result


def test_the_errors_have_one_parent_and_say_their_code() -> None:
    error = RemoteProtocolError("bad_value", "expected better", 7)
    assert isinstance(error, ProtocolError)
    assert issubclass(LocalProtocolError, ProtocolError)
    assert str(error) == "bad_value: expected better"
    assert (error.code, error.message, error.request_id) == ("bad_value", "expected better", 7)


@pytest.mark.parametrize("code", ERROR_CODES)
def test_every_error_code_can_be_sent(code: str) -> None:
    message = Error(1, code, "")
    assert decode(encode(message)[4:]) == message


def test_importing_the_package_brings_in_neither_typing_nor_anything_of_ours() -> None:
    """Every client pays for the import: typing alone is a third of it."""
    program = (
        "import sys; before = set(sys.modules); import lmkd_proto; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(*sorted(new & {'typing', 'asyncio', 'trio', 'lmkd', 'lmkd_client', 'logging'}))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
