"""The files of one server's recording: written block by block, and the oldest of the folder go.

All files of the folder together keep below a limit, also those of earlier processes and of other
servers that record to it. A file that is being written to is never removed, so it counts as what it
may grow to.
"""

from __future__ import annotations

import errno
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

_PARTS = 15
"""A file has at most this part of the limit, so that little is lost when the oldest one goes."""
_LARGEST_FILE = 17 * 2**20
_PARTS_BODY = 32
"""A body has at most this part of the limit: a file takes one with its answer, and their heads."""
_LARGEST_BODY = 8 * 2**20
LEAST_BYTES = 2**20
"""The smallest limit: below it not even one photo fits."""


@dataclass(frozen=True, slots=True)
class RingSizes:
    """What a limit in bytes means for the parts of a recording."""

    most: int

    @property
    def file(self) -> int:
        """The most bytes of a file."""
        return min(_LARGEST_FILE, self.most // _PARTS)

    @property
    def block(self) -> int:
        """The size at which a block is written."""
        return min(2**20, self.file)

    @property
    def body(self) -> int:
        """The most bytes of a body, and of an answer, that are kept."""
        return min(_LARGEST_BODY, self.most // _PARTS_BODY)


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
    def room(self) -> int:
        """How many bytes the file still takes; 0 without one, or if somebody took it away."""
        if self._descriptor < 0 or not folders.is_at(self._descriptor, self._path):
            return 0
        return max(0, self.sizes.file - self._size)

    def begin(self) -> None:
        """Begin a new file, once the oldest files have made room for it."""
        self.close()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with folders.changing(self.folder):
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
        """Append to the file: all of it, or nothing. It is no longer than `room`."""
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
        """Remove the oldest files until one more fits, whatever those that are written grow to."""
        found = list(folders.segments_in(self.folder))
        written = [file for file in found if folders.is_written(file.path)]
        total = sum(max(file.size, self.sizes.file) for file in written)
        total += sum(file.size for file in found if file not in written)
        room = self.sizes.most - self.sizes.file
        for file in folders.oldest_first(found, time.time_ns()):
            if total <= room:
                return
            if file not in written:
                file.path.unlink(missing_ok=True)
                total -= file.size
        if total > room:
            told = f"other servers that record to it take its {self.sizes.most} bytes already"
            raise OSError(errno.EDQUOT, told)
