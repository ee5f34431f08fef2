"""One gRPC call: receive its messages, send its answer, and end it exactly once."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from mlserve.errors import MlserveError, Overloaded
from mlserve.server.body_memory import BodyMemory, HeldBody, hold
from mlserve.server.errors import error_text
from mlserve.server.listen.grpc import headers
from mlserve.server.listen.grpc.frames import FIRST_WINDOW
from mlserve.server.listen.grpc.headers import Head
from mlserve.server.listen.grpc.messages import MessageReader
from mlserve.server.listen.grpc.status import GrpcStatus, Metadata
from mlserve.server.peer import UNKNOWN_PEER, Peer
from mlserve.wire.status import grpc_status

NO_CONTEXT = contextvars.Context()
"""The context of timers, so that a cancelled one does not keep the request's body.

asyncio keeps a cancelled timer until it would have fired, and with it the context in which it was
created, which refers to the body.
"""
_WIDEST = 2**30
"""The widest window of a call, in bytes; HTTP/2 allows less than 2^31."""
_BARE_CALL = 4 * 2**10
"""Approximate bytes of memory that a call takes, without its headers."""
_log = logging.getLogger(__name__)


class Context:
    """One call as its method sees it.

    `path` is `/<service>/<method>`, `address` the peer's IP address, empty for a UNIX socket, and
    `peer` what the kernel knows of the client.
    """

    __slots__ = (
        *("_metadata", "address", "deadline", "initial"),
        *("path", "peer", "token", "trailing"),
    )

    def __init__(self, head: Head, address: str = "", peer: Peer = UNKNOWN_PEER) -> None:
        self.path = head.path
        self.address = address
        self.peer = peer
        self.token = ""
        """The name of the caller's token, once it has been checked."""
        self.deadline = None
        if head.timeout is not None:
            self.deadline = time.monotonic() - peer.waited() + head.timeout
        """When the caller stops waiting, on the monotonic clock; None for never."""
        self.initial: Metadata = ()
        self.trailing: Metadata = ()
        self._metadata = head.metadata

    def time_remaining(self) -> float | None:
        """Return the seconds until the call's deadline, at least 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Return the caller's metadata; values of `-bin` keys are bytes."""
        return self._metadata

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        """Set the initial metadata; it is sent with the first message."""
        self.initial = metadata

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Set the trailing metadata of the answer."""
        self.trailing = metadata


class Link(Protocol):
    """The part of a connection that a call uses."""

    def send(
        self, call: GrpcCall, head: bytes | None, message: bytes | None, tail: bytes | None
    ) -> None:
        """Send the head, the message and the tail, as the caller's windows allow.

        Head and tail are header blocks; a tail ends the call's stream.
        """

    async def sent(self, call: GrpcCall) -> None:
        """Wait until everything sent for the call so far has left."""

    def grant(self, call: GrpcCall, size: int) -> None:
        """Let the caller send that many more bytes."""

    def note_work(self, call: GrpcCall, *, has_begun: bool) -> None:
        """Note that the call's method has begun to run, or has ended."""


