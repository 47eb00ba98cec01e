"""The varlink protocol, for a service: bytes to calls, and replies to bytes (varlink.org).

A message is a JSON object, ended by a NUL byte. Which interfaces there are is for whoever serves; what every service
has to answer about itself, org.varlink.service, is here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MESSAGE_MOST_BYTES: Final = 65_536
SERVICE: Final = "org.varlink.service"
SERVICE_DESCRIPTION: Final = """\
interface org.varlink.service

method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)

method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound (interface: string)
error MethodNotFound (method: string)
error MethodNotImplemented (method: string)
error InvalidParameter (parameter: string)
error PermissionDenied ()
error ExpectedMore ()
"""


class NotVarlink(Exception):
    """What came is no varlink; the message says what was expected. The connection cannot go on."""


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked for."""

    method: str
    """With its interface: `org.varlink.service.GetInfo`."""
    parameters: Mapping[str, object]
    oneway: bool = False
    """Whether no reply is wanted."""

    @property
    def interface(self) -> str:
        return self.method.rpartition(".")[0]


class Framing:
    """Bytes to calls, one after another."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive(self, chunk: bytes) -> list[Call]:
        """Return the calls that these bytes complete. Raises NotVarlink."""
        self._buffer += chunk
        *messages, rest = self._buffer.split(b"\0")
        self._buffer = rest
        if any(len(message) > MESSAGE_MOST_BYTES for message in (*messages, rest)):
            raise NotVarlink(f"expected messages of at most {MESSAGE_MOST_BYTES} bytes")
        return [parse_call(bytes(message)) for message in messages]


def parse_call(message: bytes) -> Call:
    """Return the call that a message is. Raises NotVarlink."""
    try:
        found = json.loads(message)
    except (ValueError, RecursionError):
        raise NotVarlink(f"expected JSON, got {message[:100]!r}") from None
    if not isinstance(found, dict):
        raise NotVarlink(f"expected a JSON object, got {message[:100]!r}")
    method, parameters = found.get("method"), found.get("parameters")
    if not isinstance(method, str):
        raise NotVarlink(f"key 'method': expected a string, in {message[:100]!r}")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise NotVarlink(f"key 'parameters': expected an object, in {message[:100]!r}")
    return Call(method, parameters, oneway=found.get("oneway") is True)


def encode_reply(parameters: Mapping[str, object]) -> bytes:
    """Return what a call is answered with."""
    return _encode({"parameters": dict(parameters)})


def encode_error(name: str, parameters: Mapping[str, object]) -> bytes:
    """Return what a call is refused with; `name` has its interface before it."""
    return _encode({"error": name, "parameters": dict(parameters)})


def _encode(message: Mapping[str, object]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\0"


def answer_about_service(call: Call, version: str, descriptions: Mapping[str, str]) -> bytes:
    """Return the answer to whatever is not a method of the interfaces described: about the service, or a refusal."""
    if call.method == f"{SERVICE}.GetInfo":
        return encode_reply(
            {
                "vendor": "lmkd",
                "product": "lmkd",
                "version": version,
                "url": "",
                "interfaces": [SERVICE, *descriptions],
            }
        )
    if call.method == f"{SERVICE}.GetInterfaceDescription":
        wanted = call.parameters.get("interface")
        if not isinstance(wanted, str):
            return encode_error(f"{SERVICE}.InvalidParameter", {"parameter": "interface"})
        description = {SERVICE: SERVICE_DESCRIPTION, **descriptions}.get(wanted)
        if description is None:
            return encode_error(f"{SERVICE}.InterfaceNotFound", {"interface": wanted})
        return encode_reply({"description": description})
    if call.interface in descriptions or call.interface == SERVICE:
        return encode_error(f"{SERVICE}.MethodNotFound", {"method": call.method})
    return encode_error(f"{SERVICE}.InterfaceNotFound", {"interface": call.interface})
