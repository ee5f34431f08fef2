"""Log files of background servers: rotate, show and follow them, and find their last error."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from mlserve import paths
from mlserve.artifact import json_of
from mlserve.errors import UsageError
from mlserve.launch.private_files import open_own, private_folder

_PAUSE = 0.1
_CHUNK = 1 << 16
_OURS = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z ([A-Z]+) (.*)")
"""A line of mlserve's own server in a text log: time, level, message."""
_GLOG = re.compile(r".*: [EF] \S+\] (.*)")
"""A TensorFlow line of level error or fatal: `<time>: E file.cc:37] message`."""
_HINT = "hint: "
_WRONG = ("ERROR", "CRITICAL")
_OTHER_ERROR = re.compile(r"\b\w*error\b", re.IGNORECASE)


def log_path(name: str) -> Path:
    """Return the path of the named server's log file."""
    return paths.state_dir() / "logs" / f"{name}.log"


def newest() -> Path | None:
    """Return the log that was written to last, whether or not its server still runs."""
    with suppress(FileNotFoundError):
        return max(_all(), key=lambda path: path.stat().st_mtime, default=None)
    return None


def names() -> list[str]:
    """Return the names of the servers whose logs are there, whether or not they still run."""
    with suppress(FileNotFoundError):
        return sorted(path.stem for path in _all())
    return []


def _all() -> list[Path]:
    return [path for path in (paths.state_dir() / "logs").iterdir() if path.suffix == ".log"]


def rotate(path: Path) -> None:
    """Make room for a new log; the previous one becomes `<name>.log.1`.

    Raises OSError, and UsageError for another user's folder.
    """
    private_folder(path.parent)
    with suppress(FileNotFoundError):
        path.replace(path.with_name(path.name + ".1"))


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a log, or an empty list if it cannot be read."""
    try:
        with open_own(path) as file:
            return [line.decode(errors="replace").rstrip("\n") for line in deque(file, count)]
    except (OSError, UsageError):
        return []


def follow(path: Path, tail: int | None, is_alive: Callable[[], bool]) -> Iterator[bytes]:
    """Yield the log's bytes, starting at its last `tail` lines, until its writer is gone.

    `tail` None starts at the beginning. A log that is truncated, or replaced by a new file of the
    same name, is read again from its start. Raises OSError if the log cannot be read, and
    UsageError if it is a link or another user's.
    """
    with ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(open_own(path))
        if tail is not None:
            _seek_last_lines(file, tail)
        while True:
            was_alive = is_alive()
            yield from _rest(file)
            replacement = _replacement(file, path)
            if replacement is not None:
                yield from _rest(file)
                stack.callback(replacement.close)
                file = replacement
            elif not was_alive:
                return
            else:
                time.sleep(_PAUSE)


def _rest(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _replacement(file: IO[bytes], path: Path) -> IO[bytes] | None:
    """Return the file to continue with if the open one was truncated or replaced, else None."""
    opened = os.fstat(file.fileno())
    if opened.st_size < file.tell():
        file.seek(0)
    with suppress(FileNotFoundError):
        named = path.stat()
        if (named.st_dev, named.st_ino) != (opened.st_dev, opened.st_ino):
            return open_own(path)
    return None


def _seek_last_lines(file: IO[bytes], count: int) -> None:
    end = position = file.seek(0, os.SEEK_END)
    tail = b""
    # One more newline than lines: the last line ends with one too.
    while position > 0 and tail.count(b"\n") <= count:
        position = max(0, position - _CHUNK)
        file.seek(position)
        tail = file.read(end - position)
    lines = tail.splitlines(keepends=True)
    file.seek(end - sum(len(line) for line in lines[len(lines) - count :] if count))


@dataclass(frozen=True, slots=True)
class LastWords:
    """The last error in a log, and its hint."""

    message: str
    hint: str | None


@dataclass(slots=True)
class _Entry:
    level: str
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The message; for a traceback, the exception at its end."""
        has_traceback = any(line.startswith("Traceback (") for line in self.lines)
        return self.lines[-1] if has_traceback else " ".join(self.lines)


def last_words(lines: Sequence[str]) -> LastWords | None:
    """Return the last error in these lines of a log, or None.

    Lines of mlserve's server are recognised in both its formats; in another program's log the last
    line marked as an error counts.
    """
    entries = _entries(lines)
    for index in reversed(range(len(entries))):
        entry = entries[index]
        if entry.level in _WRONG and not entry.text.startswith(_HINT):
            after = entries[index + 1].text if index + 1 < len(entries) else ""
            hint = after.removeprefix(_HINT) if after.startswith(_HINT) else None
            return LastWords(entry.text, hint)
    return _of_other_program(lines)


def _entries(lines: Sequence[str]) -> list[_Entry]:
    """Group the lines of mlserve's server into entries; a traceback belongs to the entry above.

    In JSON an entry already contains its traceback.
    """
    entries: list[_Entry] = []
    for line in lines:
        ours = _OURS.fullmatch(line)
        data = _object(line)
        if ours:
            entries.append(_Entry(ours[1], [ours[2]]))
        elif data is not None:
            more = str(data.get("exception", "")).splitlines()
            entries.append(_Entry(str(data.get("level")), [str(data["message"]), *more]))
        elif entries:
            entries[-1].lines.append(line.strip() if line.startswith(" ") else line)
    return entries


def _object(line: str) -> dict[str, object] | None:
    if not line.startswith('{"ts": '):
        return None
    try:
        data = json_of(line)
    except ValueError:
        return None  # a truncated line
    return data if isinstance(data, dict) and "message" in data else None


def _of_other_program(lines: Sequence[str]) -> LastWords | None:
    for line in reversed(lines):
        glog = _GLOG.fullmatch(line)
        if glog or _OTHER_ERROR.search(line):
            return LastWords(glog[1] if glog else line.strip(), None)
    return None
