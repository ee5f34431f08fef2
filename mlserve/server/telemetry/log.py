"""The log of the process: how a line looks, which lines are held back, and who writes them.

A record is a line of words, or one JSON object a line. It may carry `fields`, a dict of plain
values; one that is logged while a request is served carries the request's ids without being asked.

Nothing that serves a request ever waits for the log. A reader that does not read, a full disk and a
pipe that nobody holds any more cost lines, which are counted, and never a request; the next line
that can be written says how many were lost. Lines that repeat are counted too: see `Repeats`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import sys
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any

from mlserve.errors import escaped
from mlserve.server.request import current
from mlserve.settings import LogFormat

REQUEST_LOGGER = "mlserve.request"
"""The logger of the lines about requests."""
WINDOW = 10.0
"""Seconds in which lines that are alike are held together."""
LINES_ALIKE = 10
"""How many lines with the same words are written in a window."""
LINES_OF_A_PLACE = 100
"""How many lines of one place in the code are written in a window, whatever their words."""
MOST_LINES = 10_000
"""How many lines wait for the writer before the next ones are lost."""
_LAST_WORDS = 1.0
"""Seconds that the end of the process waits for the lines that are left."""
_LONGEST = 8000
"""Characters of a message; whatever got into it, a line is no longer."""
_MOST_COMPARED = 200
"""Characters of a line that are compared with those of others."""
_BARE = re.compile(r"[!-<>-~]+")
"""A value that needs no quotes in a line of words: printable, no space and no equals sign."""


class TextFormatter(logging.Formatter):
    """`<UTC time> <level> <message> name=value ...`; a traceback follows on lines of its own.

    A message is one line, in which nobody else's text can look like another one, or is obeyed by a
    terminal. A field that is a dict is left out: the message says the same in words.
    """

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line itself."""
        record.message = _cut(record.message)
        fields = fields_of(record).items()
        words = [f"{name}={_word(value)}" for name, value in fields if not isinstance(value, dict)]
        return " ".join([escaped(super().formatMessage(record)), *words])

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """The traceback, which has lines and nothing else that a terminal would obey."""
        return escaped(super().formatException(ei), "\n")


class JsonFormatter(logging.Formatter):
    """One JSON object: ts, level, logger, message, the record's fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The object, on one line and in ASCII."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        data: dict[str, Any] = {
            "ts": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": _cut(record.getMessage()),
            **fields_of(record),
        }
        if record.exc_info:
            data["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            data["stack"] = record.stack_info
        return json.dumps(data, default=str)


def formatter_of(log_format: LogFormat) -> logging.Formatter:
    """The formatter of that format."""
    return JsonFormatter() if log_format is LogFormat.JSON else TextFormatter()


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The record's own fields, else the ids of the request in which it was made."""
    fields: dict[str, Any] | None = getattr(record, "fields", None)
    if fields is not None:
        return fields
    request = current()
    if not request.request_id:
        return {}
    return {"request_id": request.request_id, "trace_id": request.trace.trace_id}


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text)} characters)"


def _word(value: Any) -> str:
    """The value, in quotes and on one line where it has spaces or what a client may have sent."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text)


Place = tuple[str, str, int]
"""A logger's name, and the file and line that log."""


class Repeats:
    """Tells which records get a line of their own, and counts the others.

    What a stranger does to a socket, or one fault of a model, can make the same line a thousand
    times a second: that must not fill the disk. Not safe for threads: the caller has a lock.
    """

    def __init__(self, window: float = WINDOW) -> None:
        self._window = window
        self._ends_at = 0.0
        self._alike: Counter[tuple[Place, str]] = Counter()
        self._places: Counter[Place] = Counter()
        self._held: dict[Place, tuple[int, logging.LogRecord]] = {}

    def takes(self, record: logging.LogRecord) -> bool:
        """Whether the record gets a line; it is counted if not."""
        if record.name == REQUEST_LOGGER:  # `RequestLog` has limited those already
            return True
        if not self._places:
            self._ends_at = time.monotonic() + self._window
        place = (record.name, record.pathname, record.lineno)
        words = (place, _words(record))
        has_room = self._places[place] < LINES_OF_A_PLACE and self._alike[words] < LINES_ALIKE
        if has_room:
            self._places[place] += 1
            self._alike[words] += 1
        else:
            self._held[place] = (self._held.get(place, (0, record))[0] + 1, record)
        return has_room

    @property
    def seconds_left(self) -> float | None:
        """Until `ended` has something to tell; None when nothing was held."""
        return max(0.0, self._ends_at - time.monotonic()) if self._held else None

    def ended(self) -> list[logging.LogRecord]:
        """Once the window is over: a record for each place of which lines were held."""
        if not self._places or time.monotonic() < self._ends_at:
            return []
        return self.close()

    def close(self) -> list[logging.LogRecord]:
        """What `ended` tells, at once."""
        counts = [self._count(count, last) for count, last in self._held.values()]
        self._alike.clear()
        self._places.clear()
        self._held.clear()
        return counts

    def _count(self, count: int, last: logging.LogRecord) -> logging.LogRecord:
        message = f"{count} more lines like this in the last {self._window:g} s: {_words(last)}"
        return logging.LogRecord(
            last.name, last.levelno, last.pathname, last.lineno, message, None, None
        )


