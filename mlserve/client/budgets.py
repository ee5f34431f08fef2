"""What the processes of one user on this host know of servers that refuse: one small file.

The file is a table of fixed size, in the folder for files that live as long as the machine runs:
XDG_RUNTIME_DIR, or else /dev/shm. Not in the home folder, which several machines may share: the
times in it are those of one machine's clock. It is made by the first refusal.

Each use opens the file, reads a few of its entries, writes at most one, and closes it. So there is
no lock to wait for, nothing that a fork could duplicate, and no mapping that could fail when the
file is cut short. Two processes that write an entry at the same moment lose one of the changes,
which its use as a count of calls can bear. What does not look like an entry is none. A file that
cannot be used, or is not this user's own, is left alone: then each process counts for itself.
"""

from __future__ import annotations

import math
import os
import stat
import zlib
from struct import Struct
from typing import NamedTuple

FORGOTTEN_AFTER = 10.0
"""Seconds after the last refusal, after which it is no reason to spare the server."""
_VARIABLE = "XDG_RUNTIME_DIR"
_ALWAYS_LOCAL = "/dev/shm"  # noqa: S108  what another user puts there is not taken
_NAME = "mlserve-{user}-refusals-1"
"""The number is that of the file's form: another form gets another name."""
_KEY, _NUMBERS = Struct("<Q"), Struct("<5d")
"""The two parts of an entry: a key, where 0 is none, and the numbers of a Budget."""
_ENTRY_BYTES = 64
_WAYS = 8
"""Entries that a key may be in: those of its row."""
_ROWS = 64
_ROW_BYTES = _WAYS * _ENTRY_BYTES
_LATEST = 61.0
"""Seconds after which a server may ask to be left alone, at most (`throttle`), and one more."""
_LATER = 1.0
"""Seconds by which a time in the file may be later than one's own."""
_MOST_OWN = 1000
"""Budgets that a process keeps for itself."""
_LOOK_AGAIN = 0.05
"""Seconds after which a budget that was not in the file is looked for again."""
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OTHERS_MAY_WRITE = 0o022


class Budget(NamedTuple):
    """How many calls of one kind may still be sent to a server that refused some.

    `left` is that number, as of `counted_at`. The server refused one last at `refused_at`, and said
    that it may be asked again at `come_back_at`. Times are those of `time.monotonic`. `price` is
    the share of such calls that the server said it refuses, 0 to 1; negative if it did not say.
    """

    left: float
    counted_at: float
    refused_at: float
    come_back_at: float
    price: float

    def is_of(self, now: float) -> bool:
        """Return whether it can be what some process has written, and is not too old."""
        if not all(map(math.isfinite, self)) or self.left < 0:
            return False
        # Another process may have looked at the clock a little later. Far in the future is a time
        # of another boot, or none at all.
        is_sane = self.come_back_at <= now + _LATEST and self.price <= 1
        return (
            is_sane and now - FORGOTTEN_AFTER < self.refused_at <= self.counted_at <= now + _LATER
        )


class Budgets:
    """The budgets of all kinds of calls, by their keys, in the file at `path` where possible."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._own: dict[int, Budget] = {}
        """Those that could not be written to the file."""
        self._missed_at: dict[int, float] = {}
        """When the file was last found to have none of a key."""

    def read(self, key: int, now: float) -> Budget | None:
        """Return the budget; None if no such call was refused lately."""
        own = self._own.get(key)
        if own is not None and not own.is_of(now):
            own = None
        if now > self._missed_at.get(key, -math.inf) + _LOOK_AGAIN:
            shared = self._shared(key)
            if shared is not None and shared.is_of(now):
                # The file may have become one that can be read and no longer written.
                return shared if own is None or own.counted_at <= shared.counted_at else own
            self._missed_at[key] = now
        return own

    def write(self, key: int, budget: Budget, now: float) -> None:
        """Keep the budget, in this process alone if the file cannot be used."""
        if self._share(key, budget, now):
            self._missed_at.pop(key, None)
            self._own.pop(key, None)
        else:
            if len(self._own) >= _MOST_OWN:
                self._own.clear()  # what is forgotten is sent
            self._own[key] = budget

    def _shared(self, key: int) -> Budget | None:
        try:
            file = _opened(self._path, os.O_RDONLY)
        except OSError:
            return None
        try:
            row = _row(file, key)
        except OSError:
            return None
        finally:
            os.close(file)
        place = _place_of(row, key)
        return None if place is None else _budget(row, place)

    def _share(self, key: int, budget: Budget, now: float) -> bool:
        """Write the budget to the file; return False if that is not possible."""
        try:
            file = _opened(self._path, os.O_RDWR | os.O_CREAT)
        except OSError:
            return False
        try:
            row = _row(file, key)
            place = _place_of(row, key)
            place = _free_place(row, now) if place is None else place
            if place is None:
                return False
            entry = _KEY.pack(key) + _NUMBERS.pack(*budget)
            return os.pwrite(file, entry, _start(key) + place) == len(entry)
        except OSError:
            return False
        finally:
            os.close(file)


def shared_path() -> str:
    """Return the path of this user's file on this host, which need not exist."""
    runtime = os.environ.get(_VARIABLE, "")
    folder = runtime if os.path.isdir(runtime) else _ALWAYS_LOCAL  # noqa: PTH112  no pathlib here
    return f"{folder}/{_NAME.format(user=os.geteuid())}"


def key_of(*words: str) -> int:
    """Return a number of 64 bits for the words, the same in every process; never 0."""
    text = "\0".join(words).encode(errors="surrogateescape")
    return (zlib.crc32(text) << 32 | zlib.crc32(text[::-1])) or 1


def _opened(path: str, flags: int) -> int:
    """Open the file; raise OSError if it is no plain file of this user alone."""
    file = os.open(path, flags | _SAFELY, 0o600)
    try:
        found = os.fstat(file)
        is_plain = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        if is_plain and found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_MAY_WRITE:
            return file
        raise PermissionError(f"{path} is not a plain file of this user alone")
    except OSError:
        os.close(file)
        raise


def _start(key: int) -> int:
    return key % _ROWS * _ROW_BYTES


def _row(file: int, key: int) -> bytes:
    """Return the entries that the key's may be among; zeros where the file has ended."""
    return os.pread(file, _ROW_BYTES, _start(key)).ljust(_ROW_BYTES, b"\0")


def _place_of(row: bytes, key: int) -> int | None:
    """Return where in the row the key's entry begins."""
    packed, place = _KEY.pack(key), -1
    while (place := row.find(packed, place + 1)) >= 0:
        if place % _ENTRY_BYTES == 0:
            return place
    return None


def _free_place(row: bytes, now: float) -> int | None:
    """Return where in the row there is no entry, or one that is too old."""
    places = range(0, _ROW_BYTES, _ENTRY_BYTES)
    return next((place for place in places if not _budget(row, place).is_of(now)), None)


def _budget(row: bytes, place: int) -> Budget:
    return Budget(*_NUMBERS.unpack_from(row, place + _KEY.size))
