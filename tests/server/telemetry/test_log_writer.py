"""The log's way out: nobody waits for it, and what is lost is counted and told."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlserve.server.telemetry import log
from mlserve.server.telemetry.log import LogWriter, formatter_of
from mlserve.settings import LogFormat


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def hang_up(pipe: tuple[int, int]) -> None:
    """Leaves the pipe without a reader; the number stays taken until the fixture ends."""
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), pipe[0])


def logger_to(
    descriptor: int, log_format: LogFormat = LogFormat.TEXT, **options: int
) -> tuple[Any, LogWriter]:
    writer = LogWriter(descriptor, formatter_of(log_format), **options)
    logger = logging.Logger("test")  # noqa: LOG001 - one that no other test sees
    logger.addHandler(writer)
    return logger, writer


def test_lines_come_out_in_order(pipe: tuple[int, int]) -> None:
    logger, writer = logger_to(pipe[1])
    for number in range(100):
        logger.warning("line %d", number)
    writer.flush()
    lines = os.read(pipe[0], 1 << 16).decode().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [f"WARNING line {n}" for n in range(100)]


def test_a_json_line_is_one_line_with_its_traceback(pipe: tuple[int, int]) -> None:
    logger, writer = logger_to(pipe[1], LogFormat.JSON)
    try:
        raise ValueError("wrong\nand more")
    except ValueError:
        logger.exception("it \N{EURO SIGN} failed", extra={"fields": {"part": 7}})
    writer.flush()
    (line,) = os.read(pipe[0], 1 << 16).decode("ascii").splitlines()
    data = json.loads(line)
    assert (data["level"], data["logger"], data["part"]) == ("ERROR", "test", 7)
    assert data["message"] == "it \N{EURO SIGN} failed"
    assert data["exception"].endswith("ValueError: wrong\nand more")
    assert data["ts"].endswith("Z")


def test_a_value_from_a_client_cannot_begin_a_line(pipe: tuple[int, int]) -> None:
    logger, writer = logger_to(pipe[1])
    fields = {"path": "/a\n2026 ERROR b", "code": "ok", "total_ms": 1.5, "failed": {"a": 1}}
    logger.info("predict", extra={"fields": fields})
    writer.flush()
    text = os.read(pipe[0], 1 << 16).decode()
    assert text.endswith('Z INFO predict path="/a\\n2026 ERROR b" code=ok total_ms=1.5\n')


def test_a_reader_that_does_not_read_holds_nobody_up(pipe: tuple[int, int]) -> None:
    logger, writer = logger_to(pipe[1], most_lines=50)
    long = "x" * 4096
    while not writer.lost:
        logger.warning(long)
    received = b""
    while b"lines of the log were lost" not in received:
        received += os.read(pipe[0], 1 << 20)
        logger.warning("and on")
    # Its thread must not write on when the next test has a pipe of the same number.
    hang_up(pipe)
    writer.flush()


def test_a_full_disk_costs_lines(pipe: tuple[int, int]) -> None:
    with Path("/dev/full").open("wb") as full:
        descriptor = os.dup(full.fileno())
    logger, writer = logger_to(descriptor)
    for _ in range(3):
        logger.warning("gone")
        writer.flush()
    assert writer.lost == 3
    os.dup2(pipe[1], descriptor)  # there is room again
    logger.warning("back")
    writer.flush()
    lines = os.read(pipe[0], 1 << 16).decode().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "WARNING 3 lines of the log were lost",
        "WARNING back",
    ]
    logger.warning("still here")
    writer.flush()
    assert os.read(pipe[0], 1 << 16).endswith(b"WARNING still here\n")
    os.close(descriptor)


def test_a_pipe_that_nobody_holds_costs_lines(pipe: tuple[int, int]) -> None:
    hang_up(pipe)
    logger, writer = logger_to(pipe[1])
    logger.warning("gone")
    writer.flush()
    assert writer.lost == 1


def test_a_pipe_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    logger, writer = logger_to(pipe[1])
    for number in range(100):
        logger.warning("%d %s", number, "x" * 4096)
    received = b""
    while received.count(b"\n") < 100:
        received += os.read(pipe[0], 1 << 16)
    assert writer.lost == 0


def test_a_record_that_cannot_be_written_harms_nobody(pipe: tuple[int, int]) -> None:
    logger, writer = logger_to(pipe[1])
    logger.warning("%d", "seven")
    logger.warning("and on")
    writer.flush()
    first, second = os.read(pipe[0], 1 << 16).decode().splitlines()
    assert first.startswith("a line of test cannot be written: TypeError(")
    assert second.endswith("WARNING and on")


def test_a_server_without_stderr_logs_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    handler = log._writer_to_stderr(LogFormat.TEXT)
    assert isinstance(handler, logging.NullHandler)
