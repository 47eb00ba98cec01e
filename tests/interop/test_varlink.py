"""The varlink protocol: bytes to calls and back, and what every service answers about itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lmkd.interop.varlink import (
    MESSAGE_MOST_BYTES,
    SERVICE_DESCRIPTION,
    Call,
    Framing,
    NotVarlink,
    answer_about_service,
    encode_error,
    encode_reply,
    parse_call,
)

DESCRIPTIONS = {"a.b": "interface a.b\n"}


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (b'{"method":"a.b.C","parameters":{"d":1}}', Call("a.b.C", {"d": 1})),
        (b'{"method":"a.b.C"}', Call("a.b.C", {})),
        (b'{"method":"a.b.C","parameters":null}', Call("a.b.C", {})),
        (b'{"method":"a.b.C","oneway":true,"more":true,"new":[1]}', Call("a.b.C", {}, oneway=True)),
        (b'{"method":"a.b.C","oneway":1}', Call("a.b.C", {})),
    ],
)
def test_a_message_is_a_call(message: bytes, call: Call) -> None:
    assert parse_call(message) == call


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"", "expected JSON, got b''"),
        (b"{", "expected JSON, got b'{'"),
        (b"\xff\xfe", "expected JSON, got"),
        (b"[" * 50_000, "expected JSON, got"),
        (b"[1]", r"expected a JSON object, got b'\[1\]'"),
        (b"{}", "key 'method': expected a string, in b'{}'"),
        (b'{"method":7}', "key 'method': expected a string"),
        (b'{"method":"a","parameters":[]}', "key 'parameters': expected an object"),
    ],
)
def test_what_is_no_call_is_said(message: bytes, said: str) -> None:
    with pytest.raises(NotVarlink, match=said):
        parse_call(message)


def test_calls_come_out_whole_however_they_are_cut() -> None:
    stream = b'{"method":"a.b.C"}\0{"method":"a.b.D"}\0'
    framing = Framing()
    calls = [call for byte in stream for call in framing.receive(bytes([byte]))]
    assert [call.method for call in calls] == ["a.b.C", "a.b.D"]
    assert [call.method for call in Framing().receive(stream)] == ["a.b.C", "a.b.D"]


def test_a_message_without_end_is_refused_and_not_kept() -> None:
    framing = Framing()
    assert framing.receive(b"x" * MESSAGE_MOST_BYTES) == []
    with pytest.raises(NotVarlink, match=f"at most {MESSAGE_MOST_BYTES} bytes"):
        framing.receive(b"x")


def test_replies_end_with_a_nul() -> None:
    assert encode_reply({}) == b'{"parameters":{}}\0'
    assert encode_error("a.b.E", {"x": "y"}) == b'{"error":"a.b.E","parameters":{"x":"y"}}\0'


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (
            Call("org.varlink.service.GetInfo", {}),
            {
                "parameters": {
                    "vendor": "lmkd",
                    "product": "lmkd",
                    "version": "1",
                    "url": "",
                    "interfaces": ["org.varlink.service", "a.b"],
                }
            },
        ),
        (
            Call("org.varlink.service.GetInterfaceDescription", {"interface": "a.b"}),
            {"parameters": {"description": "interface a.b\n"}},
        ),
        (
            Call(
                "org.varlink.service.GetInterfaceDescription", {"interface": "org.varlink.service"}
            ),
            {"parameters": {"description": SERVICE_DESCRIPTION}},
        ),
        (
            Call("org.varlink.service.GetInterfaceDescription", {"interface": "x.y"}),
            {"error": "org.varlink.service.InterfaceNotFound", "parameters": {"interface": "x.y"}},
        ),
        (
            Call("org.varlink.service.GetInterfaceDescription", {}),
            {
                "error": "org.varlink.service.InvalidParameter",
                "parameters": {"parameter": "interface"},
            },
        ),
        (
            Call("a.b.Nothing", {}),
            {
                "error": "org.varlink.service.MethodNotFound",
                "parameters": {"method": "a.b.Nothing"},
            },
        ),
        (
            Call("x.y.Z", {}),
            {"error": "org.varlink.service.InterfaceNotFound", "parameters": {"interface": "x.y"}},
        ),
        (
            Call("Z", {}),
            {"error": "org.varlink.service.InterfaceNotFound", "parameters": {"interface": ""}},
        ),
    ],
)
def test_what_every_service_answers(call: Call, answer: dict[str, Any]) -> None:
    raw = answer_about_service(call, "1", DESCRIPTIONS)
    assert raw.endswith(b"\0")
    assert json.loads(raw[:-1]) == answer
