"""A folder of recordings: its files, who may read them, and which are being written.

Several servers may write to one folder. Each process has files of its own, whose names begin with
when it started, its process id and four digits of chance; it holds a lock on the one that it writes
to.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mlserve.errors import NotFound, UsageError

SUFFIX = ".mlrec"
_NAME = re.compile(r"(?P<process>\d{8}T\d{6}Z-\d+-[0-9a-f]{4})\.(?P<number>\d{6,})\.mlrec")
_FOLDER, _FILE = 0o700, 0o600
_OTHERS = 0o077
_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """A file of a recording; `number` counts those of its process. `written` is its age's order."""

    path: Path
    process: str
    number: int
    size: int
    written: int


def process_name() -> str:
    """Return a name that no other process of a server has: when it began, its id, and chance."""
    began = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return f"{began}-{os.getpid()}-{secrets.token_hex(2)}"


def segment_name(process: str, number: int) -> str:
    """Return the name of a process's file of that number."""
    return f"{process}.{number:06}{SUFFIX}"


def require_writable(folder: Path) -> None:
    """Raise UsageError for a folder in which nothing can be recorded. Makes nothing.

    `mlserve up` calls it before it starts a server, so that the error reaches the terminal.
    """
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        what = f"{there} is not a folder" if there.exists() else f"{there} leads nowhere"
        raise _not_recordable(folder, what)
    if not os.access(there, os.W_OK | os.X_OK):
        raise _not_recordable(folder, f"this user may not write to {there}")


def prepare(folder: Path) -> str | None:
    """Make the folder, for this user alone, and return what else is to be said of it.

    One that is there is closed to other users if it is this user's and holds nothing but
    recordings. Raises UsageError if nothing can be written to it, but not for a disk that is full:
    there may be room later.
    """
    try:
        folder.mkdir(mode=_FOLDER, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".mlserve-"):
            pass
        return _close_to_others(folder)
    except OSError as error:
        if error.errno in _FULL:
            return f"{folder} has no room for a recording now: {error.strerror}"
        raise _not_recordable(folder, error.strerror or str(error)) from error


def _close_to_others(folder: Path) -> str | None:
    found = folder.stat()
    if not stat.S_IMODE(found.st_mode) & _OTHERS:
        return None
    is_ours = all(_NAME.fullmatch(path.name) for path in folder.iterdir())
    if is_ours and found.st_uid == os.geteuid():
        folder.chmod(_FOLDER)
        return None
    return (
        f"other users may list {folder}, which holds more than recordings; the recordings "
        "themselves are readable by this user alone"
    )


def _not_recordable(folder: Path, why: str) -> UsageError:
    return UsageError(
        f"{folder} (--record) cannot be written: {why}",
        hint="give a folder that this user may write to; it is made if it is not there",
    )


def create(path: Path) -> int:
    """Create a file that only this user can read, lock it, and return its descriptor.

    Raises OSError, also for a file that is there.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, _FILE)
    try:
        fcntl.flock(
            descriptor, fcntl.LOCK_EX
        )  # at once: only `is_written` may have it, for a moment
    except OSError:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Let no other server remove or begin files in the folder meanwhile. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def oldest_first(files: Sequence[SegmentFile], now: int) -> Iterator[SegmentFile]:
    """Yield the files by their age; `now` is the wall clock's time in nanoseconds.

    Those of a process come in their order, also after its clock has been set back. A file of later
    than now is from before that, so it is older than any from after it.
    """
    left: dict[str, deque[SegmentFile]] = {}
    for file in sorted(files, key=lambda file: (file.process, file.number)):
        left.setdefault(file.process, deque()).append(file)
    while left:
        name = min(left, key=lambda each: (left[each][0].written <= now, left[each][0].written))
        yield left[name].popleft()
        if not left[name]:
            del left[name]


def is_at(descriptor: int, path: Path) -> bool:
    """Return whether the open file is still the one of that name."""
    try:
        named = path.lstat()
    except OSError:
        return False
    own = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino)


def is_written(path: Path) -> bool:
    """Return whether a server has the file open to write to it."""
    try:
        descriptor = os.open(path, _READ_ONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def segments_in(folder: Path) -> list[SegmentFile]:
    """Return the files of recordings in a folder: of each process in order. Raises OSError."""
    return sorted(_segments(folder), key=lambda file: (file.process, file.number))


def _segments(folder: Path) -> Iterator[SegmentFile]:
    for path in folder.iterdir():
        found = _NAME.fullmatch(path.name)
        if found is None:
            continue
        with suppress(FileNotFoundError):  # its server has just let it go
            about = path.lstat()
            if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for without end
                continue
            number = int(found["number"])
            yield SegmentFile(path, found["process"], number, about.st_size, about.st_mtime_ns)


def require_recording(folder: Path) -> list[SegmentFile]:
    """Return the files of a folder's recordings. Raises NotFound if there are none, UsageError."""
    hint = "give the folder that `mlserve up --record DIR` wrote to"
    if not folder.is_dir():
        what = "is a file, not a folder of recordings" if folder.exists() else "is not there"
        raise NotFound(f"{folder} {what}", hint=hint)
    try:
        found = segments_in(folder)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be read: {error.strerror or error}",
            hint="recordings are readable by the user of their server alone",
        ) from error
    if not found:
        raise NotFound(f"{folder} holds no recording (*{SUFFIX})", hint=hint)
    return found
