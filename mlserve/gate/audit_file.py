"""The audit file: appended to line by line, on disk before anybody sees the decision.

Several processes may write to one file: each line is appended under a lock of the file. A line is
written with one call, and what a crash left of one is cut off before the next. A full file is
renamed, `audit.jsonl` to `audit.000000012345.jsonl` with the number of its last line, and the chain
goes on in the next.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from threading import Lock, Timer
from typing import Any, NamedTuple, NoReturn

from mlserve.errors import reason_of
from mlserve.gate.chain import FIRST, BadLine, Line, read_line, sealed
from mlserve.gate.errors import AuditBroken, AuditStopped

DEFAULT_FILE_BYTES = 64 * 2**20
_TAIL = 2**16
"""Bytes at the end of a file in which its last line is looked for first."""
_DIGITS = 12
_PATIENCE = 5.0
"""Seconds to wait for another process that appends a line."""
_PAUSE = 0.002
_SYNC_EVERY = 1.0
"""Seconds after which `--fsync interval` has a line on disk."""


class Fsync(StrEnum):
    """When a line is forced from the system's memory to the disk."""

    ALWAYS = "always"
    INTERVAL = "interval"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a new file is begun: before it has more than that many bytes, and on a new day (UTC).

    0 bytes: it may grow for ever.
    """

    max_bytes: int = DEFAULT_FILE_BYTES
    daily: bool = False


def now() -> str:
    """Return the time as lines hold it."""
    return as_time(time.time())


def as_time(seconds: float) -> str:
    """Return a Unix time as lines hold it: UTC, ISO 8601, with microseconds."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def family(path: Path) -> list[Path]:
    """Return the files of an audit, the oldest first: those that were full, and the current one.

    Raises OSError.
    """
    return [*full_files(path), *([path] if path.exists() else [])]


def full_files(path: Path) -> list[Path]:
    """Return the files that were renamed because they were full, the oldest first."""
    if not path.parent.is_dir():
        return []
    found = [each for each in path.parent.iterdir() if _last_seq(path, each) is not None]
    return sorted(found)


def newest_first(path: Path) -> Iterator[Path]:
    """Yield the files of an audit, the current one first, so that no lock is needed to read each.

    If it is renamed meanwhile, it comes again as a full one, or comes as that alone.
    """
    yield path
    yield from reversed(full_files(path))


def _last_seq(path: Path, full: Path) -> int | None:
    """Return the number of the last line of a full file of `path`; None if it is not one."""
    name = full.name
    number = name.removeprefix(f"{path.stem}.").removesuffix(path.suffix)
    is_whole = name == f"{path.stem}.{number}{path.suffix}"
    return int(number) if is_whole and number.isdecimal() and len(number) == _DIGITS else None


def lines_in(file: Path, begin: int = 0) -> Iterator[Line]:
    """Yield the whole lines of a file, from that byte on, where a line begins.

    There are none in a file that has gone, as the current one that was just renamed. Raises
    AuditBroken for one that is not as it was written.
    """
    try:
        with file.open("rb") as opened:
            opened.seek(begin)
            for number, line in enumerate(opened, start=1):
                if line.endswith(b"\n"):  # else a crash cut it off
                    yield _line(file, number, line)
    except FileNotFoundError:
        return
    except OSError as error:
        raise AuditStopped(f"{file} cannot be read: {error.strerror or error}") from error


def _line(file: Path, number: int, content: bytes) -> Line:
    try:
        return read_line(content)
    except BadLine as error:
        raise _broken(file, f"line {number}: {error}") from error


