"""Speak as org.freedesktop.LowMemoryMonitor: what GLib's GMemoryMonitor and, by the portal, Flatpaks listen to.

The name, the path and the one signal, LowMemoryWarning(y), are those of low-memory-monitor, and so are 50, 100 and 255
for low, medium and critical (its D-Bus API 2.0). Ours beside that is 0: memory is calm again. It is the system's level;
cgroups have no word in this interface.

Each warning has programs shed, so a level that only falls a step is not said: what follows it is a rise, or the 0.

A program that begins to listen while memory is short is told so by itself. The interface has no word for that, but a
proxy of GLib's asks for all properties once it listens; what was said to everybody before that it has not heard.
"""

from __future__ import annotations

import logging
import math
from typing import Final

import trio
from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageFlag,
    MessageType,
    new_error,
    new_method_return,
    new_signal,
)
from jeepney.bus_messages import message_bus

from lmkd.interop.bus import Bus, BusError, keep_on_bus
from lmkd.model import SYSTEM_DOMAIN, Level
from lmkd.policy.actions import Action, Broadcast

log = logging.getLogger("lmkd")

NAME: Final = "org.freedesktop.LowMemoryMonitor"
PATH: Final = "/org/freedesktop/LowMemoryMonitor"
SIGNAL: Final = "LowMemoryWarning"
WARNINGS: Final = {Level.NORMAL: 0, Level.LOW: 50, Level.MEDIUM: 100, Level.CRITICAL: 255}
PRIMARY_OWNER, IN_QUEUE = 1, 2
"""What RequestName answers (D-Bus specification)."""
NEWCOMERS_MOST: Final = 64
NEWCOMER_REST_S: Final = 0.3
"""Between the answer to a newcomer and its first warning: GLib connects its handler only when it has the answer."""
_OBJECT = DBusAddress(PATH, interface=NAME)

_HEAD = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)
_XML = f"""{_HEAD}<node>
  <interface name="{NAME}">
    <signal name="{SIGNAL}">
      <arg name="level" type="y"/>
    </signal>
  </interface>
  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect">
      <arg name="xml_data" type="s" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
  </interface>
  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg name="interface" type="s" direction="in"/>
      <arg name="name" type="s" direction="in"/>
      <arg name="value" type="v" direction="out"/>
    </method>
    <method name="GetAll">
      <arg name="interface" type="s" direction="in"/>
      <arg name="values" type="a{{sv}}" direction="out"/>
    </method>
    <method name="Set">
      <arg name="interface" type="s" direction="in"/>
      <arg name="name" type="s" direction="in"/>
      <arg name="value" type="v" direction="in"/>
    </method>
  </interface>
</node>
"""


