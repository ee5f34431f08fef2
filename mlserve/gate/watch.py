"""A camera's folder: each file once, in the order in which they are completely written.

A file counts as written when it is closed by its writer or renamed into the folder. Files that were
there before are looked at too: whether somebody still writes to one, a lease on it tells.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import select
import signal
import stat
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mlserve.errors import Unavailable, UsageError
from mlserve.gate.inotify import Event, Inotify, Mask

SUFFIXES = (".jpg", ".jpeg", ".png")
_PAUSES = (0.0002, 0.001, 0.003)
"""Seconds between the looks whether a file that was just closed is let go of."""
_SETTLED = 2.0
"""Seconds without a change after which a file counts as written where there are no leases, and
after which a file that was not written completely is looked at again."""
_LOOK_EVERY = 1.0
"""Seconds after which it is looked whether the folder is still there: no event tells that while it
is open here."""
_MOST_KNOWN = 100_000


class FileId(NamedTuple):
    """Which file it is, and which content of it; a new name does not make a new file."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileId:
        return cls(found.st_ino, found.st_size, found.st_mtime_ns)


class Found(NamedTuple):
    """A file that is completely written. `changed_at` is the time of that, in seconds (Unix).

    `since` is one at which it was not yet as it is now, or just became so.
    """

    path: Path
    id: FileId
    changed_at: float
    since: float


