"""Lines of the log: nobody else's text makes one, ends one, or reaches a terminal as it is."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from mlserve.server.telemetry.log import formatter_of
from mlserve.settings import LogFormat

FORGED = "x\n2026-01-02T03:04:05.678Z INFO all is well\x1b[2J\u202e\x9b\0"


def record(message: str, *values: object, error: BaseException | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("mlserve", logging.INFO, "f.py", 1, message, values, info)


@pytest.mark.parametrize("log_format", LogFormat)
def test_a_text_in_a_message_is_one_line_and_printable(log_format: LogFormat) -> None:
    line = formatter_of(log_format).format(record("model %s is there", FORGED))
    assert line.isprintable(), line
    if log_format is LogFormat.JSON:
        assert json.loads(line)["message"] == f"model {FORGED} is there"


@pytest.mark.parametrize("log_format", LogFormat)
def test_a_traceback_has_lines_and_no_more(log_format: LogFormat) -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        error = sys.exception()
    text = formatter_of(log_format).format(record("it failed", error=error))
    assert all(line.isprintable() for line in text.split("\n"))
    assert "ValueError: x" in text


@pytest.mark.parametrize("log_format", LogFormat)
def test_a_text_of_megabytes_is_cut(log_format: LogFormat) -> None:
    line = formatter_of(log_format).format(record("model %s is there", "m" * 5_000_000))
    assert len(line) < 10_000
    assert "(5000015 characters)" in line