class LowMemoryMonitor:
    """The system's level, on the bus at this address."""

    key = "low_memory_monitor"

    def __init__(self, address: str) -> None:
        self._address = address
        self._level = Level.NORMAL
        self._said = Level.NORMAL
        """What programs were told last, as far as they are to know it: a fall to between lowers it without a word."""
        self._changed = trio.Event()
        self._is_owner = False
        self._failure: str | None = None
        self._newcomers: set[str] = set()
        """The unique names of those that have just begun to listen, and when they are told."""
        self._newcomers_at = 0.0
        self.standing = "not on the bus yet"
        """How it is with this bridge, in a line."""

    def take(self, action: Action) -> None:
        """Keep the system's level, to be told."""
        if isinstance(action, Broadcast) and action.domain == SYSTEM_DOMAIN:
            self._level = action.level
            self._changed.set()

    async def run(self) -> None:
        """Be on the bus for ever, whenever it is there."""
        await keep_on_bus(self._address, self._serve, self._tell, self._note_failure)

    def close(self) -> None:
        """Nothing is held but the connection, which ends with `run`."""

    def _note_failure(self, why: str) -> None:
        self._is_owner = False
        self._said = Level.NORMAL
        self._newcomers.clear()
        self.standing = why
        if why != self._failure:
            self._failure = why
            log.warning("interop.%s: %s", self.key, why)

    async def _tell(self, bus: Bus) -> None:
        try:
            (answer,) = await bus.call(message_bus.RequestName(NAME))
        except BusError as error:
            if error.name == "org.freedesktop.DBus.Error.AccessDenied":
                raise BusError(
                    f"the bus does not let us own {NAME}: it wants the policy that"
                    " `lmkd --print-dbus-policy` prints, in /etc/dbus-1/system.d"
                ) from None
            raise
        self._is_owner = answer == PRIMARY_OWNER
        if not self._is_owner:
            self.standing = f"{NAME} belongs to {await _describe_owner(bus)}; ours when that leaves"
            log.warning("interop.%s: %s", self.key, self.standing)
        while True:
            if self._is_owner:
                await self._tell_level(bus)
                await self._tell_newcomers(bus)
            pause_s = self._newcomers_at - trio.current_time() if self._newcomers else math.inf
            with trio.move_on_after(max(pause_s, 0)):
                await self._changed.wait()
                self._changed = trio.Event()

    async def _tell_level(self, bus: Bus) -> None:
        if self._failure is not None or self.standing != _ON_THE_BUS:
            self._failure, self.standing = None, _ON_THE_BUS
            log.info("interop.%s: %s", self.key, self.standing)
        level, said = self._level, self._said
        self._said = level
        if level > said or (level is Level.NORMAL and said is not Level.NORMAL):
            await bus.send(warning_of(level))

    async def _tell_newcomers(self, bus: Bus) -> None:
        while self._newcomers and trio.current_time() >= self._newcomers_at:
            name = self._newcomers.pop()
            if self._level is not Level.NORMAL:
                await bus.send(warning_of(self._level, to=name))

    def _welcome(self, name: str) -> None:
        if self._level is not Level.NORMAL and len(self._newcomers) < NEWCOMERS_MOST:
            self._newcomers.add(name)
            self._newcomers_at = trio.current_time() + NEWCOMER_REST_S
            self._changed.set()

    def _serve(self, message: Message) -> Message | None:
        """Answer whoever asks what there is, and hear who owns the name."""
        fields = message.header.fields
        if message.header.message_type is MessageType.signal:
            if fields.get(HeaderFields.sender) == "org.freedesktop.DBus":
                self._hear_of_owner(fields.get(HeaderFields.member), message.body)
            return None
        if fields.get(HeaderFields.member) == "GetAll":
            self._welcome(str(fields.get(HeaderFields.sender)))
        if MessageFlag.no_reply_expected in message.header.flags:
            return None
        return answer_call(message)

    def _hear_of_owner(self, member: object, body: tuple[object, ...]) -> None:
        if body != (NAME,) or member not in ("NameAcquired", "NameLost"):
            return
        self._is_owner = member == "NameAcquired"
        if not self._is_owner:
            self._said = Level.NORMAL
            self.standing = f"{NAME} was taken by another"
        self._changed.set()


def warning_of(level: Level, to: str | None = None) -> Message:
    """Return the signal that says a level, to everybody or to one program."""
    signal = new_signal(_OBJECT, SIGNAL, "y", (WARNINGS[level],))
    if to is not None:
        signal.header.fields[HeaderFields.destination] = to
    return signal


_ON_THE_BUS: Final = f"levels are told on the system bus, as {NAME}"


def answer_call(call: Message) -> Message:
    """Return what a method call is answered: there are the usual interfaces, and no method of our own."""
    fields = call.header.fields
    path, member = fields.get(HeaderFields.path, "/"), fields.get(HeaderFields.member)
    interface = fields.get(HeaderFields.interface)
    asked = interface, member, fields.get(HeaderFields.signature, "")
    if interface in (None, "org.freedesktop.DBus.Peer") and member == "Ping":
        return new_method_return(call)
    if asked == ("org.freedesktop.DBus.Introspectable", "Introspect", ""):
        xml = _introspect(path)
        if xml is not None:
            return new_method_return(call, "s", (xml,))
    if path == PATH and interface == "org.freedesktop.DBus.Properties":
        if asked[1:] == ("GetAll", "s"):
            return new_method_return(call, "a{sv}", ({},))
        if asked[1:] in (("Get", "ss"), ("Set", "ssv")):
            text = f"{call.body[0]} has no property {call.body[1]}"
            return _refusal(call, "org.freedesktop.DBus.Error.UnknownProperty", text)
    if _introspect(path) is None:
        text = f"there is no object {path}"
        return _refusal(call, "org.freedesktop.DBus.Error.UnknownObject", text)
    text = f"{interface} has no method {member} with signature {asked[2]!r} at {path}"
    return _refusal(call, "org.freedesktop.DBus.Error.UnknownMethod", text)


def _introspect(path: str) -> str | None:
    if path == PATH:
        return _XML
    above = path.rstrip("/") + "/"
    if not PATH.startswith(above):
        return None
    child = PATH[len(above) :].partition("/")[0]
    return f'{_HEAD}<node>\n  <node name="{child}"/>\n</node>\n'


def _refusal(call: Message, name: str, text: str) -> Message:
    return new_error(call, name, "s", (text,))


async def _describe_owner(bus: Bus) -> str:
    try:
        (owner,) = await bus.call(message_bus.GetNameOwner(NAME))
        (pid,) = await bus.call(message_bus.GetConnectionUnixProcessID(owner))
    except BusError:
        return "another program"
    return f"pid {pid}"
