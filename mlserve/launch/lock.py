"""The lock that makes one `up` at a time choose ports, start a process and record it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from mlserve import paths
from mlserve.launch.state import unwritable


@contextmanager
def state_lock() -> Iterator[None]:
    """Holds the lock of the state folder; the system lets go of it when the process ends.

    Raises UsageError when the folder cannot be written.
    """
    path = paths.state_dir() / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise unwritable(path.parent, error) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
