"""The standard streams of a command: what cannot be written or read is an error like any other."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from mlserve.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class OutputLost(UsageError):
    """The command's data could not be written to standard output."""


def guard_streams() -> None:
    """Makes standard output raise OutputLost where it cannot be written, and stderr lose the text.

    Called before anything is opened: what is, gets the number of a stream that was closed, and what
    is meant for the stream. `sys.stdin` and `sys.stdout` stay None where they were closed.
    """
    closed = [n for n, file in enumerate((sys.stdin, sys.stdout, sys.stderr)) if file is None]
    _occupy(closed)
    if sys.stdout is not None:
        sys.stdout = _text_over(_Output(1, "wb", closefd=False), sys.stdout)
    sys.stderr = _text_over(_Errors(2, "wb", closefd=False), sys.stderr)


def require_output() -> None:
    """Raises OutputLost when standard output was closed (`>&-`): what is printed would be lost."""
    if sys.stdout is None:
        raise OutputLost(
            "standard output is closed", hint="send it to /dev/null if it is not wanted"
        )


def require_input() -> None:
    """Raises UsageError when standard input was closed (`<&-`)."""
    if sys.stdin is None:
        raise UsageError(
            "standard input (-) is closed",
            hint="give the path of a file, or send the image to the command's input",
        )


class _Output(io.FileIO):
    """Standard output. Once something was lost, so is the rest of the buffer, without a word.

    The interpreter tries to write it again when it ends.
    """

    _is_lost = False

    def write(self, data: ReadableBuffer) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if self._is_lost:
                return memoryview(data).nbytes
            self._is_lost = True
            raise OutputLost(
                f"standard output cannot be written: {error.strerror}",
                hint="what was not printed is lost: run the command again with room for its output",
            ) from error


class _Errors(io.FileIO):
    """Standard error. Where it cannot be written nobody can be told: the exit code must do."""

    def write(self, data: ReadableBuffer) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _occupy(numbers: Sequence[int]) -> None:
    """Opens the null device under these numbers."""
    if numbers:
        null = os.open(os.devnull, os.O_RDWR)
        for number in numbers:
            os.dup2(null, number)
        if null not in numbers:
            os.close(null)


def _text_over(raw: io.FileIO, old: TextIO | None) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=None if old is None else old.encoding,
        errors="backslashreplace" if old is None else old.errors,
        line_buffering=True,
    )