def _words(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except (TypeError, ValueError):  # its arguments do not fit; the line itself will say so
        text = str(record.msg)
    return text.partition("\n")[0][:_MOST_COMPARED]


class LogWriter(logging.Handler):
    """Writes lines to a file descriptor; those that it cannot write are counted in `lost`.

    With `repeats`, lines that repeat are held and counted.
    """

    def __init__(
        self,
        descriptor: int,
        formatter: logging.Formatter,
        most_lines: int = MOST_LINES,
        repeats: Repeats | None = None,
    ) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lost = 0
        self._repeats = repeats
        self._descriptor = descriptor
        self._most_lines = most_lines
        self._reported = 0
        self._is_torn = False
        self._lines: list[str] = []
        self._is_writing = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="mlserve-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Puts the record's line where the writer finds it; it is made here, where it is known."""
        with self._changed:
            records = self._due_now(record)
        lines = [self._line(item) for item in records]
        with self._changed:
            self._add(lines)

    def flush(self) -> None:
        """Waits until the lines are written, a second at most."""
        with self._changed:
            if self._repeats is not None:
                self._add([self._line(item) for item in self._repeats.close()])
            self._changed.wait_for(lambda: not self._lines and not self._is_writing, _LAST_WORDS)

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except Exception as error:  # noqa: BLE001 - a bad record must not harm who logs it
            return f"a line of {record.name} cannot be written: {error!r}"

    def _due_now(self, record: logging.LogRecord) -> list[logging.LogRecord]:
        """The records that get a line now: the counts of those held before, and this one."""
        if self._repeats is None:
            return [record]
        counts = self._repeats.ended()
        return [*counts, record] if self._repeats.takes(record) else counts

    def _add(self, lines: list[str]) -> None:
        room = max(0, self._most_lines - len(self._lines))
        self._lines += lines[:room]
        self.lost += len(lines[room:])
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._wait_for_lines()
                lines, self._lines = self._lines, []
                self._is_writing = True
            self._write(lines)

    def _wait_for_lines(self) -> None:
        """Returns when there is a line, also one about the lines that were held."""
        while not self._lines:
            self._changed.wait(self._repeats.seconds_left if self._repeats else None)
            if self._repeats is not None:
                self._lines += [self._line(item) for item in self._repeats.ended()]

    def _write(self, lines: list[str]) -> None:
        lost = self.lost - self._reported
        if lost:
            lines = [self._line(_loss(lost)), *lines]
        text = "".join(f"{line}\n" for line in lines)
        data = text.encode("utf-8", "backslashreplace")
        try:
            self._put(b"\n" + data if self._is_torn else data)
        except OSError:
            with self._changed:
                self.lost += len(lines) - bool(lost)
        else:
            self._reported += lost
            self._is_torn = False

    def _put(self, data: bytes) -> None:
        """Writes all of it, or raises OSError; waits where the reader is slow."""
        while data:
            try:
                written = os.write(self._descriptor, data)
            except BlockingIOError:  # the one who gave us the descriptor does not block on it
                select.select((), (self._descriptor,), ())
                continue
            data = data[written:]
            self._is_torn = bool(data)


def lost_lines() -> int:
    """How many lines the log of this process has lost."""
    writers = (w for w in logging.getLogger().handlers if isinstance(w, LogWriter))
    return sum(writer.lost for writer in writers)


def log_to_stderr(log_format: LogFormat) -> None:
    """Sends everything that is logged to stderr, warnings and unexpected errors too."""
    logging.basicConfig(level=logging.INFO, handlers=[_writer_to_stderr(log_format)])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_unexpected
    threading.excepthook = _log_of_thread


def _writer_to_stderr(log_format: LogFormat) -> logging.Handler:
    if sys.stderr is None:  # it was closed, and its number may belong to a socket by now
        return logging.NullHandler()
    return LogWriter(sys.stderr.fileno(), formatter_of(log_format), repeats=Repeats())


def _log_unexpected(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    logging.getLogger("mlserve").critical("an unhandled error", exc_info=(kind, error, traceback))


def _log_of_thread(failure: threading.ExceptHookArgs) -> None:
    error = failure.exc_value or failure.exc_type()
    _log_unexpected(failure.exc_type, error, failure.exc_traceback)


def _loss(lost: int) -> logging.LogRecord:
    message = f"{lost} lines of the log were lost"
    return logging.LogRecord("mlserve", logging.WARNING, __file__, 0, message, None, None)
