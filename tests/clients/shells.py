"""The three shells behind one face, so that one contract holds them all.

The face is asynchronous; for the blocking shell nothing in it ever suspends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import lmkd_client.asyncio
import lmkd_client.blocking
import lmkd_client.trio
import trio

from .fake_daemon import PATIENCE_S

Scenario = Callable[["Shell"], Awaitable[None]]


class Shell:
    """How to connect with a shell, and how to run a scenario that does."""

    name: str

    def connect(self, path: str | None, **options: Any) -> AbstractAsyncContextManager[Any]:
        raise NotImplementedError

    def run(self, scenario: Scenario) -> None:
        raise NotImplementedError


class TrioShell(Shell):
    name = "trio"

    def connect(self, path: str | None, **options: Any) -> AbstractAsyncContextManager[Any]:
        return lmkd_client.trio.connect(path, **options)

    def run(self, scenario: Scenario) -> None:
        async def bounded() -> None:
            with trio.fail_after(PATIENCE_S):
                await scenario(self)

        trio.run(bounded)


class AsyncioShell(Shell):
    name = "asyncio"

    def connect(self, path: str | None, **options: Any) -> AbstractAsyncContextManager[Any]:
        return lmkd_client.asyncio.connect(path, **options)

    def run(self, scenario: Scenario) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(PATIENCE_S):
                await scenario(self)

        asyncio.run(bounded())


class BlockingShell(Shell):
    name = "blocking"

    @contextlib.asynccontextmanager
    async def connect(self, path: str | None, **options: Any) -> AsyncIterator[Any]:
        with lmkd_client.blocking.connect(path, **options) as client:
            yield _Face(client)

    def run(self, scenario: Scenario) -> None:
        running = scenario(self).__await__()
        try:
            next(running)
        except StopIteration:
            return
        raise AssertionError("the blocking shell suspended")


class _Face:
    """A blocking thing, whose methods can be awaited and whose iterators iterated asynchronously."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if not callable(found) or isinstance(found, type):
            return found
        if name in ("notices", "close"):
            return lambda: _dress(found())

        async def call(*arguments: Any, **named: Any) -> Any:
            return _dress(found(*arguments, **named))

        return call

    def __aiter__(self) -> _Face:
        return self

    async def __anext__(self) -> Any:
        try:
            return next(self._thing)
        except StopIteration:
            raise StopAsyncIteration from None


def _dress(result: Any) -> Any:
    dressed = (
        lmkd_client.blocking.App,
        lmkd_client.blocking.Subscription,
        lmkd_client.blocking.Notices,
    )
    return _Face(result) if isinstance(result, dressed) else result


SHELLS: tuple[Shell, ...] = (BlockingShell(), AsyncioShell(), TrioShell())
