"""The requests in flight, and which of them a server that stops still answers.

A request is in flight from the moment its head has been read until its answer was handed to the
port. When the drain begins, those in flight are kept: they are answered as if nothing had happened,
also when their body is still on its way. A request that comes later is refused with Unavailable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send  # noqa: TID253

from mlserve.server.port.last_words import respond_and_close

_CLOSE = (b"connection", b"close")


class Taken:
    """A request that has arrived. `is_kept` is True when it came before the drain began."""

    def __init__(self) -> None:
        self.is_kept = False


_CURRENT: ContextVar[Taken | None] = ContextVar("mlserve_request_in_flight", default=None)


def is_kept() -> bool:
    """Whether the running task's request was in flight when the drain began."""
    taken = _CURRENT.get()
    return taken is not None and taken.is_kept


class InFlight:
    """Counts the requests of both ports; used on the event loop's thread only."""

    def __init__(self) -> None:
        self._taken: set[Taken] = set()
        self._kept: set[Taken] = set()
        self._is_done = asyncio.Event()
        self.is_draining = False

    @property
    def unfinished(self) -> int:
        """The kept requests that have no answer yet; before the drain, all that have none."""
        return len(self._kept if self.is_draining else self._taken)

    def take(self) -> Taken:
        """Counts a request, which is the running context's from here on."""
        taken = Taken()
        _CURRENT.set(taken)
        self._taken.add(taken)
        return taken

    def answered(self, taken: Taken) -> None:
        """Counts it no more."""
        self._taken.discard(taken)
        self._kept.discard(taken)
        self._note_done()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts the running task's request for as long as the block runs."""
        taken = self.take()
        try:
            yield
        finally:
            self.answered(taken)

    def begin_drain(self) -> None:
        """Keeps the requests in flight now; the others are none of the drain's business."""
        self.is_draining = True
        self._kept = set(self._taken)
        for taken in self._kept:
            taken.is_kept = True
        self._note_done()

    async def wait_done(self, seconds: float) -> bool:
        """Whether every kept request was answered, as soon as that is so or the time is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._is_done.wait()
        except TimeoutError:
            return False
        return True

    def _note_done(self) -> None:
        if self.is_draining and not self._kept:
            self._is_done.set()


class CountedApp:
    """An ASGI application whose requests are counted.

    During the drain its connections are closed after each answer, so that a client, or the balancer
    before it, turns to another server.
    """

    def __init__(self, app: ASGIApp, in_flight: InFlight) -> None:
        self._app = app
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if self._in_flight.is_draining and message["type"] == "http.response.start":
                headers = [pair for pair in message.get("headers", ()) if pair[0] != _CLOSE[0]]
                message = {**message, "headers": [*headers, _CLOSE]}
            await send(message)

        with self._in_flight.request():
            if self._in_flight.is_draining:  # it is refused, and its body is not read
                await respond_and_close(self._app, scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
