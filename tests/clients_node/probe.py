"""The program that does with the client what a test says, and a scripted daemon that it talks with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..clients.fake_daemon import FakeDaemon, Script
from ..program import Program

QUICK = "backoff: { firstMs: 10, mostMs: 50 }"


class Failed(Exception):
    """What was asked threw; `error` is what it threw, by `name`, `code` and `message`."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['name']}: {error['message']}")
        self.error = error


class Probe(Program):
    """A program that runs code in which `lmkd` is the client's module and `state` is kept."""

    def __init__(self, program: Path, path: str) -> None:
        super().__init__("node", program, environment={"LMKD_SOCKET": path})

    def run(self, code: str) -> Any:
        """Run code, and return what it returns. Raises Failed."""
        said = json.loads(self.ask(json.dumps(code), ".*")[0])
        if "error" in said:
            raise Failed(said["error"])
        return said["value"]

    def begin(self, code: str) -> None:
        """Run code, and do not wait for its end."""
        self.tell(json.dumps(code))

    def fails(self, code: str) -> dict[str, Any]:
        """Run code that throws, and return what it threw."""
        try:
            value = self.run(code)
        except Failed as failed:
            return failed.error
        raise AssertionError(f"{code}: gave {value}, and was to throw")

    def connect(self, options: str = "") -> None:
        """Connect; from then on `state.client` is the client."""
        self.run(f"state.client = await lmkd.connect({{ name: 'probe', {QUICK}, {options} }})")

    def event(self, kind: str) -> dict[str, Any]:
        """Take events until one of this type comes."""
        found: dict[str, Any] = self.run(f"return state.until('{kind}')")
        return found

    def events(self) -> list[dict[str, Any]]:
        """Take all events that wait."""
        code = (
            "const found = []; const events = state.client.events({ signal: AbortSignal.timeout(50) });"
            "try { for await (const event of events) found.push(event) } catch {} return found"
        )
        found: list[dict[str, Any]] = self.run(code)
        return found


@contextmanager
def playing(probe: Probe, path: str, script: Script, options: str = "") -> Iterator[Probe]:
    """Have the probe connect to a daemon that plays this script, and close at the end."""
    with FakeDaemon(path) as daemon:
        daemon.run(script)
        probe.connect(options)
        yield probe
        probe.run("state.client.close()")
