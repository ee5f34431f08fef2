"""The log of the process: the format of a line, the limits on repeated lines, and the writer.

A record is a line of words, or one JSON object a line. It may carry `fields`, a dict of plain
values; a record logged while a request is served carries the request's ids automatically.

Serving a request never waits for the log. A stalled reader, a full disk or a broken pipe costs
lines, which are counted, and never a request; the next line that can be written says how many were
lost. Repeated lines are counted too: see `Repeats`.
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
"""Seconds in which lines that are alike are counted together."""
LINES_ALIKE = 10
"""How many lines with the same words are written in a window."""
LINES_OF_A_PLACE = 100
"""How many lines from one place in the code are written in a window, whatever their words."""
MOST_LINES = 10_000
"""How many lines wait for the writer before further ones are lost."""
_LAST_WORDS = 1.0
"""Seconds that the exiting process waits for the remaining lines."""
_LONGEST = 8000
"""Characters after which a message is cut."""
_MOST_COMPARED = 200
"""Characters of a line that are compared with those of others."""
_BARE = re.compile(r"[!-<>-~]+")
"""A value that needs no quotes in a line of words: printable, no space and no equals sign."""


class TextFormatter(logging.Formatter):
    """`<UTC time> <level> <message> name=value ...`; a traceback follows on lines of its own.

    A message is one line, so that a client's text can neither pass for another line nor control a
    terminal. A field that is a dict is left out, as the message says the same in words.
    """

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line without its traceback."""
        record.message = _cut(record.message)
        fields = fields_of(record).items()
        words = [f"{name}={_word(value)}" for name, value in fields if not isinstance(value, dict)]
        return " ".join([escaped(super().formatMessage(record)), *words])

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Return the traceback: line breaks, but nothing else that controls a terminal."""
        return escaped(super().formatException(ei), "\n")


class JsonFormatter(logging.Formatter):
    """One JSON object: ts, level, logger, message, the record's fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object, on one line and in ASCII."""
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
    """Return the formatter of that format."""
    return JsonFormatter() if log_format is LogFormat.JSON else TextFormatter()


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the record's own fields, else the ids of the request that it belongs to."""
    fields: dict[str, Any] | None = getattr(record, "fields", None)
    if fields is not None:
        return fields
    request = current()
    if not request.request_id:
        return {}
    return {"request_id": request.request_id, "trace_id": request.span.trace_id}


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text)} characters)"


def _word(value: Any) -> str:
    """Return the value, quoted and on one line unless it is a bare word."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text)


Place = tuple[str, str, int]
"""A logger's name, and the file and line of the logging call."""


class Repeats:
    """Decides which records get a line of their own, and counts the others.

    A stranger at a socket, or one fault of a model, can cause the same line a thousand times a
    second, which must not fill the disk. Not thread-safe: the caller holds a lock.
    """

    def __init__(self, window: float = WINDOW) -> None:
        self._window = window
        self._ends_at = 0.0
        self._alike: Counter[tuple[Place, str]] = Counter()
        self._places: Counter[Place] = Counter()
        self._held: dict[Place, tuple[int, logging.LogRecord]] = {}

    def takes(self, record: logging.LogRecord) -> bool:
        """Return whether the record gets a line; it is counted if not."""
        if record.name == REQUEST_LOGGER:  # `RequestLog` has already limited those
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
        """Seconds until `ended` has something to report; None when nothing was held."""
        return max(0.0, self._ends_at - time.monotonic()) if self._held else None

    def ended(self) -> list[logging.LogRecord]:
        """Return, once the window is over, a record for each place whose lines were held."""
        if not self._places or time.monotonic() < self._ends_at:
            return []
        return self.close()

    def close(self) -> list[logging.LogRecord]:
        """Return what `ended` would, without waiting."""
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
    """Writes lines to a file descriptor, and counts in `lost` those that it cannot write.

    With `repeats`, repeated lines are held and counted.
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
        """Format the record here, in the context that logged it, and queue its line."""
        with self._changed:
            records = self._due_now(record)
        lines = [self._line(item) for item in records]
        with self._changed:
            self._add(lines)

    def flush(self) -> None:
        """Wait until the lines are written, for a second at most."""
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
        """Return the records to write now: the counts of those held before, and this one."""
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
        """Wait until there is a line to write or a report of held lines is due."""
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
        """Write all of it, waiting for a slow reader. Raises OSError."""
        while data:
            try:
                written = os.write(self._descriptor, data)
            except BlockingIOError:  # whoever opened the descriptor made it non-blocking
                select.select((), (self._descriptor,), ())
                continue
            data = data[written:]
            self._is_torn = bool(data)


def lost_lines() -> int:
    """Return how many lines the log of this process has lost."""
    writers = (w for w in logging.getLogger().handlers if isinstance(w, LogWriter))
    return sum(writer.lost for writer in writers)


def log_to_stderr(log_format: LogFormat) -> None:
    """Send all log records to stderr, including warnings and unhandled errors."""
    logging.basicConfig(level=logging.INFO, handlers=[_writer_to_stderr(log_format)])
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
