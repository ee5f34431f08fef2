"""Output of commands: data on stdout, everything else on stderr.

Names of models, signatures and labels, and messages of servers, are untrusted: whatever a terminal
would obey, or show in another order, is printed as an escape.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from mlserve.errors import MlserveError, Overloaded, UsageError, escaped, readable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class OutputFormat(StrEnum):
    """Formats of a command's data."""

    TEXT = "text"
    JSON = "json"


_KEPT = "\n\t"
"""Characters printed as they are, though Python does not count them as printable."""
OutputOption = Annotated[
    OutputFormat, typer.Option("--output", help="The format of what the command prints.")
]
ReportOption = Annotated[
    Path | None,
    typer.Option(
        "--report", metavar="FILE.html", help="Write a report with plots as one HTML file."
    ),
]
_GAP = "  "
_BELOW = " " * 4
_COMMANDS = ("pip ", "mlserve ")
_NARROWEST = 24
"""Least width of a column worth wrapping text into."""
_WIDTH = 20
_CLEAR = "\r\x1b[K"


def say(text: str = "", *, end: str = "\n") -> None:
    """Print a text of the command's data on stdout, made printable."""
    typer.echo(escaped(text, _KEPT) + end, nl=False)


def note(message: str) -> None:
    """Print a message that is not the command's data on stderr, made printable."""
    typer.echo(escaped(message, _KEPT), err=True)


def print_json(data: Any, *, indent: int | None = 2) -> None:
    """Print data as JSON, on one line if `indent` is None."""
    typer.echo(json_text(data, indent=indent))


def json_text(data: Any, *, indent: int | None = None) -> str:
    """Return data as JSON, with unprintable characters escaped so that no terminal obeys them."""
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    return "".join(
        char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text
    )


def print_error(error: MlserveError, *, as_json: bool) -> None:
    """Print an error on stderr: `error: ...` and `hint: ...`, or one JSON object.

    With a refusal that has a price, which only mlserve's server tells, comes the command that
    explains it.
    If the error has the end of a server's log, that comes last.
    """
    if as_json:
        typer.echo(json_text({"error": error.to_json()}), err=True)
        return
    note(f"error: {error.message}")
    if error.hint:
        note(f"hint: {error.hint}")
    request_id = error.details.get("request_id")
    if isinstance(error, Overloaded) and error.price is not None and request_id:
        note(f"why: mlserve why {request_id}")
    log = error.details.get("log")
    if log:
        note(f"the end of its log (all of it: {log['command']}):")
        note("\n".join(f"  {line}" for line in log["end"]))


