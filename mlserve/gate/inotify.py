"""Linux's inotify: what happens in one folder, as events."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from enum import IntFlag
from pathlib import Path
from typing import NamedTuple

from mlserve.errors import UsageError

_EVENT = struct.Struct("iIII")
"""struct inotify_event without its name: watch, mask, cookie, length of the name (inotify(7))."""
_READ_AT_ONCE = 2**16


class Mask(IntFlag):
    """The bits of inotify(7) that are used."""

    CLOSE_WRITE = 0x8
    MOVED_TO = 0x80
    CREATE = 0x100
    DELETE_SELF = 0x400
    MOVE_SELF = 0x800
    UNMOUNT = 0x2000
    OVERFLOW = 0x4000
    IGNORED = 0x8000
    ONLYDIR = 0x1000000

    GONE = DELETE_SELF | MOVE_SELF | UNMOUNT | IGNORED
    """The folder itself is gone, so that no more events come."""


_WANTED = (
    Mask.CLOSE_WRITE
    | Mask.MOVED_TO
    | Mask.CREATE
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
    | Mask.ONLYDIR
)


class Event(NamedTuple):
    """What happened, and to which file; the name is empty for the folder itself."""

    mask: Mask
    name: str


class Inotify:
    """The events of a folder, from when this is made. `fileno` is readable when there are some."""

    def __init__(self, folder: Path) -> None:
        if not sys.platform.startswith("linux"):
            raise UsageError(
                "--watch needs inotify, which only Linux has",
                hint="name the files on standard input: --stdin",
            )
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise _refused(folder)
        if libc.inotify_add_watch(self._fd, os.fsencode(folder), ctypes.c_uint32(_WANTED)) < 0:
            error = _refused(folder)
            os.close(self._fd)
            raise error

    def fileno(self) -> int:
        return self._fd

    def read(self) -> list[Event]:
        """Return the events that are there; none if there are none yet."""
        try:
            return list(_events(os.read(self._fd, _READ_AT_ONCE)))
        except BlockingIOError:
            return []

    def close(self) -> None:
        os.close(self._fd)


def _events(data: bytes) -> Iterator[Event]:
    at = 0
    while at < len(data):
        _, mask, _, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size
        name = data[at : at + length].rstrip(b"\0")
        at += length
        yield Event(Mask(mask), os.fsdecode(name))


def _refused(folder: Path) -> UsageError:
    reason = os.strerror(ctypes.get_errno())
    return UsageError(
        f"the folder {folder} cannot be watched: {reason}",
        hint="give an existing folder of a local file system; the limit on watches is in "
        "/proc/sys/fs/inotify",
    )