class AuditFile:
    """An audit file that is open for more lines. Raises AuditStopped if it cannot be written."""

    def __init__(
        self, path: Path, *, fsync: Fsync = Fsync.ALWAYS, rotation: Rotation = Rotation()
    ) -> None:
        self.path = path
        self._fsync = fsync
        self._rotation = rotation
        self._fd = -1
        self._size = -1
        self._last: Line | None = None
        self._others = (-1, 0)
        """The number of our last line, and where the lines of others begin after it."""
        self._holds = 0
        self._syncing = Lock()
        self._timer: Timer | None = None
        self._late: OSError | None = None
        with self.held():
            pass

    @property
    def head(self) -> Line | None:
        """The last line; None before the first. It is that of the file only while it is held."""
        return self._last

    @property
    def next_prev(self) -> str:
        """The digest that the next line will hold."""
        return FIRST if self._last is None else self._last.sha256

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from appending; they see what was appended once it ends."""
        if self._holds:
            yield
            return
        self._holds += 1
        try:
            self._hold_or_stop()
            yield
        finally:
            self._holds -= 1
            with suppress(OSError, ValueError):  # it may not be open
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def append(self, record: Mapping[str, Any]) -> Line:
        """Append a line with these members, as durable as the policy says, and return it.

        Nothing is left of a line that could not be written.
        """
        with self.held():
            try:
                return self._append(record)
            except OSError as error:
                self._stop(error)

    def lines_after(self, seq: int) -> Iterator[Line]:
        """Yield the lines of all files with a higher number. To be called while it is held."""
        if seq == self._others[0]:
            yield from lines_in(self.path, self._others[1])
            return
        yield from self.full_lines_after(seq)
        yield from (line for line in lines_in(self.path) if line.seq > seq)

    def full_lines_after(self, seq: int) -> Iterator[Line]:
        """Yield those of them that are in full files, which nobody changes: it need not be held."""
        for full in full_files(self.path):
            if (_last_seq(self.path, full) or 0) > seq:
                yield from (line for line in lines_in(full) if line.seq > seq)

    def close(self) -> None:
        """Force the last lines to the disk, unless the policy is never, and close the file."""
        with self._syncing:
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            self._sync()
        self._let_go()
        if self._late is not None:
            self._stop(self._late)

    def _hold_or_stop(self) -> None:
        try:
            self._hold()
        except OSError as error:
            self._stop(error)

    def _hold(self) -> None:
        """Lock the file that has the name now, and learn its last line."""
        while True:
            if self._fd < 0:
                self._fd = _opened(self.path)
                self._size = -1
            _lock(self._fd, self.path)
            if _is_at(self._fd, self.path):
                break
            self._let_go()  # another process has begun the next file
        size = os.fstat(self._fd).st_size
        if size != self._size:
            self._learn(size)

    def _learn(self, size: int) -> None:
        """Learn the last line of a file that others have written to, or that is new to us."""
        torn = _torn(self._fd, size)
        if torn:
            os.ftruncate(self._fd, size - len(torn))
        whole = size - len(torn)
        last = _last_line(self._fd, whole, self.path)
        full = _newest_full(self.path) if last is None else None
        if full is not None:  # the chain goes on in this file
            last = full.last
        before, self._others = self._last, (-1, 0)
        if before is not None:
            _require(self.path, before, last)
            if 0 <= self._size < size:
                self._others = (before.seq, self._size)
        self._size, self._last = whole, last
        if full is not None:
            self._append({"time": now(), "kind": "continued", "from": full.file.name})
        if torn:
            digest = hashlib.sha256(torn).hexdigest()
            self._append(
                {"time": now(), "kind": "mended", "dropped": {"bytes": len(torn), "sha256": digest}}
            )

    def _append(self, record: Mapping[str, Any]) -> Line:
        if self._late is not None:
            raise self._late
        seq = 1 if self._last is None else self._last.seq + 1
        data, line = sealed(seq, self.next_prev, record)
        if self._is_due(len(data)):
            self._rotate()
            return self._append(record)
        self._write(data)
        self._size += len(data)
        self._last = line
        return line

    def _write(self, data: bytes) -> None:
        """Write a whole line, or nothing of it."""
        try:
            written = os.write(self._fd, data)
            if written < len(data):
                os.write(self._fd, data[written:])  # says why
                raise OSError("only a part of the line was written")
            self._make_durable()
        except OSError:
            with suppress(OSError):  # what is left of it, the next start cuts off
                os.ftruncate(self._fd, self._size)
            raise

    def _make_durable(self) -> None:
        if self._fsync is Fsync.ALWAYS:
            os.fsync(self._fd)
        elif self._fsync is Fsync.INTERVAL:
            with self._syncing:
                if self._timer is None:
                    self._timer = Timer(_SYNC_EVERY, self._sync)
                    self._timer.daemon = True
                    self._timer.start()

    def _sync(self) -> None:
        """Force what was written to the disk; a failure stops the next line."""
        with self._syncing:
            self._timer = None
            try:
                if self._fd >= 0:
                    os.fsync(self._fd)
            except OSError as error:
                self._late = error

    def _is_due(self, more: int) -> bool:
        if not self._size or self._last is None or self._last.data.get("kind") == "continued":
            return False
        is_full = 0 < self._rotation.max_bytes < self._size + more
        is_old = self._rotation.daily and str(self._last.data.get("time"))[:10] != now()[:10]
        return is_full or is_old

    def _rotate(self) -> None:
        """Rename the file, and begin the next one with a line that says from which it goes on."""
        assert self._last is not None
        if self._fsync is not Fsync.NEVER:
            os.fsync(self._fd)
        name = f"{self.path.stem}.{self._last.seq:0{_DIGITS}}{self.path.suffix}"
        full = self.path.with_name(name)
        if full.exists():
            raise _broken(full, "it exists, and the file that is full now would replace it")
        self.path.rename(full)
        self._let_go()
        self._hold()  # another process may be faster, and its file may even be full already

    def _let_go(self) -> None:
        """Close the file, and so unlock it."""
        with self._syncing:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _stop(self, error: OSError) -> NoReturn:
        raise AuditStopped(
            f"the audit file {self.path} cannot be written: {error.strerror or reason_of(error)}",
            hint="nothing is decided without a line in it: make room, or name another file with "
            "--audit",
        ) from error


def _opened(path: Path) -> int:
    """Open the file for appending, or make it; a new one stays after a loss of power."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, flags | os.O_CREAT, 0o600)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return fd