class FolderWatch:
    """The files of a folder, not of those below it. Raises UsageError if it cannot be watched.

    Only one process at a time can watch a folder. Hidden files, and those without the suffix of an
    image, are passed over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._inotify = Inotify(folder)
        self._lock = _locked(folder)
        self._decided: dict[int, FileId] = {}
        self._waiting: deque[str] = deque()
        self._unsettled: dict[str, tuple[FileId, float]] = {}
        """Files to look at again: which it was, and when (monotonic); -inf if it is waiting."""
        self._most_known = _MOST_KNOWN
        self._wakened, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._is_ended = False
        # While a lease is tried, a writer may come: its signal would end the process. It is not
        # ignored, as the programs that are started here would inherit that.
        signal.signal(signal.SIGIO, lambda *_: None)

    def present(self) -> dict[FileId, float]:
        """Return the files that are in the folder now, written or not, and their `Found.since`."""
        found = map(self._look, self._names())
        return {each.id: each.since for each in found if each is not None}

    def know(self, decided: FileId) -> None:
        """Never yield that file."""
        self._decided[decided.inode] = decided
        if len(self._decided) > self._most_known:
            there = {each.inode for each in self.present()}
            self._decided = {i: each for i, each in self._decided.items() if i in there}
            self._most_known = max(_MOST_KNOWN, 2 * len(self._decided))

    def end(self) -> None:
        """Let `files` end after the file that it yielded last; may be called by a signal."""
        self._is_ended = True
        with suppress(OSError):
            os.write(self._wake, b"\0")

    def files(self) -> Iterator[Found]:
        """Yield each file once, until `end` is called. Raises Unavailable if the folder is gone.

        A file that was yielded counts as decided only once `know` is told so before the next: if
        not, it is looked at again.
        """
        self._waiting.extend(self._names())
        while not self._is_ended:
            self._waiting.extend(self._settled())
            if not self._waiting:
                self._wait()
                continue
            found = self._complete(self._waiting.popleft())
            if found is None:
                continue
            yield found
            if self._decided.get(found.id.inode) != found.id:
                self._look_again(found)

    def close(self) -> None:
        self._inotify.close()
        for fd in (self._lock, self._wakened, self._wake):
            os.close(fd)

    def _names(self) -> list[str]:
        """Return the names of the images in the folder, the one first that was written first."""
        try:
            with os.scandir(self.folder) as entries:
                names = [entry.name for entry in entries if _is_wanted(entry.name)]
        except OSError as error:
            raise self._gone() from error
        times = {name: each for name in names if (each := self._look(name)) is not None}
        return sorted(times, key=lambda name: (times[name].id.mtime_ns, name))

    def _look(self, name: str) -> Found | None:
        """Return a file as it is now; None for what is not a file, or not any more."""
        path = self.folder / name
        try:
            found = path.stat()
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        times = found.st_mtime, found.st_ctime
        return Found(path, FileId.of(found), max(times), min(times))

    def _wait(self) -> None:
        """Wait for events, or until a file has settled, or for the end, and not for long."""
        ready = select.poll()
        ready.register(self._inotify.fileno(), select.POLLIN)
        ready.register(self._wakened, select.POLLIN)
        due = min((due for _, due in self._unsettled.values()), default=math.inf)
        ready.poll(max(0.0, min(due - time.monotonic(), _LOOK_EVERY)) * 1000)
        events = self._inotify.read()
        for event in events:
            self._take(event)
        if not events and not self._is_there():
            raise self._gone()

    def _is_there(self) -> bool:
        try:
            named, own = self.folder.stat(), os.fstat(self._lock)
        except OSError:
            return False
        return (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino)

    def _gone(self) -> Unavailable:
        return Unavailable(
            f"the folder {self.folder} is gone: no more files can come",
            hint="make or mount it again, and start the gate again",
        )

    def _take(self, event: Event) -> None:
        if event.mask & Mask.GONE:
            raise self._gone()
        if event.mask & Mask.OVERFLOW:  # events were lost, but the files are there
            self._waiting.extend(self._names())
        elif _is_wanted(event.name) and (
            event.mask & (Mask.CLOSE_WRITE | Mask.MOVED_TO) or self._is_link(event.name)
        ):
            self._waiting.append(event.name)

    def _is_link(self, name: str) -> bool:
        """Return whether a name that is new stands for a file that was there before."""
        path = self.folder / name
        with suppress(OSError):
            found = path.lstat()
            return stat.S_ISLNK(found.st_mode) or found.st_nlink > 1
        return False

    def _complete(self, name: str) -> Found | None:
        """Return a file if it is completely written and not decided yet."""
        found = self._look(name)
        before, due = self._unsettled.pop(name, (None, math.inf))
        if found is None or self._decided.get(found.id.inode) == found.id:
            return None
        is_written = _is_written(found)
        age = 0.0
        if is_written is None:  # the file is another user's, or the file system has no leases
            # Its time may be ahead of ours: then what counts is how long we have seen it like that.
            is_written = before == found.id and due <= time.monotonic()
            age = time.time() - found.changed_at
        if is_written or age >= _SETTLED:
            if (now := self._look(name)) is not None and now.id != found.id:
                self._waiting.appendleft(name)  # it was finished between the two looks
                return None
            return found
        if before == found.id and due > time.monotonic():
            self._unsettled[name] = found.id, due
        else:
            self._look_again(found, max(age, 0.0))
        return None

    def _look_again(self, found: Found, age: float = 0.0) -> None:
        """Look at a file again when it is old enough.

        No event may come of it: the file behind a link is closed without one in this folder.
        """
        self._unsettled[found.path.name] = found.id, time.monotonic() + _SETTLED - age

    def _settled(self) -> list[str]:
        now = time.monotonic()
        names = [name for name, (_, due) in self._unsettled.items() if -math.inf < due <= now]
        for name in names:
            self._unsettled[name] = self._unsettled[name][0], -math.inf
        return names


def _is_wanted(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _is_written(found: Found) -> bool | None:
    """Return whether nobody writes to the file; None if the system does not tell.

    A lease for reading is granted only on a file that nobody has open for writing (fcntl(2)).
    """
    try:
        fd = os.open(found.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return True  # reading it will tell
    try:
        # Linux tells that a file was closed a moment before it has let go of it. A file that was
        # put off for that would come after those that were written later.
        for pause in _PAUSES:
            if (is_written := _has_lease(fd)) is not False:
                return is_written
            time.sleep(pause)
        return _has_lease(fd)
    finally:
        os.close(fd)


def _has_lease(fd: int) -> bool | None:
    """Return whether a lease for reading is granted, and give it back; None if there are none."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return False if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK) else None
    return True


def _locked(folder: Path) -> int:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise UsageError(
            f"another gate watches {folder}",
            hint="stop it first: each file is decided once, by one gate",
        ) from None
    except OSError:
        return fd  # a file system without locks
    return fd
