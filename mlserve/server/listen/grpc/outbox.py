"""What a connection has to send: frames at once, messages as the caller's windows let them.

Answers that wait are counted with the bodies of requests, so that callers who do not read cannot
fill the memory: where others need the room, the one that has waited longest gives way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from weakref import ReferenceType, ref

from mlserve.errors import InputTooLarge, Overloaded
from mlserve.server.body_memory import PROGRESS, STALLED, BodyMemory, HeldBody
from mlserve.server.listen.grpc import frames, headers
from mlserve.server.listen.grpc.call import NO_CONTEXT, GrpcCall
from mlserve.server.listen.grpc.frames import ENHANCE_YOUR_CALM, ConnectionFault, Patience
from mlserve.server.listen.grpc.messages import PREFIX

_BATCH = 256 * 2**10
"""Bytes that are written at a time."""
_LARGEST_PART = 64 * 2**10
"""Bytes of a DATA frame: so many of one answer before one of another."""
_SIZEABLE = 2**10
_MOST_BUFFERED = 2**20
"""Bytes of frames that may wait for a caller who does not read them."""


class _Waiting:
    """The rest of an answer: a message behind its prefix, and the header block of the end."""

    __slots__ = ("__weakref__", "held", "lead", "left", "tail")

    def __init__(self, message: bytes | None, tail: bytes | None, held: HeldBody | None) -> None:
        self.lead = b"" if message is None else PREFIX.pack(0, len(message))
        self.left = memoryview(message or b"")
        self.tail = tail
        self.held = held

    @property
    def size(self) -> int:
        return len(self.lead) + len(self.left)


class Outbox:
    """Writes to one transport. `on_end` hears of each call whose last frame has been written."""

    def __init__(
        self,
        transport: asyncio.Transport,
        memory: BodyMemory,
        patience: Patience,
        on_end: Callable[[GrpcCall], None],
        give_up: Callable[[GrpcCall], None],
    ) -> None:
        self._transport = transport
        self._memory = memory
        self._patience = patience
        self._on_end = on_end
        self._give_up = give_up
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._size = 0
        self._is_flush_due = False
        self._waiting: dict[GrpcCall, _Waiting] = {}
        self._sent: dict[GrpcCall, asyncio.Future[None]] = {}
        self._first = headers.EMPTY_TABLE
        self._is_paused = False
        self._is_closed = False
        self.window = frames.DEFAULT_WINDOW
        self.stream_window = frames.DEFAULT_WINDOW
        self.max_frame = frames.DEFAULT_MAX_FRAME

    def write(self, data: bytes) -> None:
        """Sends whole frames, with all else that is sent in this turn of the event loop."""
        if self._is_closed:
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _BATCH:
            self.flush()
        elif not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Writes what there is."""
        self._is_flush_due = False
        if not self._parts:
            return
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Writes what there is, and nothing after that."""
        self.flush()
        self._is_closed = True

    def check(self) -> None:
        """Raises ConnectionFault for a caller who asks on and on and reads nothing."""
        if self._is_paused and self._transport.get_write_buffer_size() > _MOST_BUFFERED:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "the answers are not read")

    def send(
        self, call: GrpcCall, head: bytes | None, message: bytes | None, tail: bytes | None
    ) -> None:
        """Sends header blocks and a message, as far as the caller lets it."""
        if head is not None:
            self.write(self._headers(call, head, ends=False))
        waiting = self._waiting.get(call)
        if waiting is not None:  # the end of an answer whose last message still waits
            waiting.tail = tail
            return
        rest = _Waiting(message, tail, None)
        self._advance(call, rest)
        if rest.size:
            self._hold(call, rest)

    async def sent(self, call: GrpcCall) -> None:
        """Returns once no part of the call's answer waits."""
        if call in self._waiting:
            future = self._sent.setdefault(call, self._loop.create_future())
            await asyncio.shield(future)

    def drop(self, call: GrpcCall) -> None:
        """Sends nothing more of that call."""
        rest = self._waiting.pop(call, None)
        if rest is not None:
            self._let_go(call, rest)

    def pump(self) -> bool:
        """Sends what the connection's window lets through, a part of each answer in turn.

        Returns whether that was anything.
        """
        has_moved, moves = False, True
        while moves:
            moves = False
            for call in list(self._waiting):
                if self.window <= 0 or self._is_paused:
                    return has_moved
                if self.pump_one(call, _LARGEST_PART):
                    has_moved = moves = True
                    if call in self._waiting:  # its next turn comes after all others'
                        self._waiting[call] = self._waiting.pop(call)
        return has_moved

    def pump_one(self, call: GrpcCall, most: int = frames.LARGEST_WINDOW) -> bool:
        """Sends what the windows let through of one answer; whether that was anything."""
        rest = self._waiting.get(call)
        if rest is None:
            return False
        moved = self._advance(call, rest, most)
        if not rest.size:
            self.drop(call)
        return moved > 0

    def pause(self) -> None:
        """Holds messages back: the transport is full."""
        self._is_paused = True

    def resume(self) -> None:
        """The transport has room again."""
        self._is_paused = False
        self.pump()

    def _advance(self, call: GrpcCall, rest: _Waiting, most: int = frames.LARGEST_WINDOW) -> int:
        """Sends up to that many bytes, and the end where nothing is left; how many it were."""
        moved = 0
        while rest.size and moved < most:
            room = min(self.window, self.stream_window + call.credit, self.max_frame, _LARGEST_PART)
            if room <= 0 or self._is_paused:
                break
            moved += self._send_part(call, rest, room)
        if not rest.size and rest.tail is not None:
            self.write(self._headers(call, rest.tail, ends=True))
            self._on_end(call)
        elif moved and rest.held is not None:
            self._note_progress(rest.held, moved, rest.size)
        return moved

    def _send_part(self, call: GrpcCall, rest: _Waiting, room: int) -> int:
        lead, rest.lead = rest.lead[:room], rest.lead[room:]
        part = rest.left[: room - len(lead)]
        rest.left = rest.left[len(part) :]
        size = len(lead) + len(part)
        self.window -= size
        call.credit -= size
        if size >= _SIZEABLE:
            self._patience.earn(2)  # for the frames that widen the windows again
        self.write(b"".join((frames.data_head(size, call.stream), lead, part)))
        return size

    def _hold(self, call: GrpcCall, rest: _Waiting) -> None:
        self._waiting[call] = rest
        rest.held = self._memory.open(lambda: self._give_way(call))
        try:
            rest.held.take(rest.size)
        except (Overloaded, InputTooLarge):
            rest.held = None
            self._look_again(call, rest)

    def _look_again(self, call: GrpcCall, rest: _Waiting) -> None:
        waiting = ref(rest)  # the timer keeps no answer that has left
        self._loop.call_later(
            STALLED, self._check_progress, call, waiting, rest.size, context=NO_CONTEXT
        )

    def _check_progress(self, call: GrpcCall, waiting: ReferenceType[_Waiting], size: int) -> None:
        """Gives an answer up that found no room and stalls; one that is read may take its time."""
        rest = waiting()
        if rest is None or self._waiting.get(call) is not rest:
            return
        if size - rest.size < PROGRESS:  # a byte now and then is none, as with uploads
            self._give_up(call)
        else:
            self._look_again(call, rest)

    def _note_progress(self, held: HeldBody, moved: int, left: int) -> None:
        """Counts what is left, of which some is counted anew: so it has not stalled."""
        fresh = min(moved, left)
        held.release(moved + fresh)
        with suppress(Overloaded, InputTooLarge):  # it gives way already
            held.take(fresh)

    def _give_way(self, call: GrpcCall) -> None:
        with suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(self._give_up, call)

    def _let_go(self, call: GrpcCall, rest: _Waiting) -> None:
        if rest.held is not None:
            rest.held.finish()
            rest.held.release()
        sent = self._sent.pop(call, None)
        if sent is not None and not sent.done():
            sent.set_result(None)

    def _headers(self, call: GrpcCall, block: bytes, *, ends: bool) -> bytes:
        first, self._first = self._first, b""
        return frames.headers(call.stream, first + block, ends=ends)
