"""The lock that makes one `up` at a time choose ports, start a process and record it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from mlserve import paths
from mlserve.errors import Unavailable
from mlserve.launch.private import open_own, state_folder
from mlserve.launch.state import unwritable

_PATIENCE = 10.0
"""Seconds for a command that has no limit of its own."""
_PAUSE = 0.02


@contextmanager
def state_lock(within: float = _PATIENCE) -> Iterator[None]:
    """Holds the lock of the state folder; the system lets go of it when the process ends.

    It is tried for `within` seconds. A signal interrupts that, as its handler says. Raises
    Unavailable when another command keeps it, UsageError when the folder cannot be written or the
    lock is another file's.
    """
    path = paths.state_dir() / "lock"
    try:
        file = open_own(state_folder() / path.name, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise unwritable(path.parent, error) from error
    with file:
        _take(file, within)
        yield


def _take(file: IO[bytes], within: float) -> None:
    """Tries again and again: a `flock` that waits knows no limit."""
    give_up = time.monotonic() + within
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= give_up:
                raise Unavailable(
                    f"another mlserve command is starting or stopping a server, and has held "
                    f"{file.name} for {within:g} s",
                    hint="try again when it has ended",
                ) from error
            time.sleep(_PAUSE)
        else:
            return
