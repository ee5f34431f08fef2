"""Messages between the server and a runner process: a socket, and shared memory for what is large.

A message is a pickle in one packet of a UNIX socket. Large buffers in it (request bodies, answers)
travel beside it through a file in memory that both sides have open: one copy in, one copy out, no
limit on their size, and the socket never fills up. The two sides use that file in turns, as a
process does one thing at a time.

Both ends are the same program, run by the same user; nothing of a client is ever unpickled.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import struct
from typing import Any, NamedTuple

BOARD = 2**17
"""Bytes at the start of the shared file that both sides map, two for each call of a task.

At the call's place is the stage that it is in (`Work.enter`), and at `LEFT` and its place whether
its caller has left.
"""
LEFT = BOARD // 2
INLINE = 2**12
"""Buffers of fewer bytes stay in the pickle."""
LONG = 2**20
"""Bytes from which copying takes so long that an event loop should leave it to a thread."""
_LONGEST = 2**15
"""The longest pickle that goes into the packet itself, well below the socket's buffer."""
_MOST_BUFFERS = 2**12
"""The most buffers outside of a pickle: their sizes travel in the packet."""
_COUNT, _SIZE = struct.Struct("<I"), struct.Struct("<Q")
_PACKET = 2**18


class Packet(NamedTuple):
    """A message ready to travel: what goes into the socket, and the buffers beside it."""

    head: bytes
    buffers: tuple[memoryview, ...]

    @property
    def is_long(self) -> bool:
        """Whether writing its buffers would keep an event loop from other work."""
        return sum(buffer.nbytes for buffer in self.buffers) > LONG


class Note(NamedTuple):
    """A message that has arrived, while its buffers are still in the shared file."""

    pickled: bytes
    sizes: tuple[int, ...]

    @property
    def is_long(self) -> bool:
        """Whether reading its buffers would keep an event loop from other work."""
        return sum(self.sizes) > LONG


class Channel:
    """One end of the connection. `board` is shared memory of `BOARD` bytes, for single bytes."""

    def __init__(self, connection: socket.socket, memory: int) -> None:
        """Take over the socket and the descriptor of the shared file."""
        self.socket = connection
        self._memory = memory
        self.board = mmap.mmap(memory, BOARD)

    def send(self, message: object) -> None:
        """Pack, write and tell. Raises OSError when the other side is gone."""
        packet = pack(message)
        self.write(packet)
        self.tell(packet)

    def receive(self) -> Any:
        """Wait for a message and return it. Raises EOFError when the other side is gone."""
        return self.read(self.hear())

    def write(self, packet: Packet) -> None:
        """Copy the packet's buffers into the shared file; releases the interpreter meanwhile."""
        place = BOARD
        for buffer in packet.buffers:
            place = _write(self._memory, buffer, place)

    def tell(self, packet: Packet) -> None:
        """Send the packet's head, whose buffers are written."""
        self.socket.sendall(packet.head)

    def hear(self) -> Note:
        """Return the next message's head. Raises EOFError, and BlockingIOError if there is none."""
        try:
            packet = self.socket.recv(_PACKET)
        except ConnectionError:
            packet = b""
        if not packet:
            raise EOFError
        (count,) = _COUNT.unpack_from(packet)
        start = _COUNT.size + count * _SIZE.size
        sizes = tuple(size for (size,) in _SIZE.iter_unpack(packet[_COUNT.size : start]))
        return Note(packet[start:], sizes)

    def read(self, note: Note) -> Any:
        """Return the message, with its buffers copied out of the shared file."""
        place, buffers = BOARD, []
        for size in note.sizes:
            buffers.append(_read(self._memory, size, place))
            place += size
        if note.is_long:  # it is read: the file need not hold it any longer
            os.ftruncate(self._memory, BOARD)
        pickled = note.pickled or buffers.pop()
        return pickle.loads(pickled, buffers=buffers)  # noqa: S301 - the other side is this program

    def hang_up(self) -> None:
        """Close the socket alone, while a thread still copies; the other side sees the end."""
        self.socket.close()

    def close(self) -> None:
        """Close both ways. No thread may still copy: the descriptor may soon be another file's."""
        self.hang_up()
        self.board.close()
        os.close(self._memory)


def pair() -> tuple[Channel, socket.socket, int]:
    """Return one end, and the socket and the shared file's descriptor for the other.

    The caller passes the two on to the process and closes its own copy of the socket.
    """
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    memory = os.memfd_create("mlserve-runner")
    os.ftruncate(memory, BOARD)
    return Channel(here, memory), there, memory


def pack(message: object) -> Packet:
    """Pickle a message; buffers of at least `INLINE` bytes stay outside, uncopied."""
    buffers: list[memoryview] = []

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        is_small = raw.nbytes < INLINE or len(buffers) == _MOST_BUFFERS
        if not is_small:
            buffers.append(raw)
        return is_small

    pickled = pickle.dumps(message, protocol=5, buffer_callback=keep_inside)
    if len(pickled) > _LONGEST:
        buffers.append(memoryview(pickled))
        pickled = b""
    sizes = b"".join(_SIZE.pack(buffer.nbytes) for buffer in buffers)
    return Packet(_COUNT.pack(len(buffers)) + sizes + pickled, tuple(buffers))


def _write(memory: int, buffer: memoryview, place: int) -> int:
    while buffer.nbytes:
        written = os.pwrite(memory, buffer, place)
        place, buffer = place + written, buffer[written:]
    return place


def _read(memory: int, size: int, place: int) -> bytes:
    data = os.pread(memory, size, place)
    if len(data) == size:
        return data
    parts = [data]  # a read gives at most 2 GiB
    while (missing := size - sum(map(len, parts))) > 0:
        parts.append(os.pread(memory, missing, place + size - missing))
        if not parts[-1]:
            raise EOFError
    return b"".join(parts)