def is_interactive() -> bool:
    """Return whether stderr is a terminal; progress is shown only there."""
    return sys.stderr.isatty()


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    below: Sequence[Sequence[str]] | None = None,
    *,
    is_header_text: bool = False,
) -> None:
    """Print rows under an upper-case header, in columns as wide as their widest cell.

    With `is_header_text`, the header is printed as it is. `below` are the lines under each row.
    Text wider than the terminal (80 columns if there is none) is wrapped: the last column in place,
    or below its row if it has no room. Nothing is cut, so a long name can still make a line longer.
    """
    lines = [
        [escaped(name, _KEPT) if is_header_text else name.upper() for name in header],
        *[[escaped(cell, _KEPT) for cell in row] for row in rows],
    ]
    under: list[list[str]] = [[], *[list(texts) for texts in below or [()] * len(rows)]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    room = terminal_columns() - sum(width + len(_GAP) for width in widths[:-1])
    if room < min(widths[-1], _NARROWEST):
        for line, texts in zip(lines, under, strict=True):
            texts.insert(0, line.pop())
    for line, texts in zip(lines, under, strict=True):
        *start, last = line
        left = "".join(cell.ljust(width) + _GAP for cell, width in zip(start, widths, strict=False))
        print_wrapped(last, " " * len(left), first=left)
        for text in filter(None, texts):
            print_wrapped(text, _BELOW)


def duration(seconds: float) -> str:
    """Return a time in its largest unit, rounded down: `5m`."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def fix_line(fix: str) -> str:
    """Return the line for a fix. A command is kept in one piece, so that it can be copied."""
    line = f"fix: {fix}"
    return _Whole(line) if fix.startswith(_COMMANDS) else line


class _Whole(str):
    """A text that is never wrapped, however narrow the terminal."""

    __slots__ = ()


def print_wrapped(text: str, indent: str, *, first: str | None = None) -> None:
    """Print text wrapped to the terminal; `first` (default: `indent`) begins its first line."""
    width = max(terminal_columns() - len(indent), _NARROWEST)
    begin = indent if first is None else first
    if isinstance(text, _Whole):
        say(f"{begin}{text}")
        return
    for line in textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]:
        say(f"{begin}{line}".rstrip())
        begin = indent


def terminal_columns() -> int:
    """Return the width of the terminal; 80 if there is none."""
    return shutil.get_terminal_size((80, 24)).columns


@contextmanager
def all_told(
    done: Sequence[object], output: OutputFormat, show: Callable[[], None]
) -> Iterator[None]:
    """Have what is done in the block shown as one JSON document at its end.

    Also if an error or Ctrl-C ends it, unless nothing was done by then.
    """
    is_whole = False
    try:
        yield
        is_whole = True
    finally:
        if output is OutputFormat.JSON and (done or is_whole):
            show()


class StatusLine:
    """A line on a terminal that the next one replaces.

    It is cleared before anything else is printed, so that it never mixes with the data.
    """

    def __init__(self) -> None:
        self._is_shown = is_interactive()

    def show(self, text: str) -> None:
        """Show the text, cut to the width of the terminal."""
        self._write(_CLEAR + text[: shutil.get_terminal_size().columns - 1])

    def clear(self) -> None:
        """Clear the line."""
        self._write(_CLEAR)

    def _write(self, text: str) -> None:
        if self._is_shown:
            sys.stderr.write(text)
            sys.stderr.flush()


class ProgressLine(StatusLine):
    """Shows how many of `total` are done, and the current one; nothing for a total of 0."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self._total = total
        self._is_shown = self._is_shown and total > 0

    def draw(self, done: int, name: str) -> None:
        """Show that `done` are done and `name` runs."""
        filled = _WIDTH * done // self._total if self._total else 0
        bar = "#" * filled + "." * (_WIDTH - filled)
        self.show(f"[{bar}] {done}/{self._total} {readable(name)}")


class OutputLost(UsageError):
    """The command's data could not be written to standard output."""


def guard_streams() -> None:
    """Make a failing standard output raise OutputLost, and a failing stderr drop its text.

    Called before any file is opened: a new file would take the number of a closed stream, and
    receive its text. `sys.stdin` and `sys.stdout` stay None if they were closed.
    """
    closed = [n for n, file in enumerate((sys.stdin, sys.stdout, sys.stderr)) if file is None]
    _occupy(closed)
    if sys.stdout is not None:
        sys.stdout = _text_over(_Output(1, "wb", closefd=False), sys.stdout)
    sys.stderr = _text_over(_Errors(2, "wb", closefd=False), sys.stderr)


@contextmanager
def prints_go_to_stderr() -> Iterator[None]:
    """Keep standard output for the command's answer: what a library prints goes to stderr."""
    _flush()
    own = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        _flush()
        os.dup2(own, 1)
        os.close(own)


def require_output() -> None:
    """Raise OutputLost if standard output was closed (`>&-`): anything printed would be lost."""
    if sys.stdout is None:
        raise OutputLost(
            "standard output is closed", hint="send it to /dev/null if it is not wanted"
        )


def require_writable(report: Path) -> None:
    """Raise UsageError for an unwritable report path before the long work begins."""
    if report.is_dir() or not report.absolute().parent.is_dir():
        raise UsageError(
            f"the report {report} cannot be written: "
            + ("it is a folder" if report.is_dir() else "its folder does not exist"),
            hint="give the path of a file, for example --report report.html",
        )


def write_report(report: Path, text: str) -> None:
    """Write a report, and say where it is. Raises UsageError if that fails."""
    try:
        report.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(
            f"the report {report} cannot be written: {error.strerror or error}",
            hint="give another path with --report",
        ) from error
    note(f"the report is in {report}: open it in a browser")


def require_input() -> None:
    """Raise UsageError if standard input was closed (`<&-`)."""
    if sys.stdin is None:
        raise UsageError(
            "standard input (-) is closed",
            hint="give the path of a file, or send the image to the command's input",
        )


class _Output(io.FileIO):
    """Standard output that fails once, and then silently drops the rest.

    Without that, the interpreter would fail again when it flushes the buffer at exit.
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
    """Standard error that drops what it cannot write: only the exit code can report that."""

    def write(self, data: ReadableBuffer) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _occupy(numbers: Sequence[int]) -> None:
    """Open the null device under these file descriptors."""
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
