"""One bound on the memory of all requests' bodies: on the way, unpacked, and being parsed.

A body is counted from its first byte until it has become the arrays that the model runs on, on
both ports and whatever its encoding. Where there is no room for more bytes, an upload that has
stalled gives way; where none has, who asks for room is refused and may come back.

Reading runs on a worker's thread in pieces of at most some milliseconds, so that the event loop
gets its turn in between: one long call into C would stop every connection and the health checks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from weakref import ReferenceType, ref

from mlserve.errors import InputTooLarge, Overloaded
from mlserve.settings import flag_of

STALLED = 1.0
"""Seconds without progress after which an unfinished upload gives way to others."""
PROGRESS = 16 * 2**10
"""Bytes that are progress: an upload that sends a byte now and then has stalled too."""
RETRY_AFTER = STALLED
"""Seconds after which it may be worth to come back: what stalls now has given way by then."""
PIECE = 64 * 2**10
"""Bytes or characters that are parsed, unpacked or copied at once: a few milliseconds at most."""


class BodyMemory:
    """The bytes that bodies hold, at most `most`; for use on any thread."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._held = 0
        self._uploads: dict[HeldBody, float] = {}
        """Bodies that are on their way, and when each last grew: the longest silent first."""

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self._held

    def enter(self, body: HeldBody) -> None:
        """What entering the `with` block of a body does."""
        with self._lock:
            body.users += 1

    def leave(self, body: HeldBody) -> None:
        """What leaving the `with` block of a body does."""
        with self._lock:
            body.users -= 1
            if not body.users:
                body.is_upload = False
                self._uploads.pop(body, None)
                self._forget(body)

    def open(self, give_way: Callable[[], None]) -> HeldBody:
        """A body that begins to arrive.

        `give_way` is called, on any thread, when it has stalled and its room was given to another:
        it must not block, and what has arrived of the body is to be let go of.
        """
        return HeldBody(self, give_way)

    def take(self, body: HeldBody, size: int) -> None:
        """What `HeldBody.take` does."""
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
        """The stalled uploads that have to give way, already uncounted.

        Raises Overloaded, and InputTooLarge where the body would not fit if it were alone.
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
        """What `HeldBody.finish` does."""
        with self._lock:
            body.is_upload = False
            self._uploads.pop(body, None)

    def release(self, body: HeldBody, size: int | None) -> None:
        """What `HeldBody.release` does."""
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
            retry_after=RETRY_AFTER,
            hint="try again, or send a smaller request",
        )


class HeldBody:
    """The memory of one body; leaving its last `with` block releases all of it.

    The request's task is in one such block, and the thread that reads the body in another: whoever
    is done last gives the memory back.
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
        """Counts that many bytes more, before they are allocated.

        Raises Overloaded, and InputTooLarge for what would not fit if it were alone.
        """
        self._memory.take(self, size)

    def finish(self) -> None:
        """Says that all of it has arrived: from now on it gives way to nobody."""
        self._memory.finish(self)

    def release(self, size: int | None = None) -> None:
        """Gives that many bytes back, or all that it holds."""
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
"""Weak: asyncio keeps the context of a cancelled timer until its time, long after the request."""


def hold(body: HeldBody) -> None:
    """Makes this the body of the running task: a port calls it before a request is read."""
    _HELD.set(ref(body))


def held_body() -> HeldBody | None:
    """The body of the running task, to count what is made of it; None outside of a request."""
    held = _HELD.get()
    return None if held is None else held()


class Room:
    """Room without bounds, for requests whose memory is bounded elsewhere."""

    def take(self, size: int) -> None:
        """Counts that many bytes before they are allocated. Raises Overloaded, InputTooLarge."""

    def require_time(self) -> None:
        """Raises DeadlineExceeded or Unavailable when nobody waits for the answer any more."""


UNBOUNDED = Room()
