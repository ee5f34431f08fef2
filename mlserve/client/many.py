"""Ask about many things, some at once; the outcomes come in the order of what was asked.

What is asked is taken from its iterable only as there is room for it. On an event loop, outcomes
are given out while the next item is awaited; elsewhere the iterable may block.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Mapping,
)
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Generic, Protocol, TypeVar

from mlserve.client.answers import ServerLoad
from mlserve.deadline import is_count
from mlserve.errors import MlserveError, UsageError

Item = TypeVar("Item")
Answer = TypeVar("Answer")
F = TypeVar("F", bound="_Begun")
USUAL_PARALLEL = 4
"""Calls at once to a server that does not report its capacity."""
_MOST_PARALLEL = 64
_PER_SLOT = 4
"""Calls at once for each that the server runs at once: the slots stay busy, and others have room.
"""
_AHEAD = 4
"""Outcomes that wait for an earlier one, for each call at once."""


class _Begun(Protocol):
    def done(self) -> bool: ...


class Window(Generic[F]):
    """The calls whose outcomes have not been given out, in the order they began in."""

    def __init__(self, parallel: int) -> None:
        self.calls: deque[F] = deque()
        self._parallel = parallel

    @property
    def running(self) -> list[F]:
        return [call for call in self.calls if not call.done()]

    @property
    def is_ready(self) -> bool:
        """Whether the next outcome is there."""
        return bool(self.calls) and self.calls[0].done()

    @property
    def has_room(self) -> bool:
        """Whether another call may begin."""
        is_short = len(self.calls) < self._parallel * _AHEAD
        return is_short and len(self.running) < self._parallel


def capacity_of(load: ServerLoad | None) -> int:
    """Return how many calls to make at once: so many for each that the server runs at once."""
    return USUAL_PARALLEL if load is None else min(max(1, _PER_SLOT * load.slots), _MOST_PARALLEL)


def check_many(name: str, items: object, parallel: int | None) -> None:
    """Raise UsageError for what is one thing and not many, and for a wrong `parallel`."""
    if isinstance(items, str | bytes | bytearray | os.PathLike | Mapping) or not isinstance(
        items, Iterable | AsyncIterable
    ):
        raise UsageError(
            f"{name} takes an iterable of what to ask about, not {type(items).__name__}",
            hint=f"for a single one write {name}([...]), or {name.removesuffix('_many')}(...)",
        )
    if parallel is not None and not is_count(parallel):
        raise UsageError(
            f"parallel must be at least 1, not {parallel!r}", hint="give for example {parallel 4}"
        )


def outcomes(
    items: Iterable[Item], begin: Callable[[Item], Future[Answer]], parallel: Callable[[], int]
) -> Generator[Answer | MlserveError]:
    """Yield the outcome of each call that `begin` starts; an error of mlserve is one.

    An error of `items` is raised after the outcomes of what came before it. Closing the generator
    cancels what runs.
    """
    window, source = Window[Future[Answer]](parallel()), iter(items)
    failure: Exception | None = None
    is_over = False
    try:
        while window.calls or not is_over:
            if window.is_ready:
                yield _outcome(window.calls.popleft())
            elif is_over or not window.has_room:
                wait(window.running, return_when=FIRST_COMPLETED)
            else:
                try:
                    window.calls.append(begin(next(source)))
                except StopIteration:
                    is_over = True
                except Exception as error:  # noqa: BLE001  it is raised below
                    failure, is_over = error, True
        if failure is not None:
            raise failure
    finally:
        for call in window.calls:
            call.cancel()


async def async_outcomes(
    items: Iterable[Item] | AsyncIterable[Item],
    begin: Callable[[Item], asyncio.Task[Answer]],
    parallel: Callable[[], Any],
) -> AsyncGenerator[Answer | MlserveError]:
    """Yield what `outcomes` yields, on an event loop."""
    window, source = Window[asyncio.Task[Answer]](await parallel()), _async_iterator(items)
    coming: asyncio.Task[Item] | None = asyncio.ensure_future(_next(source))
    failure: Exception | None = None
    try:
        while window.calls or coming:
            if window.is_ready:
                yield _outcome(window.calls.popleft())
            elif coming and coming.done() and window.has_room:
                try:
                    window.calls.append(begin(coming.result()))
                    coming = asyncio.ensure_future(_next(source))
                except StopAsyncIteration:
                    coming = None
                except Exception as error:  # noqa: BLE001  it is raised below
                    failure, coming = error, None
            else:
                awaited = [coming] if coming and not coming.done() else []
                await asyncio.wait([*window.running, *awaited], return_when=asyncio.FIRST_COMPLETED)
        if failure is not None:
            raise failure
    finally:
        begun = [*window.calls, *([coming] if coming else [])]
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)


async def _next(source: AsyncIterator[Item]) -> Item:
    return await anext(source)


async def _async_iterator(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    for item in items:
        yield item


def _outcome(call: Any) -> Any:
    try:
        return call.result()
    except MlserveError as error:
        return error
