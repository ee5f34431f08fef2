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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from struct import Struct

FORGOTTEN_AFTER = 10.0
"""Seconds after the last refusal, after which it is no reason to spare the server."""
_VARIABLE = "XDG_RUNTIME_DIR"
_ALWAYS_LOCAL = "/dev/shm"  # noqa: S108  what another user puts there is not taken
_NAME = "mlserve-{user}-refusals-1"
"""The number is that of the file's form: another form gets another name."""
_ENTRY = Struct("<Q5d16x")
"""A key and the numbers of a Budget; 0 is no key."""
_WAYS = 8
"""Entries that a key may be in: those of its row."""
_ROWS = 64
_ROW_BYTES = _WAYS * _ENTRY.size
_LATER = 1.0
"""Seconds by which a time in the file may be later than one's own."""
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OTHERS_MAY_WRITE = 0o022


@dataclass(frozen=True, slots=True)
class Budget:
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
        values = (self.left, self.counted_at, self.refused_at, self.come_back_at, self.price)
        if not all(map(math.isfinite, values)) or self.left < 0:
            return False
        # Another process may have looked at the clock a little later. Far in the future is a time
        # of another boot, or none at all.
        return now - FORGOTTEN_AFTER < self.refused_at <= self.counted_at <= now + _LATER


class Budgets:
    """The budgets of all kinds of calls, by their keys, in the file at `path` where possible."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._own: dict[int, Budget] = {}
        """Those that could not be written to the file."""

    def read(self, key: int, now: float) -> Budget | None:
        """Return the budget; None if no such call was refused lately."""
        with suppress(OSError), self._opened(os.O_RDONLY) as file:
            for entry, budget in _entries(file, key):
                if entry == key and budget.is_of(now):
                    return budget
        own = self._own.get(key)
        return own if own is not None and own.is_of(now) else None

    def write(self, key: int, budget: Budget, now: float) -> None:
        """Keep the budget, in this process alone if the file cannot be used."""
        with suppress(OSError), self._opened(os.O_RDWR | os.O_CREAT) as file:
            place = _place(file, key, now)
            if place is not None:
                os.pwrite(file, _packed(key, budget), place)
                self._own.pop(key, None)
                return
        self._own = {k: own for k, own in self._own.items() if own.is_of(now)} | {key: budget}

    @contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        """Open the file, for no other user to write. Raises OSError if it is not one's own."""
        file = os.open(self._path, flags | _SAFELY, 0o600)
        try:
            found = os.fstat(file)
            is_plain = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
            if not is_plain or found.st_uid != os.geteuid() or found.st_mode & _OTHERS_MAY_WRITE:
                raise PermissionError(f"{self._path} is not a plain file of this user alone")
            yield file
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


def _entries(file: int, key: int) -> list[tuple[int, Budget]]:
    """Return the entries of the key's row; fewer if the file ends before."""
    row = os.pread(file, _ROW_BYTES, key % _ROWS * _ROW_BYTES)
    whole = len(row) // _ENTRY.size * _ENTRY.size
    return [(entry, Budget(*values)) for entry, *values in _ENTRY.iter_unpack(row[:whole])]


def _place(file: int, key: int, now: float) -> int | None:
    """Return where in the file the key's entry is or can be; None if others fill its row."""
    entries = _entries(file, key)
    free = None if len(entries) == _WAYS else len(entries)
    for number, (entry, budget) in enumerate(entries):
        if entry == key:
            free = number
            break
        if free is None and not budget.is_of(now):
            free = number
    return None if free is None else key % _ROWS * _ROW_BYTES + free * _ENTRY.size


def _packed(key: int, budget: Budget) -> bytes:
    return _ENTRY.pack(
        key,
        budget.left,
        budget.counted_at,
        budget.refused_at,
        budget.come_back_at,
        budget.price,
    )
