"""Send a connection's frames at once, and its messages as the caller's windows allow.

Waiting answers are counted with the bodies of requests, so that callers that do not read cannot
fill the memory: when others need room, the answer that has waited longest gives way.
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
"""Bytes after which frames are written without waiting for more."""
_LARGEST_PART = 64 * 2**10
"""Largest DATA frame in bytes; after one, the next answer has its turn."""
_SIZEABLE = 2**10
_MOST_BUFFERED = 2**20
"""Bytes of frames that may wait for a caller that does not read."""


class _Waiting:
    """The unsent rest of an answer: the message with its prefix, and the final header block."""

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
    """Write to one transport. `on_end` is called for each call when its last frame was written."""

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
        """Send whole frames, batched with everything else sent in this turn of the event loop."""
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
        """Write the batched frames."""
        self._is_flush_due = False
        if not self._parts:
            return
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Write the batched frames, and ignore later ones."""
        self.flush()
        self._is_closed = True

    def check(self) -> None:
        """Raise ConnectionFault for a caller that keeps asking but does not read."""
        if self._is_paused and self._transport.get_write_buffer_size() > _MOST_BUFFERED:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "the client does not read the answers")

    def send(
        self, call: GrpcCall, head: bytes | None, message: bytes | None, tail: bytes | None
    ) -> None:
        """Send header blocks and a message, as the caller's windows allow."""
        if head is not None:
            self.write(self._headers(call, head, ends=False))
        waiting = self._waiting.get(call)
        if waiting is not None:  # the tail of an answer whose last message is still waiting
            waiting.tail = tail
            return
        rest = _Waiting(message, tail, None)
        self._advance(call, rest)
        if rest.size:
            self._hold(call, rest)

    def refuse(self, stream: int, block: bytes, *, resets: bool) -> None:
        """End a stream with that block; with `resets`, have its client send no more of it."""
        first, self._first = self._first, b""
        end = frames.headers(stream, first + block, ends=True)
        self.write(end + frames.rst_stream(stream, frames.NO_ERROR) if resets else end)

    async def sent(self, call: GrpcCall) -> None:
        """Wait until no part of the call's answer is waiting."""
        if call in self._waiting:
            future = self._sent.setdefault(call, self._loop.create_future())
            await asyncio.shield(future)

    def drop(self, call: GrpcCall) -> None:
        """Discard the unsent answer of the call."""
        rest = self._waiting.pop(call, None)
        if rest is not None:
            self._let_go(call, rest)

    def pump(self) -> bool:
        """Send what the connection's window allows, a part of each answer in turn.

        Returns whether anything was sent.
        """
        has_moved, moves = False, True
        while moves:
            moves = False
            for call in list(self._waiting):
                if self.window <= 0 or self._is_paused:
                    return has_moved
                if self.pump_one(call, _LARGEST_PART):
                    has_moved = moves = True
                    if call in self._waiting:  # back to the end of the queue
                        self._waiting[call] = self._waiting.pop(call)
        return has_moved

    def pump_one(self, call: GrpcCall, most: int = frames.LARGEST_WINDOW) -> bool:
        """Send what the windows allow of one answer; return whether anything was sent."""
        rest = self._waiting.get(call)
        if rest is None:
            return False
        moved = self._advance(call, rest, most)
        if not rest.size:
            self.drop(call)
        return moved > 0

    def pause(self) -> None:
        """Hold messages back, as the transport is full."""
        self._is_paused = True

    def resume(self) -> None:
        """Continue sending, as the transport has room again."""
        self._is_paused = False
        self.pump()

    def _advance(self, call: GrpcCall, rest: _Waiting, most: int = frames.LARGEST_WINDOW) -> int:
        """Send up to `most` bytes, then the tail if nothing is left; return the bytes sent."""
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
            self._patience.earn(2)  # for the WINDOW_UPDATE frames that reopen the windows
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
        waiting = ref(rest)  # so that the timer does not keep a sent answer in memory
        self._loop.call_later(
            STALLED, self._check_progress, call, waiting, rest.size, context=NO_CONTEXT
        )

    def _check_progress(self, call: GrpcCall, waiting: ReferenceType[_Waiting], size: int) -> None:
        """Give up an uncounted answer that stalls; one that is being read may take its time."""
        rest = waiting()
        if rest is None or self._waiting.get(call) is not rest:
            return
        if size - rest.size < PROGRESS:  # as with uploads, a trickle of bytes is not progress
            self._give_up(call)
        else:
            self._look_again(call, rest)

    def _note_progress(self, held: HeldBody, moved: int, left: int) -> None:
        """Release what was sent, and count some of the rest anew, which marks progress."""
        fresh = min(moved, left)
        held.release(moved + fresh)
        with suppress(Overloaded, InputTooLarge):  # it is already giving way
            held.take(fresh)

    def _give_way(self, call: GrpcCall) -> None:
        with suppress(RuntimeError):  # the event loop is closed
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
