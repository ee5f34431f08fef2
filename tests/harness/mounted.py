"""A mounted server in this process: run around calls, and looked into."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from mlserve.asgi.mounted import MountedServer
from mlserve.server.engine.engine import Engine
from mlserve.server.parts import ServerParts


def during(serving: MountedServer, ask: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Return what `ask` returns while the server runs."""

    async def run() -> Any:
        async with serving:
            return await ask()

    return asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - nothing else would say so
        await asyncio.sleep(0.001)


async def running(serving: MountedServer, count: int) -> None:
    """Wait until that many calls hold a slot."""
    await until(lambda: engine(serving).running == count)


def parts(serving: MountedServer) -> ServerParts:
    assert serving._run is not None
    return serving._run.parts


def engine(serving: MountedServer) -> Engine:
    return parts(serving).engine