class GrpcCall:
    """A call whose headers have been read.

    `window` is how many bytes its caller may still send, `credit` how many it may be sent beyond
    the initial window of streams; the connection maintains both.
    """

    def __init__(
        self, stream: int, head: Head, link: Link, address: str = "", peer: Peer = UNKNOWN_PEER
    ) -> None:
        self.stream = stream
        self.context = Context(head, address, peer)
        self.window = FIRST_WINDOW
        self.credit = 0
        self.has_ended = False
        """Whether the caller has sent everything."""
        self.is_over = False
        self.encoding = head.encoding
        self.size = _BARE_CALL + head.size
        """Approximate bytes of memory that it takes, without its messages."""
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._reader: MessageReader | None = None
        self._body: HeldBody | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._has_begun = False
        self._is_at_work = False
        self._at_end: Callable[[], None] | None = None

    def begin(
        self,
        work: Coroutine[Any, Any, None],
        at_end: Callable[[], None] | None = None,
    ) -> None:
        """Run `work`, which serves the call, then `at_end`, even if `work` never started."""
        self._at_end = at_end
        self._task = self._loop.create_task(work)
        self._task.add_done_callback(self._on_done)
        left = self.context.time_remaining()
        if left is not None:
            self._timer = self._loop.call_later(left, self._on_deadline, context=NO_CONTEXT)

    def take_messages(self, most: int, limit_name: str, memory: BodyMemory | None) -> None:
        """Accept messages of up to `most` bytes; count the call and them in `memory`, if given.

        Raises Overloaded if there is no room for another call.
        """
        if memory is not None:
            body = memory.open(self._give_way)
            body.take(self.size)
            self._body = body
            body.__enter__()  # until `_let_go`
            hold(body)
        self._reader = MessageReader(most, limit_name, self.encoding, self._body)

    def feed(self, data: memoryview) -> None:
        """Take a part of the caller's data."""
        reader = self._reader
        if self.is_over or self._error is not None or reader is None:
            return
        try:
            reader.feed(data)
        except (GrpcStatus, MlserveError) as error:
            self._fail(error)
            return
        wanted = min(reader.missing, _WIDEST)
        if wanted > self.window:
            self._link.grant(self, wanted - self.window)
        if reader.ready:
            self._wake()

    def end_of_messages(self) -> None:
        """Note that the caller has sent everything."""
        self.has_ended = True
        self._wake()

    async def receive(self) -> bytes | None:
        """Return the next message; None after the last. Raises GrpcStatus and Overloaded."""
        reader = self._reader
        assert reader is not None, "`takes` was not called"
        while not reader.ready and not self.has_ended and self._error is None:
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._error is not None:
            raise self._error
        if not reader.ready:
            if not reader.is_between_messages:
                raise GrpcStatus("INTERNAL", "the call ended in the middle of a message")
            return None
        message = await reader.take()
        if not self.has_ended and self.window < FIRST_WINDOW // 2:
            self._link.grant(self, FIRST_WINDOW - self.window)
        return message

    async def only_message(self) -> bytes:
        """Return the message of a call with exactly one. Raises GrpcStatus and Overloaded."""
        message = await self.receive()
        if message is None:
            raise GrpcStatus("UNIMPLEMENTED", "the call has no message; this method takes one")
        if await self.receive() is not None:
            raise GrpcStatus(
                "UNIMPLEMENTED", "the call has several messages; this method takes one"
            )
        if self._body is not None:
            self._body.finish()
        return message

    def begin_work(self) -> None:
        """Note that its method runs; until the answer, its connection will not give way."""
        if not self.is_over:
            self._is_at_work = True
            self._link.note_work(self, has_begun=True)

    async def write(self, message: bytes) -> None:
        """Send one of several messages, once earlier ones have left."""
        await self._link.sent(self)
        if not self.is_over:
            self._link.send(self, self._head(), message, None)

    def answer(self, message: bytes) -> None:
        """Send the only message of the answer, and end the call."""
        if self.is_over:
            return
        tail = headers.trailing("OK", "", self.context.trailing)
        head = self._head()
        self._settle()
        self._link.send(self, head, message, tail)

    def end(self, code: str = "OK", text: str = "", trailing: Metadata = ()) -> None:
        """End the call with that status."""
        if self.is_over:
            return
        tail = headers.trailing(code, text, trailing or self.context.trailing)
        self._settle()
        if not self._has_begun:
            tail = headers.initial(self.context.initial) + tail
        self._link.send(self, None, None, tail)

    def cut_short(self, code: str, text: str) -> None:
        """End the call with that status, and cancel the work for it."""
        self.end(code, text)
        self._cancel()

    def abandon(self) -> None:
        """End the call without a status, as its caller is gone, and cancel the work for it."""
        self._settle()
        self._cancel()

    def drop(self) -> None:
        """Release what a call holds that was refused before it began."""
        self.is_over = True
        self._let_go()

    def _head(self) -> bytes | None:
        if self._has_begun:
            return None
        self._has_begun = True
        return headers.initial(self.context.initial)

    def _settle(self) -> None:
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._is_at_work:
            self._is_at_work = False
            self._link.note_work(self, has_begun=False)

    def _let_go(self) -> None:
        """Release the caller's data and the memory counted for it."""
        body, self._body = self._body, None
        if body is not None:
            body.__exit__(None, None, None)
        if self._reader is not None:
            self._reader.drop()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _on_deadline(self) -> None:
        self.cut_short("DEADLINE_EXCEEDED", "Deadline Exceeded")

    def _give_way(self) -> None:
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(
                self._fail,
                Overloaded("the upload stalled, so its memory was given to another request"),
            )

    def _fail(self, error: Exception) -> None:
        """Stop taking the caller's data, and raise the error where a message is awaited."""
        self._error = error.with_traceback(None)  # the frames of its traceback hold the data
        if self._reader is not None:
            self._reader.drop()
        if self._body is not None:
            self._body.release()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._let_go()
        error = None if task.cancelled() else task.exception()
        if task.cancelled():
            self.end("CANCELLED", "the call was cancelled")
        elif error is None:
            self.end()
        elif isinstance(error, GrpcStatus):
            self.end(error.code, error.text, error.trailing)
        elif isinstance(error, MlserveError):
            self.end(grpc_status(error), error_text(error))
        else:
            _log.error("a call to %s failed", self.context.path[:200], exc_info=error)
            self.end("INTERNAL", "internal error; the server's log has the details")
        self._task = self._error = None
        if self._at_end is not None:
            self._at_end()


Accept = Callable[[GrpcCall], None]
"""Has a call take its messages. Raises Overloaded if there is no room for another call."""


@dataclass(frozen=True, slots=True)
class PlainMethod:
    """A method with small messages, whose calls do not appear in the metrics."""

    serve: Callable[[GrpcCall], Coroutine[Any, Any, None]]
    most_bytes: int
    needs_token: bool
    route: None = None

    def begin(self, call: GrpcCall, accept: Accept) -> None:
        """Run the method's coroutine. Raises Overloaded."""
        accept(call)
        call.begin(self.serve(call))
