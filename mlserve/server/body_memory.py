"""Bound the memory of all request bodies together: arriving, decompressed, and being parsed.

A body is counted from its first byte until it has become the arrays that the model runs on, on
both ports and in any encoding. When there is no room for more bytes, stalled uploads give way; if
none has stalled, the request for room is refused and the client may retry.

Reading runs on a worker's thread in pieces of a few milliseconds, so that the event loop gets its
turn in between: one long call into C would stop every connection and the health checks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from weakref import ReferenceType, ref

from mlserve.errors import InputTooLarge, Overloaded
from mlserve.options import flag_of

STALLED = 1.0
"""Seconds without progress after which an unfinished upload gives way to others."""
PROGRESS = 16 * 2**10
"""Bytes that count as progress: an upload that trickles in has stalled too."""
RETRY_SECONDS = STALLED
"""Seconds after which a retry is worthwhile: what stalls now has given way by then."""
PIECE = 64 * 2**10
"""Bytes or characters parsed, decompressed or copied at once: a few milliseconds at most."""


class BodyMemory:
    """Counts the bytes that bodies hold, at most `most`; safe on any thread."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._held = 0
        self._uploads: dict[HeldBody, float] = {}
        """Bodies still arriving, and when each last made progress; the longest-silent first."""

    @property
    def held(self) -> int:
        """The bytes held now."""
        return self._held

    def enter(self, body: HeldBody) -> None:
        """Count a user of the body: see `HeldBody.__enter__`."""
        with self._lock:
            body.users += 1

    def leave(self, body: HeldBody) -> None:
        """Drop a user of the body; the last one releases its memory."""
        with self._lock:
            body.users -= 1
            if not body.users:
                body.is_upload = False
                self._uploads.pop(body, None)
                self._forget(body)

    def open(self, give_way: Callable[[], None]) -> HeldBody:
        """Return a new, empty body that is about to arrive.

        `give_way` is called, on any thread, when the body has stalled and its room was given to
        another: it must not block, and must see that the data received so far is released.
        """
        return HeldBody(self, give_way)

    def take(self, body: HeldBody, size: int) -> None:
        """Count more bytes of a body: see `HeldBody.take`."""
        with self._lock:
            stalled = self._make_room(body, size)
            self._held += size
            body.size += size
            if body.is_upload:
                self._note_progress(body, size)
        for given in stalled:
            given.give_way()

    def _note_progress(self, body: HeldBody, size: int) -> None:
        body.since_progress += size
        if body not in self._uploads or body.since_progress >= PROGRESS:
            self._uploads.pop(body, None)
            self._uploads[body] = self._clock()
            body.since_progress = 0

    def _make_room(self, body: HeldBody, size: int) -> list[HeldBody]:
        """Return the stalled uploads that have to give way, already uncounted.

        Raises Overloaded, and InputTooLarge if the body would not fit even alone.
        """
        if body.has_given_way:
            raise self._no_room(size)
        if body.size + size > self.most:
            raise InputTooLarge(
                f"the request takes more memory to read than the {self.most} bytes of this server "
                f"({flag_of('max_body_memory')})",
                hint="send several smaller requests, or numbers in binary form",
            )
        missing = self._held + size - self.most
        stalled, since = [], self._clock() - STALLED
        for upload, grew_at in self._uploads.items():
            if missing <= 0 or grew_at > since:
                break
            if upload is not body:
                stalled.append(upload)
                missing -= upload.size
        if missing > 0:
            raise self._no_room(size)
        for upload in stalled:
            upload.has_given_way = True
            self._forget(upload)
        return stalled

    def finish(self, body: HeldBody) -> None:
        """End the upload of a body: see `HeldBody.finish`."""
        with self._lock:
            body.is_upload = False
            self._uploads.pop(body, None)

    def release(self, body: HeldBody, size: int | None) -> None:
        """Uncount bytes of a body: see `HeldBody.release`."""
        with self._lock:
            self._forget(body, size)

    def _forget(self, body: HeldBody, size: int | None = None) -> None:
        size = body.size if size is None else min(size, body.size)
        self._held -= size
        body.size -= size
        if not body.size:
            self._uploads.pop(body, None)

    def _no_room(self, size: int) -> Overloaded:
        return Overloaded(
            f"no room for {size} bytes of a request: the requests in flight hold {self._held} of "
            f"{self.most} bytes ({flag_of('max_body_memory')})",
            retry_after=RETRY_SECONDS,
            hint="try again, or send a smaller request",
        )


class HeldBody:
    """The memory of one body; leaving its last `with` block releases all of it.

    The request's task is in one such block and the thread that reads the body in another: the last
    to finish releases the memory.
    """

    def __init__(self, memory: BodyMemory, give_way: Callable[[], None]) -> None:
        self._memory = memory
        self.give_way = give_way
        self.size = 0
        self.since_progress = 0
        self.users = 0
        self.is_upload = True
        self.has_given_way = False

    def take(self, size: int) -> None:
        """Count `size` more bytes, before they are allocated.

        Raises Overloaded, and InputTooLarge if the body would not fit even alone.
        """
        self._memory.take(self, size)

    def finish(self) -> None:
        """Note that the body has arrived completely; from now on it does not give way."""
        self._memory.finish(self)

    def release(self, size: int | None = None) -> None:
        """Release `size` bytes, or all that it holds."""
        self._memory.release(self, size)

    def __enter__(self) -> HeldBody:
        self._memory.enter(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._memory.leave(self)


_HELD: ContextVar[ReferenceType[HeldBody] | None] = ContextVar("mlserve_held_body", default=None)
"""Weak: asyncio keeps a cancelled timer's context until it would fire, long after the request."""


def hold(body: HeldBody) -> None:
    """Make this the body of the running task; ports call it before a request is read."""
    _HELD.set(ref(body))


def held_body() -> HeldBody | None:
    """Return the body of the running task, to count what is made of it; None without a request."""
    held = _HELD.get()
    return None if held is None else held()


class Room:
    """The memory and time for reading a request. This base class has no bounds."""

    def take(self, size: int) -> None:
        """Count bytes before they are allocated. Raises Overloaded and InputTooLarge."""

    def give_back(self, size: int) -> None:
        """Uncount bytes that are held no more."""

    def require_time(self) -> None:
        """Raise DeadlineExceeded or Unavailable once no one waits for the answer any more."""


UNBOUNDED = Room()
