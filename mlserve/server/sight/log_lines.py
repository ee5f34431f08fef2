"""How a record of the log looks: a line of words, or one JSON object a line.

A record may carry `fields`, a dict of plain values; one that is logged while a request is served
carries the request's ids without being asked.
"""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Any

from mlserve.errors import escaped
from mlserve.server.sight.exchange import current
from mlserve.settings import LogFormat

_LONGEST = 8000
"""Characters of a message; whatever got into it, a line is no longer."""
_BARE = re.compile(r"[!-<>-~]+")
"""A value that needs no quotes in a line of words: printable, no space and no equals sign."""


class TextLines(logging.Formatter):
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


class JsonLines(logging.Formatter):
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
    return JsonLines() if log_format is LogFormat.JSON else TextLines()


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The record's own fields, else the ids of the request in which it was made."""
    fields: dict[str, Any] | None = getattr(record, "fields", None)
    if fields is not None:
        return fields
    exchange = current()
    if not exchange.request_id:
        return {}
    return {"request_id": exchange.request_id, "trace_id": exchange.trace.trace_id}


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text)} characters)"


def _word(value: Any) -> str:
    """The value, in quotes and on one line where it has spaces or what a client may have sent."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text)