def _lock(fd: int, path: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise AuditStopped(
                    f"another process keeps {path} locked",
                    hint="see which with `lslocks`, or name another file with --audit",
                ) from None
            time.sleep(_PAUSE)
        else:
            return


def _is_at(fd: int, path: Path) -> bool:
    """Return whether the open file is still the one of that name."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    own = os.fstat(fd)
    return (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino)


def _torn(fd: int, size: int) -> bytes:
    """Return what stands after the last line feed: what a crash left of a line."""
    begin = size
    while begin > 0:
        begin = max(0, begin - _TAIL)
        tail = os.pread(fd, size - begin, begin)
        end = tail.rfind(b"\n")
        if end >= 0:
            return tail[end + 1 :]
    return os.pread(fd, size, 0) if size else b""


def _last_line(fd: int, size: int, path: Path) -> Line | None:
    """Return the last line of a file that ends with one; None if it is empty."""
    if not size:
        return None
    begin = size
    while True:
        begin = max(0, begin - _TAIL)
        tail = os.pread(fd, size - begin, begin)
        start = tail.rfind(b"\n", 0, len(tail) - 1) + 1
        if start or not begin:
            break
    try:
        return read_line(tail[start:])
    except BadLine as error:
        raise _broken(path, f"its last line: {error}") from error


class _Full(NamedTuple):
    """A full file, and its last line."""

    file: Path
    last: Line


def _newest_full(path: Path) -> _Full | None:
    """Return the newest full file of an audit; None if there is none."""
    full = full_files(path)
    if not full:
        return None
    with full[-1].open("rb") as opened:
        last = _last_line(opened.fileno(), os.fstat(opened.fileno()).st_size, full[-1])
    if last is None:
        raise _broken(full[-1], "it is empty")
    return _Full(full[-1], last)


def _require(path: Path, known: Line, last: Line | None) -> None:
    """Raise AuditBroken if the audit now ends before a line that was known to be in it."""
    seq, digest = (0, "") if last is None else (last.seq, last.sha256)
    if seq < known.seq or (seq == known.seq and digest != known.sha256):
        raise _broken(path, f"it had line {known.seq}, which was removed while the gate ran")


def _broken(path: Path, what: str) -> AuditBroken:
    return AuditBroken(
        f"the audit file {path} is not as a gate left it: {what}",
        hint="see what is wrong with `mlserve gate verify`, keep the file as evidence, and begin "
        "another with --audit",
    )
