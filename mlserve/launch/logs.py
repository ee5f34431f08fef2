"""The log files of detached servers: rotated at a start, shown in part, followed."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from mlserve import paths
from mlserve.errors import UsageError
from mlserve.launch.private import open_own, private_folder

_PAUSE = 0.1
_CHUNK = 1 << 16


def log_path(name: str) -> Path:
    """The log file of the server of that name."""
    return paths.state_dir() / "logs" / f"{name}.log"


def newest() -> Path | None:
    """The log that was written to last, of a server that runs or not."""
    with suppress(FileNotFoundError):
        logs = [path for path in (paths.state_dir() / "logs").iterdir() if path.suffix == ".log"]
        return max(logs, key=lambda path: path.stat().st_mtime, default=None)
    return None


def rotate(path: Path) -> None:
    """Makes room for a new log; the log before becomes `<name>.log.1`.

    Raises OSError, and UsageError for a folder of another user.
    """
    private_folder(path.parent)
    with suppress(FileNotFoundError):
        path.replace(path.with_name(path.name + ".1"))


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log; none when it cannot be read."""
    try:
        with open_own(path) as file:
            return [line.decode(errors="replace").rstrip("\n") for line in deque(file, count)]
    except (OSError, UsageError):
        return []


def follow(path: Path, tail: int | None, is_alive: Callable[[], bool]) -> Iterator[bytes]:
    """The log's bytes from its last `tail` lines on, until its writer is gone.

    A `tail` of None begins at the start. A log that is cut off, or replaced by a new file of the
    same name, is read on from its start. Raises OSError when the log cannot be read, and UsageError
    for one that is a link or another user's.
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
    """The file to go on with, when the open one was cut off or another took its name."""
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
    # One line end more than lines: the last line has its own.
    while position > 0 and tail.count(b"\n") <= count:
        position = max(0, position - _CHUNK)
        file.seek(position)
        tail = file.read(end - position)
    lines = tail.splitlines(keepends=True)
    file.seek(end - sum(len(line) for line in lines[len(lines) - count :] if count))
