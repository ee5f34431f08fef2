"""The files of one server's recording: written block by block, and the oldest of the folder go.

All files of the folder together keep below a limit, also those of earlier processes and of other
servers that record to it. A file that is being written to is never removed.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mlserve import __version__
from mlserve.recording import folder as folders
from mlserve.recording.segment import SegmentHeader

_PARTS = 16
"""A file has about this part of the limit, so that little is lost when the oldest one goes."""
_LARGEST_FILE = 16 * 2**20
_LARGEST_BODY = 8 * 2**20
_AT_ONCE = 4
"""How many parts of the limit the file that is written to may take: itself, a block beyond its
size, and the body and the answer of one request."""
LEAST_BYTES = 2**20
"""The smallest limit: below it not even one photo fits."""


@dataclass(frozen=True, slots=True)
class RingSizes:
    """What a limit in bytes means for the parts of a recording."""

    most: int

    @property
    def file(self) -> int:
        """The size from which on a file is full."""
        return min(_LARGEST_FILE, self.most // _PARTS)

    @property
    def block(self) -> int:
        """The size at which a block is written."""
        return min(2**20, self.file)

    @property
    def body(self) -> int:
        """The most bytes of a body, and of an answer, that are kept."""
        return min(_LARGEST_BODY, self.file)


class Ring:
    """The file that a process records to now, and those before it.

    All methods are for one thread and raise OSError. `clock` returns the seconds since `began`.
    """

    def __init__(
        self,
        folder: Path,
        most_bytes: int,
        *,
        began: float,
        share: float,
        clock: Callable[[], float],
    ) -> None:
        self.folder = folder
        self.sizes = RingSizes(most_bytes)
        self._clock = clock
        self._header = SegmentHeader(
            process=folders.process_name(),
            number=0,
            began=began,
            wall=began,
            offset=0.0,
            host=socket.gethostname(),
            pid=os.getpid(),
            share=share,
            mlserve=__version__,
        )
        self._path = folder
        self._descriptor = -1
        self._size = 0

    @property
    def is_due(self) -> bool:
        """Whether the next block belongs to a new file: this one is full, or somebody took it."""
        if self._descriptor < 0 or self._size >= self.sizes.file:
            return True
        return not folders.is_at(self._descriptor, self._path)

    def begin(self) -> None:
        """Begin a new file, once the oldest files have made room for it."""
        self.close()
        self._make_room()
        header = replace(
            self._header, number=self._header.number + 1, wall=time.time(), offset=self._clock()
        )
        self._path = self.folder / folders.segment_name(header.process, header.number)
        self._descriptor = folders.create(self._path)
        self._header, self._size = header, 0
        try:
            self.write(header.to_bytes())
        except OSError:
            self.close()
            with suppress(OSError):
                self._path.unlink()
            raise

    def write(self, data: bytes) -> None:
        """Append to the file: all of it, or nothing."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            try:
                os.ftruncate(self._descriptor, self._size)
            except OSError:  # a reader takes the rest for a torn block, and the next file begins
                self.close()
            raise
        self._size += len(data)

    def close(self) -> None:
        """Close the file, and so unlock it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)

    def _make_room(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = sorted(folders.segments_in(self.folder), key=lambda file: file.written)
        total = sum(file.size for file in found)
        room = self.sizes.most - _AT_ONCE * self.sizes.file
        for file in found:
            if total <= room:
                return
            if not folders.is_written(file.path):
                file.path.unlink(missing_ok=True)
                total -= file.size
